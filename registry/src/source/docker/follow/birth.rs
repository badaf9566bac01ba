//! Finds a container's namespace before the engine tells it.
//!
//! While a container starts, the engine answers no inspection of it. But it tells at once where a
//! network has put it, and its namespace appears in the engine's folder before its first
//! instruction runs: the two belong together when the namespace has the container's address. With
//! engines up to 26 the place comes first, from 27 on the namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::id::NetworkId;
use crate::source::docker::agenda::Job;
use crate::source::docker::container::{Attached, Container};
use crate::source::docker::follow::Follower;
use crate::source::docker::host::Host;
use crate::source::docker::read::Place;

/// The pauses between looks into a namespace that has no address yet: the first, and the longest,
/// to which they double. A look takes the kernel less than 0.1 ms; engines up to 26 take 50 to
/// 150 ms from the namespace to its address, and about as long from there to the first instruction.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));
/// How often to look: for 2 s in all. Afterwards the inspection will tell.
const LOOKS: u32 = 250;

impl<H: Host> Follower<'_, H> {
    /// A network has put a container somewhere.
    pub(super) fn apply_place(
        &mut self,
        network: &NetworkId,
        id: &str,
        place: Place,
        now: Instant,
    ) {
        let Some(container) = self.view.containers.get_mut(id) else { return };
        let known = container.attachments.iter().position(|it| it.network == network.as_str());
        if let Some(attached) = known.and_then(|it| container.attachments.get_mut(it)) {
            (attached.endpoint, attached.addresses) = (place.endpoint, place.addresses);
        } else {
            container.attachments.push(Attached {
                network: network.as_str().to_owned(),
                endpoint: place.endpoint,
                addresses: place.addresses,
                ..Attached::default()
            });
        }
        let is_placed = container.cookie.is_some();
        self.changed(now, if is_placed { Duration::ZERO } else { super::GATHER });
        self.want_unknown_networks(now);
        self.seek_births(now);
    }

    /// Looks into the namespaces that no container is known to have, while there are containers
    /// that have an address and no namespace.
    pub(super) fn seek_births(&mut self, now: Instant) {
        if !self.view.containers.values().any(is_unborn) {
            self.looks.clear();
            return;
        }
        let claimed: BTreeSet<&Path> =
            self.view.containers.values().filter_map(|it| it.netns.as_deref()).collect();
        let free: BTreeSet<PathBuf> =
            self.view.folder.sandboxes().filter(|it| !claimed.contains(it.as_path())).collect();
        self.looks.retain(|path, _| free.contains(path));
        for path in free {
            if !self.looks.contains_key(&path) {
                self.looks.insert(path.clone(), 0);
                self.want(Job::Namespace(path), now);
            }
        }
    }

    /// What was seen in a namespace.
    pub(super) fn apply_namespace(
        &mut self,
        path: &Path,
        seen: Option<(u64, Vec<IpAddr>)>,
        now: Instant,
    ) {
        tracing::trace!(path = %path.display(), ?seen, "looked into a namespace");
        if let Some((cookie, addresses)) = seen {
            let mut matching = self
                .view
                .containers
                .values_mut()
                .filter(|it| is_unborn(it) && has_address_of(it, &addresses));
            if let (Some(container), None) = (matching.next(), matching.next()) {
                (container.netns, container.cookie) = (Some(path.to_owned()), Some(cookie));
                self.looks.remove(path);
                return self.changed(now, Duration::ZERO);
            }
        }
        let Some(looks) = self.looks.get_mut(path).filter(|it| **it < LOOKS) else { return };
        let (first, longest) = PAUSES;
        let pause = (first * (1 << (*looks).min(8))).min(longest);
        *looks += 1;
        self.want(Job::Namespace(path.to_owned()), now + pause);
    }
}

fn is_unborn(container: &Container) -> bool {
    let has_address = |it: &Attached| !it.addresses.is_empty();
    !container.running && container.netns.is_none() && container.attachments.iter().any(has_address)
}

fn has_address_of(container: &Container, addresses: &[IpAddr]) -> bool {
    container.attachments.iter().flat_map(|it| &it.addresses).any(|it| addresses.contains(it))
}

//! Finds who is meant by a name, trying what the engine tries, in the engine's order
//! (libnetwork's `Sandbox.ResolveName`).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::plan::{Entry, View, Zone};

/// A name that is known.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    entry: Cow<'a, Entry>,
}

impl Found<'_> {
    /// Its addresses.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }
}

/// Ways to read `a.b.c`: as a name on any network, as `a.b` on network `c`, as `a` on network
/// `b.c`; in that order.
pub(crate) fn candidates(key: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let on_a_network = key.rmatch_indices('.').filter_map(|(dot, _)| {
        let (name, network) = key.split_at_checked(dot)?;
        Some((name, Some(network.strip_prefix('.')?)))
    });
    std::iter::once((key, None)).chain(on_a_network).filter(|(name, _)| !name.is_empty())
}

/// Who is meant by `key` in `view`: for each candidate first the links, then the networks.
pub(crate) fn find<'a>(view: &'a View, key: &str) -> Option<Found<'a>> {
    candidates(key).find_map(|(name, network)| {
        link(view, name, network).or_else(|| {
            on(&view.zones, network).find_map(|zone| {
                let entry = zone.names.get(name)?;
                Some(Found { entry: Cow::Borrowed(entry) })
            })
        })
    })
}

/// The first thing that `look_up` finds for a candidate of `key` on one of `zones`.
pub(super) fn in_zones<'a, T>(
    zones: &'a [Arc<Zone>],
    key: &str,
    look_up: impl Fn(&'a Zone, &str) -> Option<T>,
) -> Option<T> {
    candidates(key)
        .find_map(|(name, network)| on(zones, network).find_map(|zone| look_up(zone, name)))
}

/// The zones that a candidate means.
fn on<'a>(zones: &'a [Arc<Zone>], network: Option<&str>) -> impl Iterator<Item = &'a Zone> {
    zones.iter().map(AsRef::as_ref).filter(move |zone: &&Zone| match network {
        None => true,
        Some(network) => zone.key == network,
    })
}

/// A link; on a network it means those of its addresses that are of that network.
fn link<'a>(view: &'a View, name: &str, network: Option<&str>) -> Option<Found<'a>> {
    let entry = view.links.get(name)?;
    let Some(network) = network else {
        return Some(Found { entry: Cow::Borrowed(entry) });
    };
    let of_it = |address: &IpAddr| {
        on(&view.zones, Some(network))
            .any(|zone| zone.subnets.iter().any(|it| it.contains(address)))
    };
    let addresses: Vec<_> = entry.addresses.iter().copied().filter(|it| of_it(it)).collect();
    let entry = Entry { addresses, ttl: entry.ttl };
    (!entry.addresses.is_empty()).then_some(Found { entry: Cow::Owned(entry) })
}

//! The host as one more place where connections to VIPs begin (`vip.host`).
//!
//! Invariants
//! - *where it is at home*: only VIPs of networks that the host itself is on (bridges): it has no
//!   way into an overlay;
//! - *its own address*: a route to VIPs has as its source the host's address on their network, so
//!   that answers find the way back. Where there is none, VIPs outside the subnets are left out of
//!   the routes, and that is a note;
//! - *nftables only*: nothing is relayed there, because VIPs would have to be at home beside the host.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use registry::id::SandboxId;
use registry::model::{Network, Reach};
use registry::{Notes, Snapshot};

use super::Config;
use super::tables::Tables;
use crate::family::IpFamily;
use crate::plan::SandboxPlan;
use crate::userspace::DataPlane;

/// What the host is called among sandboxes.
pub(crate) const NAME: &str = "host";

/// The namespace of whoever asks: the host's, outside of visits.
const NETNS: &str = "/proc/thread-self/ns/net";

/// The host among sandboxes. No engine and no world file gives such an id.
pub(crate) fn host() -> SandboxId {
    SandboxId::from("the host")
}

/// The networks that the host is on, whose VIPs it can use, by name.
pub(crate) fn networks(snapshot: &Snapshot) -> Vec<&Network> {
    let on = |it: &&Network| it.reach == Reach::Host && !it.ingress;
    let mut networks: Vec<_> = snapshot.networks().filter(on).collect();
    networks.sort_by_key(|it| (&it.name, &it.id));
    networks
}

/// What the host is to hold. `None`: only nftables can balance there.
pub(super) fn plan(
    snapshot: &Snapshot,
    tables: &mut Tables<'_>,
    config: &Config,
    notes: &mut Notes,
) -> Option<(SandboxId, SandboxPlan)> {
    if config.data_plane == DataPlane::Userspace {
        notes.warning(
            NAME,
            "vip.host",
            "the host's own connections to VIPs are not balanced: only nftables can do that",
            "set `vip.data_plane` to \"auto\", or leave `vip.host` out",
        );
        return None;
    }
    let networks = networks(snapshot);
    let on = networks.iter().map(|it| it.id.clone()).collect();
    let attached = networks.iter().map(|it| (&it.id, own(it, &config.host_addresses)));
    let routes = tables.routes(attached.clone());
    for (network, own) in networks.iter().zip(attached.map(|(_, own)| own)) {
        let lost = tables.blocks(&network.id).find(|it| !has_family_of(&own, it));
        if let Some(block) = lost {
            notes.warning(
                format!("network {}", network.name),
                "vip.host",
                format!("the host's address on it is not known, so it has no way to {block}"),
                "give the bridge an address, or its services VIPs of its subnet",
            );
        }
    }
    let plan = SandboxPlan {
        name: NAME.to_owned(),
        netns: PathBuf::from(NETNS),
        cookie: None,
        balances: tables.balances(snapshot, on, notes),
        routes,
    };
    Some((host(), plan))
}

fn has_family_of(addresses: &[IpAddr], block: &IpNet) -> bool {
    addresses.iter().any(|it| IpFamily::of(*it) == IpFamily::of(block.addr()))
}

/// The host's addresses on a network: those that were seen, else the gateways, which are the
/// host's on a bridge and known as soon as the network.
fn own(network: &Network, addresses: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let within = |it: &&IpAddr| network.subnets.iter().any(|net| net.contains(*it));
    let gateway = |it: &&IpAddr| network.gateways.contains(it);
    let mut own: Vec<IpAddr> = addresses.iter().filter(within).filter(gateway).copied().collect();
    own.extend(addresses.iter().filter(within));
    own.extend(&network.gateways);
    own
}

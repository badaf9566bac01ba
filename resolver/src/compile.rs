//! Decides what every sandbox can resolve: `Snapshot -> Plan`. Total: a bad name becomes a note on
//! its owner, and everything else goes on.
//!
//! Invariants
//! - *scoped*: a view holds zones of its sandbox's networks only, and none of an ingress network;
//! - *stable*: the same world gives an equal plan, in whatever order its parts came;
//! - *never to ourselves*: no server in a plan is this resolver.
//!
//! Pure. The names of one network are made in [`zone`], its addresses' owners in [`owner`].

mod owner;
mod zone;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::id::NetworkId;
use registry::model::{Dial, Network, Origin, Sandbox};
use registry::{Notes, Snapshot};

pub(crate) use zone::{has_names, service_names};

use crate::name;
use crate::plan::{Config, Entry, HostView, Outside, Plan, View, VipTable, Zone};
use crate::upstream::Server;

/// Where every sandbox asks.
pub(crate) const SANDBOX_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// What everybody can resolve, as of `snapshot`; `vips` are those that no source fixed. A service
/// in mode vip that has none yet is answered by its tasks.
pub fn compile(snapshot: &Snapshot, vips: &VipTable, config: &Config) -> (Plan, Notes) {
    let mut notes = Notes::default();
    let zones: BTreeMap<NetworkId, Arc<Zone>> = snapshot
        .networks()
        .filter(|network| !network.ingress)
        .map(|it| (it.id.clone(), Arc::new(zone::zone(snapshot, it, vips, config, &mut notes))))
        .collect();
    let suffixes = config.upstream.suffixes.keys().cloned().collect();
    let mut views = BTreeMap::new();
    let mut places: BTreeMap<(PathBuf, Option<u64>), &str> = BTreeMap::new();
    for sandbox in snapshot.sandboxes() {
        let place = (sandbox.netns.clone(), sandbox.cookie);
        if let Some(first) = places.get(&place) {
            notes.error(
                format!("sandbox {}", sandbox.name),
                "netns",
                format!("is the network namespace of sandbox {first} too; only that one is served"),
                "list a namespace once, with all its networks",
            );
            continue;
        }
        places.insert(place, &sandbox.name);
        let view = view(snapshot, sandbox, &zones, (config, &suffixes), &mut notes);
        views.insert(sandbox.id.clone(), Arc::new(view));
    }
    let host = Arc::new(host_view(snapshot, &zones, config));
    (Plan { views, host, zones }, notes)
}

/// A TTL as DNS carries it: whole seconds, at most 2^31 - 1 (RFC 2181 section 8).
pub(crate) fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}

fn view(
    snapshot: &Snapshot,
    sandbox: &Sandbox,
    zones: &BTreeMap<NetworkId, Arc<Zone>>,
    (config, suffixes): (&Config, &Arc<[String]>),
    notes: &mut Notes,
) -> View {
    let networks: Vec<&Network> =
        sandbox.networks.iter().filter_map(|it| snapshot.network(&it.network)).collect();
    let own = |(name, addresses): (&String, &Vec<IpAddr>)| {
        let mut addresses = addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        (name::key(name), Entry { addresses, ttl: seconds(config.ttl) })
    };
    View {
        sandbox: sandbox.id.clone(),
        name: sandbox.name.clone(),
        netns: sandbox.netns.clone(),
        cookie: sandbox.cookie,
        zones: networks.iter().filter_map(|it| zones.get(&it.id)).map(Arc::clone).collect(),
        subnets: networks.iter().flat_map(|it| it.subnets.iter().copied()).collect(),
        links: sandbox.links.iter().map(own).collect(),
        hosts: sandbox.hosts.iter().map(own).filter(|(name, _)| may_be_host(name)).collect(),
        outside: outside(sandbox, &networks, config, notes),
        suffixes: Arc::clone(suffixes),
        forward_single_label: config.forward_single_label,
        ttl: seconds(config.ttl),
    }
}

/// Whether an extra host may have that name: the root is nobody's, and `localhost` stands first in
/// every hosts file.
fn may_be_host(key: &str) -> bool {
    !key.is_empty() && key != "localhost"
}

/// Who is asked about names that are not ours. Ingress networks give no way out and take none, so
/// they do not count; a sandbox of whose networks none is known is treated as internal.
fn outside(
    sandbox: &Sandbox,
    networks: &[&Network],
    config: &Config,
    notes: &mut Notes,
) -> Outside {
    if networks.iter().filter(|it| !it.ingress).all(|it| it.internal) {
        return Outside::Internal;
    }
    let configured = &config.upstream.servers;
    let given: Vec<Server> = if sandbox.upstreams_from == Origin::Host && !configured.is_empty() {
        configured.clone()
    } else {
        let trusts_ad = sandbox.trusts_ad;
        let of_sandbox = sandbox.upstreams.iter().copied().map(Server::plain);
        of_sandbox.map(|it| Server { trusts_ad, ..it }).collect()
    };
    let (own, others): (Vec<_>, Vec<_>) =
        given.into_iter().partition(|it| is_ourselves(it, config) || it.address.port() == 0);
    for server in own {
        notes.warning(
            format!("sandbox {}", sandbox.name),
            "upstreams",
            format!("`{}` is portolan itself or no server; it is not asked", server.address),
            "name the servers that know names from outside",
        );
    }
    if others.is_empty() && config.upstream.suffixes.is_empty() {
        Outside::NoServers
    } else {
        Outside::Servers(others)
    }
}

/// Whether a question to `server` would come back to this process.
fn is_ourselves(server: &Server, config: &Config) -> bool {
    let listens = |own: SocketAddr| {
        let everywhere = own.ip().is_unspecified() && server.address.ip().is_loopback();
        own.port() == server.address.port() && (everywhere || own.ip() == server.address.ip())
    };
    server.address.ip() == IpAddr::V4(SANDBOX_ADDRESS)
        || server.dial == Dial::Host && config.host_listen.is_some_and(listens)
}

fn host_view(
    snapshot: &Snapshot,
    zones: &BTreeMap<NetworkId, Arc<Zone>>,
    config: &Config,
) -> HostView {
    let mut zones: Vec<_> = zones.values().map(Arc::clone).collect();
    zones.sort_by(|a, b| (&a.key, &a.network).cmp(&(&b.key, &b.network)));
    let subnets = snapshot.networks().flat_map(|it| it.subnets.iter().copied()).collect();
    HostView { zones, subnets, ttl: seconds(config.ttl) }
}

#[cfg(test)]
mod tests;

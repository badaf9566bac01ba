//! What one sandbox can resolve, and what operators can from the host.
//!
//! Always true here: a view holds zones of its sandbox's networks only, and none of an ingress
//! network; no server in it is this resolver.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use registry::id::NetworkId;
use registry::model::{Dial, Network, Origin, Sandbox};
use registry::{Notes, Snapshot};

use super::{SANDBOX_ADDRESS, seconds};
use crate::name;
use crate::plan::{Config, Entry, HostView, Outside, View, Zone};
use crate::upstream::Server;

/// What `sandbox` can resolve.
pub(super) fn view(
    snapshot: &Snapshot,
    sandbox: &Sandbox,
    zones: &BTreeMap<NetworkId, Arc<Zone>>,
    (config, suffixes): (&Config, &Arc<[String]>),
    notes: &mut Notes,
) -> View {
    let named = sandbox.networks.iter().map(|it| &it.network);
    let networks: Vec<&Network> = named.clone().filter_map(|it| snapshot.network(it)).collect();
    let all = named.chain(&sandbox.nameless).filter_map(|it| snapshot.network(it));
    let all: Vec<&Network> = all.collect();
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
        subnets: all.iter().flat_map(|it| it.subnets.iter().copied()).collect(),
        links: sandbox.links.iter().map(own).collect(),
        hosts: sandbox.hosts.iter().map(own).filter(|(name, _)| may_be_host(name)).collect(),
        outside: outside(sandbox, &all, config, notes),
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

/// What operators can.
pub(super) fn host_view(
    snapshot: &Snapshot,
    zones: &BTreeMap<NetworkId, Arc<Zone>>,
    config: &Config,
) -> HostView {
    let mut zones: Vec<_> = zones.values().map(Arc::clone).collect();
    zones.sort_by(|a, b| (&a.key, &a.network).cmp(&(&b.key, &b.network)));
    let subnets = snapshot.networks().flat_map(|it| it.subnets.iter().copied()).collect();
    HostView { zones, subnets, ttl: seconds(config.ttl) }
}

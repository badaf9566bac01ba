//! What the engine says of itself (`/info`, `/version`) and of its networks (`/networks`). Pure.

use std::net::IpAddr;

use bollard::models::{IpamConfig, LocalNodeState, SystemInfo};
use ipnet::IpNet;

use crate::id::{NetworkId, NodeId};
use crate::model::{Labels, Scope};
use crate::source::docker::extra_hosts;

/// The engine's version, as far as its behaviour depends on it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Version {
    /// 20, 26, 28, ...
    pub(crate) major: u32,
    /// The number after the first dot.
    pub(crate) minor: u32,
}

/// The engine and its place in the Swarm.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Engine {
    /// Its version.
    pub(crate) version: Version,
    /// The host's name.
    pub(crate) name: String,
    /// Its place in the Swarm.
    pub(crate) role: Role,
    /// It is still on its way into its Swarm, after a start say: not all is known.
    pub(crate) is_pending: bool,
    /// Its node id in the Swarm.
    pub(crate) node: Option<NodeId>,
    /// Its address in the Swarm.
    pub(crate) address: Option<IpAddr>,
    /// The managers, by id.
    pub(crate) managers: Vec<(NodeId, Option<IpAddr>)>,
}

/// The engine's place in the Swarm.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Role {
    /// In no Swarm.
    #[default]
    Alone,
    /// A node that knows only what gossip tells it.
    Worker,
    /// A node that knows services, tasks and nodes.
    Manager,
}

/// One network as the engine lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "the engine's own marks, independent")]
pub(crate) struct EngineNetwork {
    /// Its id.
    pub(crate) id: NetworkId,
    /// Its name.
    pub(crate) name: String,
    /// Its driver.
    pub(crate) driver: String,
    /// This host or the Swarm.
    pub(crate) scope: Scope,
    /// No way out.
    pub(crate) internal: bool,
    /// The routing mesh's.
    pub(crate) ingress: bool,
    /// Plain containers of any node may join it.
    pub(crate) attachable: bool,
    /// The engine's `bridge`: no names there.
    pub(crate) is_default_bridge: bool,
    /// Its address ranges.
    pub(crate) subnets: Vec<IpNet>,
    /// The engine's own addresses there.
    pub(crate) gateways: Vec<IpAddr>,
    /// The user's labels.
    pub(crate) labels: Labels,
}

impl Version {
    /// From `20.10.24+dfsg1`; what cannot be read counts as 0, the oldest behaviour.
    pub(crate) fn parse(text: &str) -> Self {
        let mut numbers = text.split(|it: char| !it.is_ascii_digit()).map(|it| it.parse().ok());
        let mut next = || numbers.next().flatten().unwrap_or_default();
        Self { major: next(), minor: next() }
    }
}

impl Engine {
    /// From `/info`.
    pub(crate) fn from_info(info: SystemInfo) -> Self {
        let swarm = info.swarm.unwrap_or_default();
        let is_pending = swarm.local_node_state == Some(LocalNodeState::PENDING);
        let active = is_pending || swarm.local_node_state == Some(LocalNodeState::ACTIVE);
        let managers = swarm.remote_managers.into_iter().flatten();
        Self {
            version: Version::parse(&info.server_version.unwrap_or_default()),
            name: info.name.unwrap_or_default(),
            role: match (active, swarm.control_available) {
                (true, Some(true)) => Role::Manager,
                (true, _) => Role::Worker,
                (false, _) => Role::Alone,
            },
            is_pending,
            node: swarm.node_id.filter(|it| active && !it.is_empty()).map(NodeId::from),
            address: swarm.node_addr.filter(|_| active).and_then(|it| it.parse().ok()),
            managers: managers
                .filter_map(|it| {
                    Some((NodeId::from(it.node_id?), it.addr.as_deref().and_then(host)))
                })
                .collect(),
        }
    }
}

impl EngineNetwork {
    /// From an entry of `/networks`; `None` without an id or name, for templates of networks, and
    /// for `host` and `none`, which are no networks.
    pub(crate) fn from_list(answer: bollard::models::Network) -> Option<Self> {
        let driver = answer.driver.unwrap_or_default();
        if answer.config_only == Some(true) || ["host", "null"].contains(&driver.as_str()) {
            return None;
        }
        let default_bridge = "com.docker.network.bridge.default_bridge";
        let options = answer.options.unwrap_or_default();
        let ranges = answer.ipam.and_then(|it| it.config).unwrap_or_default();
        let subnet = |it: &IpamConfig| it.subnet.as_deref()?.parse::<IpNet>().ok();
        let gateway = |it: &IpamConfig| extra_hosts::gateway(it.gateway.as_deref(), subnet(it));
        let mut subnets: Vec<IpNet> =
            ranges.iter().filter_map(subnet).map(|it| it.trunc()).collect();
        subnets.sort();
        Some(Self {
            id: NetworkId::from(answer.id.filter(|it| !it.is_empty())?),
            name: answer.name?,
            scope: if answer.scope.as_deref() == Some("swarm") {
                Scope::Swarm
            } else {
                Scope::Local
            },
            internal: answer.internal.unwrap_or_default(),
            ingress: answer.ingress.unwrap_or_default(),
            attachable: answer.attachable.unwrap_or_default(),
            is_default_bridge: options.get(default_bridge).is_some_and(|it| it == "true"),
            driver,
            subnets,
            gateways: ranges.iter().filter_map(gateway).collect(),
            labels: answer.labels.unwrap_or_default().into_iter().collect(),
        })
    }

    /// Whether Swarm's gossip tells of it.
    pub(crate) fn is_overlay(&self) -> bool {
        self.driver == "overlay" && self.scope == Scope::Swarm
    }
}

/// The host of `HOST:PORT`.
fn host(address: &str) -> Option<IpAddr> {
    let (host, _) = address.rsplit_once(':')?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_distributions_are_read() {
        let of = |text| {
            let Version { major, minor } = Version::parse(text);
            (major, minor)
        };
        assert_eq!(of("20.10.24+dfsg1"), (20, 10));
        assert_eq!(of("28.5.2"), (28, 5));
        assert_eq!(of("29.0.0-rc.1"), (29, 0));
        assert_eq!(of("library-import"), (0, 0));
    }

    #[test]
    fn a_managers_address_is_split_from_its_port() {
        assert_eq!(host("10.213.0.1:2377"), "10.213.0.1".parse().ok());
        assert_eq!(host("[fd00::1]:2377"), "fd00::1".parse().ok());
        assert_eq!(host("nonsense"), None);
    }
}

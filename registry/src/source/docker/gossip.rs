//! Swarm's gossip about one overlay network, from `GET /networks/ID?verbose=true`. Pure.
//!
//! It lists the services with a task on that network, on any node, and those of their tasks that
//! were healthy once; a task that is being stopped stays listed until it is gone.

pub(crate) mod absent;
pub(crate) mod renewed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::Protocol;
use crate::source::docker::host::Neighbour;

/// All that gossip says of one network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Gossip {
    /// The services, by name.
    pub(crate) services: BTreeMap<String, GossipService>,
    /// Plain containers (attachable networks).
    pub(crate) plain: Vec<GossipTask>,
    /// Each node's own endpoint of the routing mesh, by node address (the ingress network only;
    /// engines up to 25).
    pub(crate) ingress: BTreeMap<IpAddr, IpAddr>,
    /// This node's own endpoint of the routing mesh (the ingress network only).
    pub(crate) own_ingress: Option<IpAddr>,
    /// Endpoints of other nodes on that network, each with its node's address, as the kernel has
    /// them (the ingress network only).
    pub(crate) neighbours: BTreeSet<Neighbour>,
    /// Published and target ports with their protocols, as the engine's rules for local tasks have
    /// them (the ingress network only).
    pub(crate) protocols: BTreeSet<(u16, u16, Protocol)>,
}

/// A service on that network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct GossipService {
    /// Its address there; none in mode dnsrr.
    pub(crate) vip: Option<IpAddr>,
    /// Published and target port, on the ingress network. One entry for each protocol; which
    /// protocol is not said.
    pub(crate) ports: Vec<(u16, u16)>,
    /// Its tasks.
    pub(crate) tasks: Vec<GossipTask>,
}

/// A task or plain container on that network.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct GossipTask {
    /// `web.1.<task id>`, or the container's name.
    pub(crate) name: String,
    /// The endpoint's id, the same as in the container's own node's answer.
    pub(crate) endpoint: String,
    /// Its address on that network.
    pub(crate) address: IpAddr,
    /// Its node's address.
    pub(crate) host: Option<IpAddr>,
}

impl GossipTask {
    /// Swarm's id of it: what stands behind the last dot of its name.
    pub(crate) fn task_id(&self) -> Option<&str> {
        self.name.rsplit_once('.').map(|(_, id)| id)
    }
}

/// Reads the `Services` of the answer. An entry that cannot be understood is left out and listed
/// in the second part.
pub(crate) fn parse(services: impl IntoIterator<Item = (String, Value)>) -> (Gossip, Vec<String>) {
    let mut gossip = Gossip::default();
    let mut unreadable = Vec::new();
    for (name, value) in services {
        let Ok(raw) = serde_json::from_value::<RawService>(value) else {
            unreadable.push(name);
            continue;
        };
        let mut tasks: Vec<GossipTask> = raw.tasks.into_iter().filter_map(task).collect();
        tasks.sort();
        if name.is_empty() {
            let (ingress, plain): (Vec<_>, Vec<_>) =
                tasks.into_iter().partition(|it| it.name == "ingress-endpoint");
            gossip.ingress = ingress.iter().filter_map(|it| Some((it.host?, it.address))).collect();
            gossip.plain = plain;
        } else {
            let vip = raw.vip.parse().ok().filter(|it: &IpAddr| !it.is_unspecified());
            let mut ports: Vec<_> = raw.ports.iter().filter_map(|it| port(it)).collect();
            ports.sort_unstable();
            gossip.services.insert(name, GossipService { vip, ports, tasks });
        }
    }
    unreadable.sort();
    (gossip, unreadable)
}

impl Gossip {
    /// The published ports of all its services.
    pub(crate) fn published(&self) -> BTreeSet<u16> {
        self.services.values().flat_map(|it| &it.ports).map(|it| it.0).collect()
    }

    /// Endpoints that are no task's, with their nodes' addresses: of each node a few at most.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let services = self.services.values().flat_map(|it| &it.tasks);
        let tasks: BTreeSet<IpAddr> = services.map(|it| it.address).collect();
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let strange = self.neighbours.iter().filter(move |it| !tasks.contains(&it.address));
        strange
            .filter(move |it| {
                let count = counts.entry(it.node).or_default();
                *count += 1;
                *count <= MOST_STRANGERS
            })
            .map(|it| (it.node, it.address))
    }

    /// The ids of all its Swarm tasks.
    pub(crate) fn task_ids(&self) -> BTreeSet<&str> {
        let tasks = self.services.values().flat_map(|it| &it.tasks);
        tasks.filter_map(GossipTask::task_id).collect()
    }
}

/// Endpoints of one node that are no task's: its end of the mesh, and tasks that are starting or
/// stopping just now.
const MOST_STRANGERS: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawService {
    #[serde(rename = "VIP", default, deserialize_with = "or_default")]
    vip: String,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    tasks: Vec<RawTask>,
}

#[derive(Deserialize)]
struct RawTask {
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "EndpointID", default)]
    endpoint: String,
    #[serde(rename = "EndpointIP", default)]
    address: String,
    #[serde(rename = "Info", default, deserialize_with = "or_default")]
    info: BTreeMap<String, String>,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn task(raw: RawTask) -> Option<GossipTask> {
    let host = raw.info.get("Host IP").and_then(|it| it.parse().ok());
    let address = raw.address.parse().ok()?;
    Some(GossipTask { name: raw.name, endpoint: raw.endpoint, address, host })
}

/// `Target: 80, Publish: 8000`, published first.
fn port(text: &str) -> Option<(u16, u16)> {
    let (target, published) = text.split_once(',')?;
    let target = target.trim().strip_prefix("Target:")?.trim().parse().ok()?;
    let published = published.trim().strip_prefix("Publish:")?.trim().parse().ok()?;
    Some((published, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> (Gossip, Vec<String>) {
        let services: BTreeMap<String, Value> = serde_json::from_str(json).unwrap();
        parse(services)
    }

    #[test]
    fn both_spellings_of_no_vip_mean_dnsrr() {
        for none in ["<nil>", ""] {
            let (gossip, _) = read(&format!(
                r#"{{"app":{{"VIP":"{none}","Ports":null,"LocalLBIndex":0,"Tasks":[{{"Name":"app.1.abc",
                "EndpointID":"e1","EndpointIP":"10.0.2.7","Info":{{"Host IP":"10.213.0.2"}}}}]}}}}"#
            ));
            let app = &gossip.services["app"];
            assert_eq!(app.vip, None);
            assert_eq!(app.tasks[0].task_id(), Some("abc"));
            assert_eq!(app.tasks[0].host, "10.213.0.2".parse().ok());
        }
    }

    #[test]
    fn the_ingress_network_tells_ports_and_each_nodes_endpoint() {
        let (gossip, _) = read(
            r#"{"":{"VIP":"<nil>","Ports":[],"Tasks":[{"Name":"ingress-endpoint","EndpointID":"e",
            "EndpointIP":"10.0.0.3","Info":{"Host IP":"10.213.0.2"}}]},
            "web":{"VIP":"10.0.0.4","Ports":["Target: 80, Publish: 8000","Target: 53, Publish: 53"],
            "Tasks":[]}}"#,
        );
        assert_eq!(
            gossip.ingress[&"10.213.0.2".parse().unwrap()],
            "10.0.0.3".parse::<IpAddr>().unwrap()
        );
        assert_eq!(gossip.services["web"].ports, [(53, 53), (8000, 80)]);
        assert!(gossip.plain.is_empty());
    }

    #[test]
    fn an_endpoint_that_is_no_tasks_may_be_its_nodes_end_of_the_mesh() {
        let (mut gossip, _) = read(
            r#"{"web":{"VIP":"10.0.0.4","Ports":["Target: 80, Publish: 8000"],
            "Tasks":[{"Name":"web.1.a","EndpointID":"e","EndpointIP":"10.0.0.6",
            "Info":{"Host IP":"10.213.0.2"}}]}}"#,
        );
        let neighbour =
            |address: [u8; 4]| Neighbour { address: address.into(), node: [10, 213, 0, 2].into() };
        gossip.neighbours = [[10, 0, 0, 3], [10, 0, 0, 6]].map(neighbour).into();
        let expected = ([10, 213, 0, 2].into(), [10, 0, 0, 3].into());
        assert_eq!(gossip.strangers().collect::<Vec<(IpAddr, IpAddr)>>(), [expected]);
    }

    #[test]
    fn one_service_that_cannot_be_read_does_not_hide_the_others() {
        let (gossip, unreadable) = read(r#"{"a":{"VIP":7},"b":{"VIP":"10.0.1.2"}}"#);
        assert_eq!(unreadable, ["a"]);
        assert_eq!(gossip.services.keys().collect::<Vec<_>>(), ["b"]);
    }
}

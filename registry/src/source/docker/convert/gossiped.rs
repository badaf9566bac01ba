//! What gossip tells, as parts of the world: all there is on a worker, and on managers the plain
//! containers of other nodes. Pure.
//!
//! Gossip knows services by name only, so that is their id here; it knows neither labels (but see
//! `told`), aliases nor the protocol of a published port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::id::{NodeId, ServiceId, TaskId};
use crate::model::{
    Endpoint, Mode, Node, Protocol, PublishMode, PublishedPort, Service, ServiceAttachment,
    ServiceKind, ServingState, Task,
};
use crate::source::docker::convert::managed::STACK;
use crate::source::docker::convert::{DRAINING, ingress_endpoints, node_at, told};
use crate::source::docker::gossip::{Gossip, GossipService, GossipTask};
use crate::source::docker::swarm::Swarm;
use crate::source::docker::view::View;

/// The id of a service that is known by name only.
pub(super) fn service_id(name: &str) -> ServiceId {
    ServiceId::from(format!("swarm:{name}"))
}

/// The services with a task on a network of this node.
pub(super) fn services(view: &View) -> Vec<Service> {
    let mut services: BTreeMap<&str, Service> = BTreeMap::new();
    for (network, gossip) in &view.gossip {
        for (name, gossiped) in &gossip.services {
            let service = services.entry(name).or_insert_with(|| Service {
                id: service_id(name),
                name: name.clone(),
                kind: ServiceKind::Swarm,
                stack: stack(view, name),
                mode: Mode::DnsRr,
                networks: BTreeMap::new(),
                ports: Vec::new(),
                labels: told::by_containers(view, name),
                created: 0,
            });
            if gossiped.vip.is_some() {
                service.mode = Mode::Vip;
            }
            service.ports.extend(ports(gossip, gossiped));
            let attachment = ServiceAttachment { vip: gossiped.vip, aliases: BTreeSet::new() };
            service.networks.insert(network.clone(), attachment);
        }
    }
    services.into_values().collect()
}

/// Gossip lists a port once for each protocol without naming it: twice is both. Once is what the
/// engine's rules for a local task say, and where there is none it may be whatever these do not
/// lead to another target.
fn ports(gossip: &Gossip, service: &GossipService) -> Vec<PublishedPort> {
    let pairs: BTreeSet<(u16, u16)> = service.ports.iter().copied().collect();
    let mut ports = Vec::new();
    for (published, target) in pairs {
        let is_both = service.ports.iter().filter(|it| **it == (published, target)).count() > 1;
        let said = |protocol| gossip.protocols.contains(&(published, target, protocol));
        let some_said = said(Protocol::Tcp) || said(Protocol::Udp);
        let another_s = |protocol| {
            let mut other = service.ports.iter().filter(|it| it.0 == published && it.1 != target);
            other.any(|it| gossip.protocols.contains(&(published, it.1, protocol)))
        };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let is_open = !some_said && !another_s(protocol);
            if is_both || said(protocol) || is_open {
                let mode = PublishMode::Ingress;
                ports.push(PublishedPort { published, target, protocol, mode, name: None });
            }
        }
    }
    ports
}

/// A service's stack, where one of its tasks runs here and says so.
fn stack(view: &View, service: &str) -> Option<String> {
    view.containers_of(service).find_map(|it| it.label(STACK)).map(str::to_owned)
}

/// The nodes that gossip and the engine name: this one, the managers, and by address those that
/// run a task on a network of this node.
pub(super) fn nodes(view: &View) -> Vec<Node> {
    let ingress = ingress_endpoints(view);
    let node = |id: NodeId, name: String, address: Option<IpAddr>| Node {
        id,
        name,
        address,
        state: "ready".to_owned(),
        ingress: address.and_then(|it| ingress.get(&it).cloned()).unwrap_or_default(),
    };
    let engine = &view.engine;
    let mut nodes: Vec<Node> = Vec::new();
    nodes
        .extend(engine.node.iter().map(|it| node(it.clone(), engine.name.clone(), engine.address)));
    for (id, address) in &engine.managers {
        if nodes.iter().all(|it| it.id != *id) {
            nodes.push(node(id.clone(), String::new(), *address));
        }
    }
    let tasks = view.gossip.values().flat_map(|it| {
        it.plain.iter().chain(it.services.values().flat_map(|service| &service.tasks))
    });
    let hosts: BTreeSet<IpAddr> =
        tasks.filter_map(|it| it.host).chain(ingress.keys().copied()).collect();
    for host in hosts {
        if node_at(&nodes, Some(host)).is_none() {
            let id = NodeId::from(format!("address:{host}"));
            nodes.push(node(id, String::new(), Some(host)));
        }
    }
    for node in &mut nodes {
        if let (true, Some(address)) = (node.name.is_empty(), node.address) {
            node.name = address.to_string();
        }
    }
    nodes
}

/// Adds the tasks and plain containers of other nodes to `tasks`.
pub(super) fn add_tasks(view: &View, nodes: &[Node], tasks: &mut BTreeMap<TaskId, Task>) {
    let local: BTreeSet<TaskId> = tasks.keys().cloned().collect();
    let here = Here::of(view);
    for (network, gossip) in &view.gossip {
        for (service, gossiped) in &gossip.services {
            for task in &gossiped.tasks {
                let id = TaskId::from(task.task_id().unwrap_or(&task.endpoint));
                if local.contains(&id) || here.has(task) {
                    continue;
                }
                let known = tasks
                    .entry(id.clone())
                    .or_insert_with(|| remote_task(task, id, Some(service_id(service)), nodes));
                known.networks.insert(network.clone(), endpoint(task));
                if view.draining.contains(&task.endpoint) {
                    known.state = ServingState::Draining;
                    DRAINING.clone_into(&mut known.reason);
                }
            }
        }
    }
    add_plain(view, nodes, tasks);
}

/// Adds to `tasks` those of other nodes that a manager's answers leave out although they run on: a
/// service that is scaled down during an update loses its tasks in the managers' store at once,
/// and whoever begins to follow while a task drains is told of wanted ones only.
pub(super) fn add_forgotten(
    view: &View,
    swarm: &Swarm,
    nodes: &[Node],
    tasks: &mut BTreeMap<TaskId, Task>,
) {
    let here = Here::of(view);
    let services: BTreeMap<&str, &ServiceId> =
        swarm.services.iter().map(|(id, it)| (it.name.as_str(), id)).collect();
    for (network, gossip) in &view.gossip {
        for (name, gossiped) in &gossip.services {
            let Some(service) = services.get(name.as_str()) else { continue };
            for task in gossiped.tasks.iter().filter(|it| !here.has(it)) {
                let Some(id) = task.task_id().filter(|it| !swarm.tasks.contains_key(*it)) else {
                    continue;
                };
                let added = tasks.entry(TaskId::from(id)).or_insert_with_key(|id| Task {
                    state: ServingState::Draining,
                    reason: "only its node still lists it".to_owned(),
                    ..remote_task(task, id.clone(), Some((*service).clone()), nodes)
                });
                added.networks.entry(network.clone()).or_insert_with(|| endpoint(task));
            }
        }
    }
}

/// Adds the plain containers of other nodes to `tasks`.
pub(super) fn add_plain(view: &View, nodes: &[Node], tasks: &mut BTreeMap<TaskId, Task>) {
    let here = Here::of(view);
    for (network, gossip) in &view.gossip {
        for task in gossip.plain.iter().filter(|it| !here.has(it)) {
            let id = TaskId::from(format!("endpoint:{}", task.endpoint));
            let mut added = remote_task(task, id.clone(), None, nodes);
            added.networks.insert(network.clone(), endpoint(task));
            tasks.insert(id, added);
        }
    }
}

fn remote_task(task: &GossipTask, id: TaskId, service: Option<ServiceId>, nodes: &[Node]) -> Task {
    Task {
        id,
        name: task.name.clone(),
        service,
        node: node_at(nodes, task.host),
        networks: BTreeMap::new(),
        publishes: None,
        weight: 1,
        state: ServingState::Serving,
        reason: "announced by its node".to_owned(),
    }
}

fn endpoint(task: &GossipTask) -> Endpoint {
    Endpoint { addresses: vec![task.address], names: BTreeSet::new() }
}

/// What is on this node, where the container itself says more, or has just died.
struct Here<'a> {
    address: Option<IpAddr>,
    endpoints: BTreeSet<&'a str>,
}

impl<'a> Here<'a> {
    fn of(view: &'a View) -> Self {
        let attached = view.containers.values().flat_map(|it| &it.attachments);
        let endpoints = attached.map(|it| it.endpoint.as_str()).filter(|it| !it.is_empty());
        Self { address: view.engine.address, endpoints: endpoints.collect() }
    }

    fn has(&self, task: &GossipTask) -> bool {
        (self.address.is_some() && task.host == self.address)
            || self.endpoints.contains(task.endpoint.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_of_a_port_leads_to_the_target_that_the_engines_rules_say() {
        use Protocol::{Tcp, Udp};
        type Told<'a> = &'a [(u16, u16, Protocol)];
        type Case<'a> = (&'a [(u16, u16)], Told<'a>, Told<'a>);
        let cases: &[Case<'_>] = &[
            (&[(8001, 80)], &[(8001, 80, Tcp)], &[(8001, 80, Tcp)]),
            (&[(8001, 80)], &[], &[(8001, 80, Tcp), (8001, 80, Udp)]),
            (&[(1, 80), (1, 80)], &[(1, 80, Tcp)], &[(1, 80, Tcp), (1, 80, Udp)]),
            (&[(1, 53), (1, 80)], &[(1, 53, Udp), (1, 80, Tcp)], &[(1, 53, Udp), (1, 80, Tcp)]),
            (&[(1, 53), (1, 80)], &[(1, 80, Tcp)], &[(1, 53, Udp), (1, 80, Tcp)]),
        ];
        for (listed, said, expected) in cases {
            let service = GossipService { ports: listed.to_vec(), ..GossipService::default() };
            let protocols = said.iter().copied().collect();
            let gossip = Gossip { protocols, ..Gossip::default() };
            let ports = ports(&gossip, &service);
            let ports: Vec<_> =
                ports.iter().map(|it| (it.published, it.target, it.protocol)).collect();
            assert_eq!(ports, *expected, "{listed:?} {said:?}");
        }
    }
}

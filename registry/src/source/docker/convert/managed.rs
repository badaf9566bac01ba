//! A manager's services, tasks and nodes as parts of the world. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{NetworkId, NodeId, ServiceId, TaskId};
use crate::model::{
    Endpoint, Mode, Node, Service, ServiceAttachment, ServiceKind, ServingState, Task,
};
use crate::source::docker::convert::{ingress_endpoints, names, network_called, told};
use crate::source::docker::swarm::{Swarm, SwarmService, SwarmTask};
use crate::source::docker::view::View;

/// The label by which `docker stack` marks what it made.
pub(super) const STACK: &str = "com.docker.stack.namespace";

/// All services of the Swarm.
pub(super) fn services(view: &View, swarm: &Swarm) -> Vec<Service> {
    swarm.services.iter().map(|(id, it)| service(view, id, it)).collect()
}

fn service(view: &View, id: &ServiceId, swarm: &SwarmService) -> Service {
    let mut networks: BTreeMap<NetworkId, ServiceAttachment> = BTreeMap::new();
    for (reference, aliases) in &swarm.networks {
        let Some(network) = network_called(view, reference) else { continue };
        networks.entry(network).or_default().aliases.extend(aliases.iter().cloned());
    }
    for (network, vip) in &swarm.vips {
        let Some(network) = network_called(view, network) else { continue };
        networks.entry(network).or_default().vip = Some(*vip);
    }
    if swarm.mode() == Mode::Vip {
        // Swarm gives every address itself; where it has not yet, the service is not there yet.
        networks.retain(|_, it| it.vip.is_some());
    }
    for attachment in networks.values_mut() {
        attachment.aliases.remove(&swarm.name);
    }
    Service {
        id: id.clone(),
        name: swarm.name.clone(),
        kind: ServiceKind::Swarm,
        stack: swarm.labels.get(STACK).cloned(),
        mode: swarm.mode(),
        networks,
        ports: swarm.ports.clone(),
        labels: told::by_managers(swarm),
        created: swarm.created,
    }
}

/// All nodes of the Swarm.
pub(super) fn nodes(view: &View, swarm: &Swarm) -> Vec<Node> {
    let ingress = ingress_endpoints(view);
    let nodes = swarm.nodes.iter().map(|(id, node)| {
        let own = view.engine.node.as_ref() == Some(id);
        let address = node.address.or_else(|| view.engine.address.filter(|_| own));
        Node {
            id: id.clone(),
            name: node.name.clone(),
            address,
            state: node.state.clone(),
            ingress: address.and_then(|it| ingress.get(&it).cloned()).unwrap_or_default(),
        }
    });
    nodes.collect()
}

/// Adds the tasks of other nodes to `tasks`, and to those of this node what only Swarm knows.
pub(super) fn add_tasks(view: &View, swarm: &Swarm, tasks: &mut BTreeMap<TaskId, Task>) {
    let gossiped: BTreeSet<&str> = view.gossip.values().flat_map(|it| it.task_ids()).collect();
    let mut unannounced = Vec::new();
    for task in swarm.tasks.values() {
        let id = TaskId::from(task.id.as_str());
        if let Some(local) = tasks.get_mut(&id) {
            if !task.is_wanted() {
                local.state = ServingState::Draining;
                STOPPING.clone_into(&mut local.reason);
            }
            continue;
        }
        let announced = gossiped.contains(task.id.as_str());
        let Some((state, reason)) = state(view, swarm, task, announced) else { continue };
        if state == ServingState::Serving && !announced && is_overheard(view, task) {
            unannounced.push(id.clone());
        }
        let task = remote_task(view, swarm, task, id.clone(), (state, reason));
        tasks.insert(id, task);
    }
    give_up(view, &unannounced, tasks);
}

/// Whether gossip is heard here of a network that the task is on.
fn is_overheard(view: &View, task: &SwarmTask) -> bool {
    let mut networks = task.networks_attachments.iter().map(|it| it.network.id.as_str());
    networks.any(|it| view.gossip.contains_key(&NetworkId::from(it)))
}

/// Gossip gives up a node several seconds before the managers call it down, and with it the
/// engine's overlay gives up the way to its tasks: they are gone for this node. Only where others
/// of the service serve: an engine that starts, or whose gossip is broken, hears of nobody.
fn give_up(view: &View, unannounced: &[TaskId], tasks: &mut BTreeMap<TaskId, Task>) {
    let serving = tasks.values().filter(|it| it.state == ServingState::Serving);
    let served: BTreeSet<ServiceId> = serving
        .filter(|it| !unannounced.contains(&it.id))
        .filter_map(|it| it.service.clone())
        .collect();
    for id in unannounced {
        let Some(task) = tasks.get_mut(id) else { continue };
        if task.service.as_ref().is_some_and(|it| served.contains(it)) {
            let (state, reason) = if view.announced.contains(id.as_str()) {
                (ServingState::Stopped, "announced by its node no more")
            } else {
                (ServingState::Starting, "not announced by its node yet")
            };
            task.state = state;
            reason.clone_into(&mut task.reason);
        }
    }
}

const STOPPING: &str = "Swarm is stopping it";

/// The state of a task without a container here; `None`: it is gone.
fn state(
    view: &View,
    swarm: &Swarm,
    task: &SwarmTask,
    gossiped: bool,
) -> Option<(ServingState, String)> {
    let runs = task.status.state == "running";
    let node = swarm.nodes.get(&NodeId::from(task.node.as_str()));
    let is_here = view.engine.node.as_ref().is_some_and(|it| it.as_str() == task.node);
    if !task.is_alive() || (!task.is_wanted() && !runs) {
        return None;
    }
    if is_here && runs {
        return None; // its container has died, and Swarm has not heard of it yet
    }
    if let Some(node) = node.filter(|it| it.state != "ready") {
        let reason = format!("its node {} is {}", node.name, node.state);
        return Some((ServingState::Stopped, reason));
    }
    Some(match (task.is_wanted(), runs, gossiped) {
        (false, _, _) => (ServingState::Draining, STOPPING.to_owned()),
        (true, true, _) => (ServingState::Serving, "running".to_owned()),
        // Its node announced it to the others; the managers hear of it a little later.
        (true, false, true) => (ServingState::Serving, "announced by its node".to_owned()),
        (true, false, false) => (ServingState::Starting, task.status.state.clone()),
    })
}

fn remote_task(
    view: &View,
    swarm: &Swarm,
    task: &SwarmTask,
    id: TaskId,
    (state, reason): (ServingState, String),
) -> Task {
    let service = ServiceId::from(task.service.as_str());
    let name = name(swarm, task);
    let hostname = hostname(swarm, task, &name);
    let networks = task.networks_attachments.iter().filter_map(|it| {
        let network = view.networks.get(&NetworkId::from(it.network.id.as_str()))?;
        let names =
            names::of_remote(network, &task.status.container_status.id, hostname.as_deref());
        Some((network.id.clone(), Endpoint { addresses: SwarmTask::addresses(it), names }))
    });
    Task {
        id,
        name,
        node: Some(task.node.as_str()).filter(|it| !it.is_empty()).map(NodeId::from),
        networks: networks.collect(),
        service: Some(service),
        publishes: None,
        weight: 1,
        state,
        reason,
    }
}

/// The host name of a task's container, `None` where its template says more than we read.
fn hostname(swarm: &Swarm, task: &SwarmTask, name: &str) -> Option<String> {
    let node = swarm.nodes.get(&NodeId::from(task.node.as_str()));
    let slot = match task.slot {
        0 => task.node.clone(),
        slot => slot.to_string(),
    };
    let known = [
        (".Service.ID", task.service.as_str()),
        (".Service.Name", service_name(swarm, task)),
        (".Node.ID", &task.node),
        (".Node.Hostname", node.map_or("", |it| &it.name)),
        (".Task.ID", &task.id),
        (".Task.Name", name),
        (".Task.Slot", &slot),
    ];
    names::expanded(&task.spec.container_spec.hostname, &known)
}

fn service_name<'a>(swarm: &'a Swarm, task: &'a SwarmTask) -> &'a str {
    let service = swarm.services.get(&ServiceId::from(task.service.as_str()));
    service.map_or(task.service.as_str(), |it| &it.name)
}

/// `SERVICE.SLOT.ID`, in global services `SERVICE.NODE.ID`.
fn name(swarm: &Swarm, task: &SwarmTask) -> String {
    let service = service_name(swarm, task);
    match task.slot {
        0 => format!("{service}.{}.{}", task.node, task.id),
        slot => format!("{service}.{slot}.{}", task.id),
    }
}

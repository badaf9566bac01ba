//! Turns what the engine, gossip and the kernel said into a world. Pure and total: what cannot be
//! understood becomes a note on its subject.
//!
//! Invariants
//! - *once*: a task that the container list, `/tasks` and gossip all tell of is one task, by its
//!   Swarm id;
//! - *local first*: of a task on this node the engine's own container is believed, then `/tasks`,
//!   then gossip;
//! - *wanted*: a task that Swarm wants gone never serves, whatever else is said of it;
//! - *made by Swarm*: what an image's labels say makes no container a task of a Swarm service.

pub(crate) use compose::belongs;

mod compose;
mod gossiped;
mod managed;
mod names;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::id::{NetworkId, NodeId, ServiceId, TaskId};
use crate::model::{Completeness, Endpoint, Network, Node, Reach, Scope, ServingState, Task};
use crate::note::Notes;
use crate::snapshot::Draft;
use crate::source::docker::container::{Attached, Container, Health, SWARM_SERVICE};
use crate::source::docker::engine::EngineNetwork;
use crate::source::docker::sandbox;
use crate::source::docker::view::{Teller, View};

/// The world as of `view`.
pub(crate) fn draft(view: &View) -> Draft {
    let mut notes = notes(view);
    let groups = compose::groups(view, &mut notes);
    let mut services = compose::services(&groups);
    let mut tasks: BTreeMap<TaskId, Task> = BTreeMap::new();
    for container in view.containers.values().filter(|it| it.is_present()) {
        let service = service_of(view, container, &groups);
        let task = local_task(view, container, service, &groups);
        tasks.insert(task.id.clone(), task);
    }
    let nodes = match view.teller() {
        Teller::Nobody => Vec::new(),
        Teller::Gossip => {
            services.extend(gossiped::services(view));
            let nodes = gossiped::nodes(view);
            gossiped::add_tasks(view, &nodes, &mut tasks);
            nodes
        }
        Teller::Managers(swarm) => {
            services.extend(managed::services(view, swarm));
            told::tell_of_unseen(swarm, &mut notes);
            let nodes = managed::nodes(view, swarm);
            managed::add_tasks(view, swarm, &mut tasks);
            gossiped::add_forgotten(view, swarm, &nodes, &mut tasks);
            gossiped::add_plain(view, &nodes, &mut tasks);
            nodes
        }
    };
    for (id, ports) in &view.former {
        if let Some(task) = tasks.get_mut(&TaskId::from(id.as_str())) {
            task.publishes = Some(ports.clone());
        }
    }
    Draft {
        networks: view.networks.values().map(|it| network(view, it)).collect(),
        services,
        tasks: tasks.into_values().collect(),
        sandboxes: sandbox::sandboxes(view, |it| task_id(view, it)),
        nodes,
        this_node: view.engine.node.clone(),
        unread: view.unread(),
        notes,
    }
}

fn notes(view: &View) -> Notes {
    let mut notes = Notes::default();
    for (subject, wrong) in &view.unreadable {
        notes.warning(subject, "", wrong, "please report it with the engine's version");
    }
    notes
}

fn network(view: &View, network: &EngineNetwork) -> Network {
    let reach = match network.driver.as_str() {
        "overlay" if network.ingress => view.folder.ingress().map_or(Reach::Nowhere, Reach::Netns),
        "overlay" => view.folder.load_balancer(&network.id).map_or(Reach::Nowhere, Reach::Netns),
        // A host never reaches its own macvlan and ipvlan endpoints.
        "macvlan" | "ipvlan" => Reach::Nowhere,
        _ => Reach::Host,
    };
    // A manager knows all but the aliases of other nodes' plain containers.
    let complete = network.scope == Scope::Local
        || (!network.attachable && matches!(view.teller(), Teller::Managers(_)));
    Network {
        id: network.id.clone(),
        name: network.name.clone(),
        scope: network.scope,
        driver: network.driver.clone(),
        internal: network.internal,
        ingress: network.ingress,
        subnets: network.subnets.clone(),
        gateways: network.gateways.clone(),
        labels: network.labels.clone(),
        names: if complete { Completeness::Complete } else { Completeness::Gossip },
        reach,
    }
}

/// Which task a container is: Swarm's, or itself.
fn task_id(view: &View, container: &Container) -> TaskId {
    TaskId::from(view.swarm_task(container).unwrap_or(&container.id))
}

/// The service that a container works for.
fn service_of(
    view: &View,
    container: &Container,
    groups: &compose::Groups<'_>,
) -> Option<ServiceId> {
    if view.swarm_task(container).is_none() {
        return groups.of(container).map(|it| it.id.clone());
    }
    match view.teller() {
        Teller::Managers(_) => container.label("com.docker.swarm.service.id").map(ServiceId::from),
        Teller::Gossip | Teller::Nobody => container.label(SWARM_SERVICE).map(gossiped::service_id),
    }
}

fn local_task(
    view: &View,
    container: &Container,
    service: Option<ServiceId>,
    groups: &compose::Groups<'_>,
) -> Task {
    let checked = groups.of(container).is_some_and(compose::Group::has_vip);
    let (state, reason) = local_state(view, container, service.is_some(), checked);
    let placed = container.attachments.iter().filter(|it| !it.addresses.is_empty());
    let networks = placed.filter_map(|it| {
        let network = view.networks.get(&it.network_id())?;
        let mut names = names::of_container(network, container, it);
        if let Some(group) = groups.of(container) {
            names.retain(|name| !group.is_called(name, &network.id));
        }
        Some((network.id.clone(), Endpoint { addresses: it.addresses.clone(), names }))
    });
    Task {
        id: task_id(view, container),
        name: container.name.clone(),
        service,
        node: view.engine.node.clone(),
        networks: networks.collect(),
        publishes: None,
        weight: 1,
        state,
        reason,
    }
}

/// A container's state as its own engine sees it. `checked`: whether it serves only when its process
/// exists and its health check says so, as in a Swarm.
fn local_state(
    view: &View,
    container: &Container,
    serves: bool,
    checked: bool,
) -> (ServingState, String) {
    let of_swarm = view.swarm_task(container).is_some();
    let given_up = |it: &Attached| view.draining.contains(&it.endpoint);
    let (state, reason) = if serves && view.farewell.contains(&container.id) {
        (ServingState::Draining, "told to stop")
    } else if of_swarm && container.attachments.iter().any(given_up) {
        (ServingState::Draining, DRAINING)
    } else if !container.running && (of_swarm || checked) {
        (ServingState::Starting, "being created")
    } else if of_swarm {
        match container.health {
            Health::None => (ServingState::Serving, "running"),
            Health::Healthy => (ServingState::Serving, "running and healthy"),
            Health::Starting => (ServingState::Starting, "waiting for its first health check"),
            Health::Unhealthy => (ServingState::Draining, "unhealthy: Swarm replaces it"),
        }
    } else if checked {
        // Nobody replaces it, and it may come back: connections that it has are not drained.
        match container.health {
            Health::None => (ServingState::Serving, "running"),
            Health::Healthy => (ServingState::Serving, "running and healthy"),
            Health::Starting => (ServingState::Starting, "waiting for its first health check"),
            Health::Unhealthy => (ServingState::Starting, "unhealthy"),
        }
    } else if container.running {
        // The engine answers names by the addresses of plain containers whatever their health is,
        // and people rely on that; a VIP is ours, and no connection is better than one that hangs.
        (ServingState::Serving, "running")
    } else {
        (ServingState::Serving, "connected, about to start")
    };
    (state, reason.to_owned())
}

/// Why a task drains that the engine's own resolver gives no more.
const DRAINING: &str = "the engine took it out of its own names";

/// A node's id by its address among the nodes.
fn node_at(nodes: &[Node], address: Option<IpAddr>) -> Option<NodeId> {
    let address = address?;
    nodes.iter().find(|it| it.address == Some(address)).map(|it| it.id.clone())
}

/// Each node's endpoints of the routing mesh, by node address.
fn ingress_endpoints(view: &View) -> BTreeMap<IpAddr, BTreeSet<IpAddr>> {
    let ingress = view.networks.values().filter(|it| it.ingress);
    let mut endpoints: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for gossip in ingress.filter_map(|it| view.gossip.get(&it.id)) {
        let own = view.engine.address.zip(gossip.own_ingress);
        let listed = gossip.ingress.iter().map(|(node, it)| (*node, *it));
        let told: BTreeMap<IpAddr, IpAddr> = listed.chain(own).collect();
        // Where the engine does not say, whoever is no task there may be the node's end.
        let seen = gossip.strangers().filter(|(node, _)| !told.contains_key(node));
        for (node, endpoint) in told.iter().map(|(node, it)| (*node, *it)).chain(seen) {
            endpoints.entry(node).or_default().insert(endpoint);
        }
    }
    endpoints
}

/// A network that the engine lists, by id or, as old specifications have it, by name.
fn network_called(view: &View, reference: &str) -> Option<NetworkId> {
    let id = NetworkId::from(reference);
    if view.networks.contains_key(&id) {
        return Some(id);
    }
    view.networks.values().find(|it| it.name == reference).map(|it| it.id.clone())
}

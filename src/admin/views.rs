//! What the admin API shows: rows made for reading, not the model itself, so that either may
//! change without the other.

mod parts;
mod sandbox;
mod status;

use std::net::IpAddr;

use registry::id::NetworkId;
use registry::labels;
use registry::model::{PublishMode, Reach, Scope, Service};
use registry::{Notes, Report, Snapshot};
use serde::Serialize;

pub use self::parts::{Done, Told, parts};
pub use self::sandbox::{SandboxRow, no_such_sandbox, sandbox, sandboxes};
pub use self::status::{Status, served, status};
use crate::supervise::Live;

/// A row of `ls networks`.
#[derive(Debug, Serialize)]
pub struct NetworkRow {
    name: String,
    scope: &'static str,
    driver: String,
    internal: bool,
    subnets: Vec<String>,
    services: usize,
    tasks: usize,
    reach: String,
    id: String,
}

/// A row of `ls services`.
#[derive(Debug, Serialize)]
pub struct ServiceRow {
    name: String,
    mode: String,
    tasks: String,
    networks: Vec<String>,
    aliases: Vec<String>,
    ports: Vec<String>,
    stack: Option<String>,
    id: String,
    /// Only where asked for: `check` compares them.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<registry::model::Labels>,
}

/// A row of `ls tasks`.
#[derive(Debug, Serialize)]
pub struct TaskRow {
    name: String,
    service: Option<String>,
    state: String,
    addresses: Vec<String>,
    node: Option<String>,
    reason: String,
}

/// A row of `ls nodes`.
#[derive(Debug, Serialize)]
pub struct NodeRow {
    name: String,
    state: String,
    address: Option<IpAddr>,
    id: String,
}

/// A row of `ls vips`.
#[derive(Debug, Serialize)]
pub struct VipRow {
    service: String,
    network: String,
    vip: IpAddr,
    origin: &'static str,
    tasks: Vec<IpAddr>,
}

/// A row of `ls routes`.
#[derive(Debug, Serialize)]
pub struct RouteRow {
    host: String,
    path: String,
    service: String,
    backends: Vec<String>,
    problem: Option<String>,
}

/// Every diagnostic of the sources and the compiles.
pub fn diagnostics(live: &Live) -> Vec<String> {
    let mut all = Notes::default();
    all.extend(live.world.borrow().notes().clone());
    for done in parts(live).into_iter().filter_map(|it| it.done) {
        all.extend(done.notes);
    }
    lines(&all)
}

/// What compiling the VIPs had to say.
pub fn vip_notes(live: &Live) -> Vec<String> {
    lines(&notes(&live.vip))
}

/// What compiling the routes had to say.
pub fn route_notes(live: &Live) -> Vec<String> {
    lines(&notes(&live.router))
}

type Reports<P> = tokio::sync::watch::Receiver<Option<std::sync::Arc<Report<P>>>>;

fn notes<P>(reports: &Reports<P>) -> Notes {
    reports.borrow().as_ref().map(|it| it.notes.clone()).unwrap_or_default()
}

fn lines(notes: &Notes) -> Vec<String> {
    notes.iter().map(ToString::to_string).collect()
}

/// The networks.
pub fn networks(snapshot: &Snapshot) -> Vec<NetworkRow> {
    let row = |network: &registry::model::Network| NetworkRow {
        name: network.name.clone(),
        scope: if network.scope == Scope::Swarm { "swarm" } else { "local" },
        driver: network.driver.clone(),
        internal: network.internal,
        subnets: network.subnets.iter().map(ToString::to_string).collect(),
        services: snapshot.services_on(&network.id).count(),
        tasks: snapshot.tasks_on(&network.id).count(),
        reach: match &network.reach {
            Reach::Host => "host".to_owned(),
            Reach::Netns(path) => path.display().to_string(),
            Reach::Nowhere => "not from here".to_owned(),
        },
        id: network.id.to_string(),
    };
    snapshot.networks().map(row).collect()
}

/// The services, with their labels where `labelled`.
pub fn services(snapshot: &Snapshot, labelled: bool) -> Vec<ServiceRow> {
    let row = |service: &Service| ServiceRow {
        labels: labelled.then(|| service.labels.clone()),
        ..service_row(snapshot, service)
    };
    snapshot.services().map(row).collect()
}

fn service_row(snapshot: &Snapshot, service: &Service) -> ServiceRow {
    let serving = snapshot.tasks_of(&service.id).filter(|task| task.serves()).count();
    let port = |port: &registry::model::PublishedPort| {
        let mode = if port.mode == PublishMode::Host { " host" } else { "" };
        format!("{}->{}/{}{mode}", port.published, port.target, port.protocol)
    };
    ServiceRow {
        name: service.name.clone(),
        mode: service.mode.to_string(),
        tasks: format!("{serving}/{}", snapshot.tasks_of(&service.id).count()),
        networks: service.networks.keys().map(|id| network_name(snapshot, id)).collect(),
        aliases: service.networks.values().flat_map(|it| it.aliases.iter().cloned()).collect(),
        ports: service.ports.iter().map(port).collect(),
        stack: service.stack.clone(),
        id: service.id.to_string(),
        labels: None,
    }
}

/// The tasks.
pub fn tasks(snapshot: &Snapshot) -> Vec<TaskRow> {
    let service = |task: &registry::model::Task| {
        task.service.as_ref().and_then(|id| snapshot.service(id)).map(|it| it.name.clone())
    };
    let address = |(id, endpoint): (&NetworkId, &registry::model::Endpoint)| {
        let network = network_name(snapshot, id);
        endpoint.addresses.iter().map(|it| format!("{network}={it}")).collect::<Vec<_>>()
    };
    let node_name = |task: &registry::model::Task| {
        let id = task.node.as_ref()?;
        let known = snapshot.nodes().find(|node| node.id == *id);
        Some(known.map_or_else(|| id.to_string(), |node| node.name.clone()))
    };
    let row = |task: &registry::model::Task| TaskRow {
        name: task.name.clone(),
        service: service(task),
        state: task.state.to_string(),
        addresses: task.networks.iter().flat_map(address).collect(),
        node: node_name(task),
        reason: task.reason.clone(),
    };
    snapshot.tasks().map(row).collect()
}

/// The nodes.
pub fn nodes(snapshot: &Snapshot) -> Vec<NodeRow> {
    let row = |node: &registry::model::Node| NodeRow {
        name: node.name.clone(),
        state: node.state.clone(),
        address: node.address,
        id: node.id.to_string(),
    };
    snapshot.nodes().map(row).collect()
}

/// The VIPs.
pub fn vips(live: &Live, snapshot: &Snapshot) -> Vec<VipRow> {
    let Some(report) = live.vip.borrow().clone() else { return Vec::new() };
    let all = report.plan.addresses.iter();
    let all = all
        .flat_map(|((service, network), vips)| vips.iter().map(move |vip| (service, network, vip)));
    let row = |(service, network, vip): (&registry::id::ServiceId, &NetworkId, IpAddr)| {
        let known = snapshot.service(service);
        let attachment = known.and_then(|it| it.networks.get(network));
        let fixed = attachment.is_some_and(|it| it.vip == Some(vip));
        let label =
            || known.is_some_and(|it| labels::balance(it).0.address.values().any(|it| *it == vip));
        let tasks = snapshot.tasks_of(service).filter(|task| task.serves());
        VipRow {
            service: known.map_or_else(|| service.to_string(), |it| it.name.clone()),
            network: network_name(snapshot, network),
            vip,
            origin: match fixed {
                true => "source",
                false if label() => "label",
                false => "pool",
            },
            tasks: tasks
                .filter_map(|task| task.networks.get(network))
                .flat_map(|it| it.addresses.clone())
                .filter(|it| it.is_ipv4() == vip.is_ipv4())
                .collect(),
        }
    };
    all.map(row).collect()
}

/// The routes.
pub fn routes(live: &Live) -> Vec<RouteRow> {
    let Some(report) = live.router.borrow().clone() else { return Vec::new() };
    let backend = |it: &router::table::Backend| match &it.whom {
        router::table::Whom::Task(name) => format!("{name}={}", it.address),
        router::table::Whom::Vip => format!("vip={}", it.address),
    };
    let row = |route: &router::table::Route| RouteRow {
        host: route.host.to_string(),
        path: if route.context_root.is_empty() {
            "/".to_owned()
        } else {
            route.context_root.to_string()
        },
        service: route.claims.iter().map(|it| it.name.as_ref()).collect::<Vec<_>>().join(","),
        backends: route.backends.iter().map(backend).collect(),
        problem: route.unavailable.as_ref().map(ToString::to_string),
    };
    report.plan.routes().iter().map(row).collect()
}

fn network_name(snapshot: &Snapshot, id: &NetworkId) -> String {
    snapshot.network(id).map_or_else(|| id.to_string(), |it| it.name.clone())
}

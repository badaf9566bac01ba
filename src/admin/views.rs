//! What the admin API shows: rows made for reading, not the model itself, so that either may
//! change without the other.

use std::net::IpAddr;

use registry::id::{NetworkId, TaskId};
use registry::model::{PublishMode, Reach, Sandbox, Scope, Service};
use registry::{Notes, Report, Snapshot};
use serde::Serialize;

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

/// A row of `ls sandboxes`, and what `exec` needs.
#[derive(Debug, Serialize)]
pub struct SandboxRow {
    name: String,
    networks: Vec<String>,
    addresses: Vec<IpAddr>,
    upstreams: Vec<String>,
    hostname: String,
    netns: String,
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

/// How portolan is.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Whether everything asked for works.
    pub ok: bool,
    /// The same for people.
    pub text: String,
    generation: u64,
    stale: Option<String>,
    networks: usize,
    services: usize,
    tasks: usize,
    sandboxes: usize,
    parts: Vec<PartStatus>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PartStatus {
    name: &'static str,
    generation: u64,
    changes: usize,
    took_ms: f64,
    failures: Vec<String>,
}

impl Status {
    /// What keeps it from being ready, in one line.
    pub fn unready(&self) -> String {
        let failing = self.parts.iter().flat_map(|part| &part.failures);
        let waiting = self.parts.iter().filter(|part| part.generation < self.generation);
        let waiting = waiting.map(|part| format!("the {}", part.name));
        let missing: Vec<String> = failing.cloned().chain(waiting).collect();
        if missing.is_empty() { "the application".to_owned() } else { missing.join("; ") }
    }
}

/// How portolan is, as of what the parts last said.
pub fn status(live: &Live) -> Status {
    let snapshot = live.world.borrow().clone();
    let parts: Vec<PartStatus> = [
        live.parts.vip.then(|| part("vip", live.vip.borrow().as_deref())),
        live.parts.resolver.then(|| part("resolver", live.resolver.borrow().as_deref())),
        live.parts.router.then(|| part("router", live.router.borrow().as_deref())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let stale = snapshot.stale().map(str::to_owned);
    let ok = snapshot.generation() > 0
        && stale.is_none()
        && parts.iter().all(|part| part.failures.is_empty() && part.generation > 0);
    let mut status = Status {
        ok,
        text: String::new(),
        generation: snapshot.generation(),
        stale,
        networks: snapshot.networks().len(),
        services: snapshot.services().len(),
        tasks: snapshot.tasks().len(),
        sandboxes: snapshot.sandboxes().len(),
        parts,
        notes: diagnostics(live),
    };
    status.text = describe(&status);
    status
}

fn describe(status: &Status) -> String {
    let Status { generation, networks, services, tasks, sandboxes, .. } = status;
    let mut lines = vec![match &status.stale {
        Some(reason) => format!("serving what was last known (generation {generation}): {reason}"),
        None if *generation == 0 => "waiting for the first complete reading".to_owned(),
        None => format!("up to date (generation {generation})"),
    }];
    lines.push(format!(
        "{networks} networks, {services} services, {tasks} tasks, {sandboxes} sandboxes"
    ));
    for part in &status.parts {
        let PartStatus { name, generation, changes, took_ms, failures } = part;
        let state = if failures.is_empty() { "fine" } else { "failing" };
        lines.push(format!(
            "{name}: {state}, generation {generation}, {changes} changes in {took_ms:.1} ms"
        ));
        lines.extend(failures.iter().map(|failure| format!("  {failure}")));
    }
    lines.extend(status.notes.iter().cloned());
    lines.push(String::new());
    lines.join("\n")
}

fn part<P>(name: &'static str, report: Option<&Report<P>>) -> PartStatus {
    PartStatus {
        name,
        generation: report.map_or(0, |it| it.generation),
        changes: report.map_or(0, |it| it.outcome.changes),
        took_ms: report.map_or(0.0, |it| it.took.as_secs_f64() * 1e3),
        failures: report.map(|it| lines(&it.outcome.failures)).unwrap_or_default(),
    }
}

/// Every diagnostic of the sources and the compiles.
pub fn diagnostics(live: &Live) -> Vec<String> {
    let mut all = Notes::default();
    all.extend(live.world.borrow().notes().clone());
    for notes in [notes(&live.resolver), notes(&live.vip), notes(&live.router)] {
        all.extend(notes);
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

/// The sandboxes.
pub fn sandboxes(snapshot: &Snapshot) -> Vec<SandboxRow> {
    snapshot.sandboxes().map(|it| sandbox(snapshot, it)).collect()
}

/// One sandbox.
pub fn sandbox(snapshot: &Snapshot, sandbox: &Sandbox) -> SandboxRow {
    SandboxRow {
        name: sandbox.name.clone(),
        networks: sandbox.networks.iter().map(|it| network_name(snapshot, &it.network)).collect(),
        addresses: sandbox.networks.iter().flat_map(|it| it.addresses.clone()).collect(),
        upstreams: sandbox.upstreams.iter().map(|it| it.address.to_string()).collect(),
        hostname: sandbox.hostname.clone(),
        netns: sandbox.netns.display().to_string(),
    }
}

/// That there is no such sandbox, and which there are.
pub fn no_such_sandbox(snapshot: &Snapshot, name: &str) -> String {
    let starting = format!("{name}.");
    let alike = snapshot.sandboxes().filter(|it| it.name.starts_with(&starting)).count();
    if alike > 1 {
        return format!("`{name}` could be any of {alike} sandboxes; give the whole name");
    }
    let task = |id: &TaskId| snapshot.task(id).map(|task| task.name.clone());
    if snapshot.tasks().any(|it| it.name == name || it.name.starts_with(&starting)) {
        return format!("`{name}` runs on another node, or on no user-defined network; ask there");
    }
    let known = snapshot
        .sandboxes()
        .flat_map(|it| std::iter::once(it.name.clone()).chain(it.tasks.iter().filter_map(task)));
    let mut known: Vec<String> = known.collect();
    known.sort();
    known.dedup();
    known.truncate(20);
    format!("there is no sandbox `{name}` on this node; there are: {}", known.join(", "))
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
    let row = |((service, network), vip): (&(registry::id::ServiceId, NetworkId), &IpAddr)| {
        let known = snapshot.service(service);
        let attachment = known.and_then(|it| it.networks.get(network));
        let fixed = attachment.is_some_and(|it| it.vip.is_some());
        let tasks = snapshot.tasks_of(service).filter(|task| task.serves());
        VipRow {
            service: known.map_or_else(|| service.to_string(), |it| it.name.clone()),
            network: network_name(snapshot, network),
            vip: *vip,
            origin: if fixed { "source" } else { "pool" },
            tasks: tasks
                .filter_map(|task| task.networks.get(network))
                .flat_map(|it| it.addresses.clone())
                .collect(),
        }
    };
    report.plan.addresses.iter().map(row).collect()
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

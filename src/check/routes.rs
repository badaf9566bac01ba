//! What the labels of all services together ask, judged by those who act on them: the router by its
//! own compile, balancing and health checks by their reader.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use registry::id::{NetworkId, ServiceId};
use registry::model::{
    Completeness, Endpoint, Mode, Network, Reach, Scope, Service, ServiceAttachment, ServiceKind,
    ServingState, Task,
};
use registry::note::Note;
use registry::{Draft, Notes, Snapshot, labels};
use router::compile::Vips;

use super::compose::Declared;
use super::{CheckReport, LiveService};
use crate::config::Config;

/// Adds to `report` what is wrong with the services that the files declare, each with its file.
/// They are taken to be created in their order, after those that are `live`.
pub(super) fn judge(
    declared: &[(String, Declared)],
    live: &[LiveService],
    report: &mut CheckReport,
) {
    let replaced: BTreeSet<&str> =
        declared.iter().map(|(_, it)| it.service.name.as_str()).collect();
    let staying = live
        .iter()
        .filter(|it| !replaced.contains(it.name.as_str()) && !replaced.contains(it.id.as_str()));
    let mut services: Vec<Service> = staying.map(running).collect();
    services.extend(declared.iter().map(|(_, it)| routable(&it.service)));
    let conflicts = compiled(services);
    let mut told = BTreeSet::new();
    for (file, declared) in declared {
        let subject = format!("service {}", declared.service.name);
        let (_, mut notes) = labels::routes(&declared.service);
        notes.extend(labels::balance(&declared.service).1);
        notes.extend(conflicts.clone());
        for note in declared.notes.iter().chain(&notes) {
            if (note.subject == subject || declared.notes.iter().any(|it| it == note))
                && told.insert(note.clone())
            {
                report.note(file, line(declared, note), note);
            }
        }
    }
}

/// Where a note's label stands; the service, where the label is not there.
fn line(declared: &Declared, note: &Note) -> usize {
    declared.lines.get(&note.place).copied().unwrap_or(declared.line)
}

/// What the router has to say, cluster by cluster, if these services are created in this order.
fn compiled(mut services: Vec<Service>) -> Notes {
    let mut notes = Notes::default();
    for (index, service) in services.iter_mut().enumerate() {
        service.created = u64::try_from(index).unwrap_or(u64::MAX);
        service.id = ServiceId::from(format!("{index}"));
    }
    let specs = services.iter().flat_map(|it| labels::routes(it).0);
    let clusters: BTreeSet<String> = specs.map(|it| it.cluster).collect();
    let (snapshot, vips) = world(services);
    let defaults = Config::default().router;
    for cluster in clusters {
        let config = router::config::Config { cluster, ..defaults.clone() };
        notes.extend(router::compile::compile(&snapshot, &vips, &config).1);
    }
    notes
}

/// A world in which each of `services` has one serving task, a VIP where it wants one, and networks
/// that can be reached: what remains wrong is wrong with the labels.
fn world(services: Vec<Service>) -> (Snapshot, Vips) {
    let mut draft = Draft::default();
    let mut vips = Vips::new();
    let mut networks = BTreeSet::new();
    for (index, service) in services.into_iter().enumerate() {
        networks.extend(service.networks.keys().cloned());
        let number = u32::try_from(index).unwrap_or(u32::MAX) & 0x003f_ffff;
        let address = |block: Ipv4Addr| IpAddr::V4(Ipv4Addr::from(block.to_bits() | number));
        for network in service.networks.keys().filter(|_| service.mode == Mode::Vip) {
            vips.insert((service.id.clone(), network.clone()), address(VIPS).into());
        }
        draft.tasks.push(task(&service, address(TASKS)));
        draft.services.push(service);
    }
    draft.networks = networks.into_iter().map(network).collect();
    (Snapshot::build(draft, 1), vips)
}

fn task(service: &Service, address: IpAddr) -> Task {
    let endpoint = Endpoint { addresses: vec![address], ..Endpoint::default() };
    let networks = service.networks.keys().map(|id| (id.clone(), endpoint.clone()));
    Task {
        id: service.id.as_str().into(),
        name: format!("{}.1", service.name),
        service: Some(service.id.clone()),
        node: None,
        networks: networks.collect(),
        publishes: None,
        weight: 1,
        state: ServingState::Serving,
        reason: String::new(),
    }
}

fn network(id: NetworkId) -> Network {
    Network {
        name: id.as_str().to_owned(),
        id,
        scope: Scope::Local,
        driver: String::new(),
        internal: false,
        ingress: false,
        subnets: Vec::new(),
        gateways: Vec::new(),
        labels: BTreeMap::new(),
        names: Completeness::Complete,
        reach: Reach::Host,
    }
}

fn running(live: &LiveService) -> Service {
    let networks = live.networks.iter();
    Service {
        id: live.id.as_str().into(),
        name: live.name.clone(),
        kind: if live.id.contains('/') { ServiceKind::Compose } else { ServiceKind::Swarm },
        stack: live.stack.clone(),
        mode: Mode::Vip,
        networks: networks.map(|it| (it.as_str().into(), ServiceAttachment::default())).collect(),
        ports: Vec::new(),
        labels: live.labels.clone().unwrap_or_default(),
        created: 0,
    }
}

/// The service with readable ports: a host that is taken is told beside a port that is wrong, not
/// only after that was mended.
fn routable(service: &Service) -> Service {
    const HOSTS: &str = "com.docker.lb.hosts";
    const PORT: &str = "com.docker.lb.port";
    let group = |label: &str, prefix: &str| {
        label.strip_prefix(prefix).is_some_and(|it| it.is_empty() || it.starts_with('.'))
    };
    let mut service = service.clone();
    for (label, value) in &mut service.labels {
        let number = value.trim().parse().unwrap_or(0u16);
        if group(label, PORT) && number == 0 {
            "1".clone_into(value);
        }
    }
    if service.labels.keys().any(|it| group(it, HOSTS)) {
        service.labels.entry(PORT.to_owned()).or_insert_with(|| "1".to_owned());
    }
    service
}

/// Made-up addresses of tasks (RFC 6598) and of VIPs; nobody is asked there.
const TASKS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const VIPS: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 0);

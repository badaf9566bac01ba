//! What a snapshot asks of the router: labels in, route table out. Pure: no clock, no I/O.
//!
//! Total: a service that asks for something impossible gets a note and, where its hosts are known,
//! a route that answers 503 with the reason; every other service is served as if it were not there.
//! The same snapshot and VIPs give the same table, in whatever order the world was found.

mod settle;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use registry::Notes;
use registry::id::{NetworkId, ServiceId};
use registry::labels;
use registry::model::{Mode, Network, Reach, Service, Task};
use registry::route_spec::{BackendMode, RouteSpec};
use registry::{Snapshot, VipPair};

use crate::config::Config;
use crate::table::{Backend, Claim, Host, RouteTable, Whom};

/// The virtual addresses that the VIP manager has given out.
pub type Vips = BTreeMap<(ServiceId, NetworkId), VipPair>;

/// The routes of `config.cluster`, with a note on each service that asks for something impossible.
pub fn compile(snapshot: &Snapshot, vips: &Vips, config: &Config) -> (RouteTable, Notes) {
    let mut notes = Notes::default();
    let mut offers: BTreeMap<(Host, Arc<str>), Vec<Arc<Offer<'_>>>> = BTreeMap::new();
    for service in by_age(snapshot) {
        let (specs, said) = labels::routes(service);
        notes.extend(said);
        for spec in specs.into_iter().filter(|spec| spec.cluster == config.cluster) {
            let offer = Arc::new(offer(snapshot, vips, service, &spec, &mut notes));
            let root: Arc<str> = spec.context_root.into();
            for host in spec.hosts {
                let key = (Host::of(&host), Arc::clone(&root));
                offers.entry(key).or_default().push(Arc::clone(&offer));
            }
        }
    }
    let settled = offers
        .into_iter()
        .filter_map(|((host, root), offers)| settle::settle(host, root, &offers, &mut notes));
    let routes = settled.collect();
    (RouteTable::new(routes), notes)
}

/// What one label group of one service brings to each of its hosts.
struct Offer<'a> {
    service: &'a Service,
    claim: Claim,
    rewrite: bool,
    /// Who can be asked, or why there is nobody.
    backends: Result<Arc<[Backend]>, Arc<str>>,
}

/// The services in the order in which they may claim: the oldest first, then by id.
fn by_age(snapshot: &Snapshot) -> Vec<&Service> {
    let mut services: Vec<&Service> = snapshot.services().collect();
    services.sort_by_key(|service| (service.created, service.id.clone()));
    services
}

fn offer<'a>(
    snapshot: &Snapshot,
    vips: &Vips,
    service: &'a Service,
    spec: &RouteSpec,
    notes: &mut Notes,
) -> Offer<'a> {
    let claim = Claim {
        service: service.id.clone(),
        name: service.name.as_str().into(),
        group: spec.group.as_str().into(),
    };
    let backends = network(snapshot, service, spec, notes)
        .and_then(|network| reachable(network, service, spec, notes))
        .and_then(|network| {
            let found = match spec.backend_mode {
                BackendMode::Vip => vip(vips, service, network, spec, notes),
                BackendMode::Task => None,
            };
            let found =
                found.map_or_else(|| tasks(snapshot, service, network, spec), |it| vec![it]);
            if found.is_empty() {
                return Err(format!("no serving task of service {}", service.name).into());
            }
            Ok(found.into())
        });
    Offer { service, claim, rewrite: spec.rewrite, backends }
}

/// The network on which the tasks of `service` are reached, or what to tell clients instead.
fn network<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    spec: &RouteSpec,
    notes: &mut Notes,
) -> Result<&'a Network, Arc<str>> {
    let networks: Vec<&Network> = service
        .networks
        .keys()
        .filter_map(|id| snapshot.network(id))
        .filter(|network| !network.ingress)
        .collect();
    let wanted = spec.network_names(service);
    let named = wanted.iter().find_map(|name| networks.iter().find(|it| it.name == *name));
    let place = label("network", &spec.group);
    let subject = format!("service {}", service.name);
    match (named, networks.as_slice(), spec.network.as_deref()) {
        (Some(network), _, _) | (None, [network], None) => Ok(network),
        (None, [], _) => {
            notes.error(
                subject,
                place,
                "the service is on no network on which its tasks could be reached",
                "attach it to a network",
            );
            Err(format!("service {} is on no network", service.name).into())
        }
        (None, several, None) => {
            notes.error(
                subject,
                place,
                format!("the service is on several networks ({})", names(several)),
                format!("add the label `{}` with one of them", label("network", &spec.group)),
            );
            Err(format!("service {} does not say on which network", service.name).into())
        }
        (None, others, Some(name)) => {
            notes.error(
                subject,
                place,
                format!("the service is not on network `{name}` but on {}", names(others)),
                "correct the label or attach the service to that network",
            );
            Err(format!("service {} is not on the network it names", service.name).into())
        }
    }
}

/// Refuses networks that no connection of ours can enter.
fn reachable<'a>(
    network: &'a Network,
    service: &Service,
    spec: &RouteSpec,
    notes: &mut Notes,
) -> Result<&'a Network, Arc<str>> {
    match network.reach {
        Reach::Host | Reach::Netns(_) => Ok(network),
        Reach::Nowhere => {
            notes.error(
                format!("service {}", service.name),
                label("network", &spec.group),
                format!("this node is not on network `{}`", network.name),
                "run a task on that network on this node, or send the requests to a node that has one",
            );
            let reason = format!("this node is not on network {}", network.name);
            Err(format!("service {}: {reason}", service.name).into())
        }
    }
}

/// The VIP as the only backend; `None` where there is none, and the tasks are used instead.
fn vip(
    vips: &Vips,
    service: &Service,
    network: &Network,
    spec: &RouteSpec,
    notes: &mut Notes,
) -> Option<Backend> {
    let fixed = service.networks.get(&network.id).and_then(|attachment| attachment.vip);
    let given = || vips.get(&(service.id.clone(), network.id.clone()))?.first();
    let address = fixed.or_else(given);
    let lacking = match service.mode {
        Mode::DnsRr => Some("a service in endpoint mode dnsrr has no VIP"),
        Mode::Vip if address.is_none() => Some("the service has no VIP on that network yet"),
        // The VIP manager balances in namespaces, never in the host's own.
        Mode::Vip if network.reach == Reach::Host => Some("VIPs do not answer on the host itself"),
        Mode::Vip => None,
    };
    if let Some(lacking) = lacking {
        notes.warning(
            format!("service {}", service.name),
            label("backend_mode", &spec.group),
            format!("{lacking}; requests go to its tasks instead"),
            "leave the label out, or use endpoint mode vip on an overlay network",
        );
        return None;
    }
    Some(Backend {
        address: SocketAddr::new(address?, spec.port),
        reach: network.reach.clone(),
        whom: Whom::Vip,
        service: service.name.as_str().into(),
        network: network.name.as_str().into(),
        weight: 1,
    })
}

/// The serving tasks that have an address on `network`.
fn tasks(
    snapshot: &Snapshot,
    service: &Service,
    network: &Network,
    spec: &RouteSpec,
) -> Vec<Backend> {
    let name: Arc<str> = service.name.as_str().into();
    let on: Arc<str> = network.name.as_str().into();
    let address = |task: &Task| {
        let addresses = &task.networks.get(&network.id)?.addresses;
        addresses.iter().find(|it| it.is_ipv4()).or_else(|| addresses.first()).copied()
    };
    snapshot
        .tasks_of(&service.id)
        .filter(|task| task.serves())
        .filter_map(|task| {
            Some(Backend {
                address: SocketAddr::new(address(task)?, spec.port),
                reach: network.reach.clone(),
                whom: Whom::Task(task.name.as_str().into()),
                service: Arc::clone(&name),
                network: Arc::clone(&on),
                weight: task.weight,
            })
        })
        .collect()
}

/// The label of that name in that group.
fn label(name: &str, group: &str) -> String {
    match group {
        "" => format!("com.docker.lb.{name}"),
        group => format!("com.docker.lb.{name}.{group}"),
    }
}

fn names(networks: &[&Network]) -> String {
    let names: Vec<&str> = networks.iter().map(|network| network.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;

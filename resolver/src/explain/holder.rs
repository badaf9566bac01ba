//! Who holds a name or an address on one network, and who would if he served.
//!
//! Always true here: the names are those that compiling the network gives ([`mod@crate::compile`]),
//! and who is named first is who comes first there.

use std::net::IpAddr;

use registry::Snapshot;
use registry::model::{Mode, Network, Service, ServiceKind, ServingState, Task};

use super::listed;
use crate::compile::{has_names, service_names};
use crate::name::{self, Name};
use crate::plan::Zone;

/// Who answers for `key` on `network`.
pub(super) fn holders(snapshot: &Snapshot, network: &Network, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    let services: Vec<String> = services(snapshot, network, key)
        .map(|it| {
            let names = it.networks.get(&network.id).map(|at| service_names(it, at));
            let own = names.is_some_and(|it| it.contains(key));
            let (all, serving) = (if own { "" } else { "the tasks of " }, serving(snapshot, it));
            format!("{all}service {} ({serving})", it.name)
        })
        .collect();
    if !services.is_empty() {
        found.push(listed(services, " and "));
    }
    let containers: Vec<String> = tasks_named(snapshot, network, key)
        .filter_map(|it| {
            let answered = has_names(snapshot, it);
            // Its own name is known all the same, unless it is gone.
            let known = it.state != ServingState::Stopped && name::key(&it.name) == key;
            let why = if answered { "" } else { ", which does not serve" };
            (answered || known).then(|| format!("container {}{why}", it.name))
        })
        .collect();
    if !containers.is_empty() {
        found.push(listed(containers, " and "));
    }
    found
}

/// The services that answer for `key`, or for `tasks.` before it, on `network`.
pub(super) fn services<'a>(
    snapshot: &'a Snapshot,
    network: &'a Network,
    key: &'a str,
) -> impl Iterator<Item = &'a Service> {
    let bare = key.strip_prefix("tasks.");
    snapshot.services_on(&network.id).filter(move |service| {
        let names = service.networks.get(&network.id).map(|it| service_names(service, it));
        names.is_some_and(|it| it.contains(key) || bare.is_some_and(|bare| it.contains(bare)))
    })
}

/// Who has `address` on `network`.
pub(super) fn owners(
    snapshot: &Snapshot,
    network: &Network,
    zone: &Zone,
    address: IpAddr,
) -> Vec<String> {
    let is_there = |it: &&Task| {
        let there = it.networks.get(&network.id);
        it.state != ServingState::Stopped && there.is_some_and(|it| it.addresses.contains(&address))
    };
    let mut services = snapshot.services_on(&network.id);
    let service = services.find(|it| vip(snapshot, network, zone, it) == Some(address));
    let mut found: Vec<String> =
        service.into_iter().map(|it| format!("the VIP of service {}", it.name)).collect();
    let tasks = snapshot.tasks_on(&network.id).filter(is_there);
    let tasks: Vec<String> = tasks.map(|it| format!("container {}", it.name)).collect();
    if !tasks.is_empty() {
        found.push(listed(tasks, " and "));
    }
    found
}

/// The VIP of `service` on `network`: what its source fixed, or of its name's addresses the one
/// that is called as it is, and is not of a container of the same name.
fn vip(snapshot: &Snapshot, network: &Network, zone: &Zone, service: &Service) -> Option<IpAddr> {
    let attachment = service.networks.get(&network.id).filter(|_| service.mode == Mode::Vip)?;
    if attachment.vip.is_some() {
        return attachment.vip;
    }
    let key = name::key(&service.name);
    let full = Name::from_text(&format!("{}.{}", service.name, network.name)).ok()?;
    let of_namesake = |address: &IpAddr| {
        snapshot
            .tasks_on(&network.id)
            .filter(|it| name::key(&it.name) == key)
            .any(|it| it.networks.get(&network.id).is_some_and(|it| it.addresses.contains(address)))
    };
    let called = |it: &IpAddr| zone.reverse.get(it).is_some_and(|it| it.name == full);
    let addresses = &zone.names.get(&key)?.addresses;
    addresses.iter().copied().find(|it| called(it) && !of_namesake(it))
}

fn serving(snapshot: &Snapshot, service: &Service) -> String {
    let all = snapshot.tasks_of(&service.id).count();
    let serving = snapshot.tasks_of(&service.id).filter(|it| it.serves()).count();
    format!("mode {}, {serving} of {all} tasks serve", service.mode)
}

/// The ports that SRV tells of, by name where they have one.
pub(super) fn ports(service: &Service) -> String {
    let port = |it: &registry::model::PublishedPort| {
        let name = it.name.as_ref().map(|it| format!("{it} ")).unwrap_or_default();
        format!("{name}{}/{}", it.target, it.protocol)
    };
    match service.ports.as_slice() {
        [] => "no published port".to_owned(),
        some => format!("ports {}", listed(some.iter().map(port), ", ")),
    }
}

/// Tasks on `network` that have the name `key` for themselves, whatever their state.
fn tasks_named<'a>(
    snapshot: &'a Snapshot,
    network: &'a Network,
    key: &'a str,
) -> impl Iterator<Item = &'a Task> {
    snapshot.tasks_on(&network.id).filter(move |task| {
        let other_names = task.networks.get(&network.id).map(|it| &it.names);
        let named = name::key(&task.name) == key
            || other_names.is_some_and(|it| it.iter().any(|it| name::key(it) == key));
        let own = task.service.as_ref().and_then(|id| snapshot.service(id));
        let attachment = own.and_then(|it| Some((it, it.networks.get(&network.id)?)));
        named && !attachment.is_some_and(|(it, at)| service_names(it, at).contains(key))
    })
}

/// The name is known here, and nobody can answer for it: who could, and why not.
pub(super) fn idle(snapshot: &Snapshot, network: &Network, zone: &Zone, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    for service in services(snapshot, network, key) {
        let on_it =
            |it: &Task| it.networks.get(&network.id).is_some_and(|it| !it.addresses.is_empty());
        if snapshot.tasks_of(&service.id).any(|it| it.serves() && on_it(it)) {
            continue;
        }
        let why = |it: &Task| {
            if it.serves() {
                format!("{} serves, and has no address there", it.name)
            } else {
                state(it)
            }
        };
        let serves = snapshot.tasks_of(&service.id).any(Task::serves);
        let place = if serves { format!(" on `{}`", network.name) } else { String::new() };
        let tasks = listed(snapshot.tasks_of(&service.id).map(why), ", ");
        let tasks = if tasks.is_empty() { "it has no task".to_owned() } else { tasks };
        let vip = vip(snapshot, network, zone, service).filter(|_| !key.starts_with("tasks."));
        let vip = if vip.is_some() { "; nobody answers on its VIP" } else { "" };
        found.push(format!("service {} has no serving task{place}: {tasks}{vip}", service.name));
    }
    let resting = tasks_named(snapshot, network, key).filter(|it| !has_names(snapshot, it));
    let until = |it: &Task| {
        let kind = it.service.as_ref().and_then(|id| snapshot.service(id)).map(|it| it.kind);
        match kind {
            Some(ServiceKind::Swarm | ServiceKind::World) => {
                "its names are answered while it serves"
            }
            Some(ServiceKind::Compose) | None => "it has its names while it runs",
        }
    };
    found.extend(resting.take(super::LISTED).map(|it| format!("{}; {}", state(it), until(it))));
    found
}

/// Why `task` gets no new connections.
fn state(task: &Task) -> String {
    let because =
        if task.reason.is_empty() { String::new() } else { format!(" ({})", task.reason) };
    if task.state == ServingState::Serving && task.weight == 0 {
        return format!("{} is taken out (weight 0)", task.name);
    }
    format!("{} is {}{because}", task.name, task.state)
}

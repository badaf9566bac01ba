//! What an address is, seen from a sandbox. Pure, but for this machine's own addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::netns::Netns;
use kernel::route;
use registry::Snapshot;
use registry::id::{SandboxId, ServiceId};
use registry::model::{Network, Protocol, Service, ServingState, Task};

use super::{MOST_TASKS, Target, listed};
use crate::compile::host;
use crate::mesh;
use crate::mesh::plan::{Port, Published};
use crate::plan::{Balance, Plan};

/// What an address is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// The VIP of a service on a network of the sandbox.
    Vip { service: &'a Service, network: &'a Network, balance: &'a Balance },
    /// A VIP that this sandbox has no table for: it is on none of the service's networks.
    Foreign { service: &'a Service, network: &'a Network },
    /// A task's own address.
    Task { task: &'a Task, network: &'a Network, foreign: bool },
    /// An address that was a service's VIP until lately.
    Resting { service: &'a str, network: &'a str },
    /// A published port of a node.
    Published { published: &'a Published, port: Port, node: &'a str, here: bool },
    /// Nobody's.
    Nobody,
}

/// What `address` is for `sandbox`.
pub(super) fn subject<'a>(
    snapshot: &'a Snapshot,
    plan: &'a Plan,
    sandbox: &SandboxId,
    address: IpAddr,
) -> Subject<'a> {
    let on: Vec<_> = if *sandbox == host::host() {
        host::networks(snapshot).into_iter().map(|it| &it.id).collect()
    } else {
        let found = snapshot.sandbox(sandbox).into_iter();
        found.flat_map(|it| it.networks.iter().map(|it| &it.network)).collect()
    };
    let balances = plan.sandboxes.get(sandbox).map(|it| &it.balances);
    let balance = balances.and_then(|it| it.get_key_value(&address));
    let holders = plan.addresses.iter().filter(|(_, vips)| vips.contains(address));
    let mut foreign = None;
    for ((service, network), _) in holders {
        let found = snapshot.service(service).zip(snapshot.network(network));
        let Some((service, network)) = found else { continue };
        match balance {
            Some((_, balance)) if on.contains(&&network.id) => {
                return Subject::Vip { service, network, balance };
            }
            Some(_) | None => foreign = Some(Subject::Foreign { service, network }),
        }
    }
    let held = |task: &'a Task| {
        let mut places = task.networks.iter();
        places.find(|(_, it)| it.addresses.contains(&address)).map(|(id, _)| (task, id))
    };
    let living = snapshot.tasks().filter(|it| it.state != ServingState::Stopped);
    let mut holders: Vec<_> = living.filter_map(held).collect();
    // Networks may have the same subnet: the sandbox's own comes first.
    holders.sort_by_key(|(_, network)| !on.contains(network));
    let task = holders.first().and_then(|(task, network)| {
        let network = snapshot.network(network)?;
        Some(Subject::Task { task, network, foreign: !on.contains(&&network.id) })
    });
    foreign.or(task).or_else(|| resting(plan, address)).unwrap_or(Subject::Nobody)
}

/// The port of a node that `target` is, if it is published. `own`: this node's addresses, of which
/// the source may know one.
pub(super) fn published<'a>(
    snapshot: &'a Snapshot,
    mesh: &'a mesh::Plan,
    target: Target,
    own: &BTreeSet<IpAddr>,
) -> Option<Subject<'a>> {
    let here = own.contains(&target.address);
    let node = snapshot.nodes().find(|it| it.address == Some(target.address));
    if !here && node.is_none() {
        return None;
    }
    let is_meant = |port: &Port| {
        Some(port.number) == target.port && target.protocol.is_none_or(|it| it == port.protocol)
    };
    let (port, published) = mesh.ports().find(|(port, _)| is_meant(port))?;
    let node = if here { "this node" } else { node.map_or("", |it| &it.name) };
    Some(Subject::Published { published, port: *port, node, here })
}

/// This machine's own addresses, as far as they can be seen.
pub(super) fn own_addresses() -> BTreeSet<IpAddr> {
    let seen = Netns::this().ok().and_then(|it| route::addresses(&it).ok());
    seen.into_iter().flatten().map(|(_, it)| it.addr()).collect()
}

fn resting(plan: &Plan, address: IpAddr) -> Option<Subject<'_>> {
    plan.leases.blocks.values().find_map(|block| {
        let mut leases = block.leases.iter();
        let (_, lease) = leases.find(|(it, _)| **it == address)?;
        let (service, network) = (lease.service.name.as_str(), block.network.name.as_str());
        lease.released.map(|_| Subject::Resting { service, network })
    })
}

impl Subject<'_> {
    /// The service meant, where there is one.
    pub(super) fn service(&self) -> Option<&ServiceId> {
        match self {
            Self::Vip { service, .. } | Self::Foreign { service, .. } => Some(&service.id),
            Self::Task { task, .. } => task.service.as_ref(),
            Self::Published { .. } | Self::Resting { .. } | Self::Nobody => None,
        }
    }

    /// Whether the port is known to be one of that protocol.
    pub(super) fn knows(&self, port: u16, protocol: Protocol) -> bool {
        match self {
            Self::Vip { balance, .. } => balance.ports.contains(&(port, protocol)),
            Self::Published { port: there, .. } => {
                (there.number, there.protocol) == (port, protocol)
            }
            Self::Foreign { .. } | Self::Task { .. } | Self::Resting { .. } | Self::Nobody => false,
        }
    }

    pub(super) fn in_words(&self, snapshot: &Snapshot) -> String {
        match self {
            Self::Vip { service, network, .. } => {
                let (all, serving) = count(snapshot, service);
                let tasks = if all == 1 { "task" } else { "tasks" };
                format!(
                    "the VIP of {}.{}, {serving} of {all} {tasks} serving",
                    service.name, network.name
                )
            }
            Self::Foreign { service, network } => format!(
                "the VIP of {}.{}, and this sandbox is not on {}",
                service.name, network.name, network.name
            ),
            Self::Task { task, network, foreign } => {
                let reach = if *foreign { ", which this sandbox is not on" } else { "" };
                let (name, network) = (&task.name, &network.name);
                format!("task {name} itself on {network}{reach}: no VIP, no balancing")
            }
            Self::Resting { service, network } => {
                format!("no VIP now: it was {service}'s on {network} and rests")
            }
            Self::Published { published, port, node, .. } => {
                let (alive, resting) = (published.alive.len(), published.resting.len());
                let serving = alive.saturating_sub(resting);
                let tasks = if alive == 1 { "task" } else { "tasks" };
                let service = &published.service;
                format!(
                    "port {port} of {node}, published by {service}, {serving} of {alive} {tasks} \
                     serving"
                )
            }
            Self::Nobody => "nobody's that portolan knows".to_owned(),
        }
    }

    /// The tasks behind it, serving ones first.
    pub(super) fn tasks(&self, snapshot: &Snapshot) -> Vec<String> {
        let (service, network) = match self {
            Self::Vip { service, network, .. } | Self::Foreign { service, network } => {
                (service, network)
            }
            Self::Task { task, network, .. } => return vec![line(task, network)],
            Self::Published { published, .. } => return behind(snapshot, published),
            Self::Resting { .. } | Self::Nobody => return Vec::new(),
        };
        let mut tasks: Vec<_> = snapshot
            .tasks_of(&service.id)
            .filter(|it| it.state != ServingState::Stopped && it.networks.contains_key(&network.id))
            .collect();
        tasks.sort_by_key(|it| (!it.serves(), &it.name));
        let more = tasks.len().saturating_sub(MOST_TASKS);
        let lines = tasks.iter().take(MOST_TASKS).map(|it| line(it, network));
        let more = (more > 0).then(|| format!("and {more} more tasks"));
        lines.chain(more).collect()
    }
}

/// The tasks behind a published port, with the port at which they are asked.
fn behind(snapshot: &Snapshot, published: &Published) -> Vec<String> {
    let mut lines = Vec::new();
    for address in &published.alive {
        let has = |it: &&Task| {
            let mut places = it.networks.values();
            it.state != ServingState::Stopped
                && places.any(|place| place.addresses.contains(&IpAddr::V4(*address)))
        };
        let task = snapshot.tasks().find(has);
        let name = task.map_or("a task that is not known", |it| &it.name);
        let state = task.map_or(ServingState::Starting, |it| it.state);
        let reason = task.map(|it| it.reason.as_str()).filter(|it| !it.is_empty());
        let reason = reason.map(|it| format!(" ({it})")).unwrap_or_default();
        lines.push(format!("{name} {address}:{}: {state}{reason}", published.target));
    }
    let more = lines.len().saturating_sub(MOST_TASKS);
    lines.truncate(MOST_TASKS);
    lines.extend((more > 0).then(|| format!("and {more} more tasks")));
    lines
}

/// Tasks that are not gone, and those that serve.
fn count(snapshot: &Snapshot, service: &Service) -> (usize, usize) {
    let tasks = snapshot.tasks_of(&service.id).filter(|it| it.state != ServingState::Stopped);
    tasks.fold((0, 0), |(all, serving), it| (all + 1, serving + usize::from(it.serves())))
}

/// `web.1 10.0.1.5: serving (running), weight 2`.
fn line(task: &Task, network: &Network) -> String {
    let addresses = task.networks.get(&network.id).map(|it| listed(it.addresses.iter(), 2));
    let Task { name, state, reason, weight, .. } = task;
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    let weight = if *weight == 1 { String::new() } else { format!(", weight {weight}") };
    format!("{name} {}: {state}{reason}{weight}", addresses.unwrap_or_default())
}

//! Which containers are sandboxes, and in which order each of them looks its networks up. Pure.
//!
//! Invariants
//! - *own*: the host's namespace is no sandbox, nor is one whose cookie is not known;
//! - *named*: only namespaces on a user-defined network are sandboxes: elsewhere the engine
//!   answers no names either;
//! - *one*: containers that share a namespace are one sandbox.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::id::{NetworkId, SandboxId, TaskId};
use crate::model::{Attachment, Sandbox, Scope};
use crate::source::docker::container::{Attached, Container};
use crate::source::docker::engine::{EngineNetwork, Role};
use crate::source::docker::view::View;
use crate::source::docker::{extra_hosts, upstream};

/// The sandboxes of this node. `task` says which task a container is.
pub(crate) fn sandboxes(view: &View, task: impl Fn(&Container) -> TaskId) -> Vec<Sandbox> {
    let mut sandboxes: BTreeMap<u64, Sandbox> = BTreeMap::new();
    for container in view.containers.values() {
        let Some(sandbox) = sandbox(view, container, task(container)) else { continue };
        match sandboxes.get_mut(&sandbox.0) {
            Some(known) => known.tasks.extend(sandbox.1.tasks),
            None => drop(sandboxes.insert(sandbox.0, sandbox.1)),
        }
    }
    for guest in view.containers.values().filter(|it| it.running) {
        let owner = guest.shares.as_deref().and_then(|it| view.container(it));
        let cookie = owner.and_then(|it| it.cookie);
        if let Some(sandbox) = cookie.and_then(|it| sandboxes.get_mut(&it)) {
            sandbox.tasks.push(task(guest));
        }
    }
    sandboxes.into_values().collect()
}

fn sandbox(view: &View, container: &Container, task: TaskId) -> Option<(u64, Sandbox)> {
    let cookie = container.cookie.filter(|it| Some(*it) != view.host_cookie)?;
    let netns = container.netns.clone()?;
    let networks = search_order(view, container);
    if networks.is_empty() {
        return None;
    }
    let sandbox = Sandbox {
        id: SandboxId::from(format!("cookie:{cookie}")),
        name: container.name.clone(),
        cookie: Some(cookie),
        netns,
        tasks: vec![task],
        networks,
        nameless: nameless(view, container),
        links: links(view, container),
        hosts: extra_hosts::hosts(view, container),
        trusts_ad: upstream::trusts_ad(&container.dns, &view.servers),
        hostname: container.hostname.clone(),
        upstreams: upstream::upstreams(&container.dns, &view.servers, view.engine.version),
        upstreams_from: upstream::origin(&container.dns, &view.servers),
    };
    Some((cookie, sandbox))
}

/// A container's networks in the order in which the engine searches them: by gateway priority,
/// `docker_gwbridge` last, internal ones after others, by families with a gateway, by name; and
/// then, on nodes of a Swarm, overlays before the ingress network before local ones. Sorting is
/// stable, which the engine's is not.
fn search_order(view: &View, container: &Container) -> Vec<Attachment> {
    let mut attached: Vec<_> =
        attached(view, container).filter(|(_, network)| !network.is_default_bridge).collect();
    attached.sort_by_key(|(it, network)| {
        let place = if view.engine.role == Role::Alone { 0 } else { swarm_place(network) };
        (
            place,
            Reverse(it.gateway_priority),
            network.name == GATEWAY_BRIDGE,
            network.internal,
            Reverse(it.gateways),
            network.name.clone(),
            network.id.clone(),
        )
    });
    attached
        .into_iter()
        .map(|(it, network)| Attachment {
            network: network.id.clone(),
            addresses: it.addresses.clone(),
        })
        .collect()
}

/// The default bridge, for a container that is on it: the engine finds no names there, but a
/// container that has a gateway there is not cut off, whatever its other networks are.
fn nameless(view: &View, container: &Container) -> Vec<NetworkId> {
    attached(view, container)
        .filter(|(_, network)| network.is_default_bridge)
        .map(|(_, network)| network.id.clone())
        .collect()
}

/// The networks that a container has an address on.
fn attached<'a>(
    view: &'a View,
    container: &'a Container,
) -> impl Iterator<Item = (&'a Attached, &'a EngineNetwork)> {
    let placed = container.attachments.iter().filter(|it| !it.addresses.is_empty());
    placed.filter_map(|it| Some((it, view.networks.get(&it.network_id())?)))
}

fn swarm_place(network: &EngineNetwork) -> u8 {
    match (network.scope, network.ingress) {
        (Scope::Swarm, false) => 0,
        (Scope::Swarm, true) => 1,
        (Scope::Local, _) => 2,
    }
}

/// Where a Swarm node's containers leave the Swarm.
const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// Its links: each alias means the addresses, on the network of the link, of whoever is called so
/// there (the engine looks the other's name up when it is asked), by id too.
fn links(view: &View, container: &Container) -> BTreeMap<String, Vec<IpAddr>> {
    let mut links: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for attached in &container.attachments {
        for (name, alias) in &attached.links {
            let name = name.trim_start_matches('/');
            let meant = links.entry(alias.to_ascii_lowercase()).or_default();
            if let Some(other) = view.container(name) {
                meant.extend(on(other, &attached.network).flat_map(|it| &it.addresses));
                continue;
            }
            let others = view.containers.values().flat_map(|it| on(it, &attached.network));
            let called =
                others.filter(|it| it.names.iter().any(|it| it.eq_ignore_ascii_case(name)));
            meant.extend(called.flat_map(|it| &it.addresses));
        }
    }
    links
}

fn on<'a>(container: &'a Container, network: &str) -> impl Iterator<Item = &'a Attached> {
    container.attachments.iter().filter(move |it| it.network == network)
}

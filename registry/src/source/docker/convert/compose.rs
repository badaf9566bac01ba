//! Services that are made of this node's plain containers: those of compose, those that share the
//! label `portolan.service`, and single ones with labels for the router. Pure.
//!
//! A service stays known while one of its containers exists, stopped or not; only containers that
//! are present are its tasks.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{NetworkId, ServiceId};
use crate::model::{Mode, PublishedPort, Service, ServiceAttachment, ServiceKind};
use crate::note::Notes;
use crate::source::docker::container::Container;
use crate::source::docker::convert::names;
use crate::source::docker::view::View;

/// The label that makes a plain container a task of a service.
const SERVICE: &str = "portolan.service";
/// The label that gives such a service a VIP.
const MODE: &str = "portolan.mode";
const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";
/// `docker compose run`: of the project, but none of the service's tasks.
const COMPOSE_ONE_OFF: &str = "com.docker.compose.oneoff";
/// Labels that ask the router for something.
const ROUTING: [&str; 2] = ["com.docker.lb.", "interlock."];

/// All groups, and who is in which.
pub(super) struct Groups<'a> {
    groups: BTreeMap<ServiceId, Group<'a>>,
    of: BTreeMap<&'a str, ServiceId>,
}

/// The containers of one service.
pub(super) struct Group<'a> {
    /// Its id.
    pub(super) id: ServiceId,
    name: String,
    stack: Option<String>,
    mode: Mode,
    aliases: BTreeMap<NetworkId, BTreeSet<String>>,
    containers: Vec<&'a Container>,
}

impl<'a> Groups<'a> {
    /// The group of a container.
    pub(super) fn of(&self, container: &Container) -> Option<&Group<'a>> {
        self.groups.get(self.of.get(container.id.as_str())?)
    }
}

impl Group<'_> {
    /// Whether the service is answered by an address of ours.
    pub(super) fn has_vip(&self) -> bool {
        self.mode == Mode::Vip
    }

    /// Whether the whole service is called that on a network.
    pub(super) fn is_called(&self, name: &str, network: &NetworkId) -> bool {
        self.name.eq_ignore_ascii_case(name)
            || self.aliases.get(network).is_some_and(|it| it.contains(name))
    }
}

/// Whether this container belongs to a service of this kind, so that it is remembered while it
/// is stopped.
pub(crate) fn belongs(container: &Container) -> bool {
    key(container).is_some()
}

/// Finds the groups.
pub(super) fn groups<'a>(view: &'a View, notes: &mut Notes) -> Groups<'a> {
    let mut groups = Groups { groups: BTreeMap::new(), of: BTreeMap::new() };
    for container in view.containers.values() {
        let Some(Key { id, name, stack }) = key(container) else { continue };
        groups.of.insert(&container.id, id.clone());
        let group = groups.groups.entry(id.clone()).or_insert_with(|| Group {
            id,
            name,
            stack,
            mode: Mode::DnsRr,
            aliases: BTreeMap::new(),
            containers: Vec::new(),
        });
        group.containers.push(container);
    }
    for group in groups.groups.values_mut() {
        group.containers.sort_by_key(|it| (it.created, &it.id));
        group.mode = mode(group, notes);
        group.aliases = aliases(view, group);
    }
    groups
}

/// The services that the groups are.
pub(super) fn services(groups: &Groups<'_>) -> Vec<Service> {
    groups.groups.values().map(service).collect()
}

fn service(group: &Group<'_>) -> Service {
    let attachment =
        |aliases: &BTreeSet<String>| ServiceAttachment { vip: None, aliases: aliases.clone() };
    let ports: BTreeSet<&PublishedPort> =
        group.containers.iter().flat_map(|it| &it.ports).collect();
    Service {
        id: group.id.clone(),
        name: group.name.clone(),
        kind: ServiceKind::Compose,
        stack: group.stack.clone(),
        mode: group.mode,
        networks: group.aliases.iter().map(|(id, it)| (id.clone(), attachment(it))).collect(),
        ports: ports.into_iter().cloned().collect(),
        // The newest container says what the user wants now.
        labels: group.containers.last().map(|it| it.labels.clone()).unwrap_or_default(),
        created: group.containers.first().map(|it| it.created).unwrap_or_default(),
    }
}

struct Key {
    id: ServiceId,
    name: String,
    stack: Option<String>,
}

fn key(container: &Container) -> Option<Key> {
    if container.swarm_task().is_some() {
        return None;
    }
    let project = container.label(COMPOSE_PROJECT);
    let stack = project.map(str::to_owned);
    let one_off =
        container.label(COMPOSE_ONE_OFF).is_some_and(|it| it.eq_ignore_ascii_case("true"));
    let of_compose = container.label(COMPOSE_SERVICE).filter(|_| project.is_some() && !one_off);
    if let Some(name) = container.label(SERVICE).or(of_compose) {
        let id = project.map_or_else(|| name.to_owned(), |project| format!("{project}/{name}"));
        return Some(Key { id: ServiceId::from(id), name: name.to_owned(), stack });
    }
    let routed = container.labels.keys().any(|key| ROUTING.iter().any(|it| key.starts_with(it)));
    let id = ServiceId::from(format!("container:{}", container.name));
    routed.then(|| Key { id, name: container.name.clone(), stack })
}

fn mode(group: &Group<'_>, notes: &mut Notes) -> Mode {
    // The newest one decides, as for all labels.
    match group.containers.last().and_then(|it| it.label(MODE)) {
        Some("vip") => Mode::Vip,
        Some("dnsrr") | None => Mode::DnsRr,
        Some(other) => {
            let subject = format!("service {}", group.name);
            let wrong = format!("`{other}` is no mode, so dnsrr is used");
            notes.error(subject, MODE, wrong, "write `vip` or `dnsrr`");
            Mode::DnsRr
        }
    }
}

/// What the service is called on each of its networks besides its name: the aliases that all of
/// its containers there have, and that are no container's own name.
fn aliases(view: &View, group: &Group<'_>) -> BTreeMap<NetworkId, BTreeSet<String>> {
    let mut common: BTreeMap<NetworkId, BTreeSet<String>> = BTreeMap::new();
    for container in &group.containers {
        for place in &container.attachments {
            let Some(network) = view.networks.get(&place.network_id()) else { continue };
            let own = [container.name.as_str(), container.short_id(), &container.hostname];
            let mut names = names::of_container(network, container, place);
            names.retain(|it| !own.contains(&it.as_str()) && *it != group.name);
            common
                .entry(network.id.clone())
                .and_modify(|it| it.retain(|name| names.contains(name)))
                .or_insert(names);
        }
    }
    common
}

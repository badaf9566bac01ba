//! What the tables of a world file say of each other -> [`Draft`], with every contradiction
//! recorded where it stands.
//!
//! Ids are names here: a world file has one thing of each name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::once;
use super::read::{Per, Raw, RawNetwork, RawNode, RawSandbox, RawService, RawTask};
use crate::document::{Document, Located};
use crate::id::NetworkId;
use crate::model::{
    Attachment, Completeness, Endpoint, Mode, Network, Node, Origin, Sandbox, Scope, Service,
    ServiceAttachment, ServiceKind, Task,
};
use crate::nearest::nearest;
use crate::note::{Notes, shown};
use crate::snapshot::Draft;

/// Joins the tables; contradictions are recorded in `document`.
pub(super) fn link(document: &Document<'_>, raw: &Raw) -> Draft {
    let linker = Linker::new(document, raw);
    once::check(document, raw, &linker.home);
    if let Some(node) = &raw.this_node {
        linker.known(&linker.nodes, "node", node, "", "this_node");
    }
    Draft {
        networks: raw.networks.iter().map(network).collect(),
        services: raw.services.iter().map(|it| linker.service(it)).collect(),
        tasks: raw.tasks.iter().map(|it| linker.task(it)).collect(),
        sandboxes: raw.sandboxes.iter().map(|it| linker.sandbox(it)).collect(),
        nodes: raw.nodes.iter().map(node).collect(),
        this_node: raw.this_node.as_ref().map(|it| it.value.as_str().into()),
        notes: Notes::default(),
        unread: BTreeSet::new(),
    }
}

fn network(raw: &RawNetwork) -> Network {
    Network {
        id: raw.name.value.as_str().into(),
        name: raw.name.value.clone(),
        scope: Scope::Local,
        driver: raw.driver.clone(),
        internal: raw.internal,
        ingress: raw.ingress,
        subnets: raw.subnets.clone(),
        gateways: Vec::new(),
        labels: raw.labels.clone(),
        names: Completeness::Complete,
        reach: raw.reach.clone(),
    }
}

fn node(raw: &RawNode) -> Node {
    Node {
        id: raw.name.value.as_str().into(),
        name: raw.name.value.clone(),
        address: raw.address,
        state: raw.state.clone(),
        ingress: raw.ingress.into_iter().collect(),
    }
}

struct Linker<'r> {
    document: &'r Document<'r>,
    networks: BTreeMap<&'r str, &'r RawNetwork>,
    services: BTreeMap<&'r str, &'r RawService>,
    tasks: BTreeMap<&'r str, &'r RawTask>,
    nodes: BTreeMap<&'r str, &'r RawNode>,
    /// The sandbox that each task lives in.
    home: BTreeMap<&'r str, &'r RawSandbox>,
}

impl<'r> Linker<'r> {
    fn new(document: &'r Document<'_>, raw: &'r Raw) -> Self {
        let tasks = by_name(raw.tasks.iter().map(|it| (&it.name, it)));
        let homes = raw
            .sandboxes
            .iter()
            .flat_map(|it| tasks_of(it, &tasks).into_iter().map(move |task| (&task.name, it)));
        Self {
            document,
            networks: by_name(raw.networks.iter().map(|it| (&it.name, it))),
            services: by_name(raw.services.iter().map(|it| (&it.name, it))),
            nodes: by_name(raw.nodes.iter().map(|it| (&it.name, it))),
            home: by_name(homes),
            tasks,
        }
    }

    /// Whether `name` is one of `all`; says so where it is not.
    fn known<T>(
        &self,
        all: &BTreeMap<&str, T>,
        kind: &str,
        name: &Located<String>,
        subject: &str,
        place: &str,
    ) -> bool {
        let known = all.contains_key(name.value.as_str());
        if !known {
            let text = format!("there is no {kind} `{}`", shown(&name.value));
            let remedy = match nearest(&name.value, all.keys().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("add a `[[{kind}]]` of that name"),
            };
            self.document.fault(name.at, subject, place, text, remedy);
        }
        known
    }

    fn service(&self, raw: &RawService) -> Service {
        let subject = format!("service {}", shown(&raw.name.value));
        let mut networks: BTreeMap<NetworkId, ServiceAttachment> = BTreeMap::new();
        for name in &raw.networks {
            self.known(&self.networks, "network", name, &subject, "networks");
            let aliases = raw.aliases.iter().cloned().collect();
            let attachment = ServiceAttachment { vip: None, aliases };
            if networks.insert(name.value.as_str().into(), attachment).is_some() {
                let text = format!("names `{}` twice", shown(&name.value));
                self.document.fault(name.at, &subject, "networks", text, "leave one out");
            }
        }
        for (name, vip) in &raw.vips {
            if raw.mode == Mode::DnsRr {
                let remedy = "leave `vip` out, or write `mode = \"vip\"`";
                self.document.fault(name.at, &subject, "vip", "mode dnsrr has no VIP", remedy);
            } else if let Some(at) = self.attached(&mut networks, name, &subject, "vip") {
                at.vip = Some(vip.value);
            }
        }
        for (name, aliases) in &raw.aliases_on {
            if let Some(at) = self.attached(&mut networks, name, &subject, "aliases") {
                at.aliases.extend(aliases.iter().cloned());
            }
        }
        Service {
            id: raw.name.value.as_str().into(),
            name: raw.name.value.clone(),
            kind: ServiceKind::World,
            stack: raw.stack.clone(),
            mode: raw.mode,
            networks,
            ports: raw.ports.iter().map(|it| it.value.clone()).collect(),
            labels: raw.labels.clone(),
            created: raw.created,
        }
    }

    /// What a thing has on the network `name`; says so where it is not on it.
    fn attached<'n, T>(
        &self,
        networks: &'n mut BTreeMap<NetworkId, T>,
        name: &Located<String>,
        subject: &str,
        place: &str,
    ) -> Option<&'n mut T> {
        let found = networks.get_mut(&NetworkId::from(name.value.as_str()));
        if found.is_none() && self.known(&self.networks, "network", name, subject, place) {
            let name_ = shown(&name.value);
            let text = format!("is not on network `{name_}`");
            let remedy = format!("add `{name_}` to `networks`, or leave it out here");
            self.document.fault(name.at, subject, place, text, remedy);
        }
        found
    }

    fn task(&self, raw: &RawTask) -> Task {
        let subject = format!("task {}", shown(&raw.name.value));
        if let Some(name) = &raw.service {
            self.known(&self.services, "service", name, &subject, "service");
        }
        if let Some(name) = &raw.node {
            self.known(&self.nodes, "node", name, &subject, "node");
        }
        let service = raw.service.as_ref().and_then(|it| self.services.get(it.value.as_str()));
        let home = self.home.get(raw.name.value.as_str());
        let hostname = home.and_then(|it| it.hostname.clone());
        let names: BTreeSet<String> = raw.names.iter().cloned().chain(hostname).collect();
        let mut networks = BTreeMap::new();
        for (name, addresses) in &raw.addresses {
            if !self.known(&self.networks, "network", name, &subject, "addresses") {
                continue;
            }
            if let Some(service) = service.filter(|it| !names_network(&it.networks, name)) {
                self.not_shared(name, &subject, "service", &service.name.value);
            }
            if let Some(home) = home.filter(|it| !names_network(&it.networks, name)) {
                self.not_shared(name, &subject, "sandbox", &home.name.value);
            }
            let addresses = self.within(name, addresses, &subject);
            let endpoint = Endpoint { addresses, names: names.clone() };
            networks.insert(name.value.as_str().into(), endpoint);
        }
        Task {
            id: raw.name.value.as_str().into(),
            name: raw.name.value.clone(),
            service: raw.service.as_ref().map(|it| it.value.as_str().into()),
            node: raw.node.as_ref().map(|it| it.value.as_str().into()),
            networks,
            publishes: None,
            weight: raw.weight,
            state: raw.state,
            reason: raw.reason.clone(),
        }
    }

    fn not_shared(&self, network: &Located<String>, subject: &str, kind: &str, name: &str) {
        let (network_, name) = (shown(&network.value), shown(name));
        let text = format!("is on network `{network_}`, and its {kind} `{name}` is not");
        let remedy = format!("add `{network_}` to the {kind}'s `networks`");
        self.document.fault(network.at, subject, "addresses", text, remedy);
    }

    /// The addresses, after a look at whether they can be on that network.
    fn within(
        &self,
        network: &Located<String>,
        addresses: &[Located<IpAddr>],
        subject: &str,
    ) -> Vec<IpAddr> {
        let subnets = self.networks.get(network.value.as_str()).map(|it| it.subnets.as_slice());
        let subnets = subnets.unwrap_or_default();
        for address in addresses {
            let place = format!("addresses.{}", shown(&network.value));
            if !subnets.is_empty() && !subnets.iter().any(|it| it.contains(&address.value)) {
                let ranges: Vec<String> = subnets.iter().map(ToString::to_string).collect();
                let text = format!("`{}` is outside {}", address.value, ranges.join(", "));
                let remedy = "write an address of the network's own ranges";
                self.document.fault(address.at, subject, place, text, remedy);
            }
        }
        addresses.iter().map(|it| it.value).collect()
    }

    fn sandbox(&self, raw: &RawSandbox) -> Sandbox {
        let subject = format!("sandbox {}", shown(&raw.name.value));
        for name in raw.tasks.iter().flatten() {
            if !self.known(&self.tasks, "task", name, &subject, "tasks") {
                continue;
            }
            let home = self.home.get(name.value.as_str()).map(|it| it.name.value.as_str());
            if let Some(other) = home.filter(|it| *it != raw.name.value) {
                let text = format!("task `{}` lives in sandbox `{}`", name.value, shown(other));
                let remedy = "a task has one network namespace; leave one out";
                self.document.fault(name.at, &subject, "tasks", text, remedy);
            }
        }
        let tasks = tasks_of(raw, &self.tasks);
        let mut addresses: BTreeMap<NetworkId, Vec<IpAddr>> = BTreeMap::new();
        let mut networks = Vec::new();
        for name in &raw.networks {
            self.known(&self.networks, "network", name, &subject, "networks");
            let network = NetworkId::from(name.value.as_str());
            if addresses.insert(network.clone(), of_tasks(&tasks, name)).is_some() {
                let text = format!("names `{}` twice", shown(&name.value));
                self.document.fault(name.at, &subject, "networks", text, "leave one out");
            } else {
                networks.push(network);
            }
        }
        for (name, own) in &raw.addresses {
            if let Some(at) = self.attached(&mut addresses, name, &subject, "addresses") {
                *at = self.within(name, own, &subject);
            }
        }
        let mut attachment = |network: NetworkId| Attachment {
            addresses: addresses.remove(&network).unwrap_or_default(),
            network,
        };
        Sandbox {
            id: raw.name.value.as_str().into(),
            name: raw.name.value.clone(),
            cookie: None,
            netns: raw.netns.as_ref().map(|it| it.value.clone()).unwrap_or_default(),
            tasks: tasks.iter().map(|it| it.name.value.as_str().into()).collect(),
            networks: networks.into_iter().map(&mut attachment).collect(),
            nameless: Vec::new(),
            links: own_names(&raw.links),
            hosts: own_names(&raw.hosts),
            trusts_ad: false,
            hostname: raw.hostname.clone().unwrap_or_else(|| raw.name.value.clone()),
            upstreams: raw.upstreams.clone(),
            upstreams_from: if raw.upstreams.is_empty() { Origin::Host } else { Origin::Sandbox },
        }
    }
}

/// The first of each name; a second one is a mistake, and what it says is not judged.
fn by_name<'r, T>(
    named: impl Iterator<Item = (&'r Located<String>, &'r T)>,
) -> BTreeMap<&'r str, &'r T> {
    let mut first = BTreeMap::new();
    for (name, it) in named {
        first.entry(name.value.as_str()).or_insert(it);
    }
    first
}

/// The tasks that live in a sandbox: those it lists, else the one of its own name.
fn tasks_of<'r>(raw: &RawSandbox, tasks: &BTreeMap<&str, &'r RawTask>) -> Vec<&'r RawTask> {
    let names = match &raw.tasks {
        Some(names) => names.iter().map(|it| it.value.as_str()).collect(),
        None => vec![raw.name.value.as_str()],
    };
    names.into_iter().filter_map(|name| tasks.get(name).copied()).collect()
}

/// The addresses that `tasks` have on a network, each once.
fn of_tasks(tasks: &[&RawTask], network: &Located<String>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (name, addresses) in tasks.iter().flat_map(|it| &it.addresses) {
        let here = addresses.iter().filter(|_| name.value == network.value).map(|it| it.value);
        for address in here {
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

fn names_network(names: &[Located<String>], network: &Located<String>) -> bool {
    names.iter().any(|it| it.value == network.value)
}

fn own_names(raw: &Per<Vec<IpAddr>>) -> BTreeMap<String, Vec<IpAddr>> {
    raw.iter().map(|(name, addresses)| (name.value.to_lowercase(), addresses.clone())).collect()
}

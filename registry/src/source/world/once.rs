//! What only one thing of a world file may have: its name, its addresses, its namespace, a port of
//! every node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::read::{Raw, RawSandbox};
use crate::document::{At, Document, Located};
use crate::model::{Protocol, PublishMode, ServingState};
use crate::note::shown;

/// Records every second owner in `document`. `home` is the sandbox that each task lives in.
pub(super) fn check(document: &Document<'_>, raw: &Raw, home: &BTreeMap<&str, &RawSandbox>) {
    names(document, "network", raw.networks.iter().map(|it| &it.name));
    names(document, "service", raw.services.iter().map(|it| &it.name));
    names(document, "task", raw.tasks.iter().map(|it| &it.name));
    names(document, "sandbox", raw.sandboxes.iter().map(|it| &it.name));
    names(document, "node", raw.nodes.iter().map(|it| &it.name));
    ports(document, raw);
    addresses(document, raw, home);
    namespaces(document, raw);
}

/// DNS does not tell upper from lower case, so neither may names.
fn names<'r>(
    document: &Document<'_>,
    kind: &str,
    names: impl Iterator<Item = &'r Located<String>>,
) {
    let mut seen: BTreeMap<String, At> = BTreeMap::new();
    for name in names {
        let first = *seen.entry(name.value.to_ascii_lowercase()).or_insert(name.at);
        if first != name.at {
            let subject = format!("{kind} {}", shown(&name.value));
            let text = format!("line {} has a {kind} of this name already", document.line(first));
            document.fault(name.at, subject, "name", text, "give it another name");
        }
    }
}

/// A port that the mesh publishes is taken on every node.
fn ports(document: &Document<'_>, raw: &Raw) {
    let mut seen: BTreeMap<(u16, Protocol), (&str, At)> = BTreeMap::new();
    for service in &raw.services {
        for port in service.ports.iter().filter(|it| it.value.published > 0) {
            let (number, protocol) = (port.value.published, port.value.protocol);
            let this = (service.name.value.as_str(), port.at);
            let first = *seen.entry((number, protocol)).or_insert(this);
            if first != this && port.value.mode == PublishMode::Ingress {
                let (name, line) = (shown(first.0), document.line(first.1));
                let text =
                    format!("{number}/{protocol} is published by service `{name}` in line {line}");
                let subject = format!("service {}", shown(this.0));
                document.fault(port.at, subject, "ports", text, "publish another port");
            }
        }
    }
}

/// Somebody's claim to an address.
#[derive(Clone, Copy)]
struct Claim<'r> {
    network: &'r str,
    address: &'r Located<IpAddr>,
    kind: &'static str,
    name: &'r str,
    /// Claims of one home do not collide.
    home: (&'static str, &'r str),
}

/// Tasks of one sandbox share its addresses; a stopped task has given its own back.
fn addresses(document: &Document<'_>, raw: &Raw, home: &BTreeMap<&str, &RawSandbox>) {
    let mut claims = Vec::new();
    for service in &raw.services {
        let name = service.name.value.as_str();
        claims.extend(service.vips.iter().map(|(network, address)| Claim {
            network: &network.value,
            address,
            kind: "service",
            name,
            home: ("service", name),
        }));
    }
    for task in raw.tasks.iter().filter(|it| it.state != ServingState::Stopped) {
        let name = task.name.value.as_str();
        let home = home.get(name).map_or(("task", name), |it| ("sandbox", &it.name.value));
        for (network, addresses) in &task.addresses {
            let network = network.value.as_str();
            claims.extend(addresses.iter().map(|address| Claim {
                network,
                address,
                kind: "task",
                name,
                home,
            }));
        }
    }
    let mut seen: BTreeMap<(&str, IpAddr), Claim<'_>> = BTreeMap::new();
    for claim in claims {
        let first = *seen.entry((claim.network, claim.address.value)).or_insert(claim);
        if first.home != claim.home {
            taken(document, &claim, &first);
        }
    }
}

fn taken(document: &Document<'_>, claim: &Claim<'_>, first: &Claim<'_>) {
    let (kind, name) = (first.kind, shown(first.name));
    let line = document.line(first.address.at);
    let text = format!("`{}` belongs to {kind} `{name}` in line {line}", claim.address.value);
    let key = if claim.kind == "service" { "vip" } else { "addresses" };
    let place = format!("{key}.{}", shown(claim.network));
    let subject = format!("{} {}", claim.kind, shown(claim.name));
    document.fault(claim.address.at, subject, place, text, "write another address");
}

/// One namespace is one sandbox.
fn namespaces(document: &Document<'_>, raw: &Raw) {
    let mut seen = BTreeMap::new();
    for sandbox in &raw.sandboxes {
        let Some(netns) = &sandbox.netns else { continue };
        let Some(first) = seen.insert(netns.value.as_path(), sandbox) else { continue };
        let name = shown(&first.name.value);
        let subject = format!("sandbox {}", shown(&sandbox.name.value));
        let text = format!("is the namespace of sandbox `{name}`");
        let remedy = format!("list the tasks of both in `tasks` of `{name}`");
        document.fault(netns.at, subject, "netns", text, remedy);
    }
}

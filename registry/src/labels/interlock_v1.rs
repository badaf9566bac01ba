//! `interlock.*` on containers -> [`RouteSpec`], as Interlock 1 read them.
//!
//! Facts kept from v1: only containers with `interlock.hostname` are routed; the name is
//! `hostname.domain`, or `domain` alone where the host name is empty or equal to it, with `local`
//! for a missing domain; switches count by their presence, whatever their value; without a port,
//! the first published one is meant.

use super::keys::{self, V1};
use super::values::{self, Bad};
use super::{MAX_HOSTS, subject};
use crate::model::Service;
use crate::nearest::nearest;
use crate::note::{Notes, shown};
use crate::route_spec::{BackendMode, RouteSpec};

/// The route of `service`, where its v1 labels ask for one that can be read.
pub(super) fn read(service: &Service, notes: &mut Notes) -> Option<RouteSpec> {
    let routed = labels(service).any(|(_, name, _)| name == "hostname");
    let mut needless = None;
    for (label, name, value) in labels(service) {
        let base = base(name);
        match keys::find(V1, base) {
            Some(known) => {
                known.warn_without_effect(service, label, value, notes);
                if !MARKS.contains(&base) {
                    needless = needless.or(Some(label));
                }
            }
            None => unknown(service, label, base, notes),
        }
    }
    if !routed {
        if let Some(label) = needless {
            let text = "changes nothing without `interlock.hostname`";
            notes.warning(subject(service), shown(label), text, "set `interlock.hostname`");
        }
        return None;
    }
    let hosts = hosts(service, notes);
    let port = port(service, notes);
    let context_root = one(service, "context_root", values::path, notes);
    if hosts.is_empty() {
        return None;
    }
    Some(RouteSpec {
        group: String::new(),
        hosts,
        port: port?,
        network: one(service, "network", values::name, notes).ok().flatten(),
        context_root: context_root.ok()?.unwrap_or_default(),
        rewrite: value(service, "context_root_rewrite").is_some(),
        backend_mode: BackendMode::Task,
        cluster: String::new(),
    })
}

/// Says once that the v1 labels of `service` do not count, and why.
pub(super) fn ignored(service: &Service, container: bool, notes: &mut Notes) {
    let routing = labels(service).find(|(_, name, _)| !MARKS.contains(&base(name)));
    let Some((label, _, _)) = routing else { return };
    let text = if container {
        "does not count beside labels of `com.docker.lb.`"
    } else {
        "counts on containers only, not on services"
    };
    let remedy = format!("write labels of `{}`", keys::LB);
    notes.warning(subject(service), shown(label), text, remedy);
}

/// Labels of v1 that say what a container is, and ask for no route.
const MARKS: [&str; 2] = ["app", "ext.name"];

/// Each v1 label: whole, without prefix, value.
fn labels(service: &Service) -> impl Iterator<Item = (&str, &str, &str)> {
    service.labels.iter().filter_map(|(label, value)| {
        Some((label.as_str(), label.strip_prefix(V1)?, value.as_str()))
    })
}

/// The name without its number: `alias_domain.2` is one of several `alias_domain`.
fn base(name: &str) -> &str {
    match name.split_once('.') {
        Some((base @ ("alias_domain" | "websocket_endpoint" | "backend_option"), _)) => base,
        _ => name,
    }
}

fn value<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    service.labels.get(&format!("{V1}{name}")).map(String::as_str)
}

/// One value; `Err` where a note says that it cannot be read.
fn one<T>(
    service: &Service,
    name: &str,
    read: fn(&str) -> Result<T, Bad>,
    notes: &mut Notes,
) -> Result<Option<T>, ()> {
    let Some(text) = value(service, name) else { return Ok(None) };
    read(text).map(Some).map_err(|bad| unreadable(service, name, text, bad, notes))
}

fn hosts(service: &Service, notes: &mut Notes) -> Vec<String> {
    let hostname = value(service, "hostname").unwrap_or_default().trim();
    let domain = value(service, "domain").map_or("local", str::trim);
    let primary = match (hostname, domain) {
        ("", name) | (name, "") => name.to_owned(),
        (hostname, domain) if hostname == domain => domain.to_owned(),
        (hostname, domain) => format!("{hostname}.{domain}"),
    };
    let aliases = labels(service).filter(|(_, name, _)| base(name) == "alias_domain");
    let named = aliases.map(|(_, name, value)| (name, value.to_owned()));
    let mut hosts = Vec::new();
    for (name, text) in std::iter::once(("hostname", primary)).chain(named).take(MAX_HOSTS) {
        match values::host(&text) {
            Ok(host) if hosts.contains(&host) => {}
            Ok(host) => hosts.push(host),
            Err(bad) => unreadable(service, name, &text, bad, notes),
        }
    }
    hosts
}

fn port(service: &Service, notes: &mut Notes) -> Option<u16> {
    match one(service, "port", values::port, notes) {
        Ok(None) => {}
        Ok(port) => return port,
        Err(()) => return None,
    }
    let first = service.ports.first().map(|it| it.target);
    if first.is_none() {
        let text = "is missing and no port is published, so the container gets no route";
        let remedy = "set it to the port the container listens on, e.g. 8080";
        notes.error(subject(service), format!("{V1}port"), text, remedy);
    }
    first
}

fn unreadable(service: &Service, name: &str, value: &str, bad: Bad, notes: &mut Notes) {
    let text = format!("`{}` {}", shown(value), bad.text);
    notes.error(subject(service), shown(&format!("{V1}{name}")), text, bad.remedy);
}

fn unknown(service: &Service, label: &str, name: &str, notes: &mut Notes) {
    let remedy = match nearest(name, keys::names(V1)) {
        Some(meant) => format!("did you mean `{V1}{meant}`?"),
        None => format!("known are {}", keys::names(V1).collect::<Vec<_>>().join(", ")),
    };
    notes.error(subject(service), shown(label), "no such label", remedy);
}

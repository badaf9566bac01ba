//! Says who answers a URL and why, or why nobody does and what would make it work.
//!
//! Always true here: the verdict is the one that a request gets; it is made by the same functions,
//! in the same order. Pure.

use std::fmt;

use registry::model::{Service, Task};
use registry::nearest::nearest;
use registry::route_spec::RouteSpec;
use registry::{Snapshot, labels};

use crate::authority;
use crate::config::Config;
use crate::path;
use crate::rewrite::{self, Path};
use crate::route::{self, Found, under};
use crate::table::{Backend, Host, Route, RouteTable, Whom};

/// Why a URL is answered as it is. Its [`fmt::Display`] is what `portolan explain http` prints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// The URL, as it was asked about.
    pub url: String,
    /// What a client gets, in words.
    pub answer: String,
    /// How that came about, in order.
    pub steps: Vec<String>,
    /// What would make it work, or what is peculiar about it.
    pub advice: Vec<String>,
    served: bool,
}

impl Explanation {
    /// Whether a task gets the request.
    pub fn served(&self) -> bool {
        self.served
    }

    fn refused(url: &str, answer: impl Into<String>) -> Self {
        let (steps, advice) = (Vec::new(), Vec::new());
        Self { url: url.to_owned(), answer: answer.into(), steps, advice, served: false }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, answer, steps, advice, served: _ } = self;
        writeln!(f, "{url}: {answer}")?;
        steps.iter().try_for_each(|it| writeln!(f, "  {it}"))?;
        advice.iter().try_for_each(|it| writeln!(f, "{it}"))
    }
}

/// What becomes of a GET for `url` (`http://HOST[:PORT]/PATH[?QUERY]`, the scheme may be left out),
/// as of `snapshot` and the table made of it; `host` is a `Host` field that differs from the URL's.
pub fn explain(
    snapshot: &Snapshot,
    table: &RouteTable,
    config: &Config,
    url: &str,
    host: Option<&str>,
) -> Explanation {
    let bare = url.strip_prefix("http://").unwrap_or(url);
    if bare.contains("://") {
        return Explanation::refused(url, "nothing: only http:// URLs are explained");
    }
    let bare = bare.split('#').next().unwrap_or(bare);
    let (authority, target) = bare.split_at(bare.find(['/', '?']).unwrap_or(bare.len()));
    let (written, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let Some(host) = authority::host(host.unwrap_or(authority).as_bytes()) else {
        return Explanation::refused(url, "400, the Host field is not a host");
    };
    let asked = path::resolve(if written.is_empty() { "/" } else { written }).into_owned();
    let (mut told, won) = match route::find(table, &host, &asked) {
        Found::Route(_, found) => {
            (routed(snapshot, found, url, &asked, query), &*found.context_root)
        }
        Found::NoPath => (no_path(table, config, url, &host), ""),
        Found::NoHost => (no_host(table, config, url, &host), ""),
    };
    if asked != written && !written.is_empty() {
        told.steps.insert(0, format!("path {written} is read as {asked}"));
    }
    let rivals = |spec: &RouteSpec| {
        under(&spec.context_root, &asked) && spec.context_root.len() >= won.len()
    };
    told.advice.extend(others(snapshot, table, config, &host, rivals));
    told
}

fn routed(
    snapshot: &Snapshot,
    found: &Route,
    url: &str,
    asked: &str,
    query: Option<&str>,
) -> Explanation {
    let service = found.service();
    let root = if found.context_root.is_empty() { "/" } else { &*found.context_root };
    let step = format!("host {}, context root {root}: {}", found.host, claimants(found));
    let mut told = Explanation::refused(url, String::new());
    told.steps.push(step);
    if let Some(reason) = &found.unavailable {
        told.answer = format!("503, {reason}");
        told.advice = found.claims.iter().flat_map(|it| idle(snapshot, &it.service)).collect();
        return told;
    }
    told.steps.extend(found.backends.iter().map(backend));
    match rewrite::path(found, asked) {
        Path::Send(path) => {
            let target = rewrite::with_query(&path, query);
            told.answer = match found.backends.as_ref() {
                [only] if only.whom == Whom::Vip => {
                    format!("the VIP of service {service} gets GET {target}")
                }
                [_] => format!("the one task of service {service} gets GET {target}"),
                several => format!(
                    "one of the {} tasks of service {service} gets GET {target}: the less busy of \
                     two drawn at random",
                    several.len()
                ),
            };
            told.served = true;
        }
        Path::AddSlash => {
            let location = rewrite::with_query(&format!("{asked}/"), query);
            told.answer = format!("301 to {location}, so that relative links stay below it");
        }
        Path::Refuse => {
            told.answer = "400, the path could be read as leading out of its context root".into();
        }
    }
    told
}

fn claimants(route: &Route) -> String {
    let claim = |name: &str, group: &str| match group {
        "" => format!("service {name}"),
        group => format!("service {name} (label group {group})"),
    };
    let claims: Vec<String> = route.claims.iter().map(|it| claim(&it.name, &it.group)).collect();
    claims.join(" and ")
}

fn backend(backend: &Backend) -> String {
    let who = match &backend.whom {
        Whom::Task(name) => format!("task {name}"),
        Whom::Vip => "the VIP".to_owned(),
    };
    let weight = match backend.weight {
        1 => String::new(),
        weight => format!(", weight {weight}"),
    };
    format!("{who} at {} on {}{weight}", backend.address, backend.network)
}

fn no_path(table: &RouteTable, config: &Config, url: &str, host: &str) -> Explanation {
    let status = config.unknown_host.status().as_u16();
    let mut told =
        Explanation::refused(url, format!("{status}, no route for this path of host {host}"));
    for route in table.routes().iter().filter(|route| covers(&route.host, host)) {
        let step = format!("host {}, context root {}: ", route.host, route.context_root);
        told.steps.push(step + &claimants(route));
    }
    told
}

fn no_host(table: &RouteTable, config: &Config, url: &str, host: &str) -> Explanation {
    let status = config.unknown_host.status().as_u16();
    let mut told = Explanation::refused(url, format!("{status}, no route for host {host}"));
    let known: Vec<String> = table.routes().iter().map(|route| route.host.to_string()).collect();
    if let Some(near) = nearest(host, known.iter().map(String::as_str)) {
        told.advice.push(format!("did you mean `{near}`?"));
    }
    told
}

/// What keeps a service's tasks from serving.
fn idle(snapshot: &Snapshot, service: &registry::id::ServiceId) -> Vec<String> {
    let Some(service) = snapshot.service(service) else { return Vec::new() };
    let state = |task: &Task| match task.reason.as_str() {
        _ if task.serves() => format!("{} serves, but not on that network", task.name),
        _ if task.weight == 0 => format!("{} has weight 0", task.name),
        "" => format!("{} is {}", task.name, task.state),
        reason => format!("{} is {} ({reason})", task.name, task.state),
    };
    let states: Vec<String> = snapshot.tasks_of(&service.id).map(state).collect();
    let text = if states.is_empty() { "it has no task".to_owned() } else { states.join(", ") };
    vec![format!("service {}: {text}", service.name)]
}

/// Services among the `rivals` that ask for this host, too, and do not get it: from another
/// cluster, or because somebody else was first.
fn others(
    snapshot: &Snapshot,
    table: &RouteTable,
    config: &Config,
    host: &str,
    rivals: impl Fn(&RouteSpec) -> bool,
) -> Vec<String> {
    let mut told = Vec::new();
    for service in snapshot.services() {
        let (specs, _) = labels::routes(service);
        for spec in specs.iter().filter(|spec| rivals(spec)) {
            let mut hosts = spec.hosts.iter().map(|it| Host::of(it));
            let Some(asked) = hosts.find(|it| covers(it, host)) else { continue };
            let name = &service.name;
            if spec.cluster != config.cluster {
                told.push(format!(
                    "service {name} asks for it in cluster `{}`; this is cluster `{}`",
                    spec.cluster, config.cluster
                ));
            } else if !has_part(table, service, spec, &asked) {
                let why = "and does not get it: see `portolan check`";
                told.push(format!("service {name} asks for it, too, {why}"));
            }
        }
    }
    told
}

fn has_part(table: &RouteTable, service: &Service, spec: &RouteSpec, host: &Host) -> bool {
    let same = |route: &&Route| route.host == *host && *route.context_root == *spec.context_root;
    let mut claims = table.routes().iter().filter(same).flat_map(|route| &route.claims);
    claims.any(|claim| claim.service == service.id)
}

fn covers(pattern: &Host, host: &str) -> bool {
    match pattern {
        Host::Exact(name) => **name == *host,
        Host::Wildcard(suffix) => {
            host.strip_suffix(&**suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
    }
}

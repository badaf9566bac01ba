//! Sandboxes as the admin API shows them.
//!
//! Always true here: the name servers told are those that the resolver asks, not those that a
//! source names and the configuration stands in for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use registry::Snapshot;
use registry::id::TaskId;
use registry::model::Sandbox;
use resolver::{Outside, Server};
use serde::Serialize;

use super::network_name;
use crate::admin::explain::dial;
use crate::supervise::Live;

/// A row of `ls sandboxes`, and what `exec` needs.
#[derive(Debug, Serialize)]
pub struct SandboxRow {
    name: String,
    networks: Vec<String>,
    addresses: Vec<IpAddr>,
    upstreams: Vec<String>,
    /// From where each of them is asked.
    dial: Vec<&'static str>,
    extra_hosts: BTreeMap<String, Vec<IpAddr>>,
    links: BTreeMap<String, Vec<IpAddr>>,
    hostname: String,
    netns: String,
}

/// The sandboxes.
pub fn sandboxes(live: &Live, snapshot: &Snapshot) -> Vec<SandboxRow> {
    snapshot.sandboxes().map(|it| sandbox(live, snapshot, it)).collect()
}

/// One sandbox.
pub fn sandbox(live: &Live, snapshot: &Snapshot, sandbox: &Sandbox) -> SandboxRow {
    let servers = servers(live, sandbox);
    SandboxRow {
        name: sandbox.name.clone(),
        networks: sandbox.networks.iter().map(|it| network_name(snapshot, &it.network)).collect(),
        addresses: sandbox.networks.iter().flat_map(|it| it.addresses.clone()).collect(),
        upstreams: servers.iter().map(ToString::to_string).collect(),
        dial: servers.iter().map(|it| dial(it.dial)).collect(),
        extra_hosts: sandbox.hosts.clone(),
        links: sandbox.links.clone(),
        hostname: sandbox.hostname.clone(),
        netns: sandbox.netns.display().to_string(),
    }
}

/// Whom it asks; where the resolver does not run, whom it would be given.
fn servers(live: &Live, sandbox: &Sandbox) -> Vec<Server> {
    let report = live.resolver.borrow().clone();
    match report.as_ref().and_then(|it| it.plan.views.get(&sandbox.id)).map(|it| &it.outside) {
        Some(Outside::Servers(servers)) => servers.clone(),
        Some(Outside::Internal | Outside::NoServers) => Vec::new(),
        None => sandbox.upstreams.iter().copied().map(Server::plain).collect(),
    }
}

/// That there is no such sandbox, and which there are.
pub fn no_such_sandbox(snapshot: &Snapshot, name: &str) -> String {
    let starting = format!("{name}.");
    let alike = snapshot.sandboxes().filter(|it| it.name.starts_with(&starting)).count();
    if alike > 1 {
        return format!("`{name}` could be any of {alike} sandboxes; give the whole name");
    }
    let task = |id: &TaskId| snapshot.task(id).map(|task| task.name.clone());
    if snapshot.tasks().any(|it| it.name == name || it.name.starts_with(&starting)) {
        return format!("`{name}` runs on another node, or on no user-defined network; ask there");
    }
    let known = snapshot
        .sandboxes()
        .flat_map(|it| std::iter::once(it.name.clone()).chain(it.tasks.iter().filter_map(task)));
    let mut known: Vec<String> = known.collect();
    known.sort();
    known.dedup();
    known.truncate(20);
    format!("there is no sandbox `{name}` on this node; there are: {}", known.join(", "))
}

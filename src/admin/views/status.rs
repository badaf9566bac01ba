//! How portolan is, for people and for programs.
//!
//! Always true here: what is fine takes a line, what is not takes one each.

use std::collections::BTreeSet;

use registry::{Note, Severity};
use resolver::{Standing, UpstreamState};
use serde::Serialize;

use super::diagnostics;
use super::parts::{Told, parts};
use crate::admin::explain::{dial, standing};
use crate::supervise::Live;

/// How portolan is.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Whether everything asked for works.
    pub ok: bool,
    /// The same for people.
    pub text: String,
    generation: u64,
    stale: Option<String>,
    networks: usize,
    services: usize,
    tasks: usize,
    sandboxes: usize,
    parts: Vec<PartStatus>,
    dns: Option<DnsStatus>,
    notes: Vec<String>,
}

/// What the resolver is doing.
#[derive(Debug, Serialize)]
struct DnsStatus {
    served: usize,
    unserved: usize,
    lost: u64,
    won_back: u64,
    outside_now: usize,
    cache: CacheStatus,
    upstreams: Vec<UpstreamStatus>,
}

/// What is kept of what servers outside said.
#[derive(Debug, Serialize)]
struct CacheStatus {
    entries: usize,
    bytes: usize,
    hits: u64,
    misses: u64,
}

/// A server outside that was asked.
#[derive(Debug, Serialize)]
struct UpstreamStatus {
    server: String,
    dial: &'static str,
    standing: &'static str,
    rtt_ms: Option<f64>,
    sandboxes: usize,
    down_for: usize,
}

#[derive(Debug, Serialize)]
struct PartStatus {
    name: &'static str,
    #[serde(skip)]
    follows: bool,
    generation: u64,
    changes: usize,
    took_ms: f64,
    failures: Vec<String>,
    /// What it did, perhaps not as meant: no reason not to be ready.
    warnings: Vec<String>,
}

impl Status {
    /// What keeps it from being ready, in one line.
    pub fn unready(&self) -> String {
        let failing = self.parts.iter().flat_map(|part| &part.failures);
        let late = |part: &&PartStatus| part.follows && part.generation < self.generation;
        let waiting = self.parts.iter().filter(late);
        let waiting = waiting.map(|part| format!("the {}", part.name));
        let missing: Vec<String> = failing.cloned().chain(waiting).collect();
        if missing.is_empty() { "the application".to_owned() } else { missing.join("; ") }
    }
}

/// How portolan is, as of what the parts last said.
pub fn status(live: &Live) -> Status {
    let snapshot = live.world.borrow().clone();
    let parts: Vec<PartStatus> = parts(live).into_iter().map(part).collect();
    let stale = snapshot.stale().map(str::to_owned);
    let ok = snapshot.generation() > 0
        && stale.is_none()
        && parts.iter().all(|part| part.failures.is_empty() && part.generation > 0);
    let mut status = Status {
        ok,
        text: String::new(),
        generation: snapshot.generation(),
        stale,
        networks: snapshot.networks().len(),
        services: snapshot.services().len(),
        tasks: snapshot.tasks().len(),
        sandboxes: snapshot.sandboxes().len(),
        parts,
        dns: live.parts.resolver.then(|| dns(live)),
        notes: diagnostics(live),
    };
    status.text = describe(&status);
    status
}

fn describe(status: &Status) -> String {
    let Status { generation, networks, services, tasks, sandboxes, .. } = status;
    let mut lines = vec![match &status.stale {
        Some(reason) => format!("serving what was last known (generation {generation}): {reason}"),
        None if *generation == 0 => "waiting for the first complete reading".to_owned(),
        None => format!("up to date (generation {generation})"),
    }];
    lines.push(format!(
        "{networks} networks, {services} services, {tasks} tasks, {sandboxes} sandboxes"
    ));
    for part in &status.parts {
        let PartStatus { name, follows: _, generation, changes, took_ms, failures, warnings } =
            part;
        let state = if failures.is_empty() { "fine" } else { "failing" };
        lines.push(format!(
            "{name}: {state}, generation {generation}, {changes} changes in {took_ms:.1} ms"
        ));
        lines.extend(failures.iter().chain(warnings).map(|it| format!("  {it}")));
    }
    if let Some(dns) = &status.dns {
        lines.extend(dns.describe());
    }
    lines.extend(status.notes.iter().cloned());
    lines.push(String::new());
    lines.join("\n")
}

fn part(told: Told) -> PartStatus {
    let Told { name, done, follows } = told;
    let done = done.as_ref();
    let notes = done.map(|it| &it.failures).into_iter().flatten();
    let (failures, warnings): (Vec<_>, Vec<_>) =
        notes.partition(|it| it.severity == Severity::Error);
    let said = |notes: Vec<&Note>| notes.into_iter().map(ToString::to_string).collect();
    PartStatus {
        name,
        follows,
        generation: done.map_or(0, |it| it.generation),
        changes: done.map_or(0, |it| it.changes),
        took_ms: done.map_or(0.0, |it| it.took.as_secs_f64() * 1e3),
        failures: said(failures),
        warnings: said(warnings),
    }
}

fn dns(live: &Live) -> DnsStatus {
    let (counts, cache) = (live.dns.counts(), live.dns.cache());
    let (served, unserved) = served(live);
    DnsStatus {
        served,
        unserved,
        lost: counts.takeovers_lost,
        won_back: counts.takeovers_won_back,
        outside_now: live.dns.in_flight(),
        cache: CacheStatus {
            entries: cache.entries,
            bytes: cache.bytes,
            hits: cache.hits,
            misses: cache.misses,
        },
        upstreams: live.dns.states().iter().map(upstream).collect(),
    }
}

fn upstream(state: &UpstreamState) -> UpstreamStatus {
    let UpstreamState { server, standing: how, rtt, sandboxes, down_for } = state;
    UpstreamStatus {
        server: server.to_string(),
        dial: dial(server.dial),
        standing: standing(*how),
        rtt_ms: rtt.map(|it| it.as_secs_f64() * 1e3),
        sandboxes: *sandboxes,
        down_for: *down_for,
    }
}

/// How many sandboxes are answered here, and how many are not though they should be.
pub fn served(live: &Live) -> (usize, usize) {
    let Some(report) = live.resolver.borrow().clone() else { return (0, 0) };
    let failing: BTreeSet<&str> = report
        .outcome
        .failures
        .iter()
        .filter_map(|it| it.subject.strip_prefix("sandbox "))
        .collect();
    let unserved = report.plan.views.values().filter(|it| failing.contains(it.name.as_str()));
    let unserved = unserved.count();
    (report.plan.views.len() - unserved, unserved)
}

impl DnsStatus {
    fn describe(&self) -> Vec<String> {
        let Self { served, unserved, lost, won_back, outside_now, cache, upstreams } = self;
        let not = if *unserved > 0 { format!(", not in {unserved}") } else { String::new() };
        let taken = if *lost > 0 {
            format!("; {lost} were taken from it while it served, {won_back} are back")
        } else {
            String::new()
        };
        let CacheStatus { entries, bytes, hits, misses } = cache;
        let sandboxes = if *served == 1 { "sandbox" } else { "sandboxes" };
        let mut lines = vec![format!("dns: answers in {served} {sandboxes}{not}{taken}")];
        lines.push(format!(
            "dns cache: {entries} answers and failures from outside in {bytes} octets; {hits} questions were \
             answered from it, {misses} were not; {outside_now} are being asked outside"
        ));
        let down = standing(Standing::Down);
        for it in upstreams.iter().filter(|it| it.down_for > 0 || it.standing == down) {
            let UpstreamStatus { server, dial, sandboxes, down_for, .. } = it;
            let of = if *sandboxes == 1 { "sandbox" } else { "sandboxes" };
            lines.push(format!(
                "name server {server}, asked from the {dial}: down for {down_for} of {sandboxes} {of}"
            ));
        }
        lines
    }
}

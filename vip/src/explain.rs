//! Says where a connection from a sandbox to an address goes, and why it does not get there.
//!
//! Invariants
//! - *seen, not believed*: what the kernel holds is read for it, and one probe is sent;
//! - *the plan's words*: a task's state and its reason are the registry's, as `ls tasks` shows them;
//! - *bounded*: of many tasks some are named and the others counted.
//!
//! Read in this order: `subject` (what the address is), `probe` (one try), `advice`.

mod advice;
mod probe;
mod subject;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use registry::Snapshot;
use registry::id::SandboxId;
use registry::model::Protocol;

pub use self::probe::{Outcome, Probe};
use self::subject::{Subject, subject};
use crate::inspect::{self, Inspection, TableFound};
use crate::mesh;
use crate::plan::{Balance, Plan, SandboxPlan};

/// Where connections to an address go. Its [`fmt::Display`] is what `portolan explain vip` prints.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Explanation {
    /// Who asks.
    pub sandbox: String,
    /// What is asked about.
    pub target: String,
    /// What it is, in words.
    pub what: String,
    /// The tasks behind it, a line each: name, address, state and reason.
    pub tasks: Vec<String>,
    /// What the sandbox's kernel does with it, a line each.
    pub kernel: Vec<String>,
    /// What became of one try; empty: none was made.
    pub probe: String,
    /// What to do, or what is peculiar.
    pub advice: Vec<String>,
    reached: bool,
}

impl Explanation {
    /// Whether the probe got an answer, or was a datagram that nobody refused.
    pub fn is_reached(&self) -> bool {
        self.reached
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sandbox, target, what, tasks, kernel, probe, advice, reached: _ } = self;
        writeln!(f, "{target} from {sandbox}: {what}")?;
        for line in tasks.iter().chain(kernel) {
            writeln!(f, "  {line}")?;
        }
        if !probe.is_empty() {
            writeln!(f, "  probe: {probe}")?;
        }
        advice.iter().try_for_each(|it| writeln!(f, "{it}"))
    }
}

/// What is asked: an address, and a port where a connection or a datagram is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target {
    /// Whom.
    pub address: IpAddr,
    /// At which port; `None`: an echo request is sent.
    pub port: Option<u16>,
    /// Of which protocol; `None`: what the port is known for, otherwise TCP.
    pub protocol: Option<Protocol>,
}

impl Target {
    /// Reads `ADDRESS`, `ADDRESS:PORT` or `ADDRESS:PORT/PROTOCOL`, IPv6 with a port in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (socket, protocol) = match text.split_once('/') {
            None => (text, None),
            Some((socket, "tcp")) => (socket, Some(Protocol::Tcp)),
            Some((socket, "udp")) => (socket, Some(Protocol::Udp)),
            Some(_) => return None,
        };
        if protocol.is_none()
            && let Ok(address) = text.parse()
        {
            return Some(Self { address, port: None, protocol });
        }
        let socket: SocketAddr = socket.parse().ok()?;
        let (address, port) = (socket.ip(), Some(socket.port()));
        (socket.port() > 0).then_some(Self { address, port, protocol })
    }

    /// The same with the protocol said, if it has a port: UDP where only UDP is known there.
    fn settled(self, subject: &Subject<'_>) -> Self {
        let Some(port) = self.port else { return self };
        let knows = |protocol| subject.knows(port, protocol);
        let only_udp = knows(Protocol::Udp) && !knows(Protocol::Tcp);
        let likely = if only_udp { Protocol::Udp } else { Protocol::Tcp };
        Self { protocol: Some(self.protocol.unwrap_or(likely)), ..self }
    }

    /// Port and protocol.
    fn service_port(&self) -> Option<(u16, Protocol)> {
        self.port.map(|it| (it, self.protocol.unwrap_or(Protocol::Tcp)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f)?,
            None => self.address.fmt(f)?,
        }
        match self.protocol {
            Some(Protocol::Udp) => f.write_str("/udp"),
            Some(Protocol::Tcp) | None => Ok(()),
        }
    }
}

/// Where `target` leads from `sandbox`; `mesh`: what is published on this node, where portolan does
/// that. Enters the sandbox and sends one probe: takes up to [`probe::WAIT`].
pub fn explain(
    snapshot: &Snapshot,
    plan: &Plan,
    mesh: Option<&mesh::Plan>,
    sandbox: &SandboxId,
    target: Target,
) -> Explanation {
    let name = plan.sandboxes.get(sandbox).map_or(sandbox.as_str(), |it| &it.name);
    let name = snapshot.sandbox(sandbox).map_or(name, |it| &it.name);
    let mut told = Explanation {
        sandbox: name.to_owned(),
        target: target.to_string(),
        ..Explanation::default()
    };
    let Some(place) = plan.sandboxes.get(sandbox) else {
        "not known: this sandbox is not served; see `portolan status`".clone_into(&mut told.what);
        return told;
    };
    let mut subject = subject(snapshot, plan, sandbox, target.address);
    if let (Subject::Nobody, Some(mesh)) = (subject, mesh) {
        let own = subject::own_addresses();
        subject = subject::published(snapshot, mesh, target, &own).unwrap_or(subject);
    }
    let target = target.settled(&subject);
    told.target = target.to_string();
    told.what = subject.in_words(snapshot);
    told.tasks = subject.tasks(snapshot);
    let seen = inspect::inspect(place);
    match &seen {
        Ok(Some(seen)) => told.kernel = kernel(&subject, place, seen, target),
        Ok(None) => told.kernel.push("its network namespace is gone".to_owned()),
        Err(error) => told.kernel.push(format!("cannot be looked at: {error}")),
    }
    let probe = probe::probe(place, target);
    told.reached = match probe.outcome {
        Outcome::Answered => true,
        // To most servers an empty datagram says nothing.
        Outcome::Silent => target.protocol == Some(Protocol::Udp),
        Outcome::Refused | Outcome::Failed(_) => false,
    };
    told.probe = probe.in_words(snapshot, &subject);
    told.advice = advice::advice(snapshot, &subject, &probe, target);
    told
}

/// What the rules do with the address.
fn kernel(
    subject: &Subject<'_>,
    place: &SandboxPlan,
    seen: &Inspection,
    target: Target,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Subject::Vip { balance, .. } = subject {
        lines.push(match &seen.table {
            TableFound::Nothing => "nft: there is no table `portolan_vip`".to_owned(),
            TableFound::Strange(what) => format!("nft: `portolan_vip` is not portolan's: {what}"),
            TableFound::Relayed => {
                format!(
                    "userspace: {}",
                    crate::relay::sandbox::in_words(balance, target.service_port())
                )
            }
            TableFound::Ours { alive: false, .. } => {
                "nft: `portolan_vip` has switched itself off".to_owned()
            }
            TableFound::Ours { balances, alive: true } => {
                let held = balances.get(&target.address);
                rule(held.map(|it| &**it), balance)
            }
        });
        let through = place.routes.iter().find(|it| it.block.contains(&target.address));
        lines.extend(through.map(|it| format!("route: {it}")));
    }
    if let Subject::Published { published, here, .. } = subject {
        let tasks: BTreeSet<_> = published.slots.iter().collect();
        let places = listed(tasks.iter(), MOST_TASKS);
        lines.push(match (here, tasks.is_empty()) {
            (true, false) => format!("mesh: this node leads new connections to {places}"),
            (true, true) => "mesh: refused, because no task serves".to_owned(),
            (false, _) => "mesh: led by that node's own tables, which can be seen there".to_owned(),
        });
    }
    lines.extend(seen.differences.iter().map(|it| format!("differs from the plan: {it}")));
    let astray = seen.astray.iter().filter(|it| it.original_destination == target.address);
    lines.extend(astray.map(|it| {
        let client = SocketAddr::new(it.original_source, it.original_source_port);
        format!("conntrack: a flow from {client} still leads to {}, which is gone", it.reply_source)
    }));
    lines
}

fn rule(held: Option<&Balance>, planned: &Balance) -> String {
    match held {
        None => "nft: `portolan_vip` does not have it".to_owned(),
        Some(held) if held.slots.is_empty() => {
            "nft: refused, because no task is in the table".to_owned()
        }
        Some(held) => {
            let same = if held.slots == planned.slots { "" } else { " (not as planned)" };
            let places = held.slots.len();
            let tasks: BTreeSet<_> = held.slots.iter().collect();
            let tasks = listed(tasks.iter(), MOST_TASKS);
            let of = if places == 1 { "place" } else { "places" };
            format!("nft: new connections go to {tasks} ({places} {of}){same}")
        }
    }
}

/// As many tasks of a service are named.
const MOST_TASKS: usize = 16;

/// Some of the items, and how many more there are.
fn listed<T: ToString>(items: impl ExactSizeIterator<Item = T>, most: usize) -> String {
    let more = items.len().saturating_sub(most);
    let mut shown: Vec<String> = items.take(most).map(|it| it.to_string()).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests;

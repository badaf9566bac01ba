//! Cuts connections that lead nowhere: those to tasks that are gone, and those that began before
//! the table was there and that nobody has answered.
//!
//! Invariants
//! - *nobody waits for it*: looking through conntrack costs milliseconds a namespace, so it is done
//!   beside the changes, which by then hold: new connections already go where they should;
//! - *one at a time*: what is asked of a sandbox meanwhile is added to what waits for it;
//! - *only what is ours to cut*: a flow that somebody answered without us (the engine's own
//!   balancing, before portolan came) goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::conntrack::{self, Flow};
use kernel::netns::Netns;
use kernel::sock_diag;
use registry::id::SandboxId;
use tokio::task::JoinSet;

use crate::plan::Balances;
use crate::sandbox::{self, SandboxError};

/// What is to be cut in one sandbox.
#[derive(Debug)]
pub(crate) struct Cut {
    /// What users call the sandbox.
    pub(crate) name: String,
    pub(crate) netns: PathBuf,
    /// The cookie of the namespace meant.
    pub(crate) cookie: u64,
    /// VIPs of which conntrack may remember flows that go nowhere now.
    pub(crate) suspect: BTreeSet<IpAddr>,
    /// Who is alive behind them.
    pub(crate) balances: Arc<Balances>,
}

/// Does the cutting, on one thread for blocking work as long as there is any.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    shared: Arc<Mutex<Shared>>,
    worker: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: BTreeMap<SandboxId, Cut>,
    failed: Vec<(SandboxId, Cut, SandboxError)>,
    working: bool,
}

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

impl Cutter {
    /// Adds what is to be cut. At most one entry a sandbox waits.
    pub(crate) fn add(&self, id: SandboxId, cut: Cut) {
        lock(&self.shared).add(id, cut);
    }

    /// Goes on with what waits, and with what failed since the last call, which is returned.
    pub(crate) fn go_on(&mut self) -> Vec<(String, SandboxError)> {
        let mut shared = lock(&self.shared);
        while let Some(ended) = self.worker.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "cutting connections ended early");
                shared.working = false;
            }
        }
        let mut failures = Vec::new();
        for (id, cut, error) in std::mem::take(&mut shared.failed) {
            failures.push((cut.name.clone(), error));
            shared.add(id, cut);
        }
        if !shared.working && !shared.waiting.is_empty() {
            shared.working = true;
            let shared = Arc::clone(&self.shared);
            self.worker.spawn_blocking(move || work(&shared));
        }
        failures
    }
}

impl Shared {
    fn add(&mut self, id: SandboxId, mut cut: Cut) {
        if let Some(older) = self.waiting.remove(&id)
            && older.cookie == cut.cookie
        {
            cut.suspect.extend(older.suspect);
        }
        self.waiting.insert(id, cut);
    }

    /// The next to be cut; without one the worker ends.
    fn next(&mut self) -> Option<(SandboxId, Cut)> {
        let next = self.waiting.pop_first();
        self.working = next.is_some();
        next
    }
}

fn work(shared: &Mutex<Shared>) {
    loop {
        let next = lock(shared).next();
        let Some((id, cut)) = next else { return };
        if let Err(error) = cut.carry_out() {
            lock(shared).failed.push((id, cut, error));
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // What it guards is whole between any two statements.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cut {
    fn carry_out(&self) -> Result<(), SandboxError> {
        let Some(netns) = sandbox::open(&self.netns, Some(self.cookie))? else { return Ok(()) };
        let cut = conntrack::take_matching(&netns, |flow| self.dooms(flow))?;
        let destroyed = destroy_clients(&netns, &cut)?;
        if !cut.is_empty() {
            let (sandbox, flows) = (&self.name, cut.len());
            tracing::info!(sandbox, flows, sockets = destroyed, "cut connections to gone tasks");
        }
        Ok(())
    }

    fn dooms(&self, flow: &Flow) -> bool {
        let vip = flow.original_destination;
        let balance = self.balances.get(&vip).filter(|_| self.suspect.contains(&vip));
        balance.is_some_and(|it| {
            let alive = it.alive.contains(&flow.reply_source);
            !alive && (flow.nat || !flow.replied)
        })
    }
}

/// Without its flow a client that only reads would wait for ever: its socket goes too. One that
/// still tries to connect may go on trying: now it will be led to a task.
fn destroy_clients(netns: &Netns, flows: &[Flow]) -> Result<usize, SandboxError> {
    let connected = flows.iter().filter(|it| it.protocol == TCP && it.nat && it.replied);
    let ends: Vec<_> = connected
        .map(|it| {
            let client = SocketAddr::new(it.original_source, it.original_source_port);
            (client, SocketAddr::new(it.original_destination, it.original_port))
        })
        .collect();
    Ok(sock_diag::destroy_tcp(netns, &ends)?)
}

//! Cuts flows that lead nowhere, beside the changes.
//!
//! Invariants
//! - *nobody waits for it*: looking through conntrack costs milliseconds a namespace, so it is done
//!   beside the changes, which by then hold: new connections already go where they should;
//! - *a few at a time*: what is asked of a sandbox that waits is added to what waits for it;
//! - *judged by the newest plan*: a task that was gone when the cutting was asked for may be back,
//!   or another one have its address;
//! - *in nobody's way*: a netfilter socket that is closed shortly after a change has the kernel hold
//!   up the next one in that namespace for a grace period of RCU, 4 to 100 ms; so sockets are kept,
//!   and closed when nothing was cut for a while;
//! - *not given up*: what failed is tried again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::conntrack::Conntrack;
use registry::Events;
use registry::event::Kind;
use registry::id::SandboxId;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};

use crate::flows::{Judge, Severed};
use crate::meter::{Meter, Metrics};
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
    /// What leads nowhere.
    pub(crate) judge: Judge,
}

/// How many namespaces are looked at at the same time. Most of a look is a walk in the kernel.
const AT_ONCE: usize = 4;

/// How long sockets are kept: who changes again later than this finds the kernel at rest.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Does the cutting, on threads for blocking work as long as there is any.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    shared: Arc<Mutex<Shared>>,
    worker: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: BTreeMap<SandboxId, Cut>,
    failed: Vec<(SandboxId, Cut, SandboxError)>,
    /// How many cut now.
    working: usize,
    kept: BTreeMap<SandboxId, Kept>,
    /// Somebody closes them in time.
    closing: bool,
    /// The tables of the newest plan.
    newest: Arc<BTreeMap<SandboxId, Arc<Balances>>>,
}

/// The socket of a sandbox in which something was looked for. It keeps the namespace.
#[derive(Debug)]
struct Kept {
    cookie: u64,
    conntrack: Conntrack,
    used: Instant,
}

impl Cutter {
    /// There is a new plan, with these tables.
    pub(crate) fn plan(&self, tables: &Arc<BTreeMap<SandboxId, Arc<Balances>>>) {
        lock(&self.shared).newest = Arc::clone(tables);
    }

    /// Adds what is to be cut. At most one entry a sandbox waits.
    pub(crate) fn add(&self, id: SandboxId, cut: Cut) {
        lock(&self.shared).add(id, cut);
    }

    /// Whether it cuts now: whether that succeeds is not known yet.
    pub(crate) fn is_busy(&self) -> bool {
        let shared = lock(&self.shared);
        shared.working > 0 || !shared.failed.is_empty()
    }

    /// Goes on with what waits, and with what failed since the last call, which is returned.
    pub(crate) fn go_on(&mut self, meter: &Meter, events: &Events) -> Vec<(String, SandboxError)> {
        let mut shared = lock(&self.shared);
        while let Some(ended) = self.worker.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "cutting connections ended early");
                shared.working = shared.working.saturating_sub(1);
            }
        }
        let mut failures = Vec::new();
        for (id, cut, error) in std::mem::take(&mut shared.failed) {
            failures.push((cut.name.clone(), error));
            shared.add_older(id, cut);
        }
        let wanted = shared.waiting.len().min(AT_ONCE);
        if wanted > 0 && !shared.closing {
            shared.closing = true;
            self.worker.spawn(close_later(Arc::clone(&self.shared)));
        }
        while shared.working < wanted {
            shared.working += 1;
            let (queue, meter) = (Arc::clone(&self.shared), meter.clone());
            let events = events.clone();
            self.worker.spawn_blocking(move || {
                let all = work(&queue, meter.metrics());
                if all.sandboxes > 0 {
                    events.emit(Kind::Drain, "vip", all.to_string());
                }
            });
        }
        failures
    }
}

impl Shared {
    fn add(&mut self, id: SandboxId, mut cut: Cut) {
        if let Some(older) = self.waiting.remove(&id) {
            cut.take_on(older);
        }
        self.waiting.insert(id, cut);
    }

    /// What failed is tried again, with what was learnt since.
    fn add_older(&mut self, id: SandboxId, older: Cut) {
        match self.waiting.get_mut(&id) {
            Some(newer) => newer.take_on(older),
            None => drop(self.waiting.insert(id, older)),
        }
    }

    /// The sockets that are not needed any more.
    fn take_old(&mut self, now: Instant) -> BTreeMap<SandboxId, Kept> {
        let is_old = |it: &Kept| now.saturating_duration_since(it.used) >= KEPT_FOR;
        let kept = std::mem::take(&mut self.kept).into_iter();
        let (old, kept) = kept.partition(|(_, it)| is_old(it));
        self.kept = kept;
        old
    }

    /// The next to be cut; without one the worker ends.
    fn next(&mut self) -> Option<(SandboxId, Cut)> {
        let next = self.waiting.pop_first();
        self.working -= usize::from(next.is_none());
        next
    }
}

/// What was cut in a row.
#[derive(Debug, Default)]
struct All {
    sandboxes: usize,
    severed: Severed,
}

impl fmt::Display for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sandboxes, severed: Severed { connections, resets: _, moved } } = self;
        write!(
            f,
            "{connections} connections to tasks that are gone, or drained too long, were cut and \
             {moved} flows of datagrams moved, in {sandboxes} sandboxes"
        )
    }
}

/// Closes sockets that were not used for a while, until there are none.
async fn close_later(shared: Arc<Mutex<Shared>>) {
    loop {
        sleep(KEPT_FOR).await;
        let old = lock(&shared).take_old(Instant::now());
        // Closing one may wait, see above.
        let _panicked = spawn_blocking(move || drop(old)).await;
        let mut shared = lock(&shared);
        if shared.kept.is_empty() && shared.working == 0 {
            shared.closing = false;
            return;
        }
    }
}

/// Cuts until nothing waits.
fn work(shared: &Mutex<Shared>, metrics: &Metrics) -> All {
    let mut all = All::default();
    loop {
        let next = lock(shared).next();
        let Some((id, cut)) = next else { return all };
        let newest = || lock(shared).newest.get(&id).cloned();
        let kept = lock(shared).kept.remove(&id).filter(|it| it.cookie == cut.cookie);
        match cut.carry_out(kept.map(|it| it.conntrack), newest) {
            Ok((Severed { connections, resets, moved }, conntrack)) => {
                if let Some(conntrack) = conntrack {
                    let kept = Kept { cookie: cut.cookie, conntrack, used: Instant::now() };
                    // One that another thread left there meanwhile is closed without the lock.
                    let _closed = lock(shared).kept.insert(id, kept);
                }
                Metrics::add(&metrics.connections_cut, connections);
                Metrics::add(&metrics.resets, resets);
                Metrics::add(&metrics.flows_moved, moved);
                all.sandboxes += usize::from(connections + moved > 0);
                all.severed.connections += connections;
                all.severed.moved += moved;
            }
            Err(error) => lock(shared).failed.push((id, cut, error)),
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // What it guards is whole between any two statements.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cut {
    /// Adds what an older one of the same namespace asked for, to be judged as this one judges.
    fn take_on(&mut self, older: Self) {
        if older.cookie != self.cookie {
            return;
        }
        self.judge.suspect.extend(older.judge.suspect);
        self.judge.replaced.extend(older.judge.replaced);
        if self.judge.living.is_none() {
            self.judge.living = older.judge.living;
        }
    }

    /// Gives the socket back that was used, if any.
    fn carry_out(
        &self,
        kept: Option<Conntrack>,
        newest: impl Fn() -> Option<Arc<Balances>>,
    ) -> Result<(Severed, Option<Conntrack>), SandboxError> {
        let Some(netns) = sandbox::open(&self.netns, Some(self.cookie))? else {
            return Ok((Severed::default(), None));
        };
        let mut conntrack = match kept {
            Some(kept) => kept,
            None => Conntrack::open(&netns)?,
        };
        let severed = self.judge.carry_out(&netns, &mut conntrack, newest)?;
        if severed != Severed::default() {
            let Severed { connections, resets, moved } = severed;
            let sandbox = &self.name;
            tracing::info!(sandbox, connections, resets, moved, "cut what went to gone tasks");
        }
        Ok((severed, Some(conntrack)))
    }
}

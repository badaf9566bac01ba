//! Probes the tasks of services that ask for it, from the namespaces in which this node reaches
//! them, and says which of them may serve.
//!
//! Invariants
//! - *what we cannot see is not held against a task*: where no probe can be made, what the engine
//!   says counts;
//! - *never the last ones*: where more than half of a service's probed tasks fail, that is more
//!   likely the check's fault or ours, and all are kept;
//! - *bounded*: [`board::AT_ONCE`] probes at a time, each with its time limit, and no service takes
//!   all of these places.
//!
//! `targets`: who is probed; `verdict`: what probes in a row make of one task; `board`: of all of
//! them, and when each is due; `probe` and `http`: one probe.

mod board;
mod http;
mod probe;
mod targets;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kernel::door::Door;
use kernel::netns::NetnsError;
use registry::event::Kind;
use registry::health::Verdicts;
use registry::id::{ServiceId, TaskId};
use registry::{Consumer, Events, Notes, Outcome, Snapshot};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use board::{AT_ONCE, Board};
pub use targets::{Place, Plan, Target};
use verdict::Finding;

/// Whoever probes.
#[derive(Debug)]
pub struct Health {
    door: Door,
    /// What was seen last, to know who is new.
    last: Option<Arc<Snapshot>>,
    board: Board,
    generation: u64,
    running: JoinSet<Done>,
    /// Services of which more than half fail, by id, with what is said of them.
    distrusted: BTreeSet<ServiceId>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    probes: Probes,
    events: Events,
}

/// How a probe went.
#[derive(Debug)]
struct Done {
    id: TaskId,
    epoch: u64,
    finding: Finding,
}

/// How many probes there were, for whoever counts; shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct Probes(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    passed: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
}

/// How many probes there were since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ProbeCounts {
    /// The task did what is asked of it.
    pub passed: u64,
    /// It did not.
    pub failed: u64,
    /// The probe could not be made.
    pub unknown: u64,
}

impl Probes {
    /// As of now.
    pub fn counts(&self) -> ProbeCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProbeCounts {
            passed: of(&self.0.passed),
            failed: of(&self.0.failed),
            unknown: of(&self.0.unknown),
        }
    }

    fn count(&self, finding: &Finding) {
        let counter = match finding {
            Finding::Passed => &self.0.passed,
            Finding::Failed(_) => &self.0.failed,
            Finding::Unknown => &self.0.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Health {
    /// What is found goes into `verdicts`; why all of a service is kept, into `events` too.
    pub fn new(
        verdicts: watch::Sender<Arc<Verdicts>>,
        probes: Probes,
        events: Events,
    ) -> Result<Self, NetnsError> {
        Ok(Self {
            door: Door::open()?,
            last: None,
            board: Board::new(seed()),
            generation: 0,
            running: JoinSet::new(),
            distrusted: BTreeSet::new(),
            verdicts,
            probes,
            events,
        })
    }

    /// Probes until the services that are distrusted are others than before.
    async fn go_on(&mut self) {
        loop {
            while self.running.len() < AT_ONCE
                && let Some(due) = self.board.take_due(Instant::now().into_std())
            {
                let (door, board::Due { id, epoch, target }) = (self.door.clone(), due);
                self.running.spawn(async move {
                    Done { id, epoch, finding: probe::probe(&door, &target).await }
                });
            }
            let full = self.running.len() >= AT_ONCE;
            let next = self.board.next_due().filter(|_| !full).map(Instant::from_std);
            tokio::select! {
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    if self.account(done) {
                        return;
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Whether the services that are distrusted changed.
    fn account(&mut self, done: Result<Done, tokio::task::JoinError>) -> bool {
        let now = Instant::now().into_std();
        match done {
            Ok(Done { id, epoch, finding }) => {
                self.probes.count(&finding);
                self.board.record(&id, epoch, finding, now) && self.publish()
            }
            Err(error) => {
                tracing::error!(%error, "a probe failed to end; report it as a bug");
                self.board.lost(now);
                false
            }
        }
    }

    /// Tells what is found so far; whether the services that are distrusted changed.
    fn publish(&mut self) -> bool {
        let (tasks, distrusted) = self.board.judge();
        let next = Verdicts { generation: self.generation, tasks };
        self.verdicts.send_if_modified(|known| {
            let news = **known != next;
            if news {
                *known = Arc::new(next);
            }
            news
        });
        let news = distrusted != self.distrusted;
        for service in distrusted.difference(&self.distrusted) {
            if let Some(said) = self.board.distrust(service) {
                self.events.emit(Kind::Health, format!("service {}", said.service), said.text);
            }
        }
        for service in self.distrusted.difference(&distrusted) {
            if let Some(name) = self.board.name_of(service) {
                let text = "its checks are acted on again: no more than half of them fail";
                self.events.emit(Kind::Health, format!("service {name}"), text);
            }
        }
        self.distrusted = distrusted;
        news
    }
}

impl Consumer for Health {
    const NAME: &'static str = "health";
    type Plan = Plan;

    fn compile(&mut self, snapshot: &Arc<Snapshot>) -> (Plan, Notes) {
        let (plan, mut notes) = targets::compile(snapshot, self.last.as_deref());
        for said in self.distrusted.iter().filter_map(|it| self.board.distrust(it)) {
            let remedy = "mend the check, or what all of them depend on";
            notes.warning(
                format!("service {}", said.service),
                "portolan.health",
                said.text,
                remedy,
            );
        }
        self.last = Some(Arc::clone(snapshot));
        (plan, notes)
    }

    async fn apply(&mut self, plan: &Arc<Plan>) -> Outcome {
        let changes = self.board.follow(plan, Instant::now().into_std());
        self.generation = plan.generation;
        self.publish();
        Outcome { changes, failures: Notes::default() }
    }

    async fn nudged(&mut self) {
        self.go_on().await;
    }
}

/// Where the times of probes begin to be drawn from: nodes that are started at once must not probe
/// at once.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

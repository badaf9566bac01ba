//! The one loop that drives every consumer: newest snapshot in, compile, apply, retry, report.
//!
//! Invariants
//! - *newest*: a burst of changes makes one compile; a generation that was overtaken is skipped;
//! - *isolated*: what fails in one consumer is reported and retried there, and stops no other;
//! - *idempotent*: `apply` is called again with the same plan after a failure or a nudge, and then
//!   does only what is missing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::note::Notes;
use crate::snapshot::{Snapshot, World};

/// Something that makes the world of a snapshot true: the resolver, the VIP manager, the router.
pub trait Consumer: Send {
    /// Its name in logs and in `status`.
    const NAME: &'static str;
    /// What is to be true, as plain values.
    type Plan: Send + Sync;

    /// What this snapshot asks for. Total: a bad service becomes a note, never an error. `&mut`
    /// is for state that is part of the decision (address leases); no I/O happens here.
    fn compile(&mut self, snapshot: &Snapshot) -> (Self::Plan, Notes);

    /// Makes `plan` true, changing only what differs from what is. Tries everything, lists what
    /// failed.
    fn apply(&mut self, plan: &Arc<Self::Plan>) -> impl Future<Output = Outcome> + Send;

    /// Resolves when something besides the snapshot that [`Consumer::compile`] reads has changed,
    /// e.g. the VIPs that another consumer allocated. Must be safe to drop and call again.
    fn nudged(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Ends in order: what is in flight is finished, within a bound of the consumer's own.
    fn finish(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        std::future::ready(())
    }

    /// How long without a change until [`Consumer::apply`] is called again all the same, to look
    /// after what others may have changed and to refresh what expires.
    fn upkeep(&self) -> Option<Duration> {
        None
    }
}

/// What an `apply` did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// How many things it changed; 0 when all was so already.
    pub changes: usize,
    /// What it could not do. Any error in it means: try again soon.
    pub failures: Notes,
}

/// What a consumer last did, for `status`, `ls` and `explain`.
#[derive(Debug)]
pub struct Report<P> {
    /// The generation whose plan this is.
    pub generation: u64,
    /// The plan.
    pub plan: Arc<P>,
    /// What compiling it had to say.
    pub notes: Notes,
    /// What applying it did.
    pub outcome: Outcome,
    /// How long compile and apply took together.
    pub took: Duration,
}

/// Drives `consumer` until `stop` or until the world's sender is gone; then it finishes.
pub async fn drive<C: Consumer>(
    mut consumer: C,
    world: World,
    reports: watch::Sender<Option<Arc<Report<C::Plan>>>>,
    stop: CancellationToken,
) {
    follow(&mut consumer, world, reports, stop).await;
    consumer.finish().await;
}

async fn follow<C: Consumer>(
    consumer: &mut C,
    mut world: World,
    reports: watch::Sender<Option<Arc<Report<C::Plan>>>>,
    stop: CancellationToken,
) {
    // Before the first reading there is no world, which is not the same as an empty one.
    tokio::select! {
        read = world.wait_for(|snapshot| snapshot.generation() > 0) => if read.is_err() { return },
        () = stop.cancelled() => return,
    }
    let mut backoff = Backoff::default();
    loop {
        let snapshot = Arc::clone(&world.borrow_and_update());
        let begun = Instant::now();
        let (plan, notes) = consumer.compile(&snapshot);
        let plan = Arc::new(plan);
        let mut outcome = consumer.apply(&plan).await;
        let mut took = begun.elapsed();
        log(C::NAME, &snapshot, &notes, &outcome, took);
        loop {
            let failed = outcome.failures.has_errors();
            publish(&reports, &snapshot, &plan, &notes, outcome, took);
            let pause = if failed { Some(backoff.pause()) } else { consumer.upkeep() };
            if !failed {
                backoff = Backoff::default();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = world.changed() => match changed { Ok(()) => break, Err(_) => return },
                () = consumer.nudged() => break,
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
            let again = Instant::now();
            outcome = consumer.apply(&plan).await;
            took = again.elapsed();
            if outcome.changes > 0 || (failed && !outcome.failures.has_errors()) {
                log(C::NAME, &snapshot, &Notes::default(), &outcome, took);
            }
        }
    }
}

fn publish<P>(
    reports: &watch::Sender<Option<Arc<Report<P>>>>,
    snapshot: &Snapshot,
    plan: &Arc<P>,
    notes: &Notes,
    outcome: Outcome,
    took: Duration,
) {
    let report = Report {
        generation: snapshot.generation(),
        plan: Arc::clone(plan),
        notes: notes.clone(),
        outcome,
        took,
    };
    reports.send_replace(Some(Arc::new(report)));
}

fn log(name: &str, snapshot: &Snapshot, notes: &Notes, outcome: &Outcome, took: Duration) {
    let generation = snapshot.generation();
    for note in notes.iter().chain(&outcome.failures) {
        tracing::warn!(consumer = name, generation, "{note}");
    }
    if outcome.changes > 0 {
        tracing::info!(consumer = name, generation, changes = outcome.changes, ?took, "applied");
    }
}

/// Pauses that double from 50 ms to 5 s.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(50))
    }
}

impl Backoff {
    /// The pause before the next try; the one after it will be twice as long.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(5));
        pause
    }
}

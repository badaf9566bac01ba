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

use tokio::sync::{Notify, watch};
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
    /// is for state that is part of the decision (address leases) and for what is kept of the last
    /// snapshot so that little is worked out anew; no I/O happens here.
    fn compile(&mut self, snapshot: &Arc<Snapshot>) -> (Self::Plan, Notes);

    /// Makes `plan` true, changing only what differs from what is. Tries everything, lists what
    /// failed.
    fn apply(&mut self, plan: &Arc<Self::Plan>) -> impl Future<Output = Outcome> + Send;

    /// Resolves when something besides the snapshot that [`Consumer::compile`] reads has changed,
    /// e.g. the VIPs that another consumer allocated. Must be safe to drop and call again.
    fn nudged(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Rung when what was made true may not be so any more, e.g. because somebody else changed it:
    /// [`Consumer::apply`] is called again at once, with the same plan.
    fn bell(&self) -> Option<Arc<Notify>> {
        None
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
    let bell = consumer.bell();
    let mut backoff = Backoff::default();
    let mut told = Notes::default();
    loop {
        let snapshot = Arc::clone(&world.borrow_and_update());
        let begun = Instant::now();
        let (plan, notes) = consumer.compile(&snapshot);
        let plan = Arc::new(plan);
        let mut outcome = consumer.apply(&plan).await;
        let mut took = begun.elapsed();
        // What stands is said once; `status` shows all that stands.
        log(C::NAME, &snapshot, &notes.without(&told), &outcome, took);
        told = notes.clone();
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
                () = rung(bell.as_deref()) => {}
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

async fn rung(bell: Option<&Notify>) {
    match bell {
        Some(bell) => bell.notified().await,
        None => std::future::pending().await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Draft;

    /// Records what it is told to do, and fails as often as it is told to.
    struct Recorder {
        compiled: watch::Sender<Vec<u64>>,
        applied: watch::Sender<usize>,
        failures: usize,
        bell: Arc<Notify>,
        nudges: tokio::sync::mpsc::Receiver<()>,
    }

    impl Consumer for Recorder {
        const NAME: &'static str = "recorder";
        type Plan = u64;

        fn compile(&mut self, snapshot: &Arc<Snapshot>) -> (u64, Notes) {
            self.compiled.send_modify(|it| it.push(snapshot.generation()));
            (snapshot.generation(), Notes::default())
        }

        async fn apply(&mut self, _: &Arc<u64>) -> Outcome {
            self.applied.send_modify(|it| *it += 1);
            let mut outcome = Outcome::default();
            if self.failures > 0 {
                self.failures -= 1;
                outcome.failures.error("recorder", "", "told to fail", "none");
            }
            outcome
        }

        fn bell(&self) -> Option<Arc<Notify>> {
            Some(Arc::clone(&self.bell))
        }

        async fn nudged(&mut self) {
            if self.nudges.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    struct Rig {
        worlds: watch::Sender<Arc<Snapshot>>,
        nudge: tokio::sync::mpsc::Sender<()>,
        compiled: watch::Receiver<Vec<u64>>,
        applied: watch::Receiver<usize>,
        bell: Arc<Notify>,
        reports: watch::Receiver<Option<Arc<Report<u64>>>>,
        stop: CancellationToken,
        parts: tokio::task::JoinSet<()>,
    }

    fn rig(failures: usize) -> Rig {
        let (worlds, world) = watch::channel(Arc::default());
        let (compiled, seen) = watch::channel(Vec::new());
        let (applied, counted) = watch::channel(0);
        let bell = Arc::new(Notify::new());
        let (report, reports) = watch::channel(None);
        let (nudge, nudges) = tokio::sync::mpsc::channel(1);
        let stop = CancellationToken::new();
        let mut parts = tokio::task::JoinSet::new();
        let recorder = Recorder { compiled, applied, failures, bell: Arc::clone(&bell), nudges };
        parts.spawn(drive(recorder, world, report, stop.clone()));
        Rig { worlds, nudge, compiled: seen, applied: counted, bell, reports, stop, parts }
    }

    impl Rig {
        fn publish(&self, generation: u64) {
            self.worlds.send_replace(Arc::new(Snapshot::build(Draft::default(), generation)));
        }

        async fn until_compiled(&mut self, times: usize) -> Vec<u64> {
            self.compiled.wait_for(|it| it.len() >= times).await.unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_worlds_is_compiled_once_and_nothing_before_the_first() {
        let mut rig = rig(0);
        sleep(Duration::from_secs(1)).await;
        assert!(rig.compiled.borrow().is_empty());
        for generation in 1..=9 {
            rig.publish(generation);
        }
        assert_eq!(rig.until_compiled(1).await, [9]);
        rig.stop.cancel();
        rig.parts.join_next().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_tried_again_with_growing_pauses_and_without_compiling() {
        let mut rig = rig(3);
        rig.publish(1);
        let begun = Instant::now();
        let fine = |it: &Option<Arc<Report<u64>>>| {
            it.as_ref().is_some_and(|it| !it.outcome.failures.has_errors())
        };
        rig.reports.wait_for(fine).await.unwrap();
        assert_eq!(begun.elapsed().as_millis(), 50 + 100 + 200);
        assert_eq!(*rig.compiled.borrow(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_nudge_compiles_the_same_world_again() {
        let mut rig = rig(0);
        rig.publish(4);
        rig.until_compiled(1).await;
        rig.nudge.send(()).await.unwrap();
        assert_eq!(rig.until_compiled(2).await, [4, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_applies_the_same_plan_again_without_compiling() {
        let mut rig = rig(0);
        rig.publish(4);
        rig.applied.wait_for(|times| *times == 1).await.unwrap();
        rig.bell.notify_one();
        rig.applied.wait_for(|times| *times == 2).await.unwrap();
        assert_eq!(*rig.compiled.borrow(), [4]);
    }

    #[test]
    fn what_was_said_before_is_not_said_again() {
        let (mut before, mut now) = (Notes::default(), Notes::default());
        before.error("service a", "", "is wrong", "mend it");
        now.error("service a", "", "is wrong", "mend it");
        now.error("service b", "", "is wrong", "mend it");
        let news: Vec<_> = now.without(&before).iter().map(|it| it.subject.clone()).collect();
        assert_eq!(news, ["service b"]);
    }
}

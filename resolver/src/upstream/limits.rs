//! How much one sandbox, and all together, may ask outside.
//!
//! Invariants
//! - *at once*: who may not ask is told so immediately; nobody waits for leave;
//! - *apart*: a sandbox that floods us uses up its own share first;
//! - *held as long as it costs*: a [`Passage`] lasts as long as the question that it was given for,
//!   whoever still waits for its answer; who waits for a question of others holds a [`Leave`] alone;
//! - *forwards only*: what is answered from what is known takes nothing from the bucket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::answer::Reason;
use crate::respond::Whom;

/// What one sandbox may ask outside.
#[derive(Debug)]
pub(crate) struct SandboxLimits {
    waiting: Arc<Semaphore>,
    share: Arc<Share>,
}

#[derive(Debug)]
struct Share {
    in_flight: Arc<Semaphore>,
    engine: Arc<Semaphore>,
    rate: Bucket,
}

/// Leave for one client to wait for an answer from outside, until dropped.
#[derive(Debug)]
pub(crate) struct Leave {
    share: Arc<Share>,
    _waiting: OwnedSemaphorePermit,
}

/// What all sandboxes together may ask outside.
#[derive(Debug)]
pub(crate) struct AllLimits(Arc<Semaphore>);

/// Leave to ask servers one question, until dropped.
#[derive(Debug)]
pub(crate) struct Passage {
    /// `None`: asked by ourselves.
    _of_sandbox: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl SandboxLimits {
    /// For a sandbox that is opened at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        let in_flight = Arc::new(Semaphore::new(MAX_OUTSIDE));
        let engine = Arc::new(Semaphore::new(MAX_ENGINE));
        let share = Arc::new(Share { in_flight, engine, rate: Bucket::new(now) });
        Self { waiting: Arc::new(Semaphore::new(MAX_WAITING)), share }
    }

    /// Leave for one more client to wait. Nobody gets it whose sandbox has as many questions in
    /// flight as it may: a flood is so refused before anything is done about it.
    pub(crate) fn leave(&self, whom: Whom) -> Result<Leave, Reason> {
        let asked = match whom {
            Whom::Upstream => &self.share.in_flight,
            Whom::Engine => &self.share.engine,
        };
        if asked.available_permits() == 0 {
            return Err(Reason::Busy);
        }
        let waiting =
            Arc::clone(&self.waiting).try_acquire_owned().map_err(|_full| Reason::Busy)?;
        Ok(Leave { share: Arc::clone(&self.share), _waiting: waiting })
    }
}

impl Leave {
    /// Leave to ask one question, by which nobody else is counted; until dropped.
    pub(crate) fn question(&self) -> Result<OwnedSemaphorePermit, Reason> {
        let permit = Arc::clone(&self.share.in_flight).try_acquire_owned();
        permit.map_err(|_full| Reason::Busy)
    }

    /// Leave to ask the engine's own resolver one question; until dropped. Servers outside that are
    /// silent so take no name with them that the engine knows.
    pub(crate) fn engine(&self) -> Result<OwnedSemaphorePermit, Reason> {
        let permit = Arc::clone(&self.share.engine).try_acquire_owned();
        permit.map_err(|_full| Reason::Busy)
    }
}

impl Default for AllLimits {
    /// Nobody asks yet.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_IN_ALL)))
    }
}

impl AllLimits {
    /// Leave to ask servers the question that has `leave` of its sandbox.
    pub(crate) fn admit(&self, leave: &Leave, now: Instant) -> Result<Passage, Reason> {
        let of_sandbox = leave.question()?;
        let of_all = Arc::clone(&self.0).try_acquire_owned().map_err(|_full| Reason::Busy)?;
        if !leave.share.rate.take(now) {
            return Err(Reason::Busy);
        }
        Ok(Passage { _of_sandbox: Some(of_sandbox), _of_all: of_all })
    }

    /// Leave for a question of our own, which nobody waits for.
    pub(crate) fn own(&self) -> Option<Passage> {
        let of_all = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Passage { _of_sandbox: None, _of_all: of_all })
    }

    /// Questions in flight.
    pub(crate) fn in_flight(&self) -> usize {
        MAX_IN_ALL.saturating_sub(self.0.available_permits())
    }
}

/// Questions of one sandbox that are being asked outside at once. The engine allows 1,024; each of
/// ours costs three descriptors at worst, and a client that has 256 names outstanding is broken.
const MAX_OUTSIDE: usize = 256;
/// Questions of one sandbox that its engine is being asked at once: it answers within a millisecond
/// or two, and whoever asks the same waits for the same answer. Not among [`MAX_IN_ALL`].
const MAX_ENGINE: usize = 256;
/// Clients of one sandbox that wait for an answer, as many as the engine allows: a crowd that asks
/// for one name costs one question.
pub(crate) const MAX_WAITING: usize = 1024;
/// Questions of all sandboxes at once: sixteen floods do not use up the descriptors that a process
/// may have by default on a server (`LimitNOFILESoft` raised to its hard limit, half a million).
const MAX_IN_ALL: usize = 4096;
/// Questions a second that one sandbox may have asked outside for long. A busy crawler asks some
/// hundreds; ten times that is what a loop in a program looks like.
const RATE: u64 = 2000;
/// Questions that it may ask at once after a quiet while: all names of a large start.
const BURST: u64 = 4000;

/// A token bucket in one number (GCRA, ITU-T I.371): the moment at which the bucket is full again.
#[derive(Debug)]
struct Bucket {
    begun: Instant,
    /// Nanoseconds since `begun`.
    full_at: AtomicU64,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { begun: now, full_at: AtomicU64::new(0) }
    }

    /// Takes one token; `false`: there is none.
    fn take(&self, now: Instant) -> bool {
        let now = nanos(now.saturating_duration_since(self.begun));
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let full_at = full_at.max(now);
            (full_at - now <= DEPTH - EACH).then_some(full_at + EACH)
        });
        taken.is_ok()
    }
}

/// Nanoseconds until one token is back.
const EACH: u64 = 1_000_000_000 / RATE;
/// Nanoseconds until an empty bucket is full.
const DEPTH: u64 = BURST * EACH;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2) // 292 years of service
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_bucket_gives_a_burst_and_then_its_rate() {
        let bucket = Bucket::new(Instant::now());
        let drain = |bucket: &Bucket| {
            let now = Instant::now();
            std::iter::repeat_with(|| bucket.take(now)).take_while(|it| *it).count()
        };
        assert_eq!(drain(&bucket), 4000);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(drain(&bucket), 200);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(drain(&bucket), 4000);
    }

    /// Passages for as many questions as the sandbox may ask now.
    fn as_many_as_it_may(all: &AllLimits, sandbox: &SandboxLimits) -> Vec<Passage> {
        let ask = || all.admit(&sandbox.leave(Whom::Upstream).ok()?, Instant::now()).ok();
        std::iter::from_fn(ask).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_sandbox_that_uses_up_its_share_leaves_that_of_others() {
        let all = AllLimits::default();
        let [greedy, modest] = [0, 1].map(|_| SandboxLimits::new(Instant::now()));
        let mut held = as_many_as_it_may(&all, &greedy);
        assert_eq!((held.len(), all.in_flight()), (MAX_OUTSIDE, MAX_OUTSIDE));
        assert_eq!(greedy.leave(Whom::Upstream).err(), Some(Reason::Busy));
        assert!(greedy.leave(Whom::Engine).unwrap().engine().is_ok(), "its engine is no server");
        assert!(all.admit(&modest.leave(Whom::Upstream).unwrap(), Instant::now()).is_ok());
        held.pop();
        assert!(greedy.leave(Whom::Upstream).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_whose_asker_left_counts_until_it_is_over() {
        let (all, sandbox) = (AllLimits::default(), SandboxLimits::new(Instant::now()));
        let held = as_many_as_it_may(&all, &sandbox); // the leaves themselves are dropped
        assert!(sandbox.leave(Whom::Upstream).is_err());
        drop(held);
        assert!(sandbox.leave(Whom::Upstream).is_ok());
        assert_eq!(all.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_clients_may_wait_than_questions_are_asked() {
        let sandbox = SandboxLimits::new(Instant::now());
        let waiting: Vec<_> = std::iter::from_fn(|| sandbox.leave(Whom::Upstream).ok()).collect();
        assert_eq!(waiting.len(), MAX_WAITING);
        let asked: Vec<_> = waiting.iter().map_while(|it| it.question().ok()).collect();
        assert_eq!(asked.len(), MAX_OUTSIDE);
    }

    #[tokio::test(start_paused = true)]
    async fn many_sandboxes_together_are_bounded_too() {
        let all = AllLimits::default();
        let sandboxes: Vec<_> = (0..17).map(|_| SandboxLimits::new(Instant::now())).collect();
        let held: Vec<_> = sandboxes.iter().flat_map(|it| as_many_as_it_may(&all, it)).collect();
        assert_eq!(held.len(), MAX_IN_ALL);
        assert!(all.own().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_fast_is_refused_when_the_bucket_is_empty_however_fast_answers_come() {
        let (all, sandbox) = (AllLimits::default(), SandboxLimits::new(Instant::now()));
        let ask = || all.admit(&sandbox.leave(Whom::Upstream).unwrap(), Instant::now()).is_ok();
        assert_eq!((0..5000).filter(|_| ask()).count(), 4000);
        assert_eq!(all.in_flight(), 0);
    }
}

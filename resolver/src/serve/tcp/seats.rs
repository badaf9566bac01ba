//! Who has a connection of a sandbox, and who goes when another comes and no seat is free.
//!
//! Invariants
//! - *bounded*: there are never more than so many;
//! - *whoever waits for an answer stays*: only one with nothing to do is sent away, the longest idle
//!   first (RFC 7766 section 6.2.3), so that idle connections block nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// The seats of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: Vec<Arc<Seat>>,
    idle: Arc<Notify>,
}

/// One connection's.
#[derive(Debug)]
pub(super) struct Seat {
    /// `None`: its client waits for an answer.
    idle_since: Mutex<Option<Instant>>,
    left: Notify,
    idle: Arc<Notify>,
}

impl Seats {
    /// One more, whose holder has done nothing yet at `now`.
    pub(super) fn take(&mut self, now: Instant) -> Arc<Seat> {
        self.taken.retain(|it| Arc::strong_count(it) > 1); // who went holds none
        let seat = Arc::new(Seat {
            idle_since: Mutex::new(Some(now)),
            left: Notify::new(),
            idle: Arc::clone(&self.idle),
        });
        self.taken.push(Arc::clone(&seat));
        seat
    }

    /// Asks the one that has been idle longest to leave; `false`: nobody is idle.
    pub(super) fn dismiss(&mut self) -> bool {
        let longest = self
            .taken
            .iter()
            .enumerate()
            .filter(|(_, it)| Arc::strong_count(it) > 1)
            .filter_map(|(at, it)| Some((*it.lock(), at)).filter(|(since, _)| since.is_some()))
            .min();
        if let Some((_, at)) = longest {
            self.taken.swap_remove(at).left.notify_one();
        }
        longest.is_some()
    }

    /// Waits until somebody has nothing to do any more.
    pub(super) async fn somebody_idle(&self) {
        self.idle.notified().await;
    }
}

impl Seat {
    /// Its client waits for an answer.
    pub(super) fn busy(&self) {
        *self.lock() = None;
    }

    /// Its client has had nothing to wait for since `moved`.
    pub(super) fn idle(&self, moved: Instant) {
        if self.lock().replace(moved).is_none() {
            self.idle.notify_one();
        }
    }

    /// Waits until its holder is to leave.
    pub(super) async fn dismissed(&self) {
        self.left.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        // Only whole values are put in.
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_goes_and_whoever_waits_for_an_answer_stays() {
        let mut seats = Seats::default();
        let begun = Instant::now();
        let [first, second, third] =
            [0, 1, 2].map(|at| seats.take(begun + Duration::from_secs(at)));
        first.busy();
        assert!(seats.dismiss());
        second.dismissed().await;
        third.busy();
        assert!(!seats.dismiss());
        first.idle(begun + Duration::from_secs(9));
        seats.somebody_idle().await;
        assert!(seats.dismiss());
        first.dismissed().await;
        assert!(tokio::time::timeout(Duration::from_secs(1), third.dismissed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_went_by_himself_is_not_sent_away_in_another_s_place() {
        let mut seats = Seats::default();
        let first = seats.take(Instant::now());
        let second = seats.take(Instant::now() + Duration::from_secs(1));
        drop(first);
        assert!(seats.dismiss());
        second.dismissed().await;
    }
}

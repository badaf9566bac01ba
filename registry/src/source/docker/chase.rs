//! How soon gossip about one network is read again after a sign that it changes. Pure: `now` is an
//! argument.
//!
//! The sign (a neighbour appears in the overlay's namespace) comes before the gossip tells what it
//! means, so it is read at once and then with growing pauses until it stays as it is. Each reading
//! costs the engine some 25 ms and lines in its log: a network in constant motion has a budget.

use std::time::{Duration, Instant};

/// The pauses after a sign, and after a reading that differed from the one before.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];
/// How many readings a network may have at once: a rolling update of some tasks.
const BUDGET: u32 = 40;
/// How long until one more is granted: two a second in the long run.
const GRANT: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Chase {
    step: usize,
    budget: u32,
    granted: Instant,
}

impl Chase {
    /// At rest.
    pub(crate) fn new(now: Instant) -> Self {
        Self { step: PAUSES.len(), budget: BUDGET, granted: now }
    }

    /// There is a sign of change: when to read.
    pub(crate) fn signed(&mut self, now: Instant) -> Instant {
        self.grant(now);
        self.step = 0;
        if self.budget > 0 { now } else { self.granted + GRANT }
    }

    /// A reading ended: when to read again. `None`: it stays as it is, all is known.
    pub(crate) fn was_read(&mut self, now: Instant, differs: bool) -> Option<Instant> {
        self.grant(now);
        self.budget = self.budget.saturating_sub(1);
        if differs {
            self.step = 0;
        }
        let pause = PAUSES.get(self.step)?;
        self.step += 1;
        Some(if self.budget > 0 { now + *pause } else { (self.granted + GRANT).max(now + *pause) })
    }

    /// Whether something is expected to change.
    pub(crate) fn is_on(&self) -> bool {
        self.step < PAUSES.len() && self.budget > 0
    }

    fn grant(&mut self, now: Instant) {
        while self.budget < BUDGET && now.saturating_duration_since(self.granted) >= GRANT {
            self.budget += 1;
            self.granted += GRANT;
        }
        if self.budget == BUDGET {
            self.granted = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_sign_is_followed_with_growing_pauses_and_then_rests() {
        let start = now();
        let mut chase = Chase::new(start);
        let mut at = chase.signed(start);
        assert_eq!(at, start);
        let mut readings = 1;
        while let Some(next) = chase.was_read(at, false) {
            (at, readings) = (next, readings + 1);
        }
        assert_eq!((readings, at.duration_since(start).as_millis()), (7, 3150));
        assert_eq!(chase.was_read(at, false), None, "the floor's readings start no chase");
    }

    #[test]
    fn a_reading_that_differs_starts_over() {
        let start = now();
        let mut chase = Chase::new(start);
        chase.signed(start);
        chase.was_read(start, false);
        chase.was_read(start, false);
        assert_eq!(chase.was_read(start, true), Some(start + PAUSES[0]));
    }

    #[test]
    fn constant_motion_is_read_twice_a_second_in_the_long_run() {
        let start = now();
        let mut chase = Chase::new(start);
        let (mut at, mut readings) = (start, 0);
        while at < start + Duration::from_secs(100) {
            at = chase.signed(at).max(at);
            at = chase.was_read(at, true).unwrap();
            readings += 1;
        }
        assert!((200..=250).contains(&readings), "{readings}");
    }
}

//! What is remembered of one server: how fast it answers, and whether it does.
//!
//! Invariants
//! - *set aside, never given up*: a server that failed is asked again and again, at growing
//!   distances, and one answer brings it back;
//! - *innocent while it speaks*: a question that stays without an answer counts against a server
//!   only if it answered nothing else meanwhile, because a name whose own servers are dead keeps
//!   every resolver waiting.
//!
//! Pure: the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// The memory of one server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// Smoothed round-trip time; `None`: it has not answered yet.
    srtt: Option<Duration>,
    /// Failures in a row.
    failures: u32,
    answered: Option<Instant>,
    failed: Option<Instant>,
    /// It was overtaken by another, and has not answered since.
    suspect: bool,
    probe_at: Option<Instant>,
    /// It cannot read EDNS, until then.
    plain_until: Option<Instant>,
}

/// How a server is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum State {
    /// It has not been asked yet.
    Unknown,
    /// It answers.
    Up,
    /// It failed the last time; another failure sets it aside.
    Failing,
    /// It failed twice or more in a row, and is asked only to see whether it is back.
    Down,
}

/// What is preferred, smallest first.
pub(crate) type Rank = (u8, u8);

impl Health {
    /// It answered, `rtt` after it was asked; `None`: after it was asked more than once, so that
    /// nobody knows which time it meant (Karn).
    pub(crate) fn answered(&mut self, rtt: Option<Duration>, now: Instant) {
        self.failures = 0;
        self.suspect = false;
        self.probe_at = None;
        self.answered = Some(now);
        if let Some(rtt) = rtt {
            // RFC 6298 section 2: one eighth of each new sample.
            self.srtt = Some(self.srtt.map_or(rtt, |it| (it * 7 + rtt) / 8));
        }
    }

    /// It did not answer what it was asked at `asked`, or cannot be reached.
    pub(crate) fn failed(&mut self, asked: Instant, now: Instant) {
        // Questions that were on their way together fail together: that is one failure.
        let told = self.failed.is_some_and(|it| it > asked);
        if told || self.answered.is_some_and(|it| it >= asked) {
            return;
        }
        self.failed = Some(now);
        self.suspect = false;
        self.failures = self.failures.saturating_add(1);
        let doublings = self.failures.saturating_sub(1).min(MAX_DOUBLINGS);
        self.probe_at = Some(now + (PROBE * 2_u32.pow(doublings)).min(MAX_PROBE));
    }

    /// Another server answered first. True: it is worth waiting on, to learn whether it is dead.
    pub(crate) fn overtaken(&mut self) -> bool {
        !std::mem::replace(&mut self.suspect, true)
    }

    /// Whether it is time to ask it in the background.
    pub(crate) fn is_probe_due(&self, now: Instant) -> bool {
        self.probe_at.is_some_and(|it| it <= now)
    }

    /// The same, by one who asks it then: a probe that is due is due once.
    pub(crate) fn take_probe(&mut self, now: Instant) -> bool {
        let due = self.is_probe_due(now);
        if due {
            self.probe_at = Some(now + MAX_PROBE); // until it is told how this one ended
        }
        due
    }

    /// It said that it cannot read EDNS.
    pub(crate) fn reads_no_edns(&mut self, now: Instant) {
        self.plain_until = Some(now + NO_EDNS);
    }

    /// Whether it is asked with EDNS.
    pub(crate) fn edns(&self, now: Instant) -> bool {
        self.plain_until.is_none_or(|it| it <= now)
    }

    /// How it is.
    pub(crate) fn state(&self) -> State {
        match (self.failures, self.answered) {
            (0, None) => State::Unknown,
            (0, Some(_)) => State::Up,
            (1, _) => State::Failing,
            (2.., _) => State::Down,
        }
    }

    /// Its smoothed round-trip time; `None`: it has not answered yet.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Its place among the servers. Those that are about as fast stay in the order in which the
    /// operator named them: the first may know names that the others do not.
    pub(crate) fn rank(&self) -> Rank {
        let trust = match self.state() {
            State::Unknown | State::Up if !self.suspect => 0,
            State::Unknown | State::Up | State::Failing => 1,
            State::Down => 2,
        };
        let pace = SLOW.iter().filter(|it| self.srtt.is_some_and(|srtt| srtt > **it)).count();
        (trust, u8::try_from(pace).unwrap_or(u8::MAX))
    }

    /// How long it is waited for before another is asked too.
    pub(crate) fn patience(&self) -> Duration {
        self.srtt.map_or(MAX_PATIENCE, |it| (it * 2).clamp(MIN_PATIENCE, MAX_PATIENCE))
    }
}

/// Below this, waiting costs less than asking twice.
const MIN_PATIENCE: Duration = Duration::from_millis(50);
/// Above this, people notice.
const MAX_PATIENCE: Duration = Duration::from_millis(400);
/// A server that failed is asked again so much later ...
const PROBE: Duration = Duration::from_millis(500);
/// ... then after twice that, and so on up to this.
const MAX_PROBE: Duration = Duration::from_secs(30);
/// Enough to reach [`MAX_PROBE`].
const MAX_DOUBLINGS: u32 = 6;
/// Servers that cannot read EDNS are replaced sometimes.
const NO_EDNS: Duration = Duration::from_secs(300);
/// What is slower than this is a class worse: across a continent, across the world.
const SLOW: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn two_failures_in_a_row_set_a_server_aside_and_one_answer_brings_it_back() {
        let begun = Instant::now();
        let mut health = Health::default();
        assert_eq!(health.state(), State::Unknown);
        health.failed(begun, begun);
        assert_eq!((health.state(), health.rank()), (State::Failing, (1, 0)));
        health.failed(begun, begun);
        assert_eq!((health.state(), health.rank()), (State::Down, (2, 0)));
        health.answered(Some(ms(3)), begun + ms(1));
        assert_eq!((health.state(), health.rank()), (State::Up, (0, 0)));
        assert_eq!(health.probe_at, None);
    }

    #[test]
    fn a_server_that_failed_is_probed_at_distances_that_double_up_to_half_a_minute() {
        let mut now = Instant::now();
        let mut health = Health::default();
        assert!(!health.take_probe(now));
        for expected in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            health.failed(now, now);
            assert!(!health.take_probe(now + ms(expected - 1)), "{expected}");
            now += ms(expected);
            assert!(health.take_probe(now), "{expected}");
            assert!(!health.take_probe(now), "one probe at a time");
        }
    }

    #[test]
    fn silence_about_one_name_does_not_count_against_a_server_that_speaks_about_others() {
        let asked = Instant::now();
        let mut health = Health::default();
        health.answered(Some(ms(5)), asked + ms(10));
        health.failed(asked, asked + ms(1500));
        assert_eq!(health.state(), State::Up);
        health.failed(asked + ms(11), asked + ms(1500));
        assert_eq!(health.state(), State::Failing);
    }

    #[test]
    fn questions_that_fail_together_count_once() {
        let asked = Instant::now();
        let mut health = Health::default();
        for _ in 0..100 {
            health.failed(asked, asked + ms(1500));
        }
        assert_eq!((health.failures, health.state()), (1, State::Failing));
    }

    #[test]
    fn patience_is_twice_the_round_trip_within_bounds() {
        for (rtt, expected) in [(1, 50), (40, 80), (150, 300), (900, 400)] {
            let mut health = Health::default();
            health.answered(Some(ms(rtt)), Instant::now());
            assert_eq!(health.patience(), ms(expected), "{rtt}");
        }
        assert_eq!(Health::default().patience(), ms(400));
    }

    #[test]
    fn an_overtaken_server_comes_later_until_it_answers_and_is_waited_on_once() {
        let mut health = Health::default();
        assert!(health.overtaken());
        assert!(!health.overtaken());
        assert_eq!(health.rank(), (1, 0));
        health.answered(Some(ms(200)), Instant::now());
        assert_eq!(health.rank(), (0, 1));
    }

    #[test]
    fn a_server_without_edns_is_asked_with_it_again_after_a_while() {
        let now = Instant::now();
        let mut health = Health::default();
        health.reads_no_edns(now);
        assert!(!health.edns(now + ms(299_999)));
        assert!(health.edns(now + ms(300_000)));
    }
}

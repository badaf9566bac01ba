//! What probes in a row make of one task. Pure: the time is an argument.
//!
//! Invariants
//! - *slow both ways*: it takes `fall` failures in a row to take a task out, and `rise` successes
//!   to bring it back;
//! - *a start is no illness*: what brings a task up that never was is one success, however late;
//! - *damped*: each fall within [`MEMORY`] doubles the successes that are wanted, up to
//!   [`MOST_DOUBLINGS`] times;
//! - *blind is not bad*: probes that could not be made never take a task out, and `fall` of them in
//!   a row bring it back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use registry::balance_spec::HealthCheck;

/// How one probe went.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Finding {
    /// The task did what is asked of it.
    Passed,
    /// It did not, and how.
    Failed(String),
    /// The probe could not be made: nothing is known.
    Unknown,
}

/// A task, as its probes leave it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Standing {
    state: State,
    /// Findings in a row that speak against the state.
    streak: u32,
    /// Probes in a row that could not be made.
    blind: u32,
    /// When it fell lately, oldest first.
    falls: VecDeque<Instant>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// It may serve.
    Up,
    /// It is new and did not pass yet.
    Unproven,
    /// It is new, failed as often as takes a task out, and never passed: how.
    Never(String),
    /// It may not, and why.
    Down(String),
}

impl Standing {
    /// Of a task that served before anybody looked.
    pub(super) fn up() -> Self {
        Self { state: State::Up, streak: 0, blind: 0, falls: VecDeque::new() }
    }

    /// Of a task that just came.
    pub(super) fn unproven() -> Self {
        Self { state: State::Unproven, ..Self::up() }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Takes a finding in; whether the state changed. `what` is the check in words.
    pub(super) fn record(
        &mut self,
        finding: Finding,
        check: &HealthCheck,
        what: impl FnOnce() -> String,
        now: Instant,
    ) -> bool {
        self.blind = if finding == Finding::Unknown { self.blind.saturating_add(1) } else { 0 };
        let next = match (&self.state, finding) {
            (State::Unproven | State::Never(_) | State::Down(_), Finding::Unknown)
                if self.blind >= check.fall =>
            {
                State::Up
            }
            (_, Finding::Unknown) => return false,
            (State::Unproven | State::Never(_), Finding::Passed) => State::Up,
            (State::Down(_), Finding::Passed) => {
                self.streak = self.streak.saturating_add(1);
                if self.streak < self.wanted(check, now) {
                    return false;
                }
                State::Up
            }
            (State::Up, Finding::Passed)
            | (State::Never(_) | State::Down(_), Finding::Failed(_)) => {
                self.streak = 0;
                return false;
            }
            (State::Up | State::Unproven, Finding::Failed(how)) => {
                self.streak = self.streak.saturating_add(1);
                if self.streak < check.fall {
                    return false;
                }
                self.fall(&how, check, &what(), now)
            }
        };
        self.streak = 0;
        self.state = next;
        true
    }

    fn fall(&mut self, how: &str, check: &HealthCheck, what: &str, now: Instant) -> State {
        let times =
            if check.fall == 1 { "once".to_owned() } else { format!("{} times", check.fall) };
        let mut reason = format!("{what} failed {times}: {how}");
        // A task that never came up does not flap.
        if self.state == State::Unproven {
            return State::Never(reason);
        }
        self.forget(now);
        self.falls.push_back(now);
        if self.falls.len() > REMEMBERED {
            self.falls.pop_front();
        }
        let falls = self.falls.len();
        if falls > 1 {
            let wanted = self.wanted(check, now);
            let minutes = MEMORY.as_secs() / 60;
            let flapping = format!(
                "; it fell {falls} times within {minutes} minutes, so it takes {wanted} successes \
                 to bring it back"
            );
            reason.push_str(&flapping);
        }
        State::Down(reason)
    }

    /// Successes in a row that bring it back.
    fn wanted(&mut self, check: &HealthCheck, now: Instant) -> u32 {
        self.forget(now);
        let doublings = self.falls.len().saturating_sub(1).min(MOST_DOUBLINGS);
        (0..doublings).fold(check.rise, |wanted, _| wanted.saturating_mul(2))
    }

    fn forget(&mut self, now: Instant) {
        while self.falls.front().is_some_and(|it| now.saturating_duration_since(*it) >= MEMORY) {
            self.falls.pop_front();
        }
    }
}

/// How long a fall counts.
const MEMORY: Duration = Duration::from_secs(600);
/// With the usual check, 32 successes: five minutes.
const MOST_DOUBLINGS: usize = 4;
/// More falls than this within [`MEMORY`] change nothing.
const REMEMBERED: usize = MOST_DOUBLINGS + 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use registry::balance_spec::Probe;

    use super::*;

    fn check(rise: u32, fall: u32) -> HealthCheck {
        HealthCheck { rise, fall, ..HealthCheck::new(Probe::Tcp { port: 80 }) }
    }

    struct Rig {
        standing: Standing,
        check: HealthCheck,
        now: Instant,
    }

    impl Rig {
        #[expect(clippy::disallowed_methods, reason = "any moment will do")]
        fn new(standing: Standing, rise: u32, fall: u32) -> Self {
            Self { standing, check: check(rise, fall), now: Instant::now() }
        }

        /// `p`: passed, `f`: failed, `?`: unknown; ten seconds between them. What is so after each:
        /// `U`p, `N`ew, ne`V`er, `D`own.
        fn after(&mut self, findings: &str) -> String {
            let mut states = String::new();
            for finding in findings.chars() {
                let finding = match finding {
                    'p' => Finding::Passed,
                    'f' => Finding::Failed("connection refused".to_owned()),
                    _ => Finding::Unknown,
                };
                self.now += Duration::from_secs(10);
                let what = || "tcp check of 10.0.0.1:80".to_owned();
                self.standing.record(finding, &self.check, what, self.now);
                states.push(match self.standing.state() {
                    State::Up => 'U',
                    State::Unproven => 'N',
                    State::Never(_) => 'V',
                    State::Down(_) => 'D',
                });
            }
            states
        }
    }

    #[test]
    fn it_takes_failures_in_a_row_to_fall_and_successes_in_a_row_to_rise() {
        let mut rig = Rig::new(Standing::up(), 2, 3);
        assert_eq!(rig.after("ffpfff"), "UUUUUD");
        let State::Down(reason) = rig.standing.state().clone() else { panic!("not down") };
        assert_eq!(reason, "tcp check of 10.0.0.1:80 failed 3 times: connection refused");
        assert_eq!(rig.after("pfpp"), "DDDU");
    }

    #[test]
    fn a_new_task_is_proven_by_one_success_however_late_and_falls_like_any_other_then() {
        assert_eq!(Rig::new(Standing::unproven(), 2, 3).after("ffp"), "NNU");
        let mut late = Rig::new(Standing::unproven(), 2, 3);
        assert_eq!(late.after("ffffffp"), "NNVVVVU");
        assert_eq!(late.after("fffpp"), "UUDDU", "its start was no fall");
    }

    #[test]
    fn a_probe_that_cannot_be_made_takes_nobody_out_and_brings_back_whom_nobody_sees() {
        assert_eq!(Rig::new(Standing::up(), 2, 3).after("ff???????"), "UUUUUUUUU");
        assert_eq!(Rig::new(Standing::up(), 2, 3).after("fff??f???"), "UUDDDDDDU");
        assert_eq!(Rig::new(Standing::unproven(), 2, 3).after("???"), "NNU");
        assert_eq!(Rig::new(Standing::unproven(), 2, 3).after("fff???"), "NNVVVU");
    }

    #[test]
    fn who_falls_often_must_stand_longer_and_is_forgiven_in_time() {
        let mut rig = Rig::new(Standing::up(), 1, 1);
        assert_eq!(rig.after("fp"), "DU");
        assert_eq!(rig.after("fpp"), "DDU");
        assert_eq!(rig.after("fpppp"), "DDDDU");
        assert_eq!(rig.after("f"), "D");
        let State::Down(reason) = rig.standing.state().clone() else { panic!("not down") };
        assert!(
            reason.ends_with(
                "fell 4 times within 10 minutes, so it takes 8 successes to bring it back"
            ),
            "{reason}"
        );
        assert_eq!(rig.after("pppppppp"), "DDDDDDDU");
        rig.now += MEMORY;
        assert_eq!(rig.after("fp"), "DU");
    }

    proptest! {
        #[test]
        fn a_state_changes_only_after_as_many_findings_as_it_takes(
            findings in "[pf?]{0,80}", rise in 1u32..5, fall in 1u32..5, new: bool,
        ) {
            let standing = if new { Standing::unproven() } else { Standing::up() };
            let mut rig = Rig::new(standing, rise, fall);
            let mut before = if new { 'N' } else { 'U' };
            let states = rig.after(&findings);
            for (at, now) in states.char_indices() {
                // The findings that were made, without those that say nothing.
                let seen: Vec<char> = findings[..=at].chars().filter(|it| *it != '?').collect();
                let last = |count: u32, of: char| {
                    let count = count as usize;
                    seen.len() >= count && seen[seen.len() - count..].iter().all(|it| *it == of)
                };
                let blind = findings[..=at].chars().rev().take_while(|it| *it == '?').count();
                match (before, now) {
                    ('U', 'D') | ('N', 'V') => prop_assert!(last(fall, 'f')),
                    ('D', 'U') => prop_assert!(last(rise, 'p') || blind >= fall as usize),
                    ('N' | 'V', 'U') => prop_assert!(last(1, 'p') || blind >= fall as usize),
                    (was, is) => prop_assert_eq!(was, is),
                }
                before = now;
            }
            // However it flapped, so many successes bring it back.
            let enough = rise as usize * 16;
            prop_assert_eq!(rig.after(&"p".repeat(enough)).pop(), Some('U'));
        }
    }
}

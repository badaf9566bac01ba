//! Whom to ask next about one question, and when.
//!
//! Invariants
//! - *one after the other*: the next server is asked when the ones before have failed, or have
//!   kept us waiting for as long as they usually need;
//! - *each once*, and nobody after the deadline;
//! - *never nobody*: where all servers are set aside, all are asked at once.
//!
//! Pure: the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::health::Rank;

/// One question on its way through the servers.
#[derive(Debug)]
pub(crate) struct Race {
    /// Those to be asked, best first: which, and how long to wait before the next.
    order: Vec<(usize, Duration)>,
    asked: usize,
    failed: usize,
    /// When the next one is asked, if nobody answers before.
    due: Instant,
    deadline: Instant,
}

impl Race {
    /// Begins with the best of `servers`: their ranks and how patient to be with each.
    pub(crate) fn begin(servers: &[(Rank, Duration)], now: Instant) -> Self {
        let mut order: Vec<_> = servers.iter().enumerate().collect();
        order.sort_by_key(|(_, (rank, _))| *rank); // stable: else as they were named
        let all_down = servers.iter().all(|((trust, _), _)| *trust >= DOWN);
        let wait = |patience: Duration| if all_down { Duration::ZERO } else { patience };
        let order = order.into_iter().map(|(at, (_, patience))| (at, wait(*patience))).collect();
        Self { order, asked: 0, failed: 0, due: now, deadline: now + BUDGET }
    }

    /// The server to ask now, if any.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<usize> {
        let due = now >= self.due && now < self.deadline;
        let (server, wait) = self.order.get(self.asked).filter(|_| due).copied()?;
        self.asked += 1;
        self.due = now + wait;
        Some(server)
    }

    /// One that was asked will give no good answer any more.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failed += 1;
        self.due = now;
    }

    /// When to look again, if nobody says anything.
    pub(crate) fn wake(&self) -> Instant {
        if self.asked < self.order.len() { self.due.min(self.deadline) } else { self.deadline }
    }

    /// Whether there is nothing more to wait for.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline || self.failed == self.order.len()
    }
}

/// The first part of the [`Rank`] of servers that are set aside.
const DOWN: u8 = 2;
/// All of it must end before the client's usual five seconds.
pub(crate) const BUDGET: Duration = Duration::from_millis(4500);

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// When each of them is asked, nobody answering, in milliseconds.
    fn asked(servers: &[(Rank, Duration)]) -> Vec<(usize, u128)> {
        let begun = Instant::now();
        let mut race = Race::begin(servers, begun);
        let (mut now, mut said) = (begun, Vec::new());
        while !race.is_over(now) {
            while let Some(server) = race.ask(now) {
                said.push((server, (now - begun).as_millis()));
            }
            now = race.wake();
        }
        assert_eq!(now - begun, BUDGET);
        said
    }

    #[test]
    fn each_server_is_asked_once_after_the_patience_with_the_one_before() {
        let servers = [((0, 0), ms(50)), ((0, 0), ms(400)), ((0, 0), ms(80))];
        assert_eq!(asked(&servers), [(0, 0), (1, 50), (2, 450)]);
    }

    #[test]
    fn better_servers_come_first_and_equals_stay_in_their_order() {
        let servers = [((2, 0), ms(50)), ((0, 1), ms(60)), ((0, 0), ms(70))];
        assert_eq!(asked(&servers), [(2, 0), (1, 70), (0, 130)]);
    }

    #[test]
    fn where_all_are_set_aside_all_are_asked_at_once() {
        let servers = [((2, 0), ms(400)); 3];
        assert_eq!(asked(&servers), [(0, 0), (1, 0), (2, 0)]);
    }

    #[test]
    fn after_a_failure_the_next_is_asked_at_once_and_after_the_last_it_is_over() {
        let now = Instant::now();
        let mut race = Race::begin(&[((0, 0), ms(400)), ((0, 0), ms(400))], now);
        assert_eq!((race.ask(now), race.ask(now)), (Some(0), None));
        race.failed(now + ms(3));
        assert_eq!(race.ask(now + ms(3)), Some(1));
        assert!(!race.is_over(now + ms(3)));
        race.failed(now + ms(5));
        assert!(race.is_over(now + ms(5)));
    }

    #[test]
    fn nobody_is_asked_where_nobody_may_be() {
        let now = Instant::now();
        let mut race = Race::begin(&[], now);
        assert!(race.is_over(now));
        assert_eq!(race.ask(now), None);
    }
}

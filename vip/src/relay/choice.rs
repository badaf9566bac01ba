//! Which task a new session goes to. Pure: the clock and the dice are arguments.
//!
//! Invariants
//! - *only serving ones*: what is chosen is one of the target's slots;
//! - *faithful*: with affinity a client keeps its task as long as that serves and answers;
//! - *bounded*: clients are forgotten after [`FORGET_AFTER`], and the longest unseen when there are
//!   more than [`CLIENTS`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::Target;
use super::recent::Recent;

/// How long a client is remembered that does not come back: as kube-proxy does.
const FORGET_AFTER: Duration = Duration::from_secs(3 * 3600);
/// Clients of one entrance that are remembered; 100 bytes each.
const CLIENTS: usize = 16_384;
/// How long a task that did not answer is asked only if there is no other.
const GRUDGE: Duration = Duration::from_secs(2);

/// What is remembered of an entrance's tasks and clients.
#[derive(Debug)]
pub(super) struct Memory {
    /// Which task a client had last.
    clients: Recent<IpAddr, SocketAddr>,
    /// When a task failed to answer.
    failed: BTreeMap<SocketAddr, Instant>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { clients: Recent::new(CLIENTS), failed: BTreeMap::new() }
    }
}

impl Memory {
    /// A task for a new session of `client`, none of those in `tried`; `None`: there is no other.
    pub(super) fn choose(
        &mut self,
        target: &Target,
        client: IpAddr,
        tried: &[SocketAddr],
        now: Instant,
        dice: &mut Dice,
    ) -> Option<SocketAddr> {
        let open = |it: &SocketAddr| !tried.contains(it);
        if target.affinity
            && let Some(kept) = self.clients.touch(&client, now)
            && target.slots.contains(kept)
            && open(kept)
        {
            return Some(*kept);
        }
        let chosen = self.choose_any(target, open, now, dice)?;
        if target.affinity {
            self.clients.insert(client, chosen, now);
        }
        Some(chosen)
    }

    /// Remembers that a task did not answer.
    pub(super) fn failed(&mut self, task: SocketAddr, now: Instant) {
        self.failed.insert(task, now);
    }

    /// Remembers that a task did not answer this client, who has not asked another one yet.
    pub(super) fn abandoned(&mut self, client: IpAddr, task: SocketAddr, now: Instant) {
        self.failed(task, now);
        if self.clients.touch(&client, now).is_some_and(|it| *it == task) {
            self.clients.remove(&client);
        }
    }

    /// Forgets what is too old, and tasks that the target does not name.
    pub(super) fn tidy(&mut self, target: &Target, now: Instant) {
        self.failed.retain(|task, failed| {
            now.duration_since(*failed) < GRUDGE && target.slots.contains(task)
        });
        self.clients.expire_oldest(now, FORGET_AFTER);
    }

    fn choose_any(
        &self,
        target: &Target,
        open: impl Fn(&SocketAddr) -> bool,
        now: Instant,
        dice: &mut Dice,
    ) -> Option<SocketAddr> {
        let good = |it: &SocketAddr| {
            self.failed.get(it).is_none_or(|failed| now.duration_since(*failed) >= GRUDGE)
        };
        // Almost always at the first throw: a list of all that can be chosen would cost more.
        for _ in 0..4 {
            let chosen = dice.pick(&target.slots)?;
            if open(chosen) && (self.failed.is_empty() || good(chosen)) {
                return Some(*chosen);
            }
        }
        let open: Vec<_> = target.slots.iter().filter(|it| open(it)).copied().collect();
        let good: Vec<_> = open.iter().filter(|it| good(it)).copied().collect();
        dice.pick(if good.is_empty() { &open } else { &good }).copied()
    }
}

/// Random numbers, good enough to spread load (splitmix64).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// A sequence of its own for each seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let len = u64::try_from(from.len()).unwrap_or(1).max(1);
        from.get(usize::try_from(self.roll() % len).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::plan::Place;

    fn target(slots: &[&str], affinity: bool) -> Target {
        let slots: Vec<SocketAddr> = slots.iter().map(|it| it.parse().unwrap()).collect();
        Target {
            service: "web".to_owned(),
            network: "front".to_owned(),
            alive: slots.iter().copied().collect(),
            resting: BTreeMap::new(),
            slots,
            dial: Place::Host,
            proxy_protocol: false,
            affinity,
            drain: Duration::from_secs(1),
        }
    }

    const A: &str = "10.0.0.1:80";
    const B: &str = "10.0.0.2:80";
    const C: &str = "10.0.0.3:80";

    fn client(last: u8) -> IpAddr {
        IpAddr::from([10, 9, 0, last])
    }

    #[test]
    fn sessions_are_spread_by_slots() {
        let (target, mut memory, mut dice) =
            (target(&[A, A, A, B], false), Memory::default(), Dice::new(1));
        let now = Instant::now();
        let choose = |_| memory.choose(&target, client(1), &[], now, &mut dice).unwrap();
        let heavy = (0..4_000).map(choose).filter(|it| it.to_string() == A).count();
        // Five sigma of a binomial distribution with p = 3/4.
        assert!((2_863..=3_137).contains(&heavy), "{heavy}");
    }

    #[test]
    fn a_client_keeps_its_task_while_that_serves() {
        let (before, after) = (target(&[A, B, C], true), target(&[B, C], true));
        let (mut memory, mut dice, now) = (Memory::default(), Dice::new(1), Instant::now());
        for last in 0..50 {
            let mut choose = |target| memory.choose(target, client(last), &[], now, &mut dice);
            let first = choose(&before).unwrap();
            assert!((0..20).all(|_| choose(&before) == Some(first)));
            let second = choose(&after).unwrap();
            assert!(first == second || first.to_string() == A);
            assert_eq!(choose(&before), Some(second), "one that came back gets no old clients");
        }
    }

    #[test]
    fn a_client_leaves_the_task_that_did_not_answer_it_and_others_stay() {
        let (target, mut memory, mut dice) =
            (target(&[A, B], true), Memory::default(), Dice::new(1));
        let now = Instant::now();
        let mut choose = |memory: &mut Memory, last, now| {
            memory.choose(&target, client(last), &[], now, &mut dice).unwrap()
        };
        let first = choose(&mut memory, 1, now);
        let other = (2..50).find(|it| choose(&mut memory, *it, now) == first).unwrap();
        memory.abandoned(client(1), first, now);
        let second = choose(&mut memory, 1, now);
        assert_ne!(second, first);
        assert_eq!(choose(&mut memory, 1, now + GRUDGE), second, "it stays where it went");
        assert_eq!(choose(&mut memory, other, now), first);
    }

    #[test]
    fn no_task_is_asked_twice_and_those_that_failed_come_last() {
        let (target, mut memory, mut dice) =
            (target(&[A, B], false), Memory::default(), Dice::new(1));
        let now = Instant::now();
        let (a, b): (SocketAddr, SocketAddr) = (A.parse().unwrap(), B.parse().unwrap());
        memory.failed(a, now);
        let mut choose =
            |tried: &[_], now| memory.choose(&target, client(1), tried, now, &mut dice);
        assert!((0..50).all(|_| choose(&[], now) == Some(b)));
        assert_eq!(choose(&[b], now), Some(a));
        assert_eq!(choose(&[b, a], now), None);
        let later = now + GRUDGE;
        assert!((0..50).any(|_| choose(&[], later) == Some(a)));
    }
}

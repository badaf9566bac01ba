//! How long connections to draining tasks may go on. Pure: the time is an argument.
//!
//! Invariants
//! - *counted from the first sight*: a drain begins when it is first seen, also by a portolan before
//!   this one, if somebody [`Drains::remember`]s that;
//! - *level-triggered*: one whose time is over stays so as long as the task drains, so that whoever
//!   was missed is found later;
//! - *forgotten with its cause*: a task that serves again, or is gone, has no drain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// A task that drains, behind one VIP. Addresses alone do not name it: two networks may have the
/// same.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Drain {
    /// The network's name.
    pub(crate) network: String,
    pub(crate) vip: IpAddr,
    pub(crate) task: IpAddr,
}

/// All drains.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    begun: BTreeMap<Drain, Instant>,
    /// When drains began that were not seen yet.
    remembered: BTreeMap<Drain, Instant>,
    expired: Arc<BTreeSet<Drain>>,
}

/// What became of drains.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct News {
    /// Begun just now.
    pub(crate) begun: usize,
    /// Ended just now: the task is gone, or serves again.
    pub(crate) ended: usize,
    /// Those whose time was over just now.
    pub(crate) expired: Vec<Drain>,
}

impl Drains {
    /// These drains were seen to begin before this portolan began.
    pub(crate) fn remember(&mut self, begun: BTreeMap<Drain, Instant>) {
        self.remembered = begun;
    }

    /// What was remembered and not seen again is over.
    pub(crate) fn forget(&mut self) {
        self.remembered.clear();
    }

    /// When those that drain began to, seen again or not.
    pub(crate) fn begun(&self) -> impl Iterator<Item = (&Drain, &Instant)> {
        self.begun.iter().chain(&self.remembered)
    }

    /// Takes note of who drains `now`, and how long each may.
    pub(crate) fn follow(&mut self, draining: &BTreeMap<Drain, Duration>, now: Instant) -> News {
        let mut news = News::default();
        let before = self.begun.len();
        self.begun.retain(|it, _| draining.contains_key(it));
        news.ended = before - self.begun.len();
        for drain in draining.keys() {
            if !self.begun.contains_key(drain) {
                let since = self.remembered.remove(drain).unwrap_or(now);
                self.begun.insert(drain.clone(), since);
                news.begun += 1;
            }
        }
        let over = |(it, since): (&Drain, &Instant)| {
            let limit = draining.get(it)?;
            (now.saturating_duration_since(*since) >= *limit).then(|| it.clone())
        };
        let expired: BTreeSet<_> = self.begun.iter().filter_map(over).collect();
        if expired != *self.expired {
            news.expired = expired.difference(&self.expired).cloned().collect();
            self.expired = Arc::new(expired);
        }
        news
    }

    /// Those whose time is over.
    pub(crate) fn expired(&self) -> Arc<BTreeSet<Drain>> {
        Arc::clone(&self.expired)
    }

    /// How long until the next one's time is over.
    pub(crate) fn next(
        &self,
        draining: &BTreeMap<Drain, Duration>,
        now: Instant,
    ) -> Option<Duration> {
        let left = |(it, since): (&Drain, &Instant)| {
            let limit = draining.get(it).filter(|_| !self.expired.contains(it))?;
            Some(limit.saturating_sub(now.saturating_duration_since(*since)))
        };
        self.begun.iter().filter_map(left).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(last: u8) -> Drain {
        let task = IpAddr::from([10, 0, 1, last]);
        Drain { network: "front".to_owned(), vip: IpAddr::from([10, 0, 1, 2]), task }
    }

    fn draining(list: &[(u8, u64)]) -> BTreeMap<Drain, Duration> {
        list.iter().map(|(last, limit)| (drain(*last), Duration::from_secs(*limit))).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_drain_expires_once_and_stays_expired_until_its_task_is_gone() {
        let (mut drains, begin) = (Drains::default(), Instant::now());
        let one = draining(&[(5, 10)]);
        let begun = News { begun: 1, ..News::default() };
        assert_eq!(drains.follow(&one, begin), begun);
        assert_eq!(drains.next(&one, begin + SECOND), Some(9 * SECOND));
        assert_eq!(drains.follow(&one, begin + 9 * SECOND), News::default());
        let expired = News { expired: vec![drain(5)], ..News::default() };
        assert_eq!(drains.follow(&one, begin + 10 * SECOND), expired);
        assert_eq!(drains.follow(&one, begin + 11 * SECOND), News::default());
        assert_eq!(*drains.expired(), [drain(5)].into());
        assert_eq!(drains.next(&one, begin + 11 * SECOND), None);
        let ended = News { ended: 1, ..News::default() };
        assert_eq!(drains.follow(&BTreeMap::new(), begin + 12 * SECOND), ended);
        assert!(drains.expired().is_empty());
    }

    #[test]
    fn a_task_that_served_meanwhile_drains_anew() {
        let (mut drains, begin) = (Drains::default(), Instant::now());
        let one = draining(&[(5, 10)]);
        drains.follow(&one, begin);
        drains.follow(&BTreeMap::new(), begin + 8 * SECOND);
        drains.follow(&one, begin + 9 * SECOND);
        assert_eq!(drains.next(&one, begin + 9 * SECOND), Some(10 * SECOND));
    }

    #[test]
    fn a_limit_that_changes_counts_from_the_same_beginning() {
        let (mut drains, begin) = (Drains::default(), Instant::now());
        drains.follow(&draining(&[(5, 600), (6, 600)]), begin);
        let shorter = draining(&[(5, 5), (6, 600)]);
        let news = drains.follow(&shorter, begin + 6 * SECOND);
        assert_eq!(news.expired, [drain(5)]);
        assert_eq!(drains.next(&shorter, begin + 6 * SECOND), Some(594 * SECOND));
    }

    #[test]
    fn a_drain_that_an_earlier_portolan_saw_begin_began_then_unless_it_ended_meanwhile() {
        let (mut drains, begin) = (Drains::default(), Instant::now());
        let earlier = |last| (drain(last), begin);
        drains.remember([earlier(5), earlier(6)].into());
        let now = begin + 8 * SECOND;
        assert_eq!(drains.follow(&BTreeMap::new(), now).ended, 0, "nothing was seen yet");
        assert_eq!(drains.begun().count(), 2, "nor is it forgotten");
        let one = draining(&[(5, 10)]);
        assert_eq!(drains.follow(&one, now).begun, 1);
        assert_eq!(drains.next(&one, now), Some(2 * SECOND));
        drains.forget();
        let both = draining(&[(5, 10), (6, 10)]);
        drains.follow(&both, now);
        assert_eq!(drains.follow(&both, now + 2 * SECOND).expired, [drain(5)]);
    }

    #[test]
    fn no_time_at_all_is_over_at_once() {
        let mut drains = Drains::default();
        let news = drains.follow(&draining(&[(5, 0)]), Instant::now());
        assert_eq!((news.begun, news.expired), (1, vec![drain(5)]));
    }
}

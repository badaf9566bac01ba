//! A table of what was used lately: the longest unused goes when it is full, or when its time is
//! over. Pure: the clock is an argument.
//!
//! Invariants
//! - *bounded*: never more entries than it was made for, nor more than twice as many in its queue;
//! - *cheap*: using an entry is one look-up; order is put right when the oldest is asked for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// The table.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    /// By last use as it was when the entry was put here; an entry used since moves back.
    queue: VecDeque<Queued<K>>,
    most: usize,
    made: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    used: Instant,
    /// Tells it from an earlier entry with the same key.
    number: u64,
}

#[derive(Debug)]
struct Queued<K> {
    key: K,
    used: Instant,
    number: u64,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    /// A table of at most `most` entries.
    pub(super) fn new(most: usize) -> Self {
        Self { entries: BTreeMap::new(), queue: VecDeque::new(), most, made: 0 }
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value, used now.
    pub(super) fn touch(&mut self, key: &K, now: Instant) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        entry.used = now;
        Some(&mut entry.value)
    }

    /// Puts a new value in, in the place of an old one; gives what had to go for it.
    pub(super) fn insert(&mut self, key: K, value: V, now: Instant) -> Option<V> {
        let old = self.remove(&key);
        let evicted = if self.entries.len() >= self.most { self.pop_oldest() } else { None };
        self.made += 1;
        let number = self.made;
        if self.queue.len() >= self.most.saturating_mul(2) {
            let entries = &self.entries;
            self.queue.retain(|it| entries.get(&it.key).is_some_and(|e| e.number == it.number));
        }
        self.queue.push_back(Queued { key: key.clone(), used: now, number });
        self.entries.insert(key, Entry { value, used: now, number });
        old.or(evicted)
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|it| it.value)
    }

    /// Takes out all that `gone` says.
    pub(super) fn remove_if(&mut self, mut gone: impl FnMut(&V) -> bool) -> Vec<V> {
        self.take_out(|entry| gone(&entry.value))
    }

    /// Takes out those that were not used for as long as `life` says of them.
    pub(super) fn expire(&mut self, now: Instant, mut life: impl FnMut(&V) -> Duration) -> Vec<V> {
        self.take_out(|entry| now.duration_since(entry.used) >= life(&entry.value))
    }

    /// Takes out those that were not used for `life`, the same for all, and looks at few others.
    /// One that was used meanwhile may stay for up to twice as long.
    pub(super) fn expire_oldest(&mut self, now: Instant, life: Duration) {
        let over = |used: Instant| now.saturating_duration_since(used) >= life;
        while self.queue.front().is_some_and(|it| over(it.used))
            && let Some(first) = self.queue.pop_front()
        {
            match self.entries.get(&first.key).filter(|it| it.number == first.number) {
                None => {}
                Some(entry) if over(entry.used) => drop(self.remove(&first.key)),
                Some(entry) => self.queue.push_back(Queued { used: entry.used, ..first }),
            }
        }
    }

    fn take_out(&mut self, mut gone: impl FnMut(&Entry<V>) -> bool) -> Vec<V> {
        let keys = self.entries.iter().filter(|(_, entry)| gone(entry)).map(|(key, _)| key.clone());
        let keys: Vec<K> = keys.collect();
        keys.iter().filter_map(|key| self.remove(key)).collect()
    }

    fn pop_oldest(&mut self) -> Option<V> {
        while let Some(first) = self.queue.pop_front() {
            match self.entries.get(&first.key) {
                Some(entry) if entry.number != first.number => {}
                None => {}
                Some(entry) if entry.used > first.used => {
                    self.queue.push_back(Queued { used: entry.used, ..first });
                }
                Some(_) => return self.remove(&first.key),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_longest_unused_goes_when_there_is_no_room() {
        let now = Instant::now();
        let mut table = Recent::new(2);
        assert_eq!(table.insert(1, 'a', now), None);
        assert_eq!(table.insert(2, 'b', now + SECOND), None);
        assert_eq!(table.touch(&1, now + 2 * SECOND), Some(&mut 'a'));
        assert_eq!(table.insert(3, 'c', now + 3 * SECOND), Some('b'));
        assert_eq!(table.touch(&2, now), None);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn what_comes_and_goes_leaves_nothing_behind() {
        let now = Instant::now();
        let mut table = Recent::new(4);
        for round in 0..100_u32 {
            table.insert(7, round, now + SECOND * round);
            table.insert(round + 10, round, now + SECOND * round);
            table.remove(&(round + 10));
        }
        assert_eq!(table.len(), 1);
        assert!(table.queue.len() <= 8, "{}", table.queue.len());
    }

    #[test]
    fn what_was_not_used_for_its_time_goes_without_a_look_at_the_others() {
        let now = Instant::now();
        let mut table = Recent::new(4);
        for key in 0..4 {
            table.insert(key, (), now + SECOND * key);
        }
        table.touch(&0, now + SECOND * 5);
        table.expire_oldest(now + SECOND * 11, SECOND * 10);
        let there = |table: &Recent<u32, ()>| table.entries.keys().copied().collect::<Vec<_>>();
        assert_eq!(there(&table), [0, 2, 3], "used since, too old, and two that are not");
        assert_eq!(table.queue.len(), 3);
        table.expire_oldest(now + SECOND * 15, SECOND * 10);
        assert!(there(&table).is_empty());
        assert!(table.queue.is_empty());
    }

    #[test]
    fn each_has_a_time_of_its_own() {
        let now = Instant::now();
        let mut table = Recent::new(4);
        table.insert('a', 1, now);
        table.insert('b', 3, now);
        let life = |it: &u32| SECOND * *it;
        assert_eq!(table.expire(now + SECOND * 2, life), [1]);
        table.touch(&'b', now + SECOND * 2);
        assert!(table.expire(now + SECOND * 4, life).is_empty());
        assert_eq!(table.expire(now + SECOND * 5, life), [3]);
    }
}

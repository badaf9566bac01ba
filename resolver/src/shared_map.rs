//! An ordered map whose copies share what they do not change: the names of a network, of which a
//! new plan changes a few.
//!
//! Invariants
//! - *cheap to copy and to change*: a copy costs a pointer for each leaf, a change one leaf of at
//!   most [`LEAF`] entries, however many there are;
//! - *ordered*: leaves hold entries in order, no leaf is empty, and no key is there twice;
//! - *by content*: two maps are equal when their entries are, however they came to be.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Entries of a leaf at most: a change copies that many, and a copy of the map a pointer for each
/// leaf; at ten thousand entries the two cost about the same.
const LEAF: usize = 64;

/// An ordered map with shared leaves.
pub struct SharedMap<K, V> {
    leaves: Vec<Leaf<K, V>>,
    length: usize,
}

type Leaf<K, V> = Arc<Vec<(K, V)>>;

impl<K: Ord, V> SharedMap<K, V> {
    /// What is at `key`.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let leaf = self.leaves.get(self.leaf_of(key))?;
        let at = leaf.binary_search_by(|(it, _)| it.borrow().cmp(key)).ok()?;
        leaf.get(at).map(|(_, value)| value)
    }

    /// Whether something is at `key`.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Which leaf `key` is in if it is anywhere: the last that begins with it or below it, or the
    /// first.
    fn leaf_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_below =
            |leaf: &Leaf<K, V>| leaf.first().is_some_and(|(it, _)| it.borrow() <= key);
        self.leaves.partition_point(begins_below).saturating_sub(1)
    }
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.since(0).map(|(key, value)| (key, value))
    }

    /// The entries from a leaf on.
    fn since(&self, leaf: usize) -> impl Iterator<Item = &(K, V)> {
        self.leaves.iter().skip(leaf).flat_map(|it| it.iter())
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Clone + Ord, V: Clone> SharedMap<K, V> {
    /// Puts `value` at `key`; `None`: nothing.
    pub fn set(&mut self, key: &K, value: Option<V>) {
        let number = self.leaf_of(key);
        let Some(shared) = self.leaves.get_mut(number) else {
            if let Some(value) = value {
                self.leaves.push(Arc::new(vec![(key.clone(), value)]));
                self.length = 1;
            }
            return;
        };
        let found = shared.binary_search_by(|(it, _)| it.cmp(key));
        if found.is_err() && value.is_none() {
            return; // nothing is copied for nothing
        }
        let leaf = Arc::make_mut(shared);
        match (found, value) {
            (Ok(at), Some(value)) => {
                if let Some(slot) = leaf.get_mut(at) {
                    slot.1 = value;
                }
            }
            (Ok(at), None) => {
                leaf.remove(at);
                self.length -= 1;
                self.join(number);
            }
            (Err(at), Some(value)) => {
                leaf.insert(at, (key.clone(), value));
                self.length += 1;
                if leaf.len() > LEAF {
                    let half = leaf.split_off(LEAF / 2);
                    self.leaves.insert(number + 1, Arc::new(half));
                }
            }
            (Err(_), None) => {}
        }
    }

    /// Puts a leaf that has become small to the one before it, so that leaves stay few.
    fn join(&mut self, number: usize) {
        let size = |at: usize| self.leaves.get(at).map_or(0, |it| it.len());
        let small = size(number);
        let before = number.checked_sub(1);
        let fits = before.is_some_and(|it| size(it) + small <= LEAF / 2);
        if small > 0 && !fits {
            return;
        }
        let leaf = self.leaves.remove(number);
        if let Some(before) = before.and_then(|it| self.leaves.get_mut(it)) {
            Arc::make_mut(before).extend(leaf.iter().cloned());
        }
    }
}

/// Of entries with the same key the last one stays.
impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        let length = entries.len();
        let mut entries = entries.into_iter().peekable();
        let mut leaves = Vec::with_capacity(length.div_ceil(FILLED));
        while entries.peek().is_some() {
            leaves.push(Arc::new(entries.by_ref().take(FILLED).collect()));
        }
        Self { leaves, length }
    }
}

/// Entries of a leaf to begin with, so that the next ones find room.
const FILLED: usize = LEAF / 4 * 3;

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { leaves: self.leaves.clone(), length: self.length }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { leaves: Vec::new(), length: 0 }
    }
}

impl<K: Eq, V: Eq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        // What both begin with costs a pointer for each leaf.
        let pairs = self.leaves.iter().zip(&other.leaves);
        let shared = pairs.take_while(|(one, other)| Arc::ptr_eq(one, other)).count();
        self.length == other.length && self.since(shared).eq(other.since(shared))
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &SharedMap<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert!(map.iter().eq(model));
        assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        assert!(map.leaves.iter().all(|it| (1..=LEAF).contains(&it.len())));
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_and_copies_keep_what_they_held(
            first in prop::collection::vec((0..600_u16, any::<u32>()), 0..400),
            changes in prop::collection::vec((0..600_u16, prop::option::of(any::<u32>())), 0..400),
        ) {
            let was: SharedMap<_, _> = first.iter().copied().collect();
            let before: BTreeMap<_, _> = first.into_iter().collect();
            let (mut map, mut model) = (was.clone(), before.clone());
            for (key, value) in changes {
                map.set(&key, value);
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            check(&map, &model);
            check(&was, &before);
            prop_assert!((0..600).all(|it| map.get(&it) == model.get(&it)));
            let anew: SharedMap<_, _> = model.clone().into_iter().collect();
            prop_assert_eq!(&map, &anew);
            prop_assert_eq!(map == was, model == before);
        }
    }

    #[test]
    fn a_change_leaves_all_but_one_leaf_shared() {
        let was: SharedMap<_, _> = (0..10_000_u32).map(|it| (it, it)).collect();
        let mut map = was.clone();
        map.set(&5_000, Some(0));
        map.set(&20_000, None);
        let other = map.leaves.iter().zip(&was.leaves).filter(|(a, b)| !Arc::ptr_eq(a, b));
        assert_eq!((other.count(), map.leaves.len()), (1, was.leaves.len()));
    }

    #[test]
    fn leaves_stay_few_when_entries_go() {
        let mut map: SharedMap<_, _> = (0..10_000_u32).map(|it| (it, it)).collect();
        for key in (0..10_000).filter(|it| it % 100 != 0) {
            map.set(&key, None);
        }
        assert_eq!(map.len(), 100);
        assert!(map.leaves.len() < 12, "{}", map.leaves.len());
    }
}

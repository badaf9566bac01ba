//! Who leaves when the room is full: SIEVE (Zhang and others, NSDI 2024).
//!
//! Invariants
//! - *hot ones stay*: what was visited since the hand last passed is passed over once, so a flood
//!   of names that are asked for once drives out itself;
//! - *bounded*: the hand passes at most [`LONGEST_SWEEP`] before it takes one in any case;
//! - *grows when told*: it allocates in [`Sieve::grow`] alone.

/// Things in the order in which they came, with a hand that goes from the oldest to the newest.
#[derive(Debug)]
pub(super) struct Sieve<T> {
    slots: Vec<Slot<T>>,
    /// The first of the slots that hold nothing, linked by `older`.
    vacant: u32,
    newest: u32,
    oldest: u32,
    hand: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    newer: u32,
    older: u32,
    visited: bool,
}

/// No slot.
const NONE: u32 = u32::MAX;
/// All visited is rare; then a long way round costs more than it finds.
const LONGEST_SWEEP: usize = 256;
/// The first growth.
const FEWEST_SLOTS: usize = 8;

impl<T> Default for Sieve<T> {
    fn default() -> Self {
        let slots = Vec::new();
        Self { slots, vacant: NONE, newest: NONE, oldest: NONE, hand: NONE, len: 0 }
    }
}

impl<T> Sieve<T> {
    /// How many it holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether one more needs [`Sieve::grow`] first.
    pub(super) fn is_full(&self) -> bool {
        self.vacant == NONE && self.slots.len() == self.slots.capacity()
    }

    /// Octets of its slots now, and after growing.
    pub(super) fn octets(&self) -> [usize; 2] {
        [self.slots.capacity(), self.grown()].map(|it| it * size_of::<Slot<T>>())
    }

    /// Makes room for half as many again.
    pub(super) fn grow(&mut self) {
        self.slots.reserve_exact(self.grown() - self.slots.len());
    }

    /// What is at `place`.
    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.slot(place)?.value.as_ref()
    }

    /// What is at `place`, which is visited by this.
    pub(super) fn visit(&mut self, place: u32) -> Option<&mut T> {
        let slot = self.slot_mut(place)?;
        slot.visited = true;
        slot.value.as_mut()
    }

    /// What is at `place`, unseen by the hand.
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.slot_mut(place)?.value.as_mut()
    }

    /// Adds `value` as the newest and gives its place; `None` while [`Sieve::is_full`].
    pub(super) fn insert(&mut self, value: T) -> Option<u32> {
        let slot = Slot { value: Some(value), newer: NONE, older: self.newest, visited: false };
        let place = if self.vacant == NONE {
            (!self.is_full()).then_some(())?;
            let place = u32::try_from(self.slots.len()).ok().filter(|it| *it != NONE)?;
            self.slots.push(slot);
            place
        } else {
            let place = self.vacant;
            let vacant = self.slot_mut(place)?;
            let next = vacant.older;
            *vacant = slot;
            self.vacant = next;
            place
        };
        let newest = self.newest;
        match self.slot_mut(newest) {
            Some(before) => before.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
        self.len += 1;
        Some(place)
    }

    /// Takes out what is at `place`.
    pub(super) fn remove(&mut self, place: u32) -> Option<T> {
        let vacant = self.vacant;
        let slot = self.slot_mut(place)?;
        let value = slot.value.take()?;
        let (newer, older) = (slot.newer, slot.older);
        slot.older = vacant;
        self.vacant = place;
        match self.slot_mut(newer) {
            Some(it) => it.older = older,
            None => self.newest = older,
        }
        match self.slot_mut(older) {
            Some(it) => it.newer = newer,
            None => self.oldest = newer,
        }
        if self.hand == place {
            self.hand = newer;
        }
        self.len -= 1;
        Some(value)
    }

    /// The place of who leaves next; `None`: it is empty.
    pub(super) fn victim(&mut self) -> Option<u32> {
        for _ in 0..LONGEST_SWEEP {
            let place = self.at_hand();
            let slot = self.slot_mut(place)?;
            if !slot.visited {
                return Some(place);
            }
            slot.visited = false;
            self.hand = slot.newer;
        }
        Some(self.at_hand()).filter(|it| *it != NONE)
    }

    /// Where the hand is; beyond the newest it begins anew.
    fn at_hand(&mut self) -> u32 {
        if self.hand == NONE {
            self.hand = self.oldest;
        }
        self.hand
    }

    fn grown(&self) -> usize {
        (self.slots.len() + self.slots.len() / 2).max(FEWEST_SLOTS)
    }

    fn slot(&self, place: u32) -> Option<&Slot<T>> {
        self.slots.get(usize::try_from(place).ok()?)
    }

    fn slot_mut(&mut self, place: u32) -> Option<&mut Slot<T>> {
        self.slots.get_mut(usize::try_from(place).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(count: u32) -> Sieve<u32> {
        let mut sieve = Sieve::default();
        for value in 0..count {
            if sieve.is_full() {
                sieve.grow();
            }
            sieve.insert(value).unwrap();
        }
        sieve
    }

    fn evicted<T>(sieve: &mut Sieve<T>) -> Option<T> {
        let place = sieve.victim()?;
        sieve.remove(place)
    }

    #[test]
    fn who_was_visited_is_passed_over_once() {
        let mut sieve = full(5);
        sieve.visit(0);
        sieve.visit(2);
        let order: Vec<_> = std::iter::from_fn(|| evicted(&mut sieve)).collect();
        assert_eq!(order, [1, 3, 4, 0, 2]);
    }

    #[test]
    fn a_flood_of_what_is_asked_for_once_leaves_the_hot_ones_in() {
        let mut sieve = full(100);
        for flood in 0..10_000 {
            for hot in 0..20 {
                sieve.visit(hot);
            }
            evicted(&mut sieve).unwrap();
            sieve.insert(1000 + flood).unwrap();
        }
        for hot in 0..20 {
            assert_eq!(sieve.get(hot), Some(&hot));
        }
    }

    proptest! {
        #[test]
        fn links_hold_whatever_comes_and_goes(steps in proptest::collection::vec((0..3_u8, 0..12_u32), 0..200)) {
            let (mut sieve, mut model) = (full(0), std::collections::BTreeMap::new());
            for (value, (step, place)) in (0..).zip(steps) {
                match step {
                    0 => {
                        if sieve.is_full() {
                            sieve.grow();
                        }
                        let place = sieve.insert(value).unwrap();
                        prop_assert_eq!(model.insert(place, value), None);
                    }
                    1 => prop_assert_eq!(sieve.remove(place), model.remove(&place)),
                    _ => {
                        prop_assert_eq!(sieve.visit(place).copied(), model.get(&place).copied());
                    }
                }
                prop_assert_eq!(sieve.len(), model.len());
            }
            let mut left: Vec<_> = std::iter::from_fn(|| evicted(&mut sieve)).collect();
            left.sort_unstable();
            let mut expected: Vec<_> = model.into_values().collect();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }
}

//! Finds the place of an entry by the hash of its key: open addressing with linear probing.
//!
//! Invariants
//! - *probes are short*: at most three quarters of the cells are taken, and a removal closes the
//!   gap that it makes, so no tombstones gather;
//! - *grows when told*: it allocates in [`Index::grow`] alone, so its octets can be counted first.
//!
//! Why not `HashMap`: a quarter of the memory for small values, and look-ups by a key that is
//! borrowed in parts. That strangers choose the keys is met by a keyed hash.

/// Places by hash.
#[derive(Debug, Default)]
pub(super) struct Index {
    cells: Vec<Cell>,
    taken: usize,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    hash: u32,
    place: u32,
}

const EMPTY: Cell = Cell { hash: 0, place: u32::MAX };
/// Fewer are not worth an allocation.
const FEWEST_CELLS: usize = 16;

impl Index {
    /// The place with this hash that `is_it` accepts.
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let cell = self.cells.get(at).filter(|it| it.place != EMPTY.place)?;
            if cell.hash == hash && is_it(cell.place) {
                return Some(cell.place);
            }
            at = self.after(at);
        }
    }

    /// Whether one more needs [`Index::grow`] first.
    pub(super) fn is_full(&self) -> bool {
        (self.taken + 1) * 4 > self.cells.len() * 3
    }

    /// Octets that it takes now, and after growing.
    pub(super) fn octets(&self) -> [usize; 2] {
        [self.cells.len(), self.grown()].map(|it| it * size_of::<Cell>())
    }

    /// Makes room for as many again.
    pub(super) fn grow(&mut self) {
        let grown = vec![EMPTY; self.grown()];
        let old = std::mem::replace(&mut self.cells, grown);
        self.taken = 0;
        for cell in old {
            if cell.place != EMPTY.place {
                self.insert(cell.hash, cell.place);
            }
        }
    }

    /// Adds a place that is not in it; does nothing while [`Index::is_full`].
    pub(super) fn insert(&mut self, hash: u32, place: u32) {
        if self.is_full() {
            return;
        }
        let mut at = self.home(hash);
        while self.cells.get(at).is_some_and(|it| it.place != EMPTY.place) {
            at = self.after(at);
        }
        if let Some(cell) = self.cells.get_mut(at) {
            *cell = Cell { hash, place };
            self.taken += 1;
        }
    }

    /// Takes a place out that has this hash.
    pub(super) fn remove(&mut self, hash: u32, place: u32) {
        let mut gap = self.home(hash);
        loop {
            match self.cells.get(gap) {
                Some(cell) if cell.place == place => break,
                Some(cell) if cell.place != EMPTY.place => gap = self.after(gap),
                Some(_) | None => return,
            }
        }
        // What follows moves up, unless that would put it before its home (Knuth 6.4 R).
        let mut at = self.after(gap);
        while let Some(cell) = self.cells.get(at).copied().filter(|it| it.place != EMPTY.place) {
            let from_home = at.wrapping_sub(self.home(cell.hash)) & self.mask();
            let from_gap = at.wrapping_sub(gap) & self.mask();
            if from_home >= from_gap {
                self.put(gap, cell);
                gap = at;
            }
            at = self.after(at);
        }
        self.put(gap, EMPTY);
        self.taken -= 1;
    }

    fn grown(&self) -> usize {
        (self.cells.len() * 2).max(FEWEST_CELLS)
    }

    fn mask(&self) -> usize {
        self.cells.len().wrapping_sub(1) // a power of two, or none
    }

    fn home(&self, hash: u32) -> usize {
        usize::try_from(hash).unwrap_or_default() & self.mask()
    }

    fn after(&self, at: usize) -> usize {
        at.wrapping_add(1) & self.mask()
    }

    fn put(&mut self, at: usize, cell: Cell) {
        if let Some(place) = self.cells.get_mut(at) {
            *place = cell;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_was_put_in_and_not_taken_out(
            // Few hashes, so that they collide and wrap round the end.
            steps in proptest::collection::vec((any::<bool>(), prop_oneof![0_u32..4, 12_u32..20]), 0..200),
        ) {
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for (place, (put, hash)) in (0_u32..).zip(steps) {
                if put {
                    if index.is_full() {
                        index.grow();
                    }
                    index.insert(hash, place);
                    model.insert(place, hash);
                } else if let Some((&place, &hash)) = model.iter().find(|it| *it.1 == hash) {
                    index.remove(hash, place);
                    model.remove(&place);
                }
                for (place, hash) in &model {
                    prop_assert_eq!(index.find(*hash, |it| it == *place), Some(*place));
                }
                prop_assert_eq!(index.taken, model.len());
                let taken = index.cells.iter().filter(|it| it.place != EMPTY.place).count();
                prop_assert_eq!(taken, model.len());
            }
        }
    }

    #[test]
    fn an_empty_one_holds_nothing_and_takes_nothing() {
        let mut index = Index::default();
        assert_eq!(index.find(7, |_| true), None);
        index.insert(7, 0);
        index.remove(7, 0);
        assert!(index.is_full() && index.octets()[0] == 0);
    }
}

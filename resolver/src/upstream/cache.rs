//! What upstream servers said, for as long as they said it holds.
//!
//! Invariants
//! - *bounded*: all caches of the process together hold no more octets than their budget, counted
//!   as the allocator counts;
//! - *asked for*: nothing is kept under another name than the question's, and nothing that holds
//!   records that were not asked for;
//! - *an answer beats a failure*: that servers fail never drives out what they said before;
//! - *no allocation and one look-up* for who asks what is kept.
//!
//! Pure: the clock is an argument. One [`Cache`] is of one set of servers, dialled from one place.
//! Read in this order: `admission` (what is kept), `entry` (how it is told), `sieve` (who leaves),
//! `index`, `budget`.

mod admission;
mod budget;
mod entry;
mod index;
#[cfg(test)]
pub(crate) mod replies;
mod sieve;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use self::admission::Admission;
pub(crate) use self::budget::Budget;
use self::entry::Traits;
pub(crate) use self::entry::{BLOCKED_ANSWER, Entry, Folded, Key};
use self::index::Index;
use self::sieve::Sieve;
use super::outlook::KeptAnswer;
use crate::wire::reply::Reply;
use crate::wire::reply::asked::Asked;
use crate::wire::{Query, Transport};

/// Kept replies.
#[derive(Debug)]
pub(crate) struct Cache {
    budget: Arc<Budget>,
    /// Strangers choose the names: keys are hashed with a secret.
    hash: RandomState,
    index: Index,
    entries: Sieve<Entry>,
    charged: usize,
}

/// What is kept for a question.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// Nothing.
    Missing,
    /// It holds.
    Fresh {
        /// What is told.
        entry: &'a Entry,
        /// It is asked for often and near its end, and should be asked for anew. True until
        /// somebody has claimed that.
        prefetch: bool,
    },
    /// It held until up to a day ago: told where all servers fail.
    Stale {
        /// What is told then.
        entry: &'a Entry,
        /// Whether they are to be asked again.
        refresh: Refresh,
    },
}

/// Whether, and when, servers are asked anew about what is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refresh {
    /// Not now: it holds, or they failed a moment ago.
    Not,
    /// Behind an answer from what is kept: it holds not much longer, or they failed so lately that
    /// nobody should wait for them.
    Behind,
    /// Before it is told: they may know better.
    First,
}

/// Who looks something up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Renewal {
    /// One who asks anew where he is told that somebody should.
    Claimed,
    /// One who only tells, and leaves that to others.
    Left,
}

impl Cache {
    /// An empty one that shares `budget`.
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            hash: RandomState::new(),
            index: Index::default(),
            entries: Sieve::default(),
            charged: 0,
        }
    }

    /// What is kept for `key`.
    pub(crate) fn look_up(&mut self, key: &Key<'_>, renewal: Renewal, now: Instant) -> Found<'_> {
        let Some(place) = self.place(key, self.hash_of(key)) else { return Found::Missing };
        if self.entries.get(place).is_some_and(|it| it.is_over(now)) {
            self.remove(place);
            return Found::Missing;
        }
        let Some(entry) = self.entries.visit(place) else { return Found::Missing };
        if entry.is_fresh(now) {
            let prefetch = entry.hit(renewal, now);
            Found::Fresh { entry, prefetch }
        } else {
            let refresh = entry.refresh(now);
            Found::Stale { entry, refresh }
        }
    }

    /// What is kept for `query`, for one who only wants to know: it is not counted as asked for.
    pub(crate) fn peek(&self, query: &Query, now: Instant) -> Option<KeptAnswer> {
        let asked = Asked::of(query, Transport::Tcp);
        let folded = Folded::new(asked.name);
        let key = folded.key(&asked);
        let entry = self.entries.get(self.place(&key, self.hash_of(&key))?)?;
        (!entry.is_over(now)).then(|| entry.outlook(now))
    }

    /// Keeps what may be kept of `reply`, which matched `query`.
    pub(crate) fn insert(&mut self, query: &Query, reply: &Reply, now: Instant) {
        self.insert_with(query, reply, false, now);
    }

    /// Keeps that the filter against rebinding holds `reply` back, for as long as it says itself.
    pub(crate) fn insert_blocked(&mut self, query: &Query, reply: &Reply, now: Instant) {
        self.insert_with(query, reply, true, now);
    }

    /// Notes that no server has answered `query` (RFC 9520 section 2.2).
    pub(crate) fn fail(&mut self, query: &Query, now: Instant) {
        if self.not_renewed(query, now) {
            return;
        }
        let asked = Asked::of(query, Transport::Tcp);
        let folded = Folded::new(asked.name);
        let key = folded.key(&asked);
        let hash = self.hash_of(&key);
        self.replace(&key, hash, Entry::failure(&key, hash, now));
    }

    /// Notes that asking `query` anew brought no answer; false: there is none from before either.
    pub(crate) fn not_renewed(&mut self, query: &Query, now: Instant) -> bool {
        let asked = Asked::of(query, Transport::Tcp);
        let folded = Folded::new(asked.name);
        let key = folded.key(&asked);
        if let Some(place) = self.place(&key, self.hash_of(&key))
            && let Some(entry) = self.entries.get_mut(place)
            && !entry.is_over(now)
            && !entry.is_failure()
        {
            entry.recheck_failed(now);
            return true;
        }
        false
    }

    /// Forgets everything: what is given back holds it, until dropped where nobody waits for it.
    #[must_use]
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self::new(Arc::clone(&self.budget));
        std::mem::replace(self, empty)
    }

    /// Octets that it holds, as the allocator counts them.
    pub(crate) fn bytes(&self) -> usize {
        self.charged
    }

    /// How many entries it holds, those that are over included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn insert_with(&mut self, query: &Query, reply: &Reply, blocked: bool, now: Instant) {
        let kept = match admission::admit(query, reply) {
            Admission::Ignore => return,
            Admission::Failure => return self.fail(query, now),
            Admission::Forget => None,
            Admission::Keep(kept) => Some(kept),
        };
        let asked = Asked::of(query, Transport::Tcp);
        let folded = Folded::new(asked.name);
        let key = folded.key(&asked);
        let hash = self.hash_of(&key);
        match kept {
            None => {
                if let Some(place) = self.place(&key, hash) {
                    self.remove(place);
                }
            }
            Some(kept) => {
                let traits = Traits { authentic: reply.authentic(), blocked };
                self.replace(&key, hash, Entry::new(&key, hash, kept, traits, now));
            }
        }
    }

    fn hash_of(&self, key: &Key<'_>) -> u32 {
        let mut hasher = self.hash.build_hasher();
        hasher.write(key.name);
        hasher.write_u32(u32::from(key.kind.0) << 8 | u32::from(key.marks()));
        let [.., a, b, c, d] = hasher.finish().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    fn place(&self, key: &Key<'_>, hash: u32) -> Option<u32> {
        self.index.find(hash, |it| self.entries.get(it).is_some_and(|it| it.matches(key)))
    }

    /// Puts `entry` in, in place of what answers the same question.
    fn replace(&mut self, key: &Key<'_>, hash: u32, entry: Entry) {
        if let Some(place) = self.place(key, hash) {
            self.remove(place);
        }
        if self.make_room(budget::allocated(entry.octets()))
            && let Some(place) = self.entries.insert(entry)
        {
            self.index.insert(hash, place);
        }
    }

    /// Charges `octets` for one more entry, and what the tables must grow by; others leave until
    /// there is room for it. False: there is none.
    fn make_room(&mut self, octets: usize) -> bool {
        loop {
            let [slots, more_slots] = self.entries.octets();
            let [cells, more_cells] = self.index.octets();
            let grow_slots = if self.entries.is_full() { more_slots - slots } else { 0 };
            let grow_cells = if self.index.is_full() { more_cells - cells } else { 0 };
            let more = octets + grow_slots + grow_cells;
            if self.budget.take(self.charged, more) {
                self.charged += more;
                if grow_slots > 0 {
                    self.entries.grow();
                }
                if grow_cells > 0 {
                    self.index.grow();
                }
                return true;
            }
            let Some(victim) = self.entries.victim() else { return false };
            self.remove(victim);
        }
    }

    fn remove(&mut self, place: u32) {
        if let Some(entry) = self.entries.remove(place) {
            self.index.remove(entry.hash, place);
            let octets = budget::allocated(entry.octets());
            self.charged -= octets;
            self.budget.give_back(octets);
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.budget.give_back(self.charged);
    }
}

#[cfg(test)]
mod tests;

//! What upstream servers said, for as long as they said it holds.
//!
//! Invariants
//! - *bounded*: all caches of the process together hold no more octets than their budget, counted
//!   as the allocator counts;
//! - *asked for*: nothing is kept under another name than the question's, and nothing that holds
//!   records that were not asked for;
//! - *an answer beats a failure*: that servers fail never drives out what they said, about this or
//!   about anything else;
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

pub(crate) use self::admission::Admission;
pub(crate) use self::budget::Budget;
pub(crate) use self::entry::{BLOCKED_ANSWER, Entry, Folded, Key};
use self::index::Index;
use self::sieve::Sieve;
use super::outlook::KeptAnswer;
use crate::wire::reply::Reply;
use crate::wire::reply::asked::Asked;
use crate::wire::{Query, Rcode, Transport};

/// Kept replies.
#[derive(Debug)]
pub(crate) struct Cache {
    budget: Arc<Budget>,
    /// Strangers choose the names: keys are hashed with a secret.
    hash: RandomState,
    index: Index,
    entries: Sieve<Entry>,
    charged: usize,
    /// Counts how often everything was forgotten.
    generation: u64,
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
            generation: 0,
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
        self.admit(query, Admission::of(query, reply, &reply.chain(query), false), now);
    }

    /// Keeps that the filter against rebinding holds `reply` back, for as long as it says itself.
    pub(crate) fn insert_blocked(&mut self, query: &Query, reply: &Reply, now: Instant) {
        self.admit(query, Admission::of(query, reply, &reply.chain(query), true), now);
    }

    /// Notes that no server has answered `query` (RFC 9520 section 2.2).
    pub(crate) fn fail(&mut self, query: &Query, now: Instant) {
        self.admit(query, Admission::Failure(Rcode::SERVFAIL), now);
    }

    /// Does what was decided about the end of `query`.
    pub(crate) fn admit(&mut self, query: &Query, admission: Admission, now: Instant) {
        let asked = Asked::of(query, Transport::Tcp);
        let folded = Folded::new(asked.name);
        let key = folded.key(&asked);
        let hash = self.hash_of(&key);
        let place = self.place(&key, hash);
        match admission {
            Admission::Ignore => {
                if let Some(entry) = place.and_then(|it| self.entries.get_mut(it)) {
                    entry.renewal_ended();
                }
            }
            Admission::Failure(code) => match place.and_then(|it| self.entries.get_mut(it)) {
                Some(entry) if !entry.is_over(now) && !entry.is_failure() => {
                    entry.recheck_failed(now);
                }
                _ => self.replace(place, Entry::failure(&key, hash, code, now)),
            },
            Admission::Forget => {
                if let Some(place) = place {
                    self.remove(place);
                }
            }
            Admission::Keep(kept) => self.replace(place, Entry::new(&key, hash, kept, now)),
        }
    }

    /// Changes when everything is forgotten: what was asked before is not to be kept then.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Forgets everything: what is given back holds it, until dropped where nobody waits for it.
    #[must_use]
    pub(crate) fn take(&mut self) -> Self {
        let mut empty = Self::new(Arc::clone(&self.budget));
        empty.generation = self.generation.wrapping_add(1);
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

    /// Puts `entry` in, in place of what answers the same question. For a failure nobody leaves.
    fn replace(&mut self, place: Option<u32>, entry: Entry) {
        let hash = entry.hash;
        if let Some(place) = place {
            self.remove(place);
        }
        let victims = if entry.is_failure() { 0 } else { MOST_VICTIMS };
        if self.make_room(budget::allocated(entry.octets()), victims)
            && let Some(place) = self.entries.insert(entry)
        {
            self.index.insert(hash, place);
        }
    }

    /// Charges `octets` for one more entry, and what the tables must grow by; others leave until
    /// there is room for it, but no more than `victims`. False: there is none.
    fn make_room(&mut self, octets: usize, victims: usize) -> bool {
        for left in (0..=victims).rev() {
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
            let Some(victim) = self.entries.victim().filter(|_| left > 0) else { break };
            self.remove(victim);
        }
        false
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

/// For one entry no more others leave, so that nobody waits long for the lock: a large one among
/// small ones gets in with the second who asks for it.
const MOST_VICTIMS: usize = 64;

#[cfg(test)]
mod tests;

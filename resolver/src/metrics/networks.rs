//! Counters of single networks, for as long as somebody answers from them.
//!
//! Invariants
//! - *bounded*: at most [`MAX_NETWORKS`] counters; networks beyond share one;
//! - *no leftovers*: nothing is kept for a network that nobody holds any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::codes::{ByCode, Codes};
use crate::wire::Rcode;

/// An engine gives out some tens of networks unless told otherwise; each of ours becomes up to 17
/// series, and a monitoring system begins to groan at some tens of thousands for each target.
const MAX_NETWORKS: usize = 1_024;
/// What networks beyond that are called.
const OTHER: &str = "other";

/// The counters of all networks, by what users call them: their series have no other name, and
/// one that lost a network of its name would count backwards.
#[derive(Debug)]
pub(crate) struct Networks {
    known: Mutex<BTreeMap<String, Weak<NetworkCounts>>>,
    other: Arc<NetworkCounts>,
}

/// Answers from one network's own names.
#[derive(Debug, Default)]
pub struct NetworkCounts {
    name: String,
    codes: Codes,
}

impl NetworkCounts {
    /// One more with `code`.
    pub(crate) fn answered(&self, code: Rcode) {
        self.codes.count(code);
    }
}

impl Default for Networks {
    fn default() -> Self {
        let other = NetworkCounts { name: OTHER.to_owned(), codes: Codes::default() };
        Self { known: Mutex::default(), other: Arc::new(other) }
    }
}

impl Networks {
    /// The counters of networks called `name`.
    pub(crate) fn of(&self, name: &str) -> Arc<NetworkCounts> {
        let mut known = self.known();
        if let Some(counts) = known.get(name).and_then(Weak::upgrade) {
            return counts;
        }
        if known.len() >= MAX_NETWORKS {
            known.retain(|_, counts| counts.strong_count() > 0);
        }
        if known.len() >= MAX_NETWORKS || name == OTHER {
            return Arc::clone(&self.other);
        }
        let counts = Arc::new(NetworkCounts { name: name.to_owned(), codes: Codes::default() });
        known.insert(name.to_owned(), Arc::downgrade(&counts));
        counts
    }

    /// All of them now, by name.
    pub(crate) fn now(&self) -> Vec<(String, ByCode)> {
        let mut known = self.known();
        known.retain(|_, counts| counts.strong_count() > 0);
        let live: Vec<_> = known.values().filter_map(Weak::upgrade).collect();
        drop(known);
        let other = (Arc::strong_count(&self.other) > 1).then_some(&self.other);
        let all = live.iter().chain(other);
        all.map(|it| (it.name.clone(), it.codes.now())).collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Weak<NetworkCounts>>> {
        // Nothing is half done when a holder panics: the map has the entry, or has it not.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(networks: &Networks) -> Vec<(String, u64)> {
        let total = |codes: ByCode| codes.map(|(_, n)| n).sum();
        networks.now().into_iter().map(|(name, codes)| (name, total(codes))).collect()
    }

    #[test]
    fn a_network_keeps_its_counts_while_somebody_holds_them_and_is_forgotten_after() {
        let networks = Networks::default();
        let first = networks.of("frontend");
        first.answered(Rcode::NOERROR);
        let second = networks.of("frontend");
        drop(first);
        second.answered(Rcode::NXDOMAIN);
        assert_eq!(totals(&networks), [("frontend".to_owned(), 2)]);
        drop(second);
        assert_eq!(totals(&networks), []);
        assert_eq!(networks.known().len(), 0);
    }

    #[test]
    fn networks_of_one_name_are_one_series_which_never_counts_backwards() {
        let networks = Networks::default();
        let (one, two) = (networks.of("net"), networks.of("net"));
        one.answered(Rcode::NOERROR);
        two.answered(Rcode::NOERROR);
        drop(one);
        assert_eq!(totals(&networks), [("net".to_owned(), 2)]);
    }

    #[test]
    fn networks_beyond_the_bound_share_a_counter_and_room_comes_back() {
        let networks = Networks::default();
        let mut held: Vec<_> =
            (0..MAX_NETWORKS).map(|at| networks.of(&format!("net{at}"))).collect();
        let late = networks.of("late");
        networks.of("later").answered(Rcode::NOERROR);
        late.answered(Rcode::NOERROR);
        assert!(totals(&networks).contains(&("other".to_owned(), 2)));
        held.pop();
        let room = networks.of("later");
        assert_eq!(room.name, "later");
    }
}

//! How many octets all caches of the process may hold, and how they share them.
//!
//! Invariants
//! - *never more*: what is held in all is at most the limit, whatever caches race;
//! - *a share for everybody*: a cache may grow while it holds no more than is free, as buffers are
//!   shared in switches (dynamic thresholds, Choudhury and Hahne 1998). So one alone takes half of
//!   all octets at most, and of several greedy ones each ends with as much as any other.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Octets that all caches share.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    held: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` octets; 0: nothing is ever kept.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, held: AtomicUsize::new(0) }
    }

    /// Octets held by all caches.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes `more` octets for a cache that holds `own`; false: it must give some back first.
    pub(super) fn take(&self, own: usize, more: usize) -> bool {
        let grow = |held: usize| {
            let after = held.checked_add(more)?;
            let free = self.limit.checked_sub(after)?;
            (own.checked_add(more)? <= free).then_some(after)
        };
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_ok()
    }

    /// Gives `octets` back.
    pub(super) fn give_back(&self, octets: usize) {
        let before = self.held.fetch_sub(octets, Ordering::Relaxed);
        debug_assert!(before >= octets, "gave back {octets} of {before}");
    }
}

/// Octets that the allocator takes for a request of `octets`: glibc's malloc keeps eight for
/// itself, rounds to sixteen, and never takes fewer than 32.
pub(super) fn allocated(octets: usize) -> usize {
    if octets == 0 { 0 } else { (octets + 8).next_multiple_of(16).max(32) }
}

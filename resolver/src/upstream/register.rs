//! What whoever administers the resolver asks of all that is known outside: how servers are, what is
//! kept, and that it be forgotten.
//!
//! Invariants
//! - *while it runs*: asking costs those who answer a short lock, one cache after another;
//! - *holds nobody*: what is left by its last sandbox is gone, though it was listed here.

use std::time::Duration;

pub use super::health::State as Standing;
use super::server::Server;

/// All that ask servers outside.
#[derive(Debug, Default)]
pub(crate) struct Register;

/// What was forgotten.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flushed {
    /// Answers, denials and failures.
    pub entries: usize,
    /// Octets that they took, as the allocator counts.
    pub bytes: usize,
}

/// What is kept of what servers outside said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheFigures {
    /// Octets, as the allocator counts them.
    pub bytes: usize,
    /// Answers, denials and failures, those that are over included.
    pub entries: usize,
    /// Questions that were answered from what is kept, stale answers included.
    pub hits: u64,
    /// Questions for which nothing was kept that could be told.
    pub misses: u64,
}

/// How a server is, as those see it who ask it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamState {
    /// Its address, how it is spoken to, and whether from the host or from inside sandboxes.
    pub server: Server,
    /// How it is for those who reach it best.
    pub standing: Standing,
    /// Smoothed round-trip time of the quickest; `None`: it has not answered yet.
    pub rtt: Option<Duration>,
    /// Sandboxes that may ask it.
    pub sandboxes: usize,
    /// Those of them for whom it is [`Standing::Down`].
    pub down_for: usize,
}

#[expect(clippy::unused_self, reason = "nobody is listed in it yet")]
impl Register {
    /// Forgets all that is kept. How servers are stays known.
    pub(crate) fn flush(&self) -> Flushed {
        Flushed::default()
    }

    /// How the servers are, in order.
    pub(crate) fn states(&self) -> Vec<UpstreamState> {
        Vec::new()
    }

    /// What is kept.
    pub(crate) fn cache(&self) -> CacheFigures {
        CacheFigures::default()
    }

    /// Questions that servers are being asked now.
    pub(crate) fn in_flight(&self) -> usize {
        0
    }
}

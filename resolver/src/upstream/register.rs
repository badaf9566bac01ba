//! What whoever administers the resolver asks of all that is known outside: how servers are, what is
//! kept, and that it be forgotten.
//!
//! Invariants
//! - *while it runs*: asking costs those who answer a short lock, one cache after another;
//! - *holds nobody*: what is left by its last sandbox is gone, though it was listed here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::circle::{Asker, Circle};
use super::exchange::Place;
use super::health::Health;
pub use super::health::State as Standing;
use super::limits::AllLimits;
use super::locked;
use super::policy::Policy;
use super::server::Server;

/// All that ask servers outside.
#[derive(Debug, Default)]
pub(crate) struct Register {
    circles: Mutex<Vec<Weak<Circle>>>,
    /// What all may ask together.
    pub(super) limits: AllLimits,
    misses: AtomicU64,
}

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

impl Register {
    /// The circle that `asker` shares with others under `policy`; else a `new` one.
    pub(super) fn circle(
        &self,
        policy: &Arc<Policy>,
        asker: Asker<'_>,
        new: impl FnOnce() -> Circle,
    ) -> Arc<Circle> {
        let mut circles = locked(&self.circles);
        circles.retain(|it| it.strong_count() > 0);
        let mut there = circles.iter().filter_map(Weak::upgrade);
        if let Some(circle) = there.find(|it| it.admits(policy, asker)) {
            return circle;
        }
        let circle = Arc::new(new());
        circles.push(Arc::downgrade(&circle));
        circle
    }

    /// The circle that `asker`, who is at `place`, belongs to, if he has asked anybody.
    pub(super) fn circle_of(&self, asker: Asker<'_>, place: &Place) -> Option<Arc<Circle>> {
        self.circles().into_iter().find(|it| it.has(asker, place))
    }

    /// Counts a question for which nothing was kept.
    pub(super) fn missed(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    /// Forgets all that is kept. How servers are stays known.
    pub(crate) fn flush(&self) -> Flushed {
        let mut flushed = Flushed::default();
        for circle in self.circles() {
            let cache = circle.cache().take(); // freed when those who answer have their lock back
            flushed.bytes += cache.bytes();
            flushed.entries += cache.len();
        }
        flushed
    }

    /// How the servers are, in order; no more than [`MAX_STATES`].
    pub(crate) fn states(&self) -> Vec<UpstreamState> {
        let mut states = BTreeMap::<Server, UpstreamState>::new();
        for circle in self.circles() {
            for (server, health) in circle.servers() {
                let seen = UpstreamState::seen(server, &health, circle.members());
                let room = states.len() < MAX_STATES;
                match states.entry(Server { trusts_ad: false, ..seen.server.clone() }) {
                    Entry::Occupied(mut known) => known.get_mut().join(&seen),
                    Entry::Vacant(vacant) if room => drop(vacant.insert(seen)),
                    Entry::Vacant(_) => {}
                }
            }
        }
        states.into_values().collect()
    }

    /// What is kept, but for [`CacheFigures::hits`], which those count who answer.
    pub(crate) fn cache(&self) -> CacheFigures {
        let misses = self.misses.load(Relaxed);
        let mut figures = CacheFigures { misses, ..CacheFigures::default() };
        for circle in self.circles() {
            let cache = circle.cache();
            figures.bytes += cache.bytes();
            figures.entries += cache.len();
        }
        figures
    }

    /// Questions that servers are being asked now.
    pub(crate) fn in_flight(&self) -> usize {
        self.limits.in_flight()
    }

    fn circles(&self) -> Vec<Arc<Circle>> {
        locked(&self.circles).iter().filter_map(Weak::upgrade).collect()
    }
}

impl UpstreamState {
    /// How those of one circle see it.
    fn seen(server: Server, health: &Health, sandboxes: usize) -> Self {
        let standing = health.state();
        let down_for = if standing == Standing::Down { sandboxes } else { 0 };
        Self { server, standing, rtt: health.rtt(), sandboxes, down_for }
    }

    /// Adds how those of another see it.
    fn join(&mut self, other: &Self) {
        if worth(other.standing) < worth(self.standing) {
            self.standing = other.standing;
        }
        self.rtt = self.rtt.into_iter().chain(other.rtt).min();
        self.sandboxes += other.sandboxes;
        self.down_for += other.down_for;
    }
}

/// Which of two views of one server is told: the better one, and any before that of who knows
/// nothing.
fn worth(standing: Standing) -> u8 {
    match standing {
        Standing::Up => 0,
        Standing::Failing => 1,
        Standing::Down => 2,
        Standing::Unknown => 3,
    }
}

/// Servers that are told of: each is a line for whoever watches, and no host has so many.
const MAX_STATES: usize = 256;

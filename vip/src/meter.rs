//! Counts what the VIP manager does, and the connections that go through VIPs, for the whole
//! process: whoever makes the consumer anew after a panic gives it the same meter.
//!
//! Invariants
//! - *cheap*: counting is one or two relaxed additions, and never waits;
//! - *bounded*: connections are counted when somebody asks, and no more often than every
//!   [`FRESH`]; a look ends after [`LOOK`], and tells of at most [`MOST_SERIES`] tasks.

mod connections;
mod times;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use self::connections::{Connections, TaskConnections};
pub(crate) use self::connections::{Place, look};
pub use self::times::Times;
use crate::relay;

/// A look at conntrack's tables is good for so long.
const FRESH: Duration = Duration::from_secs(5);

/// A look takes no longer than this: namespaces that were not reached are missing, and it says so.
const LOOK: Duration = Duration::from_millis(500);

/// Most tasks that a look tells of one by one; all others are one.
const MOST_SERIES: usize = 2_000;

/// What the VIP manager counts. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    shared: Arc<Metrics>,
    relay: relay::Meter,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters themselves.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
            transactions: times::Histogram,
            places: Mutex<Arc<Vec<Place>>>,
            seen: Mutex<Option<(Instant, Arc<Connections>)>>,
        }

        /// What was counted up to one moment.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
            /// How long transactions of nftables took.
            pub transactions: Times,
            /// What the tables hold now.
            pub tables: Tables,
        }

        impl Meter {
            /// What was counted so far.
            pub fn read(&self) -> Counts {
                Counts {
                    $($name: self.shared.$name.load(Relaxed),)*
                    transactions: self.shared.transactions.now(),
                    tables: self.shared.tables(),
                }
            }
        }
    };
}

counters! {
    /// Tasks that began to drain, once for each of their VIPs.
    drains_begun,
    /// Of these, those that are gone or serve again.
    drains_ended,
    /// Of these, those whose time was over before they were gone.
    drains_expired,
    /// TCP connections through VIPs that were cut: their task is gone, or its drain time is over.
    connections_cut,
    /// Of these, those whose client was told by a reset.
    resets,
    /// Flows of UDP and ICMP that were led to another task.
    flows_moved,
    /// Sandboxes in which a table of VIPs was made where there was none.
    takeovers,
    /// Tables that a portolan before this one left, and that were taken on as they were.
    adoptions,
    /// Tables that were not as portolan makes them, and were replaced whole.
    tables_replaced,
    /// Times that somebody else was seen to change a table, several changes shortly after one
    /// another being one.
    foreign_changes,
    /// Connections through published ports that were cut and whose client was told: their task is
    /// gone, or its drain time is over.
    mesh_resets,
    /// Tasks behind published ports whose drain time was over before they were gone.
    mesh_drains_expired,
    /// Gauge: tasks that drain now, once for each of their VIPs.
    draining,
}

/// How large the tables of all sandboxes are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tables {
    /// Namespaces that hold one.
    pub sandboxes: usize,
    /// VIPs in all of them.
    pub vips: usize,
    /// Slots in all of them, an element each.
    pub slots: usize,
}

impl Meter {
    /// What is counted of the sessions that are relayed in userspace.
    pub fn relay(&self) -> &relay::Meter {
        &self.relay
    }

    /// The connections through VIPs of this node's sandboxes, by service and task, at most five
    /// seconds old. Blocks for half a second at most: for a thread that may.
    pub fn connections(&self) -> Arc<Connections> {
        let mut seen = lock(&self.shared.seen);
        let now = Instant::now();
        if let Some((when, found)) = &*seen
            && now.duration_since(*when) < FRESH
        {
            return Arc::clone(found);
        }
        let places = Arc::clone(&*lock(&self.shared.places));
        let found = Arc::new(look(&places, now + LOOK, MOST_SERIES));
        *seen = Some((Instant::now(), Arc::clone(&found)));
        found
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared
    }
}

impl Metrics {
    /// So many more of something.
    pub(crate) fn add(counter: &AtomicU64, more: usize) {
        if more > 0 {
            counter.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Something is so many now.
    pub(crate) fn set(gauge: &AtomicU64, now: usize) {
        gauge.store(u64::try_from(now).unwrap_or(u64::MAX), Relaxed);
    }

    /// A transaction was committed.
    pub(crate) fn committed(&self, took: Duration) {
        self.transactions.record(took);
    }

    fn tables(&self) -> Tables {
        let places = Arc::clone(&*lock(&self.places));
        let balances = || places.iter().flat_map(|it| it.balances.values());
        let slots = balances().map(|it| it.slots.len()).sum();
        Tables { sandboxes: places.len(), vips: balances().count(), slots }
    }

    /// Where connections are to be looked for from now on.
    pub(crate) fn found_at(&self, places: Vec<Place>) {
        *lock(&self.places) = Arc::new(places);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is whole between any two statements.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

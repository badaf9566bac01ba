//! What the relay counts, for each service on each network.
//!
//! Always true here: a counter only grows, save `open`, which says "now". Who counts holds the
//! counters of its service itself: nobody waits for anybody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Reads the counters of all services that are relayed.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<BTreeMap<Key, Arc<Counters>>>>);

/// Service and network.
type Key = (String, String);

/// What one service's entrances count.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) flows: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unreached: AtomicU64,
    pub(super) cut: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) to_tasks: AtomicU64,
    pub(super) to_clients: AtomicU64,
}

/// What was counted of one service on one network.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// TCP connections taken.
    pub connections: u64,
    /// UDP sessions begun.
    pub flows: u64,
    /// Sessions of both kinds that there are now.
    pub open: u64,
    /// Sessions refused because there were too many.
    pub refused: u64,
    /// Sessions for which no task could be reached.
    pub unreached: u64,
    /// Sessions cut because their task was gone, or its drain time over.
    pub cut: u64,
    /// Datagrams that a socket did not take.
    pub lost: u64,
    /// Octets from clients to tasks.
    pub to_tasks: u64,
    /// Octets from tasks to clients.
    pub to_clients: u64,
}

impl Meter {
    /// What was counted, by service and network; without names: of services that are gone.
    pub fn read(&self) -> BTreeMap<(String, String), Count> {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|(key, counters)| (key.clone(), counters.read())).collect()
    }

    /// The counters of a service.
    pub(super) fn of(&self, service: &str, network: &str) -> Arc<Counters> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((service.to_owned(), network.to_owned())).or_default())
    }

    /// Services that nobody counts for any more are counted as one without a name, so that no sum
    /// becomes less.
    pub(super) fn tidy(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_gone = |(key, counters): &(&Key, &Arc<Counters>)| {
            **key != Key::default() && Arc::strong_count(counters) == 1
        };
        let gone: Vec<Key> = all.iter().filter(is_gone).map(|it| it.0.clone()).collect();
        for key in gone {
            if let Some(counters) = all.remove(&key) {
                all.entry(Key::default()).or_default().take_on(counters.read());
            }
        }
    }
}

impl Counters {
    fn take_on(&self, count: Count) {
        let pairs = [
            (&self.connections, count.connections),
            (&self.flows, count.flows),
            (&self.open, count.open),
            (&self.refused, count.refused),
            (&self.unreached, count.unreached),
            (&self.cut, count.cut),
            (&self.lost, count.lost),
            (&self.to_tasks, count.to_tasks),
            (&self.to_clients, count.to_clients),
        ];
        for (counter, count) in pairs {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Count {
        let Self { connections, flows, open, refused, unreached, cut, lost, to_tasks, to_clients } =
            self;
        let read = |it: &AtomicU64| it.load(Ordering::Relaxed);
        Count {
            connections: read(connections),
            flows: read(flows),
            open: read(open),
            refused: read(refused),
            unreached: read(unreached),
            cut: read(cut),
            lost: read(lost),
            to_tasks: read(to_tasks),
            to_clients: read(to_clients),
        }
    }
}

/// Counts up.
pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
}

/// A session that is open as long as this lives.
#[derive(Debug)]
pub(super) struct Open(Arc<Counters>);

impl Open {
    pub(super) fn count(counters: &Arc<Counters>) -> Self {
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

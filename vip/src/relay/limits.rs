//! How much may be going on at a time, and who has how much of it.
//!
//! Always true here: what was counted in is counted out when its [`Ticket`] goes, however its
//! session ends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much may be going on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Threads that serve, each with sockets of its own for every entrance.
    pub threads: NonZeroUsize,
    /// Entrances at a time; each takes a descriptor for each thread.
    pub entrances: usize,
    /// TCP sessions at a time, over all entrances; more are reset. Each takes two descriptors.
    pub connections: usize,
    /// Of these, how many one client may have in one place.
    pub connections_per_client: usize,
    /// UDP sessions of one thread; the longest unused gives way to a new one. Each takes a
    /// descriptor.
    pub flows: usize,
    /// How long a task may take to accept a connection before another is asked.
    pub connect: Duration,
    /// Tasks that are asked before a client is reset.
    pub tries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            entrances: 16_384,
            connections: 16_384,
            connections_per_client: 4_096,
            flows: 8_192,
            // A SYN that was lost is sent again after one second.
            connect: Duration::from_secs(3),
            tries: 3,
        }
    }
}

/// Who has how many sessions.
#[derive(Debug)]
pub(super) struct Census {
    counts: Mutex<Counts>,
    most: usize,
    most_per_client: usize,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    clients: BTreeMap<Client, usize>,
}

/// A client, in a place: addresses mean something only there.
pub(super) type Client = (u64, IpAddr);

/// One session that is counted.
#[derive(Debug)]
pub(super) struct Ticket {
    census: Arc<Census>,
    client: Client,
}

impl Census {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let (most, most_per_client) = (limits.connections, limits.connections_per_client);
        Arc::new(Self { counts: Mutex::default(), most, most_per_client })
    }

    /// Counts one session more, unless there are too many.
    pub(super) fn admit(self: &Arc<Self>, client: Client) -> Option<Ticket> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= self.most {
            return None;
        }
        let of_client = counts.clients.entry(client).or_default();
        if *of_client >= self.most_per_client {
            return None;
        }
        *of_client += 1;
        counts.all += 1;
        Some(Ticket { census: Arc::clone(self), client })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.census.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        if let Some(of_client) = counts.clients.get_mut(&self.client) {
            *of_client = of_client.saturating_sub(1);
            if *of_client == 0 {
                counts.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_gets_it_back() {
        let limits = Limits { connections: 3, connections_per_client: 2, ..Limits::default() };
        let census = Census::new(&limits);
        let [one, other] = [1, 2].map(|last| (7, IpAddr::from([10, 0, 0, last])));
        let first = census.admit(one).unwrap();
        let _second = census.admit(one).unwrap();
        assert!(census.admit(one).is_none(), "one client has too many");
        let _third = census.admit(other).unwrap();
        assert!(census.admit(other).is_none(), "there are too many");
        drop(first);
        let _again = census.admit(one).unwrap();
        assert_eq!(census.counts.lock().unwrap().clients.len(), 2);
    }
}

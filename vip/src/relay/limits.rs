//! How much may be going on at a time, and who has how much of it.
//!
//! Invariants
//! - what was counted in is counted out when its [`Ticket`] goes, however its session ends;
//! - *nobody takes all*: a place may have four times as much as is left, a client half of that, so
//!   that the next one always finds some.

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
    /// Of these, how many one client may have in one place; its oldest gives way.
    pub flows_per_client: usize,
    /// UDP sessions of one thread whose sockets are being made. The thread that makes sockets in
    /// other namespaces has TCP's to make too, some 50 us each.
    pub flows_begun: usize,
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
            flows_per_client: 2_048,
            flows_begun: 128,
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
    places: BTreeMap<u64, usize>,
    clients: BTreeMap<Client, usize>,
}

/// A client, in a place: addresses mean something only there.
pub(super) type Client = (u64, IpAddr);

/// Who that is, as far as it can be told: whoever has one IPv6 address has 2^64 of them.
pub(super) fn client(place: u64, address: IpAddr) -> Client {
    let address = match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
        ipv4 @ IpAddr::V4(_) => ipv4,
    };
    (place, address)
}

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
        let left = self.most.saturating_sub(counts.all);
        let of_place = counts.places.get(&client.0).copied().unwrap_or_default();
        let of_client = counts.clients.get(&client).copied().unwrap_or_default();
        let most_of_client = self.most_per_client.min(left.saturating_mul(2));
        if of_place >= left.saturating_mul(4) || of_client >= most_of_client {
            return None;
        }
        counts.all += 1;
        *counts.places.entry(client.0).or_default() += 1;
        *counts.clients.entry(client).or_default() += 1;
        Some(Ticket { census: Arc::clone(self), client })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.census.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        count_out(&mut counts.places, &self.client.0);
        count_out(&mut counts.clients, &self.client);
    }
}

fn count_out<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many sessions of `client` are let in, of very many.
    fn crowd(census: &Arc<Census>, client: Client, tickets: &mut Vec<Ticket>) -> usize {
        let before = tickets.len();
        tickets.extend((0..10_000).map_while(|_| census.admit(client)));
        tickets.len() - before
    }

    #[test]
    fn a_client_has_its_share_and_gets_it_back() {
        let limits = Limits { connections: 100, connections_per_client: 2, ..Limits::default() };
        let census = Census::new(&limits);
        let [one, other] = [1, 2].map(|last| (7, IpAddr::from([10, 0, 0, last])));
        let first = census.admit(one).unwrap();
        let _second = census.admit(one).unwrap();
        assert!(census.admit(one).is_none(), "one client has too many");
        let _third = census.admit(other).unwrap();
        drop(first);
        let _again = census.admit(one).unwrap();
        assert_eq!(census.counts.lock().unwrap().clients.len(), 2);
    }

    #[test]
    fn whoever_takes_what_it_gets_leaves_something_for_the_next() {
        let limits =
            Limits { connections: 1_000, connections_per_client: 1_000, ..Limits::default() };
        let (census, mut tickets) = (Census::new(&limits), Vec::new());
        let clients = (1..=5).map(|last| (7, IpAddr::from([10, 0, 0, last])));
        let got: Vec<_> = clients.map(|it| crowd(&census, it, &mut tickets)).collect();
        assert_eq!(got, [667, 133, 0, 0, 0], "of one place, four fifths together");
        let elsewhere = |place| (place, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(crowd(&census, elsewhere(8), &mut tickets), 134);
        assert_eq!(crowd(&census, elsewhere(9), &mut tickets), 44);
        tickets.clear();
        assert!(census.counts.lock().unwrap().places.is_empty());
    }

    #[test]
    fn addresses_that_one_client_has_by_the_billion_are_one() {
        let [one, other] = ["2001:db8::1", "2001:db8::ffff:2"].map(|it| it.parse().unwrap());
        assert_eq!(client(1, one), client(1, other));
        assert_ne!(client(1, one), client(2, one), "the same address in another namespace");
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(client(1, mapped), (1, IpAddr::from([10, 0, 0, 1])));
    }
}

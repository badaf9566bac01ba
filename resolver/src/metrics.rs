//! Counts what was asked and what became of it, for the whole process.
//!
//! Invariants
//! - *cheap*: counting is one or two relaxed additions, and never waits;
//! - *bounded*: no counter is kept for a name or a client, one for each of a bounded number of
//!   networks ([`networks`]).

mod codes;
mod latency;
mod networks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::wire::Rcode;

use self::codes::Codes;
use self::networks::Networks;

pub use self::codes::ByCode;
pub use self::latency::Latencies;
pub use self::networks::NetworkCounts;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that only grow.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
            queries: [Codes; Source::ALL.len()],
            latency: latency::Histogram,
            networks: Networks,
        }

        /// The counters at one moment.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
            /// Replies by who gave them and their response code.
            pub queries: Vec<(Source, ByCode)>,
            /// How long replies took.
            pub latency: Latencies,
            /// Replies from a network's own names, by the network's name.
            pub networks: Vec<(String, ByCode)>,
        }

        impl Metrics {
            /// The counters now.
            pub(crate) fn counts(&self) -> Counts {
                Counts {
                    $($name: self.$name.load(Relaxed),)*
                    queries: Source::ALL
                        .into_iter()
                        .zip(&self.queries)
                        .map(|(source, codes)| (source, codes.now()))
                        .collect(),
                    latency: self.latency.now(),
                    networks: self.networks.now(),
                }
            }
        }
    };
}

counters! {
    /// Questions that came by UDP.
    udp_queries,
    /// Questions that came by TCP.
    tcp_queries,
    /// Messages that got no reply: too short, or replies themselves.
    silenced,
    /// Messages refused before their question was looked at.
    malformed,
    /// Refused by policy: other classes, zone transfers, internal networks.
    refused,
    /// Refused because a sandbox, or all together, asked too much outside.
    busy,
    /// Replies that the client's socket did not take.
    unsent,
    /// TCP connections accepted.
    connections,
    /// Sandboxes that were taken over and whose table was lost while they were served.
    takeovers_lost,
    /// Of these, those that were taken over again.
    takeovers_won_back,
}

/// Who gave an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// The registry.
    Local,
    /// The engine's own resolver.
    Engine,
    /// The cache of what upstream servers said.
    Cache,
    /// The cache, past the answer's time, because no upstream server answers (RFC 8767).
    Stale,
    /// An upstream server; also the refusal where all of them fail.
    Upstream,
    /// Nobody: refused here.
    Refused,
}

impl Source {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 6] =
        [Self::Local, Self::Engine, Self::Cache, Self::Stale, Self::Upstream, Self::Refused];

    /// As a label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Engine => "engine",
            Self::Cache => "cache",
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Refused => "refused",
        }
    }
}

impl Counts {
    /// Replies that `source` gave.
    pub fn given_by(&self, source: Source) -> u64 {
        let of_source = self.queries.iter().filter(|(it, _)| *it == source);
        of_source.flat_map(|(_, codes)| codes.clone().map(|(_, count)| count)).sum()
    }
}

impl Metrics {
    /// One more of something.
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// So many more of something.
    pub(crate) fn add(counter: &AtomicU64, more: usize) {
        if more > 0 {
            counter.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// A reply with `code` was made; `source` gave it.
    pub(crate) fn answered(&self, source: Source, code: Rcode) {
        if let Some(codes) = self.queries.get(source as usize) {
            codes.count(code);
        }
    }

    /// Replies that `source` gave.
    pub(crate) fn given_by(&self, source: Source) -> u64 {
        let codes = self.queries.get(source as usize);
        codes.map_or(0, |it| it.now().map(|(_, count)| count).sum())
    }

    /// `answers` replies took `elapsed` each, from the query's arrival to the reply's leaving. A
    /// batch is counted by what it took as a whole: each of its replies left at its end.
    pub(crate) fn took(&self, elapsed: Duration, answers: u64) {
        self.latency.record(elapsed, answers);
    }

    /// Where answers from the own names of networks called `name` are counted. Costs a lock: for whoever compiles, not
    /// for whoever answers. Its counts live as long as somebody holds them.
    pub(crate) fn network(&self, name: &str) -> Arc<NetworkCounts> {
        self.networks.of(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_counted_once_under_its_source_and_code() {
        let metrics = Metrics::default();
        metrics.answered(Source::Stale, Rcode::NXDOMAIN);
        metrics.answered(Source::Stale, Rcode::NXDOMAIN);
        metrics.answered(Source::Refused, Rcode::BADVERS);
        let seen: Vec<_> = metrics
            .counts()
            .queries
            .into_iter()
            .flat_map(|(source, codes)| codes.map(move |(code, n)| (source.as_str(), code, n)))
            .filter(|(_, _, n)| *n > 0)
            .collect();
        assert_eq!(seen, [("stale", "NXDOMAIN", 2), ("refused", "BADVERS", 1)]);
    }

    #[test]
    fn every_source_counts_at_its_own_place() {
        for (at, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(source as usize, at, "{source:?}");
        }
    }
}

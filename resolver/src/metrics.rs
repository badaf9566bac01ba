//! Counts what was asked and what became of it, for the whole process.
//!
//! Always true here: counting is one relaxed addition, and never waits.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::wire::Rcode;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that only grow.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
            codes: [AtomicU64; 16],
        }

        /// The counters at one moment.
        #[derive(Clone, Debug, Default, Eq, PartialEq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
            /// Replies by response code (RFC 1035 section 4.1.1), 0 to 15.
            pub codes: [u64; 16],
        }

        impl Metrics {
            /// The counters now.
            pub(crate) fn counts(&self) -> Counts {
                Counts {
                    $($name: self.$name.load(Relaxed),)*
                    codes: std::array::from_fn(|at| {
                        self.codes.get(at).map_or(0, |it| it.load(Relaxed))
                    }),
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
    /// Answered from the registry.
    from_registry,
    /// Asked of upstream servers.
    from_upstream,
    /// Asked of the engine's own resolver.
    from_engine,
    /// Refused by policy: other classes, zone transfers, internal networks.
    refused,
    /// Refused because too many questions of one sandbox were in flight.
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

impl Metrics {
    /// One more of something.
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// A reply went out with `code`.
    pub(crate) fn replied(&self, code: Rcode) {
        // BADVERS (16) is counted with what its header says, NOERROR.
        if let Some(counter) = self.codes.get(usize::from(code.0 & 0x000f)) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

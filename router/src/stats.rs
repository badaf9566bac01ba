//! What the router counts. Each number only grows, save those that say "now".

use std::sync::atomic::{AtomicU64, Ordering};

/// One router's counters, shared by its threads.
#[derive(Debug, Default)]
pub struct Stats {
    /// Client connections accepted.
    pub accepted: Count,
    /// Requests whose head was whole and well-formed.
    pub requests: Count,
    /// Requests refused before that: malformed, too large, too slow.
    pub malformed: Count,
    /// Answers of the router's own with a 4xx status, of well-formed requests.
    pub refused: Count,
    /// Answers of the router's own with a 5xx status.
    pub failed: Count,
    /// Connections made to tasks.
    pub connected: Count,
    /// Connections to tasks that could not be made.
    pub unconnected: Count,
    /// Requests sent over a connection that an earlier request had left.
    pub reused: Count,
    /// Requests sent once more because the first connection broke.
    pub retries: Count,
}

/// One counter.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

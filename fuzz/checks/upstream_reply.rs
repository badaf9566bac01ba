//! What must hold of any octets that an upstream server may reply. Shared with the test that replays
//! what fuzzing found.

use std::sync::LazyLock;
use std::time::Instant;

/// Fails where `octets` show that something does not hold.
pub(crate) fn check(octets: &[u8]) {
    resolver::fuzz::upstream_reply(octets, *BEGUN);
    resolver::fuzz::upstream_stream(octets, *BEGUN);
}

/// One moment for all, so that the same octets are the same case.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

//! One counter for each response code that the resolver gives or passes on.
//!
//! Always true here: the codes are a fixed set, so whoever sends us odd ones makes no new series.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::wire::Rcode;

/// As IANA calls them; 12 to 15 are unassigned. BADVERS is the one extended code that we give.
const NAMES: [&str; 17] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
    "12",
    "13",
    "14",
    "15",
    "BADVERS",
];

/// A counter for each code.
#[derive(Debug, Default)]
pub(crate) struct Codes([AtomicU64; NAMES.len()]);

impl Codes {
    /// One more with `code`.
    pub(crate) fn count(&self, code: Rcode) {
        // Other extended codes count with what the header alone says.
        let at = if code == Rcode::BADVERS { code.0 } else { code.0 & 0x000f };
        if let Some(counter) = self.0.get(usize::from(at)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// The counters now.
    pub(crate) fn now(&self) -> ByCode {
        let at = |index| self.0.get(index).map_or(0, |it: &AtomicU64| it.load(Relaxed));
        ByCode { counts: std::array::from_fn(at), next: 0 }
    }
}

/// How many there were of each code, at one moment: an iterator over `(code, count)`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ByCode {
    counts: [u64; NAMES.len()],
    next: usize,
}

impl Iterator for ByCode {
    type Item = (&'static str, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let item = (*NAMES.get(self.next)?, *self.counts.get(self.next)?);
        self.next += 1;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_code_counts_as_its_header_says() {
        let codes = Codes::default();
        codes.count(Rcode(0x0012)); // BADTIME; its header's four bits say SERVFAIL
        assert_eq!(codes.now().find(|(_, n)| *n > 0), Some(("SERVFAIL", 1)));
    }
}

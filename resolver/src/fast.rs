//! The fast path: plain questions for known names, from octets to octets.
//!
//! Invariants
//! - *the same answer*: what is answered here, the general path ([`crate::respond`]) answers octet
//!   for octet; whatever is not plain is left to it;
//! - *nothing in the way*: no allocation, no lock, no system call; what can be worked out when a
//!   view is made was worked out then ([`table`]);
//! - *bounded*: no more than the question and the answer are looked at.
//!
//! Pure.

mod pen;
mod plain;
pub(crate) mod table;

use std::sync::Arc;

use crate::answer::{cannot_be_top_level, may_be_special};
use crate::metrics::{Metrics, NetworkCounts};
use crate::plan::View;
use crate::wire::{Kind, Rcode};
use pen::Pen;
pub use plain::Plain;
pub use table::Prepared;
use table::{Found, Table};

/// A view with what answering from it quickly takes.
#[derive(Debug)]
pub struct Seat {
    /// What is known.
    pub(crate) view: Arc<View>,
    /// Where answers of each zone are counted, in the view's order.
    pub(crate) counts: Vec<Arc<NetworkCounts>>,
    hosts: Table,
    links: Table,
    /// Single labels that nobody has do not exist; otherwise somebody else may know, or the
    /// general path.
    denies_single_labels: bool,
    /// The engine may know names that the registry does not.
    asks_engine: bool,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quick {
    /// Answered; so many octets were written.
    Reply {
        /// Octets of the reply.
        length: usize,
        /// Its response code.
        code: Rcode,
        /// Which of the view's zones answered; `None`: not one of them.
        zone: Option<usize>,
    },
    /// Nobody here has the name; what upstream servers said of it may be at hand.
    Foreign,
    /// For the general path.
    General,
}

impl Seat {
    /// Makes ready what `view` knows.
    pub fn new(view: Arc<View>) -> Self {
        let hosts = Table::of(view.hosts.iter());
        let links = Table::of(view.links.iter());
        for zone in &view.zones {
            zone.table.prepare(zone);
        }
        // Hosts may lie below a single label, and a suffix may be one.
        let denies_single_labels = !view.asks_engine()
            && !view.forward_single_label
            && view.hosts.is_empty()
            && view.suffixes.iter().all(|it| it.contains('.'));
        let asks_engine = view.asks_engine();
        Self { view, counts: Vec::new(), hosts, links, denies_single_labels, asks_engine }
    }

    /// The same, with what its zones answer counted in `metrics`.
    pub(crate) fn counted(view: Arc<View>, metrics: &Metrics) -> Self {
        let counts = view.zones.iter().map(|it| metrics.network(&it.name)).collect();
        Self { counts, ..Self::new(view) }
    }

    /// Answers `asked` into `out` if that is plain; `seed` decides the order of addresses.
    pub fn quick(&self, asked: &Plain<'_>, seed: u64, out: &mut [u8]) -> Quick {
        if !is_data(asked.kind) {
            return Quick::General;
        }
        let name = asked.name();
        if let Some(found) = self.hosts.get(name) {
            return found_reply(asked, &found, None, seed, out);
        }
        if may_be_special(asked.last_label()) {
            return self.reverse(asked, seed, out);
        }
        if let Some(found) = self.links.get(name) {
            return found_reply(asked, &found, None, seed, out);
        }
        for (at, zone) in self.view.zones.iter().enumerate() {
            if let Some(found) = zone.table.get().and_then(|it| it.names.get(name)) {
                return found_reply(asked, &found, Some(at), seed, out);
            }
        }
        if asked.labels() < 2 {
            return self.single_label(asked, out);
        }
        self.qualified(asked, seed, out)
    }

    /// The name of one of our addresses, unless somebody is called like a reverse name.
    fn reverse(&self, asked: &Plain<'_>, seed: u64, out: &mut [u8]) -> Quick {
        if asked.kind != Kind::PTR || self.links.get(asked.name()).is_some() {
            return Quick::General;
        }
        let mut first = None;
        for (at, zone) in self.view.zones.iter().enumerate() {
            if let Some(found) = zone.table.get().and_then(|it| it.names.get(asked.name())) {
                if !found.is_reverse() {
                    return Quick::General;
                }
                first = first.or(Some((at, found)));
            }
        }
        match first {
            Some((at, found)) => found_reply(asked, &found, Some(at), seed, out),
            None => Quick::General,
        }
    }

    /// `NAME.NETWORK`, with as many labels for the network as it takes.
    fn qualified(&self, asked: &Plain<'_>, seed: u64, out: &mut [u8]) -> Quick {
        let mut ours = false;
        for (name, network) in asked.splits() {
            for (at, zone) in self.view.zones.iter().enumerate() {
                let Some(table) = zone.table.get().filter(|it| *it.network == *network) else {
                    continue;
                };
                ours = true;
                if self.links.get(name).is_some() {
                    return Quick::General; // a link, on one network
                }
                if let Some(found) = table.names.get(name) {
                    return found_reply(asked, &found, Some(at), seed, out);
                }
            }
        }
        let general = asked.first_label().first() == Some(&b'_')
            || ours
            || asked.first_label() == b"tasks"
            || self.is_above(asked)
            // What the engine is asked: such names are of tasks, and others' servers deny them.
            || self.asks_engine && cannot_be_top_level(asked.last_label());
        if general { Quick::General } else { Quick::Foreign }
    }

    fn single_label(&self, asked: &Plain<'_>, out: &mut [u8]) -> Quick {
        let denied = self.denies_single_labels
            && asked.labels() == 1
            && crate::answer::is_denied(asked.kind)
            && asked.first_label() != b"tasks"
            && asked.first_label().first() != Some(&b'_')
            && !self.is_above(asked);
        if !denied {
            return Quick::General;
        }
        reply(asked, Rcode::NXDOMAIN, None, out, |pen| pen.soa(self.view.ttl))
    }

    /// Whether names of ours may lie below this one.
    fn is_above(&self, asked: &Plain<'_>) -> bool {
        let above = |table: &table::ZoneTable| table.network.ends_with(asked.name());
        self.view.zones.iter().filter_map(|it| it.table.get()).any(above)
    }
}

/// Types of data, of which a known name has none but those that it has (RFC 6895 section 3.1);
/// OPT is no type to ask for.
fn is_data(kind: Kind) -> bool {
    (1..=127).contains(&kind.0) && kind != Kind::OPT
}

fn found_reply(
    asked: &Plain<'_>,
    found: &Found<'_>,
    zone: Option<usize>,
    seed: u64,
    out: &mut [u8],
) -> Quick {
    reply(asked, Rcode::NOERROR, zone, out, |pen| match found.records(asked.kind) {
        Some(records) => pen.records(&records, seed),
        None => pen.soa(found.ttl()),
    })
}

/// The whole reply with the section that `body` writes; the general path's, where it does not fit.
fn reply(
    asked: &Plain<'_>,
    code: Rcode,
    zone: Option<usize>,
    out: &mut [u8],
    body: impl FnOnce(&mut Pen<'_>) -> Option<()>,
) -> Quick {
    let write = || {
        let mut pen = Pen::new(asked, out)?;
        body(&mut pen)?;
        pen.end(asked, code)
    };
    match write() {
        Some(length) => Quick::Reply { length, code, zone },
        None => Quick::General,
    }
}

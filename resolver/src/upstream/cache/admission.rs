//! What of a reply may be kept, and how long.
//!
//! Invariants
//! - *asked for*: a reply with one record that does not belong to its question is not kept at all;
//! - *as long as they said, or shorter*: no TTL grows by being kept;
//! - *denied by who may*: that something does not exist is kept by the SOA of a zone that the name
//!   is in (RFC 2308 section 5), and not without one.

use std::time::Duration;

use crate::wire::reply::Reply;
use crate::wire::reply::chain::{Chain, Plain};
use crate::wire::reply::layout::Layout;
use crate::wire::{Class, Kind, Query, RawRecord, Rcode, be16};

/// What becomes of a reply.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Admission {
    /// It is kept.
    Keep(Kept),
    /// It is true and not to be kept; what was kept before is true no more.
    Forget,
    /// The server has failed (RFC 9520).
    Failure,
    /// It says nothing about the name.
    Ignore,
}

/// What is kept of a reply.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Kept {
    /// NOERROR or NXDOMAIN.
    pub(super) code: Rcode,
    /// Seconds from now; at least one.
    pub(super) lifetime: u32,
    /// Answers, authorities, additionals.
    pub(super) counts: [u16; 3],
    /// The three sections.
    pub(super) records: Vec<u8>,
    /// Where the additional section begins in `records`.
    pub(super) additionals: u16,
    /// Where the TTLs stand in `records`.
    pub(super) ttls: Vec<u16>,
}

/// The longest that anything is kept: who moves a service expects a day at most.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The longest that a name is taken not to exist (RFC 2308 section 5: one to three hours).
pub(super) const LONGEST_NEGATIVE: Duration = Duration::from_secs(3 * 3600);
/// Octets of records that are kept: what is longer is rare, and would drive out hundreds.
const LARGEST: usize = 16 * 1024;

/// Decides about `reply`, which matched `query`.
pub(super) fn admit(query: &Query, reply: &Reply) -> Admission {
    if query.class != Class::IN || reply.truncated {
        return Admission::Ignore;
    }
    match reply.code {
        Rcode::SERVFAIL => return Admission::Failure,
        Rcode::NOERROR | Rcode::NXDOMAIN => {}
        _ => return Admission::Ignore,
    }
    let Some(layout) = Layout::read(&reply.octets) else { return Admission::Ignore };
    let Chain::Sound(last) = reply.chain(query) else { return Admission::Ignore };
    if layout.records(&reply.octets).any(|it| it.class != Class::IN.0) {
        return Admission::Ignore;
    }
    let lifetime = lifetime(query, reply, &layout, &last);
    match lifetime.and_then(|lifetime| keep(reply, &layout, lifetime)) {
        Some(kept) => Admission::Keep(kept),
        None => Admission::Forget,
    }
}

/// How long, in seconds.
#[derive(Clone, Copy, Debug)]
enum Lifetime {
    Positive(u32),
    /// So long is the SOA kept, too.
    Negative(u32, u32),
}

fn lifetime(query: &Query, reply: &Reply, layout: &Layout, last: &Plain) -> Option<Lifetime> {
    let octets = &reply.octets;
    let answers = layout.answers(octets).map(|it| ttl(&it)).min();
    let is_answer = |it: &RawRecord| {
        (it.kind == query.kind || query.kind == Kind::ANY)
            && Plain::read(octets, it.start).is_some_and(|owner| owner == *last)
    };
    if reply.code == Rcode::NOERROR && layout.answers(octets).any(|it| is_answer(&it)) {
        return answers.map(Lifetime::Positive);
    }
    let of_zone = |it: &RawRecord| {
        it.kind == Kind::SOA
            && Plain::read(octets, it.start).is_some_and(|owner| last.is_in(&owner))
    };
    let soa = layout.authority(octets).find(of_zone)?;
    let negative = ttl(&soa).min(minimum(octets, &soa)?).min(seconds(LONGEST_NEGATIVE));
    // Aliases that lead to nothing hold as long as they say.
    Some(Lifetime::Negative(answers.map_or(negative, |it| it.min(negative)), negative))
}

fn keep(reply: &Reply, layout: &Layout, lifetime: Lifetime) -> Option<Kept> {
    let (lifetime, soa) = match lifetime {
        Lifetime::Positive(lifetime) => (lifetime, u32::MAX),
        Lifetime::Negative(lifetime, soa) => (lifetime, soa),
    };
    let mut records = reply.octets.get(layout.start..layout.end)?.to_owned();
    (lifetime > 0 && records.len() <= LARGEST).then_some(())?;
    let mut ttls = Vec::new();
    for record in layout.records(&reply.octets) {
        let at = record.ttl_at - layout.start;
        let ttl = if record.kind == Kind::SOA { ttl(&record).min(soa) } else { ttl(&record) };
        records.get_mut(at..at + 4)?.copy_from_slice(&ttl.to_be_bytes());
        ttls.push(u16::try_from(at).ok()?);
    }
    let additionals = u16::try_from(layout.additionals - layout.start).ok()?;
    Some(Kept { code: reply.code, lifetime, counts: layout.counts, records, additionals, ttls })
}

/// A record's TTL as it is believed: one with the highest bit set is none (RFC 2181 section 8).
fn ttl(record: &RawRecord) -> u32 {
    if record.ttl > i32::MAX.unsigned_abs() { 0 } else { record.ttl.min(seconds(LONGEST)) }
}

/// The last field of a SOA record, which says how long nothing holds.
fn minimum(octets: &[u8], soa: &RawRecord) -> Option<u32> {
    let at = soa.end.checked_sub(4).filter(|at| *at >= soa.ttl_at + SHORTEST_BEFORE_MINIMUM)?;
    Some(u32::from(be16(octets, at)?) << 16 | u32::from(be16(octets, at + 2)?))
}

/// TTL, length, two names of one octet and four timers stand before a SOA's minimum.
const SHORTEST_BEFORE_MINIMUM: usize = 4 + 2 + 2 + 16;

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

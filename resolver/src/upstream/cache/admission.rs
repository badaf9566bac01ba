//! What of a reply may be kept, and how long.
//!
//! Invariants
//! - *asked for*: a reply with one record that does not belong to its question is not kept at all;
//! - *as long as they said, or shorter*: no TTL grows by being kept;
//! - *denied by who may*: that something does not exist is kept by the SOA of a zone that the name
//!   is in (RFC 2308 section 5), and not without one.

use std::time::Duration;

use crate::upstream::asking::is_final;
use crate::wire::reply::Reply;
use crate::wire::reply::chain::{Chain, Plain};
use crate::wire::reply::layout::Layout;
use crate::wire::{Class, Kind, Query, RawRecord, Rcode, be16};

/// What becomes of a reply. Decided before a cache is locked, because strangers decide what it costs.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// It is kept.
    Keep(Kept),
    /// It is true and not to be kept; what was kept before is true no more.
    Forget,
    /// The servers have failed (RFC 9520), with this code.
    Failure(Rcode),
    /// It says nothing about the name.
    Ignore,
}

/// What is kept of a reply.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Kept {
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
    /// What is known besides.
    pub(super) traits: Traits,
}

/// What is known of a reply besides its records.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Traits {
    /// A trusted server checked it (AD).
    pub(super) authentic: bool,
    /// It may not be told: the filter against rebinding holds it back.
    pub(super) blocked: bool,
    /// Its answers are aliases that lead to nothing.
    pub(super) denied: bool,
}

/// The longest that anything is kept: who moves a service expects a day at most.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The longest that a name is taken not to exist (RFC 2308 section 5: one to three hours).
pub(super) const LONGEST_NEGATIVE: Duration = Duration::from_secs(3 * 3600);
/// Records among which the SOA of a denial is looked for: it stands alone but for proofs.
const MOST_AUTHORITIES: usize = 64;
/// Octets of records that are kept: what is longer is rare, and would drive out hundreds.
const LARGEST: usize = 16 * 1024;

impl Admission {
    /// Decides about `reply`, which matched `query` and whose answers make this `chain`; where it is
    /// `blocked`, that it is held back is what is kept.
    pub(crate) fn of(query: &Query, reply: &Reply, chain: &Chain, blocked: bool) -> Self {
        if query.class != Class::IN {
            return Self::Ignore;
        }
        match chain {
            _ if !is_final(reply.code) => Self::Failure(reply.code),
            Chain::Endless => Self::Failure(Rcode::SERVFAIL),
            Chain::Sound(last) => sound(query, reply, last, blocked),
            Chain::Cut | Chain::Stray | Chain::Malformed => Self::Ignore,
        }
    }
}

fn sound(query: &Query, reply: &Reply, last: &Plain, blocked: bool) -> Admission {
    let Some(layout) = Layout::read(&reply.octets) else { return Admission::Ignore };
    if layout.records(&reply.octets).any(|it| it.class != Class::IN.0) {
        return Admission::Ignore;
    }
    let lifetime = lifetime(query, reply, &layout, last);
    match lifetime.and_then(|lifetime| keep(reply, &layout, lifetime)) {
        Some(kept) if blocked => Admission::Keep(kept.held_back()),
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
    let soa = layout.authority(octets).take(MOST_AUTHORITIES).find(of_zone)?;
    let negative = ttl(&soa).min(minimum(octets, &soa)?).min(seconds(LONGEST_NEGATIVE));
    // Aliases that lead to nothing hold as long as they say.
    Some(Lifetime::Negative(answers.map_or(negative, |it| it.min(negative)), negative))
}

fn keep(reply: &Reply, layout: &Layout, lifetime: Lifetime) -> Option<Kept> {
    let (lifetime, soa, denied) = match lifetime {
        Lifetime::Positive(lifetime) => (lifetime, u32::MAX, false),
        Lifetime::Negative(lifetime, soa) => (lifetime, soa, true),
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
    let (code, counts) = (reply.code, layout.counts);
    let traits = Traits { authentic: reply.authentic(), blocked: false, denied };
    Some(Kept { code, lifetime, counts, records, additionals, ttls, traits })
}

impl Kept {
    /// The same, without what may not be told; that something was checked included, which is not
    /// what is told now.
    fn held_back(self) -> Self {
        let traits = Traits { blocked: true, ..Traits::default() };
        let (records, ttls) = (Vec::new(), Vec::new());
        Self { counts: [0; 3], records, additionals: 0, ttls, traits, ..self }
    }
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

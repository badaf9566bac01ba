//! One kept reply.
//!
//! Invariants
//! - *its own question*: it holds the key under which it was asked for, and matches no other;
//! - *counted down*: while it is fresh no TTL that it tells is above what the server said, less
//!   the seconds since; when it is stale each is 30 seconds (RFC 8767 section 4).

use std::time::{Duration, Instant};

use super::super::outlook::{KeptAnswer, KeptAs};
use super::admission::{Kept, Traits};
use super::{Refresh, Renewal};
use crate::upstream::asking::is_final;
use crate::wire::reply::asked::{Asked, Said};
use crate::wire::{Kind, Rcode};

/// What an entry is found by: a question of class IN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    /// The name in wire form, in lower case, the root's octet included.
    pub(crate) name: &'a [u8],
    /// The type.
    pub(crate) kind: Kind,
    /// Signatures are wanted (DO).
    pub(crate) dnssec_ok: bool,
    /// Signatures need not be checked (CD).
    pub(crate) checking_disabled: bool,
}

/// A name in lower case, as a [`Key`] wants it, without an allocation.
#[derive(Debug)]
pub(crate) struct Folded {
    octets: [u8; LONGEST_NAME],
    length: usize,
}

/// What a server said, or that it failed.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The name, where the TTLs stand (two octets each), the records.
    octets: Box<[u8]>,
    kept_at: Instant,
    lifetime: u32,
    pub(super) hash: u32,
    kind: Kind,
    counts: [u16; 3],
    ttls: u16,
    additionals: u16,
    name: u8,
    code: u8,
    marks: u8,
    hits: u8,
    /// Seconds since `kept_at` before which nobody is asked again.
    recheck: u32,
}

/// Octets of a name, the root's included (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;
/// What a stale answer holds (RFC 8767 section 4), in seconds.
pub(super) const STALE_TTL: u32 = 30;
/// Served so long after its end while the servers fail (RFC 8767 section 5: one to three days;
/// containers move sooner).
pub(super) const LONGEST_STALE: Duration = Duration::from_secs(24 * 3600);
/// A failure holds so long (RFC 9520 section 3.2: one second to five minutes): a server that is
/// back is noticed soon.
pub(super) const FAILURE: Duration = Duration::from_secs(5);
/// Servers that failed so lately are not waited for by those who can be told what was true before.
const LATELY: Duration = Duration::from_secs(30);
/// Asked for so often in its life, an entry is worth renewing before its end.
const HOT: u8 = 3;

const DNSSEC_OK: u8 = 1;
const CHECKING_DISABLED: u8 = 2;
const AUTHENTIC: u8 = 4;
const RENEWING: u8 = 8;
const BLOCKED: u8 = 16;
const DENIED: u8 = 32;

// Extended DNS Errors (RFC 8914 section 4).
const STALE_ANSWER: u16 = 3;
const CACHED_ERROR: u16 = 13;
pub(crate) const BLOCKED_ANSWER: u16 = 15;
const STALE_NXDOMAIN: u16 = 19;

impl Folded {
    /// Folds the name that begins `octets`; what is longer than a name is cut.
    pub(crate) fn new(name: &[u8]) -> Self {
        let mut octets = [0; LONGEST_NAME];
        let length = name.len().min(LONGEST_NAME);
        for (to, from) in octets.iter_mut().zip(name) {
            *to = from.to_ascii_lowercase();
        }
        Self { octets, length }
    }

    /// The key of the question `asked`, whose name this is.
    pub(crate) fn key(&self, asked: &Asked<'_>) -> Key<'_> {
        Key {
            name: self.octets.get(..self.length).unwrap_or_default(),
            kind: asked.kind,
            dnssec_ok: asked.edns.is_some_and(|it| it.dnssec_ok),
            checking_disabled: asked.flags & crate::wire::CHECKING_DISABLED_FLAG != 0,
        }
    }
}

impl Key<'_> {
    /// DO and CD in one octet.
    pub(super) fn marks(&self) -> u8 {
        let set = |set, mark| if set { mark } else { 0 };
        set(self.dnssec_ok, DNSSEC_OK) | set(self.checking_disabled, CHECKING_DISABLED)
    }
}

impl Entry {
    pub(super) fn new(key: &Key<'_>, hash: u32, kept: Kept, now: Instant) -> Self {
        let Kept { code, lifetime, counts, records, additionals, ttls, traits } = kept;
        let mut octets = Vec::with_capacity(key.name.len() + 2 * ttls.len() + records.len());
        octets.extend_from_slice(key.name);
        octets.extend(ttls.iter().flat_map(|it| it.to_be_bytes()));
        octets.extend_from_slice(&records);
        let set = |set, mark| if set { mark } else { 0 };
        let Traits { authentic, blocked, denied } = traits;
        let traits = set(authentic, AUTHENTIC) | set(blocked, BLOCKED) | set(denied, DENIED);
        Self {
            octets: octets.into(),
            kept_at: now,
            lifetime,
            hash,
            kind: key.kind,
            counts,
            ttls: u16::try_from(ttls.len()).unwrap_or_default(), // each stands for a record
            additionals,
            name: u8::try_from(key.name.len()).unwrap_or(u8::MAX),
            code: u8::try_from(code.0).unwrap_or_default(), // those of EDNS are not kept
            marks: key.marks() | traits,
            hits: 0,
            recheck: 0,
        }
    }

    /// That nobody answered, or only to say that he cannot, by `code`; what has no room in a header
    /// is SERVFAIL.
    pub(super) fn failure(key: &Key<'_>, hash: u32, code: Rcode, now: Instant) -> Self {
        let kept = Kept {
            code: if code.0 < 16 { code } else { Rcode::SERVFAIL },
            lifetime: u32::try_from(FAILURE.as_secs()).unwrap_or(1),
            counts: [0; 3],
            records: Vec::new(),
            additionals: 0,
            ttls: Vec::new(),
            traits: Traits::default(),
        };
        Self::new(key, hash, kept, now)
    }

    /// Whether it answers the question of `key`.
    pub(super) fn matches(&self, key: &Key<'_>) -> bool {
        self.kind == key.kind
            && self.marks & (DNSSEC_OK | CHECKING_DISABLED) == key.marks()
            && self.octets.get(..usize::from(self.name)) == Some(key.name)
    }

    /// Octets that it holds besides itself.
    pub(super) fn octets(&self) -> usize {
        self.octets.len()
    }

    /// Its response code.
    pub(crate) fn code(&self) -> Rcode {
        Rcode(self.code.into())
    }

    /// Whether it is a failure, which is no answer, and never stale.
    pub(crate) fn is_failure(&self) -> bool {
        !is_final(self.code())
    }

    /// Whether its time is not over at `now`.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.age(now) < self.lifetime
    }

    /// Whether it is of no use any more, not even while the servers fail.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let stale = if self.is_failure() { 0 } else { LONGEST_STALE.as_secs() };
        u64::from(self.age(now)) >= u64::from(self.lifetime) + stale
    }

    /// Whether servers are to be asked about it again, now that it is stale.
    pub(super) fn refresh(&self, now: Instant) -> Refresh {
        let since = self.age(now).checked_sub(self.recheck);
        match since {
            None => Refresh::Not,
            Some(since) if self.recheck > 0 && u64::from(since) < LATELY.as_secs() => {
                Refresh::Behind
            }
            Some(_) => Refresh::First,
        }
    }

    /// Notes that asking again has failed: for some seconds it is not tried again (RFC 8767
    /// section 5, failure recheck timer).
    pub(super) fn recheck_failed(&mut self, now: Instant) {
        let failure = u32::try_from(FAILURE.as_secs()).unwrap_or(1);
        self.recheck = self.age(now).saturating_add(failure);
        self.renewal_ended();
    }

    /// Notes that nobody asks anew: whoever comes next may.
    pub(super) fn renewal_ended(&mut self) {
        self.marks &= !RENEWING;
    }

    /// Counts somebody who asked; true until it is claimed: it is asked for often and near its end,
    /// so somebody should ask anew before it is over.
    pub(super) fn hit(&mut self, renewal: Renewal, now: Instant) -> bool {
        self.hits = self.hits.saturating_add(1);
        let left = self.lifetime.saturating_sub(self.age(now));
        let near = left <= (self.lifetime / 10).max(1);
        let renew = near && self.hits >= HOT && self.marks & RENEWING == 0 && !self.is_failure();
        if renew && renewal == Renewal::Claimed {
            self.marks |= RENEWING;
        }
        renew
    }

    /// What it says, for who explains it.
    pub(super) fn outlook(&self, now: Instant) -> KeptAnswer {
        let says = match self.code() {
            _ if self.marks & BLOCKED != 0 => KeptAs::Blocked,
            _ if self.is_failure() => KeptAs::Failure,
            Rcode::NXDOMAIN => KeptAs::NoName,
            _ if self.marks & DENIED != 0 => KeptAs::NoData,
            _ => KeptAs::Records(self.counts[0]),
        };
        let seconds = self.lifetime.abs_diff(self.age(now));
        KeptAnswer { kind: self.kind, says, stale: !self.is_fresh(now), seconds }
    }

    /// Writes it into `out` for who `asked`, without allocating, and gives its length. TC where it
    /// is too long for the client; `None`: `out` is too short.
    pub(crate) fn write(&self, asked: &Asked<'_>, now: Instant, out: &mut [u8]) -> Option<usize> {
        let (name, ttls) = (usize::from(self.name), usize::from(self.ttls) * 2);
        let age = self.age(now);
        let stale = age >= self.lifetime;
        let said = Said {
            code: self.code,
            authoritative: false,
            // What was true yesterday was checked yesterday.
            authentic: self.marks & AUTHENTIC != 0 && !stale,
            counts: self.counts,
            records: self.octets.get(name + ttls..)?,
            additionals: self.additionals.into(),
            error: self.error(stale),
        };
        let written = said.write(asked, out)?;
        let records = out.get_mut(written.records_at..written.records_at + written.records)?;
        for at in self.octets.get(name..name + ttls)?.as_chunks::<2>().0 {
            let at = usize::from(u16::from_be_bytes(*at));
            let Some(place) = records.get_mut(at..at + 4) else { break };
            let Some(place) = place.first_chunk_mut() else { break };
            let left = u32::from_be_bytes(*place).saturating_sub(age);
            *place = if stale { STALE_TTL } else { left }.to_be_bytes();
        }
        Some(written.length)
    }

    fn error(&self, stale: bool) -> Option<u16> {
        if self.marks & BLOCKED != 0 {
            return Some(BLOCKED_ANSWER);
        }
        match self.code() {
            _ if self.is_failure() => Some(CACHED_ERROR),
            Rcode::NXDOMAIN if stale => Some(STALE_NXDOMAIN),
            _ if stale => Some(STALE_ANSWER),
            _ => None,
        }
    }

    fn age(&self, now: Instant) -> u32 {
        let age = now.saturating_duration_since(self.kept_at).as_secs();
        u32::try_from(age).unwrap_or(u32::MAX)
    }
}

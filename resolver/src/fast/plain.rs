//! Reads a plain question where it lies: one question of class IN, at most an OPT record after it.
//!
//! Invariants
//! - *strict*: whatever is malformed, or merely unusual, is no plain question;
//! - *once*: the name is walked once, and its lower-case form is made on the way.

use crate::wire::reply::asked::Asked;
use crate::wire::{
    CHECKING_DISABLED_FLAG, Class, Edns, HEADER, Kind, OPCODE_MASK, RECURSION_DESIRED_FLAG,
    REPLY_FLAG, Transport, be16,
};

/// Longest name on the wire without the root's octet (RFC 1035 section 2.3.4).
const LONGEST: usize = 254;
/// Longest label (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;
/// An OPT record without options.
const BARE_OPT: usize = 11;

/// A plain question.
#[derive(Clone, Debug)]
pub struct Plain<'a> {
    /// The client's number for it.
    pub(crate) id: u16,
    /// The header's second field.
    pub(crate) flags: u16,
    /// Name, type and class, as the client wrote them.
    pub(crate) question: &'a [u8],
    /// The type asked for.
    pub(crate) kind: Kind,
    /// The client's EDNS, if it has any.
    pub(crate) edns: Option<Edns>,
    lower: [u8; LONGEST],
    length: usize,
    labels: usize,
    last_at: usize,
}

impl<'a> Plain<'a> {
    /// The plain question in `octets`, if that is what they are.
    pub fn read(octets: &'a [u8]) -> Option<Self> {
        let flags = be16(octets, 2)?;
        let counts: &[u8] = octets.get(4..HEADER)?;
        let [0, 1, 0, 0, 0, 0, 0, additional @ 0..=1] = *counts else { return None };
        if flags & (REPLY_FLAG | OPCODE_MASK) != 0 {
            return None;
        }
        let mut asked = Self {
            id: be16(octets, 0)?,
            flags,
            question: &[],
            kind: Kind::A,
            edns: None,
            lower: [0; LONGEST],
            length: 0,
            labels: 0,
            last_at: 0,
        };
        let end = asked.walk(octets)?;
        asked.kind = Kind(be16(octets, end)?);
        if be16(octets, end + 2)? != Class::IN.0 {
            return None;
        }
        asked.question = octets.get(HEADER..end + 4)?;
        if additional == 1 {
            asked.edns = Some(opt(octets.get(end + 4..)?)?);
        }
        Some(asked)
    }

    /// Walks the name, and tells where it ends.
    fn walk(&mut self, octets: &[u8]) -> Option<usize> {
        let mut at = HEADER;
        loop {
            let length = usize::from(*octets.get(at)?);
            if length == 0 {
                return Some(at + 1);
            }
            if length > LONGEST_LABEL {
                return None;
            }
            let label = octets.get(at..at + 1 + length)?;
            let place = self.lower.get_mut(self.length..self.length + 1 + length)?;
            for (lower, octet) in place.iter_mut().zip(label) {
                *lower = octet.to_ascii_lowercase(); // a length is below `A`
            }
            self.last_at = self.length;
            self.length += 1 + length;
            self.labels += 1;
            at += 1 + length;
        }
    }

    /// Its name in lower case, on the wire, without the root.
    pub(crate) fn name(&self) -> &[u8] {
        self.lower.get(..self.length).unwrap_or_default()
    }

    /// How many labels its name has, without the root.
    pub(crate) fn labels(&self) -> usize {
        self.labels
    }

    /// The leftmost label in lower case; empty for the root.
    pub(crate) fn first_label(&self) -> &[u8] {
        label_at(self.name(), 0)
    }

    /// The rightmost label in lower case; empty for the root.
    pub(crate) fn last_label(&self) -> &[u8] {
        label_at(self.name(), self.last_at)
    }

    /// As the cache of what others said wants it.
    pub(crate) fn asked(&self) -> Option<Asked<'_>> {
        let (name, _kind_and_class) = self.question.split_last_chunk::<4>()?;
        let (id, flags, kind, edns) = (self.id, self.flags, self.kind, self.edns);
        Some(Asked { id, flags, name, kind, class: Class::IN, edns, limit: self.limit() })
    }

    /// Ways to read it as a name on a network, the shortest network first: `a.b` on `c`, `a` on
    /// `b.c`.
    pub(crate) fn splits(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (1..self.labels).rev().filter_map(|labels| {
            let name = self.name();
            let mut at = 0;
            for _ in 0..labels {
                at += 1 + usize::from(*name.get(at)?);
            }
            name.split_at_checked(at)
        })
    }

    /// Octets that a reply may have, over UDP.
    pub(crate) fn limit(&self) -> usize {
        Asked::limit(self.edns, Transport::Udp)
    }

    /// The bits of the question's header that its answer repeats (RD, and CD: RFC 4035).
    pub(crate) fn repeated_flags(&self) -> u16 {
        self.flags & (RECURSION_DESIRED_FLAG | CHECKING_DISABLED_FLAG)
    }
}

fn label_at(name: &[u8], at: usize) -> &[u8] {
    let label = name.get(at..).and_then(|it| it.split_first());
    label.and_then(|(length, rest)| rest.get(..usize::from(*length))).unwrap_or_default()
}

/// The OPT record at the start of `octets`, of version 0 and whole.
fn opt(octets: &[u8]) -> Option<Edns> {
    let [0, 0, 41, size @ .., _extended, 0, flags, _, length_high, length_low] =
        octets.get(..BARE_OPT)?
    else {
        return None;
    };
    let size = u16::from_be_bytes(size.try_into().ok()?);
    let options = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    octets.get(BARE_OPT..BARE_OPT + options)?;
    Some(Edns { size, dnssec_ok: flags & 0x80 != 0 })
}

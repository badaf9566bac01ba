//! Bytes to questions: reads what a client sent, strictly, without trusting a single length.
//!
//! Invariants
//! - *total*: any octets are silence, an error reply no longer than they were, or a [`Query`];
//! - *linear*: reading takes time in proportion to the datagram, whatever its counts claim;
//! - *silent to replies*: a message that says it is a reply never gets one, so two servers cannot
//!   be set upon each other.
//!
//! Pure. The way back is in [`encode`], what upstream servers say in [`reply`].

pub(crate) mod encode;
pub(crate) mod reply;

use crate::answer::Reason;
use crate::name::Name;
pub use encode::{Recursion, answer, refusal};

macro_rules! codes {
    ($($(#[$doc:meta])* $type:ident { $($name:ident = $value:expr,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
        pub struct $type(pub u16);

        #[expect(missing_docs, reason = "the names are IANA's")]
        impl $type {
            $(pub const $name: Self = Self($value);)*
        }
    )*};
}

codes! {
    /// A record type (RFC 1035 section 3.2.2 and later).
    Kind {
        A = 1, NS = 2, SOA = 6, PTR = 12, HINFO = 13, MX = 15, TXT = 16, AAAA = 28, SRV = 33,
        OPT = 41, DS = 43, SVCB = 64, HTTPS = 65, TKEY = 249, TSIG = 250, IXFR = 251, AXFR = 252,
        MAILB = 253, MAILA = 254, ANY = 255,
    }
    /// A class (RFC 1035 section 3.2.4).
    Class { IN = 1, CH = 3, }
    /// A response code (RFC 1035 section 4.1.1, RFC 6891).
    Rcode {
        NOERROR = 0, FORMERR = 1, SERVFAIL = 2, NXDOMAIN = 3, NOTIMP = 4, REFUSED = 5,
        BADVERS = 16,
    }
}

/// How a question came and its answer goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// One datagram, cut where the client's size says.
    Udp,
    /// A stream: up to 65,535 octets.
    Tcp,
}

/// A well-formed question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// The client's number for it.
    pub id: u16,
    /// The client wants recursion (RD).
    pub recursion_desired: bool,
    /// The client checks signatures itself (CD, RFC 4035).
    pub checking_disabled: bool,
    /// The client understands AD (RFC 6840 section 5.7).
    pub authentic_data: bool,
    /// The name asked for.
    pub name: Name,
    /// The type asked for.
    pub kind: Kind,
    /// The class asked for.
    pub class: Class,
    /// The client's EDNS, if it has any.
    pub edns: Option<Edns>,
}

impl Query {
    /// As a program asks that knows no more of DNS: with RD, of class IN, under number 0.
    pub fn plain(name: Name, kind: Kind) -> Self {
        Self {
            id: 0,
            recursion_desired: true,
            checking_disabled: false,
            authentic_data: false,
            name,
            kind,
            class: Class::IN,
            edns: None,
        }
    }
}

/// What a client's OPT record says (RFC 6891). Options are not kept: none is echoed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Edns {
    /// Octets that the client takes in one datagram.
    pub size: u16,
    /// Signatures are wanted (DO).
    pub dnssec_ok: bool,
}

/// What some octets are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Inbound {
    /// Nothing that may be replied to.
    Silence,
    /// Refused with this reply, no longer than what came.
    Refused(Rcode, Vec<u8>),
    /// A question.
    Query(Query),
}

/// Octets of the fixed header (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;
/// The bit that marks a reply.
pub(crate) const REPLY_FLAG: u16 = 0x8000;
/// Answers of servers that own the name.
pub(crate) const AUTHORITATIVE_FLAG: u16 = 0x0400;
/// The answer did not fit.
pub(crate) const TRUNCATED_FLAG: u16 = 0x0200;
/// Recursion is wanted.
pub(crate) const RECURSION_DESIRED_FLAG: u16 = 0x0100;
/// Recursion is to be had.
pub(crate) const RECURSION_AVAILABLE_FLAG: u16 = 0x0080;
/// Signatures were checked.
pub(crate) const AUTHENTIC_FLAG: u16 = 0x0020;
/// Signatures need not be checked.
pub(crate) const CHECKING_DISABLED_FLAG: u16 = 0x0010;
/// The kind of message; 0 is a query.
pub(crate) const OPCODE_MASK: u16 = 0x7800;

/// Reads what a client sent.
pub fn read(octets: &[u8]) -> Inbound {
    let Some(header) = Header::read(octets) else {
        return Inbound::Silence;
    };
    if header.flags & REPLY_FLAG != 0 {
        return Inbound::Silence;
    }
    if header.flags & OPCODE_MASK != 0 {
        return header.refused(Rcode::NOTIMP);
    }
    // Exactly one question: RFC 9619.
    if header.questions != 1 {
        return header.refused(Rcode::FORMERR);
    }
    match question(octets, &header) {
        Some((query, opt)) => match opt {
            Some(opt) if opt.version != 0 => Inbound::Refused(
                Rcode::BADVERS,
                refusal(&query, Rcode::BADVERS, Reason::Plain, Recursion::Offered),
            ),
            Some(_) | None => Inbound::Query(query),
        },
        None => header.refused(Rcode::FORMERR),
    }
}

/// The fixed part of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) questions: u16,
    pub(crate) answers: u16,
    pub(crate) authorities: u16,
    pub(crate) additionals: u16,
}

impl Header {
    /// Reads it; `None` where the octets end before it does.
    pub(crate) fn read(octets: &[u8]) -> Option<Self> {
        Some(Self {
            id: be16(octets, 0)?,
            flags: be16(octets, 2)?,
            questions: be16(octets, 4)?,
            answers: be16(octets, 6)?,
            authorities: be16(octets, 8)?,
            additionals: be16(octets, 10)?,
        })
    }

    /// The response code without its extension.
    pub(crate) fn rcode(&self) -> Rcode {
        Rcode(self.flags & 0x000f)
    }

    /// Where the records begin; `None`: a question is cut short.
    pub(crate) fn end_of_questions(&self, octets: &[u8]) -> Option<usize> {
        (0..self.questions).try_fold(HEADER, |at, _| Some(skip_name(octets, at)? + 4))
    }

    /// How many records follow the questions, as claimed.
    pub(crate) fn records(&self) -> usize {
        [self.answers, self.authorities, self.additionals].map(usize::from).iter().sum()
    }

    /// An error reply of a bare header: nothing of what could not be read is sent back.
    fn refused(&self, code: Rcode) -> Inbound {
        let flags = REPLY_FLAG | self.flags & (OPCODE_MASK | RECURSION_DESIRED_FLAG) | code.0;
        let mut reply = Vec::with_capacity(HEADER);
        reply.extend_from_slice(&self.id.to_be_bytes());
        reply.extend_from_slice(&flags.to_be_bytes());
        reply.resize(HEADER, 0);
        Inbound::Refused(code, reply)
    }
}

/// A record's place in a message; its owner and data are not read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRecord {
    /// Where its owner begins.
    pub(crate) start: usize,
    /// Where its TTL stands.
    pub(crate) ttl_at: usize,
    /// Its owner is the root, written as one octet.
    pub(crate) of_root: bool,
    pub(crate) kind: Kind,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    /// Where the next record begins.
    pub(crate) end: usize,
}

impl RawRecord {
    /// Reads the record at `start`; `None` where the octets end before it does.
    pub(crate) fn read(octets: &[u8], start: usize) -> Option<Self> {
        let after_name = skip_name(octets, start)?;
        let ttl_at = after_name + 4;
        let length = usize::from(be16(octets, ttl_at + 4)?);
        let end = ttl_at + 6 + length;
        (end <= octets.len()).then_some(())?;
        Some(Self {
            start,
            ttl_at,
            of_root: after_name == start + 1,
            kind: Kind(be16(octets, after_name)?),
            class: be16(octets, after_name + 2)?,
            ttl: u32::from(be16(octets, ttl_at)?) << 16 | u32::from(be16(octets, ttl_at + 2)?),
            end,
        })
    }
}

/// Sixteen bits in network order.
pub(crate) fn be16(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_be_bytes)
}

/// Where a name that begins at `at` ends, its compression pointer included; pointers are not
/// followed, so nothing can loop.
fn skip_name(octets: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *octets.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=0x3f => at += 1 + usize::from(length),
            0xc0..=0xff => return octets.get(at + 1).map(|_| at + 2),
            0x40..=0xbf => return None,
        }
    }
}

/// An OPT record of a query.
#[derive(Clone, Copy, Debug)]
struct Opt {
    edns: Edns,
    version: u8,
}

/// The question and the OPT record; `None`: malformed.
fn question(octets: &[u8], header: &Header) -> Option<(Query, Option<Opt>)> {
    let name = Name::from_wire(octets.get(HEADER..)?).ok()?;
    let end = HEADER + name.wire().len();
    let (kind, class) = (Kind(be16(octets, end)?), Class(be16(octets, end + 2)?));
    let opt = opt(octets, end + 4, header).ok()?;
    let flag = |bit| header.flags & bit != 0;
    let query = Query {
        id: header.id,
        recursion_desired: flag(RECURSION_DESIRED_FLAG),
        checking_disabled: flag(CHECKING_DISABLED_FLAG),
        authentic_data: flag(AUTHENTIC_FLAG),
        name,
        kind,
        class,
        edns: opt.map(|it| it.edns),
    };
    Some((query, opt))
}

/// The one OPT record among what follows the question. An error: a record is cut short, there are
/// two OPT records, or one that is not the root's or not additional (RFC 6891 section 6.1.1).
fn opt(octets: &[u8], mut at: usize, header: &Header) -> Result<Option<Opt>, Malformed> {
    let mut found = None;
    let before_additionals = usize::from(header.answers) + usize::from(header.authorities);
    for count in 0..header.records() {
        let record = RawRecord::read(octets, at).ok_or(Malformed)?;
        if record.kind == Kind::OPT {
            if found.is_some() || !record.of_root || count < before_additionals {
                return Err(Malformed);
            }
            let [_, version, flags, _] = record.ttl.to_be_bytes();
            let edns = Edns { size: record.class, dnssec_ok: flags & 0x80 != 0 };
            found = Some(Opt { edns, version });
        }
        at = record.end;
    }
    Ok(found)
}

/// What follows the question cannot be read.
struct Malformed;

#[cfg(test)]
mod tests;

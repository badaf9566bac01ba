//! Writes what an upstream server said for one who asked, without allocating.
//!
//! Invariants
//! - *as asked*: id, RD, CD and the octets of the question are the asker's own; pointers to the
//!   question stay valid, because names that differ in case alone are equally long;
//! - *one hop*: Z is clear, OPT is ours, and goes to those who sent one; AD is told only where the
//!   server is trusted, and to who understands it (RFC 6840 sections 5.7 and 5.8);
//! - *whole or marked*: what does not fit loses its additional records, then gets TC and nothing
//!   else (RFC 2181 section 9).

use crate::wire::encode::{OUR_UDP, PLAIN_UDP};
use crate::wire::{
    AUTHENTIC_FLAG, AUTHORITATIVE_FLAG, CHECKING_DISABLED_FLAG, Class, Edns, HEADER, Kind, Query,
    RECURSION_AVAILABLE_FLAG, RECURSION_DESIRED_FLAG, REPLY_FLAG, TRUNCATED_FLAG, Transport,
};

/// A question as it came, borrowed from wherever it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The client's number for it.
    pub(crate) id: u16,
    /// The header's second field; only RD, AD and CD count.
    pub(crate) flags: u16,
    /// The name as the client wrote it, in wire form, the root's octet included.
    pub(crate) name: &'a [u8],
    /// The type.
    pub(crate) kind: Kind,
    /// The class.
    pub(crate) class: Class,
    /// The client's OPT record.
    pub(crate) edns: Option<Edns>,
    /// Octets that the reply may have.
    pub(crate) limit: usize,
}

/// What is said: the sections of a reply, and what goes into its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    /// The response code, 0 to 15.
    pub(crate) code: u8,
    /// It is of who owns the name (AA).
    pub(crate) authoritative: bool,
    /// Its server checked signatures (AD) and is trusted.
    pub(crate) authentic: bool,
    /// Answers, authorities, additionals.
    pub(crate) counts: [u16; 3],
    /// The three sections, written behind a question of the same name.
    pub(crate) records: &'a [u8],
    /// Where the additional section begins in `records`.
    pub(crate) additionals: usize,
    /// An Extended DNS Error without text (RFC 8914).
    pub(crate) error: Option<u16>,
}

/// What [`Said::write`] has written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Written {
    /// Octets of the reply.
    pub(crate) length: usize,
    /// Where the records begin in it.
    pub(crate) records_at: usize,
    /// How many octets of records there are.
    pub(crate) records: usize,
}

/// Extended DNS Error (RFC 8914 section 2).
const EXTENDED_ERROR: u16 = 15;

impl<'a> Asked<'a> {
    /// The question of `query`, which came over `transport`.
    pub(crate) fn of(query: &'a Query, transport: Transport) -> Self {
        let mut flags = 0;
        for (set, flag) in [
            (query.recursion_desired, RECURSION_DESIRED_FLAG),
            (query.checking_disabled, CHECKING_DISABLED_FLAG),
            (query.authentic_data, AUTHENTIC_FLAG),
        ] {
            flags |= if set { flag } else { 0 };
        }
        Self {
            id: query.id,
            flags,
            name: query.name.wire(),
            kind: query.kind,
            class: query.class,
            edns: query.edns,
            limit: Self::limit(query.edns, transport),
        }
    }

    /// Octets that one with this OPT record takes.
    pub(crate) fn limit(edns: Option<Edns>, transport: Transport) -> usize {
        match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                let size = edns.map_or(PLAIN_UDP, |it| it.size);
                usize::from(size.clamp(PLAIN_UDP, OUR_UDP))
            }
        }
    }

    fn question_end(&self) -> usize {
        HEADER + self.name.len() + 4
    }
}

impl Said<'_> {
    /// Writes it into `out` for who `asked`; `None`: `out` has not the room.
    pub(crate) fn write(&self, asked: &Asked<'_>, out: &mut [u8]) -> Option<Written> {
        let opt = match (asked.edns, self.error) {
            (None, _) => 0,
            (Some(_), None) => BARE_OPT,
            (Some(_), Some(_)) => BARE_OPT + ERROR_OPTION,
        };
        let records_at = asked.question_end();
        let room = asked.limit.checked_sub(records_at + opt)?;
        let (records, [answers, authorities, additionals], cut) = if self.records.len() <= room {
            (self.records, self.counts, 0)
        } else if self.additionals <= room {
            let [answers, authorities, _] = self.counts;
            (self.records.get(..self.additionals)?, [answers, authorities, 0], 0)
        } else {
            (&[][..], [0; 3], TRUNCATED_FLAG)
        };
        let additionals = additionals + u16::from(asked.edns.is_some());
        let header = [asked.id, self.flags(asked) | cut, 1, answers, authorities, additionals];
        let mut pen = Pen { out, at: 0 };
        pen.put(header.map(u16::to_be_bytes).as_flattened())?;
        pen.put(asked.name)?;
        pen.put([asked.kind.0, asked.class.0].map(u16::to_be_bytes).as_flattened())?;
        pen.put(records)?;
        if let Some(edns) = asked.edns {
            pen.opt(edns, self.error)?;
        }
        Some(Written { length: pen.at, records_at, records: records.len() })
    }

    fn flags(&self, asked: &Asked<'_>) -> u16 {
        let copied = asked.flags & (RECURSION_DESIRED_FLAG | CHECKING_DISABLED_FLAG);
        let wanted = asked.flags & AUTHENTIC_FLAG != 0 || asked.edns.is_some_and(|it| it.dnssec_ok);
        let authentic = if self.authentic && wanted { AUTHENTIC_FLAG } else { 0 };
        let owned = if self.authoritative { AUTHORITATIVE_FLAG } else { 0 };
        let ours = REPLY_FLAG | RECURSION_AVAILABLE_FLAG | copied;
        ours | authentic | owned | u16::from(self.code & 0x0f)
    }
}

/// Octets of an OPT record without options.
const BARE_OPT: usize = 11;
/// Octets of an Extended DNS Error without text.
const ERROR_OPTION: usize = 6;

/// Writes from left to right.
struct Pen<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Pen<'_> {
    fn put(&mut self, octets: &[u8]) -> Option<()> {
        let end = self.at + octets.len();
        self.out.get_mut(self.at..end)?.copy_from_slice(octets);
        self.at = end;
        Some(())
    }

    fn opt(&mut self, edns: Edns, error: Option<u16>) -> Option<()> {
        let dnssec_ok = if edns.dnssec_ok { 0x8000 } else { 0 };
        let length = if error.is_some() { 6 } else { 0 };
        self.put(&[0])?;
        let fields = [Kind::OPT.0, OUR_UDP, 0, dnssec_ok, length].map(u16::to_be_bytes);
        self.put(fields.as_flattened())?;
        match error {
            None => Some(()),
            Some(error) => {
                self.put([EXTENDED_ERROR, 2, error].map(u16::to_be_bytes).as_flattened())
            }
        }
    }
}

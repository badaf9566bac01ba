//! What upstream servers say: is it the answer to our question, and how is it handed on?
//!
//! Invariants
//! - *matched*: a reply counts only with our id and our question, octet for octet (RFC 5452
//!   section 9.1); anything else is as if it had not come;
//! - *handed on*: apart from the id, and from TTLs and OPT where asked, its octets stay as sent.

use std::net::Ipv4Addr;

use super::encode::{self, limit, question_length};
use super::{
    AUTHORITATIVE_FLAG, HEADER, Header, Kind, OPCODE_MASK, Query, REPLY_FLAG, RawRecord, Rcode,
};
use super::{TRUNCATED_FLAG, Transport};

/// A reply that matched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reply {
    /// Its response code.
    pub(crate) code: Rcode,
    /// It did not fit (TC).
    pub(crate) truncated: bool,
    /// All of it.
    pub(crate) octets: Vec<u8>,
}

/// Takes `octets` as the reply to `query` asked under `id`; `None`: it is not.
pub(crate) fn matching(octets: &[u8], query: &Query, id: u16) -> Option<Reply> {
    let header = Header::read(octets)?;
    let ours = header.id == id && header.flags & REPLY_FLAG != 0 && header.flags & OPCODE_MASK == 0;
    if !ours {
        return None;
    }
    let code = header.rcode();
    // A server that could not read the question may send none back.
    let unread = header.questions == 0 && code != Rcode::NOERROR && code != Rcode::NXDOMAIN;
    if !unread {
        let end = HEADER + question_length(query);
        let question = octets.get(HEADER..end)?;
        let (name, rest) = question.split_at_checked(query.name.wire().len())?;
        let fields = [query.kind.0, query.class.0].map(u16::to_be_bytes);
        if header.questions != 1 || name != query.name.wire() || rest != fields.as_flattened() {
            return None;
        }
    }
    let truncated = header.flags & TRUNCATED_FLAG != 0;
    Some(Reply { code, truncated, octets: octets.to_owned() })
}

impl Reply {
    /// How many answers it says it has.
    pub(crate) fn answers(&self) -> u16 {
        Header::read(&self.octets).map_or(0, |it| it.answers)
    }

    /// Whether its server says that it owns the name (AA).
    pub(crate) fn authoritative(&self) -> bool {
        Header::read(&self.octets).is_some_and(|it| it.flags & AUTHORITATIVE_FLAG != 0)
    }

    /// The data of its A records; `None`: a record is cut short.
    pub(crate) fn ipv4_addresses(&self) -> Option<Vec<Ipv4Addr>> {
        let header = Header::read(&self.octets)?;
        let mut at = header.end_of_questions(&self.octets)?;
        let mut addresses = Vec::new();
        for _ in 0..header.answers {
            let record = RawRecord::read(&self.octets, at)?;
            let data = self.octets.get(record.ttl_at + 6..record.end)?;
            if record.kind == Kind::A
                && let Ok(octets) = <[u8; 4]>::try_from(data)
            {
                addresses.push(octets.into());
            }
            at = record.end;
        }
        Some(addresses)
    }

    /// What the client gets: the same octets under its own id, or TC where they are too many.
    pub(crate) fn for_client(mut self, query: &Query, transport: Transport) -> Vec<u8> {
        if self.octets.len() > limit(query, transport) {
            return encode::truncated(query, self.code);
        }
        for (place, octet) in self.octets.iter_mut().zip(query.id.to_be_bytes()) {
            *place = octet;
        }
        self.octets
    }

    /// The same with no TTL above `ttl` seconds, and without an OPT record at its end unless
    /// `keep_opt`. `None`: a record is cut short.
    pub(crate) fn capped(mut self, ttl: u32, keep_opt: bool) -> Option<Self> {
        let header = Header::read(&self.octets)?;
        let mut at = header.end_of_questions(&self.octets)?;
        let mut last = None;
        for _ in 0..header.records() {
            let record = RawRecord::read(&self.octets, at)?;
            if record.kind != Kind::OPT && record.ttl > ttl {
                let places = self.octets.get_mut(record.ttl_at..record.ttl_at + 4)?;
                places.copy_from_slice(&ttl.to_be_bytes());
            }
            at = record.end;
            last = Some(record);
        }
        if let Some(opt) = last.filter(|it| it.kind == Kind::OPT && !keep_opt) {
            self.octets.truncate(opt.start);
            let places = self.octets.get_mut(10..HEADER)?;
            places.copy_from_slice(&header.additionals.saturating_sub(1).to_be_bytes());
        }
        Some(self)
    }
}

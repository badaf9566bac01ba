//! Answers to bytes: what a client gets, never longer than it can take.
//!
//! Invariants
//! - *the question as asked*: its name stands in the reply octet for octet, case included;
//! - *whole or marked*: an answer that does not fit is replaced by TC and the question
//!   (RFC 2181 section 9); records that only help are left out first, without TC;
//! - *EDNS for EDNS*: an OPT record goes to those who sent one (RFC 6891 section 7).

use std::net::IpAddr;

use super::{
    AUTHORITATIVE_FLAG, CHECKING_DISABLED_FLAG, HEADER, Kind, Query, RECURSION_AVAILABLE_FLAG,
    RECURSION_DESIRED_FLAG, REPLY_FLAG, Rcode, TRUNCATED_FLAG, Transport,
};
use crate::answer::{Answer, Reason, Record};

/// Whether a server that answers also asks others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recursion {
    /// RA is set: names that are not ours are forwarded.
    Offered,
    /// It is not: the host's listener.
    No,
}

/// The reply that carries `answer`, which is from the registry.
pub fn answer(
    query: &Query,
    answer: &Answer,
    transport: Transport,
    recursion: Recursion,
) -> Vec<u8> {
    let code = if answer.exists { Rcode::NOERROR } else { Rcode::NXDOMAIN };
    let mut reply = Reply::begin(query, code, recursion);
    reply.flags |= AUTHORITATIVE_FLAG;
    let room = limit(query, transport) - opt_length(query, Reason::Plain);
    let mut fits = true;
    for record in &answer.records {
        let before = reply.octets.len();
        reply.record(record, answer.ttl);
        if reply.octets.len() > room {
            // Over TCP a part of a set too large for DNS is better than none of it.
            reply.octets.truncate(before);
            fits = false;
            break;
        }
        reply.answers += 1;
    }
    if !fits {
        reply.flags |= TRUNCATED_FLAG;
        if transport == Transport::Udp {
            reply.octets.truncate(HEADER + question_length(query));
            reply.answers = 0;
        }
        return reply.end(query, Reason::Plain);
    }
    if answer.records.is_empty() {
        reply.soa(answer.ttl);
    }
    for (owner, address) in &answer.additional {
        let before = reply.octets.len();
        reply.octets.extend_from_slice(owner.wire());
        reply.address(*address, answer.ttl);
        if reply.octets.len() > room {
            reply.octets.truncate(before);
            break;
        }
        reply.additionals += 1;
    }
    reply.end(query, Reason::Plain)
}

/// A reply with no answer but a code, and to those who have EDNS the reason.
pub fn refusal(query: &Query, code: Rcode, reason: Reason, recursion: Recursion) -> Vec<u8> {
    Reply::begin(query, code, recursion).end(query, reason)
}

/// The reply that says: ask again over TCP.
pub(crate) fn truncated(query: &Query, code: Rcode) -> Vec<u8> {
    let mut reply = Reply::begin(query, code, Recursion::Offered);
    reply.flags |= TRUNCATED_FLAG;
    reply.end(query, Reason::Plain)
}

/// Octets that a reply to `query` may have.
pub(crate) fn limit(query: &Query, transport: Transport) -> usize {
    match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => {
            let size = query.edns.map_or(PLAIN_UDP, |it| it.size);
            usize::from(size.clamp(PLAIN_UDP, OUR_UDP))
        }
    }
}

/// The query that asks an upstream server the same, under `id`. No option goes along: none was
/// kept.
pub(crate) fn query(query: &Query, id: u16, edns: Option<super::Edns>) -> Vec<u8> {
    let mut flags = 0;
    for (set, flag) in [
        (query.recursion_desired, RECURSION_DESIRED_FLAG),
        (query.checking_disabled, CHECKING_DISABLED_FLAG),
        (query.authentic_data, super::AUTHENTIC_FLAG),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let mut octets = Vec::with_capacity(HEADER + question_length(query) + BARE_OPT);
    for field in [id, flags, 1, 0, 0, u16::from(edns.is_some())] {
        octets.extend_from_slice(&field.to_be_bytes());
    }
    question(&mut octets, query);
    if let Some(edns) = edns {
        opt(&mut octets, edns.size, 0, edns.dnssec_ok, Reason::Plain);
    }
    octets
}

/// The same, padded where it has EDNS, so that whoever sees its length on an encrypted stream does not
/// see that of the name (RFC 8467 section 4.1).
pub(crate) fn padded_query(query: &Query, id: u16, edns: Option<super::Edns>) -> Vec<u8> {
    let mut octets = self::query(query, id, edns);
    if edns.is_none() {
        return octets;
    }
    let bare = octets.len() + OPTION_HEAD;
    let padding = bare.next_multiple_of(PADDED_TO) - bare;
    let length = u16::try_from(padding).unwrap_or(0); // less than PADDED_TO
    // The option is the only one of the OPT record, which is the last.
    let option_octets = octets.len() - 2;
    let total = (length + 4).to_be_bytes();
    for (place, octet) in octets.iter_mut().skip(option_octets).zip(total) {
        *place = octet;
    }
    for field in [PADDING, length] {
        octets.extend_from_slice(&field.to_be_bytes());
    }
    octets.resize(bare + padding, 0);
    octets
}

/// The size of datagrams that we take and send: fits every link unfragmented (DNS flag day 2020).
pub(crate) const OUR_UDP: u16 = 1232;
/// Without EDNS (RFC 1035 section 4.2.1).
pub(crate) const PLAIN_UDP: u16 = 512;
/// An OPT record without options.
const BARE_OPT: usize = 11;
/// Octets of an option's code and length.
const OPTION_HEAD: usize = 4;
/// EDNS padding (RFC 7830 section 3).
const PADDING: u16 = 12;
/// A query's length is a multiple of this (RFC 8467 section 4.1).
const PADDED_TO: usize = 128;
/// Points to the question's name, the first after the header.
pub(crate) const POINTER_TO_QUESTION: u16 = 0xc00c;
/// SOA's timers as empty zones have them (RFC 6303 section 3); nobody transfers these zones.
pub(crate) const SOA_TIMERS: [u32; 4] = [1, 3600, 1200, 604_800];
/// Nobody's mailbox (RFC 6303 section 3).
pub(crate) const NOBODY: &[u8] = b"\x06nobody\x07invalid\0";
/// Extended DNS Error (RFC 8914 section 2).
const EXTENDED_ERROR: u16 = 15;

/// A reply that is being written.
struct Reply {
    octets: Vec<u8>,
    flags: u16,
    code: Rcode,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl Reply {
    fn begin(query: &Query, code: Rcode, recursion: Recursion) -> Self {
        let mut flags = REPLY_FLAG;
        if query.recursion_desired {
            flags |= RECURSION_DESIRED_FLAG;
        }
        if query.checking_disabled {
            flags |= CHECKING_DISABLED_FLAG;
        }
        if recursion == Recursion::Offered {
            flags |= RECURSION_AVAILABLE_FLAG;
        }
        let mut octets = Vec::with_capacity(TYPICAL_REPLY);
        octets.resize(HEADER, 0);
        question(&mut octets, query);
        Self { octets, flags, code, answers: 0, authorities: 0, additionals: 0 }
    }

    fn end(mut self, query: &Query, reason: Reason) -> Vec<u8> {
        if let Some(edns) = query.edns {
            let [_, high] = (self.code.0 >> 4).to_be_bytes();
            opt(&mut self.octets, OUR_UDP, high, edns.dnssec_ok, reason);
            self.additionals += 1;
        }
        let flags = self.flags | self.code.0 & 0x000f;
        let counts = [self.answers, self.authorities, self.additionals];
        let header = [query.id, flags, 1].into_iter().chain(counts).flat_map(u16::to_be_bytes);
        for (place, octet) in self.octets.iter_mut().zip(header) {
            *place = octet;
        }
        self.octets
    }

    fn record(&mut self, record: &Record, ttl: u32) {
        self.push(POINTER_TO_QUESTION);
        match record {
            Record::Address(address) => self.address(*address, ttl),
            Record::Pointer(name) => self.rest(Kind::PTR, ttl, &[name.wire()]),
            Record::Service { weight, port, target } => {
                let fixed = [0, *weight, *port].map(u16::to_be_bytes);
                self.rest(Kind::SRV, ttl, &[fixed.as_flattened(), target.wire()]);
            }
            Record::Minimal => self.rest(Kind::HINFO, ttl, &[b"\x07RFC8482\x00"]),
        }
    }

    fn address(&mut self, address: IpAddr, ttl: u32) {
        match address {
            IpAddr::V4(address) => self.rest(Kind::A, ttl, &[&address.octets()]),
            IpAddr::V6(address) => self.rest(Kind::AAAA, ttl, &[&address.octets()]),
        }
    }

    /// What makes a negative answer cacheable (RFC 2308 section 3): owner and server are the
    /// question's own name, the minimum is how long.
    fn soa(&mut self, minimum: u32) {
        self.push(POINTER_TO_QUESTION);
        let server = POINTER_TO_QUESTION.to_be_bytes();
        let timers = SOA_TIMERS.map(u32::to_be_bytes);
        let last = minimum.to_be_bytes();
        self.rest(Kind::SOA, minimum, &[&server, NOBODY, timers.as_flattened(), &last]);
        self.authorities += 1;
    }

    /// Type, class, TTL and data of a record whose owner is written already.
    fn rest(&mut self, kind: Kind, ttl: u32, data: &[&[u8]]) {
        self.push(kind.0);
        self.push(super::Class::IN.0);
        self.octets.extend_from_slice(&ttl.to_be_bytes());
        let length: usize = data.iter().map(|it| it.len()).sum();
        self.push(u16::try_from(length).unwrap_or(u16::MAX)); // a name and ten octets at most
        for part in data {
            self.octets.extend_from_slice(part);
        }
    }

    fn push(&mut self, value: u16) {
        self.octets.extend_from_slice(&value.to_be_bytes());
    }
}

/// Most replies are shorter, so that they are written without growing.
const TYPICAL_REPLY: usize = 512;

fn question(octets: &mut Vec<u8>, query: &Query) {
    octets.extend_from_slice(query.name.wire());
    octets.extend_from_slice(&query.kind.0.to_be_bytes());
    octets.extend_from_slice(&query.class.0.to_be_bytes());
}

/// Octets of the question section.
pub(crate) fn question_length(query: &Query) -> usize {
    query.name.wire().len() + 4
}

fn opt_length(query: &Query, reason: Reason) -> usize {
    let error = reason.extended().map_or(0, |(_, text)| 6 + text.len());
    query.edns.map_or(0, |_| BARE_OPT + error)
}

fn opt(octets: &mut Vec<u8>, size: u16, extended_code: u8, dnssec_ok: bool, reason: Reason) {
    octets.push(0);
    octets.extend_from_slice(&Kind::OPT.0.to_be_bytes());
    octets.extend_from_slice(&size.to_be_bytes());
    octets.extend_from_slice(&[extended_code, 0, if dnssec_ok { 0x80 } else { 0 }, 0]);
    let Some((info, text)) = reason.extended() else {
        octets.extend_from_slice(&[0, 0]);
        return;
    };
    let length = u16::try_from(2 + text.len()).unwrap_or(2);
    for field in [length + 4, EXTENDED_ERROR, length, info] {
        octets.extend_from_slice(&field.to_be_bytes());
    }
    octets.extend_from_slice(text.as_bytes());
}

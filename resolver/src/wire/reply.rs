//! What upstream servers say: is it the answer to our question, and how is it handed on?
//!
//! Invariants
//! - *matched*: a reply counts only with our id and our question, octet for octet (RFC 5452
//!   section 9.1); anything else is as if it had not come;
//! - *handed on*: its records stay as sent, but for a negative TTL, which is none; header, question and OPT are the client's and ours.
//!
//! Where its sections lie is in [`layout`], whether its answers belong to the question in
//! [`chain`], how it is written for a client in [`asked`].

pub(crate) mod asked;
pub(crate) mod chain;
pub(crate) mod layout;

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use self::asked::{Asked, Said};
use self::chain::Chain;
use self::layout::Layout;
use super::encode::{self, Recursion, question_length};
use super::{
    AUTHENTIC_FLAG, AUTHORITATIVE_FLAG, HEADER, Header, Kind, OPCODE_MASK, Query, REPLY_FLAG,
    RawRecord, Rcode, TRUNCATED_FLAG, Transport,
};
use crate::answer::Reason;
use crate::name::Name;

/// A reply that matched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reply {
    /// Its response code, with what its OPT record adds (RFC 6891 section 6.1.3).
    pub(crate) code: Rcode,
    /// It did not fit (TC).
    pub(crate) truncated: bool,
    /// All of it.
    pub(crate) octets: Vec<u8>,
    /// The client is told of AA.
    tells_authority: bool,
    /// The client is told of AD.
    tells_authentic: bool,
}

/// Takes `octets` as the reply to `query` asked under `id`; `None`: it is not. They are copied only
/// where they are not given away.
pub(crate) fn matching<'a>(
    octets: impl Into<Cow<'a, [u8]>>,
    query: &Query,
    id: u16,
) -> Option<Reply> {
    let octets = octets.into();
    let header = Header::read(&octets)?;
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
    let layout = Layout::read(&octets);
    let extended = layout.map_or(0, |it| u16::from(it.extended_code));
    let mut octets = octets.into_owned();
    if let Some(layout) = layout {
        clear_negative_ttls(&mut octets, &layout);
    }
    Some(Reply {
        code: Rcode(extended << 4 | code.0),
        truncated: header.flags & TRUNCATED_FLAG != 0,
        octets,
        tells_authority: false,
        tells_authentic: false,
    })
}

/// A TTL with its highest bit set is 0 (RFC 2181 section 8).
fn clear_negative_ttls(octets: &mut [u8], layout: &Layout) {
    let negative = |it: &RawRecord| it.ttl > i32::MAX.unsigned_abs();
    let places: Vec<_> = layout.records(octets).filter(negative).map(|it| it.ttl_at).collect();
    for at in places {
        if let Some(ttl) = octets.get_mut(at..at + 4) {
            ttl.fill(0);
        }
    }
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

    /// The data of its A, AAAA or PTR records, as people write it; `None`: a record is cut short.
    pub(crate) fn told(&self, kind: Kind) -> Option<Vec<String>> {
        let header = Header::read(&self.octets)?;
        let mut at = header.end_of_questions(&self.octets)?;
        let mut told = Vec::new();
        for _ in 0..header.answers {
            let record = RawRecord::read(&self.octets, at)?;
            let start = record.ttl_at + 6;
            let data = self.octets.get(start..record.end)?;
            if record.kind == kind {
                told.push(match kind {
                    Kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
                    Kind::AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
                    _ => {
                        Name::from_wire(chain::Plain::read(&self.octets, start)?.wire()).ok()?.key()
                    }
                });
            }
            at = record.end;
        }
        Some(told)
    }

    /// The same, of a server whose word on signatures is passed on where `trusted`.
    #[must_use]
    pub(crate) fn vouched(self, trusted: bool) -> Self {
        Self { tells_authentic: trusted, ..self }
    }

    /// Whether its server says that it checked signatures (AD), and is trusted so far.
    pub(crate) fn authentic(&self) -> bool {
        let says = |it: Header| it.flags & AUTHENTIC_FLAG != 0;
        self.tells_authentic && Header::read(&self.octets).is_some_and(says)
    }

    /// Whether its answers belong to the question of `query`. What is [`Chain::Endless`] is
    /// answered with SERVFAIL, what is [`Chain::Malformed`] is as good as no reply.
    ///
    /// Costs most of all that is done about a reply: it is followed once, and before any lock is
    /// taken.
    pub(crate) fn chain(&self, query: &Query) -> Chain {
        if self.truncated {
            return Chain::Cut;
        }
        match Layout::read(&self.octets) {
            Some(layout) => chain::follow(&self.octets, &layout, query.name.wire(), query.kind),
            None => Chain::Malformed,
        }
    }

    /// What the client gets: the same records behind its own question, or TC where they are too
    /// many; SERVFAIL where they cannot be read, or where the code is of EDNS, which is between
    /// that server and us.
    pub(crate) fn for_client(&self, query: &Query, transport: Transport) -> Vec<u8> {
        self.written(query, transport).unwrap_or_else(|| {
            encode::refusal(query, Rcode::SERVFAIL, Reason::Unreachable, Recursion::Offered)
        })
    }

    fn written(&self, query: &Query, transport: Transport) -> Option<Vec<u8>> {
        let asked = Asked::of(query, transport);
        if self.truncated {
            // Who came by TCP cannot do better, and half an answer is none.
            let udp = transport == Transport::Udp;
            return udp.then(|| encode::truncated(query, self.code));
        }
        let layout = Layout::read(&self.octets)?;
        let said = Said {
            code: u8::try_from(self.code.0).ok().filter(|it| *it < 16)?,
            authoritative: self.tells_authority && self.authoritative(),
            authentic: self.authentic(),
            counts: layout.counts,
            records: self.octets.get(layout.start..layout.end)?,
            additionals: layout.additionals - layout.start,
            error: None,
        };
        let mut octets = vec![0; HEADER + question_length(query) + said.records.len() + MOST_OPT];
        let written = said.write(&asked, &mut octets)?;
        octets.truncate(written.length);
        Some(octets)
    }

    /// The same, as one of us says it: with no TTL above `ttl` seconds, AA as it came, and without
    /// an OPT record at its end unless `keep_opt`. `None`: a record is cut short.
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
        self.tells_authority = true;
        Some(self)
    }
}

/// Octets of the longest OPT record that is written with a reply.
const MOST_OPT: usize = 32;

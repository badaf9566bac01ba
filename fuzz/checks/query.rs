//! What must hold of any octets that a client may send. Shared with the test that replays what
//! fuzzing found.
//!
//! Invariants that are checked
//! - *one server*: the fast path answers what the general path answers, octet for octet;
//! - *one language*: hickory's codec reads the same question, and every reply;
//! - *no gain*: a refusal is no longer than what it refuses, and no reply longer than its client
//!   can take.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode};
use resolver::fast::{Plain, Quick, Seat};
use resolver::plan::View;
use resolver::respond::{Step, Whom, respond};
use resolver::wire::{Inbound, Kind, Query, Rcode, Transport, read};

/// Fails where `octets` show that something does not hold.
pub(crate) fn check(octets: &[u8]) {
    check_reading(octets);
    for seat in SEATS.iter() {
        check_answering(seat, octets);
    }
}

/// Whatever the view, this is denied (and is no name of ours).
const CANARY: &[u8] = b"use-application-dns\x03net\0";

static SEATS: LazyLock<Vec<(Arc<View>, Seat)>> = LazyLock::new(|| {
    let draft = registry::source::world::parse(include_str!("world.toml"), "world.toml");
    let snapshot = registry::Snapshot::build(draft.expect("a sound world"), 1);
    let config = resolver::Config {
        ttl: Duration::from_secs(5),
        vip_ttl: Duration::from_secs(30),
        forward_single_label: false,
        host_listen: None,
        upstream: resolver::UpstreamConfig::default(),
    };
    let (plan, _) = resolver::compile(&snapshot, &resolver::VipTable::new(), &config);
    let seats = plan.views.into_values().map(|it| (Arc::clone(&it), Seat::new(it)));
    seats.collect()
});

/// Ours against hickory's: who accepts what, and as what.
fn check_reading(octets: &[u8]) {
    let theirs = Message::from_vec(octets).ok();
    match read(octets) {
        Inbound::Query(query) => {
            let questions = theirs.as_ref().map(|it| &it.queries);
            let Some([question]) = questions.map(Vec::as_slice) else {
                // Hickory also reads the data of records that follow; they are nobody's business
                // here. Without any it has no reason to refuse.
                assert!(theirs.is_none() && octets[6..12] != [0; 6], "hickory refuses {query:?}");
                return;
            };
            let labels: Vec<_> = question.name().iter().map(<[u8]>::to_vec).collect();
            let ours: Vec<_> = query.name.labels().map(<[u8]>::to_vec).collect();
            assert_eq!(labels, ours);
            assert_eq!(u16::from(question.query_type()), query.kind.0);
            assert_eq!(u16::from(question.query_class()), query.class.0);
            let edns = theirs.and_then(|it| it.edns);
            assert_eq!(
                edns.as_ref().map(|it| it.flags().dnssec_ok),
                query.edns.map(|it| it.dnssec_ok)
            );
            // Below 512 means 512 to both.
            assert_eq!(
                edns.map(|it| it.max_payload().max(512)),
                query.edns.map(|it| it.size.max(512))
            );
        }
        Inbound::Refused(code, reply) => {
            assert!(reply.len() <= octets.len(), "{} for {}", reply.len(), octets.len());
            let said = Message::from_vec(&reply).expect("a sound refusal");
            assert_eq!(said.metadata.id.to_be_bytes(), octets[..2]);
            assert_eq!(said.metadata.message_type, MessageType::Response);
            assert!(said.answers.is_empty());
            if let (Some(theirs), Rcode::FORMERR) = (theirs, code) {
                // Hickory follows pointers in questions, and takes what is not the root's for OPT.
                assert!(theirs.queries.len() != 1 || has_pointer(octets) || theirs.edns.is_some());
            }
        }
        Inbound::Silence => {
            let Some(theirs) = theirs else { return };
            assert_eq!(theirs.metadata.message_type, MessageType::Response);
        }
    }
}

/// Whether the question's name ends in a pointer.
fn has_pointer(octets: &[u8]) -> bool {
    let mut at = 12;
    loop {
        match octets.get(at) {
            Some(0) | None => return false,
            Some(length @ 1..=63) => at += 1 + usize::from(*length),
            Some(_) => return true,
        }
    }
}

/// The two paths against each other, and their replies against hickory.
fn check_answering((view, seat): &(Arc<View>, Seat), octets: &[u8]) {
    let seed = octets.iter().fold(7, |seed: u64, octet| seed.wrapping_mul(31) + u64::from(*octet));
    let general = respond(view, octets, Transport::Udp, seed);
    if let Step::Reply(reply) = &general {
        check_reply(octets, reply, Transport::Udp);
    }
    if let Step::Reply(reply) = respond(view, octets, Transport::Tcp, seed) {
        check_reply(octets, &reply, Transport::Tcp);
    }
    let Some(plain) = Plain::read(octets) else { return };
    assert!(matches!(read(octets), Inbound::Query(_)), "plain, and no query");
    let mut out = [0; 1500];
    match (seat.quick(&plain, seed, &mut out), general) {
        (Quick::General, _) | (Quick::Foreign, Step::Ask(_, Whom::Upstream)) => {}
        // What nobody is ever asked is in no cache either: on internal networks all of it,
        // elsewhere the canary.
        (Quick::Foreign, Step::Reply(reply)) => {
            let name = reply.to_ascii_lowercase();
            let canary = name.windows(CANARY.len()).any(|it| it == CANARY);
            assert!(reply[3] & 15 == 2 || canary, "{}", reply.escape_ascii());
        }
        (Quick::Reply { length, code, .. }, Step::Reply(reply)) => {
            assert_eq!(out[..length].escape_ascii().to_string(), reply.escape_ascii().to_string());
            assert_eq!(u8::try_from(code.0).ok(), Some(reply[3] & 15));
        }
        (quick, general) => panic!("{quick:?}, but {general:?}"),
    }
}

fn check_reply(octets: &[u8], reply: &[u8], transport: Transport) {
    let said = Message::from_vec(reply).expect("a sound reply");
    assert_eq!(said.metadata.id.to_be_bytes(), octets[..2]);
    assert_eq!(said.metadata.message_type, MessageType::Response);
    let Inbound::Query(query) = read(octets) else { return };
    assert_eq!(said.metadata.op_code, OpCode::Query);
    let limit = match transport {
        Transport::Udp => query.edns.map_or(512, |it| it.size.clamp(512, 1232)),
        Transport::Tcp => u16::MAX,
    };
    assert!(reply.len() <= usize::from(limit));
    let question = 12 + query.name.wire().len() + 4;
    assert_eq!(reply.get(12..question), octets.get(12..question), "the question as asked");
    assert_eq!(said.edns.is_some(), query.edns.is_some(), "EDNS for EDNS");
    check_answers(&said, &query);
}

/// Only what was asked for stands in an answer, and what is not there has a SOA.
fn check_answers(said: &Message, query: &Query) {
    for record in &said.answers {
        let kind = Kind(u16::from(record.record_type()));
        assert!(kind == query.kind || query.kind == Kind::ANY && kind == Kind::HINFO, "{kind:?}");
        assert!(record.ttl <= 30);
    }
    let refused = matches!(u16::from(said.metadata.response_code), 1 | 2 | 4 | 5);
    if said.answers.is_empty() && !said.metadata.truncation && !refused {
        assert_eq!(said.authorities.len(), 1);
    }
}

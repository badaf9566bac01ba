//! The codec against hickory's, and where it must be stricter.

use hickory_proto::op::{Edns as HickoryEdns, Message, MessageType, OpCode, Query as HickoryQuery};
use hickory_proto::rr::{Name as HickoryName, RData, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use proptest::prelude::*;

use super::encode::{self, Recursion};
use super::reply::matching;
use super::*;
use crate::answer::{Answer, Record};

fn asked(name: &str, kind: Kind, edns: Option<Edns>) -> Query {
    Query { id: 0x1234, edns, ..Query::plain(Name::from_text(name).unwrap(), kind) }
}

/// What hickory makes of the same question.
fn hickory(query: &Query) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = query.id;
    message.metadata.recursion_desired = query.recursion_desired;
    let name = HickoryName::from_labels(query.name.labels().map(<[u8]>::to_vec)).unwrap();
    message.add_query(HickoryQuery::query(name, RecordType::from(query.kind.0)));
    if let Some(edns) = query.edns {
        let mut theirs = HickoryEdns::new();
        theirs.set_max_payload(edns.size);
        theirs.set_dnssec_ok(edns.dnssec_ok);
        message.set_edns(theirs);
    }
    message.to_bytes().unwrap()
}

fn parsed(reply: &[u8]) -> Message {
    Message::from_vec(reply).unwrap()
}

#[track_caller]
fn refused(octets: &[u8], code: Rcode) {
    let Inbound::Refused(said, reply) = read(octets) else { panic!("{:?}", read(octets)) };
    assert_eq!(said, code);
    assert!(reply.len() <= octets.len(), "{} for {}", reply.len(), octets.len());
    assert_eq!(reply[..2], octets[..2]);
    assert_eq!(reply[2] & 0xf8, octets[2] & 0x78 | 0x80);
}

/// A query for `web A` with header fields and octets after the question of one's own.
fn message(header: [u8; 10], after: &[u8]) -> Vec<u8> {
    [&[0xab, 0xcd][..], &header, b"\x03web\0\0\x01\0\x01", after].concat()
}

const ONE_QUESTION: [u8; 10] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";

#[test]
fn runts_and_replies_are_met_with_silence() {
    for length in 0..12 {
        assert_eq!(read(&message(ONE_QUESTION, b"")[..length]), Inbound::Silence, "{length}");
    }
    let reply = message([0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0], b"");
    assert_eq!(read(&reply), Inbound::Silence);
}

#[test]
fn other_opcodes_are_not_implemented() {
    for opcode in 1..16 {
        refused(&message([opcode << 3 | 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], b""), Rcode::NOTIMP);
    }
}

#[test]
fn what_is_not_exactly_one_whole_question_is_malformed() {
    for count in [0, 2, 255] {
        refused(&message([1, 0, 0, count, 0, 0, 0, 0, 0, 0], b""), Rcode::FORMERR);
    }
    refused(&message([1, 0, 255, 255, 0, 0, 0, 0, 0, 0], b""), Rcode::FORMERR);
    let whole = message(ONE_QUESTION, b"");
    for length in 12..whole.len() {
        refused(&whole[..length], Rcode::FORMERR);
    }
    for name in [&b"\xc0\x0c"[..], b"\xc0\x0e\xc0\x0c", b"\x40a\0", b"\x80a\0", &[1; 300]] {
        let octets = [&whole[..12], name, &[0, 1, 0, 1][..]].concat();
        refused(&octets, Rcode::FORMERR);
    }
}

#[test]
fn records_that_are_promised_and_missing_make_it_malformed() {
    refused(&message([1, 0, 0, 1, 0, 0, 0, 0, 0, 1], b""), Rcode::FORMERR);
    refused(&message([1, 0, 0, 1, 0, 0, 0, 0, 0, 2], OPT), Rcode::FORMERR);
    refused(&message([1, 0, 0, 1, 255, 255, 255, 255, 255, 255], OPT), Rcode::FORMERR);
    let after = message(ONE_QUESTION, b"trailing octets are nobody's business");
    assert!(matches!(read(&after), Inbound::Query(_)));
}

#[test]
fn edns_is_read_once_from_the_root_and_in_version_0() {
    let with = |after: &[u8], count| message([1, 0, 0, 1, 0, 0, 0, 0, 0, count], after);
    let Inbound::Query(query) = read(&with(OPT, 1)) else { panic!() };
    assert_eq!(query.edns, Some(Edns { size: 1232, dnssec_ok: false }));
    refused(&with(&[OPT, OPT].concat(), 2), Rcode::FORMERR);
    refused(&with(b"\x01a\0\0\x29\x04\xd0\0\0\0\0\0\0", 1), Rcode::FORMERR);
    for (answers, authorities) in [(1, 0), (0, 1)] {
        let header = [1, 0, 0, 1, 0, answers, 0, authorities, 0, 0];
        refused(&message(header, OPT), Rcode::FORMERR);
    }
    let version_1 = with(b"\0\0\x29\x04\xd0\0\x01\0\0\0\0", 1);
    refused(&version_1, Rcode::BADVERS);
    let Inbound::Refused(_, reply) = read(&version_1) else { panic!() };
    let reply = parsed(&reply);
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.unwrap().version(), 0);
}

#[test]
fn an_answer_is_what_hickory_understands_by_it() {
    let query = asked("wEb.Net", Kind::A, Some(Edns { size: 1232, dnssec_ok: true }));
    let records = ["10.0.0.1", "10.0.0.2"].map(|it| Record::Address(it.parse().unwrap()));
    let answer = Answer { exists: true, records: records.into(), additional: vec![], ttl: 5 };
    let reply = parsed(&encode::answer(&query, &answer, Transport::Udp, Recursion::Offered));
    let Message { metadata, queries, answers, authorities, edns, .. } = reply;
    assert_eq!((metadata.id, metadata.message_type), (0x1234, MessageType::Response));
    assert_eq!(metadata.op_code, OpCode::Query);
    assert!(metadata.authoritative && metadata.recursion_available && metadata.recursion_desired);
    assert!(!metadata.truncation && !metadata.authentic_data && !metadata.checking_disabled);
    assert_eq!(queries[0].name().to_string(), "wEb.Net.");
    let all: Vec<_> = answers.iter().map(ToString::to_string).collect();
    assert_eq!(all, ["wEb.Net. 5 IN A 10.0.0.1", "wEb.Net. 5 IN A 10.0.0.2"]);
    assert!(authorities.is_empty());
    assert!(edns.unwrap().flags().dnssec_ok);
}

#[test]
fn negative_answers_carry_a_soa_of_the_question_s_name() {
    let query = asked("nope", Kind::AAAA, None);
    for (answer, code) in [(Answer::no_data(30), 0), (Answer::no_name(30), 3)] {
        let octets = encode::answer(&query, &answer, Transport::Udp, Recursion::No);
        let reply = parsed(&octets);
        assert_eq!(u16::from(reply.metadata.response_code), code);
        assert!(!reply.metadata.recursion_available && reply.edns.is_none());
        assert!(reply.answers.is_empty());
        let RData::SOA(soa) = &reply.authorities[0].data else { panic!() };
        assert_eq!(reply.authorities[0].name.to_string(), "nope.");
        assert_eq!((reply.authorities[0].ttl, soa.minimum), (30, 30));
        assert_eq!(
            (soa.mname.to_string(), soa.rname.to_string()),
            ("nope.".into(), "nobody.invalid.".into())
        );
    }
}

#[test]
fn services_bring_their_addresses_and_lose_them_before_the_answer_is_cut() {
    let record = |at: u16| Record::Service {
        weight: 1,
        port: 8080,
        target: Name::from_text(&format!("web.{at}.net")).unwrap(),
    };
    let additional =
        |at: u8| (Name::from_text(&format!("web.{at}.net")).unwrap(), [10, 0, 0, at].into());
    let query = asked("_http._tcp.web", Kind::SRV, None);
    let answer = |count: u8| Answer {
        exists: true,
        records: (0..count).map(|it| record(it.into())).collect(),
        additional: (0..count).map(additional).collect(),
        ttl: 5,
    };
    let sent = |count| {
        let octets = encode::answer(&query, &answer(count), Transport::Udp, Recursion::Offered);
        assert!(octets.len() <= 512);
        let reply = parsed(&octets);
        (reply.answers.len(), reply.additionals.len(), reply.metadata.truncation)
    };
    assert_eq!(sent(2), (2, 2, false));
    let (answers, additionals, cut) = sent(12);
    assert!(answers == 12 && additionals < 12 && !cut, "{answers} {additionals} {cut}");
    assert_eq!(sent(60), (0, 0, true));
    let text = parsed(&encode::answer(&query, &answer(1), Transport::Udp, Recursion::Offered));
    assert_eq!(text.answers[0].to_string(), "_http._tcp.web. 5 IN SRV 0 1 8080 web.0.net.");
}

#[test]
fn minimal_answers_to_any_are_hinfo() {
    let query = asked("web", Kind::ANY, None);
    let answer = Answer { records: vec![Record::Minimal], ..Answer::no_data(5) };
    let reply = parsed(&encode::answer(&query, &answer, Transport::Udp, Recursion::Offered));
    let RData::HINFO(info) = &reply.answers[0].data else { panic!("{reply}") };
    assert_eq!((&*info.cpu, &*info.os), (&b"RFC8482"[..], &b""[..]));
}

#[test]
fn reasons_go_to_those_who_have_edns() {
    let edns = Some(Edns { size: 1232, dnssec_ok: false });
    let with = refusal(
        &asked("a.b", Kind::A, edns),
        Rcode::SERVFAIL,
        Reason::Internal,
        Recursion::Offered,
    );
    assert!(with.windows(8).any(|it| it == b"internal"));
    assert_eq!(u16::from(parsed(&with).metadata.response_code), 2);
    let without = refusal(
        &asked("a.b", Kind::A, None),
        Rcode::SERVFAIL,
        Reason::Internal,
        Recursion::Offered,
    );
    assert_eq!(without.len(), HEADER + 9);
}

#[test]
fn a_reply_counts_only_with_our_id_and_our_question() {
    let query = asked("Example.com", Kind::A, None);
    let sent = encode::query(&query, 7, None);
    let mut reply = sent.clone();
    reply[2] |= 0x80;
    assert!(matching(&reply, &query, 7).is_some());
    assert!(matching(&reply, &query, 8).is_none());
    assert!(matching(&sent, &query, 7).is_none(), "a query is no reply");
    for at in 12..reply.len() {
        let mut other = reply.clone();
        other[at] ^= 0x20; // among them: other case, other type, other class
        assert!(matching(&other, &query, 7).is_none(), "octet {at}");
    }
    assert!(matching(&reply[..20], &query, 7).is_none());
    // A server that could not read it, and says so.
    let mut unread = reply[..12].to_vec();
    unread[3] |= 1;
    unread[5] = 0;
    assert_eq!(matching(&unread, &query, 7).unwrap().code, Rcode::FORMERR);
}

#[test]
fn ttls_are_capped_and_an_opt_nobody_asked_for_is_dropped() {
    let query = asked("cache", Kind::A, None);
    let mut octets = encode::query(&query, 7, None);
    octets[2] |= 0x80;
    octets[7] = 2;
    octets[11] = 1;
    octets.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x02\x58\0\x04\x0a\0\0\x01");
    octets.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x03\0\x04\x0a\0\0\x02");
    octets.extend_from_slice(OPT);
    let reply = matching(&octets, &query, 7).unwrap();
    assert_eq!(reply.ipv4_addresses().unwrap().len(), 2);
    let capped = reply.clone().capped(5, false).unwrap().for_client(&query, Transport::Udp);
    let message = parsed(&capped);
    let ttls: Vec<_> = message.answers.iter().map(|it| it.ttl).collect();
    assert_eq!((message.metadata.id, ttls, message.edns), (0x1234, vec![5, 3], None));
    assert!(parsed(&reply.capped(5, true).unwrap().octets).edns.is_some());
    let cut = matching(&octets[..octets.len() - 15], &query, 7).unwrap();
    assert_eq!(cut.capped(5, false), None);
}

#[test]
fn replies_too_large_for_the_client_are_marked_as_cut() {
    let query = asked("big", Kind::A, None);
    let mut octets = encode::query(&query, 7, None);
    octets[2] |= 0x80;
    octets[7] = 40;
    for _ in 0..40 {
        octets.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x02\x58\0\x04\x0a\0\0\x01");
    }
    let reply = matching(&octets, &query, 7).unwrap();
    assert_eq!(reply.for_client(&query, Transport::Tcp).len(), octets.len());
    let cut = parsed(&reply.for_client(&query, Transport::Udp));
    assert!(cut.metadata.truncation && cut.answers.is_empty());
}

fn any_query() -> impl Strategy<Value = Query> {
    let labels = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..8);
    let edns = proptest::option::of((any::<u16>(), any::<bool>()));
    (any::<u16>(), any::<bool>(), labels, 1_u16..300, edns).prop_map(
        |(id, recursion_desired, labels, kind, edns)| {
            let mut wire = Vec::new();
            for label in labels {
                wire.push(u8::try_from(label.len()).unwrap());
                wire.extend(label);
            }
            wire.push(0);
            Query {
                id,
                recursion_desired,
                checking_disabled: false,
                authentic_data: false,
                name: Name::from_wire(&wire).unwrap(),
                kind: Kind(if kind == 41 { 1 } else { kind }),
                class: Class::IN,
                // hickory itself raises sizes below 512.
                edns: edns.map(|(size, dnssec_ok)| Edns { size: size.max(512), dnssec_ok }),
            }
        },
    )
}

proptest! {
    #[test]
    fn what_hickory_writes_is_read_and_what_is_written_hickory_reads(query in any_query()) {
        prop_assert_eq!(read(&hickory(&query)), Inbound::Query(query.clone()));
        let edns = query.edns;
        prop_assert_eq!(read(&encode::query(&query, query.id, edns)), Inbound::Query(query.clone()));
        let mut theirs = parsed(&encode::query(&query, query.id, edns));
        prop_assert_eq!(theirs.queries.len(), 1);
        prop_assert_eq!(theirs.queries.remove(0).query_type(), RecordType::from(query.kind.0));
        let padded = encode::padded_query(&query, query.id, edns);
        prop_assert_eq!(read(&padded), Inbound::Query(query));
        prop_assert!(parsed(&padded).edns.is_some() == edns.is_some());
        prop_assert!(edns.is_none() || padded.len().is_multiple_of(128), "{} octets", padded.len());
    }

    #[test]
    fn replies_of_any_octets_are_handled(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let query = asked("web", Kind::A, None);
        let mut octets = octets;
        let question = [&b"\0\x07\x80\0\0\x01"[..], b"\0\x02\0\x01\0\x01", b"\x03web\0\0\x01\0\x01"].concat();
        octets.splice(0..0, question);
        let reply = matching(&octets, &query, 7).unwrap();
        if let Some(capped) = reply.clone().capped(5, false) {
            prop_assert!(capped.octets.len() <= reply.octets.len());
        }
        drop(reply.ipv4_addresses());
        prop_assert!(reply.for_client(&query, Transport::Udp).len() <= 512);
    }
}

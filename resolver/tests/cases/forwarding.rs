//! F. Names that are not ours: whom we believe, how long we wait, and what a client is told.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::client::{
    A, AA, AD, Ask, Client, FORMERR, NOERROR, NOTIMP, NXDOMAIN, OPT, REFUSED, SERVFAIL, Said, TC,
    opt,
};
use super::upstream::{
    FOREIGN, Upstream, addresses, empty, end_of_question, record, reply, truncated,
};
use super::world::World;
use crate::support::{Driven, Sandbox, one_world};

/// An address that nobody who told the truth would give.
const LIE: [u8; 4] = [203, 0, 113, 66];

fn id_of(query: &[u8]) -> u16 {
    u16::from_be_bytes([query[0], query[1]])
}

#[test]
fn case_41_our_own_address_as_upstream_server_is_never_asked() {
    for dial in ["host", "sandbox"] {
        let sandbox = Sandbox::new();
        let mut driven = Driven::new(None);
        let notes = driven.noted(&one_world(&sandbox, &["127.0.0.11".to_owned()], dial));
        assert!(notes.iter().any(|it| it.subject == "sandbox box"), "{notes:?}");
        let client = Client::of(&sandbox);
        assert_eq!(client.ask(&Ask::new("example.com", A)).code(), SERVFAIL);
        assert_eq!(driven.resolver.meter().counts().udp_queries, 1);
        assert_eq!(client.answers("web", A), ["A 10.1.0.2"]);
    }
}

#[test]
fn case_41_a_stub_that_asks_the_host_s_listener_makes_no_loop() {
    let sockets = resolver::HostSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let host = sockets.udp.local_addr().unwrap();
    let stub = Upstream::answering(move |query| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send_to(query, host).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    });
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(Some(sockets));
    driven.apply(&one_world(&sandbox, &[stub.address.to_string()], "host"));
    let client = Client::of(&sandbox);
    let said = client.ask(&Ask::new("example.com", A));
    assert!([SERVFAIL, REFUSED].contains(&said.code()), "{}", said.code());
    assert!(stub.count() <= 3, "{}", stub.count());
}

#[test]
fn case_42_replies_from_elsewhere_with_another_id_or_question_or_too_late_are_ignored() {
    let liar = UdpSocket::bind("127.0.0.1:0").unwrap();
    let elsewhere = UdpSocket::bind("127.0.0.2:0").unwrap();
    let lying = Upstream::scripted(
        move |query, wire| {
            let lie = addresses(query, &[LIE]);
            liar.send_to(&lie, wire.client).unwrap();
            elsewhere.send_to(&lie, wire.client).ok();
            let mut other_id = lie.clone();
            other_id[1] ^= 1;
            let mut other_name = lie.clone();
            other_name[13] ^= 1;
            let mut other_kind = lie.clone();
            other_kind[end_of_question(query) - 3] = 28;
            let mut other_class = lie.clone();
            other_class[end_of_question(query) - 1] = 3;
            let mut no_reply = lie.clone();
            no_reply[2] &= 0x7f;
            let mut other_opcode = lie.clone();
            other_opcode[2] |= 0x28;
            let mut two_questions = lie.clone();
            two_questions[5] = 2;
            for lie in [&other_id, &other_name, &other_kind, &other_class, &no_reply, &other_opcode]
            {
                wire.send(lie);
            }
            wire.send(&two_questions);
            wire.send(&lie[..11]);
            wire.send(&addresses(query, &[FOREIGN]));
            wire.send(&lie);
        },
        |_, _| {},
    );
    let world = World::asking(lying);
    let client = world.client();
    for name in ["a.example", "b.example", "c.example"] {
        assert_eq!(client.answers(name, A), ["A 198.51.100.7"]);
    }
}

#[test]
fn case_42_a_question_of_another_case_is_not_ours() {
    let folding = Upstream::answering(|query| {
        let mut lie = addresses(query, &[LIE]);
        lie[13..16].make_ascii_lowercase();
        Some(lie)
    });
    let honest = Upstream::knowing(FOREIGN);
    let mut world = World::new();
    world.ask_of(&[&folding, &honest]);
    assert_eq!(world.client().answers("WWW.example", A), ["A 198.51.100.7"]);
}

#[test]
fn case_42_ports_and_ids_of_1000_questions_cannot_be_guessed() {
    let world = World::new();
    let client = world.client();
    for at in 0..1000 {
        client.ask(&Ask::new(&format!("n{at}.example"), A));
    }
    let asked = world.upstream.asked();
    assert_eq!(asked.len(), 1000);
    let ports: BTreeSet<_> = asked.iter().map(|it| it.from.port()).collect();
    let ids: BTreeSet<_> = asked.iter().map(|it| id_of(&it.octets)).collect();
    assert!(ports.len() >= 800, "{} ports", ports.len());
    assert!(ids.len() >= 950, "{} ids", ids.len());
    let next = |it: &[super::upstream::Asked]| {
        id_of(&it[1].octets) == id_of(&it[0].octets).wrapping_add(1)
    };
    assert!(asked.windows(2).filter(|it| next(it)).count() < 10);
}

#[test]
fn case_42_records_of_another_name_are_handed_on_and_never_answered_for_that_name() {
    let meddling = Upstream::answering(|query| {
        let own = record(b"\xc0\x0c", 1, 600, &FOREIGN);
        let other = record(b"\x06victim\x07example\0", 1, 600, &LIE);
        let asked_victim = query[12..].starts_with(b"\x06victim");
        let more = if asked_victim { b"".to_vec() } else { other };
        let count = 1 + u8::from(!more.is_empty());
        Some(reply(query, 0, [(count, &[&own[..], &more].concat()), (0, b""), (0, b"")]))
    });
    let world = World::asking(meddling);
    let client = world.client();
    let said = client.ask(&Ask::new("evil.example", A));
    assert_eq!(said.code(), NOERROR);
    assert_eq!(client.answers("victim.example", A), ["A 198.51.100.7"]);
    assert_eq!(world.upstream.count(), 2);
}

/// Asks once of servers of which the last is good; how long it took.
#[track_caller]
fn passed_over(bad: &Upstream, ask: &Ask) -> Duration {
    let good = Upstream::knowing(FOREIGN);
    let mut world = World::new();
    world.ask_of(&[bad, &good]);
    let client = world.client();
    let begun = Instant::now();
    assert_eq!(client.ask(ask).answers(), ["A 198.51.100.7"]);
    begun.elapsed()
}

#[test]
fn case_43_a_server_that_says_it_cannot_is_passed_over_at_once() {
    let plain = Ask::new("example.com", A);
    for code in [SERVFAIL, NOTIMP, REFUSED, FORMERR] {
        let cannot = Upstream::answering(move |query| Some(empty(query, code as u8)));
        let took = passed_over(&cannot, &plain);
        assert!(took < Duration::from_millis(300), "{code}: {took:?}");
    }
}

#[test]
fn case_43_a_port_where_nobody_listens_is_passed_over_at_once() {
    let mut closed = Upstream::silent();
    closed.address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let took = passed_over(&closed, &Ask::new("example.com", A));
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[test]
fn case_43_a_server_without_edns_is_asked_again_without_it() {
    let old = Upstream::answering(|query| {
        let edns = query[11] == 1;
        Some(if edns { empty(query, 1) } else { addresses(query, &[FOREIGN]) })
    });
    let world = World::asking(old);
    let said = world.client().ask(&Ask::new("example.com", A).with(1, OPT));
    assert_eq!(said.answers(), ["A 198.51.100.7"]);
    assert_eq!(world.upstream.count(), 2);
}

#[test]
fn case_43_a_dead_first_server_costs_one_short_wait_and_then_nothing() {
    let (dead, good) = (Upstream::silent(), Upstream::knowing(FOREIGN));
    let mut world = World::new();
    world.ask_of(&[&dead, &good]);
    let client = world.client();
    let ask = |at: u32| {
        let begun = Instant::now();
        assert_eq!(client.answers(&format!("n{at}.example"), A), ["A 198.51.100.7"]);
        begun.elapsed()
    };
    let first = ask(0);
    assert!(first < Duration::from_secs(1), "{first:?}");
    let second = ask(1);
    assert!(second < Duration::from_secs(1), "{second:?}");
    let mut rest: Vec<_> = (2..52).map(ask).collect();
    rest.sort_unstable();
    assert!(rest[47] < Duration::from_millis(50), "{rest:?}");
}

#[test]
fn case_43_all_servers_dead_is_servfail_with_a_reason_before_the_client_gives_up() {
    let (one, other) = (Upstream::silent(), Upstream::silent());
    let mut world = World::new();
    world.ask_of(&[&one, &other]);
    let begun = Instant::now();
    let said = world.client().ask(&Ask::new("example.com", A).with(1, OPT));
    assert_eq!(said.code(), SERVFAIL);
    assert!([Some(22), Some(23)].contains(&said.extended_error()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn case_43_a_denial_is_final_and_comes_through_unchanged() {
    let denying = Upstream::answering(|query| {
        let soa = super::upstream::soa(b"\x07example\0", 600, 60);
        Some(reply(query, 3, [(0, b""), (1, &soa), (0, b"")]))
    });
    let other = Upstream::knowing(FOREIGN);
    let mut world = World::new();
    world.ask_of(&[&denying, &other]);
    let said = world.client().ask(&Ask::new("nope.example", A));
    assert_eq!((said.code(), said.flags() & AA), (NXDOMAIN, 0));
    assert_eq!(said.message.authorities[0].name.to_string(), "example.");
    assert_eq!(other.count(), 0);
}

#[test]
fn case_43_what_a_server_cut_is_fetched_over_tcp() {
    let all: Vec<_> = (0..100).map(|last| [198, 51, 100, last]).collect();
    let cutting = Upstream::scripted(
        |query, wire| wire.send(&truncated(query)),
        move |query, stream| {
            let whole = super::client::framed(&addresses(query, &all));
            std::io::Write::write_all(stream, &whole).unwrap();
        },
    );
    let world = World::asking(cutting);
    let whole = world.stream().ask(&Ask::new("big.example", A));
    assert_eq!(whole.answers().len(), 100);
    let cut = world.client().ask(&Ask::new("big.example", A));
    assert_eq!((cut.flags() & TC, cut.counts()), (TC, [1, 0, 0, 0]));
    let small = world.client().ask(&Ask::new("big.example", A).with(1, &opt(1232, 0, 0, b"")));
    assert_eq!(small.flags() & TC, TC, "1,600 octets do not fit");
}

#[test]
fn case_48_a_flood_of_foreign_names_at_a_silent_server_is_refused_at_once_and_ours_go_on() {
    let world = World::asking(Upstream::silent());
    let (flooding, client) = (world.client(), world.client());
    for at in 0..5000 {
        flooding.send(&Ask::new(&format!("n{at}.example"), A).octets());
        if at % 100 == 0 {
            client.lives();
        }
    }
    assert!(world.upstream.count() <= 3 * 256, "{}", world.upstream.count());
    let refused = Said::read(&flooding.receive());
    assert_eq!(refused.code(), SERVFAIL);
    let inner = Client::of(&world.inner);
    assert_eq!(inner.answers("db", A), ["A 10.40.0.31"]);
}

#[test]
fn case_49_on_internal_networks_foreign_names_are_servfail_at_once_and_nobody_is_asked() {
    let world = World::new();
    let client = Client::of(&world.inner);
    for name in ["example.com", "metadata.google.internal", "8.8.8.8.in-addr.arpa"] {
        let said = client.ask(&Ask::new(name, A).with(1, OPT));
        assert_eq!((said.code(), said.extended_error()), (SERVFAIL, Some(18)), "{name}");
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_50_signatures_are_handed_on_unchanged() {
    let signature =
        [b"\0\x01\x0d\x02\0\0\x02\x58\x7f\0\0\0\x60\0\0\0\x12\x34", &b"\x07example\0"[..]].concat();
    let signature = [&signature[..], &[7; 64]].concat();
    let data = signature.clone();
    let signing = Upstream::answering(move |query| {
        let with_do = query.ends_with(&opt(1232, 0, 0x8000, b""));
        assert!(with_do, "{}", query.escape_ascii());
        let records =
            [record(b"\xc0\x0c", 1, 600, &FOREIGN), record(b"\xc0\x0c", 46, 600, &data)].concat();
        let opt = opt(1232, 0, 0x8000, b"");
        Some(reply(query, 0, [(2, &records), (0, b""), (1, &opt)]))
    });
    let world = World::asking(signing);
    let ask = Ask::new("signed.example", A).with(1, &opt(1232, 0, 0x8000, b""));
    let said = world.client().ask(&ask);
    assert_eq!(said.counts()[1], 2);
    let found = said.octets.windows(signature.len()).any(|it| it == signature);
    assert!(found, "{}", said.octets.escape_ascii());
    assert!(said.message.edns.unwrap().flags().dnssec_ok);
}

#[test]
fn case_50_ad_of_a_server_that_nobody_called_trusted_is_not_handed_on() {
    let vouching = Upstream::answering(|query| {
        let mut reply = addresses(query, &[FOREIGN]);
        reply[3] |= AD as u8;
        Some(reply)
    });
    let mut world = World::asking(vouching);
    for flags in [0x0100, 0x0120] {
        let said = world.client().ask(&Ask::new("signed.example", A).flags(flags));
        assert_eq!((said.code(), said.flags() & AD), (NOERROR, 0));
    }
    // One that the host trusts: it is told to who understands it (RFC 6840 section 5.7), kept or not.
    world.driven.trusts_ad = true;
    world.change(|it| it);
    for (name, flags, expected) in [
        ("signed.example", 0x0120, AD),
        ("signed.example", 0x0100, 0),
        ("other.example", 0x0100, 0),
        ("other.example", 0x0120, AD),
    ] {
        let said = world.client().ask(&Ask::new(name, A).flags(flags));
        assert_eq!((said.code(), said.flags() & AD), (NOERROR, expected), "{name} {flags:x}");
    }
    assert_eq!(world.upstream.count(), 3, "what was said before is of servers not trusted");
    assert!(world.upstream.asked()[1..].iter().all(|it| it.octets[3] & 0x20 != 0));
}

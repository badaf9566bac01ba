//! G. What servers outside said, and how long and to whom it is told again.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::sleep;
use std::time::Duration;

use super::client::{A, AAAA, Ask, CD, NOERROR, NXDOMAIN, OPT, RD, SERVFAIL, TC, opt};
use super::upstream::{FOREIGN, Upstream, empty, kind, record, reply, soa};
use super::world::World;
use crate::support::{Driven, Sandbox, config};

/// What stale answers hold, in seconds (RFC 8767 section 4).
const STALE: u32 = 30;
// Extended DNS Errors (RFC 8914 section 4).
const STALE_ANSWER: u16 = 3;
const CACHED_ERROR: u16 = 13;
const BLOCKED: u16 = 15;

/// Gives FOREIGN with this TTL, and fails for as long as `fails` says so.
fn failing(ttl: u32, fails: &Arc<AtomicBool>) -> Upstream {
    let fails = Arc::clone(fails);
    Upstream::answering(move |query| {
        if fails.load(SeqCst) {
            return Some(empty(query, SERVFAIL as u8));
        }
        Some(reply(query, 0, [(1, &record(b"\xc0\x0c", A, ttl, &FOREIGN)), (0, b""), (0, b"")]))
    })
}

#[test]
fn case_31_cached_ttls_count_down_and_nobody_is_asked_again() {
    let world = World::new();
    let (client, mut stream) = (world.client(), world.stream());
    let ask = Ask::new("example.com", A);
    assert_eq!(client.ask(&ask).ttls(), [600]);
    sleep(Duration::from_millis(2100));
    for said in [client.ask(&ask), stream.ask(&ask), client.ask(&ask)] {
        let [ttl] = said.ttls()[..] else { panic!("{}", said.message) };
        assert!((590..=598).contains(&ttl), "{ttl}");
    }
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn case_44_denials_hold_as_their_soa_says() {
    let denying = Upstream::answering(|query| {
        let soa = soa(b"\x07example\0", 600, 60);
        let code = if kind(query) == A { NXDOMAIN } else { NOERROR };
        Some(reply(query, code as u8, [(0, b""), (1, &soa), (0, b"")]))
    });
    let world = World::asking(denying);
    let client = world.client();
    for (asked, (kind, code)) in [(1, (A, NXDOMAIN)), (2, (AAAA, NOERROR))] {
        for _ in 0..3 {
            let said = client.ask(&Ask::new("nobody.example", kind));
            assert_eq!(said.code(), code);
            assert!(said.negative_ttl().is_some_and(|it| it <= 60), "{}", said.message);
        }
        assert_eq!(world.upstream.count(), asked);
    }
}

#[test]
fn case_44_what_has_no_time_to_live_is_asked_for_each_time() {
    for answer in [
        |query: &[u8]| Some(empty(query, NXDOMAIN as u8)), // no SOA
        |query: &[u8]| {
            let zero = record(b"\xc0\x0c", A, 0, &FOREIGN);
            Some(reply(query, 0, [(1, &zero), (0, b""), (0, b"")]))
        },
        |query: &[u8]| {
            let negative = record(b"\xc0\x0c", A, 0x8000_0000, &FOREIGN); // RFC 8767 section 4
            Some(reply(query, 0, [(1, &negative), (0, b""), (0, b"")]))
        },
    ] {
        let world = World::asking(Upstream::answering(answer));
        let client = world.client();
        let first = client.ask(&Ask::new("example.com", A));
        assert_eq!(first.ttls(), vec![0; first.ttls().len()]);
        client.ask(&Ask::new("example.com", A));
        assert_eq!(world.upstream.count(), 2);
    }
}

#[test]
fn case_44_a_failure_holds_for_seconds_and_says_that_it_is_kept() {
    let world = World::asking(failing(600, &Arc::new(AtomicBool::new(true))));
    let client = world.client();
    let ask = Ask::new("example.com", A).with(1, OPT);
    assert_eq!(client.ask(&ask).code(), SERVFAIL);
    let asked = world.upstream.count();
    let again = client.ask(&ask);
    assert_eq!((again.code(), again.extended_error()), (SERVFAIL, Some(CACHED_ERROR)));
    assert_eq!(world.upstream.count(), asked);
}

#[test]
fn case_44_a_failure_hides_no_good_answer_which_is_told_as_stale_until_the_server_is_back() {
    let fails = Arc::new(AtomicBool::new(false));
    let world = World::asking(failing(1, &fails));
    let client = world.client();
    let ask = Ask::new("example.com", A).with(1, OPT);
    assert_eq!(client.ask(&ask).ttls(), [1]);
    fails.store(true, SeqCst);
    sleep(Duration::from_millis(1200));
    for _ in 0..2 {
        let stale = client.ask(&ask);
        assert_eq!((stale.code(), stale.ttls()), (NOERROR, vec![STALE]));
        assert_eq!(stale.extended_error(), Some(STALE_ANSWER));
    }
    fails.store(false, SeqCst);
    sleep(Duration::from_millis(5200)); // the failure is over
    let mut told = client.ask(&ask);
    if told.ttls() == [STALE] {
        sleep(Duration::from_millis(300)); // told while the server was asked
        told = client.ask(&ask);
    }
    assert_eq!((told.ttls(), told.extended_error()), (vec![1], None));
}

#[test]
fn case_44_a_denial_by_a_living_server_beats_what_is_stale() {
    let gone = Arc::new(AtomicBool::new(false));
    let server = {
        let gone = Arc::clone(&gone);
        Upstream::answering(move |query| {
            if gone.load(SeqCst) {
                let soa = soa(b"\x07example\0", 60, 60);
                return Some(reply(query, NXDOMAIN as u8, [(0, b""), (1, &soa), (0, b"")]));
            }
            let short = record(b"\xc0\x0c", A, 1, &FOREIGN);
            Some(reply(query, 0, [(1, &short), (0, b""), (0, b"")]))
        })
    };
    let world = World::asking(server);
    let client = world.client();
    assert_eq!(client.answers("www.example", A), ["A 198.51.100.7"]);
    gone.store(true, SeqCst);
    sleep(Duration::from_millis(1200));
    assert_eq!(client.ask(&Ask::new("www.example", A)).code(), NXDOMAIN);
    assert_eq!(client.ask(&Ask::new("www.example", A)).code(), NXDOMAIN);
}

#[test]
fn case_44_an_alias_holds_no_longer_than_what_it_leads_to() {
    let aliased = Upstream::answering(|query| {
        let records = [
            record(b"\xc0\x0c", 5, 300, b"\x01b\x07example\0"),
            record(b"\x01b\x07example\0", A, 1, &FOREIGN),
        ]
        .concat();
        Some(reply(query, 0, [(2, &records), (0, b""), (0, b"")]))
    });
    let world = World::asking(aliased);
    let client = world.client();
    let told = ["A 198.51.100.7", "CNAME b.example."];
    assert_eq!(client.answers("a.example", A), told);
    sleep(Duration::from_millis(1200));
    assert_eq!(client.answers("a.example", A), told);
    assert_eq!(world.upstream.count(), 2);
}

#[test]
fn case_44_aliases_that_go_in_a_circle_are_a_failure() {
    let circling = Upstream::answering(|query| {
        let records = [
            record(b"\xc0\x0c", 5, 300, b"\x01b\x07example\0"),
            record(b"\x01b\x07example\0", 5, 300, b"\x01a\x07example\0"),
        ]
        .concat();
        Some(reply(query, 0, [(2, &records), (0, b""), (0, b"")]))
    });
    let said = World::asking(circling).client().ask(&Ask::new("a.example", A));
    assert_eq!((said.code(), said.answers().len()), (SERVFAIL, 0));
}

#[test]
fn case_44_do_and_cd_make_another_question() {
    let world = World::new();
    let client = world.client();
    let with_do = opt(1232, 0, 0x8000, b"");
    for _ in 0..2 {
        for flags in [RD, RD | CD] {
            for additional in [OPT, &with_do] {
                let ask = Ask::new("example.com", A).flags(flags).with(1, additional);
                assert_eq!(client.ask(&ask).answers(), ["A 198.51.100.7"]);
            }
        }
        assert_eq!(world.upstream.count(), 4);
    }
    // The asker's size, id and case make none.
    client.ask(&Ask::new("EXAMPLE.com", A).id(7).with(1, &opt(4096, 0, 0, b"")));
    client.ask(&Ask::new("example.COM", A));
    assert_eq!(world.upstream.count(), 4);
}

#[test]
fn case_44_what_a_server_cut_and_nobody_could_fetch_is_not_kept() {
    let world = World::asking(Upstream::resetting());
    let client = world.client();
    for _ in 0..2 {
        let before = world.upstream.count();
        let said = client.ask(&Ask::new("example.com", A));
        assert!(said.code() == SERVFAIL || said.flags() & TC != 0, "{}", said.message);
        assert_eq!(said.answers().len(), 0);
        if said.code() == SERVFAIL {
            sleep(Duration::from_millis(5200)); // a failure is kept: RFC 9520
        }
        assert!(world.upstream.count() > before);
    }
}

#[test]
fn case_44_records_of_other_names_are_kept_under_no_name() {
    let telling = Upstream::answering(|query| {
        let own = record(b"\xc0\x0c", A, 600, &FOREIGN);
        let others = record(b"\x04bank\x07example\0", A, 600, &[203, 0, 113, 66]);
        Some(reply(query, 0, [(1, &own), (0, b""), (1, &others)]))
    });
    let world = World::asking(telling);
    let client = world.client();
    client.ask(&Ask::new("www.example", A));
    assert_eq!(client.answers("bank.example", A), ["A 198.51.100.7"]);
    assert_eq!(world.upstream.count(), 2);
}

#[test]
fn case_44_what_one_sandbox_s_servers_said_is_told_in_no_other_sandbox() {
    let servers = [[198, 51, 100, 7], [198, 51, 100, 8]].map(Upstream::knowing);
    let sandboxes = [Sandbox::new(), Sandbox::new()];
    let mut driven = Driven::new(None);
    let mut text = "[[network]]\nname = \"net\"\nsubnet = \"10.1.0.0/16\"\n".to_owned();
    for (at, (sandbox, server)) in sandboxes.iter().zip(&servers).enumerate() {
        let (netns, server) = (sandbox.path(), server.address.to_string());
        write!(
            text,
            "[[sandbox]]\nname = \"box{at}\"\nnetns = \"{}\"\nnetworks = [\"net\"]\nupstreams = [{server:?}]\n",
            netns.display(),
        )
        .unwrap();
    }
    driven.apply(&text);
    for _ in 0..2 {
        let told = sandboxes.each_ref().map(|it| it.dig("example.com"));
        assert_eq!(told, ["198.51.100.7", "198.51.100.8"]);
    }
    assert_eq!(servers.each_ref().map(Upstream::count), [1, 1]);
}

#[test]
fn case_47_private_addresses_of_public_names_are_held_back_where_wanted_but_for_those_allowed() {
    let private = [[10, 1, 2, 3], [127, 0, 0, 1], [169, 254, 1, 1], [192, 168, 1, 1]];
    let mut config = config();
    config.upstream.rebinding_filter = true;
    config.upstream.rebinding_allow = vec!["corp.example".to_owned()];
    for address in private.into_iter().chain([[10, 20, 1, 9]]) {
        let world = World::with(config.clone(), Upstream::knowing(address));
        let client = world.client();
        for _ in 0..2 {
            let said = client.ask(&Ask::new("evil.example", A).with(1, OPT));
            assert_eq!((said.code(), said.answers().len()), (NOERROR, 0), "{address:?}");
            assert_eq!(said.extended_error(), Some(BLOCKED));
        }
        let allowed = client.ask(&Ask::new("intern.corp.example", A));
        assert_eq!(allowed.answers().len(), 1, "{address:?}");
    }
    let mapped = Upstream::answering(|query| {
        let inside = b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x01\x02\x03";
        Some(reply(query, 0, [(1, &record(b"\xc0\x0c", AAAA, 60, inside)), (0, b""), (0, b"")]))
    });
    let said = World::with(config.clone(), mapped).client().ask(&Ask::new("evil.example", AAAA));
    assert_eq!((said.code(), said.answers().len()), (NOERROR, 0));
    let public = World::with(config, Upstream::knowing(FOREIGN));
    assert_eq!(public.client().answers("good.example", A), ["A 198.51.100.7"]);
}

#[test]
fn case_47_without_the_filter_private_addresses_come_through() {
    let world = World::asking(Upstream::knowing([10, 1, 2, 3]));
    assert_eq!(world.client().answers("intern.example", A), ["A 10.1.2.3"]);
}

//! The engine's own resolver in a sandbox, asked where the registry knows a network from gossip,
//! in real network namespaces.
//!
//! Needs the right to make network namespaces: root, or `unshare -Urnm`.
#![expect(clippy::disallowed_methods, reason = "tests drive real programs, in real time")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{ADDRESS, Driven, Sandbox, Server, question, reply};

/// A network with a service that has a VIP, one that has none and a draining task, and a sandbox.
fn gossip_world(sandbox: &Sandbox, draining: &str) -> String {
    format!(
        r#"
        [[network]]
        name = "net"
        subnet = "10.1.0.0/16"

        [[service]]
        name = "web"
        networks = ["net"]
        vip = {{ net = "10.1.0.2" }}

        [[service]]
        name = "app"
        mode = "dnsrr"
        networks = ["net"]

        [[task]]
        name = "app.1"
        service = "app"
        addresses = {{ net = "10.1.0.21" }}

        [[task]]
        name = "app.2"
        service = "app"
        addresses = {{ net = "10.1.0.22" }}
        state = "{draining}"

        [[task]]
        name = "box"
        addresses = {{ net = "10.1.0.3" }}

        [[sandbox]]
        name = "box"
        netns = "{}"
        networks = ["net"]
        "#,
        sandbox.path().display(),
    )
}

/// An engine, and what it was asked, in order, its sandbox's own name left out.
struct Engine {
    _server: Server,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// An engine that knows `www`, `api` and its sandbox, and asks about all else somebody who is dead.
fn engine(sandbox: &Sandbox) -> Engine {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&asked);
    let answer = move |query: &[u8]| {
        let (name, kind) = question(query);
        if name != "box." {
            log.lock().unwrap().push(name.clone());
        }
        let known: &[[u8; 4]] = match name.to_ascii_lowercase().as_str() {
            "www." => &[[10, 1, 0, 2]],
            "api." | "tasks.api." => &[[10, 1, 0, 21], [10, 1, 0, 22]],
            "new." => &[[10, 1, 0, 99]],
            "box." => &[[10, 1, 0, 3]],
            _ => return None,
        };
        let known: Vec<_> = known.iter().map(|it| Ipv4Addr::from(*it)).collect();
        Some(reply(query, 0, if kind == 1 { &known } else { &[] }))
    };
    Engine { _server: sandbox.engine_that(answer), asked }
}

fn answer(sandbox: &Sandbox, what: &str) -> String {
    let said = sandbox.run(&format!("dig +noall +answer @{ADDRESS} {what}"));
    let mut lines: Vec<_> =
        said.lines().map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.sort_unstable();
    lines.join(", ")
}

#[test]
fn an_alias_that_the_engine_knows_is_answered_as_the_registry_knows_its_service() {
    let sandbox = Sandbox::new();
    let engine = engine(&sandbox);
    let mut driven = Driven::new(None);
    driven.try_apply(&gossip_world(&sandbox, "draining"), true);
    assert_eq!(answer(&sandbox, "WwW"), "WwW. 30 IN A 10.1.0.2");
    assert!(sandbox.dig_header("www").contains("qr aa rd ra"), "{}", sandbox.dig_header("www"));
    assert_eq!(answer(&sandbox, "api"), "api. 5 IN A 10.1.0.21");
    assert_eq!(answer(&sandbox, "tasks.api"), "tasks.api. 5 IN A 10.1.0.21");
    assert_eq!(engine.asked(), 3, "each name once");
    let aaaa = sandbox.dig_header("api AAAA");
    assert!(aaaa.contains("NOERROR") && aaaa.contains("ANSWER: 0"), "{aaaa}");
    // What it does not know is handed on, without AA, to each in his own letters.
    assert_eq!(answer(&sandbox, "NEW"), "NEW. 5 IN A 10.1.0.99");
    assert_eq!(answer(&sandbox, "+norec new"), "new. 5 IN A 10.1.0.99");
    let flags = sandbox.dig_header("+norec new");
    assert!(flags.contains("flags: qr ra;"), "{flags}");
    assert_eq!(engine.asked(), 5);
    // A change is seen at once.
    driven.try_apply(&gossip_world(&sandbox, "serving"), true);
    assert_eq!(answer(&sandbox, "api"), "api. 5 IN A 10.1.0.21, api. 5 IN A 10.1.0.22");
}

#[test]
fn a_mistyped_name_is_denied_soon_though_the_engine_waits_for_a_dead_server() {
    let sandbox = Sandbox::new();
    let engine = engine(&sandbox);
    let mut driven = Driven::new(None);
    driven.try_apply(&gossip_world(&sandbox, "serving"), true);
    let begun = Instant::now();
    let denied = sandbox.dig_header("wbe");
    let took = begun.elapsed();
    assert!(denied.contains("NXDOMAIN"), "{denied}");
    assert!(took < Duration::from_millis(900), "{took:?}");
    assert_eq!(engine.asked(), 1);
    let denied = sandbox.dig_header("tasks.wbe");
    assert!(denied.contains("NXDOMAIN"), "{denied}");
}

#[test]
fn an_engine_that_does_not_even_know_the_sandbox_is_not_taken_for_saying_no() {
    let sandbox = Sandbox::new();
    let _engine = sandbox.engine_that(|_| None);
    let mut driven = Driven::new(None);
    driven.try_apply(&gossip_world(&sandbox, "serving"), true);
    let silent = sandbox.dig_header("wbe");
    assert!(silent.contains("SERVFAIL") && silent.contains("EDE: 23"), "{silent}");
}

#[test]
fn what_the_engine_said_holds_while_it_is_away() {
    let sandbox = Sandbox::new();
    let engine = engine(&sandbox);
    let mut driven = Driven::new(None);
    driven.try_apply(&gossip_world(&sandbox, "serving"), true);
    assert_eq!(answer(&sandbox, "www"), "www. 30 IN A 10.1.0.2");
    assert_eq!(answer(&sandbox, "api"), "api. 5 IN A 10.1.0.21, api. 5 IN A 10.1.0.22");
    assert_eq!(answer(&sandbox, "api AAAA"), "");
    drop(engine);
    // A new world, of which nothing was asked yet.
    driven.try_apply(&gossip_world(&sandbox, "draining"), true);
    assert_eq!(answer(&sandbox, "www"), "www. 30 IN A 10.1.0.2");
    assert_eq!(answer(&sandbox, "api"), "api. 5 IN A 10.1.0.21", "as the registry knows it now");
    let aaaa = sandbox.dig_header("api AAAA");
    assert!(aaaa.contains("NOERROR") && aaaa.contains("ANSWER: 0"), "{aaaa}");
    for _ in 0..2 {
        let unknown = sandbox.dig_header("nobody");
        assert!(unknown.contains("SERVFAIL") && unknown.contains("EDE: 23"), "{unknown}");
    }
}

#[test]
fn what_the_engine_fetches_from_outside_is_no_answer_to_a_short_name() {
    let sandbox = Sandbox::new();
    let _engine = sandbox.engine_that(|query| {
        let mut fetched = reply(query, 0, &[Ipv4Addr::new(203, 0, 113, 1)]);
        fetched[11] = 1;
        fetched.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
        Some(fetched)
    });
    let mut driven = Driven::new(None);
    driven.try_apply(&gossip_world(&sandbox, "serving"), true);
    assert!(sandbox.dig_header("printer").contains("NXDOMAIN"));
    assert_eq!(sandbox.dig("printer.net"), "203.0.113.1", "a name with a dot may be anybody's");
}

#[test]
fn many_who_ask_the_same_name_at_once_are_one_question() {
    let sandbox = Sandbox::new();
    let engine = engine(&sandbox);
    let mut driven = Driven::new(None);
    driven.try_apply(&gossip_world(&sandbox, "serving"), true);
    let client = sandbox.client();
    for id in 0..100_u16 {
        let query = [&id.to_be_bytes()[..], b"\x01\0\0\x01\0\0\0\0\0\0\x03www\0\0\x01\0\x01"];
        client.send(&query.concat()).unwrap();
    }
    let mut buffer = [0; 512];
    let mut ids: Vec<u16> = (0..100)
        .map(|_| {
            client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[3] & 15, 0);
            u16::from_be_bytes([buffer[0], buffer[1]])
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..100).collect::<Vec<_>>());
    assert_eq!(engine.asked(), 1);
}

//! Names that are not ours, asked of others in real network namespaces: upstream servers, and the
//! engine's own resolver.
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

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use resolver::Source;
use support::{
    ADDRESS, Driven, Sandbox, Server, eventually, one_world, question, reply, small_world, world,
};

#[test]
fn names_from_outside_are_asked_of_the_servers_and_short_ones_are_not() {
    let address = Ipv4Addr::new(198, 51, 100, 7);
    let upstream = Server::start(move |query| Some(reply(query, 0, &[address])));
    let (front, back) = (Sandbox::new(), Sandbox::new());
    let mut driven = Driven::new(None);
    driven.apply(&world(&front, &back, &[upstream.address.to_string()]));
    assert_eq!(front.dig("example.com"), "198.51.100.7");
    assert_eq!(front.dig("+tcp example.com"), "198.51.100.7");
    assert_eq!(upstream.asked(), 1); // what it said holds over TCP too
    assert!(front.dig_header("printer").contains("NXDOMAIN"));
    assert!(front.dig_header("web TXT").contains("NOERROR"));
    // On internal networks only: nobody is asked.
    let refused = back.dig_header("example.com");
    assert!(refused.contains("SERVFAIL") && refused.contains("internal"), "{refused}");
    assert_eq!(upstream.asked(), 1);
    let counts = driven.resolver.meter().counts();
    let sources = [Source::Upstream, Source::Cache, Source::Local, Source::Refused];
    assert_eq!(sources.map(|it| counts.given_by(it)), [1, 1, 2, 1]);
}

#[test]
fn servers_that_fail_are_passed_over_and_spoofed_replies_are_not_believed() {
    let (good, bad) = (Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(203, 0, 113, 66));
    let failing = Server::start(|query| Some(reply(query, 2, &[])));
    let lying = Server::start(move |query| {
        let mut lie = reply(query, 0, &[bad]);
        lie[1] ^= 1; // another id
        Some(lie)
    });
    let honest = Server::start(move |query| Some(reply(query, 0, &[good])));
    let sandbox = Sandbox::new();
    let servers = [&failing, &lying, &honest].map(|it| it.address.to_string());
    let mut driven = Driven::new(None);
    driven.apply(&one_world(&sandbox, &servers, "host"));
    assert_eq!(sandbox.dig("example.com"), "198.51.100.7");
    assert_eq!((failing.asked(), honest.asked()), (1, 1));
    assert!((1..=2).contains(&lying.asked()), "{}", lying.asked()); // once more, to see if it is dead
    driven.apply(&one_world(&sandbox, &servers[..2], "host"));
    assert!(sandbox.dig_header("example.com").contains("SERVFAIL"));
    // Nobody listens: an error comes back at once, and says why.
    driven.apply(&one_world(&sandbox, &["127.0.0.1:9".to_owned()], "host"));
    let silent = sandbox.dig_header("example.com");
    assert!(silent.contains("SERVFAIL") && silent.contains("EDE: 22"), "{silent}");
}

#[test]
fn denials_of_the_outside_are_final_and_replies_cut_by_servers_are_fetched_over_tcp() {
    let whole: Vec<_> = (0..100).map(|it| Ipv4Addr::new(198, 51, 100, it)).collect();
    let denying = Server::start(|query| Some(reply(query, 3, &[])));
    let cutting = Server::start(move |query| {
        if query.last() == Some(&255) {
            return Some(reply(&query[..query.len() - 1], 0, &whole));
        }
        let mut cut = reply(query, 0, &[]);
        cut[2] |= 2;
        Some(cut)
    });
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    let servers = [&denying, &cutting].map(|it| it.address.to_string());
    driven.apply(&one_world(&sandbox, &servers, "host"));
    assert!(sandbox.dig_header("nope.example").contains("NXDOMAIN"));
    assert_eq!((denying.asked(), cutting.asked()), (1, 0));
    driven.apply(&one_world(&sandbox, &servers[1..], "host"));
    assert_eq!(sandbox.dig("+tcp big.example").split(' ').count(), 100);
    assert_eq!(sandbox.dig("big.example").split(' ').count(), 100);
    assert!(sandbox.dig_header("+ignore big.example").contains(" tc"));
}

#[test]
fn a_dead_first_server_costs_one_short_delay_once() {
    let address = Ipv4Addr::new(198, 51, 100, 9);
    let (dead, alive) =
        (Server::start(|_| None), Server::start(move |q| Some(reply(q, 0, &[address]))));
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&one_world(&sandbox, &[&dead, &alive].map(|it| it.address.to_string()), "host"));
    for number in 0..20 {
        assert_eq!(sandbox.dig(&format!("+tries=1 +time=2 n{number}.example.com")), "198.51.100.9");
    }
    assert_eq!(alive.asked(), 20);
    assert!(dead.asked() < 10, "a server that is dead was asked {} times of 20", dead.asked());
}

#[test]
fn what_servers_said_is_told_while_they_are_gone_until_others_are_asked() {
    let address = Ipv4Addr::new(198, 51, 100, 10);
    let speaks = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let still = std::sync::Arc::clone(&speaks);
    let server = Server::start(move |query| {
        let mut said = reply(query, 0, &[address]);
        let at = said.len() - 10;
        said[at..at + 4].copy_from_slice(&1_u32.to_be_bytes()); // for a second
        still.load(std::sync::atomic::Ordering::Relaxed).then_some(said)
    });
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&one_world(&sandbox, &[server.address.to_string()], "host"));
    assert_eq!(sandbox.dig("example.com"), "198.51.100.10");
    speaks.store(false, std::sync::atomic::Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(2100));
    let stale = sandbox.dig_header("+tries=1 +time=6 example.com");
    assert!(stale.contains("NOERROR") && stale.contains("EDE: 3"), "{stale}");
    // Another server, of whom it is not known.
    driven.apply(&one_world(&sandbox, &["127.0.0.1:9".to_owned()], "host"));
    assert!(sandbox.dig_header("example.com").contains("SERVFAIL"));
}

#[test]
fn servers_of_a_sandbox_are_dialled_from_inside_it() {
    let sandbox = Sandbox::new();
    let inside = SocketAddr::from((Ipv4Addr::LOCALHOST, 5353));
    let address = Ipv4Addr::new(198, 51, 100, 8);
    let answer = move |query: &[u8]| Some(reply(query, 0, &[address]));
    let server =
        Server::on(kernel::socket::udp_bound(&sandbox.netns(), inside).unwrap(), None, answer);
    let mut driven = Driven::new(None);
    driven.apply(&one_world(&sandbox, &[inside.to_string()], "sandbox"));
    assert_eq!(sandbox.dig("example.com"), "198.51.100.8");
    assert_eq!(server.asked(), 1);
}

/// Two sandboxes on one network, each with such a server.
fn two_boxes(sandboxes: &[Sandbox; 2], servers: [&str; 2], dial: &str) -> String {
    let mut text = "[[network]]\nname = \"net\"\nsubnet = \"10.1.0.0/16\"\n".to_owned();
    for (at, (sandbox, server)) in sandboxes.iter().zip(servers).enumerate() {
        let netns = sandbox.path();
        write!(
            text,
            "[[sandbox]]\nname = \"box{at}\"\nnetns = \"{}\"\nnetworks = [\"net\"]\n\
             upstreams = [{server:?}]\ndial = {dial:?}\n",
            netns.display(),
        )
        .unwrap();
    }
    text
}

/// The question for the address of `slow.example`, in this case and under this id.
fn slow(id: u8, upper: bool, dnssec_ok: bool) -> Vec<u8> {
    let label: &[u8] = if upper { b"\x04SlOw\x07EXAMPLE\0" } else { b"\x04slow\x07example\0" };
    let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0";
    let head = [0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(dnssec_ok)];
    let opt = if dnssec_ok { &opt[..] } else { b"" };
    [&head[..], label, b"\0\x01\0\x01", opt].concat()
}

#[test]
fn what_clients_of_two_sandboxes_ask_at_once_is_asked_once_and_each_gets_his_own_reply() {
    let address = Ipv4Addr::new(198, 51, 100, 11);
    let server = Server::start(move |query| {
        std::thread::sleep(Duration::from_millis(300)); // so that all of them ask meanwhile
        Some(reply(query, 0, &[address]))
    });
    let sandboxes = [Sandbox::new(), Sandbox::new()];
    let mut driven = Driven::new(None);
    let at = server.address.to_string();
    driven.apply(&two_boxes(&sandboxes, [&at, &at], "host"));
    let clients = sandboxes.each_ref().map(Sandbox::client);
    for id in 0..100 {
        clients[usize::from(id % 2)].send(&slow(id, id % 3 == 0, false)).unwrap();
    }
    let mut buffer = [0; 512];
    for (parity, client) in (0..).zip(&clients) {
        let mut ids = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let length = client.recv(&mut buffer).unwrap();
            let (id, said) = (buffer[1], &buffer[..length]);
            assert!(ids.insert(id) && id % 2 == parity, "{id} of {ids:?}");
            assert_eq!(said[12..30], slow(id, id % 3 == 0, false)[12..30]);
            assert!(said.ends_with(&address.octets()));
        }
    }
    assert_eq!(server.asked(), 1);
    for dnssec_ok in [true, false] {
        clients[0].send(&slow(7, false, dnssec_ok)).unwrap();
        clients[0].recv(&mut buffer).unwrap();
    }
    assert_eq!(server.asked(), 2, "with signatures it is another question");
    let meter = driven.resolver.meter();
    assert_eq!((meter.cache().entries, meter.in_flight()), (2, 0));
    let states = meter.states();
    assert_eq!((states.len(), states[0].sandboxes, states[0].down_for), (1, 2, 0));
    assert_eq!(meter.flush().entries, 2);
    sandboxes[1].dig("slow.example");
    assert_eq!(server.asked(), 3, "all was forgotten");
}

#[test]
fn a_crowd_that_asks_for_one_name_is_not_taken_for_a_flood() {
    let address = Ipv4Addr::new(198, 51, 100, 14);
    let server = Server::start(move |query| {
        std::thread::sleep(Duration::from_millis(500)); // so that all of them ask meanwhile
        Some(reply(query, 0, &[address]))
    });
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&one_world(&sandbox, &[server.address.to_string()], "host"));
    let crowd: Vec<_> = (0..8).map(|_| sandbox.client()).collect();
    for client in &crowd {
        for id in 0..50 {
            client.send(&slow(id, false, false)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(20)); // no receive buffer holds 400
    }
    let mut buffer = [0; 512];
    for client in crowd.iter().flat_map(|it| [it; 50]) {
        client.recv(&mut buffer).unwrap();
        assert_eq!(buffer[3] & 15, 0);
    }
    assert_eq!((server.asked(), driven.resolver.meter().counts().busy), (1, 0));
}

#[test]
fn servers_inside_sandboxes_are_believed_in_their_own_alone() {
    let sandboxes = [Sandbox::new(), Sandbox::new()];
    let inside = SocketAddr::from((Ipv4Addr::LOCALHOST, 5353));
    let servers: Vec<_> = (0..)
        .zip(&sandboxes)
        .map(|(last, sandbox)| {
            let address = Ipv4Addr::new(198, 51, 100, last);
            let socket = kernel::socket::udp_bound(&sandbox.netns(), inside).unwrap();
            Server::on(socket, None, move |query| Some(reply(query, 0, &[address])))
        })
        .collect();
    let mut driven = Driven::new(None);
    let at = inside.to_string();
    driven.apply(&two_boxes(&sandboxes, [&at, &at], "sandbox"));
    for _ in 0..2 {
        let told = sandboxes.each_ref().map(|it| it.dig("example.com"));
        assert_eq!(told, ["198.51.100.0", "198.51.100.1"]);
    }
    assert_eq!((servers[0].asked(), servers[1].asked()), (1, 1));
}

#[test]
fn a_question_that_was_under_way_when_the_servers_changed_is_answered_and_not_kept() {
    let [before, after] = [12, 13].map(|last| Ipv4Addr::new(198, 51, 100, last));
    let old = Server::start(move |query| {
        std::thread::sleep(Duration::from_millis(400));
        Some(reply(query, 0, &[before]))
    });
    let new = Server::start(move |query| Some(reply(query, 0, &[after])));
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&one_world(&sandbox, &[old.address.to_string()], "host"));
    let client = sandbox.client();
    client.send(&slow(1, false, false)).unwrap();
    eventually(Duration::from_secs(2), || old.asked(), |it| *it == 1);
    driven.apply(&one_world(&sandbox, &[new.address.to_string()], "host"));
    assert_eq!(sandbox.dig("slow.example"), "198.51.100.13");
    let mut buffer = [0; 512];
    let length = client.recv(&mut buffer).unwrap();
    assert!(buffer[..length].ends_with(&before.octets()));
    assert_eq!(sandbox.dig("slow.example"), "198.51.100.13");
    assert_eq!((old.asked(), new.asked()), (1, 1));
    let states = driven.resolver.meter().states();
    let servers: Vec<_> = states.iter().map(|it| it.server.address).collect();
    assert_eq!(servers, [new.address]);
}

#[test]
fn too_many_questions_outside_are_refused_at_once_and_ours_go_on() {
    let address = Ipv4Addr::new(198, 51, 100, 15);
    let knows_one =
        Server::start(move |q| (question(q).0 == "old.example.").then(|| reply(q, 0, &[address])));
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&one_world(&sandbox, &[knows_one.address.to_string()], "host"));
    assert_eq!(sandbox.dig("old.example"), "198.51.100.15");
    let client = sandbox.client();
    for id in 0..300_u16 {
        let name = format!("{id:03}");
        let mut query = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3]].concat();
        query.extend_from_slice(name.as_bytes());
        query.extend_from_slice(b"\x02io\0\0\x01\0\x01");
        client.send(&query).unwrap();
        if id % 50 == 49 {
            std::thread::sleep(Duration::from_millis(20)); // a receive buffer holds no 300
        }
    }
    let mut codes = Vec::new();
    let mut buffer = [0; 512];
    while codes.len() < 44 {
        client.recv(&mut buffer).unwrap();
        codes.push(buffer[3] & 15);
    }
    assert_eq!(codes, [2; 44]);
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    // What is known costs nobody anything, whichever way it is asked for.
    for how in ["", "+tcp", "+nsid", "+norecurse +tcp"] {
        assert_eq!(sandbox.dig(&format!("{how} old.example")), "198.51.100.15", "{how}");
    }
    assert_eq!(driven.resolver.meter().counts().busy, 44);
}

#[test]
fn the_engine_is_asked_where_the_registry_may_be_incomplete() {
    let sandbox = Sandbox::new();
    let alias = Ipv4Addr::new(10, 1, 0, 99);
    let engine = sandbox.engine(alias);
    let mut driven = Driven::new(None);
    let world = small_world(&sandbox);
    assert!(driven.try_apply(&world, true).failures.is_empty());
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    assert_eq!(engine.asked(), 0);
    let told = sandbox.run(&format!("dig +noall +answer @{ADDRESS} cache"));
    let words: Vec<_> = told.split_whitespace().collect();
    // Its ten minutes have become our five seconds.
    assert_eq!(words, ["cache.", "5", "IN", "A", "10.1.0.99"]);
    assert!(sandbox.dig_header("cache HTTPS").contains("NOERROR"));
    assert_eq!(engine.asked(), 1, "what it said a moment ago is known");
    drop(engine);
    std::thread::sleep(Duration::from_millis(200));
    let silent = sandbox.dig_header("store");
    assert!(silent.contains("SERVFAIL") || silent.contains("NXDOMAIN"), "{silent}");
}

#[test]
fn what_the_engine_says_of_a_service_is_never_our_own_word() {
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox)); // ours is there first, and knows the name
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = resolver::EngineClient::open().unwrap();
    let ask = || runtime.block_on(client.addresses(&sandbox.path(), "web"));
    assert_eq!(ask(), None);
    let _engine = sandbox.engine(Ipv4Addr::new(203, 0, 113, 9));
    assert_eq!(ask(), Some(vec![Ipv4Addr::new(203, 0, 113, 9)]));
}

#[test]
fn what_the_engine_cut_short_is_asked_again_over_tcp_or_not_believed() {
    let sandbox = Sandbox::new();
    let all: Vec<Ipv4Addr> = (1..=120).map(|it| Ipv4Addr::new(10, 0, 1, it)).collect();
    let answer = {
        let all = all.clone();
        move |query: &[u8]| {
            let whole = query.last() == Some(&255);
            let mut reply = reply(query, 0, if whole { &all } else { &all[..90] });
            reply[2] |= if whole { 0 } else { 2 }; // TC
            Some(reply)
        }
    };
    let bound = |port| (ADDRESS, port).into();
    let udp = kernel::socket::udp_bound(&sandbox.netns(), bound(0)).unwrap();
    let _only_udp = Server::on(udp, None, answer.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = resolver::EngineClient::open().unwrap();
    let ask = || runtime.block_on(client.addresses(&sandbox.path(), "tasks.web.net"));
    assert_eq!(ask(), None);
    let tcp = kernel::socket::tcp_listener(&sandbox.netns(), bound(0)).unwrap();
    tcp.set_nonblocking(false).unwrap();
    let udp = kernel::socket::udp_bound(&sandbox.netns(), bound(0)).unwrap();
    let _both = Server::on(udp, Some(tcp), answer);
    assert_eq!(ask(), Some(all));
}

#[test]
fn an_engine_that_is_not_there_denies_nothing() {
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    assert!(driven.try_apply(&small_world(&sandbox), true).failures.is_empty());
    assert!(sandbox.dig_header("cache").contains("SERVFAIL"));
}

#[test]
fn public_names_below_a_network_called_as_a_top_level_domain_need_no_engine() {
    let sandbox = Sandbox::new();
    let upstream = Server::start(|query| Some(reply(query, 0, &[Ipv4Addr::new(198, 51, 100, 7)])));
    let world = one_world(&sandbox, &[upstream.address.to_string()], "host");
    let world = world.replace("\"net\"", "\"dev\"").replace("{ net =", "{ dev =");
    let mut driven = Driven::new(None);
    assert!(driven.try_apply(&world, true).failures.is_empty());
    assert_eq!(sandbox.dig("www.dev"), "198.51.100.7");
    assert_eq!(sandbox.dig("web.dev"), "10.1.0.2");
    // Nobody outside can be called so.
    assert!(sandbox.dig_header("tasks.www").contains("SERVFAIL"));
    assert_eq!(upstream.asked(), 1);
    // What the engine knows itself is its own, whether the registry knows the address or not; what
    // it is silent about, because it asks others, is asked of ours.
    let (alias, own) = (Ipv4Addr::new(10, 1, 0, 99), Ipv4Addr::new(10, 1, 0, 3));
    let _engine = sandbox.engine_that(move |query| match &query[12..16] {
        b"\x05cac" => Some(reply(query, 0, &[alias])),
        b"\x03box" => Some(reply(query, 0, &[own])),
        _ => None,
    });
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sandbox.dig("cache.dev"), "10.1.0.99");
    assert_eq!(sandbox.dig("ftp.dev"), "198.51.100.7");
    assert_eq!(upstream.asked(), 2);
}

//! C. Names of ours: what they are, what they are not, and that nobody else is asked about them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::client::{
    A, AA, AAAA, ANY, Ask, Client, NOERROR, NXDOMAIN, PTR, SERVFAIL, SRV, TC, TXT, address, opt,
};
use super::upstream::{FOREIGN, Upstream};
use super::world::World;
use crate::support::config;

/// Types that applications ask for beside addresses.
const OTHERS: [u16; 5] = [15, TXT, 64, 65, 257];

#[test]
fn case_21_other_types_and_families_of_our_names_are_no_data_with_a_soa_and_never_forwarded() {
    let world = World::new();
    let client = world.client();
    for name in ["web", "web.front", "app", "tasks.web", "idle", "none", "box", "c0ffee000001"] {
        for kind in [AAAA, SRV, PTR, 2, 6, 43, 48].into_iter().chain(OTHERS) {
            let said = client.ask(&Ask::new(name, kind));
            said.is_no_data();
            assert_ne!(said.flags() & AA, 0);
        }
    }
    assert_eq!(client.answers("box.dual_stack", AAAA), ["AAAA fd00:30::10"]);
    world.nobody_outside_was_asked();
}

#[test]
fn case_22_an_unknown_name_of_ours_does_not_exist_and_that_is_kept_for_5_seconds() {
    let world = World::new();
    let client = world.client();
    for name in ["nope", "nope-nope", "_x", "99.1.20.10.in-addr.arpa"] {
        for kind in [A, AAAA, TXT, ANY] {
            let said = client.ask(&Ask::new(name, kind));
            said.is_no_name();
            assert_eq!(said.negative_ttl(), Some(5));
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_22_an_unknown_name_below_a_network_does_not_exist_where_no_top_level_domain_can_be() {
    let world = World::new();
    let client = world.client();
    for name in ["nope.dual_stack", "a.b.dual_stack", "tasks.nope.DUAL_stack"] {
        client.ask(&Ask::new(name, A)).is_no_name();
    }
    world.nobody_outside_was_asked();
    // A network called `app` must not make the world's `.app` vanish.
    client.ask(&Ask::new("nope.front", A));
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn case_23_what_lies_above_names_of_ours_exists_and_is_empty() {
    let world = World::new();
    let client = world.client();
    for name in ["tasks", "tasks.front", "_tcp.web", "_tcp.web.front", "front", "dual_stack"] {
        for kind in [A, SRV, TXT] {
            client.ask(&Ask::new(name, kind)).is_no_data();
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_24_each_name_of_a_thing_means_the_right_addresses_in_any_case() {
    let world = World::new();
    let client = world.client();
    let apps: Vec<_> = (21..=25).map(|last| address([10, 20, 1, last])).collect();
    for name in ["web", "web.front", "WEB", "Web.Front", "www", "www.front"] {
        assert_eq!(client.answers(name, A), ["A 10.20.1.2"], "{name}");
    }
    for name in ["tasks.web", "web.1.k3v", "web.1.k3v.front", "c0ffee000001", "TASKS.WWW.FRONT"] {
        assert_eq!(client.answers(name, A), ["A 10.20.1.11"], "{name}");
    }
    for name in ["app", "tasks.app", "app.front"] {
        assert_eq!(client.answers(name, A), apps, "{name}");
    }
    // On two networks: names of both, each network's answer its own.
    assert_eq!(client.answers("both", A), ["A 10.30.0.20"]);
    assert_eq!(client.answers("both", AAAA), ["AAAA fd00:30::20"]);
    assert_eq!(client.answers("box.front", A), ["A 10.20.1.10"]);
    assert_eq!(client.answers("box.dual_stack", A), ["A 10.30.0.10"]);
    world.nobody_outside_was_asked();
}

#[test]
fn case_24_nobody_sees_a_name_of_a_network_that_he_is_not_on() {
    let world = World::new();
    let (outer, inner) = (world.client(), Client::of(&world.inner));
    assert_eq!(inner.answers("db", A), ["A 10.40.0.31"]);
    assert_eq!(outer.ask(&Ask::new("db", A)).code(), NXDOMAIN);
    for name in ["web", "www", "app", "box", "both", "c0ffee000001", "idle", "none"] {
        assert_eq!(inner.ask(&Ask::new(name, A)).code(), NXDOMAIN, "{name}");
    }
    for name in ["tasks.web", "web.front", "web.1.k3v", "both.dual_stack"] {
        let said = inner.ask(&Ask::new(name, A));
        assert_eq!((said.code(), said.counts()[1]), (SERVFAIL, 0), "{name}");
    }
    // Reverse names tell nothing either.
    let (ours, theirs) = ("31.0.40.10.in-addr.arpa", "11.1.20.10.in-addr.arpa");
    assert_eq!(inner.answers(ours, PTR), ["PTR db.back."]);
    assert!(inner.ask(&Ask::new(theirs, PTR)).answers().is_empty());
    world.nobody_outside_was_asked();
}

#[test]
fn case_25_srv_is_answered_as_srv_with_targets_that_resolve_and_their_addresses() {
    let world = World::new();
    let client = world.client();
    for name in ["_http._tcp.web", "_8080._tcp.web", "_8000._tcp.web.front", "_HTTP._TCP.www"] {
        let said = client.ask(&Ask::new(name, SRV));
        assert_eq!(said.answers(), ["SRV 0 1 8080 web.1.k3v.front."], "{name}");
        assert_eq!(said.additionals(), ["A 10.20.1.11"]);
        // The type stands in the record as SRV; what Docker writes is PTR.
        let question = Ask::new(name, SRV).octets().len();
        assert_eq!(said.octets[question..question + 6], *b"\xc0\x0c\0\x21\0\x01");
    }
    assert_eq!(client.answers("web.1.k3v.front", A), ["A 10.20.1.11"]);
    assert_eq!(client.ask(&Ask::new("_http._udp.web", SRV)).code(), NXDOMAIN);
    // Too many for a datagram: cut, and whole over TCP.
    let cut = client.ask(&Ask::new("_80._tcp.big", SRV));
    assert_eq!((cut.flags() & TC, cut.counts()), (TC, [1, 0, 0, 0]));
    let whole = world.stream().ask(&Ask::new("_80._tcp.big", SRV));
    assert_eq!((whole.answers().len(), whole.additionals().len()), (200, 200));
    world.nobody_outside_was_asked();
}

#[test]
fn case_26_addresses_of_ours_have_names_and_malformed_reverse_names_do_not_exist() {
    let world = World::new();
    let client = world.client();
    let v6 = format!("0.1.{}0.3.0.0.0.0.d.f.ip6.arpa", "0.".repeat(22));
    for (name, target) in [
        ("11.1.20.10.in-addr.arpa", "PTR web.1.k3v.front."),
        ("2.1.20.10.IN-ADDR.arpa", "PTR web.front."),
        ("10.0.30.10.in-addr.arpa", "PTR box.dual_stack."),
        (&v6, "PTR box.dual_stack."),
    ] {
        let said = client.ask(&Ask::new(name, PTR));
        assert_eq!(said.answers(), [target], "{name}");
        assert_eq!(said.message.answers[0].name.to_string(), format!("{name}."));
        client.ask(&Ask::new(name, A)).is_no_data();
    }
    for name in [
        &v6[2..],               // 31 nibbles
        "1.20.10.in-addr.arpa", // of three octets
        &v6[32..],              // the first 16 nibbles
    ] {
        let said = client.ask(&Ask::new(name, PTR));
        assert_eq!((said.code(), said.counts()[1]), (NOERROR, 0), "exists, and is empty: {name}");
    }
    for name in [
        &format!("f.{v6}"),              // 33 nibbles
        &v6.replacen("0.1.", "g.1.", 1), // no nibble
        &v6.replacen("0.1.", "00.1.", 1),
        "256.1.20.10.in-addr.arpa",
        "01.1.20.10.in-addr.arpa",
        "1.11.1.20.10.in-addr.arpa",
        "x.1.20.10.in-addr.arpa",
        "200.1.20.10.in-addr.arpa", // nobody has it
    ] {
        client.ask(&Ask::new(name, PTR)).is_no_name();
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_27_a_service_without_serving_tasks_keeps_its_vip_and_is_otherwise_no_data() {
    let world = World::new();
    let client = world.client();
    assert_eq!(client.answers("idle", A), ["A 10.20.1.3"]);
    for name in ["tasks.idle", "none", "tasks.none", "none.front", "tasks.none.front"] {
        for kind in [A, AAAA] {
            client.ask(&Ask::new(name, kind)).is_no_data();
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_28_two_hundred_addresses_are_cut_whole_at_512_or_1232_octets_and_whole_over_tcp() {
    let world = World::new();
    let client = world.client();
    let plain = Ask::new("tasks.big", A);
    for (ask, limit) in [
        (plain.clone(), 512),
        (plain.clone().with(1, &opt(512, 0, 0, b"")), 512),
        (plain.clone().with(1, &opt(1232, 0, 0, b"")), 1232),
        (plain.clone().with(1, &opt(4096, 0, 0, b"")), 1232),
        (plain.clone().with(1, &opt(65535, 0, 0, b"")), 1232),
    ] {
        let said = client.ask(&ask);
        let [questions, answers, authorities, _] = said.counts();
        assert_eq!((said.flags() & TC, questions, answers, authorities), (TC, 1, 0, 0));
        assert!(said.octets.len() <= limit);
        assert_eq!(said.octets[12..12 + ask.question().len()], ask.question());
    }
    let whole = world.stream().ask(&plain);
    assert_eq!((whole.flags() & TC, whole.answers().len()), (0, 200));
    assert_eq!(whole.octets.len(), plain.octets().len() + 200 * 16, "owners are pointers");
}

#[test]
fn case_29_each_of_five_addresses_comes_first_in_a_fifth_of_10000_answers_and_none_twice() {
    let world = World::new();
    let client = world.client();
    let mut first: BTreeMap<String, u32> = BTreeMap::new();
    for id in 0..10_000 {
        let said = client.ask(&Ask::new("app", A).id(id));
        let mut all = said.answers();
        all.dedup();
        assert_eq!(all.len(), 5);
        *first.entry(said.message.answers[0].data.to_string()).or_default() += 1;
    }
    assert_eq!(first.len(), 5);
    // Two in a hundred is five standard deviations.
    assert!(first.values().all(|it| (1800..=2200).contains(it)), "{first:?}");
}

#[test]
fn case_30_an_unknown_short_name_does_not_exist_and_nobody_outside_is_told() {
    let world = World::new();
    let client = world.client();
    for kind in [A, AAAA, SRV, ANY].into_iter().chain([15, TXT, 64, 65]) {
        client.ask(&Ask::new("printer", kind)).is_no_name();
    }
    world.nobody_outside_was_asked();
    // What the real DNS has at its top is not ours to deny.
    for (name, kind) in [("", 2), ("com", 2), ("com", 6), ("com", 43), ("com", 48)] {
        assert_eq!(client.ask(&Ask::new(name, kind)).code(), NOERROR);
    }
    assert_eq!(world.upstream.count(), 5);
}

#[test]
fn case_30_an_unknown_short_name_is_forwarded_where_the_configuration_says_so() {
    let forwards = resolver::Config { forward_single_label: true, ..config() };
    let world = World::with(forwards, Upstream::knowing(FOREIGN));
    let client = world.client();
    assert_eq!(client.answers("printer", A), ["A 198.51.100.7"]);
    assert_eq!(world.upstream.count(), 1);
    assert_eq!(client.answers("web", A), ["A 10.20.1.2"]);
    client.ask(&Ask::new("none", A)).is_no_data();
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn case_31_ttls_are_5_seconds_for_tasks_and_30_for_vips() {
    let world = World::new();
    let client = world.client();
    let ttls = |name, kind| client.ask(&Ask::new(name, kind)).ttls();
    assert_eq!(ttls("app", A), [5; 5]);
    assert_eq!(ttls("both", AAAA), [5]);
    assert_eq!(ttls("web", A), [30]);
    assert_eq!(ttls("11.1.20.10.in-addr.arpa", PTR), [5]);
    assert_eq!(ttls("_http._tcp.web", SRV), [5]);
    assert_eq!(client.ask(&Ask::new("web", AAAA)).negative_ttl(), Some(30));
    assert_eq!(client.ask(&Ask::new("app", AAAA)).negative_ttl(), Some(5));
}

#[test]
fn case_32_in_a_storm_of_changes_every_answer_is_of_one_world_and_no_socket_is_made_anew() {
    let mut world = World::new();
    let client = world.client();
    let sockets = |world: &World| world.sandbox.run("ss -Hlnutpe | grep -o 'ino:[0-9]*' | sort");
    let before = sockets(&world);
    assert_eq!(before.lines().count(), 2);
    let over = AtomicBool::new(false);
    let [old, new] = ["10.20.1.2", "10.20.2.2"]
        .map(|net| (1..=5).map(|task| format!("A {net}{task}")).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut seen = [0, 0];
            while !over.load(SeqCst) {
                let answers = client.answers("app", A); // NOERROR, or it fails
                assert!(answers == old || answers == new, "{answers:?}");
                seen[usize::from(answers == new)] += 1;
            }
            seen
        });
        for round in 0..300 {
            let net = if round % 2 == 0 { "10.20.2.2" } else { "10.20.1.2" };
            world.change(|text| {
                (1..=5).fold(text, |text, task| {
                    text.replace(&format!("\"10.20.1.2{task}\""), &format!("\"{net}{task}\""))
                })
            });
        }
        over.store(true, SeqCst);
        let [old, new] = asking.join().unwrap();
        assert!(old > 0 && new > 0, "{old} {new}");
    });
    assert_eq!(sockets(&world), before);
}

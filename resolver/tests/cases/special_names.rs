//! D. Names that mean the same everywhere, or must not reach the DNS (RFC 6761 and its kin).

use super::client::{A, AAAA, Ask, NOERROR, PTR, TXT};
use super::upstream::{FOREIGN, Upstream};
use super::world::World;
use crate::support::config;

#[test]
fn case_33_localhost_and_all_below_it_are_the_loopback_and_are_never_forwarded() {
    let world = World::new();
    let client = world.client();
    for name in ["localhost", "a.localhost", "x.y.LocalHost"] {
        assert_eq!(client.answers(name, A), ["A 127.0.0.1"], "{name}");
        assert_eq!(client.answers(name, AAAA), ["AAAA ::1"], "{name}");
        for kind in [TXT, 15, 65, PTR, 2] {
            client.ask(&Ask::new(name, kind)).is_no_data();
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_34_invalid_onion_and_alt_do_not_exist_and_test_and_example_are_ordinary() {
    let world = World::new();
    let client = world.client();
    for name in ["invalid", "x.invalid", "abc.onion", "onion", "x.alt", "a.b.ALT"] {
        for kind in [A, AAAA, TXT] {
            client.ask(&Ask::new(name, kind)).is_no_name();
        }
    }
    world.nobody_outside_was_asked();
    for name in ["x.test", "x.example", "www.example.com"] {
        assert_eq!(client.ask(&Ask::new(name, A)).code(), NOERROR);
    }
    assert_eq!(world.upstream.count(), 3);
}

#[test]
fn case_34_names_of_multicast_dns_do_not_exist() {
    let world = World::new();
    let client = world.client();
    for name in ["printer.local", "local", "_ipp._tcp.LOCAL"] {
        for kind in [A, AAAA, TXT, PTR] {
            client.ask(&Ask::new(name, kind)).is_no_name();
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_34_names_for_which_the_operator_named_servers_are_asked_there_and_ours_stay_here() {
    let site = Upstream::knowing([192, 0, 2, 53]);
    let mut config = config();
    for suffix in ["local", "corp", "254.169.in-addr.arpa", "10.in-addr.arpa", "localhost"] {
        let servers = vec![site.address.to_string().parse().unwrap()];
        config.upstream.suffixes.insert(suffix.to_owned(), servers);
    }
    let world = World::with(config, Upstream::knowing(FOREIGN));
    let client = world.client();
    for name in ["printer.local", "local", "git.CORP", "corp", "1.1.254.169.in-addr.arpa"] {
        assert_eq!(client.answers(name, A), ["A 192.0.2.53"], "{name}");
    }
    assert_eq!(site.count(), 5);
    for name in ["x.invalid", "notlocal", "printer.onion"] {
        client.ask(&Ask::new(name, A)).is_no_name();
    }
    client.ask(&Ask::new("99.1.20.10.in-addr.arpa", PTR)).is_no_name();
    assert_eq!(client.answers("localhost", A), ["A 127.0.0.1"]);
    assert_eq!(client.answers("web", A), ["A 10.20.1.2"]);
    assert_eq!(site.count(), 5);
    world.nobody_outside_was_asked();
}

#[test]
fn case_35_internal_is_forwarded_where_nothing_of_ours_is_called_so() {
    let world = World::new();
    let client = world.client();
    assert_eq!(client.answers("metadata.google.internal", A), ["A 198.51.100.7"]);
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn case_36_ipv4only_arpa_is_forwarded() {
    let world = World::new();
    let client = world.client();
    assert_eq!(client.answers("ipv4only.arpa", A), ["A 198.51.100.7"]);
    client.ask(&Ask::new("ipv4only.arpa", AAAA));
    assert_eq!(world.upstream.count(), 2);
}

#[test]
fn case_36_home_arpa_is_forwarded_to_a_private_server() {
    let world = World::new(); // its upstream server is on loopback
    let client = world.client();
    assert_eq!(client.answers("nas.home.arpa", A), ["A 198.51.100.7"]);
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn case_37_resolver_arpa_is_no_data_so_that_nobody_is_led_round_us() {
    let world = World::new();
    let client = world.client();
    for (name, kind) in [("_dns.resolver.arpa", 64), ("resolver.arpa", A), ("RESOLVER.ARPA", 65)] {
        client.ask(&Ask::new(name, kind)).is_no_data();
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_37_the_canary_says_that_this_network_has_a_resolver_of_its_own() {
    let world = World::new();
    let client = world.client();
    for kind in [A, AAAA] {
        client.ask(&Ask::new("use-application-dns.net", kind)).is_no_name();
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_38_reverse_names_that_belong_to_no_network_are_answered_here() {
    let world = World::new();
    let client = world.client();
    let zeros = "0.".repeat(31);
    assert_eq!(client.answers("1.0.0.127.in-addr.arpa", PTR), ["PTR localhost."]);
    assert_eq!(client.answers(&format!("1.{zeros}ip6.arpa"), PTR), ["PTR localhost."]);
    for name in [
        "9.9.9.127.in-addr.arpa",
        "1.0.0.0.in-addr.arpa",
        "255.255.255.255.in-addr.arpa",
        "1.1.254.169.in-addr.arpa",
        "1.2.0.192.in-addr.arpa",
        &format!("0.{zeros}ip6.arpa"),
        &format!("1.{}0.8.e.f.ip6.arpa", "0.".repeat(27)),
    ] {
        client.ask(&Ask::new(name, PTR)).is_no_name();
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_39_reverse_names_of_private_addresses_that_are_not_ours_go_to_a_private_server() {
    let world = World::new(); // its upstream server is on loopback
    let client = world.client();
    for name in ["1.0.168.192.in-addr.arpa", "1.0.0.10.in-addr.arpa", "1.0.16.172.in-addr.arpa"] {
        client.ask(&Ask::new(name, PTR));
    }
    assert_eq!(world.upstream.count(), 3);
}

#[test]
fn case_39_without_a_private_server_they_do_not_exist_unless_ours_are_below() {
    let mut world = World::new();
    let private = format!("[\"{}\"]", world.upstream.address);
    world.change(|text| text.replace(&private, "[\"192.0.2.53\"]"));
    let client = world.client();
    client.ask(&Ask::new("168.192.in-addr.arpa", PTR)).is_no_name();
    for above in ["10.in-addr.arpa", "20.10.in-addr.arpa"] {
        client.ask(&Ask::new(above, PTR)).is_no_data();
    }
    world.nobody_outside_was_asked();
}

//! What a reply of the engine's means.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::plan::Outside;
use crate::wire::Class;
use crate::wire::reply::matching;

fn view(forward_single_label: bool) -> View {
    View {
        sandbox: "box".into(),
        name: "box".to_owned(),
        netns: PathBuf::new(),
        cookie: None,
        zones: Vec::new(),
        subnets: Vec::new(),
        hosts: std::collections::BTreeMap::default(),
        links: std::collections::BTreeMap::default(),
        outside: Outside::NoServers,
        suffixes: Arc::default(),
        forward_single_label,
        ttl: 5,
    }
}

fn query(name: &str) -> Query {
    Query {
        id: 7,
        recursion_desired: true,
        checking_disabled: true,
        authentic_data: true,
        name: Name::from_text(name).unwrap(),
        kind: Kind::A,
        class: Class::IN,
        edns: None,
    }
}

/// What is made of a reply with that code and so many answers, authorities, additionals.
fn understood_as(name: &str, forward: bool, code: u16, counts: [u8; 3]) -> Word {
    let view = view(forward);
    let asked = asked(&view, &query(name));
    let mut octets = encode::query(&asked, 7, None);
    octets[2] |= 0x80;
    octets[3] = u8::try_from(code).unwrap();
    for (at, count) in counts.iter().enumerate() {
        octets[7 + 2 * at] = *count;
        for _ in 0..*count {
            octets.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x02\x58\0\x04\x0a\0\0\x01");
        }
    }
    understood(matching(&octets, &asked, 7).unwrap(), &view, &asked)
}

#[test]
fn what_a_server_outside_says_of_a_short_name_is_that_the_engine_does_not_know_it() {
    for counts in [[1, 0, 1], [0, 1, 0], [0, 0, 1]] {
        assert_eq!(understood_as("web", false, 0, counts), Word::NoName, "{counts:?}");
    }
    for code in [2, 3, 5] {
        assert_eq!(understood_as("web", false, code, [0; 3]), Word::NoName, "{code}");
        assert_eq!(understood_as("tasks.web", true, code, [0; 3]), Word::NoName, "{code}");
    }
    assert_eq!(understood_as("web", false, 0, [0; 3]), Word::NoData, "the engine itself");
    assert!(matches!(understood_as("web", false, 0, [1, 0, 0]), Word::Foreign(_)));
}

#[test]
fn where_short_names_are_forwarded_and_for_names_of_several_labels_servers_outside_are_believed() {
    for (name, forward) in [("web", true), ("web.net", false)] {
        assert!(matches!(understood_as(name, forward, 0, [1, 0, 1]), Word::Foreign(_)), "{name}");
        assert_eq!(understood_as(name, forward, 0, [0, 1, 1]), Word::NoData, "{name}");
        assert_eq!(understood_as(name, forward, 3, [0, 1, 1]), Word::NoName, "{name}");
        assert_eq!(understood_as(name, forward, 2, [0; 3]), Word::Failed(Rcode::SERVFAIL));
    }
}

#[test]
fn short_names_are_asked_without_recursion_and_all_clients_ask_the_same() {
    let short = asked(&view(false), &query("web"));
    assert!(!short.recursion_desired && !short.checking_disabled && !short.authentic_data);
    assert!(!asked(&view(false), &query("tasks.web")).recursion_desired);
    assert!(asked(&view(true), &query("web")).recursion_desired);
    assert!(asked(&view(false), &query("web.net")).recursion_desired);
    let text = Query { kind: Kind::TXT, ..query("web") };
    assert_eq!(asked(&view(false), &text).kind, Kind::A);
}

//! Names that are not ours, asked over TLS of real servers on loopback, from real network
//! namespaces (RFC 7858, RFC 8310 section 5).
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

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use resolver::Server;
use support::tls::{Authority, TlsServer};
use support::{Driven, Sandbox, config, one_world, question, reply};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn known(query: &[u8]) -> Vec<u8> {
    reply(query, 0, &[ADDRESS])
}

/// A sandbox whose outside is `servers`, vouched for by `authority`.
fn asking(authority: &Authority, servers: Vec<Server>) -> (Sandbox, Driven) {
    let mut config = config();
    config.upstream.servers = servers;
    config.upstream.authorities = authority.alone();
    let sandbox = Sandbox::new();
    let mut driven = Driven::configured(config, None);
    driven.apply(&one_world(&sandbox, &[], "host"));
    (sandbox, driven)
}

#[test]
fn one_connection_serves_all_questions_which_are_of_one_length() {
    let authority = Authority::new();
    let server = TlsServer::answering(authority.certify(&["dns.example"], 2100), known);
    let (sandbox, _driven) = asking(&authority, vec![server.named("#dns.example")]);
    for name in ["a.example", "+dnssec a-much-longer-name.of.example", "+tcp c.example"] {
        assert_eq!(sandbox.dig(name), "198.51.100.7", "{name}");
    }
    assert_eq!(sandbox.dig("+noedns d.example"), "198.51.100.7");
    assert!(!sandbox.dig_header("+noedns e.example").contains("EDNS"));
    assert_eq!(server.connections(), 1);
    assert_eq!(server.asked().iter().map(Vec::len).collect::<Vec<_>>(), [128; 5]);
    server.nobody_asked_in_clear();
}

#[test]
fn a_server_is_believed_by_the_name_behind_its_address_or_by_the_address_itself() {
    let authority = Authority::new();
    let names = [&["dns.example"][..], &["127.0.0.1"], &["*.of.example", "127.0.0.2"]];
    let servers = names.map(|it| TlsServer::answering(authority.certify(it, 2100), known));
    for (at, name, believed) in [
        (0, "#dns.example", true),
        (0, "#other.example", false),
        (0, "", false),
        (1, "", true),
        (1, "#127.0.0.1", true),
        (1, "#dns.example", false),
        (2, "#dns.of.example", true),
        (2, "#dns.example", false),
        (2, "#a.dns.of.example", false),
        (2, "", false),
    ] {
        let (sandbox, _driven) = asking(&authority, vec![servers[at].named(name)]);
        let said = sandbox.dig_header("www.example");
        assert_eq!(said.contains("NOERROR"), believed, "{at} {name}: {said}");
        assert_eq!(said.contains("SERVFAIL"), !believed, "{at} {name}: {said}");
    }
    assert_eq!(servers.each_ref().map(|it| it.asked().len()), [1, 2, 1]);
    servers.iter().for_each(TlsServer::nobody_asked_in_clear);
}

#[test]
fn an_expired_certificate_a_strangers_and_no_tls_at_all_are_passed_over_and_told_nothing() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let expired = TlsServer::answering(authority.certify(&["dns.example"], 2021), known);
    let strange = TlsServer::answering(stranger.certify(&["dns.example"], 2100), known);
    let plain = support::Server::start(|query| Some(known(query)));
    let good = TlsServer::answering(authority.certify(&["dns.example"], 2100), known);
    let clear: Server = format!("tls://{}#dns.example", plain.address).parse().unwrap();
    for bad in [expired.named("#dns.example"), strange.named("#dns.example"), clear] {
        let (sandbox, _driven) = asking(&authority, vec![bad.clone(), good.named("#dns.example")]);
        let begun = Instant::now();
        assert_eq!(sandbox.dig("www.example"), "198.51.100.7", "{bad}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{bad}: {:?}", begun.elapsed());
    }
    assert_eq!((expired.asked().len(), strange.asked().len(), plain.asked()), (0, 0, 0));
    expired.nobody_asked_in_clear();
    strange.nobody_asked_in_clear();
}

#[test]
fn a_server_that_closes_after_each_answer_costs_no_answer() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.certify(&["dns.example"], 2100), |mut talk| {
        if let Some(question) = talk.question() {
            talk.say(&known(&question));
            talk.close();
        }
    });
    let (sandbox, _driven) = asking(&authority, vec![server.named("#dns.example")]);
    for at in 0..20 {
        assert_eq!(sandbox.dig(&format!("n{at}.example")), "198.51.100.7", "{at}");
    }
    assert_eq!((server.asked().len(), server.connections()), (20, 20));
}

#[test]
fn a_connection_cut_with_a_question_on_it_is_made_anew_and_asked_again() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.certify(&["dns.example"], 2100), |mut talk| {
        if let Some(question) = talk.question() {
            talk.say(&known(&question));
        }
        talk.question(); // takes the second and is gone
    });
    let (sandbox, _driven) = asking(&authority, vec![server.named("#dns.example")]);
    for at in 0..6 {
        assert_eq!(sandbox.dig(&format!("n{at}.example")), "198.51.100.7", "{at}");
    }
    assert_eq!((server.asked().len(), server.connections()), (11, 6));
}

#[test]
fn who_was_first_on_a_connection_that_ends_without_his_answer_is_asked_again_too() {
    let authority = Authority::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let server = TlsServer::start(authority.certify(&["dns.example"], 2100), move |mut talk| {
        if connections.fetch_add(1, SeqCst) == 0 {
            talk.question(); // never answered
            let second = talk.question().unwrap();
            return talk.say(&known(&second));
        }
        while let Some(question) = talk.question() {
            talk.say(&known(&question));
        }
    });
    let (sandbox, _driven) = asking(&authority, vec![server.named("#dns.example")]);
    let client = sandbox.client();
    for id in [1, 2] {
        let head = [0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'm' + id];
        client.send(&[&head[..], b"\x07example\0\0\x01\0\x01"].concat()).unwrap();
    }
    let mut buffer = [0; 512];
    for _ in 0..2 {
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!((buffer[3] & 15, buffer[length - 1]), (0, 7), "{}", buffer[1]);
    }
    assert_eq!((server.asked().len(), server.connections()), (3, 2));
}

#[test]
fn replies_out_of_order_reach_those_who_asked_and_false_ones_nobody() {
    let authority = Authority::new();
    let last = |query: &[u8]| {
        let (name, _) = question(query);
        reply(query, 0, &[Ipv4Addr::new(198, 51, 100, name[1..3].parse().unwrap())])
    };
    let server = TlsServer::start(authority.certify(&["dns.example"], 2100), move |mut talk| {
        let questions: Vec<_> = (0..50).map_while(|_| talk.question()).collect();
        for asked in &questions {
            let mut other_question = reply(asked, 0, &[Ipv4Addr::new(203, 0, 113, 66)]);
            other_question[13] ^= 1;
            talk.say(&other_question);
            talk.say(&asked[..7]);
            talk.say(b"");
        }
        questions.iter().rev().for_each(|it| talk.say(&last(it)));
        talk.question();
    });
    let (sandbox, _driven) = asking(&authority, vec![server.named("#dns.example")]);
    let client = sandbox.client();
    for number in 10..60_u8 {
        let name = format!("n{number}");
        let head = [0, number, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3];
        let query = [&head[..], name.as_bytes(), b"\x07example\0\0\x01\0\x01"].concat();
        client.send(&query).unwrap();
    }
    let mut buffer = [0; 512];
    for _ in 10..60 {
        let length = client.recv(&mut buffer).unwrap();
        let (id, address) = (buffer[1], buffer[length - 1]);
        assert_eq!((buffer[3] & 15, id), (0, address), "{}", buffer[..length].escape_ascii());
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn one_that_says_nothing_costs_one_short_wait() {
    let authority = Authority::new();
    let silent = TlsServer::start(authority.certify(&["dns.example"], 2100), |mut talk| {
        while talk.question().is_some() {}
    });
    let good = TlsServer::answering(authority.certify(&["dns.example"], 2100), known);
    let servers = [&silent, &good].map(|it| it.named("#dns.example")).to_vec();
    let (sandbox, _driven) = asking(&authority, servers);
    for at in 0..20 {
        let begun = Instant::now();
        assert_eq!(sandbox.dig(&format!("n{at}.example")), "198.51.100.7");
        assert!(begun.elapsed() < Duration::from_secs(1), "{at}: {:?}", begun.elapsed());
    }
    assert!(silent.asked().len() < 6, "{}", silent.asked().len());
}

#[test]
fn servers_of_ipv6_are_asked_too_and_nobody_there_is_passed_over_at_once() {
    let authority = Authority::new();
    let config = authority.certify(&["::1"], 2100);
    let server = TlsServer::on("[::1]:0", config, |mut talk| {
        while let Some(question) = talk.question() {
            talk.say(&known(&question));
        }
    });
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("tls://{nobody}#dns.example").parse().unwrap();
    let (sandbox, _driven) = asking(&authority, vec![nobody, server.named("")]);
    let begun = Instant::now();
    assert_eq!(sandbox.dig("www.example"), "198.51.100.7");
    assert!(begun.elapsed() < Duration::from_millis(350), "{:?}", begun.elapsed());
}

#[test]
fn a_suffix_can_have_its_servers_over_tls_and_the_rest_in_clear() {
    let authority = Authority::new();
    let private = TlsServer::answering(authority.certify(&["dns.corp.example"], 2100), known);
    let public =
        support::Server::start(|query| Some(reply(query, 0, &[Ipv4Addr::new(203, 0, 113, 1)])));
    let mut config = config();
    let servers = vec![private.named("#dns.corp.example")];
    config.upstream.suffixes.insert("corp.example".to_owned(), servers);
    config.upstream.authorities = authority.alone();
    let sandbox = Sandbox::new();
    let mut driven = Driven::configured(config, None);
    driven.apply(&one_world(&sandbox, &[public.address.to_string()], "host"));
    assert_eq!(sandbox.dig("git.corp.example"), "198.51.100.7");
    assert_eq!(sandbox.dig("www.example"), "203.0.113.1");
    assert_eq!((private.asked().len(), public.asked()), (1, 1));
    private.nobody_asked_in_clear();
}

#[test]
fn a_file_of_authorities_is_read_or_says_what_is_wrong_with_it() {
    let folder = std::env::temp_dir().join(format!("portolan-authorities-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let read = |name: &str, text: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        resolver::Authorities::read(&path).map_err(|it| it.to_string())
    };
    let authority = Authority::new();
    let pem = authority.pem();
    assert_eq!(read("good", pem.as_bytes()), Ok(authority.alone()));
    assert_eq!(read("empty", b"").unwrap_err(), "holds no certificate");
    assert_eq!(read("text", b"hello\n").unwrap_err(), "holds no certificate");
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert_eq!(read("key", key.as_bytes()).unwrap_err(), "holds no certificate");
    let said = read("cut", &pem.as_bytes()[..pem.len() / 2]).unwrap_err();
    assert!(said.starts_with("is not PEM: "), "{said}");
    let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let said = read("other", format!("{pem}{other}").as_bytes()).unwrap_err();
    assert!(said.starts_with("holds as number 2 a certificate that cannot be used: "), "{said}");
    let said = resolver::Authorities::read(&folder.join("none")).unwrap_err().to_string();
    assert!(said.starts_with("cannot be read: No such file"), "{said}");
    let said = resolver::Authorities::read(&folder).unwrap_err().to_string();
    assert!(said.starts_with("cannot be read: "), "{said}");
    std::fs::remove_dir_all(&folder).ok();
}

//! Clients that try to be read in two ways, or to hold on to what they were given.

use std::io::Write;
use std::thread;
use std::time::Duration;

use crate::client::{Client, ask, get};
use crate::task::Task;
use crate::world::Bench;

/// What a smuggler wants the task to see as a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web.test\r\n\r\n";

/// A task that answers everything, so that whatever reaches it is counted.
fn bench() -> (Task, Bench) {
    let task = Task::start(|asked| {
        assert!(!asked.head.contains("/smuggled"), "{}", asked.head);
        let body = asked.body();
        let text = format!("{} {}", asked.head.lines().next().unwrap(), body.len());
        asked.reply(&text)
    });
    let bench = Bench::with_web(&[task.address], |config| {
        config.timeouts.head = Duration::from_millis(500);
        config.timeouts.keep_alive = Duration::from_secs(1);
        config.timeouts.body = Duration::from_millis(500);
        config.limits.body = Some(1_000_000);
    });
    (task, bench)
}

#[test]
fn requests_with_two_framings_are_refused_and_what_follows_is_not_read() {
    let (task, bench) = bench();
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding : chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: 5 5",
        "Content-Length: 0x5",
        "Content-Length: 18446744073709551617",
        "Content-Length: 18446744073709551615",
        "Content-Length:\r\n 5",
        "X: y\r\n Content-Length: 5",
        "X: y\rContent-Length: 5",
        "X: y\nContent-Length: 5",
        "\r\nX: y",
    ] {
        let mut client = Client::connect(bench.address);
        let head = format!("POST /x HTTP/1.1\r\nHost: web.test\r\n{fields}\r\n\r\n");
        client.send(&format!("{head}0\r\n\r\n{SMUGGLED}"));
        let all = client.rest();
        let answers = all.matches("HTTP/1.1 ").count();
        if fields == "\r\nX: y" {
            // The head ends at the empty line: the rest is a request of its own, and a bad one.
            assert!(all.contains("HTTP/1.1 200 OK") && all.contains("HTTP/1.1 400 "), "{all}");
            continue;
        }
        assert_eq!(answers, 1, "{fields:?}: {all}");
        let refused = all.starts_with("HTTP/1.1 400 ") || all.starts_with("HTTP/1.1 501 ");
        assert!(refused, "{fields:?}: {all}");
        assert!(all.contains("\r\nconnection: close\r\n") && all.contains("\r\nx-request-id: "));
    }
    assert_eq!(task.requests(), 1, "only the one whose head ended early");
}

#[test]
fn what_is_harmless_in_two_spellings_is_served() {
    let (task, bench) = bench();
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 005",
        "content-length:5",
        "Content-Length: 5\t",
    ] {
        let request = format!("POST /x HTTP/1.1\r\nHost: web.test\r\n{fields}\r\n\r\nhello");
        let reply = ask(bench.address, &request);
        assert_eq!((reply.status, reply.text()), (200, "POST /x HTTP/1.1 5"), "{fields}");
    }
    assert_eq!(task.requests(), 4);
}

#[test]
fn several_hosts_are_refused() {
    let (task, bench) = bench();
    let reply = ask(bench.address, "GET / HTTP/1.1\r\nHost: web.test\r\nHost: web.test\r\n\r\n");
    assert_eq!((reply.status, reply.text()), (400, "several Host fields\n"));
    for host in ["", "web.test, a.test", "web.test/x", "u@web.test", "web.test:x", "web.test:99999"]
    {
        assert_eq!(get(bench.address, host, "/").status, 400, "{host:?}");
    }
    assert_eq!(task.requests(), 0);
}

#[test]
fn malformed_chunks_end_the_request_and_the_connection() {
    let (task, bench) = bench();
    let head = "POST /x HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunks in [
        "10000000000000002\r\nhello",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut client = Client::connect(bench.address);
        client.send(&format!("{head}{chunks}{SMUGGLED}"));
        let all = client.rest();
        assert!(all.starts_with("HTTP/1.1 400 "), "{chunks:?}: {all}");
        assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{chunks:?}: {all}");
        assert!(all.ends_with("the request's body broke off or is malformed\n"), "{all}");
    }
    let reply = get(bench.address, "web.test", "/after");
    assert_eq!(reply.text(), "GET /after HTTP/1.1 0", "nothing was left on a connection");
    assert!(task.requests() <= 8, "none of what followed the bodies was a request");
}

#[test]
fn pipelined_requests_are_answered_in_order_and_a_bad_one_last() {
    let (task, bench) = bench();
    let mut client = Client::connect(bench.address);
    let requests: Vec<String> =
        (0..30).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: web.test\r\n\r\n")).collect();
    client.send(&format!("{}GET /bad HTTP/1.1\r\nHost : x\r\n\r\n{SMUGGLED}", requests.concat()));
    for n in 0..30 {
        assert_eq!(client.reply().unwrap().text(), format!("GET /{n} HTTP/1.1 0"));
    }
    assert_eq!(client.reply().unwrap().status, 400);
    assert_eq!(client.rest(), "");
    assert_eq!(task.requests(), 30);
}

#[test]
fn trailers_do_not_reach_the_task() {
    let (_task, bench) = bench();
    let mut client = Client::connect(bench.address);
    client.send(
        "POST /x HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\nTrailer: Host\r\n\r\n\
         5;ext=1\r\nhello\r\n0\r\nHost: evil.test\r\nContent-Length: 9\r\n\r\n",
    );
    assert_eq!(client.reply().unwrap().text(), "POST /x HTTP/1.1 5");
    client.send("GET /y HTTP/1.1\r\nHost: web.test\r\n\r\n");
    assert_eq!(client.reply().unwrap().text(), "GET /y HTTP/1.1 0");
}

#[test]
fn limits_have_their_own_answers() {
    let (task, bench) = bench();
    let long = format!("GET /{} HTTP/1.1\r\nHost: web.test\r\n\r\n", "x".repeat(20_000));
    assert_eq!(ask(bench.address, &long).status, 414);
    let large = format!("GET / HTTP/1.1\r\nHost: web.test\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    assert_eq!(ask(bench.address, &large).status, 431);
    let many = format!("GET / HTTP/1.1\r\nHost: web.test\r\n{}\r\n", "X: y\r\n".repeat(101));
    assert_eq!(ask(bench.address, &many).status, 431);
    let announced = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 1000001\r\n\r\n";
    assert_eq!(ask(bench.address, announced).status, 413);
    assert_eq!(task.requests(), 0);
    let mut client = Client::connect(bench.address);
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        client.send(&format!("10000\r\n{}\r\n", "x".repeat(0x10000)));
    }
    assert_eq!(client.reply().unwrap().status, 413, "found out on the way");
}

#[test]
fn heads_at_the_limits_are_served() {
    let (_task, bench) = bench();
    let path = format!("/{}", "x".repeat(16_000));
    assert_eq!(get(bench.address, "web.test", &path).status, 200);
    let field = |n| format!("X-{n}: {}\r\n", "y".repeat(200));
    let fields: Vec<String> = (0..98).map(field).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: web.test\r\n{}\r\n", fields.concat());
    assert_eq!(ask(bench.address, &request).status, 200);
}

#[test]
fn a_slow_head_is_408_and_a_silent_client_is_dropped() {
    let (_task, bench) = bench();
    let mut slow = Client::connect(bench.address);
    slow.send("GET / HTTP/1.1\r\nHo");
    let reply = slow.reply().unwrap();
    assert_eq!((reply.status, reply.text()), (408, "the request's head took too long\n"));
    assert!(reply.field("x-request-id").is_some());
    assert_eq!(Client::connect(bench.address).rest(), "");
    let mut idle = Client::connect(bench.address);
    idle.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    assert_eq!(idle.reply().unwrap().status, 200);
    assert_eq!(idle.rest(), "", "closed after the keep-alive time without a word");
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let (_task, bench) = bench();
    let mut client = Client::connect(bench.address);
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhe");
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.text()), (408, "the request's body took too long\n"));
}

#[test]
fn a_head_in_single_bytes_is_understood() {
    let (_task, bench) = bench();
    let mut client = Client::connect(bench.address);
    for byte in "\r\nGET /slow HTTP/1.1\r\nHost: web.test\r\n\r\n".bytes() {
        client.stream.get_mut().write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.reply().unwrap().text(), "GET /slow HTTP/1.1 0");
}

#[test]
fn a_tls_handshake_is_told_that_this_is_not_the_port() {
    let (_task, bench) = bench();
    let mut client = Client::connect(bench.address);
    client.stream.get_mut().write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
    let reply = client.reply().unwrap();
    let text = "this port speaks plain HTTP, not TLS: use http:// here\n";
    assert_eq!((reply.status, reply.text()), (400, text));
}

#[test]
fn a_client_that_only_stops_sending_gets_its_answer() {
    let (_task, bench) = bench();
    let mut client = Client::connect(bench.address);
    client.send("GET /half HTTP/1.1\r\nHost: web.test\r\n\r\n");
    client.stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.reply().unwrap().text(), "GET /half HTTP/1.1 0");
    assert_eq!(client.rest(), "");
}

#[test]
fn more_connections_than_allowed_wait_for_their_turn() {
    let task = Task::start(|asked| asked.reply("hello"));
    let bench = Bench::with_web(&[task.address], |config| {
        config.limits.connections = 2;
        config.timeouts.keep_alive = Duration::from_millis(300);
    });
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(bench.address)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.reply().unwrap().text(), "hello");
    }
}

//! Tasks that answer late, oddly, not at all, or stop in the middle.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{Client, ask, get};
use crate::task::{Task, Then};
use crate::world::Bench;

#[test]
fn a_connection_to_a_task_is_used_again_by_any_client() {
    let task = Task::start(|asked| asked.reply("hello"));
    let bench = Bench::with_web(&[task.address], |config| config.threads = 1.try_into().unwrap());
    let mut client = Client::connect(bench.address);
    for _ in 0..50 {
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
        assert_eq!(client.reply().unwrap().text(), "hello");
    }
    assert_eq!(get(bench.address, "web.test", "/").text(), "hello");
    assert_eq!((task.connections(), task.requests()), (1, 51));
    assert_eq!(bench.handle.stats().reused.get(), 50);
}

#[test]
fn an_idle_connection_is_closed_before_the_task_would() {
    let task = Task::start(|asked| asked.reply("hello"));
    let bench = Bench::with_web(&[task.address], |config| {
        config.threads = 1.try_into().unwrap();
        config.timeouts.idle = Duration::from_millis(100);
    });
    get(bench.address, "web.test", "/");
    thread::sleep(Duration::from_millis(200));
    get(bench.address, "web.test", "/");
    assert_eq!(task.connections(), 2);
}

#[test]
fn a_task_that_closes_after_every_third_answer_loses_no_request() {
    let task = Task::start(|asked| {
        asked.reply("hello");
        if asked.nth == 2 { Then::Close } else { Then::Keep }
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    let mut client = Client::connect(bench.address);
    for n in 0..1_000 {
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, reply.text()), (200, "hello"), "request {n}");
    }
    assert_eq!(task.requests(), 1_000, "none was sent twice");
}

#[test]
fn a_get_that_a_reused_connection_swallowed_is_sent_again_and_a_post_is_not() {
    let task = Task::start(|asked| {
        asked.body();
        if asked.nth == 1 {
            return Then::Close; // read, not answered
        }
        asked.reply("hello")
    });
    let bench = Bench::with_web(&[task.address], |config| config.threads = 1.try_into().unwrap());
    assert_eq!(get(bench.address, "web.test", "/").status, 200);
    assert_eq!(get(bench.address, "web.test", "/").status, 200, "sent again");
    assert_eq!((task.connections(), task.requests()), (2, 3));
    let post = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 2\r\n\r\nhi";
    let reply = ask(bench.address, post);
    let text = "task web.1 of service web closed the connection unanswered\n";
    assert_eq!((reply.status, reply.text()), (502, text));
    assert_eq!(task.requests(), 4, "sent once");
    let empty = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(bench.address, empty).status, 200);
    assert_eq!(ask(bench.address, empty).status, 502);
    assert_eq!(task.requests(), 6, "not even without a body");
}

#[test]
fn a_get_is_sent_again_only_once() {
    let task = Task::start(|_| Then::Close);
    let bench = Bench::with_web(&[task.address], |_| {});
    let reply = get(bench.address, "web.test", "/");
    assert_eq!(reply.status, 502);
    assert_eq!(reply.field("x-upstream-addr"), Some(task.address.to_string().as_str()));
    assert_eq!(task.requests(), 2);
}

/// An address of this machine at `port` where nobody listens.
fn nobody(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

#[test]
fn a_task_that_accepts_no_connection_is_passed_over() {
    let task = Task::start(|asked| asked.reply("hello"));
    let port = task.address.port();
    let tasks = [task.address, nobody("127.0.0.2", port), nobody("127.0.0.3", port)];
    let bench = Bench::with_web(&tasks, |_| {});
    for _ in 0..100 {
        assert_eq!(get(bench.address, "web.test", "/").text(), "hello");
    }
    let refused = bench.handle.stats().unconnected.get();
    assert!((1..20).contains(&refused), "{refused} of 100 tried a dead task: none is forgotten");
}

#[test]
fn tasks_tried_are_listed_in_the_order_tried() {
    let task = Task::start(|asked| asked.reply("hello"));
    let dead = nobody("127.0.0.2", task.address.port());
    let both = format!("{dead}, {}", task.address);
    let found = (0..50).any(|_| {
        let bench = Bench::with_web(&[dead, task.address], |_| {});
        let reply = get(bench.address, "web.test", "/");
        assert_eq!(reply.text(), "hello");
        reply.field("x-upstream-addr") == Some(&both)
    });
    assert!(found, "the dead one is tried first half of the time");
}

#[test]
fn where_no_task_accepts_a_connection_the_answer_is_502() {
    let bench = Bench::with_web(&[nobody("127.0.0.2", 9), nobody("127.0.0.3", 9)], |_| {});
    let reply = get(bench.address, "web.test", "/");
    let text = "no task of service web accepted a connection\n";
    assert_eq!((reply.status, reply.text()), (502, text));
    let asked = reply.field("x-upstream-addr").unwrap();
    assert!(asked.contains("127.0.0.2:9") && asked.contains("127.0.0.3:9"), "{asked}");
}

#[test]
fn a_task_that_swallows_connections_costs_one_connect_time() {
    // A full backlog answers nothing, as a machine that is gone does.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let full = rustix_backlog_filled(&silent, address);
    let bench = Bench::with_web(&[address], |config| {
        config.timeouts.connect = Duration::from_millis(300);
    });
    let began = Instant::now();
    assert_eq!(get(bench.address, "web.test", "/").status, 502);
    assert!(began.elapsed() < Duration::from_secs(3));
    drop(full);
}

/// Connections until no more are accepted: with a backlog of 0 that is very few.
fn rustix_backlog_filled(listener: &TcpListener, address: SocketAddr) -> Vec<std::net::TcpStream> {
    rustix::net::listen(listener, 0).unwrap();
    let wait = Duration::from_millis(100);
    std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, wait).ok()).collect()
}

#[test]
fn a_task_that_does_not_answer_in_time_is_504() {
    let task = Task::start(|_| {
        thread::sleep(Duration::from_secs(2));
        Then::Close
    });
    let bench = Bench::with_web(&[task.address], |config| {
        config.timeouts.response = Duration::from_millis(300);
    });
    let reply = get(bench.address, "web.test", "/");
    let text = "task web.1 of service web did not answer within 300ms\n";
    assert_eq!((reply.status, reply.text()), (504, text));
    assert_eq!(task.requests(), 1, "a late answer is not asked for twice");
}

#[test]
fn a_slow_upload_does_not_count_against_the_task() {
    let task = Task::start(|asked| {
        let body = asked.body().len().to_string();
        asked.reply(&body)
    });
    let bench = Bench::with_web(&[task.address], |config| {
        config.timeouts.response = Duration::from_millis(400);
    });
    let mut client = Client::connect(bench.address);
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 10\r\n\r\n");
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(100));
        client.send("x");
    }
    assert_eq!(client.reply().unwrap().text(), "10");
}

#[test]
fn a_task_that_dies_in_the_middle_breaks_the_transfer() {
    for head in ["Content-Length: 10\r\n\r\nhel", "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"]
    {
        let task = Task::start(move |asked| {
            asked.say(&format!("HTTP/1.1 200 OK\r\n{head}"));
            thread::sleep(Duration::from_millis(50));
            Then::Close
        });
        let bench = Bench::with_web(&[task.address], |_| {});
        let mut client = Client::connect(bench.address);
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
        let all = client.rest();
        assert!(all.starts_with("HTTP/1.1 200 OK\r\n"), "{all}");
        assert!(all.contains("hel"), "what came before is passed on: {all}");
        assert!(!all.ends_with("0\r\n\r\n"), "no clean end: {all}");
        let url = format!("http://{}/", bench.address);
        let out = crate::client::curl(&["-H", "Host: web.test", "-o", "/dev/null", &url]);
        assert!([Some(18), Some(56)].contains(&out.status.code()), "curl notices: {out:?}");
    }
}

#[test]
fn a_task_that_stops_in_the_middle_is_given_up() {
    let task = Task::start(|asked| {
        asked.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel");
        thread::sleep(Duration::from_secs(5));
        Then::Close
    });
    let bench = Bench::with_web(&[task.address], |config| {
        config.timeouts.response_body = Duration::from_millis(300);
    });
    let began = Instant::now();
    let mut client = Client::connect(bench.address);
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    assert!(client.rest().ends_with("hel"));
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn malformed_responses_are_502_and_their_connection_is_not_used_again() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nhi",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ] {
        let task = Task::start(move |asked| asked.say(response));
        let bench =
            Bench::with_web(&[task.address], |config| config.threads = 1.try_into().unwrap());
        let reply = get(bench.address, "web.test", "/");
        assert_eq!(reply.status, 502, "{response}: {}", reply.text());
        assert!(reply.field("x-upstream-addr").is_some());
        let before = task.connections();
        get(bench.address, "web.test", "/");
        assert!(task.connections() > before, "{response}");
    }
}

#[test]
fn odd_but_readable_responses_are_passed_on_in_one_reading() {
    for (response, body) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "hello",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", "hello"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
        ),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\n\r\nhello", "hello"),
        ("HTTP/1.0 200 OK\r\n\r\nhello", "hello"),
    ] {
        let task = Task::start(move |asked| {
            asked.say(response);
            Then::Close
        });
        let bench = Bench::with_web(&[task.address], |_| {});
        let mut client = Client::connect(bench.address);
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
        let reply = client.reply().unwrap();
        assert_eq!((reply.status / 100, reply.text()), (2, body), "{response}");
        assert!(
            reply.field("transfer-encoding").is_none() || reply.field("content-length").is_none()
        );
        client.send("GET / HTTP/1.1\r\nHost: foo.test\r\n\r\n");
        assert_eq!(client.reply().unwrap().status, 404, "the client's connection goes on");
    }
}

#[test]
fn bytes_after_a_response_never_become_the_next_one() {
    let task = Task::start(|asked| {
        asked.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    });
    let bench = Bench::with_web(&[task.address], |config| config.threads = 1.try_into().unwrap());
    for _ in 0..20 {
        assert_eq!(get(bench.address, "web.test", "/").text(), "hello");
    }
    assert_eq!(task.connections(), 20);
}

#[test]
fn the_less_busy_task_gets_the_request() {
    let slow = Task::start(|asked| {
        thread::sleep(Duration::from_millis(400));
        asked.reply("slow")
    });
    let quick_address = SocketAddr::new("127.0.0.2".parse().unwrap(), slow.address.port());
    let quick = Task::named(quick_address, "quick");
    let bench = Bench::with_web(&[slow.address, quick.address], |_| {});
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let address = bench.address;
            thread::spawn(move || (0..10).map(|_| get(address, "web.test", "/").status).max())
        })
        .collect();
    for client in waiting {
        assert_eq!(client.join().unwrap(), Some(200));
    }
    let (slow, quick) = (slow.requests(), quick.requests());
    assert_eq!(slow + quick, 80);
    assert!(slow * 2 < quick, "slow {slow}, quick {quick}");
}

#[test]
fn idle_tasks_share_evenly() {
    let first = Task::named("127.0.0.1:0".parse().unwrap(), "first");
    let port = first.address.port();
    let second = Task::named(SocketAddr::new("127.0.0.2".parse().unwrap(), port), "second");
    let bench = Bench::with_web(&[first.address, second.address], |_| {});
    for _ in 0..400 {
        get(bench.address, "web.test", "/");
    }
    assert!(first.requests().abs_diff(second.requests()) < 100, "{}", first.requests());
}

#[test]
fn a_client_that_leaves_closes_the_connection_to_the_task() {
    let gone = Arc::new(AtomicUsize::new(0));
    let noticed = Arc::clone(&gone);
    let task = Task::start(move |asked| {
        asked.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
        while asked.say(&chunk) == Then::Keep {}
        noticed.fetch_add(1, Ordering::SeqCst);
        Then::Close
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    let mut client = Client::connect(bench.address);
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    client.stream.read_exact(&mut vec![0; 100_000]).unwrap();
    drop(client);
    let began = Instant::now();
    while gone.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "the task still sends");
        thread::sleep(Duration::from_millis(10));
    }
}

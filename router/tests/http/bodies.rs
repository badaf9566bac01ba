//! Bodies in both directions, framed in every way.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Client, ask, curl};
use crate::task::{Task, Then};
use crate::world::Bench;

/// A task that tells how a body came and sends it back in chunks.
fn mirror() -> Task {
    Task::start(|asked| {
        let framing = match (asked.field("content-length"), asked.field("transfer-encoding")) {
            (Some(length), None) => format!("length {length}"),
            (None, Some(coding)) => coding.to_owned(),
            (None, None) => "none".to_owned(),
            (Some(_), Some(_)) => "both".to_owned(),
        };
        let body = asked.body();
        asked.say(&format!(
            "HTTP/1.1 200 OK\r\nX-Framing: {framing}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        for piece in body.chunks(10_000) {
            asked.say(&format!("{:x}\r\n", piece.len()));
            asked.send(piece);
            asked.say("\r\n");
        }
        asked.say("0\r\n\r\n")
    })
}

#[test]
fn each_framing_goes_through_as_itself() {
    let task = mirror();
    let bench = Bench::with_web(&[task.address], |_| {});
    for (fields, body, framing, expect) in [
        ("Content-Length: 5\r\n", "hello", "length 5", "hello"),
        ("Content-Length: 0\r\n", "", "length 0", ""),
        ("", "", "none", ""),
        (
            "Transfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n",
            "chunked",
            "hello!",
        ),
        ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n", "chunked", ""),
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
            let request = format!("{method} / HTTP/1.1\r\nHost: web.test\r\n{fields}\r\n{body}");
            let reply = ask(bench.address, &request);
            assert_eq!((reply.status, reply.text()), (200, expect), "{request}");
            let got = reply.field("x-framing").unwrap();
            // A POST without any framing field has no body; saying so is hyper's courtesy.
            let said = got == framing || (framing == "none" && got == "length 0");
            assert!(said, "{request}: {got}");
        }
    }
}

#[test]
fn continue_is_said_when_the_task_wants_the_body_and_not_before() {
    let wants = Arc::new(AtomicBool::new(false));
    let wanting = Arc::clone(&wants);
    let task = Task::start(move |asked| {
        assert_eq!(asked.field("expect"), None, "the router has met it");
        wanting.store(true, Ordering::SeqCst);
        let body = asked.body().len().to_string();
        asked.reply(&body)
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    let mut client = Client::connect(bench.address);
    let head = "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(&format!("POST / HTTP/1.1\r\nHost: web.test\r\n{head}"));
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.reply().unwrap().text(), "5");

    let mut client = Client::connect(bench.address);
    client.send(&format!("POST / HTTP/1.1\r\nHost: foo.test\r\n{head}"));
    assert_eq!(client.reply().unwrap().status, 404, "a refusal comes before any body is asked for");
    let url = format!("http://{}/", bench.address);
    let out = curl(&["-H", "Host: web.test", "-H", "Expect: 100-continue", "-d", "hello", &url]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "5");
}

#[test]
fn large_bodies_come_through_unharmed() {
    let task = mirror();
    let bench = Bench::with_web(&[task.address], |_| {});
    let body: String = ('a'..='w').cycle().take(1_000_000).collect();
    let length = body.len();
    for _ in 0..3 {
        let mut client = Client::connect(bench.address);
        let mut sending = client.stream.get_ref().try_clone().unwrap();
        let request =
            format!("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {length}\r\n\r\n{body}");
        let sender = thread::spawn(move || sending.write_all(request.as_bytes()).unwrap());
        let reply = client.reply().unwrap();
        sender.join().unwrap();
        assert!(reply.text() == body, "the body came back otherwise");
    }
}

#[test]
fn an_early_answer_to_an_upload_reaches_the_client() {
    let task = Task::start(|asked| {
        asked.say("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nno!");
        thread::sleep(Duration::from_millis(100));
        Then::Close
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    for _ in 0..20 {
        let mut client = Client::connect(bench.address);
        let mut sending = client.stream.get_ref().try_clone().unwrap();
        let sender = thread::spawn(move || {
            let head = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 10000000\r\n\r\n";
            sending.write_all(head.as_bytes()).unwrap();
            let piece = vec![b'x'; 100_000];
            for _ in 0..100 {
                if sending.write_all(&piece).is_err() {
                    return;
                }
            }
        });
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, reply.text()), (413, "no!"));
        drop(client);
        sender.join().unwrap();
    }
}

#[test]
fn an_upload_that_breaks_off_is_never_whole_for_the_task() {
    let whole = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&whole);
    let task = Task::start(move |asked| {
        let mut line = [0; 1_000];
        let mut got = Vec::new();
        while let Ok(count @ 1..) = std::io::Read::read(&mut asked.stream, &mut line) {
            got.extend_from_slice(&line[..count]);
        }
        seen.fetch_or(got.ends_with(b"0\r\n\r\n"), Ordering::SeqCst);
        Then::Close
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    for framing in
        ["Content-Length: 100\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
    {
        let mut client = Client::connect(bench.address);
        client.send(&format!("POST / HTTP/1.1\r\nHost: web.test\r\n{framing}"));
        client.stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        let answer = client.rest();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert!(!whole.load(Ordering::SeqCst));
}

#[test]
fn an_event_stream_is_passed_on_piece_by_piece() {
    let task = Task::start(|asked| {
        asked.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        for n in 0..5 {
            asked.say(&format!("data: {n}\n\n"));
            thread::sleep(Duration::from_millis(50));
        }
        Then::Close
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    let mut client = Client::connect(bench.address);
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    let head = client.head().unwrap();
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    let mut sizes = Vec::new();
    loop {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut client.stream, &mut line).unwrap();
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut piece = vec![0; size + 2];
        std::io::Read::read_exact(&mut client.stream, &mut piece).unwrap();
        if size == 0 {
            break;
        }
        sizes.push(size);
    }
    assert_eq!(sizes, [9; 5], "no piece waited for another");
}

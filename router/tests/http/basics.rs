//! Requests find their service, and every answer says who gave it.

use std::net::SocketAddr;

use router::config::UnknownHost;

use crate::client::{Client, Reply, ask, curl, get};
use crate::task::{Asked, Task, Then};
use crate::world::{Bench, add, network, web};

/// Answers with the request's head.
fn echo(asked: &mut Asked) -> Then {
    let head = asked.head.clone();
    asked.reply(&head)
}

/// A router for one service that echoes, with these labels.
fn echoing(labels: &[(&str, &str)]) -> Bench {
    let task = Task::start(echo);
    let mut bench = Bench::start(|_| {});
    let mut world = web(&[]);
    world.services.clear();
    add(&mut world, "echo", &[task.address], labels);
    assert!(bench.serve(world).is_empty());
    bench
}

/// The value of a field that the task got, from the head that it echoed.
fn sent<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let mut values = reply.text().lines().filter_map(|line| {
        let (field, value) = line.split_once(": ")?;
        field.eq_ignore_ascii_case(name).then_some(value)
    });
    values.next().filter(|_| values.next().is_none())
}

#[track_caller]
fn is_signed(reply: &Reply, upstream: Option<SocketAddr>) {
    assert_eq!(reply.field("x-proxy-id"), Some("proxy-under-test"));
    assert_eq!(reply.field("x-server-info"), Some("portolan/0.1.0"));
    let upstream = upstream.map(|address| address.to_string());
    assert_eq!(reply.field("x-upstream-addr"), upstream.as_deref());
    let time = reply.field("x-upstream-response-time").map(|time| time.parse::<f64>().unwrap());
    assert_eq!(time.is_some_and(|time| (0.0..5.0).contains(&time)), upstream.is_some());
    let id = reply.field("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    assert!(reply.field("date").is_some());
}

#[test]
fn a_request_reaches_the_task_and_its_answer_comes_back_signed() {
    let task = Task::start(|asked| asked.reply("hello"));
    let bench = Bench::with_web(&[task.address], |_| {});
    let reply = get(bench.address, "web.test", "/");
    assert_eq!((reply.status, reply.text()), (200, "hello"));
    is_signed(&reply, Some(task.address));
}

#[test]
fn curl_gets_the_answer() {
    let task = Task::start(|asked| asked.reply("hello"));
    let bench = Bench::with_web(&[task.address], |_| {});
    let url = format!("http://{}/", bench.address);
    let out = curl(&["-H", "Host: WEB.test.:8080", "-w", " %{http_code} %{num_connects}", &url]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "hello 200 1");
    let out =
        curl(&["-H", "Host: web.test", "-o", "/dev/null", "-w", "%{num_connects}", &url, &url]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "1hello0", "curl reuses the connection");
}

#[test]
fn the_routers_own_answers_are_signed_too_and_say_why() {
    let mut bench = Bench::with_web(&[], |_| {});
    for (request, status, text) in [
        ("GET / HTTP/1.1\r\nHost: foo.test\r\n\r\n", 404, "no route for host foo.test\n"),
        ("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n", 503, "no serving task of service web\n"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "no Host field\n"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "the Host field is not a host\n"),
        ("GET / HTTP/1.0\r\n\r\n", 404, "no route for a request without Host\n"),
        (
            "CONNECT web.test:80 HTTP/1.1\r\nHost: web.test\r\n\r\n",
            405,
            "this is no forward proxy: CONNECT is not allowed\n",
        ),
        ("GET / HTTP/1.1\nHost: web.test\n\n", 400, "a line ends in a bare line feed\n"),
        (
            "GET / HTTP/3.0\r\nHost: web.test\r\n\r\n",
            505,
            "only HTTP/1.0 and HTTP/1.1 are spoken here\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: web.test\r\nExpect: tea\r\n\r\n",
            417,
            "only `100-continue` can be expected\n",
        ),
    ] {
        let reply = ask(bench.address, request);
        assert_eq!((reply.status, reply.text()), (status, text), "{request}");
        assert_eq!(reply.field("content-type"), Some("text/plain; charset=utf-8"));
        is_signed(&reply, None);
    }
    assert!(bench.serve(web(&[])).is_empty());
}

#[test]
fn unknown_hosts_can_be_answered_with_503() {
    let bench = Bench::with_web(&[], |config| config.unknown_host = UnknownHost::Unavailable);
    let reply = get(bench.address, "foo.test", "/");
    assert_eq!((reply.status, reply.text()), (503, "no route for host foo.test\n"));
}

#[test]
fn the_task_learns_who_asked_and_for_what() {
    let bench = echoing(&[("hosts", "web.test")]);
    let reply = ask(
        bench.address,
        "GET /a%20b?q=1&r=%2F HTTP/1.1\r\nHost: Web.TEST:8080\r\nX-Forwarded-For: 6.6.6.6\r\n\
         X-Forwarded-Proto: https\r\nX_Forwarded_For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
         X-Request-Id: mine\r\nCookie: a=b\r\nAccept: */*\r\n\r\n",
    );
    assert!(reply.text().starts_with("GET /a%20b?q=1&r=%2F HTTP/1.1\r\n"), "{}", reply.text());
    assert_eq!(sent(&reply, "host"), Some("Web.TEST:8080"));
    assert_eq!(sent(&reply, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(sent(&reply, "x-real-ip"), Some("127.0.0.1"));
    assert_eq!(sent(&reply, "x-forwarded-proto"), Some("http"));
    assert_eq!(sent(&reply, "x-forwarded-host"), Some("Web.TEST:8080"));
    assert_eq!(sent(&reply, "x_forwarded_for"), None);
    assert_eq!(sent(&reply, "cookie"), Some("a=b"));
    assert_eq!(sent(&reply, "x-request-id"), reply.field("x-request-id"));
}

#[test]
fn request_ids_are_never_the_same() {
    let bench = echoing(&[("hosts", "web.test")]);
    let mut ids: Vec<String> = (0..200)
        .map(|_| get(bench.address, "web.test", "/").field("x-request-id").unwrap().to_owned())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let task = Task::start(|asked| {
        let head = asked.head.clone();
        let length = head.len();
        asked.say(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: keep-alive, X-Secret\r\n\
             X-Secret: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\n\
             X-Request-Id: forged\r\nX-Proxy-Id: forged\r\nX-App: 1\r\n\r\n{head}"
        ))
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    let reply = ask(
        bench.address,
        "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade, X-Mine, Host, X-Forwarded-For\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-Mine: 1\r\nTE: trailers\r\n\
         Proxy-Authorization: Basic eA==\r\nKeep-Alive: 300\r\nAccept: */*\r\n\r\n",
    );
    for name in ["connection", "upgrade", "http2-settings", "x-mine", "te", "proxy-authorization"] {
        assert_eq!(sent(&reply, name), None, "{name} reached the task");
    }
    assert_eq!(sent(&reply, "host"), Some("web.test"));
    assert_eq!(sent(&reply, "x-forwarded-for"), Some("127.0.0.1"));
    for name in ["connection", "x-secret", "keep-alive", "upgrade", "proxy-authenticate"] {
        assert_eq!(reply.field(name), None, "{name} reached the client");
    }
    assert_eq!(reply.field("x-app"), Some("1"));
    is_signed(&reply, Some(task.address));
}

#[test]
fn an_absolute_target_counts_more_than_the_host_field() {
    let bench = echoing(&[("hosts", "web.test")]);
    let reply =
        ask(bench.address, "GET http://web.test:81/x?y HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert!(reply.text().starts_with("GET /x?y HTTP/1.1\r\n"), "{}", reply.text());
    assert_eq!(sent(&reply, "host"), Some("web.test:81"));
    let reply = ask(bench.address, "GET http://web.test HTTP/1.1\r\nHost: web.test\r\n\r\n");
    assert!(reply.text().starts_with("GET / HTTP/1.1\r\n"), "{}", reply.text());
    for bad in ["GET https://web.test/", "GET ftp://web.test/", "GET web.test:80", "GET *"] {
        let reply = ask(bench.address, &format!("{bad} HTTP/1.1\r\nHost: web.test\r\n\r\n"));
        assert_eq!(reply.status, 400, "{bad}");
    }
    let reply = ask(bench.address, "OPTIONS * HTTP/1.1\r\nHost: web.test\r\n\r\n");
    assert_eq!(reply.status, 204);
    is_signed(&reply, None);
}

#[test]
fn several_hosts_wildcards_and_context_roots_find_their_services() {
    let tasks: Vec<Task> = ["root", "app", "wild"]
        .into_iter()
        .map(|name| Task::named("127.0.0.1:0".parse().unwrap(), name))
        .collect();
    let mut bench = Bench::start(|_| {});
    let mut world = web(&[]);
    world.services.clear();
    add(&mut world, "root", &[tasks[0].address], &[("hosts", "a.test,b.test")]);
    add(&mut world, "app", &[tasks[1].address], &[("hosts", "a.test"), ("context_root", "/app")]);
    add(&mut world, "wild", &[tasks[2].address], &[("hosts", "*.wild.test")]);
    assert!(bench.serve(world).is_empty());
    for (host, path, body) in [
        ("a.test", "/", "root"),
        ("b.test", "/app", "root"),
        ("a.test", "/app", "app"),
        ("a.test", "/app/x?y", "app"),
        ("a.test", "/apple", "root"),
        ("a.test", "/app/../", "root"),
        ("a.test", "/x/%2e%2e/app/", "app"),
        ("x.wild.test", "/", "wild"),
        ("wild.test", "/", "no route for host wild.test\n"),
    ] {
        assert_eq!(get(bench.address, host, path).text(), body, "{host}{path}");
    }
}

#[test]
fn a_rewritten_context_root_is_taken_off_and_nobody_climbs_out_of_it() {
    let bench =
        echoing(&[("hosts", "a.test"), ("context_root", "/app"), ("context_root_rewrite", "true")]);
    for (path, line) in [
        ("/app/", "GET / HTTP/1.1"),
        ("/app/x/y?q=/app", "GET /x/y?q=/app HTTP/1.1"),
        ("/app/./x", "GET /x HTTP/1.1"),
    ] {
        let reply = get(bench.address, "a.test", path);
        assert_eq!(reply.text().lines().next(), Some(line), "{path}");
    }
    let reply = get(bench.address, "a.test", "/app?x=1");
    assert_eq!((reply.status, reply.field("location")), (301, Some("/app/?x=1")));
    is_signed(&reply, None);
    let reply =
        ask(bench.address, "POST /app HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((reply.status, reply.field("location")), (308, Some("/app/")));
    for (path, status) in [("/app/../secret", 404), ("/app/..;/x", 400), ("/app/..%2fx", 400)] {
        assert_eq!(get(bench.address, "a.test", path).status, status, "{path}");
    }
}

#[test]
fn http_1_0_clients_get_what_they_understand() {
    let task = Task::start(|asked| {
        asked.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    let mut client = Client::connect(bench.address);
    client.send("GET / HTTP/1.0\r\nHost: web.test\r\n\r\n");
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.text()), (200, "hello"));
    assert_eq!(reply.field("transfer-encoding"), None);
    let mut client = Client::connect(bench.address);
    client.send("GET / HTTP/1.0\r\nHost: web.test\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.reply().unwrap().text(), "hello");
}

#[test]
fn head_and_bodyless_statuses_have_no_body() {
    let task = Task::start(|asked| {
        asked.say(if asked.head.starts_with("HEAD") {
            "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"x\"\r\n\r\n"
        } else {
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"
        })
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    let mut client = Client::connect(bench.address);
    for method in ["HEAD", "GET", "HEAD"] {
        client.send(&format!("{method} / HTTP/1.1\r\nHost: web.test\r\n\r\n"));
        let reply = client.reply_to(method).unwrap();
        let length = (method == "HEAD").then_some("1234");
        assert_eq!(reply.field("content-length"), length, "{method}");
        assert_eq!(reply.field("etag"), Some("\"x\""));
    }
    client.send("HEAD / HTTP/1.1\r\nHost: foo.test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.reply_to("HEAD").unwrap().status, 404);
    assert_eq!(client.rest(), "", "a refusal of HEAD has no body either");
    assert_eq!(task.connections(), 1, "their connection is used again");
}

#[test]
fn only_services_of_its_cluster_are_served() {
    let task = Task::start(|asked| asked.reply("hello"));
    let mut bench = Bench::start(|config| config.cluster = "prod".to_owned());
    let mut world = web(&[]);
    world.services.clear();
    let prod = [("hosts", "prod.test"), ("service_cluster", "prod")];
    add(&mut world, "prod", &[task.address], &prod);
    add(&mut world, "other", &[task.address], &[("hosts", "other.test")]);
    assert!(bench.serve(world).is_empty());
    assert_eq!(get(bench.address, "prod.test", "/").status, 200);
    assert_eq!(get(bench.address, "other.test", "/").status, 404);
}

#[test]
fn a_network_that_cannot_be_reached_is_503_with_the_reason() {
    let mut bench = Bench::start(|_| {});
    let mut world = web(&["127.0.0.1:1".parse().unwrap()]);
    let mut front = network("front");
    front.reach = registry::model::Reach::Nowhere;
    world.networks = vec![front];
    let notes: Vec<String> = bench.serve(world).iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "error: service web: `com.docker.lb.network`: this node is not on network `front`; run a \
          task on that network on this node, or send the requests to a node that has one"
        ]
    );
    let reply = get(bench.address, "web.test", "/");
    let text = "service web: this node is not on network front\n";
    assert_eq!((reply.status, reply.text()), (503, text));
}

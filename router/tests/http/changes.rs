//! Changes of the world while requests are in flight, and the router's own beginning and end.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use registry::{Draft, Snapshot};
use router::compile::Vips;
use router::{Router, RouterError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, get};
use crate::task::{Task, Then};
use crate::world::{Bench, add, config, now, web};

#[test]
fn changes_under_load_lose_no_request() {
    let first = Task::named("127.0.0.1:0".parse().unwrap(), "hello");
    let port = first.address.port();
    let others = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
        .map(|host| Task::named(SocketAddr::new(host.parse().unwrap(), port), "hello").address);
    let mut bench = Bench::with_web(&[first.address], |_| {});
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, address) = (Arc::clone(&stop), bench.address);
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
                    let reply = client.reply().unwrap();
                    assert_eq!((reply.status, reply.text()), (200, "hello"));
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..300 {
        let mut tasks = others.to_vec();
        tasks.rotate_left(round % 3);
        tasks.truncate(1 + round % 3);
        let mut world = web(&tasks);
        for extra in 0..round % 50 {
            let host = format!("{extra}.extra.test");
            add(&mut world, &format!("extra{extra}"), &tasks, &[("hosts", &host)]);
        }
        assert!(bench.serve(world).is_empty());
        thread::sleep(Duration::from_millis(2));
    }
    stop.store(true, Ordering::SeqCst);
    let served: i32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(served > 300, "{served}");
}

#[test]
fn a_request_in_flight_ends_under_the_table_it_began_with() {
    let task = Task::start(|asked| {
        thread::sleep(Duration::from_millis(300));
        asked.reply("hello")
    });
    let mut bench = Bench::with_web(&[task.address], |_| {});
    let mut client = Client::connect(bench.address);
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    while task.requests() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(bench.serve(Draft::default()).is_empty());
    assert_eq!(get(bench.address, "web.test", "/").status, 404);
    assert_eq!(client.reply().unwrap().text(), "hello");
}

#[test]
fn a_router_that_stops_finishes_what_it_began_and_takes_no_more() {
    let task = Task::start(|asked| {
        thread::sleep(Duration::from_millis(300));
        asked.reply("hello")
    });
    let mut bench = Bench::with_web(&[task.address], |_| {});
    let mut idle = Client::connect(bench.address);
    idle.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    idle.reply().unwrap();
    let mut busy = Client::connect(bench.address);
    busy.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    while task.requests() < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    bench.stop();
    assert_eq!(idle.rest(), "", "an idle connection is closed at once");
    let reply = busy.reply().unwrap();
    assert_eq!((reply.text(), reply.field("connection")), ("hello", Some("close")));
    let handle = bench.handle.clone();
    now(async { tokio::time::timeout(Duration::from_secs(3), handle.ended()).await }).unwrap();
    let refused = std::net::TcpStream::connect(bench.address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn idle_connections_that_tasks_closed_do_not_cut_the_draining_short() {
    let task = Task::start(|asked| {
        let slow = asked.head.starts_with("GET /slow");
        thread::sleep(Duration::from_millis(if slow { 500 } else { 50 }));
        asked.reply("hello");
        thread::sleep(Duration::from_millis(50)); // so that the connection is kept first
        if slow { Then::Keep } else { Then::Close }
    });
    let mut bench =
        Bench::with_web(&[task.address], |config| config.threads = 1.try_into().unwrap());
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(bench.address)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.reply().unwrap().text(), "hello");
    }
    let mut slow = Client::connect(bench.address);
    slow.send("GET /slow HTTP/1.1\r\nHost: web.test\r\n\r\n");
    while task.requests() < 6 {
        thread::sleep(Duration::from_millis(1));
    }
    bench.stop();
    assert_eq!(slow.reply().unwrap().text(), "hello");
}

#[test]
fn a_router_that_stops_does_not_wait_for_ever() {
    let task = Task::start(|asked| {
        thread::sleep(Duration::from_secs(10));
        asked.reply("late")
    });
    let mut bench = Bench::with_web(&[task.address], |config| {
        config.timeouts.drain = Duration::from_millis(300);
    });
    let mut client = Client::connect(bench.address);
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    while task.requests() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let began = Instant::now();
    bench.stop();
    let handle = bench.handle.clone();
    now(async { tokio::time::timeout(Duration::from_secs(3), handle.ended()).await }).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(client.rest(), "");
}

#[test]
fn a_busy_port_is_one_sentence_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.http = taken.local_addr().unwrap();
    let (_vips, given) = watch::channel(Arc::new(Vips::new()));
    let Err(error) = Router::new(config.clone(), given.clone(), None) else {
        panic!("two listen on one port");
    };
    assert_eq!(
        error.to_string(),
        format!("cannot listen for HTTP on {}: the address is in use", config.http)
    );
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("router.clusters.NAME.http")));
    drop(taken);
    let router = Router::new(config.clone(), given.clone(), None).unwrap();
    let second = Router::new(config, given, None);
    assert!(matches!(second, Err(RouterError::Busy { .. })), "not even with another router");
    drop(router);
}

#[test]
fn a_listener_made_before_can_be_handed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (_vips, given) = watch::channel(Arc::new(Vips::new()));
    let router = Router::new(config(), given, Some(listener)).unwrap();
    assert_eq!(router.handle().address(), address);
    assert_eq!(get(address, "web.test", "/").status, 404);
}

#[test]
fn a_vip_that_is_given_later_is_used_from_then_on() {
    let task = Task::named("127.0.0.1:0".parse().unwrap(), "task");
    let vip = SocketAddr::new("127.0.0.2".parse().unwrap(), task.address.port());
    let _vip = Task::named(vip, "vip");
    let mut world = Draft { networks: web(&[]).networks, ..Draft::default() };
    for network in &mut world.networks {
        // VIPs are for networks that are reached through a namespace; this one is near.
        network.reach = registry::model::Reach::Netns("/proc/self/ns/net".into());
    }
    let labels = [("hosts", "web.test"), ("backend_mode", "vip")];
    add(&mut world, "web", &[task.address], &labels);
    let snapshot = Arc::new(Snapshot::build(world, 1));
    let (vips, given) = watch::channel(Arc::new(Vips::new()));
    let router = Router::new(config(), given, None).unwrap();
    let address = router.handle().address();
    let (_worlds, seen) = watch::channel(snapshot);
    let (reports, mut told) = watch::channel(None);
    let stop = CancellationToken::new();
    now(async move {
        let mut parts = JoinSet::new();
        parts.spawn(registry::drive(router, seen, reports, stop.clone()));
        told.wait_for(Option::is_some).await.unwrap();
        assert_eq!(get(address, "web.test", "/").text(), "task");
        told.mark_unchanged();
        vips.send_replace(Arc::new([(("web".into(), "front".into()), vip.ip().into())].into()));
        told.changed().await.unwrap();
        assert_eq!(get(address, "web.test", "/").text(), "vip");
        stop.cancel();
        parts.join_next().await.unwrap().unwrap();
    });
}

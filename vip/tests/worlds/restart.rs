//! What a portolan knows of the one before it, in real namespaces.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kernel::nft::Socket;
use kernel::route;
use registry::Consumer;
use serde_json::Value;

use crate::support::{Text, World, echo, wait_until};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);

fn logbook(world: &World) -> Value {
    let text = fs::read_to_string(world.dir.join("state/vip-logbook.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[tokio::test]
async fn what_left_while_portolan_was_away_keeps_nothing() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let alone = || Text::new().service("web", None).tasks("web", 1, 11);
    let mut manager = world.manager();
    manager.make(&alone().sandbox(&client, &path).0).await;
    assert!(!route::our_routes(&client.netns).unwrap().is_empty());
    let written = || logbook(&world)["places"].as_array().map_or(0, Vec::len);
    wait_until(written, |it| *it == 1).await;
    drop(manager);
    let mut manager = world.manager();
    // Nothing is known yet: nobody has left.
    let (nothing, _notes) = manager.vip.compile(&Arc::default());
    manager.vip.apply(&Arc::new(nothing)).await;
    assert!(!route::our_routes(&client.netns).unwrap().is_empty());
    manager.make(&alone().0).await;
    assert!(route::our_routes(&client.netns).unwrap().is_empty());
    wait_until(written, |it| *it == 0).await;
    let mut socket = Socket::open(&client.netns).unwrap();
    assert_eq!(socket.tables().unwrap().len(), 0);
}

#[tokio::test]
async fn after_a_restart_vips_stay_as_they_are_until_the_engine_tells_who_serves() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let (client, other) = (world.host("client", 100), world.host("other", 101));
    let path = world.path("client");
    let text = || Text::new().service("web", Some("10.20.1.2")).sandbox(&client, &path);
    let known = text().tasks("web", 1, 11).0;
    let mut manager = world.manager();
    manager.make(&known).await;
    let written = || logbook(&world)["places"].as_array().map_or(0, Vec::len);
    wait_until(written, |it| *it == 1).await;
    drop(manager);
    let mut manager = world.manager();
    let outcome = manager.make_unread(&text().0).await;
    assert_eq!(outcome.changes, 0);
    assert!(!outcome.failures.has_errors(), "{:?}", outcome.failures);
    assert_eq!(outcome.failures.iter().count(), 1, "{:?}", outcome.failures);
    assert_eq!(client.calls(WEB, 1), ["web.1"]);
    manager.make(&known).await;
    assert_eq!(client.calls(WEB, 1), ["web.1"]);
    // Who came later has nothing that could be better; what was told once is believed.
    let more = text().tasks("web", 1, 11).sandbox(&other, &world.path("other")).0;
    manager.make(&more).await;
    let outcome = manager.make_unread(&text().0).await;
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    manager.make(&text().0).await;
    assert_eq!(client.call(WEB).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_restart_gives_a_task_that_drains_no_more_time_than_it_had() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let text = |first: &str| {
        let text = Text::new().service("web", Some("10.20.1.2")).task("web", 1, 11, first);
        let second = if first == "serving" { "stopped" } else { "serving" };
        text.task("web", 2, 12, second).sandbox(&client, &path).0
    };
    let mut manager = world.manager();
    manager.make(&text("serving")).await;
    let mut stream = client.connect(WEB);
    assert_eq!(echo(&mut stream).unwrap(), "web.1");
    manager.make(&text("draining")).await;
    assert_eq!(echo(&mut stream).unwrap(), "web.1");
    let since = || logbook(&world)["drains"][0]["since"].as_u64();
    wait_until(since, Option::is_some).await;
    drop(manager);
    // As if it had been long ago.
    let long = u64::try_from(vip::DRAIN.as_millis()).unwrap();
    let mut edited = logbook(&world);
    edited["drains"][0]["since"] = (since().unwrap() - long).into();
    fs::write(world.dir.join("state/vip-logbook.json"), edited.to_string()).unwrap();
    // It cuts beside its changes, as long as it is there.
    let mut manager = world.manager();
    manager.make(&text("draining")).await;
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

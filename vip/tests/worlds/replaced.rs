//! What becomes of connections whose task gave its address to another one, in real namespaces.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use registry::Consumer;

use crate::support::{Host, PATIENCE, Text, World, echo, wait_until};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);

/// One task, `web.NTH`, at 10.20.1.11.
fn web(nth: u8, state: &str, client: &Host, path: &Path) -> String {
    let text = Text::new().service("web", Some(&WEB.to_string()));
    text.task("web", nth, 11, state).sandbox(client, path).0
}

/// A connection through the VIP to whoever is there now, once that is `name`.
async fn connection_to(client: &Host, name: &str) -> TcpStream {
    let mut found = None;
    let connect = || {
        let mut stream = client.connect(WEB);
        let said = echo(&mut stream).unwrap();
        found = Some(stream);
        said
    };
    wait_until(connect, |it| it == name).await;
    found.unwrap()
}

#[tokio::test]
async fn who_reads_from_a_task_whose_address_another_one_has_is_told_and_nobody_else() {
    let mut world = World::new();
    let old = world.tasks("web", 1, 11).remove(0);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    manager.make(&web(1, "serving", &client, &path)).await;
    let mut reading = connection_to(&client, "web.1").await;
    let new = world.replace(&old, "web.2");
    new.serve();
    // The new task has connections before anybody says that it is there.
    let mut talking = connection_to(&client, "web.2").await;
    manager.make(&web(2, "serving", &client, &path)).await;
    let told = reading.read(&mut [0]).unwrap_err().kind();
    assert_eq!(told, ErrorKind::ConnectionReset, "nobody has it any more");
    assert_eq!(echo(&mut talking).unwrap(), "web.2");
}

#[tokio::test]
async fn a_task_that_is_back_before_anything_was_cut_is_asked_whose_connections_they_are() {
    let mut world = World::new();
    let old = world.tasks("web", 1, 11).remove(0);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    manager.make(&web(1, "serving", &client, &path)).await;
    let mut reading = connection_to(&client, "web.1").await;
    let new = world.replace(&old, "web.2");
    new.serve();
    let mut talking = connection_to(&client, "web.2").await;
    let (gone, _) = manager.compile(&web(1, "stopped", &client, &path));
    let (back, _) = manager.compile(&web(2, "serving", &client, &path));
    // Both plans are known before the first one is done, as where a change is late.
    manager.vip.apply(&gone).await;
    manager.vip.apply(&back).await;
    reading.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = std::time::Instant::now();
    while reading.read(&mut [0]).unwrap_err().kind() != ErrorKind::ConnectionReset {
        assert!(begun.elapsed() < PATIENCE, "nobody told it");
        manager.vip.apply(&back).await;
    }
    assert_eq!(echo(&mut talking).unwrap(), "web.2");
}

#[tokio::test]
async fn a_task_that_cannot_be_reached_yet_is_asked_again() {
    let mut world = World::new();
    let old = world.tasks("web", 1, 11).remove(0);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    manager.make(&web(1, "serving", &client, &path)).await;
    let mut reading = connection_to(&client, "web.1").await;
    let gone = world.replace(&old, "nobody");
    gone.fall_silent();
    let (plan, _) = manager.compile(&web(2, "serving", &client, &path));
    manager.vip.apply(&plan).await;
    reading.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(reading.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(manager.vip.upkeep().unwrap() <= Duration::from_secs(2), "it comes back to it");
    let new = world.replace(&gone, "web.2");
    new.serve();
    connection_to(&client, "web.2").await;
    // A socket answers what does not belong to its sequence every half a second at most.
    tokio::time::sleep(Duration::from_millis(600)).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    manager.vip.apply(&plan).await;
    tokio::time::resume();
    reading.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(reading.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

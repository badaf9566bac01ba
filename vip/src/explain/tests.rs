//! What an address is and what is advised, for a world with all sorts of addresses.

use std::net::SocketAddrV4;
use std::time::Duration;

use registry::source::world;

use super::*;
use crate::lease::Leases;
use crate::mesh::plan::{Port, Published};
use crate::{Config, compile};

const WORLD: &str = r#"
[[network]]
name = "front"
subnet = "10.1.0.0/24"
[[network]]
name = "back"
subnet = "10.2.0.0/24"
[[service]]
name = "web"
networks = ["front"]
vip = { front = "10.1.0.2" }
ports = [{ published = 8000, target = 80, protocol = "tcp" }, { published = 5353, target = 53, protocol = "udp" }]
[[service]]
name = "db"
networks = ["back"]
vip = { back = "10.2.0.2" }
[[service]]
name = "idle"
networks = ["front"]
vip = { front = "10.1.0.3" }
[[service]]
name = "none"
networks = ["front"]
vip = { front = "10.1.0.4" }
[[task]]
name = "web.1"
service = "web"
addresses = { front = "10.1.0.11" }
weight = 3
[[task]]
name = "web.2"
service = "web"
addresses = { front = "10.1.0.12" }
state = "draining"
[[task]]
name = "db.1"
service = "db"
addresses = { back = "10.2.0.11" }
[[task]]
name = "idle.1"
service = "idle"
addresses = { front = "10.1.0.21" }
state = "starting"
[[sandbox]]
name = "box"
netns = "/nowhere"
networks = ["front"]
"#;

/// What is told of `target` where a probe ends with `outcome`.
fn told(target: &str, outcome: Outcome) -> String {
    let snapshot = Snapshot::build(world::parse(WORLD, "test").unwrap(), 1);
    let config = Config { pool: "240.240.0.0/16".parse().unwrap(), ..Config::default() };
    let (plan, _notes) = compile(&snapshot, &Leases::default(), 0, &config);
    let sandbox = &snapshot.sandbox_named("box").unwrap().id;
    let target = Target::parse(target).unwrap();
    let subject = subject(&snapshot, &plan, sandbox, target.address);
    let target = target.settled(&subject);
    let probe = Probe { outcome, took: Duration::from_millis(1), task: None };
    let advice = advice::advice(&snapshot, &subject, &probe, target);
    let lines = [vec![subject.in_words(&snapshot)], subject.tasks(&snapshot), advice];
    lines.concat().join("\n")
}

#[test]
fn a_vip_is_told_with_its_tasks_serving_ones_first_and_their_weights() {
    let expected = "the VIP of web.front, 1 of 2 tasks serving\n\
        web.1 10.1.0.11: serving, weight 3\n\
        web.2 10.1.0.12: draining";
    assert_eq!(told("10.1.0.2:80", Outcome::Answered), expected);
}

#[test]
fn who_asks_at_the_published_port_is_told_the_ports_inside() {
    let said = told("10.1.0.2:8000", Outcome::Refused);
    let expected =
        "8000 is the port that web publishes on the nodes; on its networks it listens on 80";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn why_nobody_serves_is_told_by_the_states_of_the_tasks() {
    let said = told("10.1.0.3:80", Outcome::Refused);
    assert!(said.ends_with("no task of idle serves (1 starting), so it is refused"), "{said}");
    let said = told("10.1.0.4:80", Outcome::Refused);
    assert!(
        said.ends_with("none has no task: scale it up, or see why it does not start"),
        "{said}"
    );
}

#[test]
fn a_vip_elsewhere_is_told_from_an_address_that_is_nobodys() {
    let said = told("10.2.0.2:80", Outcome::Silent);
    assert!(said.starts_with("the VIP of db.back, and this sandbox is not on back\n"), "{said}");
    let said = told("10.9.9.9:80", Outcome::Silent);
    assert!(said.starts_with("nobody's that portolan knows\n"), "{said}");
}

#[test]
fn a_tasks_own_address_is_told_with_its_state_and_its_network() {
    let said = told("10.1.0.12:80", Outcome::Answered);
    assert!(said.starts_with("task web.2 itself on front: no VIP, no balancing\n"), "{said}");
    assert!(said.contains("the task is draining"), "{said}");
    let said = told("10.2.0.11", Outcome::Silent);
    assert!(said.contains("db.1 itself on back, which this sandbox is not on"), "{said}");
}

#[test]
fn a_target_is_an_address_with_or_without_a_port() {
    for text in ["10.0.0.1", "10.0.0.1:80", "fd00::1", "[fd00::1]:80", "[fd00::1]:53/udp"] {
        assert_eq!(Target::parse(text).unwrap().to_string(), text);
    }
    for text in [
        "web",
        "10.0.0.1:0",
        "10.0.0.1:99999",
        "10.0.0",
        "",
        "fd00::1]:80",
        "10.0.0.1:80/sctp",
        "10.0.0.1/tcp",
    ] {
        assert_eq!(Target::parse(text), None, "{text}");
    }
}

#[test]
fn a_port_that_is_known_for_datagrams_alone_is_tried_with_one() {
    let said = told("10.1.0.2:53", Outcome::Silent);
    assert!(said.contains("nobody refused the datagram"), "{said}");
    let said = told("10.1.0.2:53/tcp", Outcome::Refused);
    assert!(said.contains("53 is a port of web for udp, and the probe is tcp"), "{said}");
    let said = told("10.1.0.2:80/udp", Outcome::Refused);
    assert!(said.contains("80 is a port of web for tcp, and the probe is udp"), "{said}");
}

#[test]
fn a_published_port_of_a_node_is_told_with_the_tasks_that_it_leads_to() {
    let text = WORLD.replace("name = \"box\"", "name = \"box2\"");
    let snapshot = Snapshot::build(world::parse(&text, "test").unwrap(), 1);
    let [web, old] = ["10.1.0.11", "10.1.0.12"].map(|it| it.parse().unwrap());
    let published = Published {
        service: "web".to_owned(),
        slots: vec![SocketAddrV4::new(web, 80)],
        alive: [web, old].into(),
        resting: [(old, None)].into(),
        target: 80,
        ..Published::default()
    };
    let port = Port { protocol: Protocol::Tcp, number: 8000 };
    let direct = [(port, std::sync::Arc::new(published))].into();
    let mesh = mesh::Plan { direct, ..mesh::Plan::default() };
    let own = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
    let found = |target: &str| {
        let target = Target::parse(target).unwrap();
        let subject = subject::published(&snapshot, &mesh, target, &own)?;
        Some([vec![subject.in_words(&snapshot)], subject.tasks(&snapshot)].concat().join("\n"))
    };
    let expected = "port 8000/tcp of this node, published by web, 1 of 2 tasks serving\n\
        web.1 10.1.0.11:80: serving\n\
        web.2 10.1.0.12:80: draining";
    assert_eq!(found("192.0.2.1:8000").as_deref(), Some(expected));
    for nobodys in ["192.0.2.1:8001", "192.0.2.1:8000/udp", "192.0.2.2:8000", "192.0.2.1"] {
        assert_eq!(found(nobodys), None, "{nobodys}");
    }
}

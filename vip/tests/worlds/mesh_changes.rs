//! What others do to the routing mesh, and what goes wrong while it is made.

use std::io::{Read, Write};
use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{Batch, Element, ElementValue, Family, Socket, Table, Verdict};
use kernel::{route, rule, sysctl};
use vip::mesh::{ClientIp, Enabled};

use crate::mesh_support::{Manager, One, Text, ask, listen};

const TABLE: Table<'static> = Table { family: Family::Ip, name: "portolan_mesh" };

impl One {
    /// Waits until the mesh hears of a change, and lets it see to that; a transaction may be told
    /// in several parts.
    fn put_right(&mut self, text: &str) {
        loop {
            self.manager.hear();
            if self.manager.make(text) > 0 {
                return;
            }
        }
    }

    /// Whom the task sees when the client calls.
    fn call(&self, port: u16) -> String {
        self.swarm.client.call((self.swarm.nodes[0].host.address, port)).unwrap().0
    }
}

const WEB: &str = "{ published = 8001, target = 80 }";

fn has_table(netns: &Netns) -> bool {
    let tables = Socket::open(netns).unwrap().tables().unwrap();
    tables.iter().any(|it| it.name == TABLE.name)
}

fn change(netns: &Netns, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    change(&mut batch);
    Socket::open(netns).unwrap().commit(&batch).unwrap();
}

#[test]
fn a_table_that_somebody_else_flushes_or_changes_is_put_right_at_once() {
    let mut world = One::new();
    let text = world.text(WEB, "");
    world.manager.make(&text);
    let sees = format!("web.1 sees {}", world.swarm.client.address);
    let node = &world.swarm.nodes[0];
    let places = [&node.host.path, &node.doorway.path, &world.task.path].map(Clone::clone);
    for path in places {
        let netns = Netns::open(&path).unwrap();
        // As `nft flush ruleset` does.
        change(&netns, |it| it.delete_table(TABLE));
        world.put_right(&text);
        assert!(has_table(&netns), "{}", path.display());
        assert_eq!(world.call(8001), sees, "{}", path.display());
        // Another chain does no harm, and is not ours.
        change(&netns, |it| it.add_chain(TABLE, "theirs", None));
        world.put_right(&text);
        assert_eq!(world.manager.make(&text), 0, "{}", path.display());
    }
}

#[test]
fn what_could_not_be_put_back_is_tried_again_and_the_guard_stands_until_then() {
    let mut world = One::new();
    let (with, without) = (world.text(WEB, ""), world.text("", ""));
    let node = &world.swarm.nodes[0];
    let [host, doorway] = [&node.host.path, &node.doorway.path].map(|it| Netns::open(it).unwrap());
    let states = || {
        let read = |netns: &Netns, name: &str| sysctl::read(netns, name).unwrap().unwrap();
        let route = read(&host, "ipv4/conf/docker_gwbridge/route_localnet");
        let filters = ["eth0", "eth1"].map(|it| format!("ipv4/conf/{it}/rp_filter"));
        let filters = filters.map(|it| read(&doorway, &it));
        (route, filters, read(&doorway, "ipv4/ip_forward"))
    };
    let before = states();
    world.manager.make(&with);
    assert_ne!(states(), before);
    // What sysctls are cannot be written down.
    let blocked = world.swarm.dir.join("state0/mesh-sysctls.json.new");
    std::fs::create_dir(&blocked).unwrap();
    for _ in 0..2 {
        let (outcome, _) = world.manager.try_make(&without);
        let failures = format!("{:?}", outcome.failures);
        assert!(failures.contains("host") && failures.contains("doorway"), "{failures}");
        assert!(has_table(&host) && has_table(&doorway));
    }
    std::fs::remove_dir(&blocked).unwrap();
    world.manager.make(&without);
    assert_eq!(states(), before);
    assert!(!has_table(&host) && !has_table(&doorway) && !has_table(&world.task.netns));
    assert_eq!(world.manager.make(&without), 0);
}

const WEB_TWINS: &str = "{ published = 8001, target = 80 }, \
                         { published = 8001, target = 80, protocol = \"udp\" }";

#[test]
fn a_port_that_moves_to_another_service_leaves_connections_and_moves_datagrams() {
    let mut world = One::new();
    let green = world.swarm.task(0, "green.1", 22, "1");
    let also_green = |text: String, ports: &str| {
        let service = "[[service]]\nname = \"green\"\nnetworks = [\"ingress\"]\nports = [PORTS]\n\
                       [[task]]\nname = \"green.1\"\nservice = \"green\"\nnode = \"node1\"\n\
                       addresses = { ingress = \"10.0.0.22\" }\n";
        let text = text + &service.replace("PORTS", ports);
        let text = Text(text).sandbox("green.1", &green);
        text.0
    };
    let other = "{ published = 8002, target = 80 }";
    let (before, after) = (
        also_green(world.text(WEB_TWINS, ""), other),
        also_green(world.text("", ""), &format!("{other}, {WEB_TWINS}")),
    );
    world.manager.make(&before);
    let to = (world.swarm.nodes[0].host.address, 8001);
    let client = &world.swarm.client;
    let (said, mut old) = client.call(to).unwrap();
    assert!(said.starts_with("web.1"), "{said}");
    let datagrams = client.datagrams();
    assert!(ask(&datagrams, to).unwrap().0.starts_with("web.1"));
    world.manager.make(&after);
    old.write_all(b"?").unwrap();
    assert_eq!(listen(&mut old).unwrap(), said, "its task lives");
    assert!(world.call(8001).starts_with("green.1"));
    assert!(ask(&datagrams, to).unwrap().0.starts_with("green.1"));
    // Nobody publishes it any more: its datagrams reach nobody, the connection its task.
    world.manager.make(&also_green(world.text("", ""), other));
    old.write_all(b"?").unwrap();
    assert_eq!(listen(&mut old).unwrap(), said);
    datagrams.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let answer = ask(&datagrams, to);
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn the_rule_in_the_engines_firewall_is_there_again_after_a_flush_and_goes_with_the_swarm() {
    let mut world = One::new();
    let host = Netns::open(&world.swarm.nodes[0].host.path).unwrap();
    let iptables = |arguments: &[&str]| {
        let run = || std::process::Command::new("iptables-nft").args(arguments).output().unwrap();
        String::from_utf8(host.run(run).unwrap().stdout).unwrap()
    };
    let rules = || iptables(&["-S", "DOCKER-USER"]).matches("portolan").count();
    iptables(&["-N", "DOCKER-USER"]);
    let text = world.text(WEB, "");
    world.manager.make(&text);
    assert_eq!(rules(), 1);
    for everything in [false, true] {
        iptables(&["-F", "DOCKER-USER"]);
        if everything {
            change(&host, |it| it.delete_table(TABLE));
        }
        world.put_right(&text);
        assert_eq!(rules(), 1);
    }
    world.manager.make("");
    assert_eq!(rules(), 0, "this node has left the swarm");
}

#[test]
fn ways_out_that_a_portolan_before_left_go_when_they_are_wanted_no_more() {
    let mut world = One::new();
    let (with, without) = (world.text(WEB, ""), world.text("", ""));
    let place = world.task.path.clone();
    let netns = Netns::open(&place).unwrap();
    let sysctls = || {
        let names = ["ipv4/conf/eth0/rp_filter", "ipv4/tcp_fwmark_accept"];
        names.map(|it| sysctl::read(&netns, it).unwrap().unwrap())
    };
    let before = sysctls();
    let (masquerade, keep) = (ClientIp::Masquerade, ClientIp::Keep);
    for (enabled, client_ip, text) in [
        (Enabled::Auto, masquerade, &with),
        (Enabled::Auto, keep, &without),
        (Enabled::Off, keep, &with),
    ] {
        world.manager = Manager::new(&world.swarm, 0, keep);
        world.manager.make(&with);
        assert!(has_table(&netns) && sysctls() != before);
        world.manager = Manager::which(&world.swarm, 0, enabled, client_ip);
        world.manager.make(text);
        assert!(!has_table(&netns) && rule::rules(&netns).unwrap().is_empty(), "{enabled:?}");
        assert_eq!(sysctls(), before, "{enabled:?}");
        let node = &world.swarm.nodes[0];
        let stays = enabled == Enabled::Auto && client_ip == masquerade;
        assert_eq!(has_table(&node.doorway.netns), stays, "{enabled:?}");
        assert_eq!(world.manager.make(text), 0);
    }
}

#[test]
fn a_table_that_a_container_fills_is_made_anew_and_published_ports_do_not_wait_for_it() {
    let mut world = One::new();
    let text = world.text(WEB, "");
    world.manager.make(&text);
    let element = |number: u32| {
        let [a, b, c, d] = number.to_be_bytes();
        let value = ElementValue::Verdict(Verdict::Accept);
        Element { key: vec![2, 0x66, a, b, c, d], value, timeout: None }
    };
    let all: Vec<_> = (0..20_000).map(element).collect();
    change(&world.task.netns, |it| it.add_elements(TABLE, "routers", &all));
    world.put_right(&text);
    let left = Socket::open(&world.task.netns).unwrap().elements(TABLE, "routers").unwrap();
    assert_eq!(left.len(), 2, "those of two nodes");
    assert_eq!(world.call(8001), format!("web.1 sees {}", world.swarm.client.address));
}

#[test]
fn what_could_not_be_cut_is_cut_once_it_can_be() {
    let mut world = One::new();
    let text = world.text(WEB, "");
    world.manager.make(&text);
    let to = (world.swarm.nodes[0].host.address, 8001);
    let (_, mut stream) = world.swarm.client.call(to).unwrap();
    let doorway = &world.swarm.nodes[0].doorway.netns;
    let routes = route::routes(doorway).unwrap();
    let default = routes.into_iter().find(|it| it.destination.prefix_len() == 0).unwrap();
    route::delete_route(doorway, &default).unwrap();
    let gone = Text::new(&world.swarm, 0, WEB, "").0;
    let (outcome, _) = world.manager.try_make(&gone);
    assert!(outcome.failures.has_errors());
    route::add_route(doorway, &default).unwrap();
    world.manager.make(&gone);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn settings_rules_and_routes_that_somebody_changes_are_put_right_at_once() {
    let mut world = One::new();
    let text = world.text(WEB, "");
    world.manager.make(&text);
    let task = Netns::open(&world.task.path).unwrap();
    let node = &world.swarm.nodes[0];
    let [host, doorway] = [&node.host.path, &node.doorway.path].map(|it| Netns::open(it).unwrap());
    let sees = format!("web.1 sees {}", world.swarm.client.address);
    for (netns, name) in [
        (&task, "ipv4/conf/eth0/rp_filter"),
        (&doorway, "ipv4/conf/eth1/rp_filter"),
        (&doorway, "ipv4/ip_forward"),
        (&host, "ipv4/ip_forward"),
    ] {
        let is = sysctl::read(netns, name).unwrap().unwrap();
        sysctl::write(netns, name, if is == "2" { "1" } else { "0" }).unwrap();
        while sysctl::read(netns, name).unwrap().unwrap() != is {
            world.manager.hear();
            world.manager.make(&text);
        }
        assert_eq!(world.call(8001), sees, "{name}");
    }
    let (rules, routes) = (rule::rules(&task).unwrap(), rule::table_routes(&task).unwrap());
    rule::delete_rule(&task, rules[0]).unwrap();
    rule::delete_table_route(&task, &routes[0]).unwrap();
    while rule::rules(&task).unwrap().len() < rules.len()
        || rule::table_routes(&task).unwrap().len() < routes.len()
    {
        world.manager.hear();
        world.manager.make(&text);
    }
    assert_eq!(world.call(8001), sees);
}

#[test]
fn while_the_engine_does_not_tell_who_is_published_all_stays_as_a_portolan_before_left_it() {
    let mut world = One::new();
    let (text, empty) = (world.text(WEB, ""), Text::new(&world.swarm, 0, "", "").0);
    world.manager.make(&text);
    let sees = format!("web.1 sees {}", world.swarm.client.address);
    let to = (world.swarm.nodes[0].host.address, 8001);
    let (said, mut old) = world.swarm.client.call(to).unwrap();
    world.manager = Manager::new(&world.swarm, 0, ClientIp::Keep);
    for _ in 0..2 {
        let (outcome, _) = world.manager.make_unread(&empty);
        assert!(!outcome.failures.has_errors() && outcome.changes == 0, "{:?}", outcome.failures);
        assert_eq!(world.call(8001), sees);
    }
    assert_eq!(world.manager.make(&text), 0);
    old.write_all(b"?").unwrap();
    assert_eq!(listen(&mut old).unwrap(), said);
    // Not for ever: its tasks' addresses may be others' by then.
    world.manager = Manager::new(&world.swarm, 0, ClientIp::Keep);
    world.manager.later(Duration::from_secs(600));
    assert!(world.manager.make_unread(&empty).0.changes > 0);
    assert!(!has_table(&world.swarm.nodes[0].doorway.netns));
}

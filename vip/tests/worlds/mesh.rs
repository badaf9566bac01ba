//! The routing mesh between two nodes: who answers, and whom tasks see.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use kernel::netns::Netns;
use kernel::{conntrack, rule, socket, sysctl};
use vip::mesh::ClientIp;

use crate::mesh_support::{Manager, Place, Swarm, Text, ask, listen};

const WEB: &str = "{ published = 8001, target = 80 }";
const TWINS: &str = "{ published = 8001, target = 80 }, \
                     { published = 8001, target = 80, protocol = \"udp\" }";
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Two nodes with a task of `web` each, and the mesh on both.
struct Meshed {
    swarm: Swarm,
    tasks: [Place; 2],
    managers: [Manager; 2],
}

impl Meshed {
    fn new(rp_filter: &str, client_ip: ClientIp) -> Self {
        let mut swarm = Swarm::new(rp_filter);
        let tasks = [0, 1].map(|node| {
            let number = u8::try_from(node).unwrap();
            swarm.task(node, &format!("web.{}", number + 1), 21 + number, rp_filter)
        });
        let managers = [0, 1].map(|node| Manager::new(&swarm, node, client_ip));
        Self { swarm, tasks, managers }
    }

    /// The world file of a node, with these states of the tasks; one that is "gone" is not there.
    fn text(&self, node: usize, ports: &str, labels: &str, states: [&str; 2]) -> String {
        let mut text = Text::new(&self.swarm, node, ports, labels);
        for (number, state) in (0_u8..).zip(states).filter(|it| it.1 != "gone") {
            let place = usize::from(number);
            let name = format!("web.{}", number + 1);
            text = text.task(&name, place, 21 + number, state);
            if place == node {
                text = text.sandbox(&name, &self.tasks[place]);
            }
        }
        text.0
    }

    fn make(&mut self, ports: &str, labels: &str, states: [&str; 2]) {
        for node in [0, 1] {
            let text = self.text(node, ports, labels, states);
            self.managers[node].make(&text);
        }
    }

    fn at(&self, node: usize) -> Ipv4Addr {
        self.swarm.nodes[node].host.address
    }
}

const BOTH: [&str; 2] = ["serving", "serving"];

fn sees(address: impl Into<IpAddr>) -> Vec<String> {
    let address = address.into();
    vec![format!("web.1 sees {address}"), format!("web.2 sees {address}")]
}

#[test]
fn tasks_on_both_nodes_answer_through_each_node_and_see_the_client() {
    for rp_filter in ["0", "1"] {
        let mut world = Meshed::new(rp_filter, ClientIp::Keep);
        world.make(WEB, "", BOTH);
        for node in [0, 1] {
            let said = world.swarm.client.calls((world.at(node), 8001), 40);
            assert_eq!(said, sees(world.swarm.client.address), "node {node}, {rp_filter}");
        }
    }
}

#[test]
fn a_port_whose_tasks_are_told_of_clients_is_refused_while_the_relay_is_away() {
    let mut world = Meshed::new("0", ClientIp::Keep);
    world.make(WEB, "\"portolan.mesh.proxy_protocol\" = \"v2\"", BOTH);
    let swarm = &world.swarm;
    let doorway = swarm.nodes[0].doorway.address;
    let said = swarm.client.calls((world.at(0), 8001), 20);
    assert_eq!(said, sees(doorway), "they are relayed");
    let to = (world.at(0), 8001);
    let Meshed { swarm, tasks: _tasks, managers } = world;
    drop(managers);
    for host in [&swarm.client, &swarm.nodes[0].host] {
        assert_eq!(host.call(to).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    let around = swarm.nodes[0].host.call((doorway, 8001));
    assert!(around.is_err(), "{around:?}");
}

#[test]
fn the_node_itself_reaches_tasks_by_its_address_and_by_localhost() {
    let mut world = Meshed::new("1", ClientIp::Keep);
    world.make(WEB, "", BOTH);
    for node in [0, 1] {
        let host = &world.swarm.nodes[node].host;
        assert_eq!(host.calls((host.address, 8001), 30), sees(host.address));
        let doorway = world.swarm.nodes[node].doorway.address;
        assert_eq!(host.calls((LOCALHOST, 8001), 30), sees(doorway), "node {node}");
    }
}

#[test]
fn two_nodes_clients_do_not_disturb_each_other_where_bridges_have_the_same_addresses() {
    let mut world = Meshed::new("1", ClientIp::Keep);
    assert_eq!(world.swarm.nodes[0].bridge, world.swarm.nodes[1].bridge);
    world.make(TWINS, "", ["serving", "gone"]);
    let calls = [0, 1].map(|node| {
        let (host, to) = (&world.swarm.nodes[node].host, (LOCALHOST, 8001));
        host.call_from((LOCALHOST, 40_000), to).unwrap()
    });
    for (node, (said, mut stream)) in calls.into_iter().enumerate() {
        assert_eq!(said, format!("web.1 sees {}", world.swarm.nodes[node].doorway.address));
        std::io::Write::write_all(&mut stream, b"?").unwrap();
        assert_eq!(listen(&mut stream).unwrap(), said, "its connection goes on");
    }
    let datagrams = [0, 1].map(|node| {
        let host = &world.swarm.nodes[node].host.netns;
        let socket = socket::udp_bound(host, (LOCALHOST, 40_000).into()).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        socket
    });
    for _ in 0..2 {
        for (node, socket) in datagrams.iter().enumerate() {
            let said = ask(socket, (LOCALHOST, 8001)).unwrap();
            let doorway = world.swarm.nodes[node].doorway.address;
            assert_eq!(said, (format!("web.1 sees {doorway}"), LOCALHOST.into()));
        }
    }
}

#[test]
fn a_container_reaches_tasks_by_its_nodes_address_itself_included() {
    let mut world = Meshed::new("1", ClientIp::Keep);
    world.make(WEB, "", BOTH);
    let said = world.tasks[0].calls((world.at(0), 8001), 30);
    assert_eq!(said, sees(world.swarm.nodes[0].doorway.address));
    // The engine masquerades what leaves its bridge.
    assert_eq!(world.tasks[0].calls((world.at(1), 8001), 30), sees(world.at(0)));
}

#[test]
fn masquerading_tasks_see_the_node() {
    let mut world = Meshed::new("1", ClientIp::Masquerade);
    world.make(WEB, "", BOTH);
    for node in [0, 1] {
        let said = world.swarm.client.calls((world.at(node), 8001), 40);
        assert_eq!(said, sees(world.swarm.nodes[node].doorway.address));
    }
    let task = &world.tasks[0].netns;
    assert!(rule::rules(task).unwrap().is_empty(), "nothing is needed in tasks");
}

#[test]
fn udp_on_the_port_of_a_tcp_twin_is_answered_from_the_address_asked() {
    let mut world = Meshed::new("1", ClientIp::Keep);
    world.make(TWINS, "", BOTH);
    let client = &world.swarm.client;
    for node in [0, 1] {
        let to = (world.at(node), 8001);
        assert_eq!(client.calls(to, 40), sees(client.address));
        let mut said: Vec<_> = (0..40).map(|_| ask(&client.datagrams(), to).unwrap()).collect();
        said.sort();
        said.dedup();
        let from = IpAddr::V4(to.0);
        let expected: Vec<_> = sees(client.address).into_iter().map(|it| (it, from)).collect();
        assert_eq!(said, expected);
        // One socket stays with its task.
        let socket = client.datagrams();
        let mut said: Vec<_> = (0..10).map(|_| ask(&socket, to).unwrap().0).collect();
        said.dedup();
        assert_eq!(said.len(), 1, "{said:?}");
    }
}

#[test]
fn a_target_that_has_the_number_of_another_published_port_is_reached_itself() {
    for client_ip in [ClientIp::Keep, ClientIp::Masquerade] {
        let mut world = Meshed::new("1", client_ip);
        for task in &world.tasks {
            task.serve("other", 8080);
            task.redirect(&[6, 17].map(|it| [(it, 80, 8080), (it, 8443, 80)]).concat());
        }
        let ports = ["tcp", "udp"].map(|it| {
            format!(
                "{{ published = 80, target = 8080, protocol = \"{it}\" }}, \
                 {{ published = 8443, target = 80, protocol = \"{it}\" }}"
            )
        });
        world.make(&ports.join(", "), "", ["serving", "gone"]);
        for (node, port, who) in [(0, 8443, "web.1"), (1, 8443, "web.1"), (1, 80, "other")] {
            let to = (world.at(node), port);
            let said = world.swarm.client.call(to).unwrap().0;
            assert!(said.starts_with(who), "{said} at {port}, {client_ip:?}");
            let said = world.swarm.nodes[node].host.call((LOCALHOST, port)).unwrap().0;
            assert!(said.starts_with(who), "{said} at {port} of the node itself");
            for (place, to) in [
                (&world.swarm.client, to),
                (&world.swarm.nodes[node].host, to),
                (&world.swarm.nodes[node].host, (LOCALHOST, port)),
            ] {
                let said = ask(&place.datagrams(), to).unwrap().0;
                assert!(said.starts_with(who), "{said} for datagrams at {to:?}, {client_ip:?}");
            }
        }
    }
}

#[test]
fn a_service_without_a_task_refuses_at_once_and_comes_back() {
    let mut world = Meshed::new("0", ClientIp::Keep);
    world.make(WEB, "", ["starting", "gone"]);
    let to = (world.at(1), 8001);
    let refused = world.swarm.client.call(to).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    world.make(WEB, "", BOTH);
    assert_eq!(world.swarm.client.calls(to, 30), sees(world.swarm.client.address));
}

#[test]
fn a_draining_task_keeps_its_connections_and_gets_no_new_ones() {
    keeps_connections("draining");
}

#[test]
fn a_task_that_a_check_holds_back_keeps_its_connections_and_gets_no_new_ones() {
    keeps_connections("starting");
}

fn keeps_connections(state: &str) {
    let mut world = Meshed::new("0", ClientIp::Keep);
    world.make(WEB, "", ["serving", "gone"]);
    let to = (world.at(1), 8001);
    let (said, mut old) = world.swarm.client.call(to).unwrap();
    assert!(said.starts_with("web.1"), "{said}");
    world.make(WEB, "", [state, "serving"]);
    let client = world.swarm.client.address;
    assert_eq!(world.swarm.client.calls(to, 20), [format!("web.2 sees {client}")]);
    std::io::Write::write_all(&mut old, b"?").unwrap();
    assert_eq!(listen(&mut old).unwrap(), said);
}

#[test]
fn connections_to_a_draining_task_end_with_its_time_and_those_to_others_do_not() {
    let mut world = Meshed::new("1", ClientIp::Keep);
    let limit = "\"portolan.vip.drain\" = \"1s\"";
    world.make(WEB, limit, ["serving", "gone"]);
    let to = (world.at(1), 8001);
    let (said, mut old) = world.swarm.client.call(to).unwrap();
    let (_, mut local) = world.swarm.nodes[1].host.call((LOCALHOST, 8001)).unwrap();
    world.make(WEB, limit, ["draining", "serving"]);
    let (other, mut young) = world.swarm.client.call(to).unwrap();
    std::io::Write::write_all(&mut old, b"?").unwrap();
    assert_eq!(listen(&mut old).unwrap(), said);
    world.managers[1].rest();
    world.make(WEB, limit, ["draining", "serving"]);
    for stream in [&mut old, &mut local] {
        let ended = stream.read(&mut [0]).unwrap_err().kind();
        assert_eq!(ended, ErrorKind::ConnectionReset);
    }
    std::io::Write::write_all(&mut young, b"?").unwrap();
    assert_eq!(listen(&mut young).unwrap(), other);
}

#[test]
fn a_client_that_only_reads_learns_that_its_task_is_gone() {
    let mut world = Meshed::new("1", ClientIp::Keep);
    world.make(WEB, "", ["serving", "gone"]);
    let there = |world: &Meshed, node: usize| {
        let (host, to) = (&world.swarm.nodes[node].host, world.at(node));
        let clients = [
            world.swarm.client.call((to, 8001)),
            host.call((to, 8001)),
            host.call((LOCALHOST, 8001)),
            world.tasks[node].call((to, 8001)),
        ];
        clients.map(|it| it.unwrap().1)
    };
    let streams: Vec<_> = [0, 1].iter().flat_map(|node| there(&world, *node)).collect();
    world.make(WEB, "", ["gone", "serving"]);
    for (number, mut stream) in streams.into_iter().enumerate() {
        let ended = stream.read(&mut [0]).unwrap_err().kind();
        assert_eq!(ended, ErrorKind::ConnectionReset, "client {number}");
    }
}

#[test]
fn a_datagram_socket_moves_to_another_task_when_its_own_drains_or_is_gone() {
    let mut world = Meshed::new("0", ClientIp::Keep);
    for (states, who) in [
        (["gone", "gone"], None),
        (["serving", "gone"], Some("web.1")),
        (["draining", "serving"], Some("web.2")),
        (["serving", "gone"], Some("web.1")),
    ] {
        let socket = world.swarm.client.datagrams();
        for node in [0, 1] {
            let to = (world.at(node), 8001);
            socket.send_to(b"?", to).unwrap();
        }
        world.make(TWINS, "", states);
        let Some(who) = who else { continue };
        for node in [0, 1] {
            let socket = world.swarm.client.datagrams();
            let said = ask(&socket, (world.at(node), 8001)).unwrap().0;
            assert!(said.starts_with(who), "{said} for {states:?}");
        }
    }
    let socket = world.swarm.client.datagrams();
    let to = (world.at(0), 8001);
    assert!(ask(&socket, to).unwrap().0.starts_with("web.1"));
    world.make(TWINS, "", ["gone", "serving"]);
    assert!(ask(&socket, to).unwrap().0.starts_with("web.2"));
    let gone = IpAddr::from([10, 0, 0, 21]);
    let flows = conntrack::flows(&world.swarm.nodes[0].doorway.netns).unwrap();
    assert!(flows.iter().all(|it| it.reply_source != gone), "{flows:?}");
}

#[test]
fn a_port_bound_to_an_address_or_interface_is_to_be_had_there_only() {
    let mut world = Meshed::new("0", ClientIp::Keep);
    let (to, client) = ((world.at(0), 8001), world.swarm.client.address);
    world.make(WEB, "\"portolan.mesh.bind\" = \"127.0.0.1\"", BOTH);
    let refused = world.swarm.client.call(to).unwrap_err().kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    let host = &world.swarm.nodes[0].host;
    assert_eq!(host.calls((LOCALHOST, 8001), 20).len(), 2);
    world.make(WEB, "\"portolan.mesh.bind\" = \"eth0\"", BOTH);
    assert_eq!(world.swarm.client.calls(to, 20), sees(client));
    let host = &world.swarm.nodes[0].host;
    let refused = host.call((LOCALHOST, 8001)).unwrap_err().kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    let refused = world.tasks[0].call(to).unwrap_err().kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused, "it comes by the bridge");
}

#[test]
fn a_port_that_a_program_of_the_host_listens_on_stays_that_programs() {
    let mut world = Meshed::new("0", ClientIp::Keep);
    let host = &world.swarm.nodes[0].host.netns;
    let held = socket::tcp_listener(host, "0.0.0.0:8001".parse().unwrap()).unwrap();
    let texts = [0, 1].map(|node| world.text(node, TWINS, "", BOTH));
    world.managers[1].make(&texts[1]);
    let (outcome, _) = world.managers[0].try_make(&texts[0]);
    let told: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("listens on this port of this node and keeps it"), "{told:?}");
    assert!(!outcome.failures.has_errors());
    held.set_nonblocking(false).unwrap();
    let to = (world.at(0), 8001);
    let client = world.swarm.client.netns.run(|| std::net::TcpStream::connect(to)).unwrap();
    held.accept().unwrap();
    drop((client, held));
    // Its UDP twin is nobody's, and without the program the port is the mesh's.
    ask(&world.swarm.client.datagrams(), to).unwrap();
    world.make(TWINS, "", BOTH);
    assert_eq!(world.swarm.client.calls(to, 20), sees(world.swarm.client.address));
}

#[test]
fn the_engines_own_holder_of_a_port_and_its_translation_are_no_conflict() {
    let mut world = Meshed::new("0", ClientIp::Keep);
    let engine = world.swarm.engine_holding(0, 8001);
    world.make(WEB, "", BOTH);
    let to = (world.at(0), 8001);
    assert_eq!(world.swarm.client.calls(to, 30), sees(world.swarm.client.address));
    let host = &world.swarm.nodes[0].host;
    assert_eq!(host.calls((LOCALHOST, 8001), 20).len(), 2);
    drop(engine);
}

#[test]
fn ports_on_a_network_of_the_host_lead_straight_to_its_tasks() {
    let mut world = Meshed::new("1", ClientIp::Keep);
    let text = "[[network]]\nname = \"bridge\"\nsubnet = \"172.31.1.0/24\"\n\
                [[service]]\nname = \"web\"\nnetworks = [\"bridge\"]\n\
                ports = [{ published = 9000, target = 80 }]\n\
                [[task]]\nname = \"web.1\"\nservice = \"web\"\n\
                addresses = { bridge = \"172.31.1.21\" }\n";
    world.managers[0].make(text);
    let (to, client) = ((world.at(0), 9000), world.swarm.client.address);
    assert_eq!(world.swarm.client.calls(to, 5), [format!("web.1 sees {client}")]);
    let host = &world.swarm.nodes[0];
    let expected = [format!("web.1 sees {}", host.bridge)];
    assert_eq!(host.host.calls((LOCALHOST, 9000), 5), expected);
    let (_, mut stream) = world.swarm.client.call(to).unwrap();
    let limit = "labels = { \"portolan.vip.drain\" = \"500ms\" }\n[[task]]\nstate = \"draining\"\n";
    let draining = text.replace("[[task]]\n", limit);
    world.managers[0].make(&draining);
    world.managers[0].rest();
    world.managers[0].make(&draining);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let internal = text.replace("24\"\n[[service", "24\"\ninternal = true\n[[service");
    world.managers[0].make(&internal);
    assert_eq!(world.swarm.client.calls(to, 5), expected, "it could not answer the client");
}

#[test]
fn nothing_is_left_behind_and_sysctls_are_as_they_were() {
    let mut world = Meshed::new("1", ClientIp::Keep);
    let states = |world: &Meshed| {
        let node = &world.swarm.nodes[0];
        let read = |netns: &Netns, name: &str| sysctl::read(netns, name).unwrap().unwrap();
        [
            read(&node.host.netns, "ipv4/conf/docker_gwbridge/route_localnet"),
            read(&node.doorway.netns, "ipv4/conf/eth0/rp_filter"),
            read(&node.doorway.netns, "ipv4/ip_forward"),
            read(&world.tasks[0].netns, "ipv4/conf/eth0/rp_filter"),
            read(&world.tasks[0].netns, "ipv4/tcp_fwmark_accept"),
        ]
    };
    let before = states(&world);
    world.make(WEB, "", BOTH);
    assert_eq!(states(&world), ["1", "2", "1", "2", "1"]);
    let places = |world: &Meshed| {
        let node = &world.swarm.nodes[0];
        [node.host.path.clone(), node.doorway.path.clone(), world.tasks[0].path.clone()]
    };
    // By hand, as after a portolan that died...
    for path in places(&world) {
        let netns = Netns::open(&path).unwrap();
        let state = world.swarm.dir.join("state0");
        assert!(vip::mesh::cleanup(&netns, Path::new(&state)).unwrap(), "{}", path.display());
        assert!(!vip::mesh::cleanup(&netns, Path::new(&state)).unwrap(), "{}", path.display());
    }
    assert_eq!(states(&world), before);
    // ... and when nothing is published any more.
    world.managers[0] = Manager::new(&world.swarm, 0, ClientIp::Keep);
    world.make(WEB, "", BOTH);
    world.make("", "", ["gone", "gone"]);
    for path in places(&world) {
        let netns = Netns::open(&path).unwrap();
        let state = world.swarm.dir.join("state0");
        assert!(!vip::mesh::cleanup(&netns, Path::new(&state)).unwrap(), "{}", path.display());
    }
    assert_eq!(states(&world), before);
}

#[test]
fn a_new_portolan_finds_what_the_last_one_left_and_changes_nothing() {
    let mut world = Meshed::new("0", ClientIp::Keep);
    world.make(TWINS, "", ["serving", "gone"]);
    world.make(TWINS, "", BOTH);
    let text = world.text(0, TWINS, "", BOTH);
    world.managers[0].make(&text);
    world.managers[0] = Manager::new(&world.swarm, 0, ClientIp::Keep);
    assert_eq!(world.managers[0].make(&text), 0);
    let to = (world.at(0), 8001);
    assert_eq!(world.swarm.client.calls(to, 30), sees(world.swarm.client.address));
}

//! Where a published port is to be had, and what is not led on, though the engine's own rules would.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use kernel::{link, socket};
use vip::mesh::ClientIp;

use crate::mesh_support::{Manager, One, Place, ask};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const TWINS: &str = "{ published = 8001, target = 80 }, \
                     { published = 8001, target = 80, protocol = \"udp\" }";
const LOCAL: &str = "\"portolan.mesh.bind\" = \"127.0.0.1\"";

impl One {
    /// The node's address, with the published port.
    fn outside(&self) -> (Ipv4Addr, u16) {
        (self.swarm.nodes[0].host.address, 8001)
    }

    /// A program of the host that listens there.
    fn program(&self, at: Ipv4Addr) -> TcpListener {
        let host = &self.swarm.nodes[0].host.netns;
        let listener = socket::tcp_listener(host, (at, 8001).into()).unwrap();
        listener.set_nonblocking(false).unwrap();
        listener
    }

    /// Whether the client's connection to the node is the program's.
    fn reaches(&self, program: &TcpListener) {
        let connect = || TcpStream::connect(SocketAddr::from(self.outside())).unwrap();
        let client = self.swarm.client.netns.run(connect).unwrap();
        let (_stream, from) = program.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
    }
}

#[test]
fn where_a_port_is_not_to_be_had_the_engine_does_not_lead_it_on_either() {
    let mut world = One::new();
    let _engine = world.swarm.engine_holding(0, 8001);
    let (to, local) = (world.outside(), (LOCALHOST, 8001));
    let client = &world.swarm.client;
    let refused = |place: &Place, to| {
        assert_eq!(place.call(to).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let datagrams = place.datagrams();
        datagrams.connect(SocketAddr::from(to)).unwrap();
        datagrams.send(b"?").unwrap();
        let told = datagrams.recv(&mut [0; 8]).unwrap_err().kind();
        assert_eq!(told, ErrorKind::ConnectionRefused);
    };
    let host = &world.swarm.nodes[0].host;
    world.manager.make(&world.text(TWINS, LOCAL));
    refused(client, to);
    refused(host, to);
    refused(&world.task, to);
    host.call(local).unwrap();
    world.manager.make(&world.text(TWINS, "\"portolan.mesh.bind\" = \"eth0\""));
    client.call(to).unwrap();
    refused(host, local);
    refused(&world.task, to);
    world.manager.make(&world.text(TWINS, ""));
    client.call(to).unwrap();
    host.call(local).unwrap();
    world.task.call(to).unwrap();
}

#[test]
fn datagrams_follow_when_it_changes_where_their_port_is_to_be_had() {
    let mut world = One::new();
    world.manager.make(&world.text(TWINS, LOCAL));
    let datagrams = world.swarm.client.datagrams();
    datagrams.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for _ in 0..2 {
        let answer = ask(&datagrams, world.outside());
        assert!(answer.is_err(), "{answer:?}");
        world.manager.make(&world.text(TWINS, ""));
        assert!(ask(&datagrams, world.outside()).unwrap().0.starts_with("web.1"));
        world.manager.make(&world.text(TWINS, LOCAL));
    }
}

#[test]
fn a_programs_port_stays_that_programs_though_the_engine_would_lead_it_on() {
    for everywhere in [true, false] {
        let mut world = One::new();
        world.swarm.engine_leading(0, 8001);
        let at = if everywhere { Ipv4Addr::UNSPECIFIED } else { world.outside().0 };
        let program = world.program(at);
        let (outcome, _) = world.manager.try_make(&world.text(TWINS, ""));
        assert_eq!(outcome.failures.iter().count(), 1, "{:?}", outcome.failures);
        world.reaches(&program);
        // Without it the port is the mesh's.
        drop(program);
        world.manager.make(&world.text(TWINS, ""));
        world.swarm.client.call(world.outside()).unwrap();
    }
}

#[test]
fn a_program_may_come_where_a_port_is_not_to_be_had() {
    for everywhere in [true, false] {
        let mut world = One::new();
        let text = world.text(TWINS, LOCAL);
        world.manager.make(&text);
        let at = if everywhere { Ipv4Addr::UNSPECIFIED } else { world.outside().0 };
        let program = world.program(at);
        world.manager.later(Duration::from_secs(30));
        world.manager.make(&text);
        world.reaches(&program);
        world.swarm.nodes[0].host.call((LOCALHOST, 8001)).unwrap();
    }
}

#[test]
fn clients_whose_network_has_the_addresses_of_the_ingress_network_are_answered() {
    for client_ip in [ClientIp::Keep, ClientIp::Masquerade] {
        let mut world = One::new();
        world.manager = Manager::new(&world.swarm, 0, client_ip);
        let (client, host) = (Ipv4Addr::new(10, 0, 0, 100), Ipv4Addr::new(10, 0, 0, 200));
        let node = &world.swarm.nodes[0];
        for (place, address) in [(&world.swarm.client, client), (&node.host, host)] {
            let address = format!("{address}/24").parse().unwrap();
            link::add_address(&place.netns, "eth0", address).unwrap();
        }
        world.manager.make(&world.text(TWINS, ""));
        let seen = format!("web.1 sees {}", node.doorway.address);
        assert_eq!(world.swarm.client.call_from((client, 0), (host, 8001)).unwrap().0, seen);
        assert_eq!(node.host.call((host, 8001)).unwrap().0, seen);
    }
}

#[test]
fn answers_to_what_the_node_began_itself_come_to_it_also_at_a_published_port() {
    let mut world = One::new();
    world.manager.make(&world.text(TWINS, ""));
    // A server outside, and a socket of the node that happens to have the published port's number.
    world.swarm.client.serve("server", 53);
    let to = (world.swarm.client.address, 53);
    let host = &world.swarm.nodes[0].host;
    let datagrams = socket::udp_bound(&host.netns, (Ipv4Addr::UNSPECIFIED, 8001).into()).unwrap();
    datagrams.set_nonblocking(false).unwrap();
    datagrams.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(ask(&datagrams, to).unwrap().0.starts_with("server"));
    assert!(host.call_from((host.address, 8001), to).unwrap().0.starts_with("server"));
}

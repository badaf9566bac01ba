//! Published ports for clients that speak IPv6: relayed, on every node, also from the node itself.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use kernel::{link, sysctl};
use vip::mesh::ClientIp;

use crate::mesh_support::{Manager, Place, Swarm, Text};

const TWINS: &str = "{ published = 8001, target = 80 }, \
                     { published = 8001, target = 80, protocol = \"udp\" }";

/// What is said to a client there, over TCP and over UDP.
fn call(from: &Place, to: Ipv6Addr) -> io::Result<[String; 2]> {
    let to = SocketAddr::from((to, 8001));
    let patience = Duration::from_secs(10);
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let mut said = [0; 128];
        let length = stream.read(&mut said)?;
        let stream = String::from_utf8_lossy(&said[..length]).trim().to_owned();
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(patience))?;
        socket.send_to(b"?", to)?;
        let (length, who) = socket.recv_from(&mut said)?;
        assert_eq!(who, to);
        Ok([stream, String::from_utf8_lossy(&said[..length]).trim().to_owned()])
    };
    from.netns.run(ask).unwrap()
}

#[test]
fn clients_that_speak_ipv6_reach_tasks_on_any_node_through_each_node_and_from_it() {
    let mut swarm = Swarm::new("1");
    let task = swarm.task(1, "web.1", 21, "1");
    let mut managers = [0, 1].map(|node| Manager::new(&swarm, node, ClientIp::Keep));
    let outside = |last: u16| Ipv6Addr::new(0xfd00, 0x213, 0, 0, 0, 0, 0, last);
    let places = [(&swarm.client, 100), (&swarm.nodes[0].host, 1), (&swarm.nodes[1].host, 2)];
    for (place, last) in places {
        // Otherwise addresses cannot be used for a second or two.
        sysctl::write(&place.netns, "ipv6/conf/eth0/accept_dad", "0").unwrap();
        let address = format!("{}/64", outside(last)).parse().unwrap();
        link::add_address(&place.netns, "eth0", address).unwrap();
    }
    for (node, manager) in managers.iter_mut().enumerate() {
        let mut text = Text::new(&swarm, node, TWINS, "").task("web.1", 1, 21, "serving");
        if node == 1 {
            text = text.sandbox("web.1", &task);
        }
        manager.make(&text.0);
    }
    for (node, last) in [(0, 1), (1, 2)] {
        let place = &swarm.nodes[node];
        let said = [(); 2].map(|()| format!("web.1 sees {}", IpAddr::from(place.doorway.address)));
        assert_eq!(call(&place.host, Ipv6Addr::LOCALHOST).unwrap(), said, "node {node}");
        assert_eq!(call(&place.host, outside(last)).unwrap(), said, "node {node}");
        assert_eq!(call(&swarm.client, outside(last)).unwrap(), said, "node {node}");
    }
}

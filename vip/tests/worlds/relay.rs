//! The userspace plane between namespaces: a node whose published port somebody else holds, tasks
//! that are reached from elsewhere, and clients that speak IPv6.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use kernel::link;
use registry::model::Protocol;
use vip::relay::{Entrance, Limits, Place, Plan, Relay, Target, Way};

use crate::support::{Host, PATIENCE, PORT, World, wait_until};

/// Published on the node.
const PUBLISHED: u16 = 8000;
const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 1);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 2);

/// A node, the namespace through which it reaches tasks, two tasks, and a client outside.
struct Mesh {
    world: World,
    node: Host,
    client: Host,
    _tasks: Vec<Host>,
    relay: Relay,
    /// Listens on the published port and never accepts, as the engine does.
    _holder: (TcpListener, UdpSocket),
}

impl Mesh {
    fn new() -> Self {
        let mut world = World::new();
        let tasks = world.tasks("web", 2, 11);
        let (node, client) = (world.host("node", 1), world.host("client", 2));
        world.host("ingress", 3);
        for (host, address) in [(&node, NODE6), (&client, CLIENT6)] {
            // Otherwise addresses cannot be used for a second or two.
            kernel::sysctl::write(&host.netns, "ipv6/conf/eth0/accept_dad", "0").unwrap();
            let address = format!("{address}/64").parse().unwrap();
            link::add_address(&host.netns, "eth0", address).unwrap();
        }
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PUBLISHED));
        let hold = || (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
        let holder = node.netns.run(hold).unwrap();
        let relay = Relay::new(Limits::default());
        Self { world, node, client, _tasks: tasks, relay, _holder: holder }
    }

    fn place(&self, host: &str) -> Place {
        Place::Netns { path: self.world.path(host), cookie: None }
    }

    fn target(&self, serving: &[u8]) -> Target {
        let slots = serving.iter().map(|it| SocketAddr::from(([10, 20, 1, *it], PORT)));
        let slots: Vec<_> = slots.collect();
        Target {
            service: "web".to_owned(),
            network: "ingress".to_owned(),
            alive: slots.iter().copied().collect::<BTreeSet<_>>(),
            resting: [].into(),
            slots,
            dial: self.place("ingress"),
            proxy_protocol: false,
            affinity: false,
            drain: Duration::from_secs(600),
        }
    }

    /// Both protocols, on every address of each family.
    fn plan(&self, target: Target) -> Plan {
        let target = Arc::new(target);
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let entrance = |ip: IpAddr, protocol| Entrance {
            place: self.place("node"),
            address: (ip, PUBLISHED).into(),
            protocol,
            way: Way::Redirected,
        };
        let both = |ip| [Protocol::Tcp, Protocol::Udp].map(|protocol| entrance(ip, protocol));
        any.into_iter().flat_map(both).map(|it| (it, Arc::clone(&target))).collect()
    }

    async fn make(&mut self, target: Target) {
        let plan = self.plan(target);
        let applied = self.relay.apply(&plan).await;
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
    }

    fn nft(&self) -> String {
        let list = |family| {
            let table = ["list", "table", family, "portolan_relay"];
            let mut nft = std::process::Command::new("nft");
            let outcome = self.node.netns.run(|| nft.args(table).output()).unwrap().unwrap();
            String::from_utf8(outcome.stdout).unwrap()
        };
        format!("{}{}", list("ip"), list("ip6"))
    }
}

/// Who answers a connection from a host, and from which address the datagram's answer comes.
fn call(from: &Host, to: IpAddr) -> io::Result<(String, String)> {
    let to = SocketAddr::from((to, PUBLISHED));
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut name = String::new();
        stream.read_to_string(&mut name)?;
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Not connected: it would not see an answer from a wrong address.
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"?", to)?;
        let mut answer = [0; 64];
        let (length, who) = socket.recv_from(&mut answer)?;
        assert_eq!(who, to);
        Ok((name, String::from_utf8_lossy(&answer[..length]).into_owned()))
    };
    from.netns.run(ask).unwrap()
}

#[tokio::test]
async fn a_port_that_the_engine_holds_is_served_to_clients_of_both_families_from_everywhere() {
    let mut mesh = Mesh::new();
    mesh.make(mesh.target(&[11, 12])).await;
    let web = |it: &str| it == "web.1" || it == "web.2";
    let outside: [IpAddr; 2] = [NODE6.into(), mesh.node.address.into()];
    let inside: [IpAddr; 2] = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        for address in outside {
            let (stream, datagram) = call(&mesh.client, address).unwrap();
            assert!(web(&stream) && web(&datagram), "{stream} {datagram}");
            seen.insert(stream);
        }
        for address in outside.into_iter().chain(inside) {
            let (stream, datagram) = call(&mesh.node, address).unwrap();
            assert!(web(&stream) && web(&datagram), "{address}: {stream} {datagram}");
        }
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn a_redirected_port_without_tasks_refuses_and_is_its_holders_again_afterwards() {
    let mut mesh = Mesh::new();
    mesh.make(mesh.target(&[])).await;
    for address in [IpAddr::from(NODE6), mesh.node.address.into()] {
        let refused = call(&mesh.client, address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    mesh.make(mesh.target(&[12])).await;
    assert_eq!(call(&mesh.client, NODE6.into()).unwrap().0, "web.2");
    assert!(mesh.nft().contains("portolan_relay"));
    let applied = mesh.relay.apply(&Plan::new()).await;
    assert!(applied.failures.is_empty(), "{:?}", applied.failures);
    assert_eq!(mesh.nft(), "");
    // The holder's kernel takes the connection, and nobody ever answers.
    let to = SocketAddr::from((NODE6, PUBLISHED));
    let taken = mesh.client.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    assert!(taken.is_ok());
}

#[tokio::test]
async fn a_client_that_keeps_sending_finds_the_tasks_wherever_its_datagrams_went_before() {
    let mut mesh = Mesh::new();
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let sockets = [NODE6.into(), IpAddr::from(mesh.node.address)].map(|to| {
        let bind = || match to {
            IpAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
            IpAddr::V6(_) => UdpSocket::bind(any),
        };
        let socket = mesh.client.netns.run(bind).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        (socket, SocketAddr::from((to, PUBLISHED)))
    });
    let answers = |(socket, to): &(UdpSocket, SocketAddr)| {
        socket.send_to(b"?", to).unwrap();
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).unwrap_or(0);
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let all = || sockets.each_ref().map(answers);
    // Conntrack looks only where some table asks it to.
    let tracked = ["add table inet t", "add chain inet t c { type nat hook output priority 0; }"];
    for line in tracked {
        let mut nft = std::process::Command::new("nft");
        let made = mesh.node.netns.run(|| nft.args(line.split(' ')).status()).unwrap().unwrap();
        assert!(made.success());
    }
    // The holder of the port says nothing, and nobody is made to wait for a table.
    assert_eq!(all(), ["", ""]);
    mesh.make(mesh.target(&[11])).await;
    wait_until(all, |it| it.iter().all(|it| it == "web.1")).await;
    // Another port of ours, and another one again.
    mesh.make(mesh.target(&[])).await;
    mesh.make(mesh.target(&[12])).await;
    wait_until(all, |it| it.iter().all(|it| it == "web.2")).await;
    std::mem::replace(&mut mesh.relay, Relay::new(Limits::default())).finish().await;
    mesh.make(mesh.target(&[11])).await;
    wait_until(all, |it| it.iter().all(|it| it == "web.1")).await;
}

#[tokio::test]
async fn nobody_gets_in_by_the_port_behind_the_redirection() {
    let mut mesh = Mesh::new();
    mesh.make(mesh.target(&[11])).await;
    let listing = mesh.nft();
    let ours = listing.split("set ours-tcp").nth(1).unwrap();
    let port = ours.split("elements = { ").nth(1).unwrap().split_whitespace().next().unwrap();
    let behind = SocketAddr::from((mesh.node.address, port.parse().unwrap()));
    let short = Duration::from_millis(300);
    let tried = mesh.client.netns.run(|| TcpStream::connect_timeout(&behind, short)).unwrap();
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::TimedOut, "{listing}");
}

#[tokio::test]
async fn a_task_is_told_the_ipv6_address_of_its_client_and_what_that_asked_for() {
    let mut mesh = Mesh::new();
    let task = mesh.world.host("reader", 20);
    let here = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let listener = kernel::socket::tcp_listener(&task.netns, here).unwrap();
    listener.set_nonblocking(false).unwrap();
    let target = mesh.target(&[20]);
    mesh.make(Target { proxy_protocol: true, ..target }).await;
    let to = SocketAddr::from((NODE6, PUBLISHED));
    let mut client = mesh.client.netns.run(|| TcpStream::connect(to)).unwrap().unwrap();
    client.write_all(b"hello").unwrap();
    let (mut stream, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), IpAddr::from([10, 20, 1, 3]), "it is reached from where the plan says");
    let mut got = [0; 52 + 5];
    stream.read_exact(&mut got).unwrap();
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    expected.extend(CLIENT6.octets());
    expected.extend(NODE6.octets());
    expected.extend(client.local_addr().unwrap().port().to_be_bytes());
    expected.extend(PUBLISHED.to_be_bytes());
    expected.extend(b"hello");
    assert_eq!(got[..], expected);
}

#[tokio::test]
async fn a_place_that_is_gone_is_a_failure_of_its_own() {
    let mut mesh = Mesh::new();
    let mut plan = mesh.plan(mesh.target(&[11]));
    let nowhere = Place::Netns { path: mesh.world.path("nowhere"), cookie: None };
    let lost = Entrance {
        place: nowhere,
        address: "10.0.0.1:80".parse().unwrap(),
        protocol: Protocol::Tcp,
        way: Way::Bound,
    };
    plan.insert(lost.clone(), Arc::new(mesh.target(&[11])));
    let applied = mesh.relay.apply(&plan).await;
    let failed: Vec<_> = applied.failures.iter().map(|it| it.subject.clone()).collect();
    assert_eq!(failed, [lost.to_string()]);
    let answered = || call(&mesh.client, NODE6.into()).ok().map(|it| it.0);
    wait_until(answered, |it| it.as_deref() == Some("web.1")).await;
}

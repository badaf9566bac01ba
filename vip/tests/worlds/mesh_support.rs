//! Worlds that look like two nodes of a Swarm: hosts with a bridge, the engine's doorway behind
//! it, tasks on an overlay that both doorways are on, and a client outside. The bridge has the same
//! addresses on both nodes: each engine takes them from the same pool.
//!
//! Portolan's host namespace is the calling thread's own, so what it does runs on a thread that
//! entered a node's host. Removed with the value.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{
    Batch, ChainKind, CmpOp, Expr, Family, Hook, HookPoint, MetaKey, NatKind, PayloadBase, Socket,
    Table,
};
use kernel::route::{self, Route};
use kernel::{link, socket, sysctl};

pub(crate) use crate::mesh_manager::{Manager, One, Text};

/// The table of what the engine does for its bridge.
pub(crate) const ENGINES: Table<'static> = Table { family: Family::Ip, name: "nat" };

/// Where tasks listen (TCP and UDP): they say their name and whom they see.
pub(crate) const TARGET: u16 = 80;
/// How long a client waits: far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Two nodes and a client outside, on one wire 10.213.0.0/24.
pub(crate) struct Swarm {
    pub(crate) dir: PathBuf,
    names: Vec<PathBuf>,
    wire: Netns,
    overlay: Netns,
    pub(crate) client: Place,
    pub(crate) nodes: [Node; 2],
}

/// A namespace.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) netns: Netns,
    pub(crate) address: Ipv4Addr,
}

/// A node: its host's namespace, and the engine's doorway.
pub(crate) struct Node {
    pub(crate) host: Place,
    pub(crate) doorway: Place,
    pub(crate) bridge: Ipv4Addr,
}

impl Swarm {
    /// With this `rp_filter` on every interface of every namespace.
    pub(crate) fn new(rp_filter: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("mesh-world-{}-{number}", std::process::id()));
        let mut names = Vec::new();
        let mut switch = |name: &str| {
            let path = dir.join(name);
            let netns = link::name_netns(&path).unwrap();
            link::add_bridge(&netns, "br0").unwrap();
            link::set_up(&netns, "br0").unwrap();
            names.push(path);
            netns
        };
        let (wire, overlay) = (switch("wire"), switch("overlay"));
        let mut swarm =
            Building { dir: &dir, names: &mut names, rp_filter, wire: &wire, overlay: &overlay };
        let client = swarm.on_the_wire("client", 100);
        let nodes = [1, 2].map(|number| swarm.node(number));
        Self { dir, names, wire, overlay, client, nodes }
    }

    /// A task of a node, at 10.0.0.`last` of the overlay and 172.31.1.`last` of its bridge,
    /// listening on [`TARGET`].
    pub(crate) fn task(&mut self, node: usize, name: &str, last: u8, rp_filter: &str) -> Place {
        let Self { dir, names, wire, overlay, .. } = self;
        let mut building = Building { dir, names, rp_filter, wire, overlay };
        let place = building.task(&self.nodes[node].host.netns, name, last);
        place.serve(name, TARGET);
        place
    }
}

impl Swarm {
    /// What the engine does for its own mesh on a node: a program of its name listens on the port
    /// on all addresses and never answers, and it is led on as by [`Self::engine_leading`].
    pub(crate) fn engine_holding(&self, node: usize, port: u16) -> Engine {
        self.engine_leading(node, port);
        let host = &self.nodes[node].host.netns;
        let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        let held = socket2::Socket::from(socket::tcp_listener(host, any).unwrap());
        held.set_cloexec(false).unwrap();
        let program = self.dir.join("dockerd");
        std::fs::copy("/bin/sleep", &program).unwrap();
        Engine(std::process::Command::new(program).arg("1000").spawn().unwrap())
    }

    /// The engine's own translation of a published port at all addresses of a node, to its doorway.
    pub(crate) fn engine_leading(&self, node: usize, port: u16) {
        let host = &self.nodes[node].host.netns;
        let table = Table { family: Family::Ip, name: "docker" };
        let hook = |point| Hook { kind: ChainKind::Nat, point, priority: -100 };
        let rule = [
            Expr::FibDaddrType { to: 0 },
            Expr::Cmp { op: CmpOp::Eq, from: 0, data: 2_u32.to_ne_bytes().to_vec() },
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: 0 },
            Expr::Cmp { op: CmpOp::Eq, from: 0, data: port.to_be_bytes().to_vec() },
            Expr::Immediate { to: 0, data: self.nodes[node].doorway_outside().octets().to_vec() },
            Expr::Nat { kind: NatKind::Dnat, address: 0, port: None },
        ];
        let mut batch = Batch::new();
        batch.add_table(table, false);
        for (chain, point) in [("PREROUTING", HookPoint::Prerouting), ("OUTPUT", HookPoint::Output)]
        {
            batch.add_chain(table, chain, Some(hook(point)));
            batch.add_rule(table, chain, &rule, b"");
        }
        Socket::open(host).unwrap().commit(&batch).unwrap();
    }
}

impl Node {
    /// The doorway's address on the bridge.
    pub(crate) fn doorway_outside(&self) -> Ipv4Addr {
        let [.., last] = self.doorway.address.octets();
        Ipv4Addr::new(172, 31, 1, last)
    }
}

impl Place {
    /// What the engine does in each task: whatever comes to a published port it leads to its target.
    pub(crate) fn redirect(&self, ports: &[(u8, u16, u16)]) {
        let table = Table { family: Family::Ip, name: "docker" };
        let (kind, point) = (ChainKind::Nat, HookPoint::Prerouting);
        let mut batch = Batch::new();
        batch.add_table(table, false);
        batch.add_chain(table, "PREROUTING", Some(Hook { kind, point, priority: -100 }));
        for (protocol, published, target) in ports {
            let own = self.address.octets().to_vec();
            let rule = [
                Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: 0 },
                Expr::Cmp { op: CmpOp::Eq, from: 0, data: own.clone() },
                Expr::Meta { key: MetaKey::L4Proto, to: 0 },
                Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![*protocol] },
                Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: 0 },
                Expr::Cmp { op: CmpOp::Eq, from: 0, data: published.to_be_bytes().to_vec() },
                Expr::Immediate { to: 0, data: own },
                Expr::Immediate { to: 1, data: target.to_be_bytes().to_vec() },
                Expr::Nat { kind: NatKind::Dnat, address: 0, port: Some(1) },
            ];
            batch.add_rule(table, "PREROUTING", &rule, b"");
        }
        Socket::open(&self.netns).unwrap().commit(&batch).unwrap();
    }
}

/// A program of the engine's name; it ends with the value.
pub(crate) struct Engine(std::process::Child);

impl Drop for Engine {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for path in &self.names {
            link::unname_netns(path).unwrap();
        }
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

struct Building<'a> {
    dir: &'a PathBuf,
    names: &'a mut Vec<PathBuf>,
    rp_filter: &'a str,
    wire: &'a Netns,
    overlay: &'a Netns,
}

impl Building<'_> {
    fn namespace(&mut self, name: &str) -> (PathBuf, Netns) {
        let path = self.dir.join(name);
        let netns = link::name_netns(&path).unwrap();
        self.names.push(path.clone());
        for which in ["all", "default", "lo"] {
            let name = format!("ipv4/conf/{which}/rp_filter");
            sysctl::write(&netns, &name, self.rp_filter).unwrap();
        }
        (path, netns)
    }

    fn on_the_wire(&mut self, name: &str, last: u8) -> Place {
        let (path, netns) = self.namespace(name);
        let address = Ipv4Addr::new(10, 213, 0, last);
        plug(self.wire, &format!("w{last}"), &netns, "eth0", address);
        Place { path, netns, address }
    }

    fn node(&mut self, number: u8) -> Node {
        let host = self.on_the_wire(&format!("host{number}"), number);
        link::add_bridge(&host.netns, "docker_gwbridge").unwrap();
        let bridge = Ipv4Addr::new(172, 31, 1, 1);
        let with_prefix = format!("{bridge}/24").parse().unwrap();
        link::add_address(&host.netns, "docker_gwbridge", with_prefix).unwrap();
        link::set_up(&host.netns, "docker_gwbridge").unwrap();
        sysctl::write(&host.netns, "ipv4/ip_forward", "1").unwrap();
        masquerade(&host.netns);
        let doorway = self.inside(&host.netns, &format!("ingress_sbox{number}"), number + 1);
        Node { host, doorway, bridge }
    }

    fn task(&mut self, host: &Netns, name: &str, last: u8) -> Place {
        self.inside(host, name, last)
    }

    /// A namespace on the overlay (with the engine's hardware address for it) and on its node's
    /// bridge, by which it leaves.
    fn inside(&mut self, host: &Netns, name: &str, last: u8) -> Place {
        let (path, netns) = self.namespace(name);
        let address = Ipv4Addr::new(10, 0, 0, last);
        plug(self.overlay, &format!("o{last}"), &netns, "eth0", address);
        link::set_mac(&netns, "eth0", [0x02, 0x42, 10, 0, 0, last]).unwrap();
        let on_bridge = Ipv4Addr::new(172, 31, 1, last);
        plug_into(host, "docker_gwbridge", &format!("g{last}"), &netns, "eth1", on_bridge);
        let default = Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            device: "eth1".to_owned(),
            source: None,
            gateway: Some(Ipv4Addr::new(172, 31, 1, 1).into()),
            protocol: 4,
        };
        route::add_route(&netns, &default).unwrap();
        Place { path, netns, address }
    }
}

/// As the engine does: what leaves its bridge leaves as the host.
fn masquerade(host: &Netns) {
    let table = ENGINES;
    let hook = Hook { kind: ChainKind::Nat, point: HookPoint::Postrouting, priority: 100 };
    let mut name = b"docker_gwbridge".to_vec();
    name.resize(16, 0);
    let rule = [
        Expr::Payload { base: PayloadBase::Network, offset: 12, len: 3, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![172, 31, 1] },
        Expr::Meta { key: MetaKey::OifName, to: 0 },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: name },
        Expr::Masquerade,
    ];
    let mut batch = Batch::new();
    batch.add_table(table, false);
    batch.add_chain(table, "POSTROUTING", Some(hook));
    batch.add_rule(table, "POSTROUTING", &rule, b"");
    Socket::open(host).unwrap().commit(&batch).unwrap();
}

fn plug(switch: &Netns, port: &str, netns: &Netns, device: &str, address: Ipv4Addr) {
    plug_into(switch, "br0", port, netns, device, address);
}

fn plug_into(
    switch: &Netns,
    bridge: &str,
    port: &str,
    netns: &Netns,
    device: &str,
    address: Ipv4Addr,
) {
    link::add_veth(switch, port, device, netns).unwrap();
    link::set_master(switch, port, bridge).unwrap();
    link::set_up(switch, port).unwrap();
    link::add_address(netns, device, format!("{address}/24").parse().unwrap()).unwrap();
    link::set_up(netns, device).unwrap();
}

impl Place {
    /// Says `NAME sees ADDRESS` to whoever comes to `port`, over TCP and UDP, and over TCP again for
    /// each byte.
    pub(crate) fn serve(&self, name: &str, port: u16) {
        let here = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = socket::tcp_listener(&self.netns, here).unwrap();
        listener.set_nonblocking(false).unwrap();
        let datagrams = socket::udp_bound(&self.netns, here).unwrap();
        datagrams.set_nonblocking(false).unwrap();
        let (name, named) = (name.to_owned(), name.to_owned());
        thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                let said = format!("{name} sees {}\n", from.ip());
                thread::spawn(move || while say(&said, &mut stream).is_ok() {});
            }
        });
        thread::spawn(move || {
            while let Ok((_, from)) = datagrams.recv_from(&mut [0; 64]) {
                drop(datagrams.send_to(format!("{named} sees {}\n", from.ip()).as_bytes(), from));
            }
        });
    }

    /// What the task behind `to` says first; the connection goes with it.
    pub(crate) fn call(&self, to: (Ipv4Addr, u16)) -> io::Result<(String, TcpStream)> {
        let to = SocketAddr::from(to);
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let mut stream = self.netns.run(connect).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok((listen(&mut stream)?, stream))
    }

    /// As [`Self::call`], from a port of this address.
    pub(crate) fn call_from(
        &self,
        from: (Ipv4Addr, u16),
        to: (Ipv4Addr, u16),
    ) -> io::Result<(String, TcpStream)> {
        let connect = || {
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None)?;
            socket.bind(&SocketAddr::from(from).into())?;
            socket.connect_timeout(&SocketAddr::from(to).into(), PATIENCE)?;
            Ok::<_, io::Error>(TcpStream::from(socket))
        };
        let mut stream = self.netns.run(connect).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok((listen(&mut stream)?, stream))
    }

    /// Who answers, and whom it sees, each time anew.
    pub(crate) fn calls(&self, to: (Ipv4Addr, u16), count: usize) -> Vec<String> {
        let mut said: Vec<_> = (0..count).map(|_| self.call(to).unwrap().0).collect();
        said.sort();
        said.dedup();
        said
    }

    /// A UDP socket here.
    pub(crate) fn datagrams(&self) -> UdpSocket {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let socket = socket::udp_bound(&self.netns, any).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// Says it, and waits until it is asked again.
fn say(said: &str, stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(said.as_bytes())?;
    stream.read_exact(&mut [0])
}

/// The next line of a connection.
pub(crate) fn listen(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != [b'\n'] {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

/// Asks over `socket`: what is said, and by whom.
pub(crate) fn ask(socket: &UdpSocket, to: (Ipv4Addr, u16)) -> io::Result<(String, IpAddr)> {
    socket.send_to(b"?", SocketAddr::from(to))?;
    let mut answer = [0; 64];
    let (length, from) = socket.recv_from(&mut answer)?;
    Ok((String::from_utf8_lossy(&answer[..length]).trim().to_owned(), from.ip()))
}

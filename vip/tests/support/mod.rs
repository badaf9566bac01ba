//! Worlds of real network namespaces: hosts on one bridge, programs that answer with their name.
//!
//! A world is removed with its value. It works as root and inside `unshare -Urnm`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kernel::netns::Netns;
use kernel::{link, socket};
use registry::{Consumer, Outcome, Snapshot};
use tokio::sync::watch;
use vip::{Config, Vip};

/// Where every program listens.
pub const PORT: u16 = 8080;

/// How long a client waits: far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(3);

/// Hosts on one bridge, 10.20.1.0/24.
pub struct World {
    pub dir: PathBuf,
    switch: Netns,
    hosts: Vec<PathBuf>,
}

/// One namespace with one interface.
pub struct Host {
    pub name: String,
    pub address: Ipv4Addr,
    pub netns: Netns,
}

impl World {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vip-world-{}-{number}", std::process::id()));
        let path = dir.join("switch");
        let switch = link::name_netns(&path).unwrap();
        link::add_bridge(&switch, "br0").unwrap();
        link::set_up(&switch, "br0").unwrap();
        Self { dir, switch, hosts: vec![path] }
    }

    pub fn path(&self, host: &str) -> PathBuf {
        self.dir.join(host)
    }

    /// A host with the address 10.20.1.`last`.
    pub fn host(&mut self, name: &str, last: u8) -> Host {
        let path = self.path(name);
        let netns = link::name_netns(&path).unwrap();
        let port = format!("v{last}");
        link::add_veth(&self.switch, &port, "eth0", &netns).unwrap();
        link::set_master(&self.switch, &port, "br0").unwrap();
        link::set_up(&self.switch, &port).unwrap();
        let address = Ipv4Addr::new(10, 20, 1, last);
        link::add_address(&netns, "eth0", format!("{address}/24").parse().unwrap()).unwrap();
        link::set_up(&netns, "eth0").unwrap();
        self.hosts.push(path);
        Host { name: name.to_owned(), address, netns }
    }

    /// Hosts that answer with their names, the first at 10.20.1.`first`.
    pub fn tasks(&mut self, service: &str, count: u8, first: u8) -> Vec<Host> {
        let task = |nth| {
            let host = self.host(&format!("{service}.{nth}"), first + nth - 1);
            host.serve();
            host
        };
        (1..=count).map(task).collect()
    }

    /// A VIP manager with its state in this world.
    pub fn manager(&self) -> Manager {
        let (sender, addresses) = watch::channel(Arc::default());
        let config =
            Config { pool: "240.240.0.0/16".parse().unwrap(), state_dir: self.dir.join("state") };
        Manager { vip: Vip::new(config, sender), addresses, generation: 0 }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for path in &self.hosts {
            link::unname_netns(path).unwrap();
        }
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

impl Host {
    /// Answers TCP connections and UDP packets on [`PORT`] with the host's name.
    pub fn serve(&self) {
        let here = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = socket::tcp_listener(&self.netns, here).unwrap();
        let datagrams = socket::udp_bound(&self.netns, here).unwrap();
        listener.set_nonblocking(false).unwrap();
        datagrams.set_nonblocking(false).unwrap();
        let name = self.name.clone();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                // Who hangs up early does not need the answer.
                drop(stream.write_all(name.as_bytes()));
            }
        });
        let name = self.name.clone();
        std::thread::spawn(move || {
            while let Ok((_, from)) = datagrams.recv_from(&mut [0; 64]) {
                datagrams.send_to(name.as_bytes(), from).unwrap();
            }
        });
    }

    /// Who answers a connection from this host.
    pub fn call(&self, vip: Ipv4Addr) -> io::Result<String> {
        self.netns.run(|| call(vip)).unwrap()
    }

    /// Who answers `count` connections made one after the other.
    pub fn calls(&self, vip: Ipv4Addr, count: usize) -> Vec<String> {
        self.netns.run(|| (0..count).map(|_| call(vip).unwrap()).collect()).unwrap()
    }

    /// A connection that stays open; it is answered only when the task's listener accepts.
    pub fn connect(&self, vip: Ipv4Addr) -> TcpStream {
        let to = SocketAddr::from((vip, PORT));
        self.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap()
    }

    /// A UDP socket of this host.
    pub fn datagrams(&self) -> UdpSocket {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let socket = socket::udp_bound(&self.netns, any).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Whether `address` answers an ICMP echo request.
    pub fn ping(&self, address: Ipv4Addr) -> io::Result<()> {
        self.netns.run(|| ping(address)).unwrap()
    }
}

/// Who answers a connection from the namespace of this thread.
pub fn call(vip: Ipv4Addr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((vip, PORT)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok(name)
}

/// Asks over `socket` and gives who answered, and from which address.
pub fn ask(socket: &UdpSocket, vip: Ipv4Addr) -> io::Result<(String, IpAddr)> {
    socket.send_to(b"?", SocketAddr::from((vip, PORT)))?;
    let mut answer = [0; 64];
    let (length, from) = socket.recv_from(&mut answer)?;
    Ok((String::from_utf8_lossy(&answer[..length]).into_owned(), from.ip()))
}

fn ping(address: Ipv4Addr) -> io::Result<()> {
    use socket2::{Domain, Protocol, Socket, Type};
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SocketAddr::from((address, 0)).into())?;
    // Type, code, checksum, identifier, sequence (RFC 792).
    socket.send(&[8, 0, 0xf7, 0xfd, 0, 1, 0, 1])?;
    let mut answer = [0; 128];
    let length = socket.read(&mut answer)?;
    // Behind the IPv4 header: echo reply.
    assert_eq!((length, answer[20]), (28, 0), "{:?}", &answer[..length]);
    Ok(())
}

/// A VIP manager that a test drives by hand.
pub struct Manager {
    pub vip: Vip,
    pub addresses: watch::Receiver<Arc<vip::Addresses>>,
    generation: u64,
}

impl Manager {
    /// Makes a world file true; nothing may fail.
    pub async fn make(&mut self, world: &str) -> usize {
        let outcome = self.try_make(world).await;
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        outcome.changes
    }

    pub async fn try_make(&mut self, world: &str) -> Outcome {
        let (plan, notes) = self.compile(world);
        assert!(notes.is_empty(), "{notes:?}");
        self.vip.apply(&plan).await
    }

    pub fn compile(&mut self, world: &str) -> (Arc<vip::Plan>, registry::Notes) {
        let draft = registry::source::world::parse(world, "world.toml").unwrap();
        self.generation += 1;
        let (plan, notes) = self.vip.compile(&Snapshot::build(draft, self.generation));
        (Arc::new(plan), notes)
    }
}

/// The tables of a world file.
pub struct Text(pub String);

impl Text {
    /// One network, `frontend`.
    pub fn new() -> Self {
        Self("[[network]]\nname = \"frontend\"\nsubnet = \"10.20.1.0/24\"\n".to_owned())
    }

    pub fn service(mut self, name: &str, vip: Option<&str>) -> Self {
        let vip = vip.map(|vip| format!("vip = {{ frontend = \"{vip}\" }}\n")).unwrap_or_default();
        self.0 += &format!("[[service]]\nname = \"{name}\"\nnetworks = [\"frontend\"]\n{vip}");
        self
    }

    pub fn task(mut self, service: &str, nth: u8, last: u8, state: &str) -> Self {
        self.0 += &format!(
            "[[task]]\nname = \"{service}.{nth}\"\nservice = \"{service}\"\nstate = \"{state}\"\n\
             addresses = {{ frontend = \"10.20.1.{last}\" }}\n"
        );
        self
    }

    /// Serving tasks 1 to `count`, the first at 10.20.1.`first`.
    pub fn tasks(self, service: &str, count: u8, first: u8) -> Self {
        (1..=count).fold(self, |text, nth| text.task(service, nth, first + nth - 1, "serving"))
    }

    pub fn sandbox(mut self, host: &Host, path: &Path) -> Self {
        let Host { name, address, .. } = host;
        self.0 += &format!(
            "[[sandbox]]\nname = \"{name}\"\nnetns = \"{}\"\nnetworks = [\"frontend\"]\n\
             addresses = {{ frontend = \"{address}\" }}\n",
            path.display()
        );
        self
    }
}

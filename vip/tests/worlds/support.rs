//! Worlds of real network namespaces: hosts on one bridge, programs that answer with their name.
//!
//! A world is removed with its value. It works as root and inside `unshare -Urnm`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{Batch, ChainKind, CtKey, Expr, Family, Hook, HookPoint, Socket, Table, Verdict};
use kernel::{link, socket};
use registry::{Consumer, Draft, Outcome, Snapshot};
use tokio::sync::watch;
use vip::{Config, DataPlane, Vip};

/// Where every program listens, and says its name at once.
pub(crate) const PORT: u16 = 8080;
/// Where every program says its name as often as it is sent a byte.
pub(crate) const ECHO: u16 = 8081;

/// How long a client waits: far longer than anything here takes, also on a machine that stalls.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Hosts on one bridge, 10.20.1.0/24.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    /// How VIPs are served.
    pub(crate) data_plane: DataPlane,
    /// Where the bridge is.
    pub(crate) switch: Netns,
    hosts: Vec<PathBuf>,
}

/// One namespace with one interface.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) netns: Netns,
}

impl World {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vip-world-{}-{number}", std::process::id()));
        let path = dir.join("switch");
        let switch = link::name_netns(&path).unwrap();
        link::add_bridge(&switch, "br0").unwrap();
        link::set_up(&switch, "br0").unwrap();
        Self { dir, data_plane: DataPlane::Nftables, switch, hosts: vec![path] }
    }

    pub(crate) fn path(&self, host: &str) -> PathBuf {
        self.dir.join(host)
    }

    /// A host with the address 10.20.1.`last`.
    pub(crate) fn host(&mut self, name: &str, last: u8) -> Host {
        let path = self.path(name);
        let netns = link::name_netns(&path).unwrap();
        let port = format!("v{last}");
        link::add_veth(&self.switch, &port, "eth0", &netns).unwrap();
        link::set_master(&self.switch, &port, "br0").unwrap();
        link::set_up(&self.switch, &port).unwrap();
        let address = Ipv4Addr::new(10, 20, 1, last);
        link::add_address(&netns, "eth0", format!("{address}/24").parse().unwrap()).unwrap();
        // As engines make them: who has the address later is found in the same place.
        link::set_mac(&netns, "eth0", [2, 0x42, 10, 20, 1, last]).unwrap();
        link::set_up(&netns, "eth0").unwrap();
        self.hosts.push(path);
        Host { name: name.to_owned(), address, netns }
    }

    /// Puts another host at this host's address; the first one goes without a word.
    pub(crate) fn replace(&mut self, old: &Host, name: &str) -> Host {
        old.fall_silent();
        let last = old.address.octets()[3];
        link::delete_link(&self.switch, &format!("v{last}")).unwrap();
        self.host(name, last)
    }

    /// Whether the other end of the interface of 10.20.1.`last` is there.
    pub(crate) fn has_port(&self, last: u8) -> bool {
        link::set_up(&self.switch, &format!("v{last}")).is_ok()
    }

    /// Hosts that answer with their names, the first at 10.20.1.`first`.
    pub(crate) fn tasks(&mut self, service: &str, count: u8, first: u8) -> Vec<Host> {
        let task = |nth| {
            let host = self.host(&format!("{service}.{nth}"), first + nth - 1);
            host.serve();
            host
        };
        (1..=count).map(task).collect()
    }

    /// A VIP manager with its state in this world.
    pub(crate) fn manager(&self) -> Manager {
        Manager::new(self.config())
    }

    /// How a VIP manager of this world behaves.
    pub(crate) fn config(&self) -> Config {
        Config {
            pool: "240.240.0.0/16".parse().unwrap(),
            state_dir: self.dir.join("state"),
            data_plane: self.data_plane,
            ..Config::default()
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for path in &self.hosts {
            link::unname_netns(path).unwrap();
        }
        // A manager that has gone may be writing its last file.
        let removed = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(5));
            std::fs::remove_dir_all(&self.dir).is_ok()
        });
        assert!(removed, "{} stays", self.dir.display());
    }
}

impl Host {
    /// Answers on [`PORT`] (TCP and UDP) and on [`ECHO`] (TCP) with the host's name, as long as
    /// the test runs.
    pub(crate) fn serve(&self) {
        let here = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let [listener, echo] = [PORT, ECHO].map(|port| {
            let listener = socket::tcp_listener(&self.netns, here(port)).unwrap();
            listener.set_nonblocking(false).unwrap();
            listener
        });
        let datagrams = socket::udp_bound(&self.netns, here(PORT)).unwrap();
        datagrams.set_nonblocking(false).unwrap();
        let [first, second, third] = [(); 3].map(|()| self.name.clone());
        // Who hangs up early does not need the answer: errors of writing end that connection only.
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                drop(stream.write_all(first.as_bytes()));
            }
        });
        thread::spawn(move || {
            while let Ok((mut stream, _)) = echo.accept() {
                let name = second.clone();
                thread::spawn(move || while say(&name, &mut stream).is_ok() {});
            }
        });
        thread::spawn(move || {
            while let Ok((_, from)) = datagrams.recv_from(&mut [0; 64]) {
                drop(datagrams.send_to(third.as_bytes(), from));
            }
        });
    }

    /// Who answers a connection from this host.
    pub(crate) fn call(&self, vip: Ipv4Addr) -> io::Result<String> {
        self.netns.run(|| call(vip)).unwrap()
    }

    /// Who answers `count` connections made one after the other.
    pub(crate) fn calls(&self, vip: impl Into<IpAddr>, count: usize) -> Vec<String> {
        let vip = vip.into();
        self.netns.run(|| (0..count).map(|_| call(vip).unwrap()).collect()).unwrap()
    }

    /// Who answers a connection from one of this host's addresses.
    pub(crate) fn call_from(&self, own: Ipv4Addr, vip: Ipv4Addr) -> String {
        use socket2::{Domain, Socket, Type};
        let call = || -> io::Result<String> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((own, 0)).into())?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect_timeout(&SocketAddr::from((vip, PORT)).into(), PATIENCE)?;
            let mut name = String::new();
            TcpStream::from(socket).read_to_string(&mut name)?;
            Ok(name)
        };
        self.netns.run(call).unwrap().unwrap()
    }

    /// A connection that stays open, to [`ECHO`].
    pub(crate) fn connect(&self, vip: Ipv4Addr) -> TcpStream {
        let to = SocketAddr::from((vip, ECHO));
        let stream = self.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A UDP socket of this host.
    pub(crate) fn datagrams(&self) -> UdpSocket {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let socket = socket::udp_bound(&self.netns, any).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Has conntrack and translation on, as they are in a container: there the engine's own rules
    /// ask for them, whoever else does.
    pub(crate) fn track(&self) {
        let table = Table { family: Family::Ip, name: "engine" };
        let hook = Hook { kind: ChainKind::Nat, point: HookPoint::Output, priority: -100 };
        self.nft(|batch| {
            batch.add_table(table, false);
            batch.add_chain(table, "output", Some(hook));
            batch.add_rule(table, "output", &[Expr::Ct { key: CtKey::State, to: 0 }], b"");
        });
    }

    /// Answers nobody from now on, as a host whose engine hangs.
    pub(crate) fn fall_silent(&self) {
        let table = Table { family: Family::Ip, name: "silent" };
        let hook = Hook { kind: ChainKind::Filter, point: HookPoint::Input, priority: 0 };
        self.nft(|batch| {
            batch.add_table(table, false);
            batch.add_chain(table, "input", Some(hook));
            batch.add_rule(table, "input", &[Expr::Verdict(Verdict::Drop)], b"");
        });
    }

    /// Does to this host's tables what somebody else might.
    pub(crate) fn nft(&self, change: impl FnOnce(&mut Batch)) {
        let mut batch = Batch::new();
        change(&mut batch);
        Socket::open(&self.netns).unwrap().commit(&batch).unwrap();
    }

    /// Whether `address` answers an ICMP echo request.
    pub(crate) fn ping(&self, address: Ipv4Addr) -> io::Result<()> {
        self.netns.run(|| ping(address)).unwrap()
    }
}

/// Threads that call a VIP from one host, over and over.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(usize, Vec<io::Error>)>>,
}

impl Load {
    pub(crate) fn begin(netns: Netns, threads: usize, vip: Ipv4Addr) -> Self {
        let (stop, netns) = (Arc::new(AtomicBool::new(false)), Arc::new(netns));
        let thread = |_| {
            let (stop, netns) = (Arc::clone(&stop), Arc::clone(&netns));
            let work = move || {
                let (mut done, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    failed.extend(call(vip).err());
                    done += 1;
                }
                (done, failed)
            };
            thread::spawn(move || netns.run(work).unwrap())
        };
        let threads = (0..threads).map(thread).collect();
        Self { stop, threads }
    }

    /// How many calls there were, and what those said that failed.
    pub(crate) fn end(self) -> (usize, Vec<io::Error>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut done, mut failed) = (0, Vec::new());
        for thread in self.threads {
            let (more, errors) = thread.join().unwrap();
            done += more;
            failed.extend(errors);
        }
        (done, failed)
    }
}

fn say(name: &str, stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0])?;
    stream.write_all(name.as_bytes())
}

/// Who answers a connection from the namespace of this thread.
pub(crate) fn call(vip: impl Into<IpAddr>) -> io::Result<String> {
    let to = SocketAddr::new(vip.into(), PORT);
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok(name)
}

/// Sends a packet from the namespace of this thread, whoever gets it.
pub(crate) fn send(vip: Ipv4Addr) -> io::Result<usize> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"?", SocketAddr::from((vip, PORT)))
}

/// Who is at the other end of a connection made with [`Host::connect`].
pub(crate) fn echo(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"?")?;
    let mut name = [0; 64];
    let length = stream.read(&mut name)?;
    Ok(String::from_utf8_lossy(&name[..length]).into_owned())
}

/// Waits until `is` is so; says what was seen last if it never is.
pub(crate) async fn wait_until<T: std::fmt::Debug>(
    mut see: impl FnMut() -> T,
    is: impl Fn(&T) -> bool,
) {
    let begun = std::time::Instant::now();
    loop {
        let seen = see();
        if is(&seen) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks over `socket` and gives who answered, and from which address.
pub(crate) fn ask(socket: &UdpSocket, vip: Ipv4Addr) -> io::Result<(String, IpAddr)> {
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
pub(crate) struct Manager {
    pub(crate) vip: Vip,
    pub(crate) addresses: watch::Receiver<Arc<vip::Addresses>>,
    generation: u64,
}

impl Manager {
    pub(crate) fn new(config: Config) -> Self {
        let (sender, addresses) = watch::channel(Arc::default());
        Self { vip: Vip::new(config, sender), addresses, generation: 0 }
    }

    /// Makes a world file true; nothing may fail.
    pub(crate) async fn make(&mut self, world: &str) -> usize {
        let outcome = self.try_make(world).await;
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        outcome.changes
    }

    pub(crate) async fn try_make(&mut self, world: &str) -> Outcome {
        let (plan, notes) = self.compile(world);
        assert!(notes.is_empty(), "{notes:?}");
        self.vip.apply(&plan).await
    }

    /// As with an engine that does not tell yet who serves on its networks.
    pub(crate) async fn make_unread(&mut self, world: &str) -> Outcome {
        let mut draft = registry::source::world::parse(world, "world.toml").unwrap();
        draft.unread = draft.networks.iter().map(|it| it.id.clone()).collect();
        let (plan, _notes) = self.compile_draft(draft);
        self.vip.apply(&plan).await
    }

    pub(crate) fn compile(&mut self, world: &str) -> (Arc<vip::Plan>, registry::Notes) {
        self.compile_draft(registry::source::world::parse(world, "world.toml").unwrap())
    }

    fn compile_draft(&mut self, draft: Draft) -> (Arc<vip::Plan>, registry::Notes) {
        self.generation += 1;
        let (plan, notes) = self.vip.compile(&Arc::new(Snapshot::build(draft, self.generation)));
        (Arc::new(plan), notes)
    }
}

/// The tables of a world file.
pub(crate) struct Text(pub(crate) String);

impl Text {
    /// One network, `frontend`.
    pub(crate) fn new() -> Self {
        Self("[[network]]\nname = \"frontend\"\nsubnet = \"10.20.1.0/24\"\n".to_owned())
    }

    pub(crate) fn service(mut self, name: &str, vip: Option<&str>) -> Self {
        let vip = vip.map(|vip| format!("vip = {{ frontend = \"{vip}\" }}\n")).unwrap_or_default();
        let text = format!("[[service]]\nname = \"{name}\"\nnetworks = [\"frontend\"]\n{vip}");
        self.0.push_str(&text);
        self
    }

    /// Gives the service that was just named a label; it may have one.
    pub(crate) fn labelled(mut self, key: &str, value: &str) -> Self {
        let text = format!("labels = {{ \"{key}\" = \"{value}\" }}\n");
        self.0.push_str(&text);
        self
    }

    pub(crate) fn task(mut self, service: &str, nth: u8, last: u8, state: &str) -> Self {
        let text = format!(
            "[[task]]\nname = \"{service}.{nth}\"\nservice = \"{service}\"\nstate = \"{state}\"\n\
             addresses = {{ frontend = \"10.20.1.{last}\" }}\n"
        );
        self.0.push_str(&text);
        self
    }

    /// Serving tasks 1 to `count`, the first at 10.20.1.`first`.
    pub(crate) fn tasks(self, service: &str, count: u8, first: u8) -> Self {
        (1..=count).fold(self, |text, nth| text.task(service, nth, first + nth - 1, "serving"))
    }

    pub(crate) fn sandbox(mut self, host: &Host, path: &Path) -> Self {
        let Host { name, address, .. } = host;
        let text = format!(
            "[[sandbox]]\nname = \"{name}\"\nnetns = \"{}\"\nnetworks = [\"frontend\"]\n\
             addresses = {{ frontend = \"{address}\" }}\n",
            path.display()
        );
        self.0.push_str(&text);
        self
    }
}

//! What the tests on real namespaces share: a sandbox to ask from, servers to be asked, and a
//! resolver over a world in TOML.
#![allow(dead_code, clippy::allow_attributes, reason = "each of its users takes its part")]

pub(crate) mod crowd;
pub(crate) mod tls;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use kernel::netns::Netns;
use registry::{Consumer, Notes, Outcome, Snapshot};
use resolver::{Config, HolderProgram, HostSockets, Resolver, VipTable};
use tokio::sync::watch;

/// Where every sandbox asks.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// A network namespace that lasts as long as this value.
pub(crate) struct Sandbox {
    keeper: Child,
}

impl Sandbox {
    /// A new one with its loopback up, as an engine hands it to a container.
    pub(crate) fn new() -> Self {
        let script = "ip link set lo up && echo ready && exec sleep 600";
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        keeper.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self { keeper }
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.keeper.id()).into()
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::open(&self.path()).unwrap()
    }

    /// Runs a shell command inside; its output.
    pub(crate) fn run(&self, script: &str) -> String {
        let net = format!("--net={}", self.path().display());
        let done = Command::new("nsenter").args([&net, "sh", "-c", script]).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// `dig` inside, its answers sorted, in one line.
    pub(crate) fn dig(&self, what: &str) -> String {
        let said = self.run(&format!("dig +short +time=3 +tries=1 @{ADDRESS} {what} || true"));
        let mut lines: Vec<_> = said.lines().collect();
        lines.sort_unstable();
        lines.join(" ")
    }

    /// The header lines of `dig`: status, flags and counts, in one line.
    pub(crate) fn dig_header(&self, what: &str) -> String {
        let said = self.run(&format!("dig +time=6 +tries=1 @{ADDRESS} {what} || true"));
        let interesting =
            |it: &&str| it.contains("status:") || it.contains("flags:") || it.contains("EDE:");
        said.lines().filter(interesting).collect::<Vec<_>>().join(" ")
    }

    /// A UDP socket inside, connected to 127.0.0.11:53.
    pub(crate) fn client(&self) -> UdpSocket {
        let socket =
            kernel::socket::udp_connected(&self.netns(), SocketAddr::from((ADDRESS, 53))).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket
    }

    /// Lets an "engine" that answers every name with `address` have 127.0.0.11:53, as Docker does.
    pub(crate) fn engine(&self, address: Ipv4Addr) -> Server {
        self.engine_that(move |query| Some(reply(query, 0, &[address])))
    }

    /// Lets an "engine" that answers so have 127.0.0.11:53.
    pub(crate) fn engine_that(
        &self,
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static,
    ) -> Server {
        let socket = kernel::socket::udp_bound(&self.netns(), (ADDRESS, 0).into()).unwrap();
        let port = socket.local_addr().unwrap().port();
        self.run(&format!(
            "nft 'add table ip docker; \
             add chain ip docker output {{ type nat hook output priority -100; }}; \
             add rule ip docker output ip daddr {ADDRESS} udp dport 53 dnat to {ADDRESS}:{port}; \
             add chain ip docker post {{ type nat hook postrouting priority 100; }}; \
             add rule ip docker post ip saddr {ADDRESS} udp sport {port} snat to :53'"
        ));
        Server::on(socket, None, answer)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

/// A name server made of a function from query to reply.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// On this process's loopback.
    pub(crate) fn start(
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static,
    ) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
        Self::on(udp, Some(tcp), answer)
    }

    /// On given sockets. Over TCP the query is marked by a leading octet 255.
    pub(crate) fn on(
        udp: UdpSocket,
        tcp: Option<TcpListener>,
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static,
    ) -> Self {
        let address = udp.local_addr().unwrap();
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        udp.set_nonblocking(false).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (count, ended, by_udp) = (Arc::clone(&asked), Arc::clone(&stop), answer.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ended.load(SeqCst) {
                let Ok((length, client)) = udp.recv_from(&mut buffer) else { continue };
                count.fetch_add(1, SeqCst);
                if let Some(reply) = by_udp(&buffer[..length]) {
                    udp.send_to(&reply, client).unwrap();
                }
            }
        });
        if let Some(listener) = tcp {
            std::thread::spawn(move || {
                listener.incoming().for_each(|it| serve_stream(it.unwrap(), &answer));
            });
        }
        Self { address, asked, stop }
    }

    /// How often it was asked over UDP.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

fn serve_stream(mut stream: TcpStream, answer: &impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut query).unwrap();
    query.push(255);
    let reply = answer(&query).unwrap();
    stream.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&reply).unwrap();
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

/// A reply to `query` with that code and those addresses, TTL 600, without EDNS.
pub(crate) fn reply(query: &[u8], code: u8, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let mut reply = query[..end + 5].to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80 | code;
    reply[4..12].copy_from_slice(&[0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    for address in addresses {
        reply.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x02\x58\0\x04");
        reply.extend_from_slice(&address.octets());
    }
    reply
}

/// The name that `query` asks for, as text, and its type.
pub(crate) fn question(query: &[u8]) -> (String, u16) {
    let (mut at, mut name) = (12, String::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        name.push_str(std::str::from_utf8(&query[at + 1..end]).unwrap());
        name.push('.');
        at = end;
    }
    (name, u16::from_be_bytes([query[at + 1], query[at + 2]]))
}

/// What an installation begins with.
pub(crate) fn config() -> Config {
    Config {
        ttl: Duration::from_secs(5),
        vip_ttl: Duration::from_secs(30),
        forward_single_label: false,
        host_listen: None,
        upstream: resolver::UpstreamConfig::default(),
    }
}

/// A resolver that is driven by hand.
pub(crate) struct Driven {
    pub(crate) resolver: Resolver,
    pub(crate) vips: watch::Sender<Arc<VipTable>>,
    /// Whether the host trusts its servers (`options trust-ad`).
    pub(crate) trusts_ad: bool,
    runtime: tokio::runtime::Runtime,
    last: Arc<Snapshot>,
}

impl Driven {
    pub(crate) fn new(host: Option<HostSockets>) -> Self {
        Self::configured(config(), host)
    }

    pub(crate) fn configured(config: Config, host: Option<HostSockets>) -> Self {
        let (vips, table) = watch::channel(Arc::default());
        let resolver = Resolver::new(config, table, host).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { resolver, vips, trusts_ad: false, runtime, last: Arc::default() }
    }

    /// One whose sandboxes `holder` gives back when this process dies.
    pub(crate) fn held(holder: HolderProgram) -> Self {
        let driven = Self::new(None);
        Self { resolver: driven.resolver.held_by(holder), ..driven }
    }

    /// Makes this world true, whatever comes of it.
    pub(crate) fn try_apply(&mut self, world: &str, gossip: bool) -> Outcome {
        let (notes, outcome) = self.apply_noting(world, gossip);
        assert!(notes.is_empty(), "{notes:?}");
        outcome
    }

    /// Makes this world true; what compiling it says.
    pub(crate) fn noted(&mut self, world: &str) -> Notes {
        let (notes, outcome) = self.apply_noting(world, false);
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        notes
    }

    fn apply_noting(&mut self, world: &str, gossip: bool) -> (Notes, Outcome) {
        let mut draft = registry::source::world::parse(world, "world.toml")
            .unwrap_or_else(|faults| panic!("{faults:#?}"));
        for sandbox in &mut draft.sandboxes {
            sandbox.trusts_ad = self.trusts_ad;
        }
        if gossip {
            for network in &mut draft.networks {
                network.names = registry::model::Completeness::Gossip;
            }
        }
        let snapshot = self.next(draft);
        let (plan, notes) = self.resolver.compile(&snapshot);
        (notes, self.runtime.block_on(self.resolver.apply(&Arc::new(plan))))
    }

    /// The snapshot of this world, as a source makes it.
    fn next(&mut self, draft: registry::Draft) -> Arc<Snapshot> {
        self.last = Arc::new(self.last.followed_by(draft));
        Arc::clone(&self.last)
    }

    /// Makes this world true, calling `between` before and after the compile and after the apply.
    pub(crate) fn observed(&mut self, world: &str, mut between: impl FnMut()) {
        let draft = registry::source::world::parse(world, "world.toml").unwrap();
        let snapshot = self.next(draft);
        between();
        let (plan, _) = self.resolver.compile(&snapshot);
        between();
        let outcome = self.runtime.block_on(self.resolver.apply(&Arc::new(plan)));
        between();
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    }

    /// Makes this world true; the number of changes.
    pub(crate) fn apply(&mut self, world: &str) -> usize {
        let outcome = self.try_apply(world, false);
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        outcome.changes
    }
}

/// Waits until `done`, or fails with what was last seen.
#[track_caller]
pub(crate) fn eventually<T: std::fmt::Debug>(
    within: Duration,
    mut look: impl FnMut() -> T,
    done: impl Fn(&T) -> bool,
) -> Duration {
    let begun = Instant::now();
    loop {
        let seen = look();
        if done(&seen) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < within, "after {within:?} still {seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two networks, a VIP service on one, a sandbox on each.
pub(crate) fn world(front: &Sandbox, back: &Sandbox, upstreams: &[String]) -> String {
    format!(
        r#"
        [[network]]
        name = "front"
        subnet = "10.20.1.0/24"

        [[network]]
        name = "back"
        subnet = "10.20.2.0/24"
        internal = true

        [[service]]
        name = "web"
        networks = ["front"]
        vip = {{ front = "10.20.1.2" }}

        [[task]]
        name = "web.1"
        service = "web"
        addresses = {{ front = "10.20.1.11" }}

        [[task]]
        name = "db"
        addresses = {{ back = "10.20.2.31" }}

        [[sandbox]]
        name = "web.1"
        netns = "{}"
        networks = ["front"]
        upstreams = {upstreams:?}

        [[sandbox]]
        name = "db"
        netns = "{}"
        networks = ["back"]
        upstreams = {upstreams:?}
        "#,
        front.path().display(),
        back.path().display(),
    )
}

/// One network, a VIP service and a sandbox that asks `upstreams`, dialled from `dial`.
pub(crate) fn one_world(sandbox: &Sandbox, upstreams: &[String], dial: &str) -> String {
    format!(
        r#"
        [[network]]
        name = "net"
        subnet = "10.1.0.0/16"

        [[service]]
        name = "web"
        networks = ["net"]
        vip = {{ net = "10.1.0.2" }}

        [[task]]
        name = "box"
        addresses = {{ net = "10.1.0.3" }}

        [[sandbox]]
        name = "box"
        netns = "{}"
        networks = ["net"]
        upstreams = {upstreams:?}
        dial = "{dial}"
        "#,
        sandbox.path().display(),
    )
}

/// The same with nobody to ask.
pub(crate) fn small_world(sandbox: &Sandbox) -> String {
    one_world(sandbox, &[], "host")
}

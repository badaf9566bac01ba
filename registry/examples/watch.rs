//! Follows a Docker engine and prints each world that it publishes, one line a change.
//!
//! `watch unix:///var/run/docker.sock [SECONDS]`, as root. For trying things out by hand; the host
//! behind it is the simplest that works.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kernel::neighbour::NeighbourWatch;
use kernel::netns::{Netns, cookie_of};
use kernel::route::addresses;
use kernel::socket::{udp_connected, udp_ports_bound_to};
use registry::Snapshot;
use registry::id::NetworkId;
use registry::model::{Network, Sandbox, Service, Task};
use registry::source::docker::{Config, Host, run};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

struct Machine;

impl Host for Machine {
    fn netns_cookie(&self, path: &Path) -> io::Result<u64> {
        cookie_of(path).map_err(io::Error::other)
    }

    fn netns_addresses(&self, path: &Path) -> io::Result<Vec<IpAddr>> {
        let netns = Netns::open(path).map_err(io::Error::other)?;
        let held = addresses(&netns).map_err(io::Error::other)?;
        Ok(held.into_iter().map(|(_, address)| address.addr()).collect())
    }

    fn host_cookie(&self) -> io::Result<u64> {
        cookie_of(Path::new("/proc/self/ns/net")).map_err(io::Error::other)
    }

    #[expect(clippy::manual_async_fn, reason = "the future must not borrow the host")]
    fn watch_neighbours(
        &self,
        path: PathBuf,
        nudge: mpsc::Sender<()>,
    ) -> impl Future<Output = ()> + Send + 'static {
        async move {
            let Ok(mut neighbours) = NeighbourWatch::open(&path) else { return };
            while neighbours.changed().await.is_some() {
                nudge.try_send(()).ok();
            }
        }
    }

    async fn engine_tasks(&self, path: &Path, name: &str) -> Option<Vec<Ipv4Addr>> {
        let netns = Netns::open(path).ok()?;
        for port in udp_ports_bound_to(&netns, Ipv4Addr::new(127, 0, 0, 11)).ok()? {
            let server = SocketAddr::from(([127, 0, 0, 11], port));
            let socket = udp_connected(&netns, server).ok()?;
            socket.set_nonblocking(true).ok()?;
            let socket = tokio::net::UdpSocket::from_std(socket).ok()?;
            let asked = async {
                socket.send(&question(name)).await.ok()?;
                let mut reply = [0; 1500];
                let length = socket.recv(&mut reply).await.ok()?;
                answered(reply.get(..length)?)
            };
            if let Ok(Some(found)) = timeout(Duration::from_millis(400), asked).await {
                return Some(found);
            }
        }
        None
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let endpoint = arguments.next().unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let seconds = arguments.next().and_then(|it| it.parse().ok()).unwrap_or(3600);
    let config = Config { endpoint, poll_interval: Duration::from_secs(30) };
    let (sender, mut world) = watch::channel(Arc::new(Snapshot::default()));
    let stop = CancellationToken::new();
    let printing = async {
        let mut last = BTreeMap::new();
        while world.changed().await.is_ok() {
            let snapshot = Arc::clone(&world.borrow_and_update());
            let now = lines(&snapshot);
            print(&snapshot, &last, &now);
            last = now;
        }
    };
    tokio::select! {
        () = run(config, Machine, sender, stop.clone()) => {}
        () = printing => {}
        () = tokio::time::sleep(Duration::from_secs(seconds)) => stop.cancel(),
    }
}

/// A line for each thing of the world, by a key that stays.
fn lines(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let networks = snapshot.networks().map(|it| (format!("network {}", it.id), network(it)));
    let services =
        snapshot.services().map(|it| (format!("service {}", it.id), service(snapshot, it)));
    let tasks = snapshot.tasks().map(|it| (format!("task {}", it.id), task(snapshot, it)));
    let sandboxes =
        snapshot.sandboxes().map(|it| (format!("sandbox {}", it.id), sandbox(snapshot, it)));
    let nodes = snapshot.nodes().map(|it| {
        let line = format!("{} {:?} {} ingress {:?}", it.name, it.address, it.state, it.ingress);
        (format!("node {}", it.id), line)
    });
    let notes = snapshot.notes().iter().map(|it| (format!("note {it}"), String::new()));
    let stale = snapshot.stale().map(|it| ("stale".to_owned(), it.to_owned()));
    let things = networks.chain(services).chain(tasks).chain(sandboxes).chain(nodes);
    things.chain(notes).chain(stale).collect()
}

fn network(it: &Network) -> String {
    let subnets: Vec<_> = it.subnets.iter().map(ToString::to_string).collect();
    let internal = if it.internal { " internal" } else { "" };
    let ingress = if it.ingress { " ingress" } else { "" };
    let Network { name, driver, names, reach, .. } = it;
    format!("{name} {driver} {subnets:?} {names:?} {reach:?}{internal}{ingress}")
}

fn service(snapshot: &Snapshot, it: &Service) -> String {
    let on = it.networks.iter();
    let on: Vec<_> =
        on.map(|(id, on)| format!("{}={:?}{:?}", name(snapshot, id), on.vip, on.aliases)).collect();
    let ports = it.ports.iter();
    let ports: Vec<_> =
        ports.map(|it| format!("{}:{}/{}", it.published, it.target, it.protocol)).collect();
    let Service { name, mode, stack, labels, .. } = it;
    format!("{name} {mode} {stack:?} {on:?} ports {ports:?} labels {}", labels.len())
}

fn task(snapshot: &Snapshot, it: &Task) -> String {
    let on = it.networks.iter();
    let on: Vec<_> = on
        .map(|(id, on)| format!("{}={:?}{:?}", name(snapshot, id), on.addresses, on.names))
        .collect();
    let Task { name, state, reason, service, node, .. } = it;
    format!("{name} {state} ({reason}) of {service:?} on {node:?} {on:?}")
}

fn sandbox(snapshot: &Snapshot, it: &Sandbox) -> String {
    let on = it.networks.iter();
    let on: Vec<_> =
        on.map(|on| format!("{}={:?}", name(snapshot, &on.network), on.addresses)).collect();
    let asks = it.upstreams.iter();
    let asks: Vec<_> = asks.map(|it| format!("{:?} {}", it.dial, it.address)).collect();
    let Sandbox { name, hostname, tasks, links, .. } = it;
    format!("{name} {hostname} {on:?} links {links:?} asks {asks:?} tasks {}", tasks.len())
}

fn name<'a>(snapshot: &'a Snapshot, id: &NetworkId) -> &'a str {
    snapshot.network(id).map_or("?", |it| &it.name)
}

#[expect(clippy::disallowed_methods, reason = "the wall clock is what is printed")]
fn print(snapshot: &Snapshot, last: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = format!("{:.4} g{}", clock.as_secs_f64(), snapshot.generation());
    let mut out = io::stdout().lock();
    for (key, line) in now.iter().filter(|(key, line)| last.get(*key) != Some(line)) {
        let sign = if last.contains_key(key) { '~' } else { '+' };
        writeln!(out, "{stamp} {sign} {key} {line}").ok();
    }
    for key in last.keys().filter(|it| !now.contains_key(*it)) {
        writeln!(out, "{stamp} - {key}").ok();
    }
    out.flush().ok();
}

fn question(name: &str) -> Vec<u8> {
    let mut query = vec![0x4d, 0x21, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.extend(u8::try_from(label.len()));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// The addresses of a reply of A records whose owner names are compressed, as the engine's are.
fn answered(reply: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let count = u16::from_be_bytes([*reply.get(6)?, *reply.get(7)?]);
    let is_plain = *reply.get(2)? & 0x02 == 0 && *reply.get(3)? % 16 == 0;
    let mut at = 12;
    while *reply.get(at)? != 0 {
        at += usize::from(*reply.get(at)?) + 1;
    }
    at += 5;
    let mut found = Vec::new();
    for _ in 0..count {
        while *reply.get(at)? & 0xc0 == 0 && *reply.get(at)? != 0 {
            at += usize::from(*reply.get(at)?) + 1;
        }
        at += if *reply.get(at)? & 0xc0 == 0xc0 { 2 } else { 1 };
        let bytes: [u8; 4] = reply.get(at + 10..at + 14)?.try_into().ok()?;
        found.push(Ipv4Addr::from(bytes));
        at += 14;
    }
    is_plain.then_some(found)
}

//! One try from inside the sandbox: a TCP connection, a datagram, or an echo request.
//!
//! Always true here: nothing is sent but what a client would send, and nobody waits for more than
//! [`WAIT`].

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use kernel::conntrack;
use kernel::echo::echo;
use kernel::netns::Netns;
use registry::Snapshot;
use registry::model::Protocol;
use tokio::time::Instant;

use super::Target;
use super::subject::Subject;
use crate::plan::SandboxPlan;
use crate::sandbox;

/// How long an answer is waited for.
pub(super) const WAIT: Duration = Duration::from_secs(2);

/// What became of one try.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// How it ended.
    pub outcome: Outcome,
    /// How long that took.
    pub took: Duration,
    /// Who it was led to, as conntrack says.
    pub task: Option<IpAddr>,
}

/// How a try ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Somebody answered.
    Answered,
    /// The connection was reset or an ICMP error came: somebody is there and nobody listens, or a
    /// rule refuses.
    Refused,
    /// Nothing came.
    Silent,
    /// It could not be tried, or failed on the way; the error.
    Failed(String),
}

/// Tries `target` from the sandbox.
pub(super) fn probe(place: &SandboxPlan, target: Target) -> Probe {
    let begun = Instant::now();
    let tried = try_once(place, target);
    let took = begun.elapsed();
    match tried {
        Ok(task) => Probe { outcome: Outcome::Answered, took, task },
        Err(error) => {
            let is = |kinds: &[ErrorKind]| kinds.contains(&error.kind());
            let outcome = if is(&[ErrorKind::ConnectionRefused]) {
                Outcome::Refused
            } else if is(&[ErrorKind::TimedOut, ErrorKind::WouldBlock]) {
                Outcome::Silent
            } else {
                Outcome::Failed(error.to_string())
            };
            Probe { outcome, took, task: None }
        }
    }
}

fn try_once(place: &SandboxPlan, target: Target) -> io::Result<Option<IpAddr>> {
    let netns = sandbox::open(&place.netns, place.cookie).map_err(io::Error::other)?;
    let gone = || io::Error::new(ErrorKind::NotFound, "its network namespace is gone");
    let netns = netns.ok_or_else(gone)?;
    let Some((port, protocol)) = target.service_port() else {
        return echo(&netns, target.address, WAIT).map(|()| None);
    };
    let whom = SocketAddr::new(target.address, port);
    if protocol == Protocol::Udp {
        return datagram(&netns, whom);
    }
    let connected = netns.run(|| TcpStream::connect_timeout(&whom, WAIT));
    let stream = connected.map_err(io::Error::other)??;
    Ok(led_to(&netns, stream.local_addr()?, whom))
}

fn datagram(netns: &Netns, whom: SocketAddr) -> io::Result<Option<IpAddr>> {
    let any: IpAddr = match whom {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = netns.run(|| UdpSocket::bind((any, 0))).map_err(io::Error::other)??;
    socket.set_read_timeout(Some(WAIT))?;
    socket.connect(whom)?;
    socket.send(if whom.port() == DNS { &ROOT_SERVERS } else { &[] })?;
    socket.recv(&mut [0; 1])?;
    Ok(led_to(netns, socket.local_addr()?, whom))
}

/// The port of DNS.
const DNS: u16 = 53;
/// Which are the root servers? (RFC 1035 section 4)
const ROOT_SERVERS: [u8; 17] = [0x70, 0x6f, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// To whom conntrack led the connection.
fn led_to(netns: &Netns, own: SocketAddr, whom: SocketAddr) -> Option<IpAddr> {
    let flows = conntrack::flows(netns).ok()?;
    let flow = flows.iter().find(|it| {
        (it.original_source, it.original_source_port) == (own.ip(), own.port())
            && (it.original_destination, it.original_port) == (whom.ip(), whom.port())
    })?;
    Some(flow.reply_source)
}

impl Probe {
    pub(super) fn in_words(&self, snapshot: &Snapshot, subject: &Subject<'_>) -> String {
        let Self { outcome, took, task } = self;
        let took = format!("{:.1} ms", took.as_secs_f64() * 1e3);
        let by = match task {
            Some(address) => format!(" by {}", named(snapshot, subject, *address)),
            None => String::new(),
        };
        match outcome {
            Outcome::Answered => format!("answered{by} after {took}"),
            Outcome::Refused => format!("refused after {took}"),
            Outcome::Silent => format!("no answer within {took}"),
            Outcome::Failed(error) => format!("failed after {took}: {error}"),
        }
    }
}

/// `app.3 (10.0.1.7)`.
fn named(snapshot: &Snapshot, subject: &Subject<'_>, address: IpAddr) -> String {
    let tasks = subject.service().into_iter().flat_map(|it| snapshot.tasks_of(it));
    let has = |it: &&registry::model::Task| {
        it.networks.values().any(|place| place.addresses.contains(&address))
    };
    let task = tasks.filter(has).map(|it| format!("{} ({address})", it.name)).next();
    task.unwrap_or_else(|| address.to_string())
}

//! What a service asks of its VIP, of the mesh and of health checks, typed: the outcome of reading
//! its `portolan.vip.*`, `portolan.mesh.*` and `portolan.health.*` labels.
//!
//! Always true here: the default is what a service without such labels gets; every list is bounded
//! by its reader.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::Protocol;

/// How a service wants its connections balanced, and who may come.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BalanceSpec {
    /// Which task a client gets (`portolan.vip.affinity`).
    pub affinity: Affinity,
    /// Which tasks come first (`portolan.vip.prefer`).
    pub prefer: Prefer,
    /// The VIPs it wants instead of an allocated one: by network as the user wrote it
    /// (`portolan.vip.address.NETWORK`), and under the empty name for all others
    /// (`portolan.vip.address`). Any address that can be read, not yet checked against a network.
    pub address: BTreeMap<String, IpAddr>,
    /// How its tasks are probed; `None`: what the engine says of them decides alone.
    pub health: Option<HealthCheck>,
    /// Where its published ports are to be had (`portolan.mesh.bind`); empty: everywhere.
    pub bind: Vec<Bind>,
    /// Whether its published ports are relayed with a PROXY protocol version 2 header in front
    /// (`portolan.mesh.proxy_protocol`).
    pub proxy_protocol: bool,
    /// Ports that a plane which must listen serves besides the published ones
    /// (`portolan.vip.ports`). Each once.
    pub ports: Vec<(u16, Protocol)>,
    /// How long connections to a draining task may go on (`portolan.vip.drain`); `None`: as
    /// configured for all.
    pub drain: Option<Duration>,
}

/// Which of the serving tasks a client's connection goes to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub enum Affinity {
    /// The next one.
    #[default]
    None,
    /// The one this client address had, while it serves.
    Client,
}

/// Which tasks come first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub enum Prefer {
    /// All alike.
    #[default]
    Any,
    /// Those of the client's own node, while any of them serves.
    Node,
}

/// Where a published port is to be had.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Bind {
    /// At this address of the node; an unspecified one means all of its family.
    Address(IpAddr),
    /// For who comes by the interface of this name, which need not exist; the node itself does not. A name that Linux
    /// allows: 1 to 15 octets, no slash, colon or white space.
    Interface(String),
    /// Nowhere: stands for what could not be read, so that a mistake opens no port to more than
    /// were meant.
    Nowhere,
}

/// How the tasks of a service are probed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// What is done.
    pub probe: Probe,
    /// From the begin of one probe to that of the next, 1 s to 1 h.
    pub interval: Duration,
    /// How long a probe may take, 100 ms to 1 min.
    pub timeout: Duration,
    /// Successes in a row that bring a failed task back, 1 to 100.
    pub rise: u32,
    /// Failures in a row that take a task out, 1 to 100.
    pub fall: u32,
}

/// What a probe does, and what it takes for success.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// Connects, and closes.
    Tcp {
        /// The port in the task.
        port: u16,
    },
    /// Sends `GET path` and wants a status of 2xx or 3xx.
    Http {
        /// The port in the task.
        port: u16,
        /// Path with a leading slash, and query.
        path: String,
        /// `Host` of the request; `None`: the task's address and port.
        host: Option<String>,
    },
}

impl HealthCheck {
    /// The check that does `probe` as often as is usual.
    pub fn new(probe: Probe) -> Self {
        let interval = Duration::from_secs(10);
        Self { probe, interval, timeout: Duration::from_secs(2), rise: 2, fall: 3 }
    }
}

impl Probe {
    /// The port in the task that is probed.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp { port } | Self::Http { port, .. } => *port,
        }
    }

    /// What it is called in messages: `tcp` or `http`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
        }
    }
}

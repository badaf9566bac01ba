//! What is to be relayed: from which entrance to which tasks.
//!
//! A plan is plain values, ordered and comparable; it holds no descriptor and reads no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::model::Protocol;

/// Everything that is to be relayed.
pub type Plan = BTreeMap<Entrance, Arc<Target>>;

/// A network namespace.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// The one that this process runs in.
    Host,
    /// Another one.
    Netns {
        /// Its path.
        path: PathBuf,
        /// Its cookie, where it is known: another one at the path is a stranger.
        cookie: Option<u64>,
    },
}

/// Where clients come in.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entrance {
    /// In which namespace.
    pub place: Place,
    /// The address and port that clients use. `0.0.0.0` or `[::]`: every address of that family
    /// that the place has.
    pub address: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How clients get from there to us.
    pub way: Way,
}

/// How clients get from an entrance's address to us.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Way {
    /// We listen there. When the entrance goes its address may go with it: its sessions are reset.
    Bound,
    /// Somebody else holds the port, as the engine does for published ones: we listen on one that
    /// the kernel chose, and nftables redirects what comes for the entrance, from outside and from
    /// inside, also to loopback addresses. The redirection ends with this process.
    Redirected,
}

/// Where new sessions of an entrance go, and what may be left of old ones.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The service's name, for people and counters.
    pub service: String,
    /// The network's name, for people and counters.
    pub network: String,
    /// Tasks that get new sessions, each with equal chance; a weight is several slots. Empty:
    /// clients are refused.
    pub slots: Vec<SocketAddr>,
    /// Tasks that may hold sessions: serving ones and those that drain. Sessions to others are cut.
    pub alive: BTreeSet<SocketAddr>,
    /// Of those alive, the ones that do not serve, and how long sessions with one that drains may
    /// go on; `None`: as long as they like. Those of datagrams move away from them at once. Who
    /// serves and has no slot, because others are nearer, keeps what it has.
    pub resting: BTreeMap<SocketAddr, Option<Duration>>,
    /// From which namespace the tasks are reached.
    pub dial: Place,
    /// Whether each TCP connection to a task begins with a PROXY protocol header, version 2, that
    /// tells the client's address. Datagrams have none: no server that reads them is known.
    pub proxy_protocol: bool,
    /// Whether a client (its address) keeps its task while that serves.
    pub affinity: bool,
    /// How long sessions may go on whose (redirected) entrance is gone.
    pub drain: Duration,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Netns { path, cookie: _ } => write!(f, "{}", path.display()),
        }
    }
}

/// `tcp [::]:8000 in host (redirected)`.
impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, address, protocol, way } = self;
        write!(f, "{protocol} {address} in {place}")?;
        match way {
            Way::Bound => Ok(()),
            Way::Redirected => f.write_str(" (redirected)"),
        }
    }
}

/// `web.front -> 10.0.1.5:80 10.0.1.6:80, idle 10.0.1.7:80 from /run/netns/x with proxy`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} ->", self.service, self.network)?;
        if self.slots.is_empty() {
            f.write_str(" refused")?;
        }
        self.slots.iter().try_for_each(|it| write!(f, " {it}"))?;
        let mut idle = self.alive.iter().filter(|it| !self.slots.contains(it)).peekable();
        if idle.peek().is_some() {
            f.write_str(", idle")?;
        }
        idle.try_for_each(|it| write!(f, " {it}"))?;
        write!(f, " from {}", self.dial)?;
        f.write_str(if self.proxy_protocol { " with proxy header" } else { "" })?;
        f.write_str(if self.affinity { " with affinity" } else { "" })
    }
}

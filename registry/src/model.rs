//! What exists: networks, services, tasks, sandboxes, nodes, as plain values.
//!
//! Every field may take any value of its type; what fields promise about each other is checked
//! where a [`crate::Snapshot`] is built. Absent on purpose: clocks, sockets, engine JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::id::{NetworkId, NodeId, SandboxId, ServiceId, TaskId};

/// Labels as the user wrote them.
pub type Labels = BTreeMap<String, String>;

/// A network that endpoints attach to.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Network {
    /// The engine's id.
    pub id: NetworkId,
    /// The name users type, as in `web.frontend`; compared case-insensitively in DNS.
    pub name: String,
    /// One host or the whole Swarm.
    pub scope: Scope,
    /// `bridge`, `overlay`, `macvlan`, ...; `world` for a world file's.
    pub driver: String,
    /// No way out: names unknown here are never forwarded from sandboxes on such networks only.
    pub internal: bool,
    /// Swarm's routing-mesh network: no names live here.
    pub ingress: bool,
    /// Its address ranges.
    pub subnets: Vec<IpNet>,
    /// The addresses of its gateways, as far as they are known.
    pub gateways: Vec<IpAddr>,
    /// The user's labels.
    pub labels: Labels,
    /// Whether every name of this network is in the registry.
    pub names: Completeness,
    /// From where a process of this host reaches the network's endpoints.
    pub reach: Reach,
}

/// How far a network extends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Scope {
    /// This host only.
    Local,
    /// All nodes of the Swarm.
    Swarm,
}

/// Whether the registry knows all names of a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Completeness {
    /// A name that is not here does not exist.
    Complete,
    /// Known from gossip only (a Swarm worker): aliases are missing, so unknown single labels are
    /// asked of the engine's own resolver.
    Gossip,
}

/// From where the addresses of a network can be reached by this process.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Reach {
    /// From the host's own namespace (bridges).
    Host,
    /// From inside this network namespace (overlays: Docker's `lb_NETID`).
    Netns(PathBuf),
    /// Not from here, and why: this node is not on the network.
    Nowhere,
}

/// Something that clients call by one name.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Service {
    /// See [`ServiceId`].
    pub id: ServiceId,
    /// Its DNS name, e.g. `shop_web`.
    pub name: String,
    /// Where it comes from.
    pub kind: ServiceKind,
    /// Stack namespace or compose project: services of one stack trust each other.
    pub stack: Option<String>,
    /// How its name is answered.
    pub mode: Mode,
    /// The networks it is on, with what it is called there.
    pub networks: BTreeMap<NetworkId, ServiceAttachment>,
    /// Ports it wants published.
    pub ports: Vec<PublishedPort>,
    /// The user's labels.
    pub labels: Labels,
    /// When it was created, milliseconds since the epoch; who came first keeps a contested route.
    /// 0 where the source does not say.
    pub created: u64,
}

/// A service on one network.
#[derive(Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct ServiceAttachment {
    /// The VIP that the source fixed; `None`: in mode vip, portolan allocates one.
    pub vip: Option<IpAddr>,
    /// Other names that mean the same service on this network.
    pub aliases: BTreeSet<String>,
}

/// Where a service comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum ServiceKind {
    /// A Swarm service.
    Swarm,
    /// A compose service, or plain containers grouped by the label `portolan.service`.
    Compose,
    /// From a world file.
    World,
}

/// How a service's name is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Mode {
    /// By one virtual address on each network.
    Vip,
    /// By the addresses of all serving tasks.
    DnsRr,
}

/// A port that a service wants reachable from outside.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct PublishedPort {
    /// The port on every node; 0 where the engine has not chosen yet.
    pub published: u16,
    /// The port in the task.
    pub target: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Through the mesh or on the task's own node.
    pub mode: PublishMode,
    /// The port's name, where it has one (SRV).
    pub name: Option<String>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How a port is published.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum PublishMode {
    /// On every node, by the routing mesh.
    Ingress,
    /// On the node of the task, by the engine.
    Host,
}

/// One running copy of a service, or a container that belongs to none.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Task {
    /// See [`TaskId`].
    pub id: TaskId,
    /// Its primary name: `web.1.<id>`, the container's name. PTR records give it.
    pub name: String,
    /// The service it serves.
    pub service: Option<ServiceId>,
    /// Where it runs, when that is known.
    pub node: Option<NodeId>,
    /// Its place on each network.
    pub networks: BTreeMap<NetworkId, Endpoint>,
    /// What it publishes, where that is not what its service publishes: while a service's ports
    /// change, tasks that were made before have those of then. `None`: the service's.
    pub publishes: Option<Vec<PublishedPort>>,
    /// Share of new connections relative to its siblings; 0 takes it out.
    pub weight: u16,
    /// May it get new connections?
    pub state: ServingState,
    /// Why it is in that state, for people.
    pub reason: String,
}

/// A task's place on one network.
#[derive(Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct Endpoint {
    /// Its addresses there, at most one of each family in practice.
    pub addresses: Vec<IpAddr>,
    /// Names that mean this task on that network, besides [`Task::name`]: hostname, short id,
    /// network aliases, container name.
    pub names: BTreeSet<String>,
}

/// Whether a task gets traffic. Only `Serving` tasks get new connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum ServingState {
    /// Not yet up, or waiting for its first successful health check.
    Starting,
    /// Takes new connections.
    Serving,
    /// Asked to go: keeps its connections, gets no new ones.
    Draining,
    /// Gone; its addresses may soon be somebody else's.
    Stopped,
}

/// A place on this node where names are asked and connections start: one network namespace.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Sandbox {
    /// See [`SandboxId`].
    pub id: SandboxId,
    /// What users call it: the container's name.
    pub name: String,
    /// `SO_NETNS_COOKIE` of the namespace that was meant; `None`: whichever is at the path.
    pub cookie: Option<u64>,
    /// Path of the namespace.
    pub netns: PathBuf,
    /// The tasks (containers) that live in it.
    pub tasks: Vec<TaskId>,
    /// Its networks in search order (DESIGN section 5).
    pub networks: Vec<Attachment>,
    /// Networks that it is on too and looks no names up on: the engine's default bridge. They lead
    /// outside, and their addresses are its own, like those of `networks`.
    pub nameless: Vec<NetworkId>,
    /// `--link`: names of its own, lower case, that nobody else can see.
    pub links: BTreeMap<String, Vec<IpAddr>>,
    /// Extra hosts (`--add-host`), which the engine writes into its hosts file: names of its own,
    /// lower case, without a dot at the end. They come before all others, links included.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Whether its `upstreams` are believed when they say that an answer is authentic (AD): the
    /// host's resolv.conf says so of them (`options trust-ad`, RFC 6840 section 5.8).
    pub trusts_ad: bool,
    /// The host name inside.
    pub hostname: String,
    /// Who is asked about names that are not ours, in order.
    pub upstreams: Vec<Upstream>,
    /// Who said so.
    pub upstreams_from: Origin,
}

/// A sandbox on one network.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Attachment {
    /// Which network.
    pub network: NetworkId,
    /// Its own addresses there.
    pub addresses: Vec<IpAddr>,
}

/// A name server and the place from which it is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Upstream {
    /// Its address and port.
    pub address: SocketAddr,
    /// The namespace to dial from.
    pub dial: Dial,
}

/// Who named the name servers of a sandbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Origin {
    /// Whoever made it: `--dns`, or a world file.
    Sandbox,
    /// The engine's own configuration (`dns` in daemon.json).
    Engine,
    /// Nobody: they are those of the host's resolv.conf.
    Host,
}

/// From which namespace a name server is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Dial {
    /// The host's.
    Host,
    /// The sandbox's own.
    Sandbox,
}

/// A machine of the Swarm.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its host name.
    pub name: String,
    /// Its address among the nodes.
    pub address: Option<IpAddr>,
    /// As the engine says: `ready`, `down`, ...
    pub state: String,
    /// Its end of the ingress network; several where it is not known which of them it is.
    pub ingress: BTreeSet<IpAddr>,
}

impl fmt::Display for ServingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vip => "vip",
            Self::DnsRr => "dnsrr",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Network {
    /// Whether it is the engine's own `bridge`, where containers are that nobody put elsewhere, and
    /// where no names are answered. The engine lets nobody make another of that name.
    pub fn is_default_bridge(&self) -> bool {
        self.driver == "bridge" && self.name == "bridge"
    }
}

impl Task {
    /// Whether it gets new connections.
    pub fn serves(&self) -> bool {
        self.state == ServingState::Serving && self.weight > 0
    }
}

//! What is to be true of published ports: where each leads, and how its replies come back.
//!
//! A plan is plain values, ordered and comparable. What only the kernel knows (interfaces, the
//! address of the engine's doorway) is found where the plan is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use registry::balance_spec::{Affinity, Bind};
use registry::id::SandboxId;
use registry::model::Protocol;

use crate::drain::Drain;

/// All that a snapshot asks of the routing mesh on this node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Through the engine's namespace for the mesh, where there is one.
    pub ingress: Option<Ingress>,
    /// Ports that lead from the host straight to tasks, on networks that the host is on.
    pub direct: BTreeMap<Port, Arc<Published>>,
    /// Tasks on networks that the host is on that may hold connections, of `direct` or not.
    pub alive: BTreeSet<Ipv4Addr>,
    /// Of these, the ones that drain, and how long their connections may go on.
    pub draining: BTreeMap<Ipv4Addr, Duration>,
    /// The networks of the tasks of `direct`.
    pub bridges: BTreeSet<Bridge>,
    /// The subnets of the engine's bridge by which containers on overlays reach the world.
    pub gateway: BTreeSet<Ipv4Net>,
    /// Whether its containers get out by portolan where the engine keeps no rules for it.
    pub outbound: bool,
    /// The namespaces of local tasks, by which way their replies leave.
    pub ways: BTreeMap<SandboxId, Way>,
    /// Local namespaces on the ingress network in which nothing of the mesh is wanted.
    pub strays: BTreeMap<SandboxId, Aside>,
}

/// Swarm's ingress network on this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ingress {
    /// The engine's namespace, which is on the ingress network and on the host's bridge.
    pub netns: PathBuf,
    /// The ingress network's subnets.
    pub subnets: Vec<Ipv4Net>,
    /// Its published ports.
    pub ports: BTreeMap<Port, Arc<Published>>,
    /// Tasks on that network that may hold connections.
    pub alive: BTreeSet<Ipv4Addr>,
    /// Of these, the ones that drain, and how long their connections may go on.
    pub draining: BTreeMap<Ipv4Addr, Duration>,
    /// Whether tasks see the node in place of the client.
    pub masquerade: bool,
    /// Whether nobody said yet who is on it: then all stays as it is.
    pub unread: bool,
}

/// A port of the node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Port {
    /// Its transport.
    pub protocol: Protocol,
    /// Its number, not 0.
    pub number: u16,
}

/// Where new connections to a published port go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Published {
    /// The service's name, for people.
    pub service: String,
    /// Where tasks listen, in the order in which they get connections; a weight is several slots.
    /// Empty: connections are refused.
    pub slots: Vec<SocketAddrV4>,
    /// Tasks that may hold connections: serving ones and those that drain.
    pub alive: BTreeSet<Ipv4Addr>,
    /// Of those alive, the ones that do not serve, and how long connections may stay with one that
    /// drains.
    pub resting: BTreeMap<Ipv4Addr, Option<Duration>>,
    /// How long connections to a task of the service may go on when it drains.
    pub drain: Duration,
    /// The port at which tasks are asked.
    pub target: u16,
    /// Tasks from before the service's ports changed, which are asked at another one.
    pub former: BTreeMap<Ipv4Addr, u16>,
    /// Which task a client gets.
    pub affinity: Affinity,
    /// Whether tasks are told of their clients by the PROXY protocol, and connections relayed.
    pub proxy_protocol: bool,
    /// Where the port is to be had; empty: everywhere.
    pub bind: Vec<Bind>,
}

/// A network of the host that published ports lead to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Bridge {
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// Its tasks have no way back to clients outside it: they see the host in their place.
    pub internal: bool,
}

/// A local namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Aside {
    /// What users call it.
    pub name: String,
    /// Its path.
    pub netns: PathBuf,
    /// Its cookie, when the source knew it.
    pub cookie: Option<u64>,
}

/// How a local task's replies find the node that their request came through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Way {
    /// What users call it.
    pub name: String,
    /// The task's namespace.
    pub netns: PathBuf,
    /// The namespace's cookie, when the source knew it.
    pub cookie: Option<u64>,
    /// The task's own address on the ingress network.
    pub own: Ipv4Addr,
    /// Ports of datagrams at which the task is asked, and which the engine's own redirection in its
    /// namespace would lead elsewhere.
    pub held: BTreeSet<u16>,
    /// The nodes' ends of the ingress network, numbered: the number is in the marks of
    /// connections, so it stays with its node.
    pub routers: BTreeMap<u32, Ipv4Addr>,
}

impl Way {
    /// Its namespace.
    pub(crate) fn aside(&self) -> Aside {
        let (name, netns, cookie) = (self.name.clone(), self.netns.clone(), self.cookie);
        Aside { name, netns, cookie }
    }
}

impl Plan {
    /// Whether no port is published.
    pub fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.ingress.as_ref().is_none_or(|it| it.ports.is_empty())
    }

    /// Who drains on which of the two kinds of networks, and how long each may.
    pub(crate) fn drains(&self) -> BTreeMap<Drain, Duration> {
        let inside = self.ingress.iter().flat_map(|it| &it.draining);
        let inside = inside.map(|(task, limit)| (Ground::Ingress.drain(*task), *limit));
        let here = self.draining.iter();
        inside.chain(here.map(|(task, limit)| (Ground::Host.drain(*task), *limit))).collect()
    }

    /// All published ports with where they lead.
    pub fn ports(&self) -> impl Iterator<Item = (&Port, &Arc<Published>)> {
        self.ingress.iter().flat_map(|it| &it.ports).chain(&self.direct)
    }
}

/// On which kind of network a task is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ground {
    /// Swarm's ingress network, through the engine's doorway.
    Ingress,
    /// A network that the host is on.
    Host,
}

impl Ground {
    /// The drain of a task there: of all its published ports, so of no one address of theirs.
    fn drain(self, task: Ipv4Addr) -> Drain {
        let network = match self {
            Self::Ingress => "ingress",
            Self::Host => "host",
        };
        let (vip, task) = (Ipv4Addr::UNSPECIFIED.into(), task.into());
        Drain { network: network.to_owned(), vip, task }
    }

    /// Those who may hold connections longer: without those whose time is over.
    pub(crate) fn lasting(
        self,
        alive: &BTreeSet<Ipv4Addr>,
        expired: &BTreeSet<Drain>,
    ) -> BTreeSet<Ipv4Addr> {
        let lasts = |it: &&Ipv4Addr| expired.is_empty() || !expired.contains(&self.drain(**it));
        alive.iter().filter(lasts).copied().collect()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl Published {
    /// Whether only a relay may let clients in, which tells tasks of them. A client that came
    /// another way could say to be anybody.
    pub(crate) fn is_proxied(&self, port: Port) -> bool {
        self.proxy_protocol && port.protocol == Protocol::Tcp
    }

    /// Where nftables leads. Nowhere where only a relay may: the port is refused while that is
    /// away.
    pub(crate) fn led(&self, port: Port) -> &[SocketAddrV4] {
        if self.is_proxied(port) { &[] } else { &self.slots }
    }
}

/// `web -> 10.0.0.5:80 10.0.0.6:80`: fixtures and logs.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ->", self.service)?;
        if self.slots.is_empty() {
            f.write_str(" refused")?;
        }
        self.slots.iter().try_for_each(|it| write!(f, " {it}"))?;
        if self.affinity == Affinity::Client {
            f.write_str(" by client")?;
        }
        for bind in &self.bind {
            match bind {
                Bind::Address(address) => write!(f, " at {address}")?,
                Bind::Interface(name) => write!(f, " on {name}")?,
                Bind::Nowhere => f.write_str(" nowhere")?,
            }
        }
        Ok(())
    }
}

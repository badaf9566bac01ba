//! What every sandbox, and the host, can resolve: plain values, comparable and ordered.
//!
//! Invariants
//! - *scoped*: a [`View`] holds the zones of its sandbox's networks and no other;
//! - *known or not*: a name that is in a zone is answered there and goes nowhere else, even where
//!   it has no address;
//! - *shared*: zones are shared by the views that hold them; a view is cheap to make.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use registry::VipPair;
use registry::id::{NetworkId, SandboxId, ServiceId};
use registry::model::{Completeness, Protocol};

use crate::fast::Prepared;
use crate::name::Name;
use crate::shared_map::SharedMap;
use crate::upstream::{Server, UpstreamConfig};

/// The VIPs of services, as the VIP manager has them.
pub type VipTable = BTreeMap<(ServiceId, NetworkId), VipPair>;

/// How names are answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// TTL of task sets and single tasks, whole seconds (`dns.ttl`).
    pub ttl: Duration,
    /// TTL of VIPs, whole seconds (`dns.vip_ttl`).
    pub vip_ttl: Duration,
    /// Whether unknown names of one label go to the upstream servers (`dns.forward_single_label`).
    pub forward_single_label: bool,
    /// Where operators ask on the host; `None`: nowhere (`dns.host_listen`).
    pub host_listen: Option<std::net::SocketAddr>,
    /// Who is asked about names that are not ours, and what is kept of it.
    pub upstream: UpstreamConfig,
}

/// What everybody can resolve, as of one snapshot.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// One view for each sandbox.
    pub views: BTreeMap<SandboxId, Arc<View>>,
    /// What operators see from the host.
    pub host: Arc<HostView>,
    /// The names of each network, ingress networks left out.
    pub zones: BTreeMap<NetworkId, Arc<Zone>>,
}

/// The names of one network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Zone {
    /// Which network.
    pub network: NetworkId,
    /// Its name as the user wrote it.
    pub name: String,
    /// Its name in normal form ([`crate::name::key`]).
    pub key: String,
    /// Whether a name that is not here does not exist.
    pub completeness: Completeness,
    /// Its address ranges.
    pub subnets: Vec<IpNet>,
    /// Who is meant by each name, by normal form.
    pub names: SharedMap<String, Entry>,
    /// Services by name, alias and `tasks.` of both, for SRV: all that are called so.
    pub services: SharedMap<String, Arc<[ServiceRecord]>>,
    /// The name of each address.
    pub reverse: SharedMap<IpAddr, Pointer>,
    /// Whose each address is, where the engine is asked about names that are not here.
    pub owners: SharedMap<IpAddr, Arc<Owner>>,
    /// All of it as the fast path reads it.
    pub table: Prepared,
}

/// Whose an address is: a service's (its VIP, or a task's), or a container's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// What users call it.
    pub name: String,
    /// The VIP of a service that has one.
    pub vip: Option<IpAddr>,
    /// What its name means: the VIP, or its serving tasks; a container's own addresses.
    pub front: Entry,
    /// Its serving tasks, as `tasks.NAME` means them; a container's own addresses.
    pub tasks: Entry,
}

/// A name's addresses: those of all its holders on one network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// In order, none twice; empty for a service without a serving task.
    pub addresses: Vec<IpAddr>,
    /// Seconds that an answer may be kept.
    pub ttl: u32,
}

/// What an address is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pointer {
    /// `TASK.NETWORK` or `SERVICE.NETWORK`.
    pub name: Name,
    /// Seconds that an answer may be kept.
    pub ttl: u32,
}

/// A service as SRV shows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServiceRecord {
    /// Its published ports.
    pub ports: Vec<ServicePort>,
    /// Its serving tasks on this network.
    pub tasks: Vec<ServiceTask>,
    /// Seconds that an answer may be kept.
    pub ttl: u32,
}

/// A port of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// The port's name in normal form.
    pub name: Option<String>,
    /// Outside; 0: not chosen yet.
    pub published: u16,
    /// In the task.
    pub target: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// A serving task of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceTask {
    /// `TASK.NETWORK`.
    pub name: Name,
    /// Share of the connections.
    pub weight: u16,
    /// On this network.
    pub addresses: Vec<IpAddr>,
}

/// What one sandbox can resolve, and who is asked about the rest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct View {
    /// Whose.
    pub sandbox: SandboxId,
    /// What users call it.
    pub name: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The namespace's cookie; `None`: whichever is at the path.
    pub cookie: Option<u64>,
    /// Its networks' names, in search order.
    pub zones: Vec<Arc<Zone>>,
    /// The address ranges of all its networks: reverse names inside are answered here.
    pub subnets: Vec<IpNet>,
    /// `--link`: names that only this sandbox has, by normal form.
    pub links: BTreeMap<String, Entry>,
    /// `--add-host`: names that only this sandbox has, by normal form. They come before all
    /// others and mean the whole name asked for, never a name on a network.
    pub hosts: BTreeMap<String, Entry>,
    /// What happens to names that are not known here.
    pub outside: Outside,
    /// Suffixes below which the operator named servers, in normal form
    /// ([`UpstreamConfig::suffixes`]): names that nobody else would be asked about are asked there.
    pub suffixes: Arc<[String]>,
    /// Whether unknown names of one label go outside too.
    pub forward_single_label: bool,
    /// Seconds that negative answers may be kept.
    pub ttl: u32,
}

/// What happens to names that the registry does not know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outside {
    /// These servers are asked, in order; empty where only suffixes have servers
    /// ([`UpstreamConfig::suffixes`]).
    Servers(Vec<Server>),
    /// Nobody may be asked: every network of the sandbox is internal.
    Internal,
    /// There is nobody to ask.
    NoServers,
}

/// What operators can resolve from the host: `NAME.NETWORK` and addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostView {
    /// All networks, by name, then id.
    pub zones: Vec<Arc<Zone>>,
    /// The address ranges of all networks.
    pub subnets: Vec<IpNet>,
    /// Seconds that negative answers may be kept.
    pub ttl: u32,
}

impl View {
    /// Whether the two say the same, where equal zones are one: as [`Plan::sharing_with`] leaves
    /// them. Costs a pointer for each zone, however many names it has.
    pub(crate) fn same_sharing(&self, other: &Self) -> bool {
        let Self {
            sandbox,
            name,
            netns,
            cookie,
            zones,
            subnets,
            links,
            hosts,
            outside,
            suffixes,
            forward_single_label,
            ttl,
        } = self;
        *sandbox == other.sandbox
            && *name == other.name
            && *netns == other.netns
            && *cookie == other.cookie
            && same_zones(zones, &other.zones)
            && *subnets == other.subnets
            && *links == other.links
            && *hosts == other.hosts
            && *outside == other.outside
            && *suffixes == other.suffixes
            && *forward_single_label == other.forward_single_label
            && *ttl == other.ttl
    }

    /// Whether the engine's own resolver may know names that the registry does not.
    pub fn asks_engine(&self) -> bool {
        self.zones.iter().any(|it| it.completeness == Completeness::Gossip)
    }
}

impl Plan {
    /// The same plan, holding `old`'s zones wherever they are equal, so that comparing the two
    /// afterwards costs a pointer for each zone that did not change.
    #[must_use]
    pub fn sharing_with(mut self, old: &Self) -> Self {
        let mut same = BTreeMap::new();
        for (id, zone) in &mut self.zones {
            if let Some(known) = old.zones.get(id).filter(|it| *it == zone) {
                *zone = Arc::clone(known);
                same.insert(id.clone(), Arc::clone(known));
            }
        }
        let share = |zones: &mut Vec<Arc<Zone>>| {
            for zone in zones {
                if let Some(known) = same.get(&zone.network) {
                    *zone = Arc::clone(known);
                }
            }
        };
        share(&mut Arc::make_mut(&mut self.host).zones);
        for (id, view) in &mut self.views {
            share(&mut Arc::make_mut(view).zones);
            if let Some(known) = old.views.get(id).filter(|it| it.same_sharing(view)) {
                *view = Arc::clone(known);
            }
        }
        if same_zones(&self.host.zones, &old.host.zones) && self.host == old.host {
            self.host = Arc::clone(&old.host);
        }
        self
    }
}

fn same_zones(one: &[Arc<Zone>], other: &[Arc<Zone>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
}

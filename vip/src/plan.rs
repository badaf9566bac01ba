//! What is to be true: which address stands for which tasks, in which sandbox.
//!
//! A plan is plain values, ordered and comparable. It holds no descriptor and no reading of a
//! clock but those in [`Leases`]. What is the same for many sandboxes is one value behind an
//! [`Arc`]: sandboxes on the same networks share one table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use registry::VipPair;
use registry::id::{NetworkId, SandboxId, ServiceId};
use registry::model::Protocol;

use crate::compile::host::host;
use crate::diff::differing;
use crate::lease::Leases;
use crate::steps::Steps;

/// All that a snapshot asks of the VIP manager.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// What each network namespace is to hold.
    pub sandboxes: BTreeMap<SandboxId, SandboxPlan>,
    /// The VIP of every service on every network that has one, fixed or allocated.
    pub addresses: Arc<Addresses>,
    /// Which addresses of the pool are given to whom, to be kept on disk.
    pub leases: Arc<Leases>,
    /// Who is on a network of which nobody told yet who is on it.
    pub unread: BTreeSet<SandboxId>,
}

/// The VIPs of a service on a network: what the resolver answers for its name.
pub type Addresses = BTreeMap<(ServiceId, NetworkId), VipPair>;

/// The balances of one sandbox, by VIP: IPv4 first, then IPv6.
pub type Balances = BTreeMap<IpAddr, Arc<Balance>>;

/// What one network namespace is to hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SandboxPlan {
    /// What users call it.
    pub name: String,
    /// Path of the namespace.
    pub netns: PathBuf,
    /// The namespace's cookie, when the source knew it: another one at the path is a stranger.
    pub cookie: Option<u64>,
    /// Where a connection to each VIP goes.
    pub balances: Arc<Balances>,
    /// How packets to VIPs outside their network's subnets leave.
    pub routes: BTreeSet<VipRoute>,
}

/// Where new connections to one VIP go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Balance {
    /// The service's name, for people.
    pub service: String,
    /// The network's name, for people.
    pub network: String,
    /// Task addresses of the VIP's family, each as likely as the others; a weight is several slots.
    /// Empty: connections are refused.
    pub slots: Vec<IpAddr>,
    /// Addresses of tasks that may hold connections: serving ones and those that drain. What goes
    /// to another address is cut.
    pub alive: BTreeSet<IpAddr>,
    /// Whether a client keeps its task as long as that has a slot.
    pub affine: bool,
    /// The ports that the service is known to have. Only a plane that must listen asks for them.
    pub ports: BTreeSet<(u16, Protocol)>,
    /// Of those alive, the ones that do not serve, and how long connections to one that drains may
    /// go on. What is no connection moves away from them at once.
    pub resting: BTreeMap<IpAddr, Option<Duration>>,
}

impl Balance {
    /// Whether a task that serves has this address.
    pub(crate) fn has_serving(&self, task: IpAddr) -> bool {
        self.alive.contains(&task) && !self.resting.contains_key(&task)
    }

    /// How long connections to this address may go on, if its task drains.
    pub(crate) fn drain_of(&self, task: IpAddr) -> Option<Duration> {
        self.resting.get(&task).copied().flatten()
    }
}

/// A route to VIPs that no subnet of the sandbox covers. Without it the packet would get the
/// address of the default route's interface as its source, and the answer would not come back.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct VipRoute {
    /// The VIPs: a network's block of the pool, or one address.
    pub block: IpNet,
    /// The sandbox's own address on that network; its interface is the way out.
    pub source: IpAddr,
}

impl Balance {
    /// Whether there is a task that clients could keep.
    pub(crate) fn keeps(&self) -> bool {
        self.affine && !self.slots.is_empty()
    }
}

impl Plan {
    /// The host among the sandboxes, where it is one.
    pub fn host(&self) -> Option<&SandboxId> {
        self.sandboxes.get_key_value(&host()).map(|(id, _)| id)
    }

    /// The same plan, in which what is as it was in the last one (`last`: its tables) is the same
    /// value: two plans are then compared by a look at each VIP, and take the room of one.
    #[must_use]
    pub fn sharing(mut self, last: &BTreeMap<SandboxId, Arc<Balances>>) -> Self {
        let _steps = self.share(last);
        self
    }

    /// Makes what is as it was the same value, and gives what leads from the last tables to these.
    pub(crate) fn share(&mut self, last: &BTreeMap<SandboxId, Arc<Balances>>) -> Steps {
        let mut steps = Steps::default();
        // By address of the new table: what sandboxes share now they share afterwards.
        let mut shared: BTreeMap<*const Balances, Arc<Balances>> = BTreeMap::new();
        for (id, sandbox) in &self.sandboxes {
            let new = &sandbox.balances;
            if let Some(old) = last.get(id) {
                shared.entry(Arc::as_ptr(new)).or_insert_with(|| merge(old, new, &mut steps));
            }
        }
        for sandbox in self.sandboxes.values_mut() {
            if let Some(found) = shared.get(&Arc::as_ptr(&sandbox.balances)) {
                sandbox.balances = Arc::clone(found);
            }
        }
        steps
    }
}

/// `new`, made of parts of `old` wherever they are equal.
fn merge(old: &Arc<Balances>, new: &Arc<Balances>, steps: &mut Steps) -> Arc<Balances> {
    let vips = differing(old, new, Arc::eq);
    if vips.is_empty() {
        return Arc::clone(old);
    }
    let mut merged = Balances::clone(old);
    for vip in &vips {
        match new.get(vip) {
            Some(balance) => merged.insert(*vip, Arc::clone(balance)),
            None => merged.remove(vip),
        };
    }
    let merged = Arc::new(merged);
    steps.add(old, &merged, vips);
    merged
}

impl fmt::Display for VipRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.block, self.source)
    }
}

/// `10.0.1.2 web.frontend -> 10.0.1.5 10.0.1.6`, one line a VIP and route: fixtures and logs.
impl fmt::Display for SandboxPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (vip, balance) in &*self.balances {
            writeln!(f, "{vip} {balance}")?;
        }
        for route in &self.routes {
            writeln!(f, "route {route}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} -> {}", self.service, self.network, Slots(&self.slots))?;
        let idle: Vec<_> = self.alive.iter().filter(|it| !self.slots.contains(it)).collect();
        for (index, address) in idle.iter().enumerate() {
            write!(f, "{}{address}", if index == 0 { ", idle " } else { " " })?;
        }
        if self.affine {
            f.write_str(", a client keeps its task")?;
        }
        Ok(())
    }
}

/// A list of slots as people read it.
pub(crate) struct Slots<'a>(pub(crate) &'a [IpAddr]);

impl fmt::Display for Slots<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("refused");
        }
        for (index, address) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{address}")?;
        }
        Ok(())
    }
}

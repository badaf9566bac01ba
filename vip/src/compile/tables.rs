//! The tables of balances and the routes of each sandbox.
//!
//! Always true here: sandboxes on the same networks share one table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use registry::balance_spec::{Affinity, BalanceSpec, Prefer};
use registry::id::{NetworkId, SandboxId};
use registry::model::{Network, Protocol, Sandbox, Service, ServingState};
use registry::{Notes, Snapshot};

use super::wanted::Specs;
use super::{addresses_of, subnets_of};
use crate::family::IpFamily;
use crate::lease::Leases;
use crate::plan::{Addresses, Balance, Balances, SandboxPlan, VipRoute};
use crate::slots::slots;

/// What every sandbox on a network holds.
pub(super) struct NetworkPlan {
    balances: Balances,
    /// The ranges of VIPs that its subnets do not cover.
    blocks: BTreeSet<IpNet>,
}

pub(super) fn networks(
    snapshot: &Snapshot,
    specs: &Specs,
    addresses: &Addresses,
    leases: &Leases,
    drain: Duration,
) -> BTreeMap<NetworkId, NetworkPlan> {
    let mut plans: BTreeMap<NetworkId, NetworkPlan> = BTreeMap::new();
    for ((service, network), vips) in addresses {
        let (Some(service), Some(network)) = (snapshot.service(service), snapshot.network(network))
        else {
            continue;
        };
        let empty = || NetworkPlan { balances: Balances::new(), blocks: BTreeSet::new() };
        let plan = plans.entry(network.id.clone()).or_insert_with(empty);
        let spec = specs.get(&service.id);
        for vip in vips.iter() {
            let balance = balance(snapshot, service, spec, network, IpFamily::of(vip), drain);
            plan.balances.insert(vip, Arc::new(balance));
            plan.blocks.extend(block_of(vip, network, leases));
        }
    }
    plans
}

fn balance(
    snapshot: &Snapshot,
    service: &Service,
    spec: Option<&BalanceSpec>,
    network: &Network,
    family: IpFamily,
    drain: Duration,
) -> Balance {
    let (mut everywhere, mut here) = (Vec::new(), Vec::new());
    let (mut alive, mut resting) = (BTreeSet::new(), BTreeMap::new());
    for task in snapshot.tasks_of(&service.id).filter(|it| it.state != ServingState::Stopped) {
        for address in addresses_of(task, &network.id, family) {
            alive.insert(address);
            if task.serves() {
                everywhere.push((address, task.weight));
                if task.node.is_some() && task.node.as_ref() == snapshot.this_node() {
                    here.push((address, task.weight));
                }
            } else {
                let limited = task.state == ServingState::Draining;
                let drain = spec.and_then(|it| it.drain).unwrap_or(drain);
                resting.insert(address, limited.then_some(drain));
            }
        }
    }
    // Two tasks may have one address while the engine hands it on.
    resting.retain(|it, _| everywhere.iter().all(|(serving, _)| serving != it));
    let prefers_here = spec.is_some_and(|it| it.prefer == Prefer::Node) && !here.is_empty();
    Balance {
        service: service.name.clone(),
        network: network.name.clone(),
        slots: slots(if prefers_here { here } else { everywhere }),
        alive,
        resting,
        affine: spec.is_some_and(|it| it.affinity == Affinity::Client),
        ports: ports(service, spec),
    }
}

/// The ports in its tasks that a service is known to have: published ones, and those that it names.
fn ports(service: &Service, spec: Option<&BalanceSpec>) -> BTreeSet<(u16, Protocol)> {
    let published = service.ports.iter().map(|it| (it.target, it.protocol));
    published.chain(spec.into_iter().flat_map(|it| it.ports.iter().copied())).collect()
}

/// The range to route to the network's interface, if `vip` needs a route.
fn block_of(vip: IpAddr, network: &Network, leases: &Leases) -> Option<IpNet> {
    if subnets_of(network, IpFamily::of(vip)).any(|it| it.contains(&vip)) {
        return None;
    }
    // Where no subnet is known, one that the source fixed is taken to be in it.
    let alone = || (!network.subnets.is_empty()).then(|| IpNet::from(vip));
    leases.block_around(vip, network.id.as_str()).or_else(alone)
}

/// What the namespace through which this node reaches `network` is called among sandboxes.
pub(super) fn doorway_id(network: &Network) -> SandboxId {
    SandboxId::from(format!("network:{}", network.id))
}

/// The tables of balances, one for each list of networks that some sandbox is on.
pub(super) struct Tables<'a> {
    networks: &'a BTreeMap<NetworkId, NetworkPlan>,
    made: BTreeMap<Vec<NetworkId>, Arc<Balances>>,
}

impl<'a> Tables<'a> {
    pub(super) fn new(networks: &'a BTreeMap<NetworkId, NetworkPlan>) -> Self {
        Self { networks, made: BTreeMap::new() }
    }

    pub(super) fn sandbox(
        &mut self,
        snapshot: &Snapshot,
        sandbox: &Sandbox,
        notes: &mut Notes,
    ) -> SandboxPlan {
        let on = sandbox.networks.iter().map(|it| it.network.clone());
        let balances = self.balances(snapshot, on.collect(), notes);
        let attached = sandbox.networks.iter().map(|it| (&it.network, it.addresses.clone()));
        SandboxPlan {
            name: sandbox.name.clone(),
            netns: sandbox.netns.clone(),
            cookie: sandbox.cookie,
            balances,
            routes: self.routes(attached),
        }
    }

    /// The table of whoever is on these networks, in this order.
    pub(super) fn balances(
        &mut self,
        snapshot: &Snapshot,
        on: Vec<NetworkId>,
        notes: &mut Notes,
    ) -> Arc<Balances> {
        let on: Vec<_> = on.into_iter().filter(|it| self.networks.contains_key(it)).collect();
        match self.made.get(&on) {
            Some(made) => Arc::clone(made),
            None => self.make(snapshot, on, notes),
        }
    }

    /// The ranges of a network's VIPs that its subnets do not cover.
    pub(super) fn blocks(&self, network: &NetworkId) -> impl Iterator<Item = &IpNet> {
        self.networks.get(network).into_iter().flat_map(|it| &it.blocks)
    }

    /// The namespace through which this node reaches `network`.
    pub(super) fn doorway(
        &mut self,
        snapshot: &Snapshot,
        network: &Network,
        path: &Path,
        notes: &mut Notes,
    ) -> (SandboxId, SandboxPlan) {
        let plan = SandboxPlan {
            name: format!("the way into {}", network.name),
            netns: path.to_owned(),
            cookie: None,
            balances: self.make(snapshot, vec![network.id.clone()], notes),
            // It is in the network's subnet, as are the VIPs that engines give.
            routes: BTreeSet::new(),
        };
        (doorway_id(network), plan)
    }

    fn make(
        &mut self,
        snapshot: &Snapshot,
        on: Vec<NetworkId>,
        notes: &mut Notes,
    ) -> Arc<Balances> {
        let mut merged = Balances::new();
        for id in &on {
            for (vip, balance) in self.networks.get(id).into_iter().flat_map(|it| &it.balances) {
                let first = merged.entry(*vip).or_insert_with(|| Arc::clone(balance));
                if !Arc::ptr_eq(first, balance) {
                    let name = snapshot.network(id).map_or(id.as_str(), |it| &it.name);
                    let text = format!(
                        "{vip} is also the VIP of {}.{}; who is on both networks reaches that one",
                        first.service, first.network
                    );
                    let subject = format!("service {}", balance.service);
                    let remedy = "give the networks different subnets";
                    notes.warning(subject, format!("vip on {name}"), text, remedy);
                }
            }
        }
        let merged = Arc::new(merged);
        self.made.insert(on, Arc::clone(&merged));
        merged
    }

    /// The routes of whoever is on networks with these addresses of its own.
    pub(super) fn routes<'b>(
        &self,
        attached: impl Iterator<Item = (&'b NetworkId, Vec<IpAddr>)>,
    ) -> BTreeSet<VipRoute> {
        let mut routes: BTreeMap<IpNet, IpAddr> = BTreeMap::new();
        for (network, own) in attached {
            for block in self.blocks(network) {
                let own = own.iter().find(|it| IpFamily::of(**it) == IpFamily::of(block.addr()));
                // Without an address there yet there is no way out yet either.
                if let Some(own) = own {
                    routes.entry(*block).or_insert(*own);
                }
            }
        }
        routes.into_iter().map(|(block, source)| VipRoute { block, source }).collect()
    }
}

//! Decides what every sandbox is to hold: a snapshot and the leases so far, to a plan and notes.
//!
//! Invariants
//! - *total*: whatever the snapshot says there is a plan; what cannot be done is a note on the
//!   service that asked for it, and all others go on;
//! - *one meaning*: within a sandbox a VIP means one service;
//! - *no theft*: no VIP is an address that a living task has on the same network;
//! - *shared*: sandboxes on the same networks share one table of balances.
//!
//! Pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use registry::id::{NetworkId, SandboxId, ServiceId};
use registry::labels;
use registry::model::{Mode, Network, Reach, Sandbox, Service, ServingState, Task};
use registry::route_spec::BackendMode;
use registry::{Notes, Snapshot};

use crate::allocate::{self, Allocation, Claims, Ground};
use crate::lease::{Holder, Leases};
use crate::plan::{Addresses, Balance, Balances, Plan, SandboxPlan, VipRoute};
use crate::slots::slots;

/// How the VIP manager behaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Where addresses for services without a VIP of the engine come from.
    pub pool: Ipv4Net,
    /// Where the leases are kept.
    pub state_dir: PathBuf,
    /// How long connections to a draining task may go on, unless its service says otherwise.
    pub drain: Duration,
}

/// [`Config::drain`] where nothing is configured: longer than requests take, and than Swarm waits
/// for a task by default.
pub const DRAIN: Duration = Duration::from_secs(600);

/// What `snapshot` asks for. `leases` are those of the last plan (or of the file), `now_ms` the
/// time in milliseconds since the epoch.
pub fn compile(
    snapshot: &Snapshot,
    leases: &Leases,
    now_ms: u64,
    config: &Config,
) -> (Plan, Notes) {
    let mut notes = Notes::default();
    let wanted = Wanted::of(snapshot, &mut notes);
    let ground = ground(snapshot, &wanted, config.pool);
    let allocation = allocate::allocate(leases, &wanted.claims, &ground, now_ms);
    tell(&allocation, config.pool, &mut notes);
    let addresses = addresses(snapshot, wanted, &allocation.leases);
    let networks = networks(snapshot, &addresses, &allocation.leases, config.drain);
    let mut tables = Tables { networks: &networks, made: BTreeMap::new() };
    let mut sandboxes: BTreeMap<_, _> = snapshot
        .sandboxes()
        .map(|sandbox| (sandbox.id.clone(), tables.sandbox(snapshot, sandbox, &mut notes)))
        .collect();
    let doorways = doorways(snapshot);
    sandboxes.extend(doorways.map(|(it, path)| tables.doorway(snapshot, it, path, &mut notes)));
    let leases = Arc::new(allocation.leases);
    (Plan { sandboxes, addresses: Arc::new(addresses), leases }, notes)
}

/// The VIPs that sources fixed, and who needs one of ours.
#[derive(Default)]
struct Wanted {
    fixed: BTreeMap<(ServiceId, NetworkId), Ipv4Addr>,
    claims: Claims,
}

impl Wanted {
    fn of(snapshot: &Snapshot, notes: &mut Notes) -> Self {
        let mut wanted = Self::default();
        // Swarm's ingress network has no names and no clients; the mesh serves it.
        for network in snapshot.networks().filter(|it| !it.ingress) {
            let mut services: Vec<_> =
                snapshot.services_on(&network.id).filter(|it| it.mode == Mode::Vip).collect();
            services.sort_by_key(|it| (it.created, &it.id));
            let living = living_addresses(snapshot, network);
            let mut holders: BTreeMap<Ipv4Addr, &Service> = BTreeMap::new();
            for service in services {
                match fixed_vip(network, service, &living, &mut holders, notes) {
                    Fixed::At(vip) => {
                        wanted.fixed.insert((service.id.clone(), network.id.clone()), vip);
                    }
                    Fixed::Free if has_ipv4(network) => {
                        let claims = wanted.claims.entry(Holder::network(network)).or_default();
                        claims.insert(Holder::service(service));
                    }
                    Fixed::Free | Fixed::Refused => {}
                }
            }
        }
        wanted
    }
}

/// What a source's choice of a VIP comes to.
enum Fixed {
    At(Ipv4Addr),
    /// It chose none that can be used: one is allocated.
    Free,
    /// It chose one that would break others, or none of this network at all.
    Refused,
}

fn fixed_vip<'a>(
    network: &Network,
    service: &'a Service,
    living: &BTreeMap<Ipv4Addr, &Task>,
    holders: &mut BTreeMap<Ipv4Addr, &'a Service>,
    notes: &mut Notes,
) -> Fixed {
    let Some(attachment) = service.networks.get(&network.id) else { return Fixed::Refused };
    let Some(vip) = attachment.vip else { return Fixed::Free };
    let subject = format!("service {}", service.name);
    let place = format!("vip on {}", network.name);
    let vip = match vip {
        IpAddr::V4(vip) => vip,
        IpAddr::V6(vip) => {
            let text = format!("{vip} is not balanced, only IPv4 is; an IPv4 VIP is used instead");
            notes.warning(subject, place, text, "give an IPv4 VIP, or leave it out");
            return Fixed::Free;
        }
    };
    if vip.is_unspecified() || vip.is_loopback() || vip.is_multicast() || vip.is_broadcast() {
        let text = format!("{vip} cannot be a VIP; the service has none on this network");
        notes.error(subject, place, text, "choose a unicast address, or leave it out");
        return Fixed::Refused;
    }
    if let Some(task) = living.get(&vip) {
        let text = format!("{vip} is the address of task {}; the VIP is not used", task.name);
        notes.error(subject, place, text, "choose an address that no task has");
        return Fixed::Refused;
    }
    if let Some(older) = holders.get(&vip) {
        let text = format!("{vip} is also the VIP of service {}, which is older", older.name);
        notes.error(subject, place, text, "choose another address, or leave it out");
        return Fixed::Refused;
    }
    holders.insert(vip, service);
    Fixed::At(vip)
}

fn has_ipv4(network: &Network) -> bool {
    network.subnets.is_empty() || network.subnets.iter().any(|it| matches!(it, IpNet::V4(_)))
}

/// The addresses on `network` of tasks that are not gone.
fn living_addresses<'a>(snapshot: &'a Snapshot, network: &Network) -> BTreeMap<Ipv4Addr, &'a Task> {
    let living = snapshot.tasks_on(&network.id).filter(|it| it.state != ServingState::Stopped);
    living.flat_map(|task| ipv4_of(task, &network.id).map(move |it| (it, task))).collect()
}

/// A task's IPv4 addresses on a network.
pub(crate) fn ipv4_of<'a>(
    task: &'a Task,
    network: &NetworkId,
) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let addresses = task.networks.get(network).into_iter().flat_map(|it| &it.addresses);
    addresses.filter_map(|it| match it {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

/// What the allocator must keep off.
fn ground(snapshot: &Snapshot, wanted: &Wanted, pool: Ipv4Net) -> Ground {
    let subnets = snapshot.networks().flat_map(ipv4_subnets).collect();
    let mut taken: BTreeSet<_> = wanted.fixed.values().copied().collect();
    for task in snapshot.tasks().filter(|it| it.state != ServingState::Stopped) {
        taken.extend(task.networks.keys().flat_map(|network| ipv4_of(task, network)));
    }
    taken.retain(|it| pool.contains(it));
    Ground { pool: pool.trunc(), subnets, taken }
}

fn ipv4_subnets(network: &Network) -> impl Iterator<Item = Ipv4Net> + '_ {
    network.subnets.iter().filter_map(|it| match it {
        IpNet::V4(subnet) => Some(subnet.trunc()),
        IpNet::V6(_) => None,
    })
}

fn tell(allocation: &Allocation, pool: Ipv4Net, notes: &mut Notes) {
    for (network, service) in &allocation.unserved {
        notes.error(
            format!("service {}", service.id),
            format!("vip on {}", network.name),
            format!("no address is left in {pool}; the service has no VIP on this network"),
            "set `vip.pool` to a larger range that no network uses",
        );
    }
    for (vip, service, network) in &allocation.moved {
        notes.warning(
            format!("service {}", service.id),
            format!("vip on {}", network.name),
            format!("{vip} is now outside `vip.pool` or belongs to a network; the VIP moves"),
            "none needed if clients look the name up again; keep `vip.pool` clear of subnets",
        );
    }
}

fn addresses(snapshot: &Snapshot, wanted: Wanted, leases: &Leases) -> Addresses {
    let Wanted { fixed, claims } = wanted;
    let mut addresses: Addresses =
        fixed.into_iter().map(|(key, vip)| (key, IpAddr::V4(vip))).collect();
    let leased = leases.in_use();
    for network in snapshot.networks() {
        let Some(services) = claims.get(&Holder::network(network)) else { continue };
        for service in services {
            let key = (network.id.as_str(), service.id.as_str());
            if let Some(vip) = leased.get(&key) {
                let key = (ServiceId::from(service.id.as_str()), network.id.clone());
                addresses.insert(key, IpAddr::V4(*vip));
            }
        }
    }
    addresses
}

/// Networks that the router enters through a namespace, and on which a service wants its requests
/// sent to its VIP: there is a client of VIPs that is no sandbox.
fn doorways(snapshot: &Snapshot) -> impl Iterator<Item = (&Network, &Path)> {
    let wants_vip = |service: &Service| {
        let (specs, _told_by_the_router) = labels::routes(service);
        specs.iter().any(|spec| spec.backend_mode == BackendMode::Vip)
    };
    let used = move |it: &&Network| !it.ingress && snapshot.services_on(&it.id).any(wants_vip);
    snapshot.networks().filter(used).filter_map(|network| match &network.reach {
        Reach::Netns(path) => Some((network, path.as_path())),
        Reach::Host | Reach::Nowhere => None,
    })
}

/// What each network brings to the sandboxes on it.
struct NetworkPlan {
    balances: Balances,
    /// Where its VIPs are that its own subnets do not cover.
    blocks: BTreeSet<Ipv4Net>,
}

fn networks(
    snapshot: &Snapshot,
    addresses: &Addresses,
    leases: &Leases,
    drain: Duration,
) -> BTreeMap<NetworkId, NetworkPlan> {
    let mut plans: BTreeMap<NetworkId, NetworkPlan> = BTreeMap::new();
    for ((service, network), vip) in addresses {
        let (Some(service), Some(network)) = (snapshot.service(service), snapshot.network(network))
        else {
            continue;
        };
        let IpAddr::V4(address) = *vip else { continue };
        let empty = || NetworkPlan { balances: Balances::new(), blocks: BTreeSet::new() };
        let plan = plans.entry(network.id.clone()).or_insert_with(empty);
        plan.balances.insert(*vip, Arc::new(balance(snapshot, service, network, drain)));
        plan.blocks.extend(block_of(address, network, leases));
    }
    plans
}

fn balance(snapshot: &Snapshot, service: &Service, network: &Network, drain: Duration) -> Balance {
    let mut weighted = Vec::new();
    let (mut alive, mut resting) = (BTreeSet::new(), BTreeMap::new());
    for task in snapshot.tasks_of(&service.id).filter(|it| it.state != ServingState::Stopped) {
        for address in ipv4_of(task, &network.id).map(IpAddr::V4) {
            alive.insert(address);
            if task.serves() {
                weighted.push((address, task.weight));
            } else {
                resting.insert(address, drain_time(task, service, drain));
            }
        }
    }
    // Two tasks may have one address while the engine hands it on.
    resting.retain(|it, _| weighted.iter().all(|(serving, _)| serving != it));
    let (service, network) = (service.name.clone(), network.name.clone());
    Balance { service, network, slots: slots(weighted), alive, affine: false, resting }
}

/// How long connections to a task may go on, where that is limited.
fn drain_time(task: &Task, service: &Service, drain: Duration) -> Option<Duration> {
    (task.state == ServingState::Draining).then(|| {
        let (spec, _told_where_all_is_balanced) = labels::balance(service);
        spec.drain.unwrap_or(drain)
    })
}

/// The range to route to the network's interface, if `vip` needs a route.
fn block_of(vip: Ipv4Addr, network: &Network, leases: &Leases) -> Option<Ipv4Net> {
    if ipv4_subnets(network).any(|it| it.contains(&vip)) {
        return None;
    }
    // Where no subnet is known, one that the source fixed is taken to be in it.
    let alone = || (!network.subnets.is_empty()).then(|| Ipv4Net::from(vip));
    leases.block_around(vip, network.id.as_str()).or_else(alone)
}

/// The tables of balances, one for each list of networks that some sandbox is on.
struct Tables<'a> {
    networks: &'a BTreeMap<NetworkId, NetworkPlan>,
    made: BTreeMap<Vec<NetworkId>, Arc<Balances>>,
}

impl Tables<'_> {
    fn sandbox(
        &mut self,
        snapshot: &Snapshot,
        sandbox: &Sandbox,
        notes: &mut Notes,
    ) -> SandboxPlan {
        let on = sandbox.networks.iter().map(|it| it.network.clone());
        let on: Vec<_> = on.filter(|it| self.networks.contains_key(it)).collect();
        let balances = match self.made.get(&on) {
            Some(made) => Arc::clone(made),
            None => self.make(snapshot, on, notes),
        };
        SandboxPlan {
            name: sandbox.name.clone(),
            netns: sandbox.netns.clone(),
            cookie: sandbox.cookie,
            balances,
            routes: self.routes(sandbox),
        }
    }

    /// The namespace through which this node reaches `network`.
    fn doorway(
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
        (SandboxId::from(format!("network:{}", network.id)), plan)
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

    fn routes(&self, sandbox: &Sandbox) -> BTreeSet<VipRoute> {
        let mut routes: BTreeMap<IpNet, IpAddr> = BTreeMap::new();
        for attachment in &sandbox.networks {
            let own = attachment.addresses.iter().find_map(|it| match it {
                IpAddr::V4(own) => Some(*own),
                IpAddr::V6(_) => None,
            });
            // Without an address there yet there is no way out yet either.
            let (Some(network), Some(own)) = (self.networks.get(&attachment.network), own) else {
                continue;
            };
            for block in &network.blocks {
                routes.entry(IpNet::V4(*block)).or_insert(IpAddr::V4(own));
            }
        }
        routes.into_iter().map(|(block, source)| VipRoute { block, source }).collect()
    }
}

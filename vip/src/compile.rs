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

pub(crate) mod host;
mod tables;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use registry::balance_spec::BalanceSpec;
use registry::id::{NetworkId, SandboxId, ServiceId};
use registry::labels;
use registry::model::{Network, Reach, Sandbox, Service, ServingState, Task};
use registry::route_spec::BackendMode;
use registry::{Notes, Snapshot};

use self::tables::Tables;
use self::wanted::{Specs, Wanted};
use crate::allocate::{self, Allocation, Ground};
use crate::family::IpFamily;
use crate::lease::{Holder, Leases};
use crate::plan::{Addresses, Plan};
use crate::userspace::DataPlane;

/// How the VIP manager behaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Where addresses for services without a VIP of the engine come from.
    pub pool: Ipv4Net,
    /// Where their IPv6 addresses come from, on networks that have both families.
    pub pool6: Ipv6Net,
    /// Where the leases are kept.
    pub state_dir: PathBuf,
    /// How VIPs are served.
    pub data_plane: DataPlane,
    /// How long connections to a draining task may go on, unless its service says otherwise.
    pub drain: Duration,
    /// What the host has routes to. No new VIP of the pool hides one that lies inside the pool;
    /// longer ways that cover it (a VPN's 128.0.0.0/1) are kinds of default route.
    pub host_routes: BTreeSet<IpNet>,
    /// Whether connections of the host itself to VIPs of its bridges are balanced as well.
    pub host: bool,
    /// The host's own addresses, as far as they were seen; asked for where `host` is set.
    pub host_addresses: BTreeSet<IpAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool: Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16),
            // A unique local prefix (RFC 4193) that spells `portola`: the same on all nodes.
            pool6: Ipv6Net::new_assert(
                Ipv6Addr::new(0xfd70, 0x6f72, 0x746f, 0x6c61, 0, 0, 0, 0),
                64,
            ),
            state_dir: PathBuf::from("/var/lib/portolan"),
            data_plane: DataPlane::default(),
            drain: DRAIN,
            host_routes: BTreeSet::new(),
            host: false,
            host_addresses: BTreeSet::new(),
        }
    }
}

impl Config {
    fn pool_of(&self, family: IpFamily) -> IpNet {
        match family {
            IpFamily::V4 => self.pool.trunc().into(),
            IpFamily::V6 => self.pool6.trunc().into(),
        }
    }

    /// The pools of both families.
    pub(crate) fn pools(&self) -> [IpNet; 2] {
        IpFamily::ALL.map(|it| self.pool_of(it))
    }

    /// The host's routes that lie inside the pool.
    fn routes_of(&self, family: IpFamily) -> impl Iterator<Item = IpNet> {
        let pool = self.pool_of(family);
        self.host_routes.iter().map(IpNet::trunc).filter(move |it| pool.contains(it))
    }
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
    let specs = specs(snapshot, &mut notes);
    let wanted = Wanted::of(snapshot, &specs, config, &mut notes);
    let mut allocation = Allocation::default();
    for family in IpFamily::ALL {
        let ground = ground(snapshot, &wanted, config, family);
        let claims = wanted.claims.get(&family).cloned().unwrap_or_default();
        let more = allocate::allocate(&leases.of_family(family), &claims, &ground, now_ms);
        tell(&more, family, config, &mut notes);
        allocation.leases.blocks.extend(more.leases.blocks);
    }
    let addresses = addresses(wanted, &allocation.leases);
    let networks = tables::networks(snapshot, &specs, &addresses, &allocation.leases, config.drain);
    let mut tables = Tables::new(&networks);
    let mut sandboxes: BTreeMap<_, _> = snapshot
        .sandboxes()
        .map(|sandbox| (sandbox.id.clone(), tables.sandbox(snapshot, sandbox, &mut notes)))
        .collect();
    let doorways = doorways(snapshot);
    sandboxes.extend(doorways.map(|(it, path)| tables.doorway(snapshot, it, path, &mut notes)));
    if config.host {
        sandboxes.extend(host::plan(snapshot, &mut tables, config, &mut notes));
    }
    let leases = Arc::new(allocation.leases);
    let unread = unread(snapshot);
    (Plan { sandboxes, addresses: Arc::new(addresses), leases, unread }, notes)
}

/// Who is on networks of which nobody told yet who serves there.
fn unread(snapshot: &Snapshot) -> BTreeSet<SandboxId> {
    let is_on_unread = |it: &&Sandbox| it.networks.iter().any(|it| snapshot.is_unread(&it.network));
    let doorways = doorways(snapshot).filter(|(it, _)| snapshot.is_unread(&it.id));
    let sandboxes = snapshot.sandboxes().filter(is_on_unread).map(|it| it.id.clone());
    sandboxes.chain(doorways.map(|(it, _)| tables::doorway_id(it))).collect()
}

/// What services ask for by labels, those that do.
fn specs(snapshot: &Snapshot, notes: &mut Notes) -> Specs {
    let mut specs = Specs::new();
    let nothing = BalanceSpec::default();
    for service in snapshot.services() {
        let (spec, told) = labels::balance(service);
        notes.extend(told);
        if spec != nothing {
            specs.insert(service.id.clone(), spec);
        }
    }
    specs
}

/// A task's addresses of one family on a network.
pub(crate) fn addresses_of<'a>(
    task: &'a Task,
    network: &NetworkId,
    family: IpFamily,
) -> impl Iterator<Item = IpAddr> + 'a {
    let addresses = task.networks.get(network).into_iter().flat_map(|it| &it.addresses);
    addresses.copied().filter(move |it| IpFamily::of(*it) == family)
}

/// A network's address ranges of one family.
fn subnets_of(network: &Network, family: IpFamily) -> impl Iterator<Item = IpNet> + '_ {
    let subnets = network.subnets.iter().map(IpNet::trunc);
    subnets.filter(move |it| IpFamily::of(it.addr()) == family)
}

/// What the allocator must keep off.
fn ground(snapshot: &Snapshot, wanted: &Wanted, config: &Config, family: IpFamily) -> Ground {
    let pool = config.pool_of(family);
    let subnets = snapshot.networks().flat_map(|it| subnets_of(it, family)).collect();
    let routed = config.routes_of(family).collect();
    let mut taken: BTreeSet<_> = wanted.fixed.values().flat_map(|it| it.iter()).collect();
    for task in snapshot.tasks().filter(|it| it.state != ServingState::Stopped) {
        taken.extend(task.networks.values().flat_map(|it| &it.addresses));
    }
    taken.retain(|it| pool.contains(it));
    Ground { pool, subnets, routed, taken }
}

fn tell(allocation: &Allocation, family: IpFamily, config: &Config, notes: &mut Notes) {
    let pool = config.pool_of(family);
    let key = match family {
        IpFamily::V4 => "vip.pool",
        IpFamily::V6 => "vip.pool6",
    };
    for (network, service) in &allocation.unserved {
        notes.error(
            format!("service {}", service.id),
            format!("vip on {}", network.name),
            format!("no address is left in {pool}; the service has no VIP on this network"),
            format!("set `{key}` to a larger range that no network uses"),
        );
    }
    for (vip, service, network) in &allocation.moved {
        notes.warning(
            format!("service {}", service.id),
            format!("vip on {}", network.name),
            format!("{vip} is now outside `{key}` or belongs to a network; the VIP moves"),
            format!("none needed if clients look the name up again; keep `{key}` clear of subnets"),
        );
    }
}

fn addresses(wanted: Wanted, leases: &Leases) -> Addresses {
    let Wanted { fixed, claims } = wanted;
    let mut addresses: Addresses = fixed;
    let leased = leases.in_use();
    let services = |(network, services): (Holder, BTreeSet<Holder>)| {
        services.into_iter().map(move |it| (network.id.clone(), it.id))
    };
    for (network, service) in claims.into_values().flatten().flat_map(services) {
        for vip in leased.get(&(network.as_str(), service.as_str())).into_iter().flatten() {
            let key = (ServiceId::from(service.as_str()), NetworkId::from(network.as_str()));
            let pair = addresses.entry(key).or_default();
            // One that is fixed comes before one that the service has from before.
            *pair = pair.or((*vip).into());
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

//! Decides where published ports lead: a snapshot to a plan and notes.
//!
//! Invariants
//! - *total*: whatever the snapshot says there is a plan; what cannot be done is a note on the
//!   service that asked for it;
//! - *one owner*: a port and protocol belong to one service, the one created first;
//! - *only the mesh*: ports in host mode are the engine's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use registry::balance_spec::{BalanceSpec, Prefer};
use registry::id::{NetworkId, SandboxId};
use registry::labels;
use registry::model::{
    Network, PublishMode, PublishedPort, Reach, Sandbox, Service, ServingState, Task,
};
use registry::{Notes, Snapshot};

use super::outbound::GATEWAY_BRIDGE;
use super::plan::{Aside, Bridge, Ingress, Plan, Port, Published, Way};
use super::target;
use crate::slots::slots;

/// How the routing mesh behaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Whether there is one.
    pub enabled: Enabled,
    /// Whom tasks see.
    pub client_ip: ClientIp,
    /// Where it is kept what was changed of the kernel, to be put back.
    pub state_dir: PathBuf,
    /// How long connections to a draining task may go on, unless its service says otherwise
    /// (`vip.drain`).
    pub drain: Duration,
    /// Whether containers get out where the engine keeps no rules for its gateway bridge.
    pub outbound: bool,
}

/// Whether there is a mesh of ours (`mesh.enabled`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Enabled {
    /// Where the engine's own does not work.
    #[default]
    Auto,
    /// In place of the engine's own.
    On,
    /// Never.
    Off,
}

/// Whom tasks see as the peer of connections through the mesh (`mesh.client_ip`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ClientIp {
    /// The client.
    #[default]
    Keep,
    /// The node that the client spoke to.
    Masquerade,
}

/// What `snapshot` asks for.
pub fn compile(snapshot: &Snapshot, config: &Config) -> (Plan, Notes) {
    let mut notes = Notes::default();
    if config.enabled == Enabled::Off {
        return (none(snapshot), notes);
    }
    let masquerade = config.client_ip == ClientIp::Masquerade;
    let ingress = ingress_of(snapshot);
    let mut ports = BTreeMap::new();
    let mut plan = Plan { outbound: config.outbound, ..Plan::default() };
    let mut services: Vec<_> = snapshot.services().collect();
    services.sort_by_key(|it| (it.created, &it.id));
    let mut owners: BTreeMap<Port, &Service> = BTreeMap::new();
    for service in services {
        let mut meshed = service.ports.iter().filter(|it| is_meshed(it)).peekable();
        if meshed.peek().is_none() {
            continue;
        }
        // What its labels say wrong is told by the consumer of VIPs.
        let (spec, _) = labels::balance(service);
        let place = Place::of(snapshot, service, ingress.as_ref());
        let Some(place) = place else { continue };
        for port in meshed {
            let key = Port { protocol: port.protocol, number: port.published };
            if let Some(owner) = owners.get(&key) {
                taken(service, key, owner, &mut notes);
                continue;
            }
            owners.insert(key, service);
            let published = Arc::new(place.published(snapshot, service, port, &spec, config));
            if place.network.ingress {
                ports.insert(key, published);
            } else {
                plan.bridges.extend(place.bridges());
                plan.direct.insert(key, published);
            }
        }
    }
    let of_the_host = snapshot.networks().filter(|it| it.reach == Reach::Host && !it.ingress);
    for network in of_the_host {
        if network.name == GATEWAY_BRIDGE {
            plan.gateway.extend(subnets(network));
        }
        plan.alive.extend(alive(snapshot, network));
        plan.draining.extend(draining(snapshot, network, config.drain));
    }
    if let Some((network, netns)) = ingress {
        if !masquerade && !ports.is_empty() {
            plan.ways = ways(snapshot, network, &mut notes);
        }
        let alive = alive(snapshot, network).collect();
        let draining = draining(snapshot, network, config.drain).collect();
        let subnets = subnets(network).collect();
        plan.strays = strays(snapshot, network, &plan.ways);
        let unread = snapshot.is_unread(&network.id);
        plan.ingress = Some(Ingress { netns, subnets, ports, alive, draining, masquerade, unread });
    }
    (plan, notes)
}

/// No mesh: whatever of it is there is to go.
fn none(snapshot: &Snapshot) -> Plan {
    let Some((network, netns)) = ingress_of(snapshot) else { return Plan::default() };
    let ingress = Ingress {
        netns,
        subnets: subnets(network).collect(),
        ports: BTreeMap::new(),
        alive: BTreeSet::new(),
        draining: BTreeMap::new(),
        masquerade: false,
        unread: false,
    };
    let strays = strays(snapshot, network, &BTreeMap::new());
    Plan { ingress: Some(ingress), strays, ..Plan::default() }
}

/// Tasks on a network that may hold connections.
fn alive(snapshot: &Snapshot, network: &Network) -> impl Iterator<Item = Ipv4Addr> {
    let tasks = snapshot.tasks_on(&network.id).filter(|it| lives(it));
    tasks.flat_map(|it| ipv4_of(it, &network.id))
}

/// Tasks on a network that drain, and how long each may.
fn draining(
    snapshot: &Snapshot,
    network: &Network,
    usual: Duration,
) -> impl Iterator<Item = (Ipv4Addr, Duration)> {
    let drains = |it: &&Task| it.state == ServingState::Draining;
    snapshot.tasks_on(&network.id).filter(drains).flat_map(move |task| {
        let service = task.service.as_ref().and_then(|it| snapshot.service(it));
        let limit = service.and_then(|it| labels::balance(it).0.drain).unwrap_or(usual);
        ipv4_of(task, &network.id).map(move |it| (it, limit))
    })
}

pub(super) fn is_meshed(port: &PublishedPort) -> bool {
    port.mode == PublishMode::Ingress && port.published != 0
}

/// Swarm's ingress network, where this node is on it.
fn ingress_of(snapshot: &Snapshot) -> Option<(&Network, PathBuf)> {
    snapshot.networks().filter(|it| it.ingress).find_map(|network| match &network.reach {
        Reach::Netns(path) => Some((network, path.clone())),
        Reach::Host | Reach::Nowhere => None,
    })
}

fn taken(service: &Service, port: Port, owner: &Service, notes: &mut Notes) {
    if service.id == owner.id {
        // The engine lists ports without their protocols where only gossip tells of a service.
        notes.error(
            format!("service {}", service.name),
            format!("port {port}"),
            "has a target for each protocol, and this node cannot tell which has which",
            "run a task of the service here, or publish ports of different numbers",
        );
        return;
    }
    notes.error(
        format!("service {}", service.name),
        format!("port {port}"),
        format!("is published by service {} as well, which is older; it keeps it", owner.name),
        "publish another port",
    );
}

/// The network through which a service's published ports lead.
struct Place<'a> {
    network: &'a Network,
}

impl<'a> Place<'a> {
    /// Swarm's ingress network where the service is on it, else the first network by name that the
    /// host is on.
    fn of(
        snapshot: &'a Snapshot,
        service: &Service,
        ingress: Option<&(&'a Network, PathBuf)>,
    ) -> Option<Self> {
        if let Some((network, _)) = ingress.filter(|it| service.networks.contains_key(&it.0.id)) {
            return Some(Self { network });
        }
        let networks = service.networks.keys().filter_map(|it| snapshot.network(it));
        let reached = networks.filter(|it| it.reach == Reach::Host && !it.ingress);
        let best = reached.min_by_key(|it| (it.internal, &it.name, &it.id));
        best.map(|network| Self { network })
    }

    fn bridges(&self) -> impl Iterator<Item = Bridge> {
        subnets(self.network).map(|subnet| Bridge { subnet, internal: self.network.internal })
    }

    fn published(
        &self,
        snapshot: &Snapshot,
        service: &Service,
        port: &PublishedPort,
        spec: &BalanceSpec,
        config: &Config,
    ) -> Published {
        let masquerade = config.client_ip == ClientIp::Masquerade;
        let drain = spec.drain.unwrap_or(config.drain);
        let tasks: Vec<&Task> = snapshot.tasks_of(&service.id).collect();
        let here = |it: &&&Task| match snapshot.this_node() {
            Some(node) => it.node.as_ref() == Some(node),
            None => true,
        };
        let asked = |ports: &[PublishedPort]| {
            target::asked_at(ports, port, self.network.ingress, masquerade)
        };
        let target_of = |it: &Task| asked(it.publishes.as_ref().unwrap_or(&service.ports));
        let serves = |it: &&Task| it.serves() && target_of(it).is_some();
        let serving: Vec<&Task> = tasks.iter().copied().filter(serves).collect();
        let near: Vec<&Task> = match spec.prefer {
            Prefer::Node => serving.iter().filter(here).copied().collect(),
            Prefer::Any => Vec::new(),
        };
        let chosen = if near.is_empty() { serving } else { near };
        let network = &self.network.id;
        let weighed = chosen
            .iter()
            .flat_map(|it| ipv4_of(it, network).map(|address| (IpAddr::V4(address), it.weight)));
        let slots = slots(weighed.collect()).into_iter().filter_map(ipv4);
        let alive: Vec<&Task> = tasks.into_iter().filter(|it| lives(it)).collect();
        let limit = |it: &Task| (it.state == ServingState::Draining).then_some(drain);
        let tired = alive.iter().filter(|it| !it.serves());
        let resting = tired.flat_map(|it| ipv4_of(it, network).map(|at| (at, limit(it)))).collect();
        let target = asked(&service.ports).unwrap_or(port.target);
        let others = alive.iter().filter_map(|it| Some((*it, target_of(it)?)));
        let others = others.filter(|it| it.1 != target);
        let former: BTreeMap<Ipv4Addr, u16> = others
            .flat_map(|(task, target)| ipv4_of(task, network).map(move |it| (it, target)))
            .collect();
        let at = |it| SocketAddrV4::new(it, former.get(&it).copied().unwrap_or(target));
        Published {
            service: service.name.clone(),
            slots: slots.map(at).collect(),
            alive: alive.iter().flat_map(|it| ipv4_of(it, network)).collect(),
            resting,
            drain,
            target,
            former,
            affinity: spec.affinity,
            proxy_protocol: spec.proxy_protocol,
            bind: spec.bind.clone(),
        }
    }
}

/// Whether a task may hold connections: also one that a health check holds back.
fn lives(task: &Task) -> bool {
    task.state != ServingState::Stopped
}

fn subnets(network: &Network) -> impl Iterator<Item = Ipv4Net> + '_ {
    network.subnets.iter().filter_map(|it| match it {
        IpNet::V4(subnet) => Some(subnet.trunc()),
        IpNet::V6(_) => None,
    })
}

/// The local namespaces on the ingress network.
fn ways(snapshot: &Snapshot, ingress: &Network, notes: &mut Notes) -> BTreeMap<SandboxId, Way> {
    let routers = numbered(routers(snapshot, ingress), notes);
    let held = held(snapshot, ingress);
    let way = |sandbox: &Sandbox| {
        let attachment = sandbox.networks.iter().find(|it| it.network == ingress.id)?;
        let own = attachment.addresses.iter().find_map(|it| ipv4(*it))?;
        let (name, netns, cookie) = (sandbox.name.clone(), sandbox.netns.clone(), sandbox.cookie);
        let held = held.get(&own).cloned().unwrap_or_default();
        let way = Way { name, netns, cookie, own, held, routers: routers.clone() };
        Some((sandbox.id.clone(), way))
    };
    snapshot.sandboxes().filter_map(way).collect()
}

/// The ports of [`Way::held`], by task, where there are any.
fn held(snapshot: &Snapshot, ingress: &Network) -> BTreeMap<Ipv4Addr, BTreeSet<u16>> {
    let of = |task: &Task| {
        let service = task.service.as_ref().and_then(|it| snapshot.service(it));
        let ports = task.publishes.as_ref().or_else(|| service.map(|it| &it.ports));
        ports.map(|it| target::led_on(it)).filter(|it| !it.is_empty())
    };
    let tasks = snapshot.tasks_on(&ingress.id).filter_map(|it| Some((it, of(it)?)));
    let each = |(task, held): (&Task, BTreeSet<u16>)| {
        ipv4_of(task, &ingress.id).map(|it| (it, held.clone())).collect::<Vec<_>>()
    };
    tasks.flat_map(each).collect()
}

/// The local namespaces on the ingress network that are none of `ways`.
fn strays(
    snapshot: &Snapshot,
    ingress: &Network,
    ways: &BTreeMap<SandboxId, Way>,
) -> BTreeMap<SandboxId, Aside> {
    let on = |it: &&Sandbox| it.networks.iter().any(|it| it.network == ingress.id);
    let strays = snapshot.sandboxes().filter(on).filter(|it| !ways.contains_key(&it.id));
    let stray = |it: &Sandbox| {
        let (name, netns, cookie) = (it.name.clone(), it.netns.clone(), it.cookie);
        (it.id.clone(), Aside { name, netns, cookie })
    };
    strays.map(stray).collect()
}

/// A task's IPv4 addresses on a network.
fn ipv4_of<'a>(task: &'a Task, network: &NetworkId) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let addresses = task.networks.get(network).into_iter().flat_map(|it| &it.addresses);
    addresses.filter_map(|it| ipv4(*it))
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// The nodes' ends of the ingress network. Who is known as a task is none, whatever else is said
/// of its address.
fn routers(snapshot: &Snapshot, ingress: &Network) -> BTreeSet<Ipv4Addr> {
    let tasks: BTreeSet<Ipv4Addr> =
        snapshot.tasks_on(&ingress.id).flat_map(|it| ipv4_of(it, &ingress.id)).collect();
    let ends = snapshot.nodes().flat_map(|it| it.ingress.iter().copied()).filter_map(ipv4);
    ends.filter(|it| !tasks.contains(it)).collect()
}

/// Numbers routers by the end of their address, so that a number stays with its node whoever comes
/// and goes; where two would have one (networks larger than a /20), the higher address moves.
fn numbered(routers: BTreeSet<Ipv4Addr>, notes: &mut Notes) -> BTreeMap<u32, Ipv4Addr> {
    let mut numbers: BTreeMap<u32, Ipv4Addr> = BTreeMap::new();
    let mut homeless = Vec::new();
    for router in routers {
        let number = router.to_bits() & MOST_ROUTERS;
        if number == 0 || numbers.contains_key(&number) {
            homeless.push(router);
        } else {
            numbers.insert(number, router);
        }
    }
    for router in homeless {
        match (1..=MOST_ROUTERS).find(|it| !numbers.contains_key(it)) {
            Some(number) => drop(numbers.insert(number, router)),
            None => notes.error(
                format!("node at {router}"),
                "mesh",
                format!("tasks here cannot answer clients who come through it: {MOST_ROUTERS} nodes are known already"),
                "set `mesh.client_ip` to \"masquerade\"",
            ),
        }
    }
    numbers
}

/// As many as the bits of ours in a connection's mark can number.
pub(crate) const MOST_ROUTERS: u32 = 0xfff;

#[cfg(test)]
mod tests {
    use registry::source::world;

    use super::*;

    const SWARM: &str = "this_node = \"a\"\n[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\n\
                         [[network]]\nname = \"ingress\"\nsubnet = \"10.0.0.0/24\"\n\
                         ingress = true\nreach = \"/run/ingress_sbox\"\n";

    fn config() -> Config {
        Config {
            enabled: Enabled::Auto,
            client_ip: ClientIp::Keep,
            state_dir: PathBuf::from("/nowhere"),
            drain: Duration::from_secs(600),
            outbound: true,
        }
    }

    /// The ports that lead through the doorway on node `a`, one a line, and the notes.
    fn compiled(text: &str) -> (Vec<String>, Vec<String>) {
        let mut draft = world::parse(&format!("{SWARM}{text}"), "test").unwrap();
        // Nobody can write the same port twice into a file; two engines' services can have it.
        for port in draft.services.iter_mut().flat_map(|it| &mut it.ports) {
            port.published = if port.published == 8888 { 8001 } else { port.published };
        }
        let (plan, notes) = compile(&Snapshot::build(draft, 1), &config());
        let ports = plan.ports().map(|(port, it)| format!("{port} {it}")).collect();
        (ports, notes.iter().map(ToString::to_string).collect())
    }

    fn service(name: &str, ports: &str, labels: &str) -> String {
        format!(
            "[[service]]\nname = \"{name}\"\nnetworks = [\"ingress\"]\nports = [{ports}]\n\
             labels = {{ {labels} }}\n"
        )
    }

    fn task(service: &str, last: u8, node: &str, more: &str) -> String {
        format!(
            "[[task]]\nname = \"{service}.{last}\"\nservice = \"{service}\"\nnode = \"{node}\"\n\
             addresses = {{ ingress = \"10.0.0.{last}\" }}\n{more}\n"
        )
    }

    const PORT: &str = "{ published = 8001, target = 80 }";

    #[test]
    fn a_port_belongs_to_one_service_and_host_mode_to_the_engine() {
        let host = "{ published = 9, target = 9, mode = \"host\" }, { target = 7 }";
        let same = PORT.replace("8001", "8888");
        let text = service("a", &format!("{PORT}, {host}"), "") + &service("b", &same, "");
        let (ports, notes) = compiled(&(text + &task("a", 5, "a", "") + &task("b", 6, "a", "")));
        assert_eq!(ports, ["8001/tcp a -> 10.0.0.5:80"]);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("service b") && notes[0].contains("8001/tcp"), "{notes:?}");
    }

    #[test]
    fn weights_and_nodes_decide_who_gets_connections() {
        let tasks = task("web", 5, "a", "weight = 2") + &task("web", 6, "b", "");
        let tasks = tasks + &task("web", 7, "a", "state = \"draining\"");
        let (ports, _) = compiled(&(service("web", PORT, "") + &tasks));
        assert_eq!(ports, ["8001/tcp web -> 10.0.0.5:80 10.0.0.6:80 10.0.0.5:80"]);
        let near = "\"portolan.vip.prefer\" = \"node\"";
        let (ports, _) = compiled(&(service("web", PORT, near) + &tasks));
        assert_eq!(ports, ["8001/tcp web -> 10.0.0.5:80"]);
        let far = tasks.replace("weight = 2", "state = \"starting\"");
        let (ports, _) = compiled(&(service("web", PORT, near) + &far));
        assert_eq!(ports, ["8001/tcp web -> 10.0.0.6:80"]);
    }

    #[test]
    fn tasks_from_before_a_change_of_ports_get_what_they_publish_and_nothing_else() {
        let text = service("web", &format!("{PORT}, {}", PORT.replace("8001", "8002")), "");
        let text = text + &task("web", 5, "a", "") + &task("web", 6, "a", "");
        let mut draft = world::parse(&(SWARM.to_owned() + &text), "test").unwrap();
        let before = PublishedPort { target: 8080, ..draft.services[0].ports[0].clone() };
        draft.tasks[0].publishes = Some(vec![before]);
        let (plan, _) = compile(&Snapshot::build(draft, 1), &config());
        let ports: Vec<_> = plan.ports().map(|(port, it)| format!("{port} {it}")).collect();
        assert_eq!(
            ports,
            ["8001/tcp web -> 10.0.0.5:8080 10.0.0.6:80", "8002/tcp web -> 10.0.0.6:80"]
        );
    }

    #[test]
    fn a_routers_number_stays_with_it_and_no_two_have_one() {
        let routers = |all: &[[u8; 4]]| {
            let all = all.iter().map(|it| Ipv4Addr::from(*it)).collect();
            numbered(all, &mut Notes::default())
        };
        let one = routers(&[[10, 0, 0, 3]]);
        let many = routers(&[[10, 0, 0, 2], [10, 0, 0, 3], [10, 0, 16, 3], [10, 0, 16, 0]]);
        assert_eq!(one.get(&3), many.get(&3));
        assert_eq!(many.values().collect::<BTreeSet<_>>().len(), 4);
        assert!(!many.contains_key(&0));
    }
}

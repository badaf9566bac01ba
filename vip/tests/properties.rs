//! The VIP manager's laws, on any world: compile, leases from step to step, diff.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use registry::model::{
    Attachment, Completeness, Endpoint, Mode, Network, Reach, Sandbox, Scope, Service,
    ServiceAttachment, ServiceKind, ServingState, Task,
};
use registry::{Draft, Snapshot};
use vip::diff::{Change, diff};
use vip::plan::{Balance, Balances, SandboxPlan, VipRoute};
use vip::{Config, Plan, compile};

fn config() -> Config {
    Config {
        pool: "10.0.0.0/22".parse().unwrap(),
        pool6: "fd00::/112".parse().unwrap(),
        host_routes: ["10.0.3.128/25".parse().unwrap()].into(),
        ..Config::default()
    }
}

/// Few addresses, so that everything clashes; inside the pool and outside of it.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        8 => (0..6_u8, 0..8_u8).prop_map(|(c, d)| IpAddr::V4(Ipv4Addr::new(10, 0, c, d))),
        4 => (0..2_u16, 0..8_u16).prop_map(|(c, d)| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, c, d).into()),
        1 => Just(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        1 => select(vec![[127, 0, 0, 11], [0, 0, 0, 0], [224, 0, 0, 1], [255, 255, 255, 255]])
            .prop_map(IpAddr::from),
    ]
}

fn network_id() -> impl Strategy<Value = String> {
    (0..4_u8).prop_map(|it| format!("n{it}"))
}

fn network() -> impl Strategy<Value = Network> {
    let subnet = prop_oneof![
        3 => (0..6_u8, 20..=30_u8).prop_map(|(c, prefix)| format!("10.0.{c}.0/{prefix}")),
        1 => (0..3_u8, 110..=124_u8).prop_map(|(c, prefix)| format!("fd00::{c}:0/{prefix}")),
    ];
    (network_id(), 0..2_u8, any::<bool>(), vec(subnet, 0..3)).prop_map(
        |(id, name, ingress, subnets)| Network {
            id: id.into(),
            name: format!("net{name}"),
            scope: Scope::Local,
            driver: "bridge".to_owned(),
            internal: false,
            ingress,
            subnets: subnets.iter().map(|it| it.parse().unwrap()).collect(),
            gateways: Vec::new(),
            labels: BTreeMap::new(),
            names: Completeness::Complete,
            reach: Reach::Host,
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let attachment =
        option::of(address()).prop_map(|vip| ServiceAttachment { vip, aliases: BTreeSet::new() });
    let on = btree_map(network_id().prop_map(Into::into), attachment, 0..4);
    let mode = select(vec![Mode::Vip, Mode::Vip, Mode::DnsRr]);
    let ids = (0..8_u8, 0..3_u8, 0..3_u64);
    (ids, mode, on, labels()).prop_map(|((id, name, created), mode, networks, labels)| Service {
        id: format!("s{id}").into(),
        name: format!("svc{name}"),
        kind: ServiceKind::Compose,
        stack: None,
        mode,
        networks,
        ports: Vec::new(),
        labels,
        created,
    })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let label = prop_oneof![
        Just(("portolan.vip.affinity".to_owned(), "client".to_owned())),
        Just(("portolan.vip.prefer".to_owned(), "node".to_owned())),
        address().prop_map(|it| ("portolan.vip.address".to_owned(), it.to_string())),
        address().prop_map(|it| ("portolan.vip.address.net1".to_owned(), it.to_string())),
    ];
    btree_map(0..8_u8, label, 0..3).prop_map(|it| it.into_values().collect())
}

fn task() -> impl Strategy<Value = Task> {
    let endpoint =
        vec(address(), 0..3).prop_map(|addresses| Endpoint { addresses, names: BTreeSet::new() });
    let on = btree_map(network_id().prop_map(Into::into), endpoint, 0..4);
    let state = select(vec![
        ServingState::Starting,
        ServingState::Serving,
        ServingState::Serving,
        ServingState::Draining,
        ServingState::Stopped,
    ]);
    let service = option::of(0..8_u8);
    (any::<u8>(), service, on, state, any::<u16>()).prop_map(
        |(id, service, networks, state, weight)| Task {
            id: format!("t{id}").into(),
            name: format!("task{id}"),
            service: service.map(|it| format!("s{it}").into()),
            node: None,
            networks,
            publishes: None,
            weight,
            state,
            reason: String::new(),
        },
    )
}

fn sandbox() -> impl Strategy<Value = Sandbox> {
    let attachment = (network_id(), vec(address(), 0..2))
        .prop_map(|(network, addresses)| Attachment { network: network.into(), addresses });
    (0..4_u8, vec(attachment, 0..4)).prop_map(|(id, networks)| Sandbox {
        id: format!("b{id}").into(),
        name: format!("box{id}"),
        cookie: None,
        netns: format!("/run/netns/{id}").into(),
        tasks: Vec::new(),
        networks,
        nameless: Vec::new(),
        links: BTreeMap::new(),
        hosts: BTreeMap::new(),
        trusts_ad: false,
        hostname: String::new(),
        upstreams: Vec::new(),
        upstreams_from: registry::model::Origin::Host,
    })
}

fn draft() -> impl Strategy<Value = Draft> {
    let parts =
        (vec(network(), 0..5), vec(service(), 0..12), vec(task(), 0..12), vec(sandbox(), 0..5));
    parts.prop_map(|(networks, services, tasks, sandboxes)| Draft {
        networks,
        services,
        tasks,
        sandboxes,
        ..Draft::default()
    })
}

/// What is wrong with a plan.
fn flaws(snapshot: &Snapshot, plan: &Plan) -> Vec<String> {
    let mut flaws = Vec::new();
    let mut holders: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let all = plan.addresses.iter().flat_map(|(key, vips)| vips.iter().map(move |it| (key, it)));
    for ((service, network), vip) in all {
        holders.entry((network, vip)).or_default().push(service);
        let there = snapshot
            .service(service)
            .is_some_and(|it| it.mode == Mode::Vip && it.networks.contains_key(network));
        if !there || snapshot.network(network).is_none_or(|it| it.ingress) {
            flaws.push(format!("{vip} is for nobody"));
        }
        let living = snapshot.tasks_on(network).filter(|it| it.state != ServingState::Stopped);
        let mut endpoints = living.filter_map(|it| it.networks.get(network));
        if endpoints.any(|it| it.addresses.contains(&vip)) {
            flaws.push(format!("{vip} is a task's"));
        }
    }
    flaws.extend(holders.iter().filter(|(_, it)| it.len() > 1).map(|it| format!("{it:?}")));
    for (range, block) in &plan.leases.blocks {
        for address in block.leases.keys() {
            let inside = |it: &Network| it.subnets.iter().any(|it| it.contains(address));
            let routed = config().host_routes.iter().any(|it| it.contains(address));
            if snapshot.networks().any(inside) || routed || !range.contains(address) {
                flaws.push(format!("{address} was leased"));
            }
        }
    }
    for sandbox in snapshot.sandboxes() {
        flaws.extend(flaws_of_sandbox(snapshot, plan, sandbox));
    }
    flaws
}

fn flaws_of_sandbox(snapshot: &Snapshot, plan: &Plan, sandbox: &Sandbox) -> Vec<String> {
    let mut flaws = Vec::new();
    let Some(held) = plan.sandboxes.get(&sandbox.id) else { return vec!["no plan".to_owned()] };
    let on: BTreeSet<_> = sandbox.networks.iter().map(|it| &it.network).collect();
    let visible = plan.addresses.iter().filter(|((_, network), _)| on.contains(network));
    let visible: BTreeSet<_> = visible.flat_map(|(_, vips)| vips.iter()).collect();
    if !held.balances.keys().copied().eq(visible) {
        flaws.push(format!("{} holds other VIPs than it can see", sandbox.name));
    }
    for balance in held.balances.values() {
        if balance.slots.iter().any(|it| !balance.alive.contains(it)) {
            flaws.push(format!("{} gives connections to the dead", balance.service));
        }
    }
    let own: BTreeSet<_> = sandbox.networks.iter().flat_map(|it| &it.addresses).collect();
    flaws
        .extend(held.routes.iter().filter(|it| !own.contains(&it.source)).map(ToString::to_string));
    // Where it has an address, every VIP of its family is in a subnet of its network or has a route.
    for attachment in &sandbox.networks {
        let Some(network) = snapshot.network(&attachment.network) else { continue };
        let vips = plan.addresses.iter().filter(|((_, on), _)| *on == network.id);
        for vip in vips.flat_map(|(_, vips)| vips.iter()) {
            let mut own = attachment.addresses.iter();
            let covered = network.subnets.is_empty()
                || network.subnets.iter().any(|it| it.contains(&vip))
                || held.routes.iter().any(|it| it.block.contains(&vip));
            if own.any(|it| it.is_ipv4() == vip.is_ipv4()) && !covered {
                flaws.push(format!("{vip} on {} cannot be reached", network.id));
            }
        }
    }
    for (vip, balance) in &*held.balances {
        let mut tasks = balance.slots.iter().chain(&balance.alive);
        if tasks.any(|it| it.is_ipv4() != vip.is_ipv4()) {
            flaws.push(format!("{vip} leads to another family"));
        }
    }
    flaws
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_world_compiles_to_a_sound_plan_whatever_was_before(
        worlds in vec((draft(), 0..1_200_000_u64), 1..4),
    ) {
        let mut leases = Arc::default();
        for (draft, now) in worlds {
            let snapshot = Snapshot::build(draft, 1);
            let (plan, _notes) = compile(&snapshot, &leases, now, &config());
            prop_assert_eq!(flaws(&snapshot, &plan), Vec::<String>::new());
            let (again, _notes) = compile(&snapshot, &plan.leases, now, &config());
            prop_assert_eq!(&again, &plan, "settled");
            leases = plan.leases;
        }
    }

    #[test]
    fn the_order_in_which_a_source_finds_things_does_not_matter(draft in draft()) {
        let mut turned = draft.clone();
        turned.networks.reverse();
        turned.services.reverse();
        turned.tasks.reverse();
        turned.sandboxes.reverse();
        let compiled = |draft| compile(&Snapshot::build(draft, 1), &Arc::default(), 0, &config());
        prop_assert_eq!(compiled(turned), compiled(draft));
    }

    #[test]
    fn the_changes_from_any_plan_lead_to_any_other(old in sandbox_plan(), new in sandbox_plan()) {
        let changes = diff(&old, &new);
        prop_assert_eq!(held_after(&old, &changes), held(&new));
        prop_assert_eq!(diff(&new, &new), vec![]);
    }

    #[test]
    fn sharing_with_the_last_plan_changes_nothing_but_memory(old in draft(), new in draft()) {
        let compiled = |draft| compile(&Snapshot::build(draft, 1), &Arc::default(), 0, &config()).0;
        let last = compiled(old).sandboxes;
        let tables: BTreeMap<_, _> = last.into_iter().map(|(id, it)| (id, it.balances)).collect();
        let new = compiled(new);
        prop_assert_eq!(new.clone().sharing(&tables), new);
    }
}

fn sandbox_plan() -> impl Strategy<Value = SandboxPlan> {
    let address = || (0..6_u8).prop_map(|it| IpAddr::from([10, 0, 0, it]));
    let parts = (vec(address(), 0..4), btree_set(address(), 0..4), any::<bool>());
    let balance = parts.prop_map(|(slots, alive, affine)| {
        Arc::new(Balance { slots, alive, affine, ..Balance::default() })
    });
    let route = (0..4_u8, address()).prop_map(|(block, source)| VipRoute {
        block: format!("240.240.{block}.0/24").parse().unwrap(),
        source,
    });
    let parts = (btree_map(address(), balance, 0..5), btree_set(route, 0..4));
    parts.prop_map(|(balances, routes)| SandboxPlan {
        name: "client".to_owned(),
        netns: "/run/netns/client".into(),
        cookie: None,
        balances: Arc::new(balances),
        routes,
    })
}

/// What the kernel holds of a plan: by VIP its slots and whether clients keep their tasks; routes.
type Held = (BTreeMap<IpAddr, (Vec<IpAddr>, bool)>, BTreeSet<VipRoute>);

fn held(plan: &SandboxPlan) -> Held {
    let balances: &Balances = &plan.balances;
    let slots = balances.iter().map(|(vip, it)| (*vip, what(it))).collect();
    (slots, plan.routes.clone())
}

/// Slots, and whether a client keeps the task of one.
fn what(balance: &Balance) -> (Vec<IpAddr>, bool) {
    (balance.slots.clone(), balance.affine && !balance.slots.is_empty())
}

fn held_after(old: &SandboxPlan, changes: &[Change<'_>]) -> Held {
    let (mut slots, mut routes) = held(old);
    for change in changes {
        let sound = match change {
            Change::AddVip { vip, balance } => slots.insert(*vip, what(balance)).is_none(),
            Change::RemoveVip { vip, old } => slots.remove(vip) == Some(what(old)),
            Change::SetSlots { vip, old, new } => {
                slots.insert(*vip, what(new)) == Some(what(old)) && what(old) != what(new)
            }
            Change::Rest { vip, tasks } => slots.contains_key(vip) && !tasks.is_empty(),
            Change::Cut { vip, gone } => slots.contains_key(vip) && !gone.is_empty(),
            Change::AddRoute(route) => routes.insert(*route),
            Change::RemoveRoute(route) => routes.remove(route),
        };
        assert!(sound, "{change} of {slots:?} {routes:?}");
    }
    (slots, routes)
}

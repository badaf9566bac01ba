//! Laws of compiling: total, independent of order, and what comes out is sound.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use registry::Draft;
use registry::model::{
    Completeness, Endpoint, Labels, Scope, ServiceAttachment, ServiceKind, ServingState,
};

use super::*;
use crate::config::{Limits, Timeouts, UnknownHost};

fn config() -> Config {
    Config {
        http: "127.0.0.1:0".parse().unwrap(),
        cluster: String::new(),
        threads: NonZeroUsize::MIN,
        proxy_id: None,
        unknown_host: UnknownHost::NotFound,
        trusted: Vec::new(),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
    }
}

const NETWORKS: [&str; 4] = ["front", "back", "stack_front", "ingress"];
const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Labels as users write them, right and wrong.
fn labels() -> impl Strategy<Value = Labels> {
    let values = [
        ("com.docker.lb.hosts", vec!["x.test", "x.test,y.test", "*.test", "", "x.test/"]),
        ("com.docker.lb.port", vec!["80", "81", "none", "0"]),
        ("com.docker.lb.network", vec!["front", "back", "nowhere", ""]),
        ("com.docker.lb.context_root", vec!["/a", "/a/b", "a", "/"]),
        ("com.docker.lb.context_root_rewrite", vec!["true", "false", "maybe"]),
        ("com.docker.lb.backend_mode", vec!["vip", "task", "both"]),
        ("com.docker.lb.service_cluster", vec!["", "prod"]),
        ("com.docker.lb.hosts.g", vec!["x.test", "z.test"]),
        ("com.docker.lb.port.g", vec!["90"]),
        ("portolan.lb.share", vec!["one", "two", ""]),
    ];
    let pairs = values.map(|(key, values)| (Just(key.to_owned()), select(values)));
    let pairs: Vec<_> = pairs.into_iter().map(proptest::option::of).collect();
    pairs.prop_map(|pairs| {
        pairs.into_iter().flatten().map(|(key, value)| (key, value.to_owned())).collect()
    })
}

fn reach() -> impl Strategy<Value = Reach> {
    select(vec![Reach::Host, Reach::Nowhere, Reach::Netns(PathBuf::from("/run/netns/x"))])
}

fn network(name: &'static str) -> impl Strategy<Value = Network> {
    reach().prop_map(move |reach| Network {
        id: name.into(),
        name: name.to_owned(),
        scope: Scope::Local,
        driver: "bridge".to_owned(),
        internal: false,
        ingress: name == "ingress",
        subnets: Vec::new(),
        gateways: Vec::new(),
        labels: Labels::new(),
        names: Completeness::Complete,
        reach,
    })
}

fn service(name: &'static str) -> impl Strategy<Value = Service> {
    let mode = select(vec![Mode::Vip, Mode::DnsRr]);
    let networks = subsequence(NETWORKS.to_vec(), 0..=NETWORKS.len());
    let stack = select(vec![None, Some("stack".to_owned()), Some("other".to_owned())]);
    (labels(), networks, mode, stack, 0..3_u64).prop_map(
        move |(labels, networks, mode, stack, created)| Service {
            id: name.into(),
            name: name.to_owned(),
            kind: ServiceKind::Swarm,
            stack,
            mode,
            networks: networks
                .into_iter()
                .map(|network| (network.into(), ServiceAttachment::default()))
                .collect(),
            ports: Vec::new(),
            labels,
            created,
        },
    )
}

fn task(number: u8) -> impl Strategy<Value = Task> {
    let states = vec![ServingState::Serving, ServingState::Starting, ServingState::Draining];
    let networks = subsequence(NETWORKS.to_vec(), 0..=NETWORKS.len());
    (select(SERVICES.to_vec()), networks, select(states), 0..3_u16).prop_map(
        move |(service, networks, state, weight)| Task {
            id: format!("{number}").into(),
            name: format!("{service}.{number}"),
            service: Some(service.into()),
            node: None,
            networks: (0..)
                .zip(networks)
                .map(|(place, network)| {
                    let address = IpAddr::from([10, 0, place, number]);
                    (network.into(), Endpoint { addresses: vec![address], ..Endpoint::default() })
                })
                .collect(),
            publishes: None,
            weight,
            state,
            reason: String::new(),
        },
    )
}

fn world() -> impl Strategy<Value = Draft> {
    let networks = NETWORKS.map(network);
    let services = SERVICES.map(service);
    let tasks: Vec<_> = (0..10).map(task).collect();
    (networks, services, tasks).prop_map(|(networks, services, tasks)| Draft {
        networks: networks.into(),
        services: services.into(),
        tasks,
        ..Draft::default()
    })
}

fn vips() -> impl Strategy<Value = Vips> {
    let vip = (select(SERVICES.to_vec()), select(NETWORKS.to_vec()));
    proptest::collection::vec(vip, 0..6).prop_map(|vips| {
        let give = |(service, network): (&str, &str)| {
            ((service.into(), network.into()), IpAddr::from([240, 240, 0, 1]).into())
        };
        vips.into_iter().map(give).collect()
    })
}

/// What may not be true of any table.
fn flaws(table: &RouteTable) -> Vec<String> {
    let mut flaws = Vec::new();
    for (place, route) in table.routes().iter().enumerate() {
        let mut flaw = |is: bool, text: &str| {
            if is {
                flaws.push(format!("{route}: {text}"));
            }
        };
        flaw(route.claims.is_empty(), "nobody asked for it");
        flaw(
            route.backends.is_empty() != route.unavailable.is_some(),
            "silent about its emptiness",
        );
        flaw(route.backends.iter().any(|it| it.weight == 0), "has a backend of weight 0");
        flaw(route.backends.iter().any(|it| it.reach == Reach::Nowhere), "leads nowhere");
        flaw(route.backends.iter().any(|it| &*it.network == "ingress"), "goes over ingress");
        let again = table.routes().iter().skip(place + 1).any(|it| it.key() == route.key());
        flaw(again, "is there twice");
        let found = crate::route::find(table, "x.test", "/a/b/c");
        flaw(
            matches!(found, crate::route::Found::Route(at, it) if table.routes().get(at) != Some(it)),
            "is not where the index says",
        );
    }
    flaws
}

proptest! {
    #[test]
    fn any_world_compiles_to_a_sound_table(world in world(), vips in vips()) {
        let (table, _) = compile(&Snapshot::build(world, 1), &vips, &config());
        prop_assert_eq!(flaws(&table), Vec::<String>::new());
    }

    #[test]
    fn the_order_in_which_the_world_is_found_changes_nothing(world in world(), vips in vips()) {
        let mut turned = world.clone();
        turned.networks.reverse();
        turned.services.reverse();
        turned.tasks.reverse();
        let one = compile(&Snapshot::build(world, 1), &vips, &config());
        let other = compile(&Snapshot::build(turned, 2), &vips, &config());
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_younger_service_of_another_stack_takes_nothing_from_the_others(
        world in world(),
        vips in vips(),
    ) {
        let mut more = world.clone();
        let mut thief = more.services[0].clone();
        thief.id = "thief".into();
        thief.created = 99;
        thief.stack = Some("evil".to_owned());
        thief.labels.remove("portolan.lb.share");
        thief.labels.insert("com.docker.lb.hosts".to_owned(), "x.test,*.test,y.test".to_owned());
        thief.labels.insert("com.docker.lb.port".to_owned(), "666".to_owned());
        more.services.push(thief);
        let (before, _) = compile(&Snapshot::build(world, 1), &vips, &config());
        let (after, _) = compile(&Snapshot::build(more, 1), &vips, &config());
        for route in before.routes() {
            prop_assert!(after.routes().contains(route), "{route} changed");
        }
    }
}

//! Worlds nobody thought of, small and crowded: few names, addresses and ids, so that they meet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use registry::id::NetworkId;
use registry::model::{
    Attachment, Completeness, Dial, Endpoint, Mode, Network, PublishMode, PublishedPort, Reach,
    Sandbox, Scope, Service, ServiceAttachment, ServiceKind, ServingState, Task, Upstream,
};
use registry::{Draft, VipPair};
use resolver::{Config, VipTable};

/// As a test has it.
pub(crate) fn config() -> Config {
    Config {
        ttl: Duration::from_secs(5),
        vip_ttl: Duration::from_secs(30),
        forward_single_label: false,
        host_listen: None,
        upstream: resolver::UpstreamConfig::default(),
    }
}

/// Few names, so that they meet; some that cannot be asked for.
fn name() -> impl Strategy<Value = String> {
    let odd =
        prop_oneof![Just("x".repeat(70)), Just(String::new()), Just("a..b".to_owned()), ".{0,6}"];
    prop_oneof![
        8 => "(a|b|web|db|web\\.1|tasks|tasks\\.web|A|WEB|_tcp|n0|localhost)",
        1 => odd,
    ]
}

fn network_id() -> impl Strategy<Value = NetworkId> {
    (0..4_u8).prop_map(|it| format!("n{it}").into())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..3_u8, 0..20_u8).prop_map(|(net, host)| [10, 0, net, host].into()),
        (0..20_u16).prop_map(|host| [0xfd00, 0, 0, 0, 0, 0, 0, host].into()),
    ]
}

/// A network.
pub(crate) fn network() -> impl Strategy<Value = Network> {
    let name = prop_oneof![Just("n0"), Just("N1"), Just("n1"), Just("a.n1"), Just("web")];
    (network_id(), name, any::<[bool; 3]>(), 0..3_u8).prop_map(
        |(id, name, [internal, ingress, gossip], subnet)| Network {
            id,
            name: name.to_owned(),
            scope: Scope::Swarm,
            driver: "overlay".to_owned(),
            internal,
            ingress,
            subnets: vec![
                format!("10.0.{subnet}.0/24").parse().unwrap(),
                "fd00::/120".parse().unwrap(),
            ],
            gateways: Vec::new(),
            labels: BTreeMap::new(),
            names: if gossip { Completeness::Gossip } else { Completeness::Complete },
            reach: Reach::Nowhere,
        },
    )
}

/// A service.
pub(crate) fn service() -> impl Strategy<Value = Service> {
    let attachment = (proptest::option::of(address()), btree_set(name(), 0..3))
        .prop_map(|(vip, aliases)| ServiceAttachment { vip, aliases });
    let kind = prop_oneof![Just(ServiceKind::Swarm), Just(ServiceKind::Compose)];
    let mode = prop_oneof![Just(Mode::Vip), Just(Mode::DnsRr)];
    (0..4_u8, name(), kind, mode, btree_map(network_id(), attachment, 0..3), any::<bool>())
        .prop_map(|(id, name, kind, mode, networks, published)| Service {
            id: format!("s{id}").into(),
            name,
            kind,
            stack: None,
            mode,
            networks,
            ports: published.then(port).into_iter().collect(),
            labels: BTreeMap::new(),
            created: 0,
        })
}

fn port() -> PublishedPort {
    PublishedPort {
        published: 80,
        target: 8080,
        protocol: registry::model::Protocol::Tcp,
        mode: PublishMode::Ingress,
        name: Some("http".to_owned()),
    }
}

/// A task.
pub(crate) fn task() -> impl Strategy<Value = Task> {
    let endpoint = (vec(address(), 0..3), btree_set(name(), 0..3))
        .prop_map(|(addresses, names)| Endpoint { addresses, names });
    let state = prop_oneof![
        Just(ServingState::Starting),
        Just(ServingState::Serving),
        Just(ServingState::Draining),
        Just(ServingState::Stopped),
    ];
    let service = proptest::option::of((0..4_u8).prop_map(|it| format!("s{it}").into()));
    (0..12_u8, name(), service, btree_map(network_id(), endpoint, 0..3), state, 0..2_u16).prop_map(
        |(id, name, service, networks, state, weight)| Task {
            id: format!("t{id}").into(),
            name,
            service,
            node: None,
            networks,
            publishes: None,
            weight,
            state,
            reason: String::new(),
        },
    )
}

/// A sandbox.
pub(crate) fn sandbox() -> impl Strategy<Value = Sandbox> {
    let own = || btree_map(name(), vec(address(), 0..2), 0..2);
    (0..4_u8, 0..4_u8, vec(network_id(), 0..4), own(), own(), any::<bool>()).prop_map(
        |(id, netns, networks, links, hosts, upstream)| Sandbox {
            id: format!("b{id}").into(),
            name: format!("box{id}"),
            cookie: None,
            netns: format!("/run/netns/{netns}").into(),
            tasks: Vec::new(),
            networks: networks
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|network| Attachment { network, addresses: Vec::new() })
                .collect(),
            nameless: Vec::new(),
            links,
            hosts,
            trusts_ad: false,
            hostname: String::new(),
            upstreams_from: registry::model::Origin::Sandbox,
            upstreams: upstream
                .then(|| Upstream { address: "192.0.2.1:53".parse().unwrap(), dial: Dial::Host })
                .into_iter()
                .collect(),
        },
    )
}

/// A world; ids meet in it, too.
pub(crate) fn draft() -> impl Strategy<Value = Draft> {
    let parts =
        (vec(network(), 0..5), vec(service(), 0..4), vec(task(), 0..12), vec(sandbox(), 0..4));
    parts.prop_map(|(networks, services, tasks, sandboxes)| Draft {
        networks,
        services,
        tasks,
        sandboxes,
        ..Draft::default()
    })
}

/// What the VIP manager allocated.
pub(crate) fn vips() -> impl Strategy<Value = VipTable> {
    let service = (0..4_u8).prop_map(|it| format!("s{it}").into());
    // Of one family or of both.
    let pair = (address(), address()).prop_map(|(one, other)| VipPair::from(one).or(other.into()));
    btree_map((service, network_id()), pair, 0..4)
}

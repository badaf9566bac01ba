//! The host as a client of VIPs: its own connections to services on its bridges.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use kernel::nft::Socket;
use kernel::{link, route};
use vip::{Config, DataPlane};

use crate::support::{Manager, Text, World, call};

/// A VIP of the bridge's own subnet.
const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);

/// The host is where the bridge is, as with a container engine.
fn bridged(data_plane: DataPlane) -> World {
    let mut world = World::new();
    world.data_plane = data_plane;
    link::add_address(&world.switch, "br0", "10.20.1.1/24".parse().unwrap()).unwrap();
    link::set_up(&world.switch, "lo").unwrap();
    world
}

/// Runs a manager on the host until `world` is true there, and what is told of that.
fn settle<T>(world: &World, host: bool, text: &str, then: impl FnOnce(&vip::Plan) -> T + Send) -> T
where
    T: Send,
{
    let config = Config { host, ..world.config() };
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // The runtime's threads are born in the namespace of the one that makes them.
        runtime.block_on(async {
            let mut manager = Manager::new(config);
            manager.make(text).await;
            let (plan, _) = manager.compile(text);
            then(&plan)
        })
    };
    world.switch.run(work).unwrap()
}

fn answering(vip: impl Into<IpAddr>, count: usize) -> BTreeSet<String> {
    let vip = vip.into();
    (0..count).map(|_| call(vip).unwrap()).collect()
}

#[test]
fn the_host_reaches_vips_of_its_bridges_where_it_is_asked_for_and_nothing_stays_where_not() {
    let mut world = bridged(DataPlane::Nftables);
    let _tasks = world.tasks("web", 2, 11);
    let _others = world.tasks("app", 2, 21);
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 2, 11);
    let text = text.service("app", None).tasks("app", 2, 21).0;
    settle(&world, true, &text, |plan| {
        let host = plan.host().and_then(|it| plan.sandboxes.get(it)).unwrap();
        let app = host.balances.iter().find(|(_, it)| it.service == "app").unwrap();
        let both = |name: &str| BTreeSet::from([1, 2].map(|it| format!("{name}.{it}")));
        assert_eq!(answering(WEB, 60), both("web"), "a VIP of the subnet");
        assert_eq!(answering(*app.0, 60), both("app"), "a VIP of the pool: {host}");
        let seen = vip::inspect(host).unwrap().unwrap();
        assert!(seen.differences.is_empty(), "{:?}", seen.differences);
    });
    settle(&world, false, &text, |plan| assert!(plan.host().is_none()));
    let tables = Socket::open(&world.switch).unwrap().tables().unwrap();
    assert!(tables.is_empty(), "{tables:?}");
    let ours = route::our_routes(&world.switch).unwrap();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn a_host_without_an_address_on_a_bridge_is_told_that_it_has_no_way_to_the_pool() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let text = Text::new().service("web", None).tasks("web", 1, 11).0;
    let notes = |data_plane| {
        let config = Config { host: true, data_plane, ..world.config() };
        let notes = world.switch.run(|| Manager::new(config).compile(&text).1).unwrap();
        notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let told = notes(DataPlane::Auto);
    assert!(told.len() == 1 && told[0].contains("no way to 240.240."), "{told:?}");
    let told = notes(DataPlane::Userspace);
    assert!(told.len() == 1 && told[0].contains("only nftables"), "{told:?}");
}

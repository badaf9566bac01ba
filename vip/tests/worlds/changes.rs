//! Changes under load, restarts, and what others do to the table.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::{Host, Load, Manager, Text, World, call, echo, send};
use kernel::nft::{Batch, Element, ElementValue, Expr, Family, Socket, Table};
use registry::Consumer;

const TABLE: Table<'static> = Table { family: Family::Ip, name: "portolan_vip" };

const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);

/// Each swap takes a task away or gives one back; all of them go on answering, as draining tasks
/// do.
#[tokio::test]
async fn ten_thousand_swaps_under_a_load_of_connects_fail_none() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 4, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    let path = world.path("client");
    let plans: Vec<_> = (1..=4)
        .map(|count| {
            let mut text = Text::new().service("web", Some("10.20.1.2"));
            for nth in 1..=4 {
                let state = if nth <= count { "serving" } else { "draining" };
                text = text.task("web", nth, 10 + nth, state);
            }
            manager.compile(&text.sandbox(&client, &path).0).0
        })
        .collect();
    let first = manager.vip.apply(&plans[3]).await;
    assert!(first.failures.is_empty(), "{:?}", first.failures);
    let load = Load::begin(client.netns, 2, WEB);
    let begun = tokio::time::Instant::now();
    let mut swaps = 0;
    while swaps < 10_000 || begun.elapsed() < UNDER_LOAD {
        let plan = &plans[[3, 1, 2, 0, 2, 1][swaps % 6]];
        let outcome = manager.vip.apply(plan).await;
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        swaps += 1;
    }
    let (done, failed) = load.end();
    assert!(failed.is_empty(), "{} of {done} in {swaps} swaps: {:?}", failed.len(), failed[0]);
    assert!(done > 1_000, "only {done} connects");
}

/// Long enough for thousands of connects and swaps.
const UNDER_LOAD: Duration = Duration::from_secs(3);

/// The table as `Vip` leaves it for one service of two tasks.
async fn one_service(world: &mut World) -> (Host, Vec<Host>, String, Manager) {
    let tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let text = Text::new().service("web", None).tasks("web", 2, 11);
    let text = text.service("idle", Some("10.20.1.3"));
    let text = text.sandbox(&client, &world.path("client")).0;
    let mut manager = world.manager();
    assert_eq!(manager.make(&text).await, 3, "two VIPs and a route");
    (client, tasks, text, manager)
}

#[tokio::test]
async fn after_a_restart_the_table_is_read_back_and_nothing_changes() {
    let mut world = World::new();
    let (client, _tasks, text, manager) = one_service(&mut world).await;
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    let mut stream = client.connect(vip);
    let answered = echo(&mut stream).unwrap();
    drop(manager);
    assert_eq!(client.calls(vip, 2).len(), 2, "VIPs stand while portolan is away");

    let mut manager = world.manager();
    assert_eq!(manager.make(&text).await, 0);
    assert_eq!(echo(&mut stream).unwrap(), answered);
    let fewer =
        text.replace("[[task]]\nname = \"web.2\"", "[[task]]\nname = \"web.2\"\nweight = 0");
    assert_eq!(manager.make(&fewer).await, 2, "what was read back can be changed");
    assert_eq!(client.calls(vip, 2), ["web.1", "web.1"]);
    drop(manager);
    // The class of two slots is still there: no difference.
    assert_eq!(world.manager().make(&fewer).await, 0);
}

#[tokio::test]
async fn a_flushed_ruleset_is_put_right_and_connections_go_on() {
    let mut world = World::new();
    let (client, _tasks, text, mut manager) = one_service(&mut world).await;
    let (plan, _notes) = manager.compile(&text);
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    let mut stream = client.connect(vip);
    let answered = echo(&mut stream).unwrap();
    client.nft(|batch| batch.delete_table(TABLE));
    client.netns.run(|| call(vip)).unwrap().unwrap_err();

    manager.vip.bell().unwrap().notified().await;
    assert_eq!(manager.vip.apply(&plan).await.changes, 2);
    assert_eq!(client.calls(vip, 2).len(), 2);
    assert_eq!(echo(&mut stream).unwrap(), answered);
}

#[tokio::test]
async fn a_table_that_somebody_changed_is_replaced_whole() {
    let mut world = World::new();
    let (client, _tasks, text, manager) = one_service(&mut world).await;
    drop(manager);
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    let mut stream = client.connect(vip);
    let answered = echo(&mut stream).unwrap();
    let strange: [fn(&mut Batch); 7] = [
        |it| it.add_chain(TABLE, "mine", None),
        |it| it.flush_chain(TABLE, "refuse"),
        |it| it.add_rule(TABLE, "output", &[Expr::Counter], b""),
        |it| it.flush_chain(TABLE, "balance"),
        |it| it.flush_set(TABLE, "of-2"),
        |it| it.flush_set(TABLE, "slots"),
        |it| {
            it.delete_table(TABLE);
            it.add_table(TABLE, false);
        },
    ];
    for (number, change) in strange.into_iter().enumerate() {
        client.nft(change);
        let mut manager = world.manager();
        assert_eq!(manager.make(&text).await, 3, "change {number}: the table and two VIPs");
        assert_eq!(client.calls(vip, 2).len(), 2, "change {number}");
        assert_eq!(echo(&mut stream).unwrap(), answered, "change {number}");
        assert_eq!(world.manager().make(&text).await, 0, "change {number}");
    }
}

#[tokio::test]
async fn a_table_that_somebody_changed_does_not_stop_a_change() {
    let mut world = World::new();
    let (client, _tasks, text, mut manager) = one_service(&mut world).await;
    client.nft(|it| it.flush_set(TABLE, "vips"));
    let without = text.replace("name = \"idle\"", "name = \"idle\"\nmode = \"dnsrr\"");
    let without = without.replace("vip = { frontend = \"10.20.1.3\" }\n", "");
    manager.make(&without).await;
    assert_eq!(client.calls(Ipv4Addr::new(240, 240, 0, 1), 2).len(), 2);
    assert_eq!(world.manager().make(&without).await, 0);
}

#[tokio::test]
async fn a_table_that_nobody_looks_after_switches_itself_off_and_on_again() {
    let mut world = World::new();
    let (client, _tasks, text, manager) = one_service(&mut world).await;
    drop(manager);
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    // What happens after ten minutes.
    client.nft(|it| it.flush_set(TABLE, "alive"));
    let sent = || client.netns.run(|| send(vip)).unwrap();
    sent().unwrap();
    let flows = kernel::conntrack::flows(&client.netns).unwrap();
    assert!(flows.iter().all(|it| !it.nat), "nothing is rewritten: {flows:?}");
    let idle = client.netns.run(|| send(Ipv4Addr::new(10, 20, 1, 3))).unwrap();
    idle.unwrap(); // nothing is refused

    assert_eq!(world.manager().make(&text).await, 1, "it works again");
    assert_eq!(client.calls(vip, 2).len(), 2);
}

#[tokio::test]
async fn a_namespace_that_is_gone_or_new_is_no_error() {
    let mut world = World::new();
    let (client, _tasks, text, mut manager) = one_service(&mut world).await;
    let gone = text.replace("name = \"client\"", "name = \"gone\"").replace("/client\"", "/gone\"");
    assert_eq!(manager.make(&gone).await, 1, "the old sandbox is left");
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    client.netns.run(|| call(vip)).unwrap().unwrap_err();
    assert_eq!(manager.make(&text).await, 3);

    // Another container under the same path, as after a restart.
    let path = world.path("client");
    kernel::link::unname_netns(&path).unwrap();
    kernel::link::delete_link(&client.netns, "eth0").unwrap();
    drop(client);
    let client = world.host("client", 100);
    tokio::time::pause();
    tokio::time::advance(manager.vip.upkeep().unwrap()).await;
    assert_eq!(manager.make(&text).await, 3);
    assert_eq!(client.calls(vip, 2).len(), 2);
}

/// A container with `CAP_NET_ADMIN` can make a table of our name as long as it likes.
#[tokio::test]
async fn a_table_that_somebody_filled_beyond_reason_is_replaced_whole() {
    let mut world = World::new();
    let (client, _tasks, text, manager) = one_service(&mut world).await;
    drop(manager);
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    let key = |number: u32| (0x0b00_0000 + number).to_be_bytes().to_vec();
    let member = |number| Element { key: key(number), value: ElementValue::None, timeout: None };
    for part in 0..10 {
        let members: Vec<_> = (0..10_000).map(|it| member(part * 10_000 + it)).collect();
        // Without a declared size: one of ours that is full refuses more.
        client.nft(|it| it.add_elements(TABLE, "of-2", &members));
    }
    let mut manager = world.manager();
    assert_eq!(manager.make(&text).await, 3, "the table and two VIPs");
    assert_eq!(client.calls(vip, 2).len(), 2);
    assert_eq!(world.manager().make(&text).await, 0);
}

#[tokio::test]
async fn a_table_that_another_process_owns_is_a_note_on_that_sandbox_only() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let (squatted, client) = (world.host("squatted", 100), world.host("client", 101));
    let mut squatter = Socket::open(&squatted.netns).unwrap();
    let mut batch = Batch::new();
    batch.add_table(TABLE, true);
    squatter.commit(&batch).unwrap();
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 1, 11);
    let text = text.sandbox(&squatted, &world.path("squatted"));
    let text = text.sandbox(&client, &world.path("client")).0;
    let mut manager = world.manager();
    let outcome = manager.try_make(&text).await;
    let notes: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("error: sandbox squatted: `vip`: cannot "), "{notes:?}");
    assert_eq!(client.call(WEB).unwrap(), "web.1");
    drop(squatter);
    assert_eq!(manager.make(&text).await, 1, "tried again, and only there");
    assert_eq!(squatted.call(WEB).unwrap(), "web.1");
}

fn has_routes_of_ours(host: &Host) -> bool {
    let routes = kernel::route::routes(&host.netns).unwrap();
    routes.iter().any(|it| it.protocol == kernel::route::PROTOCOL)
}

#[tokio::test]
async fn a_sandbox_that_goes_after_a_visit_that_failed_is_left_all_the_same() {
    let mut world = World::new();
    let (client, _tasks, text, mut manager) = one_service(&mut world).await;
    // Another process owns the table: the next change fails.
    client.nft(|batch| batch.delete_table(TABLE));
    let mut squatter = Socket::open(&client.netns).unwrap();
    let mut batch = Batch::new();
    batch.add_table(TABLE, true);
    squatter.commit(&batch).unwrap();
    let more = text.replace("10.20.1.3", "10.20.1.4");
    assert!(!manager.try_make(&more).await.failures.is_empty());
    drop(squatter);
    assert!(has_routes_of_ours(&client));
    let without = more.split("[[sandbox]]").next().unwrap();
    manager.make(without).await;
    assert!(!has_routes_of_ours(&client));
}

#[tokio::test]
async fn a_sandbox_that_has_another_namespace_leaves_the_one_it_had() {
    let mut world = World::new();
    let (client, _tasks, text, mut manager) = one_service(&mut world).await;
    let (path, other) = (world.path("client"), world.path("other"));
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    // Another name of the same namespace is no other namespace.
    let also = world.path("also");
    std::os::unix::fs::symlink(&path, &also).unwrap();
    let named = |to: &std::path::Path| text.replace(path.to_str().unwrap(), to.to_str().unwrap());
    assert_eq!(manager.make(&named(&also)).await, 0);
    assert_eq!(client.calls(vip, 2).len(), 2);
    let host = world.host("other", 101);
    manager.make(&named(&other).replace("10.20.1.100", "10.20.1.101")).await;
    assert_eq!(host.calls(vip, 2).len(), 2);
    assert!(!has_routes_of_ours(&client));
    assert_eq!(Socket::open(&client.netns).unwrap().tables().unwrap(), []);
}

#[tokio::test]
async fn a_route_that_the_container_has_itself_stays_and_is_told_of() {
    let mut world = World::new();
    let client = world.host("client", 100);
    let own = kernel::route::Route {
        destination: "192.0.2.80/32".parse().unwrap(),
        device: "eth0".to_owned(),
        source: None,
        gateway: Some("10.20.1.1".parse().unwrap()),
        protocol: 4,
    };
    kernel::route::add_route(&client.netns, &own).unwrap();
    let text = |text: Text| text.sandbox(&client, &world.path("client")).0;
    let mut manager = world.manager();
    let outcome = manager.try_make(&text(Text::new().service("far", Some("192.0.2.80")))).await;
    let notes: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        ["error: sandbox client: `vip`: a route to 192.0.2.80/32 that is not portolan's is there \
          already; delete that route, or give the service another VIP"]
    );
    manager.make(&text(Text::new())).await;
    assert!(kernel::route::routes(&client.netns).unwrap().contains(&own));
}

#[tokio::test]
async fn cleaning_up_leaves_nothing() {
    let mut world = World::new();
    let (client, _tasks, _text, manager) = one_service(&mut world).await;
    drop(manager);
    assert!(vip::cleanup(&client.netns).unwrap());
    let tables = Socket::open(&client.netns).unwrap().tables().unwrap();
    assert_eq!(tables, []);
    let routes = kernel::route::routes(&client.netns).unwrap();
    assert!(routes.iter().all(|it| it.protocol != kernel::route::PROTOCOL), "{routes:?}");
    assert!(!vip::cleanup(&client.netns).unwrap(), "nothing is left to remove");
}

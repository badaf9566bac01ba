//! Clients that keep their task, tasks of the client's own node, and shares by weight.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::support::{Host, Text, World, ask};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);

/// Addresses of one host, each a client of its own.
fn clients(host: &Host) -> Vec<Ipv4Addr> {
    let others: Vec<_> = (150..190).map(|it| Ipv4Addr::new(10, 20, 1, it)).collect();
    for other in &others {
        let address = format!("{other}/24").parse().unwrap();
        kernel::link::add_address(&host.netns, "eth0", address).unwrap();
    }
    others
}

/// One service of tasks in these states, whose clients keep their task.
fn text(states: &[&str], client: &Host, world: &World) -> String {
    let mut text = Text::new().service("web", Some("10.20.1.2"));
    text.0.push_str("labels = { \"portolan.vip.affinity\" = \"client\" }\n");
    for (nth, state) in (1..).zip(states) {
        text = text.task("web", nth, 10 + nth, state);
    }
    text.sandbox(client, &world.path("client")).0
}

/// Which task each client has; it is asked several times.
fn tasks_of(host: &Host, clients: &[Ipv4Addr]) -> BTreeMap<Ipv4Addr, String> {
    let mut tasks = BTreeMap::new();
    for client in clients {
        let names: BTreeSet<_> = (0..5).map(|_| host.call_from(*client, WEB)).collect();
        assert_eq!(names.len(), 1, "{client} was sent to {names:?}");
        tasks.extend(names.into_iter().map(|it| (*client, it)));
    }
    tasks
}

#[tokio::test]
async fn a_client_keeps_its_task_while_that_serves() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 4, 11);
    let client = world.host("client", 100);
    let clients = clients(&client);
    let mut manager = world.manager();
    let all = ["serving"; 4];
    manager.make(&text(&all, &client, &world)).await;
    let first = tasks_of(&client, &clients);
    let used: BTreeSet<_> = first.values().cloned().collect();
    assert_eq!(used.len(), 4, "40 clients are spread over all tasks: {used:?}");

    // Whether others come or go does not matter to who has another task.
    let fewer = ["draining", "serving", "serving", "serving"];
    manager.make(&text(&fewer, &client, &world)).await;
    let second = tasks_of(&client, &clients);
    for (client, task) in &first {
        let now = &second[client];
        assert!(
            now == task && task != "web.1" || task == "web.1" && now != "web.1",
            "{task} {now}"
        );
    }
    // It comes back, and nobody is taken from where it is now.
    manager.make(&text(&all, &client, &world)).await;
    assert_eq!(tasks_of(&client, &clients), second);
    // After a restart of portolan neither.
    drop(manager);
    assert_eq!(world.manager().make(&text(&all, &client, &world)).await, 0);
    assert_eq!(tasks_of(&client, &clients), second);
}

#[tokio::test]
async fn datagrams_of_new_sockets_go_to_the_clients_task() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 4, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    manager.make(&text(&["serving"; 4], &client, &world)).await;
    let names: BTreeSet<_> = (0..20).map(|_| ask(&client.datagrams(), WEB).unwrap().0).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(client.calls(WEB, 5).into_iter().collect::<BTreeSet<_>>(), names);
    let task = names.first().unwrap().clone();
    let states = (1..=4).map(|it| if task == format!("web.{it}") { "stopped" } else { "serving" });
    let states: Vec<_> = states.collect();
    manager.make(&text(&states, &client, &world)).await;
    let names: BTreeSet<_> = (0..20).map(|_| ask(&client.datagrams(), WEB).unwrap().0).collect();
    assert!(names.len() == 1 && !names.contains(&task), "{names:?}, not {task}");
}

#[tokio::test]
async fn without_the_label_clients_are_spread_again() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    let sticky = text(&["serving"; 2], &client, &world);
    manager.make(&sticky).await;
    assert_eq!(client.calls(WEB, 10).into_iter().collect::<BTreeSet<_>>().len(), 1);
    let label = "labels = { \"portolan.vip.affinity\" = \"client\" }\n";
    manager.make(&sticky.replace(label, "")).await;
    assert_eq!(client.calls(WEB, 40).into_iter().collect::<BTreeSet<_>>().len(), 2);
}

/// Five standard deviations around what weights ask for.
#[tokio::test]
async fn weights_hold_their_shares() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 3, 11);
    let client = world.host("client", 100);
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 3, 11);
    let text = text.sandbox(&client, &world.path("client")).0;
    let weighted = |name: &str, weight: u32| (format!("name = \"{name}\"\n"), weight);
    let text = [weighted("web.1", 1), weighted("web.2", 2), weighted("web.3", 5)]
        .iter()
        .fold(text, |text, (name, weight)| {
            text.replace(name.as_str(), &format!("{name}weight = {weight}\n"))
        });
    world.manager().make(&text).await;
    let names = client.calls(WEB, 800);
    for (name, share) in [("web.1", 0.125), ("web.2", 0.25), ("web.3", 0.625_f64)] {
        let got = names.iter().filter(|it| *it == name).count();
        let got = f64::from(u32::try_from(got).unwrap());
        let deviation = (800.0 * share * (1.0 - share)).sqrt();
        assert!((got - 800.0 * share).abs() <= 5.0 * deviation, "{name}: {got} of 800");
    }
}

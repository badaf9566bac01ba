//! Which task of a published port a client gets: the one it had, or one of the node it came to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use kernel::link;
use vip::mesh::ClientIp;

use crate::mesh_support::{Manager, Place, Swarm, Text, ask};

const TWINS: &str = "{ published = 8001, target = 80 }, \
                     { published = 8001, target = 80, protocol = \"udp\" }";
const KEEP: &str = "\"portolan.vip.affinity\" = \"client\"";

/// Two nodes with two tasks each: `web.1` and `web.2` on the first, `web.3` and `web.4` on the
/// second.
struct Four {
    swarm: Swarm,
    tasks: [Place; 4],
    managers: [Manager; 2],
}

impl Four {
    fn new() -> Self {
        let mut swarm = Swarm::new("1");
        let tasks = [0_u8, 1, 2, 3]
            .map(|number| swarm.task(usize::from(number / 2), &name(number), 21 + number, "1"));
        let managers = [0, 1].map(|node| Manager::new(&swarm, node, ClientIp::Keep));
        Self { swarm, tasks, managers }
    }

    fn text(&self, node: usize, labels: &str, states: [&str; 4]) -> String {
        let mut text = Text::new(&self.swarm, node, TWINS, labels);
        for (number, state) in (0_u8..).zip(states) {
            let place = usize::from(number / 2);
            text = text.task(&name(number), place, 21 + number, state);
            if place == node {
                text = text.sandbox(&name(number), &self.tasks[usize::from(number)]);
            }
        }
        text.0
    }

    fn make(&mut self, labels: &str, states: [&str; 4]) {
        for node in [0, 1] {
            let text = self.text(node, labels, states);
            self.managers[node].make(&text);
        }
    }

    fn at(&self, node: usize) -> Ipv4Addr {
        self.swarm.nodes[node].host.address
    }

    /// Which task each client has at a node's port; it is asked several times.
    fn tasks_of(&self, node: usize, clients: &[Ipv4Addr]) -> BTreeMap<Ipv4Addr, String> {
        let one = |client: &Ipv4Addr| {
            let call = |_| {
                let said = self.swarm.client.call_from((*client, 0), (self.at(node), 8001));
                said.unwrap().0
            };
            let said: BTreeSet<String> = (0..4).map(call).collect();
            assert_eq!(said.len(), 1, "{client}: {said:?}");
            (*client, said.into_iter().next().unwrap())
        };
        clients.iter().map(one).collect()
    }
}

fn name(number: u8) -> String {
    format!("web.{}", number + 1)
}

const ALL: [&str; 4] = ["serving"; 4];

#[test]
fn a_client_keeps_its_task_while_that_serves_whoever_else_comes_or_goes() {
    let mut world = Four::new();
    let clients: Vec<_> = (150..180).map(|it| Ipv4Addr::new(10, 213, 0, it)).collect();
    for client in &clients {
        let address = format!("{client}/24").parse().unwrap();
        link::add_address(&world.swarm.client.netns, "eth0", address).unwrap();
    }
    world.make(KEEP, ALL);
    let first = world.tasks_of(0, &clients);
    let used: BTreeSet<_> = first.values().map(|it| it.split(' ').next().unwrap()).collect();
    assert_eq!(used.len(), 4, "{used:?}");
    assert_eq!(world.tasks_of(1, &clients), first, "a client has one task at all nodes");
    let list = || std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    let listed = world.swarm.nodes[0].doorway.netns.run(list).unwrap();
    let text = String::from_utf8_lossy(&listed.stdout);
    let (said, one) =
        (String::from_utf8_lossy(&listed.stderr), format!("{} . tcp . 8001", clients[0]));
    assert!(listed.status.success() && said.is_empty() && text.contains(&one), "{said}{text}");

    world.make(KEEP, ["draining", "serving", "serving", "serving"]);
    let second = world.tasks_of(0, &clients);
    for (client, task) in &first {
        let now = &second[client];
        let had_gone = task.starts_with("web.1 ");
        assert_eq!(now != task, had_gone, "{client}: {task}, then {now}");
    }
    // It comes back, and nobody is taken from where it is now.
    world.make(KEEP, ALL);
    assert_eq!(world.tasks_of(0, &clients), second);
    // After a restart of portolan neither.
    let text = world.text(0, KEEP, ALL);
    world.managers[0].make(&text);
    world.managers[0] = Manager::new(&world.swarm, 0, ClientIp::Keep);
    assert_eq!(world.managers[0].make(&text), 0);
    assert_eq!(world.tasks_of(0, &clients), second);
    // Datagrams of any of its sockets meet the task of their own port.
    let to = (world.at(0), 8001);
    let said: BTreeSet<_> =
        (0..10).map(|_| ask(&world.swarm.client.datagrams(), to).unwrap().0).collect();
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn tasks_of_the_node_that_is_asked_are_preferred_while_any_serves() {
    let mut world = Four::new();
    let near = "\"portolan.vip.prefer\" = \"node\"";
    let answers = |world: &Four, node: usize| -> BTreeSet<String> {
        let said = world.swarm.client.calls((world.at(node), 8001), 24);
        said.iter().map(|it| it.split(' ').next().unwrap().to_owned()).collect()
    };
    let are = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
    world.make(near, ALL);
    assert_eq!(answers(&world, 0), are(&["web.1", "web.2"]));
    assert_eq!(answers(&world, 1), are(&["web.3", "web.4"]));
    world.make(near, ["draining", "serving", "serving", "serving"]);
    assert_eq!(answers(&world, 0), are(&["web.2"]));
    world.make(near, ["draining", "starting", "serving", "serving"]);
    assert_eq!(answers(&world, 0), are(&["web.3", "web.4"]));
}

//! What is believed of tasks while the ports of their services change.

use super::*;
use crate::source::docker::swarm::{SwarmService, SwarmTask, TaskStatus};

fn port(published: u16, target: u16) -> PublishedPort {
    let (protocol, mode) = (Protocol::Tcp, PublishMode::Ingress);
    PublishedPort { published, target, protocol, mode, name: None }
}

/// A service with that port, and tasks `NAME STATE`.
fn swarm(published: u16, tasks: &[&str]) -> Swarm {
    let service = SwarmService { ports: vec![port(published, 80)], ..SwarmService::default() };
    let task = |text: &&str| {
        let (id, state) = text.split_once(' ').unwrap();
        let status = TaskStatus { state: state.to_owned(), ..TaskStatus::default() };
        let (id, service) = (id.to_owned(), "s".to_owned());
        (id.clone(), SwarmTask { id, service, status, ..SwarmTask::default() })
    };
    Swarm {
        services: [(ServiceId::from("s"), service)].into(),
        tasks: tasks.iter().map(task).collect(),
        ..Swarm::default()
    }
}

fn web(published: u16, tasks: &[&str]) -> Gossip {
    let task = |id: &&str| GossipTask {
        name: format!("web.1.{id}"),
        endpoint: (*id).to_owned(),
        address: [10, 0, 0, 9].into(),
        host: None,
    };
    let tasks = tasks.iter().map(task).collect();
    let service = GossipService { vip: None, ports: vec![(published, 80)], tasks };
    Gossip { services: [("web".to_owned(), service)].into(), ..Gossip::default() }
}

/// `TASK:PUBLISHED` of each that is told, after each of these readings, which come with pauses of so
/// many seconds.
fn told(readings: &[(u64, Gossip)]) -> Vec<String> {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    let mut now = Instant::now();
    let (mut former, mut last, mut all) = (Former::default(), None, Vec::new());
    for (pause, reading) in readings {
        now += Duration::from_secs(*pause);
        former.gossiped(last, reading, now);
        last = Some(reading);
        let words = former.told().iter().map(|(id, it)| format!("{id}:{}", it[0].published));
        all.push(words.collect::<Vec<_>>().join(" "));
    }
    all
}

#[test]
fn tasks_that_ran_when_the_managers_changed_the_ports_publish_those_from_before() {
    let mut former = Former::default();
    let first = swarm(1, &["a running", "b running", "c preparing"]);
    let second = swarm(2, &["a running", "b running", "c running", "d running"]);
    former.managed(&first, &second);
    let before = vec![port(1, 80)];
    assert_eq!(*former.told(), [("a".into(), before.clone()), ("b".into(), before.clone())].into());
    let third = swarm(3, &["b running", "d running"]);
    former.managed(&second, &third);
    let middle = vec![port(2, 80)];
    assert_eq!(*former.told(), [("b".into(), before), ("d".into(), middle)].into());
    former.managed(&third, &swarm(1, &["b running", "d running"]));
    assert_eq!(former.told().keys().collect::<Vec<_>>(), ["d"], "rolled back to what b publishes");
}

#[test]
fn a_service_whose_ports_were_not_given_yet_has_no_tasks_from_before() {
    let mut first = swarm(1, &["a running"]);
    first.services.values_mut().for_each(|it| it.ports.clear());
    let mut former = Former::default();
    former.managed(&first, &swarm(1, &["a running"]));
    assert_eq!(*former.told(), BTreeMap::new());
}

#[test]
fn by_gossip_tasks_publish_what_was_told_when_they_were_listed_for_long() {
    let readings = [
        (0, web(1, &["a", "b"])),
        // The new one comes, and its ports are told a moment later.
        (20, web(1, &["a", "b", "new"])),
        (1, web(2, &["a", "b", "new"])),
        (1, web(2, &["b", "new", "newer"])),
        (5, web(2, &["new", "newer", "newest"])),
    ];
    assert_eq!(told(&readings), ["", "", "a:1 b:1", "b:1", ""]);
}

#[test]
fn ports_that_are_told_in_turns_make_no_new_task_one_from_before() {
    let (first, all) = (["a", "b"], ["a", "b", "new"]);
    let readings = [
        (0, web(1, &first)),
        (20, web(2, &all)),
        (5, web(1, &all)),
        (5, web(1, &all)),
        (10, web(2, &all)),
        (5, web(2, &["b", "new", "newer"])),
        (5, web(2, &["new", "newer", "newest"])),
        // The next update.
        (20, web(1, &["newer", "newest", "next"])),
    ];
    let told = told(&readings);
    assert_eq!(told[..5], ["", "a:1 b:1", "", "", "a:1 b:1"]);
    assert_eq!(told[5..], ["b:1", "", "newer:2 newest:2"]);
}

#[test]
fn what_gossip_led_to_believe_is_forgotten_when_the_ports_are_told_no_more() {
    let both = ["a", "b"];
    let readings =
        [(0, web(1, &both)), (20, web(2, &both)), (279, web(2, &both)), (1, web(2, &both))];
    assert_eq!(told(&readings), ["", "a:1 b:1", "a:1 b:1", ""]);
    // A new one, whose ports were told late, was taken for an old one.
    let readings = [
        (0, web(1, &["a", "b", "c"])),
        (20, web(1, &["b", "c", "new"])),
        (20, web(2, &["c", "new", "newer"])),
        (20, web(2, &["new", "newer", "newest"])),
        (300, web(2, &["new", "newer", "newest"])),
    ];
    assert_eq!(told(&readings)[2..], ["c:1 new:1", "new:1", ""]);
}

#[test]
fn an_update_that_rests_for_minutes_while_gossip_tells_the_old_ports_is_not_over() {
    let (first, all) = (["a", "b"], ["a", "b", "new"]);
    let readings = [
        (0, web(1, &first)),
        (20, web(2, &all)),
        (20, web(1, &all)),
        (600, web(1, &all)),
        (5, web(2, &all)),
    ];
    assert_eq!(told(&readings).last().map(String::as_str), Some("a:1 b:1"));
}

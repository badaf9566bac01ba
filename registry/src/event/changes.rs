//! Which events lie between two snapshots. Pure.
//!
//! Always true here: a thing whose state is as it was makes no event, whatever else of it changed;
//! the first world is one event, not one for each thing in it.

use std::collections::BTreeMap;

use super::Kind;
use crate::id::NodeId;
use crate::model::{Node, Service, ServingState, Task};
use crate::snapshot::Snapshot;
use crate::snapshot::changes::Change;

/// An event without its number and its time.
type Told = (Kind, String, String);

/// What happened from `before` to `now`. A change of a task that `judged` says was held back by
/// health checks, then or now, is of the kind [`Kind::Health`].
pub fn between(before: &Snapshot, now: &Snapshot, judged: impl Fn(&Task) -> bool) -> Vec<Told> {
    if before.generation() == 0 {
        return if now.generation() == 0 { Vec::new() } else { vec![first(now)] };
    }
    let mut told: Vec<Told> = freshness(before, now).into_iter().collect();
    told.extend(now.services_since(before).iter().filter_map(service));
    for change in now.tasks_since(before) {
        let kind = if [change.before, change.now].into_iter().flatten().any(&judged) {
            Kind::Health
        } else {
            Kind::World
        };
        told.extend(task(&change).map(|(subject, text)| (kind, subject, text)));
    }
    told.extend(nodes(before, now));
    told
}

fn first(now: &Snapshot) -> Told {
    let (services, tasks) = (now.services().len(), now.tasks().len());
    let text = format!("{services} services and {tasks} tasks are known");
    (Kind::Source, "world".to_owned(), text)
}

fn freshness(before: &Snapshot, now: &Snapshot) -> Option<Told> {
    let text = match (before.stale(), now.stale()) {
        (was, Some(reason)) if was != Some(reason) => {
            format!("what was last known is served: {reason}")
        }
        (Some(_), None) => "is read again".to_owned(),
        (_, _) => return None,
    };
    Some((Kind::Source, "world".to_owned(), text))
}

fn service(change: &Change<'_, Service>) -> Option<Told> {
    let (name, text) = match (change.before, change.now) {
        (None, Some(now)) => (&now.name, "is there"),
        (Some(before), None) => (&before.name, "is gone"),
        (_, _) => return None,
    };
    Some((Kind::World, format!("service {name}"), text.to_owned()))
}

fn task(change: &Change<'_, Task>) -> Option<(String, String)> {
    let as_is = |task: &Task| {
        if task.reason.is_empty() {
            task.state.to_string()
        } else {
            format!("{} ({})", task.state, task.reason)
        }
    };
    let (name, text) = match (change.before, change.now) {
        (None, Some(now)) if now.state != ServingState::Stopped => {
            (&now.name, format!("is there, {}", as_is(now)))
        }
        (Some(before), None) if before.state != ServingState::Stopped => {
            (&before.name, format!("is gone; it was {}", as_is(before)))
        }
        (Some(before), Some(now)) if before.state != now.state => {
            // A task whose service is removed may lose its name with it.
            (&before.name, format!("was {}, is {}", before.state, as_is(now)))
        }
        (_, _) => return None,
    };
    Some((format!("task {name}"), text))
}

fn nodes(before: &Snapshot, now: &Snapshot) -> Vec<Told> {
    let was: BTreeMap<&NodeId, &Node> = before.nodes().map(|it| (&it.id, it)).collect();
    let changed = now.nodes().filter_map(|node| {
        let text = match was.get(&node.id) {
            Some(was) if was.state == node.state => return None,
            Some(was) => format!("was {}, is {}", was.state, node.state),
            None => format!("is there, {}", node.state),
        };
        Some((Kind::World, format!("node {}", node.name), text))
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::world;

    fn snapshot(generation: u64, states: &[(&str, &str)]) -> Snapshot {
        let mut text = "[[network]]\nname = \"n\"\n[[service]]\nname = \"web\"\n".to_owned();
        text += "networks = [\"n\"]\n";
        for (name, state) in states {
            let task =
                ["[[task]]\nname = \"", name, "\"\nservice = \"web\"\nstate = \"", state, "\"\n"];
            text.extend(task);
        }
        Snapshot::build(world::parse(&text, "test").unwrap(), generation)
    }

    fn told(before: &Snapshot, now: &Snapshot) -> Vec<String> {
        let all = between(before, now, |it| it.name == "judged").into_iter();
        all.map(|(kind, subject, text)| format!("{kind}: {subject}: {text}")).collect()
    }

    #[test]
    fn the_first_world_is_one_event() {
        let now = snapshot(1, &[("a", "serving"), ("b", "serving")]);
        let expected = ["source: world: 1 services and 2 tasks are known"];
        assert_eq!(told(&Snapshot::default(), &now), expected);
    }

    #[test]
    fn what_comes_goes_and_changes_its_state_is_told() {
        let before = snapshot(1, &[("a", "serving"), ("b", "serving"), ("judged", "serving")]);
        let now = snapshot(2, &[("b", "draining"), ("c", "starting"), ("judged", "starting")]);
        let expected = [
            "world: task a: is gone; it was serving",
            "world: task b: was serving, is draining",
            "world: task c: is there, starting",
            "health: task judged: was serving, is starting",
        ];
        assert_eq!(told(&before, &now), expected);
        assert!(told(&now, &now).is_empty());
    }

    #[test]
    fn a_source_that_fails_is_told_once_and_when_it_is_back() {
        let fresh = snapshot(1, &[]);
        let stale = fresh.marked_stale("engine gone");
        let lost = ["source: world: what was last known is served: engine gone"];
        assert_eq!(told(&fresh, &stale), lost);
        assert!(told(&stale, &stale).is_empty());
        assert_eq!(told(&stale, &fresh), ["source: world: is read again"]);
    }
}

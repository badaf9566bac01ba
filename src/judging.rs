//! Between the source and the consumers: puts what health checks found over each world, and tells
//! what happened from one to the next.
//!
//! Invariants
//! - *no detour*: while no check speaks against a task, consumers get the source's own snapshot;
//! - *told once*: a change is an event when consumers can see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use registry::event::{self, Kind};
use registry::health::{Judge, Verdicts};
use registry::id::{NetworkId, ServiceId, TaskId};
use registry::{Events, Snapshot, VipPair, World};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Passes worlds on from `source` to `judged`, with `verdicts` put over them, until `stop` or the
/// end of the source.
pub(crate) async fn judge(
    mut source: World,
    mut verdicts: watch::Receiver<Arc<Verdicts>>,
    judged: watch::Sender<Arc<Snapshot>>,
    events: Events,
    stop: CancellationToken,
) {
    let mut judge = Judge::default();
    loop {
        let (world, found) = (Arc::clone(&source.borrow_and_update()), {
            let found = verdicts.borrow_and_update();
            Arc::clone(&found)
        });
        let last = Arc::clone(&judged.borrow());
        let held_before = judge.held().clone();
        let next = judge.judge(&world, &found, Instant::now().into_std());
        if !Arc::ptr_eq(&last, &next) {
            judged.send_replace(Arc::clone(&next));
            let by_check =
                |id: &TaskId| held_before.contains_key(id) || judge.held().contains_key(id);
            for (kind, subject, text) in event::between(&last, &next, |task| by_check(&task.id)) {
                events.emit(kind, subject, text);
            }
        }
        let deadline = judge.deadline().map(Instant::from_std);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = source.changed() => if changed.is_err() { return },
            // Whoever probes may end before the source; what it found last stays true.
            Ok(()) = verdicts.changed() => {}
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
        }
    }
}

/// Tells which VIPs are given and taken, until `stop` or the end of the VIP manager.
pub(crate) async fn tell_of_vips(
    mut vips: watch::Receiver<Arc<Vips>>,
    world: World,
    events: Events,
    stop: CancellationToken,
) {
    let mut last = Arc::clone(&vips.borrow_and_update());
    let mut last_world = Arc::clone(&world.borrow());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = vips.changed() => if changed.is_err() { return },
        }
        let now = Arc::clone(&vips.borrow_and_update());
        let world = Arc::clone(&world.borrow());
        let changes = given_and_taken(&last, &now, [&world, &last_world]);
        if changes.len() > EACH {
            let text =
                format!("{} are given, moved or taken; there are {}", changes.len(), now.len());
            events.emit(Kind::Vip, "VIPs", text);
        } else {
            for (subject, text) in changes {
                events.emit(Kind::Vip, subject, text);
            }
        }
        (last, last_world) = (now, world);
    }
}

/// As many VIPs change at once and are told each for itself; at a start with a thousand services
/// nobody reads them.
const EACH: usize = 20;

/// The VIPs of a service on a network.
type Vips = BTreeMap<(ServiceId, NetworkId), VipPair>;

/// Names are those of the first of `worlds` that has them: what is gone has its name in the last.
fn given_and_taken(last: &Vips, now: &Vips, worlds: [&Snapshot; 2]) -> Vec<(String, String)> {
    let subject = |id: &ServiceId| {
        let known = worlds.iter().find_map(|it| it.service(id));
        format!("service {}", known.map_or_else(|| id.as_str(), |it| it.name.as_str()))
    };
    let network = |id: &NetworkId| {
        let known = worlds.iter().find_map(|it| it.network(id));
        known.map_or_else(|| id.to_string(), |it| it.name.clone())
    };
    let given = now.iter().filter_map(|(key @ (service, on), vip)| {
        let text = match last.get(key) {
            Some(was) if was == vip => return None,
            Some(was) => format!("its VIP on {} was {was}, is {vip}", network(on)),
            None => format!("its VIP on {} is {vip}", network(on)),
        };
        Some((subject(service), text))
    });
    let taken = last.iter().filter(|(key, _)| !now.contains_key(*key));
    let taken = taken.map(|((service, on), vip)| {
        (subject(service), format!("it has no VIP on {} any more; it was {vip}", network(on)))
    });
    given.chain(taken).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry::health::Verdict;
    use registry::model::ServingState;
    use registry::source::world;

    fn world_of(generation: u64) -> Arc<Snapshot> {
        let text = "[[network]]\nname = \"n\"\n\
            [[service]]\nname = \"web\"\nnetworks = [\"n\"]\n\
            [[task]]\nname = \"a\"\nservice = \"web\"\n[[task]]\nname = \"b\"\nservice = \"web\"\n";
        Arc::new(Snapshot::build(world::parse(text, "test").unwrap(), generation))
    }

    #[tokio::test]
    async fn a_verdict_reaches_the_consumers_and_the_events() {
        let (source, worlds) = watch::channel(Arc::new(Snapshot::default()));
        let (found, verdicts) = watch::channel(Arc::default());
        let (judged, mut seen) = watch::channel(Arc::new(Snapshot::default()));
        let (events, stop) = (Events::default(), CancellationToken::new());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(judge(worlds, verdicts, judged, events.clone(), stop.clone()));
        let first = world_of(1);
        source.send_replace(Arc::clone(&first));
        let given = seen.wait_for(|it| it.generation() == 1).await.unwrap().clone();
        assert!(Arc::ptr_eq(&given, &first));
        let down = Verdict::Down("tcp check failed".to_owned());
        let tasks_found = BTreeMap::from([("a".into(), down)]);
        found.send_replace(Arc::new(Verdicts { generation: 1, tasks: tasks_found }));
        let given = seen.wait_for(|it| it.generation() == 2).await.unwrap().clone();
        assert_eq!(given.task(&"a".into()).unwrap().state, ServingState::Starting);
        events.after(1).await;
        let told: Vec<_> = events
            .since(0)
            .iter()
            .map(|it| format!("{}: {}: {}", it.kind, it.subject, it.text))
            .collect();
        let expected = [
            "source: world: 1 services and 2 tasks are known",
            "health: task a: was serving, is starting (tcp check failed)",
        ];
        assert_eq!(told, expected);
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }

    #[test]
    fn vips_that_are_given_moved_and_taken_are_told_by_name() {
        let vips = |all: &[(&str, [u8; 4])]| -> Vips {
            let entry = |(service, vip): &(&str, [u8; 4])| {
                (
                    (ServiceId::from(*service), NetworkId::from("n")),
                    std::net::IpAddr::from(*vip).into(),
                )
            };
            all.iter().map(entry).collect()
        };
        let last =
            vips(&[("gone", [240, 0, 0, 1]), ("moved", [240, 0, 0, 2]), ("web", [240, 0, 0, 3])]);
        let now =
            vips(&[("moved", [240, 0, 0, 4]), ("new", [240, 0, 0, 5]), ("web", [240, 0, 0, 3])]);
        let told: Vec<_> = given_and_taken(&last, &now, [&Snapshot::default(), &world_of(1)])
            .into_iter()
            .map(|(subject, text)| format!("{subject}: {text}"))
            .collect();
        let expected = [
            "service moved: its VIP on n was 240.0.0.2, is 240.0.0.4",
            "service new: its VIP on n is 240.0.0.5",
            "service gone: it has no VIP on n any more; it was 240.0.0.1",
        ];
        assert_eq!(told, expected);
    }
}

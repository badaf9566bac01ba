//! The world read once more from its source, by the same code as ever, and compared with what the
//! registry holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use registry::id::{NetworkId, ServiceId};
use registry::model::{
    Attachment, Completeness, Endpoint, Network, Sandbox, Service, ServingState, Task,
};
use registry::source;
use registry::{Snapshot, source::docker};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Source;
use crate::host::ThisHost;

/// How long a complete reading may take; an engine with a thousand containers needs a few seconds.
const WAIT: Duration = Duration::from_secs(30);

impl Source {
    /// The comparison's name, for people.
    pub(super) fn called(&self) -> &'static str {
        match self {
            Self::Docker(_) => "engine and registry",
            Self::World(_) => "world file and registry",
        }
    }
}

/// The world as its source says now.
pub(super) async fn read_anew(source: &Source) -> Result<Arc<Snapshot>, String> {
    match source {
        Source::World(path) => {
            let publisher = source::Publisher::new(watch::channel(Arc::default()).0);
            source::world::open(path, &publisher).map(|_follower| publisher.current()).map_err(
                |errors| {
                    let errors = joined(errors.iter().map(ToString::to_string), "; ");
                    format!("the world file cannot be read: {errors}")
                },
            )
        }
        Source::Docker(config) => engine(config.clone()).await,
    }
}

async fn engine(config: docker::Config) -> Result<Arc<Snapshot>, String> {
    let host = ThisHost::open().map_err(|error| error.to_string())?;
    let (sender, mut world) = watch::channel(Arc::<Snapshot>::default());
    let stop = CancellationToken::new();
    let whole = async {
        let read = world.wait_for(|it| it.generation() > 0 && it.stale().is_none()).await;
        read.map(|it| Arc::clone(&it)).map_err(|error| error.to_string())
    };
    tokio::select! {
        read = timeout(WAIT, whole) => {
            read.unwrap_or_else(|_elapsed| Err("the engine does not answer".to_owned()))
        }
        () = docker::run(config, host, sender, stop.clone()) => {
            Err("the engine cannot be read".to_owned())
        }
    }
}

/// What `read` says otherwise than `known`, a line each.
pub(super) fn differences(known: &Snapshot, read: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for list in [networks, services, sandboxes] {
        let mut held = list(known);
        let read = list(read);
        held.retain(|key, _| {
            let kept = key.0.starts_with("service ") && is_kept(known, &ServiceId::from(&*key.1));
            read.contains_key(key) || !kept
        });
        compare(&mut lines, &held, &read);
    }
    // That a task drains shows while it is followed, and not at a first look.
    let drains =
        |it: &Task| known.task(&it.id).is_some_and(|it| it.state == ServingState::Draining);
    compare(&mut lines, &tasks(known, drains), &tasks(read, drains));
    lines
}

/// Whether a service is known on purpose though its source may have forgotten it: gossip does, with
/// the last task, and the registry some minutes later. A manager tells of all that there are.
fn is_kept(known: &Snapshot, id: &ServiceId) -> bool {
    let idle = known.tasks_of(id).next().is_none();
    let networks = known.service(id).into_iter().flat_map(|it| it.networks.keys());
    let gossiped =
        |it: &NetworkId| known.network(it).is_some_and(|it| it.names == Completeness::Gossip);
    idle && networks.into_iter().any(gossiped)
}

/// Things of one kind by name and id, each in words.
type List = BTreeMap<(String, String), String>;

fn compare(lines: &mut Vec<String>, known: &List, read: &List) {
    let keys: BTreeSet<_> = known.keys().chain(read.keys()).collect();
    for key in keys {
        let name = &key.0;
        match (known.get(key), read.get(key)) {
            (Some(known), Some(read)) if known != read => {
                lines.push(format!("{name}: known as {known}, read as {read}"));
            }
            (Some(_), None) => lines.push(format!("{name}: known, and no longer there")),
            (None, Some(_)) => lines.push(format!("{name}: there, and not known")),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

fn networks(world: &Snapshot) -> List {
    let key = |it: &Network| (format!("network {}", it.name), it.id.to_string());
    world.networks().map(|it| (key(it), network(it))).collect()
}

fn services(world: &Snapshot) -> List {
    let key = |it: &Service| (format!("service {}", it.name), it.id.to_string());
    world.services().map(|it| (key(it), service(it, world))).collect()
}

fn tasks(world: &Snapshot, drains: impl Fn(&Task) -> bool) -> List {
    let key = |it: &Task| (format!("task {}", it.name), it.id.to_string());
    let state = |it: &Task| {
        let either = [ServingState::Serving, ServingState::Draining].contains(&it.state);
        if either && drains(it) { "serving or draining".to_owned() } else { it.state.to_string() }
    };
    world.tasks().map(|it| (key(it), task(it, &state(it), world))).collect()
}

fn sandboxes(world: &Snapshot) -> List {
    let key = |it: &Sandbox| (format!("sandbox {}", it.name), it.id.to_string());
    world.sandboxes().map(|it| (key(it), sandbox(it, world))).collect()
}

fn network(it: &Network) -> String {
    let subnets: Vec<_> = it.subnets.iter().map(ToString::to_string).collect();
    format!("{} {} {}", it.id, it.driver, subnets.join(","))
}

fn service(it: &Service, world: &Snapshot) -> String {
    let vips = it.networks.iter().map(|(id, place)| {
        let vip = place.vip.map_or_else(|| "-".to_owned(), |it| it.to_string());
        format!("{}={vip}", called(world, id))
    });
    let ports =
        it.ports.iter().map(|it| format!("{}->{}/{}", it.published, it.target, it.protocol));
    format!("{} {} {}", it.mode, joined(vips, ","), joined(ports, ","))
}

fn task(it: &Task, state: &str, world: &Snapshot) -> String {
    let place = |(id, it): (&NetworkId, &Endpoint)| {
        format!("{}={}", called(world, id), addresses(&it.addresses))
    };
    let places = joined(it.networks.iter().map(place), " ");
    format!("{state} weight {} {places}", it.weight)
}

fn sandbox(it: &Sandbox, world: &Snapshot) -> String {
    let place =
        |it: &Attachment| format!("{}={}", called(world, &it.network), addresses(&it.addresses));
    let places = joined(it.networks.iter().map(place), " ");
    format!("{} {places}", it.netns.display())
}

fn called(world: &Snapshot, id: &NetworkId) -> String {
    world.network(id).map_or_else(|| id.to_string(), |it| it.name.clone())
}

fn addresses(all: &[IpAddr]) -> String {
    joined(all.iter().map(ToString::to_string), ",")
}

fn joined(parts: impl Iterator<Item = String>, gap: &str) -> String {
    parts.collect::<Vec<_>>().join(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORLD: &str = "[[network]]\nname = \"n\"\n[[task]]\nname = \"b\"\n\
        addresses = { n = \"10.0.0.1\" }\n";
    const IDLE: &str = "[[service]]\nname = \"idle\"\nnetworks = [\"n\"]\n";

    fn snapshot(text: &str, names: Completeness) -> Snapshot {
        let mut draft = source::world::parse(text, "test").unwrap();
        for network in &mut draft.networks {
            network.names = names;
        }
        Snapshot::build(draft, 1)
    }

    #[test]
    fn a_service_without_tasks_that_is_read_no_more_differs_unless_gossip_may_have_forgotten_it() {
        let told = |names| {
            let with = snapshot(&format!("{WORLD}{IDLE}"), names);
            differences(&with, &snapshot(WORLD, names))
        };
        assert_eq!(told(Completeness::Gossip), [""; 0]);
        assert_eq!(told(Completeness::Complete), ["service idle: known, and no longer there"]);
    }

    #[test]
    fn a_task_that_is_read_otherwise_differs_and_one_that_drains_does_not() {
        let known = snapshot(WORLD, Completeness::Complete);
        let as_state = |state: &str| {
            let text = format!("{WORLD}state = \"{state}\"\n");
            differences(&snapshot(&text, Completeness::Complete), &known)
        };
        assert_eq!(as_state("draining"), [""; 0], "it shows only while it is followed");
        let expected = "task b: known as starting weight 1 n=10.0.0.1, read as serving weight 1 \
            n=10.0.0.1";
        assert_eq!(as_state("starting"), [expected]);
    }
}

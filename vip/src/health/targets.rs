//! Who is probed, where, and how: a snapshot, to a plan and notes. Pure.
//!
//! Always true here: only tasks that the source calls serving are probed, each in one place; a task
//! that cannot be reached from this node is not in the plan, and its service gets one note.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use registry::balance_spec::HealthCheck;
use registry::health::is_new;
use registry::id::{ServiceId, TaskId};
use registry::model::{Reach, Service, Task};
use registry::{Notes, Snapshot, labels};

/// Whom to probe.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// The generation this was compiled from.
    pub generation: u64,
    /// By task.
    pub targets: BTreeMap<TaskId, Target>,
    /// Those of them that began to serve after the snapshot before.
    pub new: BTreeSet<TaskId>,
}

/// A task to probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Its service.
    pub service: ServiceId,
    /// What users call the service.
    pub service_name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// From where it is probed.
    pub place: Place,
    /// What is asked of it.
    pub check: HealthCheck,
}

/// From where a task is probed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// The namespace of this process.
    Host,
    /// The namespace at this path.
    Netns(PathBuf),
}

/// What `snapshot` asks for; `last` is the one before it.
pub(super) fn compile(snapshot: &Snapshot, last: Option<&Snapshot>) -> (Plan, Notes) {
    let mut plan = Plan { generation: snapshot.generation(), ..Plan::default() };
    let mut notes = Notes::default();
    for service in snapshot.services() {
        // What cannot be read is told by those who balance.
        let (spec, _told) = labels::balance(service);
        let Some(check) = spec.health else { continue };
        let mut unreached = 0_usize;
        for task in snapshot.tasks_of(&service.id).filter(|it| it.serves()) {
            let Some((address, place)) = way(snapshot, task, check.probe.port()) else {
                unreached += 1;
                continue;
            };
            if is_new(task, last) {
                plan.new.insert(task.id.clone());
            }
            let (service_name, check) = (service.name.clone(), check.clone());
            let service = service.id.clone();
            let target = Target { service, service_name, address, place, check };
            plan.targets.insert(task.id.clone(), target);
        }
        if unreached > 0 {
            tell(service, &check, unreached, &mut notes);
        }
    }
    (plan, notes)
}

fn tell(service: &Service, check: &HealthCheck, unreached: usize, notes: &mut Notes) {
    let text = format!(
        "{unreached} of its tasks cannot be probed from this node, which is on no network of \
         theirs; what the engine says of them counts here"
    );
    let (subject, place) = (format!("service {}", service.name), check.probe.name());
    let remedy = "none needed: nodes on the service's networks probe them";
    notes.warning(subject, format!("portolan.health.{place}"), text, remedy);
}

/// Where a task is reached, and from where. The ingress network, which tasks share with strangers,
/// comes last.
fn way(snapshot: &Snapshot, task: &Task, port: u16) -> Option<(SocketAddr, Place)> {
    let ways = task.networks.iter().filter_map(|(id, endpoint)| {
        let network = snapshot.network(id)?;
        let address = endpoint.addresses.iter().min()?;
        let place = match &network.reach {
            Reach::Host => Place::Host,
            Reach::Netns(path) => Place::Netns(path.clone()),
            Reach::Nowhere => return None,
        };
        Some((network.ingress, SocketAddr::new(*address, port), place))
    });
    ways.min_by_key(|(ingress, _, _)| *ingress).map(|(_, address, place)| (address, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry::source::world;

    const WORLD: &str = r#"
        [[network]]
        name = "far"
        reach = "nowhere"
        [[network]]
        name = "mesh"
        ingress = true
        [[network]]
        name = "near"
        reach = "/run/netns/near"
        [[service]]
        name = "web"
        networks = ["far", "mesh", "near"]
        labels = { "portolan.health.tcp" = "80" }
        [[service]]
        name = "quiet"
        networks = ["near"]
        [[task]]
        name = "a"
        service = "web"
        addresses = { far = "10.1.0.1", mesh = "10.0.0.1", near = "10.2.0.1" }
        [[task]]
        name = "b"
        service = "web"
        addresses = { far = "10.1.0.2" }
        [[task]]
        name = "c"
        service = "web"
        addresses = { near = "10.2.0.3" }
        state = "draining"
        [[task]]
        name = "d"
        service = "quiet"
        addresses = { near = "10.2.0.4" }
    "#;

    fn snapshot() -> Snapshot {
        Snapshot::build(world::parse(WORLD, "test").unwrap(), 3)
    }

    #[test]
    fn serving_tasks_of_services_with_a_check_are_probed_where_this_node_reaches_them() {
        let (plan, notes) = compile(&snapshot(), None);
        let probed: Vec<_> =
            plan.targets.iter().map(|(id, it)| (id.as_str(), it.address)).collect();
        assert_eq!(probed, [("a", "10.2.0.1:80".parse().unwrap())]);
        assert_eq!(plan.targets[&"a".into()].place, Place::Netns("/run/netns/near".into()));
        let notes: Vec<_> = notes.iter().map(ToString::to_string).collect();
        assert_eq!(notes.len(), 1, "{notes:?}");
        let begin = "warning: service web: `portolan.health.tcp`: 1 of its tasks cannot be probed";
        assert!(notes[0].starts_with(begin), "{notes:?}");
    }

    #[test]
    fn new_are_those_that_did_not_serve_in_the_world_before() {
        assert!(compile(&snapshot(), None).0.new.is_empty());
        assert!(compile(&snapshot(), Some(&snapshot())).0.new.is_empty());
        let before = WORLD.replace("name = \"a\"", "name = \"a\"\nstate = \"starting\"");
        let before = Snapshot::build(world::parse(&before, "test").unwrap(), 2);
        let new: Vec<_> = compile(&snapshot(), Some(&before)).0.new.into_iter().collect();
        assert_eq!(new, [TaskId::from("a")]);
    }
}

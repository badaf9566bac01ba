//! A snapshot in which some of the serving tasks wait.
//!
//! Always true here: nothing else of the world differs, and what does not differ is shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Snapshot;
use crate::id::TaskId;
use crate::model::{ServingState, Task};

impl Snapshot {
    /// The same world, numbered `generation`, in which those of the tasks `held` that serve are
    /// starting, for the reason that stands there.
    #[must_use]
    pub fn holding_back(&self, held: &BTreeMap<TaskId, String>, generation: u64) -> Self {
        let mut world = Self { generation, ..self.clone() };
        for (id, reason) in held {
            let Some(task) = world.tasks.get_mut(id).filter(|it| it.serves()) else { continue };
            let (state, reason) = (ServingState::Starting, reason.clone());
            let waiting = Arc::new(Task { state, reason, ..Task::clone(task) });
            *task = Arc::clone(&waiting);
            let of_service = waiting.service.as_ref().and_then(|it| world.tasks_of.get_mut(it));
            replace(of_service, &waiting);
            for network in waiting.networks.keys() {
                replace(world.tasks_on.get_mut(network), &waiting);
            }
        }
        world
    }
}

/// Lists are by id.
fn replace(list: Option<&mut Vec<Arc<Task>>>, task: &Arc<Task>) {
    let Some(list) = list else { return };
    let place = list.binary_search_by(|it| it.id.cmp(&task.id));
    if let Some(known) = place.ok().and_then(|at| list.get_mut(at)) {
        *known = Arc::clone(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::world;

    const WORLD: &str = "[[network]]\nname = \"n\"\n[[service]]\nname = \"web\"\nnetworks = [\"n\"]
        [[task]]\nname = \"a\"\nservice = \"web\"\naddresses = { n = \"10.0.0.1\" }
        [[task]]\nname = \"b\"\nservice = \"web\"\naddresses = { n = \"10.0.0.2\" }
        [[task]]\nname = \"c\"\nservice = \"web\"\naddresses = { n = \"10.0.0.3\" }\nstate = \"draining\"";

    #[test]
    fn a_task_that_is_held_back_is_starting_wherever_it_is_listed() {
        let source = Snapshot::build(world::parse(WORLD, "test").unwrap(), 4);
        let why = |id: &str| (TaskId::from(id), "tcp check failed".to_owned());
        let held = BTreeMap::from([why("a"), why("c"), why("gone")]);
        let judged = source.holding_back(&held, 7);
        assert_eq!(judged.generation(), 7);
        let states = |tasks: Vec<&Task>| tasks.iter().map(|it| it.state).collect::<Vec<_>>();
        let expected = [ServingState::Starting, ServingState::Serving, ServingState::Draining];
        assert_eq!(states(judged.tasks().collect()), expected);
        assert_eq!(states(judged.tasks_of(&"web".into()).collect()), expected);
        assert_eq!(states(judged.tasks_on(&"n".into()).collect()), expected);
        assert_eq!(judged.task(&"a".into()).unwrap().reason, "tcp check failed");
        let changed: Vec<_> =
            judged.tasks_since(&source).iter().map(|it| &it.now.unwrap().id).collect();
        assert_eq!(changed, [&TaskId::from("a")]);
        assert!(judged.holding_back(&BTreeMap::new(), 8).same_world(&judged));
    }
}

//! The world at one moment, immutable and numbered, with an index for each question asked of it.
//!
//! Invariants, kept by [`Snapshot::build`]
//! - *closed*: every id inside names something inside; what pointed nowhere was dropped with a note;
//! - *ordered*: the same draft gives an equal snapshot, in whatever order its parts came;
//! - *numbered*: a consumer that saw generation N never needs one below it;
//! - *shared*: what is as it was is the same piece of memory as in the snapshot before, so that
//!   comparing the two costs a pointer for each thing ([`changes`]).

pub mod changes;
mod held;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{NetworkId, NodeId, SandboxId, ServiceId, TaskId};
use crate::model::{Network, Node, Sandbox, Service, Task};
use crate::note::Notes;

/// All that a source found, in any order, not yet checked against itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Draft {
    /// Networks; of several of one id the least counts, wherever it stands. The same holds below.
    pub networks: Vec<Network>,
    /// Services.
    pub services: Vec<Service>,
    /// Tasks.
    pub tasks: Vec<Task>,
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// The node that this process runs on, where there is more than one.
    pub this_node: Option<NodeId>,
    /// Networks of which nobody said yet who is on them: that they seem empty means nothing.
    pub unread: BTreeSet<NetworkId>,
    /// What the source had to say.
    pub notes: Notes,
}

/// The world at one moment. See the module for what it promises.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    generation: u64,
    stale: Option<String>,
    networks: BTreeMap<NetworkId, Arc<Network>>,
    services: BTreeMap<ServiceId, Arc<Service>>,
    tasks: BTreeMap<TaskId, Arc<Task>>,
    sandboxes: BTreeMap<SandboxId, Arc<Sandbox>>,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    this_node: Option<NodeId>,
    unread: BTreeSet<NetworkId>,
    notes: Notes,
    /// By id, as all lists below.
    tasks_of: BTreeMap<ServiceId, Vec<Arc<Task>>>,
    tasks_on: BTreeMap<NetworkId, Vec<Arc<Task>>>,
    services_on: BTreeMap<NetworkId, Vec<Arc<Service>>>,
}

impl Snapshot {
    /// Checks `draft` against itself, drops what points nowhere with a note, and indexes the rest.
    pub fn build(draft: Draft, generation: u64) -> Self {
        Self { generation, ..Self::default().followed_by(draft) }
    }

    /// The snapshot of `draft` that comes after this one: what [`Snapshot::build`] makes with the
    /// next number, sharing what is equal in both.
    #[must_use]
    pub fn followed_by(&self, draft: Draft) -> Self {
        let Draft { networks, services, tasks, sandboxes, nodes, this_node, unread, notes } = draft;
        let generation = self.generation.saturating_add(1);
        let mut built = Self { generation, this_node, unread, notes, ..Self::default() };
        for network in sorted(networks) {
            let id = network.id.clone();
            built.networks.entry(id).or_insert_with_key(|id| shared(&self.networks, id, network));
        }
        for service in sorted(services) {
            built.insert_service(service, self);
        }
        for task in sorted(tasks) {
            built.insert_task(task, self);
        }
        for sandbox in sorted(sandboxes) {
            built.insert_sandbox(sandbox, self);
        }
        for node in sorted(nodes) {
            let id = node.id.clone();
            built.nodes.entry(id).or_insert_with_key(|id| shared(&self.nodes, id, node));
        }
        built
    }

    /// Its number; grows by one with each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Why this is not the present, when the source could not be read since.
    pub fn stale(&self) -> Option<&str> {
        self.stale.as_deref()
    }

    /// The same world, marked as not the present any more.
    #[must_use]
    pub fn marked_stale(&self, reason: impl Into<String>) -> Self {
        Self { stale: Some(reason.into()), ..self.clone() }
    }

    /// Whether `other` describes the same world, whatever its generation.
    pub fn same_world(&self, other: &Self) -> bool {
        self.networks == other.networks
            && self.services == other.services
            && self.tasks == other.tasks
            && self.sandboxes == other.sandboxes
            && self.nodes == other.nodes
            && self.this_node == other.this_node
            && self.unread == other.unread
            && self.notes == other.notes
            && self.stale == other.stale
    }

    /// Whether nobody said yet who is on this network.
    pub fn is_unread(&self, network: &NetworkId) -> bool {
        self.unread.contains(network)
    }

    /// What the sources had to say.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The node that this process runs on.
    pub fn this_node(&self) -> Option<&NodeId> {
        self.this_node.as_ref()
    }

    /// All networks, by id.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Network> {
        self.networks.values().map(AsRef::as_ref)
    }

    /// All services, by id.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.services.values().map(AsRef::as_ref)
    }

    /// All tasks, by id.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Task> {
        self.tasks.values().map(AsRef::as_ref)
    }

    /// All sandboxes, by id.
    pub fn sandboxes(&self) -> impl ExactSizeIterator<Item = &Sandbox> {
        self.sandboxes.values().map(AsRef::as_ref)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values().map(AsRef::as_ref)
    }

    /// One network.
    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id).map(AsRef::as_ref)
    }

    /// The networks of that name, compared case-insensitively.
    pub fn networks_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Network> {
        self.networks().filter(move |it| it.name.eq_ignore_ascii_case(name))
    }

    /// One service.
    pub fn service(&self, id: &ServiceId) -> Option<&Service> {
        self.services.get(id).map(AsRef::as_ref)
    }

    /// One task.
    pub fn task(&self, id: &TaskId) -> Option<&Task> {
        self.tasks.get(id).map(AsRef::as_ref)
    }

    /// One sandbox.
    pub fn sandbox(&self, id: &SandboxId) -> Option<&Sandbox> {
        self.sandboxes.get(id).map(AsRef::as_ref)
    }

    /// The sandbox that users call `name` (or its id, or an unambiguous prefix `NAME.` of a Swarm
    /// task's name: `web.1` finds `web.1.abcd...`).
    pub fn sandbox_named(&self, name: &str) -> Option<&Sandbox> {
        let exact = |it: &&Sandbox| it.name == name || it.id.as_str() == name;
        self.sandboxes().find(exact).or_else(|| {
            let prefix = format!("{name}.");
            let mut matching = self.sandboxes().filter(|it| it.name.starts_with(&prefix));
            matching.next().filter(|_| matching.next().is_none())
        })
    }

    /// The tasks of a service, by id, in whatever state.
    pub fn tasks_of(&self, service: &ServiceId) -> impl Iterator<Item = &Task> {
        self.tasks_of.get(service).into_iter().flatten().map(AsRef::as_ref)
    }

    /// The tasks on a network, by id, those without a service included.
    pub fn tasks_on(&self, network: &NetworkId) -> impl Iterator<Item = &Task> {
        self.tasks_on.get(network).into_iter().flatten().map(AsRef::as_ref)
    }

    /// The services on a network, by id.
    pub fn services_on(&self, network: &NetworkId) -> impl Iterator<Item = &Service> {
        self.services_on.get(network).into_iter().flatten().map(AsRef::as_ref)
    }

    fn insert_service(&mut self, mut service: Service, last: &Self) {
        if self.services.contains_key(&service.id) {
            return;
        }
        let (networks, notes) = (&self.networks, &mut self.notes);
        service.networks.retain(|id, _| known(networks, id, "service", &service.name, notes));
        let service = shared(&last.services, &service.id.clone(), service);
        for network in service.networks.keys() {
            self.services_on.entry(network.clone()).or_default().push(Arc::clone(&service));
        }
        self.services.insert(service.id.clone(), service);
    }

    fn insert_task(&mut self, mut task: Task, last: &Self) {
        if self.tasks.contains_key(&task.id) {
            return;
        }
        let (networks, notes) = (&self.networks, &mut self.notes);
        task.networks.retain(|id, _| known(networks, id, "task", &task.name, notes));
        if task.service.as_ref().is_some_and(|id| !self.services.contains_key(id)) {
            task.service = None;
        }
        let task = shared(&last.tasks, &task.id.clone(), task);
        if let Some(service) = &task.service {
            self.tasks_of.entry(service.clone()).or_default().push(Arc::clone(&task));
        }
        for network in task.networks.keys() {
            self.tasks_on.entry(network.clone()).or_default().push(Arc::clone(&task));
        }
        self.tasks.insert(task.id.clone(), task);
    }

    fn insert_sandbox(&mut self, mut sandbox: Sandbox, last: &Self) {
        if self.sandboxes.contains_key(&sandbox.id) {
            return;
        }
        let (networks, notes) = (&self.networks, &mut self.notes);
        sandbox.networks.retain(|it| known(networks, &it.network, "sandbox", &sandbox.name, notes));
        let name = &sandbox.name;
        sandbox.nameless.retain(|id| known(networks, id, "sandbox", name, notes));
        sandbox.tasks.retain(|id| self.tasks.contains_key(id));
        let sandbox = shared(&last.sandboxes, &sandbox.id.clone(), sandbox);
        self.sandboxes.insert(sandbox.id.clone(), sandbox);
    }
}

/// What consumers hold: the newest snapshot, shared.
pub type World = tokio::sync::watch::Receiver<Arc<Snapshot>>;

/// What is at `id` in `last` where that says the same as `now`.
fn shared<K: Ord, V: Eq>(last: &BTreeMap<K, Arc<V>>, id: &K, now: V) -> Arc<V> {
    match last.get(id) {
        Some(known) if **known == now => Arc::clone(known),
        _ => Arc::new(now),
    }
}

/// By id, which is the first of what is compared, and then by all else.
fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items
}

fn known(
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    id: &NetworkId,
    kind: &str,
    name: &str,
    notes: &mut Notes,
) -> bool {
    let known = networks.contains_key(id);
    if !known {
        notes.warning(
            format!("{kind} {name}"),
            "",
            format!("is on network {id}, which the registry does not know"),
            "none needed if the network is being created or removed",
        );
    }
    known
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{Mode, ServiceAttachment, ServiceKind};
    use crate::source::world;

    fn service(id: &str, networks: &[&str]) -> Service {
        let on = |it: &&str| (NetworkId::from(*it), ServiceAttachment::default());
        Service {
            id: id.into(),
            name: id.to_owned(),
            kind: ServiceKind::World,
            stack: None,
            mode: Mode::Vip,
            networks: networks.iter().map(on).collect(),
            ports: Vec::new(),
            labels: BTreeMap::new(),
            created: 0,
        }
    }

    fn two_networks() -> Draft {
        let text = "[[network]]\nname = \"a\"\n[[network]]\nname = \"b\"\n";
        world::parse(text, "test").unwrap()
    }

    #[test]
    fn a_second_service_of_the_same_id_leaves_no_trace() {
        let services = vec![service("web", &["a"]), service("web", &["b"])];
        let snapshot = Snapshot::build(Draft { services, ..two_networks() }, 1);
        let on = |network: &str| snapshot.services_on(&network.into()).count();
        assert_eq!((on("a"), on("b")), (1, 0));
    }

    #[test]
    fn which_of_two_with_one_id_counts_does_not_depend_on_their_order() {
        let node = |name: &str| Node {
            id: "n".into(),
            name: name.to_owned(),
            address: None,
            state: "ready".to_owned(),
            ingress: BTreeSet::new(),
        };
        let draft = Draft {
            services: vec![service("web", &["b"]), service("web", &["a"])],
            nodes: vec![node("two"), node("one")],
            ..two_networks()
        };
        let mut turned = draft.clone();
        turned.services.reverse();
        turned.nodes.reverse();
        assert_eq!(Snapshot::build(draft, 1), Snapshot::build(turned, 1));
    }

    #[test]
    fn what_points_nowhere_is_dropped_with_a_note() {
        let services = vec![service("web", &["a", "gone"])];
        let snapshot = Snapshot::build(Draft { services, ..two_networks() }, 1);
        let web = snapshot.service(&"web".into()).unwrap();
        assert_eq!(web.networks.keys().collect::<Vec<_>>(), [&NetworkId::from("a")]);
        let told: Vec<_> = snapshot.notes().iter().map(|it| it.subject.as_str()).collect();
        assert_eq!(told, ["service web"]);
    }
}

//! The mesh of one node, driven by hand in a world of `mesh_support`, and world files for it.
//!
//! Portolan's host namespace is the calling thread's own, so what it does runs on a thread that
//! entered the node's host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kernel::netns::Netns;
use registry::{Consumer, Draft, Notes, Outcome, Snapshot};
use vip::mesh::{ClientIp, Config, Enabled, Mesh};

use crate::mesh_support::{PATIENCE, Place, Swarm};

/// A node with a task of `web`, and the mesh on it.
pub(crate) struct One {
    pub(crate) swarm: Swarm,
    pub(crate) task: Place,
    pub(crate) manager: Manager,
}

impl One {
    pub(crate) fn new() -> Self {
        let mut swarm = Swarm::new("1");
        let task = swarm.task(0, "web.1", 21, "1");
        let manager = Manager::new(&swarm, 0, ClientIp::Keep);
        Self { swarm, task, manager }
    }

    /// The world in which `web` publishes `ports` and has `labels`.
    pub(crate) fn text(&self, ports: &str, labels: &str) -> String {
        let text = Text::new(&self.swarm, 0, ports, labels);
        text.task("web.1", 0, 21, "serving").sandbox("web.1", &self.task).0
    }
}

/// The mesh of one node, driven by hand.
pub(crate) struct Manager {
    mesh: Mesh,
    runtime: tokio::runtime::Runtime,
    host: PathBuf,
    generation: u64,
}

impl Manager {
    pub(crate) fn new(swarm: &Swarm, node: usize, client_ip: ClientIp) -> Self {
        Self::which(swarm, node, Enabled::Auto, client_ip)
    }

    pub(crate) fn which(swarm: &Swarm, node: usize, enabled: Enabled, client_ip: ClientIp) -> Self {
        let state_dir = swarm.dir.join(format!("state{node}"));
        let drain = Duration::from_secs(600);
        let mesh = Mesh::new(Config { enabled, client_ip, state_dir, drain, outbound: true });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { mesh, runtime, host: swarm.nodes[node].host.path.clone(), generation: 0 }
    }

    /// Makes a world file true on this node; nothing may fail.
    pub(crate) fn make(&mut self, world: &str) -> usize {
        let (outcome, notes) = self.try_make(world);
        assert!(
            outcome.failures.is_empty() && notes.is_empty(),
            "{:?} {notes:?}",
            outcome.failures
        );
        outcome.changes
    }

    /// Waits until the mesh asks to be applied again.
    pub(crate) fn hear(&self) {
        let bell = self.mesh.bell().unwrap();
        let heard = async { tokio::time::timeout(PATIENCE, bell.notified()).await };
        self.runtime.block_on(heard).unwrap();
    }

    /// Lets time pass as far as the mesh is concerned.
    pub(crate) fn later(&self, time: Duration) {
        self.runtime.block_on(async {
            tokio::time::pause();
            tokio::time::advance(time).await;
            tokio::time::resume();
        });
    }

    /// Lets the time pass after which the mesh wants to be applied again without a change.
    pub(crate) fn rest(&self) {
        let upkeep = self.mesh.upkeep().unwrap();
        self.later(upkeep);
    }

    /// What differs on this node from what a world file asks for.
    pub(crate) fn inspect(&mut self, world: &str) -> Vec<String> {
        let draft = registry::source::world::parse(world, "world.toml").unwrap();
        let (plan, _) = self.mesh.compile(&Arc::new(Snapshot::build(draft, self.generation)));
        let look = || vip::mesh::inspect(&plan, Enabled::Auto);
        Netns::open(&self.host).unwrap().run(look).unwrap().unwrap()
    }

    pub(crate) fn try_make(&mut self, world: &str) -> (Outcome, Notes) {
        let draft = registry::source::world::parse(world, "world.toml").unwrap();
        self.make_draft(draft)
    }

    /// As with an engine that does not tell yet who is on the ingress network.
    pub(crate) fn make_unread(&mut self, world: &str) -> (Outcome, Notes) {
        let mut draft = registry::source::world::parse(world, "world.toml").unwrap();
        draft.unread = draft.networks.iter().map(|it| it.id.clone()).collect();
        self.make_draft(draft)
    }

    fn make_draft(&mut self, draft: Draft) -> (Outcome, Notes) {
        self.generation += 1;
        let snapshot = Arc::new(Snapshot::build(draft, self.generation));
        let (plan, notes) = self.mesh.compile(&snapshot);
        let plan = Arc::new(plan);
        let mesh = &mut self.mesh;
        let netns = Netns::open(&self.host).unwrap();
        // The runtime's threads are born in the namespace of the one that makes them.
        let apply = || self.runtime.block_on(mesh.apply(&plan));
        (netns.run(apply).unwrap(), notes)
    }
}

/// A world file as each node of a Swarm has it.
pub(crate) struct Text(pub(crate) String);

impl Text {
    /// The ingress network as this node reaches it, and a service `web` with these ports.
    pub(crate) fn new(swarm: &Swarm, node: usize, ports: &str, labels: &str) -> Self {
        let doorway = swarm.nodes[node].doorway.path.display();
        Self(format!(
            "this_node = \"node{}\"\n\
             [[node]]\nname = \"node1\"\naddress = \"10.213.0.1\"\ningress = \"10.0.0.2\"\n\
             [[node]]\nname = \"node2\"\naddress = \"10.213.0.2\"\ningress = \"10.0.0.3\"\n\
             [[network]]\nname = \"ingress\"\nsubnet = \"10.0.0.0/24\"\ningress = true\n\
             reach = \"{doorway}\"\n\
             [[service]]\nname = \"web\"\nnetworks = [\"ingress\"]\nports = [{ports}]\n\
             labels = {{ {labels} }}\n",
            node + 1
        ))
    }

    pub(crate) fn task(mut self, name: &str, node: usize, last: u8, state: &str) -> Self {
        let text = format!(
            "[[task]]\nname = \"{name}\"\nservice = \"web\"\nstate = \"{state}\"\nnode = \"node{}\"\n\
             addresses = {{ ingress = \"10.0.0.{last}\" }}\n",
            node + 1
        );
        self.0.push_str(&text);
        self
    }

    pub(crate) fn sandbox(mut self, name: &str, place: &Place) -> Self {
        let text = format!(
            "[[sandbox]]\nname = \"{name}\"\nnetns = \"{}\"\nnetworks = [\"ingress\"]\n\
             addresses = {{ ingress = \"{}\" }}\n",
            place.path.display(),
            place.address
        );
        self.0.push_str(&text);
        self
    }
}

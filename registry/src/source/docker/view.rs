//! All that the engine, gossip and the kernel said last, as plain values: what [`convert`] turns
//! into a world.
//!
//! [`convert`]: crate::source::docker::convert

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::id::NetworkId;
use crate::model::PublishedPort;
use crate::source::docker::container::{self, Attached, Container};
use crate::source::docker::draining::{Question, Verdict};
use crate::source::docker::engine::{Engine, EngineNetwork, Role};
use crate::source::docker::folder::Folder;
use crate::source::docker::gossip::Gossip;
use crate::source::docker::swarm::{Swarm, SwarmTask};
use crate::source::docker::upstream::HostServers;

/// What was heard last from everybody.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct View {
    /// The engine.
    pub(crate) engine: Engine,
    /// Its networks, by id.
    pub(crate) networks: BTreeMap<NetworkId, EngineNetwork>,
    /// Its containers that are present, by id.
    pub(crate) containers: BTreeMap<String, Container>,
    /// Gossip, by network.
    pub(crate) gossip: BTreeMap<NetworkId, Gossip>,
    /// Managers: services, tasks, nodes; `None` until they were read once.
    pub(crate) swarm: Option<Swarm>,
    /// The engine's folder of network namespaces.
    pub(crate) folder: Folder,
    /// The cookie of the host's own namespace.
    pub(crate) host_cookie: Option<u64>,
    /// What the host's files say of name servers.
    pub(crate) servers: HostServers,
    /// Containers that were told to end and have not yet.
    pub(crate) farewell: BTreeSet<String>,
    /// Endpoints that the engine's own resolver gives no more though gossip still lists them.
    pub(crate) draining: BTreeSet<String>,
    /// Managers: ids of the Swarm's tasks that gossip listed once, as long as they exist.
    pub(crate) announced: BTreeSet<String>,
    /// What tasks publish that is not what their service publishes now, by the Swarm's id.
    pub(crate) former: BTreeMap<String, Vec<PublishedPort>>,
    /// What could not be understood: subject and what is wrong.
    pub(crate) unreadable: BTreeMap<String, String>,
}

/// Who tells of the Swarm.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Teller<'a> {
    /// There is no Swarm.
    Nobody,
    /// Gossip: this node is a worker, or its managers have not answered yet.
    Gossip,
    /// The managers.
    Managers(&'a Swarm),
}

impl View {
    /// Who tells of the Swarm.
    pub(crate) fn teller(&self) -> Teller<'_> {
        match (self.engine.role, &self.swarm) {
            (Role::Alone, _) => Teller::Nobody,
            (Role::Manager, Some(swarm)) => Teller::Managers(swarm),
            (Role::Manager | Role::Worker, _) => Teller::Gossip,
        }
    }

    /// The overlay networks that this node is on: those of which gossip can tell something.
    pub(crate) fn live_overlays(&self) -> impl Iterator<Item = &EngineNetwork> {
        let overlays = self.networks.values().filter(|it| it.is_overlay());
        overlays.filter(|it| match self.engine.role {
            Role::Alone => false,
            Role::Worker => true, // a worker's engine lists no others
            Role::Manager => {
                it.ingress || self.folder.has_overlay(&it.id) || self.has_container_on(&it.id)
            }
        })
    }

    /// The overlay networks of which only gossip can tell, and did not yet. What it told in a way
    /// that nobody understands will be no better later.
    pub(crate) fn unread(&self) -> BTreeSet<NetworkId> {
        if !matches!(self.teller(), Teller::Gossip) {
            return BTreeSet::new();
        }
        let is_told = |it: &NetworkId| {
            self.gossip.contains_key(it) || self.unreadable.contains_key(&format!("network {it}"))
        };
        self.live_overlays().map(|it| it.id.clone()).filter(|it| !is_told(it)).collect()
    }

    /// Takes over what was answered of a service's tasks; whether that changes anything. Nobody is
    /// asked about the ingress network, which a task may leave last: it drains there as well.
    pub(crate) fn note_draining(&mut self, question: &Question, verdict: &Verdict) -> bool {
        let service = self.gossip.get(&question.network);
        let service = service.and_then(|it| it.services.get(&question.service));
        let told: Vec<(String, bool)> = service
            .into_iter()
            .flat_map(|it| &it.tasks)
            .flat_map(|task| {
                let drains = verdict.draining.contains(&task.endpoint);
                let ingress = self.ingress_endpoint(&task.name);
                ingress.into_iter().chain([task.endpoint.clone()]).map(move |it| (it, drains))
            })
            .collect();
        let mut differs = false;
        for (endpoint, drains) in told {
            differs |= if drains {
                self.draining.insert(endpoint)
            } else {
                self.draining.remove(&endpoint)
            };
        }
        differs
    }

    /// A task's endpoint on the ingress network, where gossip lists one.
    fn ingress_endpoint(&self, task: &str) -> Option<String> {
        let ingress = self.networks.values().filter(|it| it.ingress);
        let gossip = ingress.filter_map(|it| self.gossip.get(&it.id));
        let mut tasks = gossip.flat_map(|it| it.services.values()).flat_map(|it| &it.tasks);
        tasks.find(|it| it.name == task).map(|it| it.endpoint.clone())
    }

    /// Remembers which of the managers' tasks gossip lists now.
    pub(crate) fn note_announced(&mut self) {
        let Some(swarm) = &self.swarm else { return };
        let listed = self.gossip.values().flat_map(Gossip::task_ids).map(str::to_owned);
        self.announced.extend(listed.filter(|it| swarm.tasks.contains_key(it)));
        self.announced.retain(|it| swarm.tasks.contains_key(it));
    }

    /// The networks of tasks that run by the managers' answers, but that gossip does not list.
    pub(crate) fn unannounced(&self, swarm: &Swarm) -> BTreeSet<NetworkId> {
        let gossiped: BTreeSet<&str> = self.gossip.values().flat_map(Gossip::task_ids).collect();
        let runs = |it: &&SwarmTask| it.is_wanted() && it.status.state == "running";
        let missing =
            swarm.tasks.values().filter(runs).filter(|it| !gossiped.contains(it.id.as_str()));
        let networks = missing.flat_map(|it| &it.networks_attachments);
        let networks = networks.map(|it| NetworkId::from(it.network.id.as_str()));
        networks.filter(|it| self.gossip.contains_key(it)).collect()
    }

    /// Where the kernel tells more of the ingress network than gossip does, if `network` is that:
    /// the overlay's own namespace, and on workers those of local tasks.
    pub(crate) fn mesh_places(
        &self,
        network: &NetworkId,
    ) -> Option<(Option<PathBuf>, Vec<PathBuf>)> {
        self.networks.get(network).filter(|it| it.ingress)?;
        let on = |it: &&Container| {
            it.running && it.attachments.iter().any(|it| it.network == network.as_str())
        };
        let tasks = self.containers.values().filter(on).filter_map(|it| it.netns.clone());
        let told = matches!(self.teller(), Teller::Managers(_));
        Some((self.folder.overlay(network), if told { Vec::new() } else { tasks.collect() }))
    }

    /// The Swarm task that a container is. Gossip tells of plain containers too: what it lists as
    /// one is no task, whatever it is called.
    pub(crate) fn swarm_task<'a>(&self, container: &'a Container) -> Option<&'a str> {
        let task = container.swarm_task()?;
        let is_plain = |it: &Attached| {
            let gossip = self.gossip.get(&it.network_id());
            gossip.is_some_and(|gossip| gossip.plain.iter().any(|one| one.endpoint == it.endpoint))
        };
        let mut placed = container.attachments.iter().filter(|it| !it.endpoint.is_empty());
        (!placed.any(is_plain)).then_some(task)
    }

    /// The containers of this node that are tasks of the Swarm service of that name.
    pub(crate) fn containers_of(&self, service: &str) -> impl Iterator<Item = &Container> {
        let says_so = move |it: &&Container| it.label(container::SWARM_SERVICE) == Some(service);
        self.containers.values().filter(says_so).filter(|it| self.swarm_task(it).is_some())
    }

    /// The container that is known by this id, name or short id, or was by this name.
    pub(crate) fn container(&self, reference: &str) -> Option<&Container> {
        let find = |is: &dyn Fn(&&Container) -> bool| self.containers.values().find(is);
        self.containers
            .get(reference)
            .or_else(|| find(&|it| it.name == reference || it.short_id() == reference))
            .or_else(|| find(&|it| it.former_names.contains(reference)))
    }

    fn has_container_on(&self, network: &NetworkId) -> bool {
        let attached = self.containers.values().flat_map(|it| &it.attachments);
        attached.into_iter().any(|it| it.network == network.as_str() && !it.addresses.is_empty())
    }
}

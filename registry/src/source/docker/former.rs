//! Tasks from before the ports of their service changed: the engine replaces them one after another,
//! and until then each publishes what its service published when it was made. It drops what comes
//! to other targets. Pure; the time is an argument.
//!
//! Invariants
//! - *only what is known*: of a task that may be of either kind nothing is told, and it counts as
//!   its service says;
//! - *not for ever*: what gossip leads to believe is forgotten [`SETTLED`] after the last of the
//!   service's tasks moved;
//! - *bounded*: tasks that are gone are forgotten; the ports of [`MOST`] are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::id::ServiceId;
use crate::model::{Protocol, PublishMode, PublishedPort};
use crate::source::docker::gossip::{Gossip, GossipService, GossipTask};
use crate::source::docker::swarm::Swarm;

/// Gossip tells the new ports with the first task that has them or later, by chance. Who came so
/// short before may be one of them.
const FRESH: Duration = Duration::from_secs(15);
/// An update that rests for longer is over, or paused.
const SETTLED: Duration = Duration::from_secs(60);
/// Tasks of services that are updated at the same time.
const MOST: usize = 10_000;

/// The tasks that are known to publish other ports than their service.
#[derive(Debug, Default)]
pub(crate) struct Former {
    tasks: BTreeMap<String, Vec<PublishedPort>>,
    heard: BTreeMap<String, Heard>,
}

/// What was heard by gossip of a service.
#[derive(Debug)]
struct Heard {
    /// Since when its tasks are listed, by id.
    since: BTreeMap<String, Instant>,
    /// When they or its ports changed last.
    moved: Instant,
}

impl Former {
    /// What each task publishes that is not what its service says, by the task's id.
    pub(crate) fn told(&self) -> &BTreeMap<String, Vec<PublishedPort>> {
        &self.tasks
    }

    /// The managers said `new` after `last`.
    pub(crate) fn managed(&mut self, last: &Swarm, new: &Swarm) {
        let changed = new.services.iter().filter_map(|(id, service)| {
            let before = last.services.get(id)?;
            (before.ports != service.ports && !before.ports.is_empty()).then_some((id, before))
        });
        let changed: BTreeMap<&str, _> = changed.map(|(id, it)| (id.as_str(), it)).collect();
        // One that was not running yet may have been made for the new ports.
        for task in last.tasks.values().filter(|it| it.status.state == "running") {
            if let Some(before) = changed.get(task.service.as_str()) {
                self.remember(&task.id, &before.ports);
            }
        }
        self.heard.clear();
        self.tasks.retain(|id, ports| {
            let task = new.tasks.get(id);
            let service =
                task.and_then(|it| new.services.get(&ServiceId::from(it.service.as_str())));
            service.is_some_and(|it| it.ports != *ports)
        });
    }

    /// Gossip about the ingress network said `new` after `last`.
    pub(crate) fn gossiped(&mut self, last: Option<&Gossip>, new: &Gossip, now: Instant) {
        for (name, service) in &new.services {
            let before = last.and_then(|it| it.services.get(name));
            let heard = self
                .heard
                .entry(name.clone())
                .or_insert_with(|| Heard { since: BTreeMap::new(), moved: now });
            let fresh: BTreeSet<String> = heard
                .since
                .iter()
                .filter(|it| now.saturating_duration_since(*it.1) < FRESH)
                .map(|it| it.0.clone())
                .collect();
            heard.follow(service, before, now);
            let is_over = now.saturating_duration_since(heard.moved) >= SETTLED;
            let Some(before) = before else { continue };
            for id in service.tasks.iter().filter_map(GossipTask::task_id) {
                let was_listed = before.tasks.iter().any(|it| it.task_id() == Some(id));
                if is_over {
                    self.tasks.remove(id);
                } else if was_listed
                    && before.ports != service.ports
                    && !before.ports.is_empty()
                    && !fresh.contains(id)
                {
                    self.remember(id, &both(before));
                }
            }
        }
        let listed: BTreeMap<&str, Vec<PublishedPort>> = new
            .services
            .values()
            .flat_map(|it| it.tasks.iter().filter_map(|task| Some((task.task_id()?, both(it)))))
            .collect();
        self.tasks.retain(|id, ports| listed.get(id.as_str()).is_some_and(|it| it != ports));
        self.heard.retain(|name, _| new.services.contains_key(name));
    }

    /// What it published first is what it publishes.
    fn remember(&mut self, task: &str, ports: &[PublishedPort]) {
        if self.tasks.len() < MOST && !self.tasks.contains_key(task) {
            self.tasks.insert(task.to_owned(), ports.to_vec());
        }
    }
}

impl Heard {
    fn follow(&mut self, service: &GossipService, before: Option<&GossipService>, now: Instant) {
        let ids: BTreeSet<&str> = service.tasks.iter().filter_map(GossipTask::task_id).collect();
        let left = self.since.len();
        self.since.retain(|it, _| ids.contains(it.as_str()));
        let mut moves =
            self.since.len() != left || before.is_none_or(|it| it.ports != service.ports);
        for id in ids {
            if !self.since.contains_key(id) {
                self.since.insert(id.to_owned(), now);
                moves = true;
            }
        }
        if moves {
            self.moved = now;
        }
    }
}

/// Gossip does not say which protocol a port has: the service's ports, with which these are
/// compared, do.
fn both(service: &GossipService) -> Vec<PublishedPort> {
    let pairs: BTreeSet<(u16, u16)> = service.ports.iter().copied().collect();
    let port = |(published, target), protocol| {
        let mode = PublishMode::Ingress;
        PublishedPort { published, target, protocol, mode, name: None }
    };
    let protocols = [Protocol::Tcp, Protocol::Udp];
    pairs.into_iter().flat_map(|pair| protocols.map(|it| port(pair, it))).collect()
}

#[cfg(test)]
mod tests;

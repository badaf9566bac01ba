//! Tasks from before the ports of their service changed: the engine replaces them one after another,
//! and until then each publishes what its service published when it was made. It drops what comes
//! to other targets. Pure; the time is an argument.
//!
//! Invariants
//! - *only what is known*: of a task that may be of either kind nothing is told, and it counts as
//!   its service says;
//! - *not for ever*: what gossip leads to believe of tasks is forgotten when it did not tell their
//!   ports for [`LATELY`]; as long as there are such tasks it tells them now and then;
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
/// Gossip tells the ports of tasks from before the more rarely the fewer they are, twice a minute at
/// least.
const LATELY: Duration = Duration::from_secs(300);
/// Tasks of services that are updated at the same time.
const MOST: usize = 10_000;
/// Ports that a service is told to have in turns while it is updated: those of two or three updates.
const MOST_TOLD: usize = 16;

/// The tasks that are known to publish other ports than their service.
#[derive(Debug, Default)]
pub(crate) struct Former {
    tasks: BTreeMap<String, Vec<PublishedPort>>,
    heard: BTreeMap<String, Heard>,
}

/// What was heard by gossip of a service.
#[derive(Debug, Default)]
struct Heard {
    /// Since when its tasks are listed, by id.
    since: BTreeMap<String, Instant>,
    /// When ports were told first, and when last, since the update began: only the present ones
    /// between updates.
    told: BTreeMap<Vec<(u16, u16)>, (Instant, Instant)>,
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
                remember(&mut self.tasks, &task.id, &before.ports);
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
            let heard = self.heard.entry(name.clone()).or_default();
            heard.follow(service, now);
            let lately = heard.told_lately(now);
            let Some(before) = before else { continue };
            let changed = before.ports != service.ports && !before.ports.is_empty();
            let listed = |id: &str| before.tasks.iter().any(|it| it.task_id() == Some(id));
            for id in service.tasks.iter().filter_map(GossipTask::task_id) {
                if changed && listed(id) && heard.is_from_before(id, service) {
                    remember(&mut self.tasks, id, &both(&before.ports));
                }
                if self.tasks.get(id).is_some_and(|it| !lately.contains(it)) {
                    self.tasks.remove(id);
                }
            }
            let mut ids = service.tasks.iter().filter_map(GossipTask::task_id);
            let is_through = heard.is_newest(service) && !ids.any(|it| self.tasks.contains_key(it));
            if is_through {
                heard.told.retain(|it, _| *it == service.ports);
            }
        }
        let listed: BTreeMap<&str, Vec<PublishedPort>> = new
            .services
            .values()
            .flat_map(|it| {
                it.tasks.iter().filter_map(|task| Some((task.task_id()?, both(&it.ports))))
            })
            .collect();
        self.tasks.retain(|id, ports| listed.get(id.as_str()).is_some_and(|it| it != ports));
        self.heard.retain(|name, _| new.services.contains_key(name));
    }
}

/// What it published first is what it publishes.
fn remember(tasks: &mut BTreeMap<String, Vec<PublishedPort>>, id: &str, ports: &[PublishedPort]) {
    if tasks.len() < MOST && !tasks.contains_key(id) {
        tasks.insert(id.to_owned(), ports.to_vec());
    }
}

impl Heard {
    /// The ports that were told lately.
    fn told_lately(&self, now: Instant) -> BTreeSet<Vec<PublishedPort>> {
        let is_late = |last: Instant| now.saturating_duration_since(last) < LATELY;
        self.told.iter().filter(|(_, (_, last))| is_late(*last)).map(|it| both(it.0)).collect()
    }

    /// Whether a task was listed long before the ports that the service has now were told, not only
    /// before they were told again: gossip tells old and new ones in turns.
    fn is_from_before(&self, task: &str, service: &GossipService) -> bool {
        let (since, told) = (self.since.get(task), self.told.get(&service.ports));
        since
            .zip(told)
            .is_some_and(|(since, (told, _))| told.saturating_duration_since(*since) >= FRESH)
    }

    /// Whether no other ports were told first later.
    fn is_newest(&self, service: &GossipService) -> bool {
        let first = |it: &(Instant, Instant)| it.0;
        self.told.values().map(first).max() == self.told.get(&service.ports).map(first)
    }

    fn follow(&mut self, service: &GossipService, now: Instant) {
        let ids: BTreeSet<&str> = service.tasks.iter().filter_map(GossipTask::task_id).collect();
        self.since.retain(|it, _| ids.contains(it.as_str()));
        for id in ids {
            if !self.since.contains_key(id) {
                self.since.insert(id.to_owned(), now);
            }
        }
        if self.told.len() >= MOST_TOLD {
            self.told.clear();
        }
        self.told.entry(service.ports.clone()).or_insert((now, now)).1 = now;
    }
}

/// Gossip does not say which protocol a port has: the service's ports, with which these are
/// compared, do.
fn both(ports: &[(u16, u16)]) -> Vec<PublishedPort> {
    let pairs: BTreeSet<(u16, u16)> = ports.iter().copied().collect();
    let port = |(published, target), protocol| {
        let mode = PublishMode::Ingress;
        PublishedPort { published, target, protocol, mode, name: None }
    };
    let protocols = [Protocol::Tcp, Protocol::Udp];
    pairs.into_iter().flat_map(|pair| protocols.map(|it| port(pair, it))).collect()
}

#[cfg(test)]
mod tests;

//! What an answer changes, and what it makes due next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::id::NetworkId;
use crate::source::docker::agenda::Job;
use crate::source::docker::container::Container;
use crate::source::docker::draining::{self, Hot};
use crate::source::docker::engine::{Engine, Role};
use crate::source::docker::error::EngineError;
use crate::source::docker::folder::{self, Folder};
use crate::source::docker::follow::answer::{self, Answer, Context, Finished};
use crate::source::docker::follow::{
    DRAINING_PAUSE, Follower, GATHER, HOT, PENDING, SETTLE, SWARM_ECHO, SWARM_PAUSES, Sign,
    UPDATING_PAUSE,
};
use crate::source::docker::gossip::Gossip;
use crate::source::docker::host::Host;
use crate::source::docker::read::Containers;
use crate::source::docker::swarm::Swarm;
use crate::source::docker::view::{Teller, View};

impl<H: Host> Follower<'_, H> {
    /// Starts what is due.
    pub(super) fn start_jobs(&mut self, now: Instant) {
        for job in self.agenda.start(now.into_std()) {
            let context = self.context(&job, now);
            self.sequence += 1;
            let (sequence, begun) = (self.sequence, now);
            let (client, host) = (Arc::clone(&self.client), Arc::clone(&self.host));
            self.jobs.spawn(async move {
                let answer = answer::answer(client, host, job.clone(), context).await;
                Finished { job, sequence, begun, answer }
            });
        }
    }

    fn context(&mut self, job: &Job, now: Instant) -> Context {
        match job {
            Job::Swarm => {
                let known = self.view.swarm.iter().flat_map(|it| it.tasks.keys());
                Context::Known(known.cloned().collect())
            }
            Job::Containers => {
                let stopped = self.view.containers.values().filter(|it| !it.is_present());
                Context::Known(stopped.map(|it| it.id.clone()).collect())
            }
            Job::Folder => Context::Folder(self.view.folder.path.clone()),
            Job::Draining => {
                let is_hot = |at: &Instant| now.duration_since(*at) < HOT;
                self.moved.retain(|_, at| is_hot(at));
                let networks = self.chases.iter().filter(|(_, (_, at))| is_hot(at));
                let hot = Hot {
                    services: self.moved.keys().cloned().collect(),
                    networks: networks.map(|(id, _)| id.clone()).collect(),
                };
                Context::Questions(draining::round(&self.view, &hot, &mut self.turns))
            }
            Job::Host => {
                // Before it is read, so that no change falls in between.
                let config = self.view.servers.config_file.as_deref();
                self.signs.watch_files(&self.host.files().with_config(config));
                Context::Servers(self.view.servers.clone())
            }
            Job::Info | Job::Networks | Job::Container(_) | Job::Place(..) | Job::Namespace(_) => {
                Context::None
            }
            Job::Gossip(network) => self.view.mesh_places(network).map_or(Context::None, |it| {
                let (overlay, tasks) = it;
                Context::Mesh(overlay, tasks)
            }),
        }
    }

    /// Takes in what a job found out.
    pub(super) fn apply(&mut self, finished: Finished, now: Instant) {
        let Finished { job, sequence, begun, answer } = finished;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.has_failed(&job, &error, now),
        };
        if !self.agenda.succeeded(&job) {
            return; // nobody wants to know any more
        }
        if self.trouble.remove(&job).is_some() {
            self.changed(now, GATHER);
        }
        match answer {
            Answer::Info(engine) => return self.apply_info(engine, now),
            Answer::Host(servers, cookie) => {
                // A configuration file that was not known to be there is not watched yet.
                let elsewhere = servers.config_file != self.view.servers.config_file;
                self.update(now, |view| {
                    (view.servers, view.host_cookie) = (servers, cookie);
                });
                self.want(Job::Host, if elsewhere { now } else { now + self.poll });
            }
            Answer::Networks(networks) => {
                let networks = networks.into_iter().map(|it| (it.id.clone(), it)).collect();
                self.update(now, |view| view.networks = networks);
                self.want(Job::Networks, now + self.poll);
                self.align(now);
            }
            Answer::Containers(all) => self.apply_containers(all, sequence, now),
            Answer::Container(container) => {
                let Job::Container(id) = &job else { return };
                self.apply_container(id, container.map(|it| *it), sequence, now);
                return; // nothing waits for a single container
            }
            Answer::Place(place) => {
                let Job::Place(network, id) = &job else { return };
                let is_old = self.known_at.get(id).is_some_and(|it| *it > sequence);
                if let Some(place) = place.filter(|_| !is_old) {
                    self.known_at.insert(id.clone(), sequence);
                    self.apply_place(network, id, place, now);
                }
                return;
            }
            Answer::Namespace(seen) => {
                let Job::Namespace(path) = &job else { return };
                self.apply_namespace(path, seen, now);
                return;
            }
            Answer::Folder(folder) => self.apply_folder(folder, now),
            Answer::Gossip(network, gossip) => self.apply_gossip(&network, gossip, now),
            Answer::Swarm(swarm) => self.apply_swarm(swarm, begun, now),
            Answer::Draining(answers) => self.apply_draining(&answers, now),
        }
        self.has_answered(job, now);
    }

    fn has_answered(&mut self, job: Job, now: Instant) {
        if self.answered.insert(job) && !self.publishing.was_ready {
            self.changed(now, Duration::ZERO); // perhaps the last one that was missing
        }
    }

    fn has_failed(&mut self, job: &Job, error: &EngineError, now: Instant) {
        if !self.agenda.failed(job, now.into_std()) {
            return;
        }
        if error.is_unavailable() {
            self.want(Job::Info, now); // perhaps no manager any more
        }
        if matches!(job, Job::Container(_) | Job::Place(..)) && !error.is_unreadable() {
            return tracing::debug!(?job, "{error}"); // it starts slowly, and is asked again
        }
        let subject = match job {
            Job::Gossip(network) => Some(format!("network {network}")),
            Job::Container(id) => Some(format!("container {id}")),
            Job::Info
            | Job::Host
            | Job::Networks
            | Job::Containers
            | Job::Place(..)
            | Job::Namespace(_)
            | Job::Folder
            | Job::Swarm
            | Job::Draining => None,
        };
        if let Some(subject) = subject.filter(|_| error.is_unreadable()) {
            // Asking again gives the same: a diagnostic on that one, and all others go on.
            self.view.unreadable.insert(subject, error.to_string());
            self.agenda.put_off(job.clone(), (now + self.poll).into_std());
            self.has_answered(job.clone(), now);
            return self.changed(now, GATHER);
        }
        let reason = error.to_string();
        if self.trouble.get(job) != Some(&reason) {
            tracing::debug!(?job, "{reason}");
            self.trouble.insert(job.clone(), reason);
            self.changed(now, GATHER);
        } else if !self.publishing.was_ready {
            self.changed(now, GATHER); // perhaps it was waited for long enough
        }
    }

    /// Changes the view, and has it published if it differs.
    fn update(&mut self, now: Instant, change: impl FnOnce(&mut View)) {
        change(&mut self.view);
        self.changed(now, GATHER);
    }

    fn apply_info(&mut self, engine: Engine, now: Instant) {
        let pending = engine.is_pending && now.duration_since(self.begun) < PENDING;
        if pending {
            // What it says of the Swarm now is not the truth but a beginning.
            self.want(Job::Info, now + SWARM_PAUSES.0);
            self.trouble.insert(Job::Info, "the engine is still joining its Swarm".to_owned());
            return self.changed(now, GATHER);
        }
        let was = self.view.engine.role;
        self.update(now, |view| view.engine = engine);
        self.want(Job::Info, now + self.poll);
        if self.view.engine.role != was || !self.answered.contains(&Job::Info) {
            match self.view.engine.role {
                Role::Manager => self.want_swarm(now),
                Role::Worker | Role::Alone => {
                    self.agenda.forget(&Job::Swarm);
                    self.view.swarm = None;
                }
            }
            self.want(Job::Networks, now);
            if self.publishing.was_ready {
                self.want(Job::Draining, now);
            }
        }
        self.align(now);
        self.has_answered(Job::Info, now);
    }

    fn apply_containers(&mut self, all: Containers, sequence: u64, now: Instant) {
        let known = |(id, read): (String, Container)| {
            let after = read.after(self.view.containers.get(&id));
            (id, after)
        };
        let mut containers: BTreeMap<_, _> = all.inspected.into_iter().map(known).collect();
        self.known_at.retain(|_, at| *at > sequence);
        for id in self.known_at.keys() {
            containers.remove(id); // what is known of it is newer, also that it is gone
        }
        for (id, known) in &self.view.containers {
            let stays = all.stopped.contains(id) || all.slow.contains(id);
            if stays || self.known_at.contains_key(id) {
                containers.entry(id.clone()).or_insert_with(|| known.clone());
            }
        }
        for id in all.slow {
            self.want(Job::Container(id), now);
        }
        let unreadable = all.unreadable;
        self.update(now, |view| {
            view.containers = containers;
            view.unreadable.retain(|subject, _| !subject.starts_with("container "));
            view.unreadable.extend(unreadable);
        });
        self.want(Job::Containers, now + self.poll);
        self.find_folder(now);
        self.want_unknown_networks(now);
        self.align(now);
    }

    fn apply_container(&mut self, id: &str, read: Option<Container>, sequence: u64, now: Instant) {
        if self.known_at.get(id).is_some_and(|at| *at > sequence) {
            return; // it died meanwhile
        }
        self.known_at.insert(id.to_owned(), sequence);
        let known = self.view.containers.get(id);
        let read = read.map(|it| it.after(known));
        if known == read.as_ref() {
            return;
        }
        let is_new_place =
            read.as_ref().is_some_and(|it| it.cookie != known.and_then(|it| it.cookie));
        match read {
            Some(container) => drop(self.view.containers.insert(id.to_owned(), container)),
            None => drop(self.view.containers.remove(id)),
        }
        // A container may ask for names within milliseconds of its birth.
        self.changed(now, if is_new_place { Duration::ZERO } else { GATHER });
        self.find_folder(now);
        self.want_unknown_networks(now);
        self.align(now);
    }

    /// A container shows where the engine keeps its namespaces.
    fn find_folder(&mut self, now: Instant) {
        let mut netns = self.view.containers.values().filter_map(|it| it.netns.as_deref());
        let Some(path) = netns.find_map(folder::of_sandbox) else { return };
        if path != self.view.folder.path {
            self.view.folder = Folder::new(path, []);
            self.answered.remove(&Job::Folder);
            self.want(Job::Folder, now);
        }
    }

    /// A container on a network that was never listed: the list is old.
    pub(super) fn want_unknown_networks(&mut self, now: Instant) {
        let attached = self.view.containers.values().flat_map(|it| &it.attachments);
        let unknown = attached.into_iter().any(|it| {
            let named = it.addresses.is_empty(); // host, none
            !named && !self.view.networks.contains_key(&it.network_id())
        });
        if unknown {
            self.want(Job::Networks, now);
        }
    }

    fn apply_folder(&mut self, folder: Folder, now: Instant) {
        if folder.path == self.view.folder.path && folder != self.view.folder {
            self.update(now, |view| view.folder = folder);
            self.seek_births(now);
        }
        self.want(Job::Folder, now + self.poll);
        self.align(now);
    }

    fn apply_gossip(
        &mut self,
        network: &NetworkId,
        answer: Option<(Gossip, Vec<String>)>,
        now: Instant,
    ) {
        // Of a network that is gone nothing is remembered, nor of the ports that were published.
        let has_names = self.view.networks.get(network).is_some_and(|it| !it.ingress);
        let remembers = answer.is_some() && has_names;
        let (mut gossip, unreadable) = answer.unwrap_or_default();
        if let Some(last) = self.view.gossip.get(network) {
            self.renewed.settle(&mut gossip, network, last);
        }
        if remembers {
            let last = self.view.gossip.get(network);
            self.absent.add_to(&mut gossip, network, last, now.into_std());
        } else {
            self.absent.forget(network);
        }
        self.heed_ports(network, &gossip, now);
        let differs = self.view.gossip.get(network) != Some(&gossip);
        if let Some(last) = self.view.gossip.get(network) {
            let moved =
                gossip.services.iter().filter(|(name, it)| last.services.get(*name) != Some(it));
            self.moved.extend(moved.map(|(name, _)| ((network.clone(), name.clone()), now)));
        }
        let again = self
            .chases
            .get_mut(network)
            .and_then(|(chase, _)| chase.was_read(now.into_std(), differs));
        let floor = (now + self.poll).into_std();
        self.agenda.want(Job::Gossip(network.clone()), again.unwrap_or(floor));
        let subject = format!("network {network}");
        if differs {
            // A task joins its networks one after the other: those of which a change is expected
            // are next.
            let expected =
                self.chases.iter().filter(|(it, (chase, _))| *it != network && chase.is_on());
            for other in expected.map(|(it, _)| it.clone()).collect::<Vec<_>>() {
                self.want(Job::Gossip(other), now);
            }
        }
        if differs || self.view.unreadable.contains_key(&subject) || !unreadable.is_empty() {
            self.update(now, |view| {
                view.gossip.insert(network.clone(), gossip);
                view.note_announced();
                view.unreadable.remove(&subject);
                if !unreadable.is_empty() {
                    let wrong = format!("cannot understand gossip about {}", unreadable.join(", "));
                    view.unreadable.insert(subject, wrong);
                }
            });
            let listed: BTreeSet<String> = self.listed_endpoints();
            self.view.draining.retain(|it| listed.contains(it));
        }
    }

    /// Where only gossip tells which ports services publish: which tasks are from before.
    fn heed_ports(&mut self, network: &NetworkId, gossip: &Gossip, now: Instant) {
        let is_ingress = self.view.networks.get(network).is_some_and(|it| it.ingress);
        if !is_ingress || !matches!(self.view.teller(), Teller::Gossip) {
            return;
        }
        self.former.gossiped(self.view.gossip.get(network), gossip, now.into_std());
        if *self.former.told() != self.view.former {
            let former = self.former.told().clone();
            self.update(now, |view| view.former = former);
        }
    }

    fn listed_endpoints(&self) -> BTreeSet<String> {
        let services = self.view.gossip.values().flat_map(|it| it.services.values());
        services.flat_map(|it| &it.tasks).map(|it| it.endpoint.clone()).collect()
    }

    fn apply_swarm(&mut self, swarm: Swarm, begun: Instant, now: Instant) {
        // However large the Swarm, reading it takes no more than a third of the time.
        self.swarm_read = Some(now + (now - begun) * 2);
        let gossiped = self.view.gossip.values().flat_map(|it| it.task_ids()).collect();
        let swarm = match &self.view.swarm {
            Some(last) => swarm.keeping(last, &gossiped),
            None => swarm,
        };
        let (first, longest) = SWARM_PAUSES;
        let is_updating = swarm.is_updating();
        let longest = if is_updating { UPDATING_PAUSE } else { longest };
        let differs = self.view.swarm.as_ref() != Some(&swarm);
        let pause = if differs { first } else { self.swarm_pause };
        self.swarm_pause = (pause * 2).min(longest);
        let is_signed = self.swarm_signed.is_some_and(|at| now.duration_since(at) < SWARM_ECHO);
        let is_moving = is_updating || is_signed || swarm.is_moving();
        let next = if is_moving { pause.max((now - begun) * 2) } else { self.poll };
        self.want(Job::Swarm, now + next);
        if differs {
            // Gossip may be as new as this, and not read since.
            for network in self.view.unannounced(&swarm) {
                self.sign(&network, now);
            }
            if let Some(last) = &self.view.swarm {
                self.former.managed(last, &swarm);
            }
            let former = self.former.told().clone();
            self.update(now, |view| {
                view.former = former;
                view.swarm = Some(swarm);
                view.note_announced();
            });
        }
    }

    fn apply_draining(&mut self, answers: &[(draining::Question, Vec<Ipv4Addr>)], now: Instant) {
        let is_told = matches!(self.view.teller(), Teller::Gossip);
        self.want(Job::Draining, now + if is_told { DRAINING_PAUSE } else { self.poll });
        if !is_told {
            // The managers tell who drains, and nobody would take back what was heard before.
            if !self.view.draining.is_empty() {
                self.update(now, |view| view.draining.clear());
            }
            return;
        }
        for (question, answer) in answers {
            let verdict = draining::judge(&self.view, question, answer);
            if verdict.is_news {
                self.sign(&question.network, now);
            }
            if self.view.note_draining(question, &verdict) {
                self.changed(now, GATHER);
            }
        }
    }

    /// Has gossip read and neighbours watched on exactly the overlays that this node is on.
    pub(super) fn align(&mut self, now: Instant) {
        let live: BTreeSet<NetworkId> = self.view.live_overlays().map(|it| it.id.clone()).collect();
        let known = self.agenda.jobs().filter_map(|it| {
            if let Job::Gossip(network) = it { Some(network.clone()) } else { None }
        });
        let known: BTreeSet<NetworkId> = known.collect();
        for network in live.difference(&known) {
            self.agenda.want(Job::Gossip(network.clone()), now.into_std());
        }
        for network in known.difference(&live) {
            let job = Job::Gossip(network.clone());
            self.agenda.forget(&job);
            self.trouble.remove(&job);
            self.answered.remove(&job);
            self.chases.remove(network);
            self.renewed.forget(network);
            self.absent.forget(network);
            self.update(now, |view| drop(view.gossip.remove(network)));
        }
        let overlay = |it: &NetworkId| Some((it.clone(), self.view.folder.overlay(it)?));
        let overlays = live.iter().filter_map(overlay).collect();
        self.signs.watch(&*self.host, &self.view.folder.path, overlays);
    }

    /// What a sign from the kernel makes due.
    pub(super) fn heed(&mut self, sign: &Sign, now: Instant) {
        match sign {
            Sign::Neighbours(network) => self.sign(network, now),
            Sign::Folder => self.want(Job::Folder, now),
            Sign::Files => self.want(Job::Host, now + SETTLE),
            Sign::WatchEnded(network) => {
                let pause = self.signs.ended(network);
                self.want(Job::Folder, now + pause);
            }
        }
    }
}

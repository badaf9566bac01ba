//! Follows one engine for as long as the connection lasts: every event and every sign of change
//! makes something due to be read, every answer changes the view, and the view is published.
//!
//! Invariants
//! - *whole first*: nothing is published before everything was read once;
//! - *last good stays*: what cannot be read keeps its last answer, and the world says so;
//! - *no answer from the past*: an answer that was under way when a container died does not bring
//!   it back.

mod answer;
mod apply;
mod birth;
mod signs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::id::NetworkId;
use crate::source::Publisher;
use crate::source::docker::Config;
use crate::source::docker::agenda::{Agenda, Job};
use crate::source::docker::chase::Chase;
use crate::source::docker::convert;
use crate::source::docker::draining::{Asked, Turns};
use crate::source::docker::engine::Role;
use crate::source::docker::error::EngineError;
use crate::source::docker::events::{self, Effect, Event};
use crate::source::docker::follow::answer::Finished;
use crate::source::docker::follow::signs::Signs;
use crate::source::docker::former::Former;
use crate::source::docker::gossip::Gossip;
use crate::source::docker::gossip::absent::Absent;
use crate::source::docker::gossip::renewed::Renewed;
use crate::source::docker::host::Host;
use crate::source::docker::read::Client;
use crate::source::docker::view::{Teller, View};

/// How long a burst of changes is gathered before it is published.
const GATHER: Duration = Duration::from_millis(2);
/// The shortest time between two readings of services, tasks and nodes.
const SWARM_SPACING: Duration = Duration::from_millis(100);
/// How soon they are read again while tasks are on their way; the pause doubles while nothing
/// changes (a task may wait for a node for days).
const SWARM_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// For how long after a sign they are read again: a node tells its managers of a task's end later
/// than it takes the task off its networks, and no event comes of it.
const SWARM_ECHO: Duration = Duration::from_secs(3);
/// The longest of these pauses while a service is updated: its next task is taken out two seconds
/// before it is stopped, and no event says so.
const UPDATING_PAUSE: Duration = Duration::from_millis(500);
/// How often the engine's resolver is asked about draining tasks: Swarm waits 2 s before it stops
/// one.
const DRAINING_PAUSE: Duration = Duration::from_millis(500);
/// For how long after a sign a network's services are asked about before others, and one whose
/// gossip changed before those.
const HOT: Duration = Duration::from_secs(60);
/// How often it is looked whether everything is there, or was waited for long enough.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long who writes the host's files is left alone: many empty a file before they write it.
const SETTLE: Duration = Duration::from_millis(100);
/// How long a container that was told to end, and does not, counts as ending.
const FAREWELL: Duration = Duration::from_secs(600);
/// How long a node of a Swarm may be on its way into it before what it says is taken as it is, and
/// how long the Swarm's answers are waited for when they fail.
const PENDING: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// What is known beyond one connection, because the next may not be told of it for a while.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Services that gossip forgot.
    absent: Absent,
    /// What gossip said last.
    gossip: BTreeMap<NetworkId, Gossip>,
}

/// One connection's worth of following.
pub(crate) struct Follower<'a, H> {
    client: Arc<Client>,
    host: Arc<H>,
    publisher: &'a Publisher,
    poll: Duration,
    begun: Instant,
    view: View,
    agenda: Agenda,
    jobs: JoinSet<Finished>,
    signs: Signs,
    /// Counts starts of jobs and what events say of containers, to tell which came first.
    sequence: u64,
    /// As of which of them each container is known.
    known_at: BTreeMap<String, u64>,
    /// How often each namespace was looked into that is nobody's yet.
    looks: BTreeMap<PathBuf, u32>,
    answered: BTreeSet<Job>,
    trouble: BTreeMap<Job, String>,
    chases: BTreeMap<NetworkId, (Chase, Instant)>,
    farewells: BTreeMap<String, Instant>,
    /// Services that gossip forgot.
    absent: &'a mut Absent,
    /// Services that gossip takes for what they were.
    renewed: Renewed,
    /// Tasks from before the ports of their service changed.
    former: Former,
    swarm_read: Option<Instant>,
    swarm_pause: Duration,
    swarm_signed: Option<Instant>,
    /// When gossip about a service changed last, for [`HOT`].
    moved: BTreeMap<Asked, Instant>,
    turns: Turns,
    publishing: Publishing,
}

/// When to publish next.
#[derive(Debug)]
struct Publishing {
    due: Option<Instant>,
    not_before: Instant,
    was_ready: bool,
    /// The trouble that was logged last.
    said: Option<String>,
}

/// Follows the engine behind `client` until `stop`, or until the connection breaks.
pub(crate) async fn follow<H: Host>(
    client: Client,
    host: Arc<H>,
    config: &Config,
    publisher: &Publisher,
    kept: &mut Kept,
    stop: &CancellationToken,
) -> Result<(), EngineError> {
    let Kept { absent, gossip } = kept;
    let (engine, since) = client.info().await?;
    let events = pin!(client.events(since.as_deref()));
    let mut follower = Follower::new(client, host, config, publisher, absent);
    follower.view.engine = engine;
    follower.view.gossip = std::mem::take(gossip);
    let ended = follow_events(&mut follower, events, stop).await;
    *gossip = follower.view.gossip;
    ended
}

async fn follow_events<H: Host>(
    follower: &mut Follower<'_, H>,
    mut events: Pin<&mut (impl Stream<Item = Result<Event, EngineError>> + ?Sized)>,
    stop: &CancellationToken,
) -> Result<(), EngineError> {
    let mut signs = follower.signs.take_receiver();
    loop {
        let now = Instant::now();
        follower.start_jobs(now);
        follower.publish_if_due(now);
        let wake = follower.next_wake();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = events.next() => match event {
                Some(event) => follower.hear(&event?, Instant::now()),
                None => return Err(EngineError::Ended),
            },
            Some(ended) = follower.jobs.join_next() => match ended {
                Ok(finished) => follower.apply(finished, Instant::now()),
                Err(source) => {
                    let source = Box::new(source);
                    return Err(EngineError::Broken { request: "a reading", source });
                }
            },
            Some(sign) = signs.recv() => follower.heed(&sign, Instant::now()),
            () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
        }
    }
}

impl<'a, H: Host> Follower<'a, H> {
    fn new(
        client: Client,
        host: Arc<H>,
        config: &Config,
        publisher: &'a Publisher,
        absent: &'a mut Absent,
    ) -> Self {
        let now = Instant::now();
        let mut agenda = Agenda::default();
        for job in [Job::Info, Job::Host, Job::Networks, Job::Containers, Job::Folder] {
            agenda.want(job, now.into_std());
        }
        Self {
            client: Arc::new(client),
            host,
            publisher,
            poll: config.poll_interval.max(MIN_POLL),
            begun: now,
            view: View::default(),
            agenda,
            jobs: JoinSet::new(),
            signs: Signs::new(),
            sequence: 0,
            known_at: BTreeMap::new(),
            looks: BTreeMap::new(),
            answered: BTreeSet::new(),
            trouble: BTreeMap::new(),
            chases: BTreeMap::new(),
            farewells: BTreeMap::new(),
            absent,
            renewed: Renewed::default(),
            former: Former::default(),
            swarm_read: None,
            swarm_pause: SWARM_PAUSES.0,
            swarm_signed: None,
            moved: BTreeMap::new(),
            turns: Turns::default(),
            publishing: Publishing { due: None, not_before: now, was_ready: false, said: None },
        }
    }

    /// What an event makes due.
    fn hear(&mut self, event: &Event, now: Instant) {
        tracing::debug!(kind = event.kind, action = event.action, subject = event.subject, "event");
        for effect in events::effects(event) {
            match effect {
                Effect::Container(id) => self.want(Job::Container(id), now),
                Effect::Connected(network, id) => {
                    self.want(Job::Place(NetworkId::from(network), id), now);
                }
                Effect::Died(id) => self.has_died(&id, now),
                Effect::Destroyed(id) => {
                    self.is_known_now(&id);
                    self.farewells.remove(&id);
                    if self.view.containers.remove(&id).is_some() {
                        self.changed(now, GATHER);
                    }
                }
                Effect::Signalled(id, signal) => self.was_signalled(id, &signal, now),
                Effect::Networks => self.want(Job::Networks, now),
                Effect::Endpoints(network) => self.sign(&NetworkId::from(network), now),
                Effect::Swarm => self.want_swarm(now),
                Effect::Info => {
                    self.want(Job::Info, now);
                    self.want(Job::Host, now);
                }
            }
        }
    }

    fn has_died(&mut self, id: &str, now: Instant) {
        self.is_known_now(id);
        self.farewells.remove(id);
        let Some(container) = self.view.containers.get_mut(id) else { return };
        container.has_died();
        self.changed(now, Duration::ZERO);
    }

    fn was_signalled(&mut self, id: String, signal: &str, now: Instant) {
        let container = self.view.containers.get(&id);
        if container.is_some_and(|it| events::is_farewell(signal, &it.stop_signal)) {
            self.farewells.insert(id, now);
            self.changed(now, GATHER);
        }
    }

    /// Something happened on an overlay network: its gossip is worth reading.
    fn sign(&mut self, network: &NetworkId, now: Instant) {
        if !self.view.gossip.contains_key(network) && !self.chases.contains_key(network) {
            return; // no overlay, or not known yet and read as soon as it is
        }
        let fresh = || (Chase::new(now.into_std()), now);
        let (chase, signed) = self.chases.entry(network.clone()).or_insert_with(fresh);
        *signed = now;
        let at = chase.signed(now.into_std());
        self.agenda.want(Job::Gossip(network.clone()), at);
        self.want_swarm(now);
    }

    fn want_swarm(&mut self, now: Instant) {
        if self.view.engine.role == Role::Manager {
            self.swarm_pause = SWARM_PAUSES.0;
            self.swarm_signed = Some(now);
            let at = self.swarm_read.map_or(now, |read| now.max(read + SWARM_SPACING));
            self.want(Job::Swarm, at);
        }
    }

    fn want(&mut self, job: Job, at: Instant) {
        self.agenda.want(job, at.into_std());
    }

    /// Of this container only what is read from now on counts.
    fn is_known_now(&mut self, id: &str) {
        self.sequence += 1;
        self.known_at.insert(id.to_owned(), self.sequence);
    }

    /// The view changed; it is published after `gather`.
    fn changed(&mut self, now: Instant, gather: Duration) {
        let at = now + gather;
        self.publishing.due = Some(self.publishing.due.map_or(at, |due| due.min(at)));
    }

    fn next_wake(&self) -> Option<Instant> {
        let job = self.agenda.next().map(Instant::from_std);
        let publish = self.publishing.due.map(|it| it.max(self.publishing.not_before));
        job.into_iter().chain(publish).min()
    }

    fn publish_if_due(&mut self, now: Instant) {
        let due = self.publishing.due.is_some_and(|it| it.max(self.publishing.not_before) <= now);
        if !due {
            return;
        }
        if !self.is_ready() {
            self.publishing.due = Some(now + LOOK_AGAIN); // an answer makes it due at once
            return;
        }
        self.publishing.due = None;
        self.farewells.retain(|_, told| now.duration_since(*told) < FAREWELL);
        self.view.farewell = self.farewells.keys().cloned().collect();
        let required = self.required();
        let trouble = self.trouble.iter().find(|(job, _)| required.contains(job));
        let stale = trouble.map(|(_, it)| it.clone());
        if let Some(reason) = stale.as_ref().filter(|_| stale != self.publishing.said) {
            tracing::warn!("{reason}");
        }
        self.publishing.said.clone_from(&stale);
        // Of networks that went while the engine was away nothing is told any more.
        let live: BTreeSet<_> = self.view.live_overlays().map(|it| it.id.clone()).collect();
        self.view.gossip.retain(|it, _| live.contains(it));
        let begun = Instant::now();
        if self.publisher.publish_as(convert::draft(&self.view), stale) {
            let generation = self.publisher.current().generation();
            tracing::debug!(generation, took = ?begun.elapsed(), "published");
        }
        // At most a third of one processor goes into publishing.
        let cost = begun.elapsed();
        self.publishing.not_before = begun + cost * 3;
    }

    /// Whether everything was read once, so that there is a world to publish.
    fn is_ready(&mut self) -> bool {
        // What the Swarm does not tell for long must not keep this node's own containers waiting:
        // gossip tells most of it, and the world says what is missing.
        let waited = self.begun.elapsed() > PENDING;
        let forgone = |it: &Job| {
            let of_swarm = matches!(it, Job::Swarm | Job::Gossip(_));
            waited && of_swarm && self.trouble.contains_key(it)
        };
        let answered = |it: &Job| self.answered.contains(it) || forgone(it);
        let ready = || self.required().iter().all(answered);
        if !self.publishing.was_ready && ready() {
            self.publishing.was_ready = self.knows_who_drains();
        } else if let (false, Some(trouble)) =
            (self.publishing.was_ready, self.trouble.values().next())
        {
            self.publisher.mark_stale(trouble);
        }
        self.publishing.was_ready
    }

    /// Whether it is known who drains, where that has to be asked. Needs all the rest to ask.
    fn knows_who_drains(&mut self) -> bool {
        if self.agenda.jobs().all(|it| *it != Job::Draining) {
            self.want(Job::Draining, Instant::now());
        }
        !matches!(self.view.teller(), Teller::Gossip) || self.answered.contains(&Job::Draining)
    }

    /// What a whole world needs.
    fn required(&self) -> BTreeSet<Job> {
        let swarm = (self.view.engine.role == Role::Manager).then_some(Job::Swarm);
        let gossip = self.view.live_overlays().map(|it| Job::Gossip(it.id.clone()));
        [Job::Info, Job::Host, Job::Networks, Job::Containers, Job::Folder]
            .into_iter()
            .chain(swarm)
            .chain(gossip)
            .collect()
    }
}

/// No user gains from less, and each round costs the engine a line in its log for every peer of
/// every network.
const MIN_POLL: Duration = Duration::from_secs(30);

/// A sign of change from the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Sign {
    /// The neighbours of an overlay network changed.
    Neighbours(NetworkId),
    /// The watch on an overlay network's neighbours ended.
    WatchEnded(NetworkId),
    /// The folder of network namespaces changed.
    Folder,
    /// A file of the host that names DNS servers may have changed.
    Files,
}

/// How many signs may wait; who sends one waits for room, and says the same thing once.
const SIGNS: usize = 64;

type SignSender = mpsc::Sender<Sign>;

//! The routing mesh: published ports of every node lead to the tasks of their service, wherever
//! these run, and tasks see the client's own address.
//!
//! Read in this order: [`plan`], [`mod@compile`], `balance`, `gate`, `way`, `doors`.
//!
//! Invariants
//! - *compile never fails*: what cannot be done is a note on its service;
//! - *own tables only*: beside them there are policy routes and sysctls of ours, remembered, and
//!   one rule in the engine's chain for users;
//! - *established connections stay*: only connections to tasks that are gone are cut;
//! - *put right*: what others do to a table is heard of, and it is read back at once;
//! - *stopping changes nothing*: tables stay and work for ten minutes.

mod affinity;
mod balance;
pub mod compile;
mod cut;
mod doors;
mod error;
mod firewall;
mod gate;
mod ground;
mod inspect;
mod laid;
mod leading;
mod outbound;
mod path;
mod paths;
pub mod plan;
mod relayed;
mod rival;
mod sysctls;
mod table;
mod target;
mod way;

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kernel::netns::Netns;
use registry::id::SandboxId;
use registry::{Consumer, Notes, Outcome, Snapshot};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::compile::{ClientIp, Config, Enabled, compile};
pub use self::error::MeshError;
pub use self::firewall::{FirewallError, redirected_ports};
pub use self::inspect::inspect;
pub use self::plan::{Plan, Port, Published};
pub use self::sysctls::SysctlsError;

use self::doors::{Doors, Report};
use self::laid::Laid;
use self::paths::{Errand, Errands, Paths, Visited};
use self::plan::Ingress;
use self::rival::Leader;
use self::sysctls::Sysctls;
use crate::apply::chain;
use crate::drain::{Drain, Drains};
use crate::layout::ALIVE_FOR;
use crate::meter::{Meter, Metrics};
use crate::relay::error::Failure;
use crate::relay::{Limits, Relay};
use crate::watch::Watches;

/// How many tasks' namespaces are visited at the same time.
const AT_ONCE: usize = 4;

/// Where there is a table of the mesh.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Place {
    Host,
    Doorway,
    Task(SandboxId),
}

/// The routing mesh of this node.
#[derive(Debug)]
pub struct Mesh {
    config: Config,
    sysctls: Arc<Sysctls>,
    doors: Doors,
    paths: Paths,
    relay: Relay,
    watches: Watches<Place>,
    drains: Drains,
    meter: Meter,
    /// Since when what is there is looked after; `None`: who is gone was forgotten since.
    begun: Option<Instant>,
    /// What was made true last.
    last: Goal,
}

/// What is to be true.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Goal {
    plan: Arc<Plan>,
    /// Tasks whose time to drain is over.
    expired: Arc<BTreeSet<Drain>>,
}

impl Mesh {
    /// Reads what a portolan before this one changed of sysctls.
    pub fn new(config: Config) -> Self {
        let sysctls = Arc::new(Sysctls::load(&config.state_dir));
        let (doors, paths, watches) = Default::default();
        let (drains, last) = Default::default();
        let relay = Relay::new(Limits::default());
        let begun = Some(Instant::now());
        let meter = Meter::default();
        Self { config, sysctls, doors, paths, relay, watches, drains, meter, begun, last }
    }

    /// Counts on `meter` what it does, and what is relayed.
    #[must_use]
    pub fn counting_on(self, meter: &Meter) -> Self {
        Self { meter: meter.clone(), relay: self.relay.counting_on(meter.relay()), ..self }
    }

    /// Who leads published ports through the doorway.
    async fn leader(&mut self, plan: &Arc<Plan>, now: Instant) -> Leader {
        let mut doors = std::mem::take(&mut self.doors);
        let (plan, enabled) = (Arc::clone(plan), self.config.enabled);
        let mut running = JoinSet::new();
        running.spawn_blocking(move || {
            let leader = doors.leader(&plan, enabled, now);
            (doors, leader)
        });
        let Some(Ok((doors, leader))) = running.join_next().await else { return Leader::Nobody };
        self.doors = doors;
        leader
    }

    /// Whether what a portolan before this one left may stand as it is: addresses of tasks are given
    /// to others in time.
    fn may_wait(&self, now: Instant) -> bool {
        self.begun.is_some_and(|it| now.saturating_duration_since(it) < ALIVE_FOR)
    }

    /// Forgets once, after a while, what a portolan before this one changed in namespaces that went
    /// with it: by then all that are there have been met.
    fn forget_strangers(&mut self, now: Instant, outcome: &mut Outcome) {
        let old = |it: &Instant| now.saturating_duration_since(*it) >= ALIVE_FOR;
        if self.begun.take_if(|it| old(it)).is_some()
            && let Err(error) = self.sysctls.forget_strangers()
        {
            self.begun = Some(now);
            report(outcome, "host".to_owned(), &error.into());
        }
    }

    async fn run(&mut self, mut errands: VecDeque<Errand>, now: Instant, outcome: &mut Outcome) {
        let mut running: JoinSet<(SandboxId, Visited)> = JoinSet::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(errand) = errands.pop_front()
            {
                let sysctls = Arc::clone(&self.sysctls);
                running.spawn_blocking(move || errand.run(&sysctls, now));
            }
            match running.join_next().await {
                Some(Ok((id, visited))) => {
                    outcome.changes += visited.visit.changes;
                    if let Some(failure) = &visited.visit.failure {
                        report(outcome, format!("sandbox {}", visited.aside.name), failure);
                    }
                    self.paths.note(&id, visited);
                    if let Some(laid) = self.paths.laid(&id) {
                        laid.be_followed(|it| self.watches.follow(Place::Task(id), it));
                    }
                }
                Some(Err(error)) => broken(outcome, &error),
                None => return,
            }
        }
    }

    /// Gives whether all was done.
    async fn settle_doors(
        &mut self,
        goal: &Goal,
        leader: Leader,
        now: Instant,
        outcome: &mut Outcome,
    ) -> bool {
        let mut doors = std::mem::take(&mut self.doors);
        let (goal, last) = (goal.clone(), self.last.clone());
        let sysctls = Arc::clone(&self.sysctls);
        let mut running = JoinSet::new();
        running.spawn_blocking(move || {
            let report = doors.settle(&goal, &last, leader, &sysctls, now);
            (doors, report)
        });
        match running.join_next().await {
            Some(Ok((doors, Report { changes, failures, notes, told }))) => {
                self.doors = doors;
                for place in [Place::Host, Place::Doorway] {
                    if let Some(laid) = laid(&mut self.doors, &mut self.paths, &place) {
                        laid.be_followed(|it| self.watches.follow(place, it));
                    }
                }
                Metrics::add(&self.meter.metrics().mesh_resets, told);
                outcome.changes += changes;
                outcome.failures.extend(notes);
                for (place, failure) in &failures {
                    report(outcome, (*place).to_owned(), failure);
                }
                failures.is_empty()
            }
            // What was known is lost with it; the next time reads back.
            Some(Err(error)) => {
                broken(outcome, &error);
                false
            }
            None => false,
        }
    }
}

impl Mesh {
    /// Relays what nftables cannot lead.
    async fn relay(&mut self, plan: &Plan, outcome: &mut Outcome) {
        let mut running = JoinSet::new();
        running.spawn_blocking(ground::addresses);
        let addresses = match running.join_next().await {
            Some(Ok(Ok(addresses))) => addresses,
            Some(Ok(Err(error))) => return report(outcome, "host".to_owned(), &error.into()),
            Some(Err(error)) => return broken(outcome, &error),
            None => return,
        };
        let wanted = relayed::relayed(plan, self.doors.leading(), &addresses);
        // Sockets and redirections are this process's own: each start makes them, and they are no
        // change of what a portolan before it left.
        let applied = self.relay.apply(&wanted).await;
        for Failure { subject, error } in applied.failures {
            let remedy = error.remedy().unwrap_or("none needed: it is tried again");
            outcome.failures.error(subject, "mesh", chain(&error), remedy);
        }
    }
}

impl Consumer for Mesh {
    const NAME: &'static str = "mesh";
    type Plan = Plan;

    fn compile(&mut self, snapshot: &Arc<Snapshot>) -> (Plan, Notes) {
        compile(snapshot, &self.config)
    }

    /// Ways back come before the ways in, so that no request finds a task that cannot answer.
    async fn apply(&mut self, plan: &Arc<Plan>) -> Outcome {
        let now = Instant::now();
        let mut outcome = Outcome::default();
        for place in self.watches.doubted() {
            if let Some(laid) = laid(&mut self.doors, &mut self.paths, &place) {
                laid.doubt();
            }
        }
        for Drain { task, .. } in self.drains.follow(&plan.drains(), now).expired {
            Metrics::add(&self.meter.metrics().mesh_drains_expired, 1);
            tracing::info!(%task, "its time to drain is over: connections through the mesh are cut");
        }
        let goal = Goal { plan: Arc::clone(plan), expired: self.drains.expired() };
        if let Some(ingress) = plan.ingress.as_ref().filter(|it| it.unread && self.may_wait(now)) {
            keep(ingress, &mut outcome).await;
            return outcome;
        }
        let leader = self.leader(plan, now).await;
        // Other nodes lead to tasks here, whoever leads on this one.
        let Errands { first, then } = self.paths.errands(&plan.ways, &plan.strays, now);
        self.run(first, now, &mut outcome).await;
        let done = self.settle_doors(&goal, leader, now, &mut outcome).await;
        self.relay(plan, &mut outcome).await;
        self.run(then, now, &mut outcome).await;
        self.forget_strangers(now, &mut outcome);
        // Until then what this leaves without a task is still to be cut.
        if done && self.last != goal {
            for (port, published) in plan.ports() {
                tracing::debug!("{port} {published}");
            }
            self.last = goal;
        }
        outcome
    }

    fn upkeep(&self) -> Option<Duration> {
        let drains = self.drains.next(&self.last.plan.drains(), Instant::now());
        drains.into_iter().chain(self.doors.next()).chain([laid::LOOK]).min()
    }

    fn bell(&self) -> Option<Arc<Notify>> {
        Some(self.watches.bell())
    }
}

/// What seems to be published says nothing yet, so all that is there stays.
async fn keep(ingress: &Ingress, outcome: &mut Outcome) {
    let ingress = ingress.clone();
    let mut running = JoinSet::new();
    running.spawn_blocking(move || Doors::keep(&ingress));
    match running.join_next().await {
        Some(Ok(Err(error))) => report(outcome, "engine's doorway".to_owned(), &error),
        Some(Err(error)) => broken(outcome, &error),
        Some(Ok(Ok(()))) | None => {}
    }
    outcome.failures.warning(
        "mesh",
        "ingress",
        "the engine does not tell yet who is on the ingress network; published ports stay as they \
         are for ten minutes, and clients that speak IPv6, or are told of by the PROXY protocol, wait",
        "see what `status` says of the engine",
    );
}

/// What is known of the table at a place.
fn laid<'a>(doors: &'a mut Doors, paths: &'a mut Paths, place: &Place) -> Option<&'a mut Laid> {
    match place {
        Place::Host => doors.host(),
        Place::Doorway => doors.doorway(),
        Place::Task(id) => paths.laid(id),
    }
}

/// Removes all of the mesh's from these namespaces, also what a portolan that died left, and puts
/// sysctls back that are written down in `state_dir`. Gives for each whether there was anything.
pub fn cleanup(netns: &Netns, state_dir: &Path) -> Result<bool, MeshError> {
    doors::cleanup(netns, &Sysctls::load(state_dir))
}

/// Removes the rule from the engine's firewall; gives whether there was one.
pub fn cleanup_firewall() -> Result<bool, FirewallError> {
    Ok(firewall::settle(false)?.changes > 0)
}

fn report(outcome: &mut Outcome, subject: String, failure: &MeshError) {
    let remedy = failure.remedy().unwrap_or("none needed: it is tried again");
    outcome.failures.error(subject, "mesh", chain(failure), remedy);
}

fn broken(outcome: &mut Outcome, error: &tokio::task::JoinError) {
    outcome.failures.error(
        "mesh",
        "",
        format!("a visit of a namespace failed: {error}"),
        "none needed: it is tried again; report it as a bug",
    );
}

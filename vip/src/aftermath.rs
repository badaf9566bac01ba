//! Decides, once tables hold, which flows are looked at for being led nowhere now: what changed,
//! drains whose time is over, tasks of VIPs that are no more.
//!
//! Invariants
//! - *after the tables*: a flow is judged only where new ones already go elsewhere;
//! - *looked at only where there is cause*: a look costs milliseconds a namespace;
//! - *a VIP that went leaves its connections*, until their tasks are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use registry::id::SandboxId;
use registry::model::ServingState;
use registry::{Events, Snapshot};
use tokio::time::Instant;

use crate::cut::{Cut, Cutter};
use crate::drain::{Drain, Drains};
use crate::flows::Judge;
use crate::inquiry::{Inquiries, Moves, moves};
use crate::meter::{Meter, Metrics};
use crate::plan::{Balance, Balances, Plan, SandboxPlan};
use crate::sandbox::SandboxError;

/// How soon it is seen whether cutting failed, while it goes on.
const LOOK: Duration = Duration::from_secs(1);

/// Most VIPs of a sandbox that are remembered after they went. A service that is removed stays for
/// as long as its tasks take to stop.
const MOST_ORPHANS: usize = 1024;

/// What has to be looked at, and who does it.
#[derive(Debug, Default)]
pub(crate) struct Aftermath {
    world: Arc<Snapshot>,
    /// Addresses of tasks that are not gone in that world, once somebody asked.
    living: Option<Arc<BTreeSet<IpAddr>>>,
    draining: BTreeMap<Drain, Duration>,
    drains: Drains,
    /// VIPs that went, and the tasks that connections through them may go to.
    orphans: BTreeMap<SandboxId, BTreeMap<IpAddr, BTreeSet<IpAddr>>>,
    /// Who came and went since the last apply.
    moves: Moves,
    inquiries: Inquiries,
    /// Addresses that are asked for now: they have been another task's.
    replaced: BTreeSet<IpAddr>,
    cutter: Cutter,
}

/// A namespace in which flows are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) id: &'a SandboxId,
    /// What users call it.
    pub(crate) name: &'a str,
    pub(crate) netns: &'a Path,
    pub(crate) cookie: u64,
    /// What its table holds.
    pub(crate) balances: &'a Arc<Balances>,
}

impl Aftermath {
    /// Takes note of a new plan; `before` are the tables of the last one, `tables` its own.
    pub(crate) fn compiled(
        &mut self,
        world: &Arc<Snapshot>,
        plan: &Plan,
        before: &BTreeMap<SandboxId, Arc<Balances>>,
        tables: &Arc<BTreeMap<SandboxId, Arc<Balances>>>,
    ) {
        self.cutter.plan(tables);
        self.moves.extend(moves(&self.world, world));
        self.world = Arc::clone(world);
        self.living = None;
        self.draining = draining(plan);
        self.orphans.retain(|id, _| plan.sandboxes.contains_key(id));
        // Sandboxes on the same networks share both tables.
        let mut compared: BTreeMap<[*const Balances; 2], BTreeMap<IpAddr, BTreeSet<IpAddr>>> =
            BTreeMap::new();
        for (id, SandboxPlan { balances: new, .. }) in &plan.sandboxes {
            let Some(old) = before.get(id).filter(|old| !Arc::ptr_eq(old, new)) else { continue };
            let pair = [Arc::as_ptr(old), Arc::as_ptr(new)];
            let removed = compared.entry(pair).or_insert_with(|| removed(old, new));
            if !removed.is_empty() {
                let orphans = self.orphans.entry(id.clone()).or_default();
                orphans.extend(removed.clone());
                while orphans.len() > MOST_ORPHANS {
                    orphans.pop_first();
                }
            }
        }
    }

    /// These drains were seen to begin by a portolan before this one, so long ago.
    pub(crate) fn remember(&mut self, ages: BTreeMap<Drain, Duration>, now: Instant) {
        let begun = ages.into_iter().filter_map(|(it, age)| Some((it, now.checked_sub(age)?)));
        self.drains.remember(begun.collect());
    }

    /// Those of which this one has seen nothing are over.
    pub(crate) fn forget(&mut self) {
        self.drains.forget();
    }

    /// How long drains have lasted.
    pub(crate) fn ages(&self, now: Instant) -> impl Iterator<Item = (&Drain, Duration)> {
        self.drains.begun().map(move |(it, since)| (it, now.saturating_duration_since(*since)))
    }

    /// Lets time pass for those who drain; gives those whose time is over just now.
    pub(crate) fn pass(&mut self, now: Instant, meter: &Meter) -> Vec<Drain> {
        self.inquiries.follow(std::mem::take(&mut self.moves), now);
        self.replaced = self.inquiries.due(now);
        let news = self.drains.follow(&self.draining, now);
        let metrics = meter.metrics();
        Metrics::add(&metrics.drains_begun, news.begun);
        Metrics::add(&metrics.drains_ended, news.ended);
        Metrics::add(&metrics.drains_expired, news.expired.len());
        Metrics::set(&metrics.draining, self.draining.len());
        news.expired
    }

    /// A table was changed: flows to these VIPs are looked at.
    pub(crate) fn changed(&mut self, scene: Scene<'_>, suspect: BTreeSet<IpAddr>) {
        if suspect.is_empty() {
            return;
        }
        let gone = |vip: &IpAddr| !scene.balances.contains_key(vip);
        let living = suspect.iter().any(gone).then(|| self.living());
        let (balances, replaced) = (Arc::clone(scene.balances), self.replaced.clone());
        let judge = Judge { suspect, balances, expired: self.drains.expired(), living, replaced };
        let (name, netns) = (scene.name.to_owned(), scene.netns.to_owned());
        self.cutter.add(scene.id.clone(), Cut { name, netns, cookie: scene.cookie, judge });
    }

    /// What is to be looked at in a sandbox though its table did not change.
    pub(crate) fn look(&mut self, scene: Scene<'_>, expired: &[Drain]) {
        let ours = |it: &&Drain| {
            scene.balances.get(&it.vip).is_some_and(|balance| {
                balance.network == it.network && balance.drain_of(it.task).is_some()
            })
        };
        let mut suspect: BTreeSet<IpAddr> = expired.iter().filter(ours).map(|it| it.vip).collect();
        suspect.extend(self.replaced_behind(scene.balances));
        if let Some(orphans) = self.orphans.remove(scene.id) {
            let living = self.living();
            let mut left = BTreeMap::new();
            for (vip, mut tasks) in orphans {
                let before = tasks.len();
                tasks.retain(|task| living.contains(task));
                if tasks.len() < before {
                    suspect.insert(vip);
                }
                if !tasks.is_empty() {
                    left.insert(vip, tasks);
                }
            }
            if !left.is_empty() {
                self.orphans.insert(scene.id.clone(), left);
            }
        }
        self.changed(scene, suspect);
    }

    /// Goes on with the cutting; gives what failed since the last call.
    pub(crate) fn go_on(&mut self, meter: &Meter, events: &Events) -> Vec<(String, SandboxError)> {
        self.cutter.go_on(meter, events)
    }

    /// How long until there may be something to do.
    pub(crate) fn next(&self, now: Instant) -> Option<Duration> {
        let busy = self.cutter.is_busy().then_some(LOOK);
        let next = self.drains.next(&self.draining, now).into_iter();
        next.chain(busy).chain(self.inquiries.next(now)).min()
    }

    /// The VIPs that have a task at an address which another one had.
    fn replaced_behind<'a>(&'a self, balances: &'a Balances) -> impl Iterator<Item = IpAddr> + 'a {
        let concerned = !self.replaced.is_empty();
        let is = |balance: &Balance| balance.alive.iter().any(|it| self.replaced.contains(it));
        let vips = concerned.then(|| balances.iter().filter(move |(_, it)| is(it)));
        vips.into_iter().flatten().map(|(vip, _)| *vip)
    }

    fn living(&mut self) -> Arc<BTreeSet<IpAddr>> {
        let world = &self.world;
        Arc::clone(self.living.get_or_insert_with(|| Arc::new(living(world))))
    }
}

fn living(world: &Snapshot) -> BTreeSet<IpAddr> {
    let living = world.tasks().filter(|it| it.state != ServingState::Stopped);
    living.flat_map(|it| it.networks.values()).flat_map(|it| &it.addresses).copied().collect()
}

fn removed(old: &Balances, new: &Balances) -> BTreeMap<IpAddr, BTreeSet<IpAddr>> {
    let gone = old.iter().filter(|(vip, _)| !new.contains_key(*vip));
    gone.map(|(vip, it)| (*vip, it.alive.clone())).collect()
}

/// Who drains, behind which VIP, and how long each may.
fn draining(plan: &Plan) -> BTreeMap<Drain, Duration> {
    let tables: BTreeMap<*const Balances, &Balances> =
        plan.sandboxes.values().map(|it| (Arc::as_ptr(&it.balances), &*it.balances)).collect();
    let mut draining = BTreeMap::new();
    for (vip, balance) in tables.values().copied().flatten() {
        for (task, limit) in &balance.resting {
            let Some(limit) = limit else { continue };
            let (network, vip, task) = (balance.network.clone(), *vip, *task);
            draining.insert(Drain { network, vip, task }, *limit);
        }
    }
    draining
}

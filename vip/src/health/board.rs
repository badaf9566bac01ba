//! All tasks that are probed: what was found of each, and when each is due. Pure: the time is an
//! argument.
//!
//! Invariants
//! - *one at a time*: a task is either due at some moment or being probed;
//! - *spread*: probes of tasks that were there before begin anywhere within their interval, and
//!   each comes up to a tenth of it early, so that they do not stay in step;
//! - *none starves another*: a service has at most half as many probes under way as there are places
//!   left, so that tasks that never answer keep only their own service waiting;
//! - *new ones first*: a task that waits for its first success is probed every [`EAGER`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::health::Verdict;
use registry::id::{ServiceId, TaskId};

use super::targets::{Plan, Target};
use super::verdict::{Finding, Standing, State};

/// How often a new task is probed until it passes, where its interval is not shorter.
const EAGER: Duration = Duration::from_secs(1);

/// Probes under way at a time. Each takes a socket; one that is answered takes under a millisecond.
/// A node that dies with 400 tasks, each checked every ten seconds and given up on after two, needs
/// 80 of them.
pub(super) const AT_ONCE: usize = 256;

/// Everybody who is probed.
#[derive(Debug)]
pub(super) struct Board {
    tasks: BTreeMap<TaskId, Entry>,
    due: BTreeSet<(Instant, TaskId)>,
    /// Whose tasks are being probed, by the epoch of the entry: also of tasks that are gone by now.
    under_way: BTreeMap<u64, ServiceId>,
    /// Of the last entry.
    epoch: u64,
    chance: u64,
}

#[derive(Debug)]
struct Entry {
    target: Arc<Target>,
    standing: Standing,
    /// Findings of another epoch are about another target.
    epoch: u64,
    /// `None`: being probed.
    due: Option<Instant>,
}

/// A probe to make now.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) id: TaskId,
    pub(super) epoch: u64,
    pub(super) target: Arc<Target>,
}

/// Why all tasks of a service are kept.
#[derive(Debug)]
pub(super) struct Distrust {
    pub(super) service: String,
    pub(super) text: String,
}

impl Board {
    pub(super) fn new(seed: u64) -> Self {
        let (tasks, due, under_way) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { tasks, due, under_way, epoch: 0, chance: seed }
    }

    /// Probes those of `plan` from now on, and nobody else; how many came, went or changed.
    pub(super) fn follow(&mut self, plan: &Plan, now: Instant) -> usize {
        let gone: Vec<TaskId> =
            self.tasks.keys().filter(|id| !plan.targets.contains_key(*id)).cloned().collect();
        let mut changes = gone.len();
        for id in gone {
            if let Some(at) = self.tasks.remove(&id).and_then(|it| it.due) {
                self.due.remove(&(at, id));
            }
        }
        for (id, target) in &plan.targets {
            let known = self.tasks.get(id);
            if known.is_some_and(|it| *it.target == *target) {
                continue;
            }
            changes += 1;
            let new = plan.new.contains(id);
            // A new check of a known task goes on from what is known of it.
            let standing = match known {
                Some(known) => known.standing.clone(),
                None if new => Standing::unproven(),
                None => Standing::up(),
            };
            let wait = if new { Duration::ZERO } else { self.part_of(target.check.interval) };
            self.epoch += 1;
            let entry =
                Entry { target: Arc::new(target.clone()), standing, epoch: self.epoch, due: None };
            if let Some(at) = self.tasks.insert(id.clone(), entry).and_then(|it| it.due) {
                self.due.remove(&(at, id.clone()));
            }
            self.schedule(id, now + wait);
        }
        changes
    }

    /// The next probe that is due and has a place.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        let next = self.next().filter(|(at, _)| *at <= now)?.clone();
        self.due.remove(&next);
        let (_, id) = next;
        let entry = self.tasks.get_mut(&id)?;
        entry.due = None;
        let target = Arc::clone(&entry.target);
        self.under_way.insert(entry.epoch, target.service.clone());
        Some(Due { epoch: entry.epoch, target, id })
    }

    /// When the next probe is due, of those that have a place now.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next().map(|(at, _)| *at)
    }

    /// The first that is due of a service that may have one more probe under way.
    fn next(&self) -> Option<&(Instant, TaskId)> {
        let mut taken: BTreeMap<&ServiceId, usize> = BTreeMap::new();
        for service in self.under_way.values() {
            *taken.entry(service).or_default() += 1;
        }
        let share = AT_ONCE.saturating_sub(self.under_way.len()) / 2;
        self.due.iter().find(|(_, id)| {
            let service = self.tasks.get(id).map(|it| &it.target.service);
            service.and_then(|it| taken.get(it)).is_none_or(|it| *it < share)
        })
    }

    /// Takes in how a probe went; whether that changed what is thought of the task.
    pub(super) fn record(
        &mut self,
        id: &TaskId,
        epoch: u64,
        finding: Finding,
        now: Instant,
    ) -> bool {
        self.under_way.remove(&epoch);
        let Some(entry) = self.tasks.get_mut(id).filter(|it| it.epoch == epoch) else {
            return false;
        };
        let Target { check, address, .. } = &*entry.target;
        let what = || format!("{} check of {address}", check.probe.name());
        let changed = entry.standing.record(finding, check, what, now);
        let interval = match entry.standing.state() {
            State::Unproven | State::Never(_) => check.interval.min(EAGER),
            State::Up | State::Down(_) => check.interval,
        };
        let early = self.part_of(interval / 10);
        self.schedule(id, now + interval.saturating_sub(early));
        changed
    }

    /// After probes were lost without a finding: those under way are made anew.
    pub(super) fn lost(&mut self, now: Instant) {
        self.under_way.clear();
        let under_way = self.tasks.iter_mut().filter(|(_, it)| it.due.is_none());
        let mut again = Vec::new();
        for (id, entry) in under_way {
            self.epoch += 1;
            entry.epoch = self.epoch;
            again.push((id.clone(), now + entry.target.check.interval));
        }
        for (id, at) in again {
            self.schedule(&id, at);
        }
    }

    /// What is found of each, and the services of which too many fail to be believed.
    pub(super) fn judge(&self) -> (BTreeMap<TaskId, Verdict>, BTreeSet<ServiceId>) {
        let mut counts: BTreeMap<&ServiceId, Count> = BTreeMap::new();
        for entry in self.tasks.values() {
            counts.entry(&entry.target.service).or_default().add(entry);
        }
        let distrusted: BTreeSet<ServiceId> =
            counts.into_iter().filter(|(_, it)| it.too_many()).map(|(id, _)| id.clone()).collect();
        let verdict = |entry: &Entry| match entry.standing.state() {
            State::Up => Verdict::Up,
            State::Unproven => Verdict::Unproven,
            State::Never(_) | State::Down(_) if distrusted.contains(&entry.target.service) => {
                Verdict::Up
            }
            State::Never(reason) | State::Down(reason) => Verdict::Down(reason.clone()),
        };
        let verdicts = self.tasks.iter().map(|(id, entry)| (id.clone(), verdict(entry)));
        (verdicts.collect(), distrusted)
    }

    /// Why all of a service's tasks are kept; `None` where they are not.
    pub(super) fn distrust(&self, service: &ServiceId) -> Option<Distrust> {
        let mut count = Count::default();
        let (mut name, mut example) = (None, None);
        for entry in self.tasks.values().filter(|it| it.target.service == *service) {
            count.add(entry);
            name = Some(&entry.target.service_name);
            if let State::Never(reason) | State::Down(reason) = entry.standing.state() {
                example = example.or(Some(reason));
            }
        }
        let (failed, probed) = count.failing();
        let text = format!(
            "{failed} of {probed} tasks fail their check, too many to be believed, so all are kept; \
             e.g. {}",
            example.filter(|_| count.too_many())?
        );
        Some(Distrust { service: name?.clone(), text })
    }

    /// What users call a service that is probed.
    pub(super) fn name_of(&self, service: &ServiceId) -> Option<&str> {
        let mut all = self.tasks.values().filter(|it| it.target.service == *service);
        all.next().map(|it| it.target.service_name.as_str())
    }

    fn schedule(&mut self, id: &TaskId, at: Instant) {
        if let Some(entry) = self.tasks.get_mut(id) {
            entry.due = Some(at);
            self.due.insert((at, id.clone()));
        }
    }

    /// A time within `whole`, drawn by splitmix64.
    fn part_of(&mut self, whole: Duration) -> Duration {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis((mixed ^ (mixed >> 31)) % millis.max(1))
    }
}

/// Of one service. Tasks that never passed say nothing about the check while others do: a service
/// that grows, or a version that does not start, is no reason to doubt it.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    failed: usize,
    probed: usize,
    never: usize,
}

impl Count {
    fn add(&mut self, entry: &Entry) {
        match entry.standing.state() {
            State::Up => self.probed += 1,
            State::Down(_) => {
                self.probed += 1;
                self.failed += 1;
            }
            State::Never(_) => self.never += 1,
            State::Unproven => {}
        }
    }

    /// How many fail, and of how many.
    fn failing(self) -> (usize, usize) {
        if self.probed == 0 { (self.never, self.never) } else { (self.failed, self.probed) }
    }

    /// More than half.
    fn too_many(self) -> bool {
        let (failed, probed) = self.failing();
        failed * 2 > probed
    }
}

#[cfg(test)]
mod tests;

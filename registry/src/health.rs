//! What health checks found, put over the world that the source tells.
//!
//! Invariants
//! - *monotone*: generations never go back, whatever is found;
//! - *nothing asked, nothing done*: while no task is held back and none ever was, the source's own
//!   snapshot is passed on, not a copy;
//! - *only taken away*: a task that the source does not call serving is not made so;
//! - *never the last ones*: where no task of a service passed its first check, none waits for it;
//! - *a limit*: no task waits for its first check longer than [`PROOF`].
//!
//! Pure: the time is an argument. Who probes is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::id::{ServiceId, TaskId};
use crate::labels;
use crate::model::Task;
use crate::snapshot::Snapshot;

/// How long a new task may wait for its first check to be made. Whoever probes decides sooner,
/// unless it is gone; then what the engine says counts.
pub const PROOF: Duration = Duration::from_secs(120);

/// What whoever probes found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdicts {
    /// The source's generation that was last looked through for tasks to probe.
    pub generation: u64,
    /// The tasks that are probed.
    pub tasks: BTreeMap<TaskId, Verdict>,
}

/// What was found of a task.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It may serve.
    Up,
    /// It is new, and has not passed its check yet.
    Unproven,
    /// It may not, and why.
    Down(String),
}

/// Whether `task` began to serve after `last`, so that it has to pass its check before it gets
/// connections, while another task has. Nothing is new in the first world: a restart of portolan
/// takes nobody out.
pub fn is_new(task: &Task, last: Option<&Snapshot>) -> bool {
    last.is_some_and(|it| it.generation() > 0 && !it.task(&task.id).is_some_and(Task::serves))
}

/// Puts verdicts over worlds, one after the other.
#[derive(Debug, Default)]
pub struct Judge {
    /// The source's world that was last seen.
    source: Option<Arc<Snapshot>>,
    /// The services that have their tasks checked.
    checked: BTreeSet<ServiceId>,
    /// New tasks of theirs that nothing is known of yet.
    waiting: BTreeMap<TaskId, Waiting>,
    /// Who is held back in the world that was last given.
    held: BTreeMap<TaskId, String>,
    /// What was last given.
    judged: Arc<Snapshot>,
    /// How far our numbers are ahead of the source's.
    ahead: u64,
}

/// Since when a task waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Verdicts about an older world are about what had its id before.
    generation: u64,
    until: Instant,
}

impl Judge {
    /// The world to act on.
    pub fn judge(
        &mut self,
        source: &Arc<Snapshot>,
        verdicts: &Verdicts,
        now: Instant,
    ) -> Arc<Snapshot> {
        let same_source = self.source.as_ref().is_some_and(|it| Arc::ptr_eq(it, source));
        if !same_source {
            self.follow(source, now);
        }
        self.waiting.retain(|id, waiting| {
            let decided = verdicts.generation >= waiting.generation
                && verdicts.tasks.get(id) != Some(&Verdict::Unproven);
            let there = source.task(id).is_some_and(Task::serves);
            there && !decided && now < waiting.until
        });
        let held = self.held_by(verdicts, source);
        if same_source && held == self.held {
            return Arc::clone(&self.judged);
        }
        let numbered = source.generation().saturating_add(self.ahead);
        if held != self.held && numbered <= self.judged.generation() {
            self.ahead = self.ahead.saturating_add(1);
        }
        let generation = source.generation().saturating_add(self.ahead);
        self.judged = if held.is_empty() && self.ahead == 0 {
            Arc::clone(source)
        } else {
            Arc::new(source.holding_back(&held, generation))
        };
        self.held = held;
        Arc::clone(&self.judged)
    }

    /// When a task has waited long enough, and [`Judge::judge`] wants to be called again.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|it| it.until).min()
    }

    /// Who is held back in the world that was last given, and why.
    pub fn held(&self) -> &BTreeMap<TaskId, String> {
        &self.held
    }

    fn follow(&mut self, source: &Arc<Snapshot>, now: Instant) {
        let nothing = Snapshot::default();
        let last = self.source.as_deref();
        for change in source.services_since(last.unwrap_or(&nothing)) {
            let asks = |it| labels::balance(it).0.health.is_some();
            match (change.before, change.now) {
                (_, Some(now)) if asks(now) => self.checked.insert(now.id.clone()),
                (_, Some(it)) | (Some(it), None) => self.checked.remove(&it.id),
                (None, None) => false,
            };
        }
        if !self.checked.is_empty() {
            let until = now + PROOF;
            let generation = source.generation();
            let changes = source.tasks_since(last.unwrap_or(&nothing));
            let new = changes.into_iter().filter_map(|it| it.now).filter(|it| {
                let checked = it.service.as_ref().is_some_and(|it| self.checked.contains(it));
                checked && it.serves() && is_new(it, last)
            });
            let new = new.map(|it| (it.id.clone(), Waiting { generation, until }));
            self.waiting.extend(new.collect::<Vec<_>>());
        }
        self.source = Some(Arc::clone(source));
    }

    fn held_by(&self, verdicts: &Verdicts, source: &Snapshot) -> BTreeMap<TaskId, String> {
        let serves = |id: &TaskId| source.task(id).is_some_and(Task::serves);
        let failed = verdicts.tasks.iter().filter_map(|(id, verdict)| match verdict {
            Verdict::Down(reason) => Some((id.clone(), reason.clone())),
            Verdict::Up | Verdict::Unproven => None,
        });
        let mut held: BTreeMap<_, _> = failed.filter(|(id, _)| serves(id)).collect();
        // A worker that gets its first task of a service sees those of all other nodes as new.
        let service = |id| source.task(id).and_then(|it| it.service.as_ref());
        let proven: BTreeSet<&ServiceId> = {
            let asked: BTreeSet<_> = self.waiting.keys().filter_map(service).collect();
            let is_proven = |it: &Task| {
                it.serves() && !held.contains_key(&it.id) && !self.waiting.contains_key(&it.id)
            };
            asked.into_iter().filter(|it| source.tasks_of(it).any(is_proven)).collect()
        };
        let waiting = self.waiting.keys();
        for id in waiting.filter(|id| service(id).is_some_and(|it| proven.contains(it))) {
            held.entry(id.clone()).or_insert_with(|| UNPROVEN.to_owned());
        }
        held
    }
}

/// Why a new task is held back.
const UNPROVEN: &str = "waiting for its first health check to succeed";

#[cfg(test)]
mod tests;

//! What is to be read when: at most one reading of a thing at a time, and never more often than
//! asked for. Pure: `now` is an argument.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::id::NetworkId;

/// Something to read or ask.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) enum Job {
    /// What the engine says of itself.
    Info,
    /// The host's files and its own namespace.
    Host,
    /// All networks.
    Networks,
    /// All containers.
    Containers,
    /// Where a network has put a container: network, container. Before the container itself, whose
    /// answer says more.
    Place(NetworkId, String),
    /// One container.
    Container(String),
    /// The folder of network namespaces.
    Folder,
    /// Whose a new namespace is.
    Namespace(PathBuf),
    /// Gossip about one network.
    Gossip(NetworkId),
    /// Services, tasks and nodes.
    Swarm,
    /// The engine's own resolver about draining tasks.
    Draining,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    entries: BTreeMap<Job, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    due: Option<Instant>,
    running: bool,
    failures: u32,
}

impl Agenda {
    /// Wants `job` done at `at`, or earlier if it is already wanted earlier. What is under way may
    /// have missed the reason, so it is done once more afterwards.
    pub(crate) fn want(&mut self, job: Job, at: Instant) {
        let entry = self.entries.entry(job).or_default();
        entry.due = Some(entry.due.map_or(at, |due| due.min(at)));
    }

    /// Wants `job` done at `at`, not earlier, whatever was wanted before.
    pub(crate) fn put_off(&mut self, job: Job, at: Instant) {
        self.entries.entry(job).or_default().due = Some(at);
    }

    /// Forgets `job`; what is under way ends unheard.
    pub(crate) fn forget(&mut self, job: &Job) {
        self.entries.remove(job);
    }

    /// What is to be started now. It counts as under way from here on.
    pub(crate) fn start(&mut self, now: Instant) -> Vec<Job> {
        let due = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| !entry.running && entry.due.is_some_and(|it| it <= now));
        due.map(|(job, entry)| {
            (entry.due, entry.running) = (None, true);
            job.clone()
        })
        .collect()
    }

    /// `job` ended. Returns `false` if it was forgotten meanwhile.
    pub(crate) fn succeeded(&mut self, job: &Job) -> bool {
        let Some(entry) = self.entries.get_mut(job) else { return false };
        (entry.running, entry.failures) = (false, 0);
        let passing = matches!(job, Job::Container(_) | Job::Place(..) | Job::Namespace(_));
        if passing && entry.due.is_none() {
            self.entries.remove(job); // containers come and go: nothing is left of those that went
        }
        true
    }

    /// `job` failed: it is tried again after a pause that doubles from one failure to the next.
    /// Returns `false` if it was forgotten meanwhile.
    pub(crate) fn failed(&mut self, job: &Job, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(job) else { return false };
        let pause = FIRST_PAUSE.saturating_mul(1 << entry.failures.min(10)).min(LONGEST_PAUSE);
        (entry.running, entry.failures) = (false, entry.failures.saturating_add(1));
        entry.due = Some(now + pause);
        true
    }

    /// When something has to be started next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.values().filter(|it| !it.running).filter_map(|it| it.due).min()
    }

    /// All jobs that are wanted or under way.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.entries.keys()
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn what_is_wanted_while_under_way_is_done_once_more() {
        let (mut agenda, start) = (Agenda::default(), now());
        agenda.want(Job::Swarm, start);
        assert_eq!(agenda.start(start), [Job::Swarm]);
        agenda.want(Job::Swarm, start);
        agenda.want(Job::Swarm, at(start, 5));
        assert_eq!(agenda.start(at(start, 10)), [], "one at a time");
        assert!(agenda.succeeded(&Job::Swarm));
        assert_eq!(agenda.start(at(start, 10)), [Job::Swarm]);
        assert!(agenda.succeeded(&Job::Swarm));
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn failures_are_tried_again_with_doubling_pauses() {
        let (mut agenda, start) = (Agenda::default(), now());
        agenda.want(Job::Info, start);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let due = agenda.next().unwrap();
            agenda.start(due);
            agenda.failed(&Job::Info, due);
            pauses.push(agenda.next().unwrap().duration_since(due).as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn a_container_that_was_read_leaves_nothing_behind() {
        let (mut agenda, start) = (Agenda::default(), now());
        let job = Job::Container("c".to_owned());
        agenda.want(job.clone(), start);
        agenda.start(start);
        assert!(agenda.succeeded(&job));
        assert_eq!(agenda.jobs().count(), 0);
    }
}

//! Decides whether the engine's own routing mesh is left to do its work (`mesh.enabled = "auto"`).
//! Pure; what the kernel says is an argument.
//!
//! Invariants
//! - *once for a doorway*: who leads does not change with the number of tasks, so that connections
//!   are not torn each time a service goes to none and back;
//! - *no guess*: IPVS that is there and has nothing to forward may be the engine's, whose services
//!   have no task yet. Until that is clear nothing is changed.

use std::time::Duration;

use tokio::time::Instant;

/// What of IPVS is to be seen in the doorway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ipvs {
    /// The kernel has none: the engine's mesh cannot work.
    Absent,
    /// Nobody uses it.
    Idle,
    /// The engine forwards with it.
    Forwards,
}

/// Who leads published ports through the doorway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Leader {
    Portolan,
    Engine,
    /// It is not clear yet.
    Nobody,
}

/// What was decided, and for which doorway.
#[derive(Debug, Default)]
pub(crate) struct Rival {
    /// The namespace's cookie.
    doorway: u64,
    leader: Option<Leader>,
    /// Since when there are tasks, and IPVS does nothing for them.
    idle: Option<Instant>,
}

/// What is known of a doorway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    /// The namespace's cookie.
    pub(crate) doorway: u64,
    pub(crate) ipvs: Ipvs,
    /// Whether portolan's table is there.
    pub(crate) ours: bool,
    /// Whether a published port has a task.
    pub(crate) tasks: bool,
}

impl Rival {
    /// What was decided for this doorway.
    pub(crate) fn decided(&self, doorway: u64) -> Option<Leader> {
        self.leader.filter(|_| self.doorway == doorway)
    }

    /// Decides, or waits.
    pub(crate) fn decide(&mut self, scene: Scene, now: Instant) -> Leader {
        let Scene { doorway, ipvs, ours, tasks } = scene;
        if self.doorway != doorway {
            *self = Self { doorway, ..Self::default() };
        }
        if let Some(leader) = self.leader {
            return leader;
        }
        self.idle = self.idle.filter(|_| tasks).or_else(|| tasks.then_some(now));
        let waited = |it: Instant| now.saturating_duration_since(it) >= PATIENCE;
        self.leader = match ipvs {
            Ipvs::Absent => Some(Leader::Portolan),
            Ipvs::Forwards => Some(Leader::Engine),
            Ipvs::Idle if ours || self.idle.is_some_and(waited) => Some(Leader::Portolan),
            Ipvs::Idle => None,
        };
        self.leader.unwrap_or(Leader::Nobody)
    }

    /// How long until it may be clearer.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.idle.filter(|_| self.leader.is_none()).map(|_| PATIENCE)
    }
}

/// How long an engine whose mesh works may take to forward to a task that is known: it does within
/// milliseconds, and within seconds of its own start.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn scene(ipvs: Ipvs, tasks: bool) -> Scene {
        Scene { doorway: 1, ipvs, ours: false, tasks }
    }

    #[test]
    fn without_ipvs_the_mesh_is_ours_and_stays_so_when_somebody_loads_it() {
        let (mut rival, now) = (Rival::default(), Instant::now());
        assert_eq!(rival.decide(scene(Ipvs::Absent, false), now), Leader::Portolan);
        assert_eq!(rival.decide(scene(Ipvs::Forwards, true), now), Leader::Portolan);
        let other = Scene { doorway: 2, ..scene(Ipvs::Forwards, true) };
        assert_eq!(rival.decided(2), None);
        assert_eq!(rival.decide(other, now), Leader::Engine);
    }

    #[test]
    fn what_the_engine_forwards_stays_the_engines_when_its_last_task_goes() {
        let (mut rival, now) = (Rival::default(), Instant::now());
        assert_eq!(rival.decide(scene(Ipvs::Forwards, true), now), Leader::Engine);
        for tasks in [false, true] {
            let later = now + 100 * SECOND;
            assert_eq!(rival.decide(scene(Ipvs::Idle, tasks), later), Leader::Engine);
        }
    }

    #[test]
    fn ipvs_that_forwards_to_no_task_for_long_is_not_the_engines() {
        let (mut rival, now) = (Rival::default(), Instant::now());
        let mut at =
            |second: u32, tasks| rival.decide(scene(Ipvs::Idle, tasks), now + second * SECOND);
        assert_eq!(at(0, false), Leader::Nobody);
        assert_eq!(at(60, true), Leader::Nobody);
        assert_eq!(at(65, false), Leader::Nobody);
        assert_eq!(at(66, true), Leader::Nobody, "it begins anew with the tasks");
        assert_eq!(at(75, true), Leader::Nobody);
        assert_eq!(at(76, true), Leader::Portolan);
        assert_eq!(at(77, false), Leader::Portolan);
    }

    #[test]
    fn a_restart_goes_on_with_what_was_taken_over() {
        let ours = Scene { ours: true, ..scene(Ipvs::Idle, false) };
        assert_eq!(Rival::default().decide(ours, Instant::now()), Leader::Portolan);
    }
}

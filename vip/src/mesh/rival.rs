//! Decides whether the engine's own routing mesh is left to do its work (`mesh.enabled = "auto"`).
//! Pure; what the kernel says is an argument.
//!
//! Invariants
//! - *once for a doorway*: who leads does not change with the number of tasks, so that connections
//!   are not torn each time a service goes to none and back;
//! - *no guess*: IPVS that has nothing to forward may be the engine's, whose services have no task
//!   yet; it loads the module with the first. Until that is clear nothing is changed, but where
//!   nobody can see whether there is such a module.

use std::time::Duration;

use tokio::time::Instant;

/// What of IPVS is to be seen in the doorway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ipvs {
    /// The kernel cannot have it: the engine's mesh cannot work.
    Impossible,
    /// It is not there, and nobody can see whether it may be loaded.
    Unknown,
    /// It is not loaded. An engine does that when the first published service has a task.
    Loadable,
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
    /// Whether portolan's table was there at the first look: one that is laid meanwhile says nothing.
    ours: bool,
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
            *self = Self { doorway, ours, ..Self::default() };
        }
        let ours = self.ours;
        if let Some(leader) = self.leader {
            return leader;
        }
        self.idle = self.idle.filter(|_| tasks).or_else(|| tasks.then_some(now));
        let waited = |it: Instant| now.saturating_duration_since(it) >= PATIENCE;
        self.leader = match ipvs {
            Ipvs::Impossible => Some(Leader::Portolan),
            Ipvs::Forwards => Some(Leader::Engine),
            _ if self.idle.is_some_and(waited) => Some(Leader::Portolan),
            Ipvs::Idle if ours => Some(Leader::Portolan),
            Ipvs::Idle | Ipvs::Unknown | Ipvs::Loadable => None,
        };
        let may_lead = ours || ipvs == Ipvs::Unknown;
        let meanwhile = if may_lead { Leader::Portolan } else { Leader::Nobody };
        self.leader.unwrap_or(meanwhile)
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
        assert_eq!(rival.decide(scene(Ipvs::Impossible, false), now), Leader::Portolan);
        assert_eq!(rival.decide(scene(Ipvs::Forwards, true), now), Leader::Portolan);
        let other = Scene { doorway: 2, ..scene(Ipvs::Forwards, true) };
        assert_eq!(rival.decided(2), None);
        assert_eq!(rival.decide(other, now), Leader::Engine);
    }

    #[test]
    fn an_engine_that_loads_ipvs_with_its_first_task_keeps_its_mesh() {
        let now = Instant::now();
        for (ipvs, meanwhile) in
            [(Ipvs::Loadable, Leader::Nobody), (Ipvs::Unknown, Leader::Portolan)]
        {
            let mut rival = Rival::default();
            let at = |second: u32| now + second * SECOND;
            assert_eq!(rival.decide(scene(ipvs, false), at(0)), meanwhile);
            assert_eq!(rival.decide(scene(ipvs, true), at(60)), meanwhile);
            assert_eq!(rival.next(), Some(PATIENCE), "it is looked at again");
            assert_eq!(rival.decide(scene(Ipvs::Forwards, true), at(61)), Leader::Engine);
            let mut other = Rival::default();
            assert_eq!(other.decide(scene(ipvs, true), at(0)), meanwhile);
            assert_eq!(other.decide(scene(ipvs, true), at(10)), Leader::Portolan);
            assert_eq!(other.decide(scene(Ipvs::Forwards, true), at(11)), Leader::Portolan);
        }
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

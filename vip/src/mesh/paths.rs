//! The tasks' namespaces: which of them are visited, and when.
//!
//! Invariants
//! - *ways back before ways in*: what is new or different is visited before published ports lead
//!   there; what is only looked after, and what goes, after that, so that no task's namespace, whose
//!   owner may fill it with rules, keeps published ports waiting;
//! - *nothing left*: where a portolan before this one may have left something, and nothing of ours is
//!   wanted any more, it is removed once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use registry::id::SandboxId;
use tokio::time::Instant;

use super::laid::Laid;
use super::path::{self, Path, Visit};
use super::plan::{Aside, Way};
use super::sysctls::Sysctls;

/// What is known of them.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    known: BTreeMap<SandboxId, Path>,
    /// Those in which something of ours may be that is not known: the last visit failed.
    doubtful: BTreeMap<SandboxId, Aside>,
    /// Those in which nothing of ours is, for sure.
    bare: BTreeSet<SandboxId>,
}

/// One namespace to be visited.
#[derive(Debug)]
pub(crate) enum Errand {
    /// To make a way true there.
    Visit(SandboxId, Way, Option<Path>),
    /// To remove all of ours.
    Leave(SandboxId, Path),
    /// To remove whatever of ours may be there.
    Clear(SandboxId, Aside),
}

/// What is to be done, in two parts.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    /// Before published ports lead there.
    pub(crate) first: VecDeque<Errand>,
    /// After that.
    pub(crate) then: VecDeque<Errand>,
}

/// A namespace that was visited.
#[derive(Debug)]
pub(crate) struct Visited {
    pub(crate) aside: Aside,
    pub(crate) visit: Visit,
    /// Whether it is wanted that nothing of ours is there.
    clears: bool,
}

impl Paths {
    /// Its table.
    pub(crate) fn laid(&mut self, id: &SandboxId) -> Option<&mut Laid> {
        self.known.get_mut(id).map(Path::laid)
    }

    /// What is to be done for `ways`, and where nothing of ours is wanted.
    pub(crate) fn errands(
        &mut self,
        ways: &BTreeMap<SandboxId, Way>,
        strays: &BTreeMap<SandboxId, Aside>,
        now: Instant,
    ) -> Errands {
        let mut errands = Errands::default();
        for (id, way) in ways {
            self.bare.remove(id);
            match self.known.remove(id) {
                Some(path) if path.is_content(way, now) => {
                    self.known.insert(id.clone(), path);
                }
                Some(path) if path.is_on(way) => {
                    errands.then.push_back(Errand::Visit(id.clone(), way.clone(), Some(path)));
                }
                Some(path) if *path.netns() != way.netns => {
                    errands.first.push_back(Errand::Visit(id.clone(), way.clone(), None));
                }
                known => errands.first.push_back(Errand::Visit(id.clone(), way.clone(), known)),
            }
        }
        let gone = |it: &&SandboxId| !ways.contains_key(*it);
        let gone: BTreeSet<_> = self.known.keys().filter(gone).cloned().collect();
        for id in &gone {
            self.doubtful.remove(id);
            if let Some(path) = self.known.remove(id) {
                errands.then.push_back(Errand::Leave(id.clone(), path));
            }
        }
        let doubtful = self.doubtful.iter().filter(|it| !ways.contains_key(it.0));
        let mut clear: BTreeMap<_, _> = doubtful.map(|(id, it)| (id.clone(), it.clone())).collect();
        self.bare.retain(|it| strays.contains_key(it));
        // Two visits of one namespace at the same time would be in each other's way.
        let unknown = strays.iter().filter(|it| !self.bare.contains(it.0) && !gone.contains(it.0));
        clear.extend(unknown.map(|(id, it)| (id.clone(), it.clone())));
        errands.then.extend(clear.into_iter().map(|(id, it)| Errand::Clear(id, it)));
        errands
    }

    /// Takes note of what a visit came to.
    pub(crate) fn note(&mut self, id: &SandboxId, visited: Visited) {
        let Visited { aside, visit, clears } = visited;
        let failed = visit.failure.is_some();
        match visit.path {
            Some(path) => {
                self.doubtful.remove(id);
                self.known.insert(id.clone(), path);
            }
            None if failed => drop(self.doubtful.insert(id.clone(), aside)),
            None => {
                self.doubtful.remove(id);
                if clears {
                    self.bare.insert(id.clone());
                }
            }
        }
    }
}

impl Errand {
    /// Carries it out; on a thread that may wait.
    pub(crate) fn run(self, sysctls: &Sysctls, now: Instant) -> (SandboxId, Visited) {
        match self {
            Self::Visit(id, way, known) => {
                let aside = way.aside();
                let visit = path::visit(way, known, sysctls, now);
                (id, Visited { aside, visit, clears: false })
            }
            Self::Leave(id, path) => {
                let aside = path.aside();
                (id, Visited { aside, visit: path::leave(path, sysctls), clears: true })
            }
            Self::Clear(id, aside) => {
                let visit = path::clear_aside(&aside, sysctls);
                (id, Visited { aside, visit, clears: true })
            }
        }
    }
}

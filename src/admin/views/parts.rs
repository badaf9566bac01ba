//! What every part last said, in one list, so that nobody who tells of the parts forgets one.

use std::sync::Arc;
use std::time::Duration;

use registry::{Notes, Report};

use crate::supervise::Live;

/// What a part last said.
#[derive(Debug)]
pub struct Told {
    /// Its name.
    pub name: &'static str,
    /// What it did last; `None`: nothing yet.
    pub done: Option<Done>,
    /// Whether its generation is that of the newest snapshot once it is done. Health checks count
    /// the source's.
    pub follows: bool,
}

/// What a part did last.
#[derive(Debug)]
pub struct Done {
    /// The generation that it made true.
    pub generation: u64,
    /// How many things it changed.
    pub changes: usize,
    /// How long it took.
    pub took: Duration,
    /// What it could not do.
    pub failures: Notes,
    /// What compiling had to say.
    pub notes: Notes,
}

/// The parts that run in this process, in the order in which traffic meets them.
pub fn parts(live: &Live) -> Vec<Told> {
    let mut told = Vec::new();
    if live.parts.vip {
        told.push(part("vip", &live.vip));
        told.push(part("mesh", &live.mesh));
    }
    if live.parts.resolver {
        told.push(part("resolver", &live.resolver));
    }
    if live.parts.router {
        told.push(part("router", &live.router));
    }
    told.push(Told { follows: false, ..part("health", &live.health) });
    told
}

type Reports<P> = tokio::sync::watch::Receiver<Option<Arc<Report<P>>>>;

fn part<P>(name: &'static str, reports: &Reports<P>) -> Told {
    let done = reports.borrow().as_ref().map(|it| Done {
        generation: it.generation,
        changes: it.outcome.changes,
        took: it.took,
        failures: it.outcome.failures.clone(),
        notes: it.notes.clone(),
    });
    Told { name, done, follows: true }
}

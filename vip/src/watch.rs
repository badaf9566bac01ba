//! Hears of it when somebody else changes a table of ours, and has that sandbox visited again.
//!
//! Invariants
//! - *at once, and bounded*: the first change is told at once; one that makes changes all the time
//!   is told of less and less often, so that it costs a visit every [`PAUSE_MAX`];
//! - *coalesced*: many changes between two visits are one;
//! - *no dead namespaces*: a subscription keeps its namespace, so it goes with the socket from which
//!   the table is changed.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{Monitor, NftError, Watched};
use kernel::route::{RoutingWatch, Told};
use registry::id::SandboxId;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::family::TABLE_NAME;
use crate::sandbox::{self, Known};

/// The table of the names, which whoever serves them refreshes several times a second. Where it is
/// flushed with all others, the transaction does not begin with it: its owner flag protects it.
const MUTED: &str = "portolan_dns";

const OUR_TABLE: &[Watched<'static>] = &[Watched { table: TABLE_NAME, chain: None }];

/// The shortest time between two visits for changes by others: a program that rewrites all rules
/// does so in several transactions.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest: what a visit costs (reading back, up to some 20 ms) is then nothing.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Without a change by others for so long, the next is told at once again.
const QUIET: Duration = Duration::from_secs(30);

/// All sandboxes that are watched, or other places with a table of ours.
#[derive(Debug)]
pub(crate) struct Watches<Place = SandboxId> {
    shared: Arc<Shared<Place>>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared<Place> {
    doubted: Mutex<BTreeSet<Place>>,
    bell: Arc<Notify>,
}

/// One sandbox that is watched; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Watch {
    cookie: u64,
    port: u32,
    task: AbortHandle,
}

/// A subscription that nobody waits for yet.
#[derive(Debug)]
pub(crate) struct Begun {
    monitor: Monitor,
    /// The namespace, by its cookie: ports are given anew in each.
    cookie: u64,
    watched: &'static [Watched<'static>],
    /// What is told besides changes of tables.
    routing: Option<RoutingWatch>,
    port: u32,
    /// Whether something may have happened between the visit and the subscription.
    doubtful: bool,
}

impl<Place> Default for Watches<Place> {
    fn default() -> Self {
        let shared = Shared { doubted: Mutex::default(), bell: Arc::default() };
        Self { shared: Arc::new(shared), tasks: JoinSet::new() }
    }
}

impl<Place: Clone + Debug + Ord + Send + 'static> Watches<Place> {
    /// Rung when a sandbox is to be visited.
    pub(crate) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.bell)
    }

    /// The sandboxes of which others may have changed the table since the last call.
    pub(crate) fn doubted(&self) -> BTreeSet<Place> {
        std::mem::take(&mut *self.shared.lock())
    }

    /// Waits for changes in a sandbox.
    pub(crate) fn follow(&mut self, id: Place, begun: Begun) -> Watch {
        while self.tasks.try_join_next().is_some() {}
        let Begun { monitor, cookie, watched, routing, port, doubtful } = begun;
        if doubtful {
            self.shared.doubt(id.clone());
        }
        let ear = Ear { monitor, watched, routing, port };
        let task = self.tasks.spawn(follow(Arc::clone(&self.shared), id, ear));
        Watch { cookie, port, task }
    }
}

impl Watch {
    /// Whether this is about that namespace, and still tells our own changes from those of others.
    pub(crate) fn fits(&self, known: &Known) -> bool {
        known.cookie == self.cookie && known.port() == Some(self.port) && self.hears()
    }

    /// Whether the subscription still stands.
    pub(crate) fn hears(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<Place: Ord> Shared<Place> {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Place>> {
        // What it guards is whole between any two statements.
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubt(&self, id: Place) {
        self.lock().insert(id);
        self.bell.notify_one();
    }
}

/// Subscribes to the changes of a sandbox that was just visited; within a tokio runtime, on a
/// thread that may wait. `None`: there is nothing to watch.
pub(crate) fn begin(path: &Path, known: &mut Known) -> Result<Option<Begun>, NftError> {
    let Some(port) = known.port() else { return Ok(None) };
    let before = known.generation();
    let Ok(Some(netns)) = sandbox::open(path, Some(known.cookie)) else { return Ok(None) };
    let monitor = Monitor::open(&netns, Some(MUTED))?;
    // Who serves names may have been that; then the visit finds all as it was.
    let doubtful = before.is_none() || before != known.generation();
    let (cookie, watched) = (known.cookie, OUR_TABLE);
    Ok(Some(Begun { monitor, cookie, watched, routing: None, port, doubtful }))
}

/// Subscribes to the changes of what is `watched` by other sockets than that with `port`, which did
/// not read or write anything yet, and to what is to be `told` of the routing; within a tokio
/// runtime, on a thread that may wait.
pub(crate) fn begin_before(
    netns: &Netns,
    watched: &'static [Watched<'static>],
    told: Told,
    port: u32,
) -> Result<Begun, NftError> {
    let cookie = netns.cookie()?;
    let monitor = Monitor::open(netns, Some(MUTED))?;
    let routing = RoutingWatch::open(netns, told);
    if let Err(error) = &routing {
        tracing::warn!(?netns, %error, "changes of routes by others are not heard of");
    }
    Ok(Begun { monitor, cookie, watched, routing: routing.ok(), port, doubtful: false })
}

/// How changes in one place are heard of.
struct Ear {
    monitor: Monitor,
    watched: &'static [Watched<'static>],
    routing: Option<RoutingWatch>,
    port: u32,
}

impl Ear {
    /// Waits for the next change by somebody else. `None`: nothing more is heard of tables.
    async fn hears(&mut self) -> Option<()> {
        let Self { monitor, watched, routing, port } = self;
        tokio::select! {
            event = monitor.changed_in(watched, *port) => event.map(drop),
            () = moved(routing) => Some(()),
        }
    }
}

/// Waits until the routing changes, as long as that can be heard of.
async fn moved(routing: &mut Option<RoutingWatch>) {
    if let Some(watch) = routing {
        if watch.changed().await.is_some() {
            return;
        }
        *routing = None;
    }
    std::future::pending::<()>().await;
}

async fn follow<Place: Clone + Debug + Ord>(shared: Arc<Shared<Place>>, id: Place, mut ear: Ear) {
    let mut pace = Pace::default();
    while ear.hears().await.is_some() {
        tracing::debug!(place = ?id, "somebody else changed what is ours");
        shared.doubt(id.clone());
        sleep(pace.pause(Instant::now())).await;
    }
    // Without a subscription the upkeep looks.
    tracing::warn!(place = ?id, "changes of the table by others are no longer heard of");
}

/// How long to wait between two visits.
#[derive(Debug, Default)]
struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// The pause after a change that was heard of `now`: twice the last one, unless it was quiet.
    fn pause(&mut self, now: Instant) -> Duration {
        let pause = match self.last {
            Some((when, last)) if now.duration_since(when) < last + QUIET => {
                (last * 2).min(PAUSE_MAX)
            }
            Some(_) | None => PAUSE_MIN,
        };
        self.last = Some((now, pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_changes_a_table_all_the_time_costs_a_visit_every_five_seconds() {
        let mut pace = Pace::default();
        let begun = Instant::now();
        let mut visits = 0;
        while begun.elapsed() < Duration::from_secs(60) {
            visits += 1;
            sleep(pace.pause(Instant::now())).await;
        }
        assert!((15..=20).contains(&visits), "{visits}");
        tokio::time::advance(QUIET).await;
        assert_eq!(pace.pause(Instant::now()), PAUSE_MIN, "after it was quiet");
    }
}

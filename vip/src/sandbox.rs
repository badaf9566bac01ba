//! Makes one network namespace hold what its plan says.
//!
//! Invariants
//! - *only differences*: what the kernel holds is known from the last visit, or read back;
//! - *nothing is kept open*: each visit opens the namespace and closes it; a descriptor or socket
//!   held between visits would keep a dead container's namespace;
//! - *right place*: a namespace is visited only while its cookie is the one that was meant;
//! - *gone is not an error*: a namespace that has left needs nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kernel::conntrack::{self, ConntrackError, Flow};
use kernel::netns::{Netns, NetnsError};
use kernel::nft::{Batch, NftError, Socket};
use tokio::time::Instant;

use crate::diff::{Change, diff_balances};
use crate::layout::{Seed, TABLE};
use crate::plan::{Balances, SandboxPlan, VipRoute};
use crate::readback::{self, Found};
use crate::routes::{self, RoutesError};
use crate::ruleset::{self, Held};

/// How long a namespace is left alone when its plan does not change. Then it is seen whether the
/// table is still there, and the table's life is prolonged: twenty times within its term.
pub(crate) const UPKEEP: Duration = Duration::from_secs(30);

/// What is known of a namespace since the last visit.
#[derive(Debug)]
pub(crate) struct Known {
    /// The namespace's own cookie.
    cookie: u64,
    /// What the table holds; `None`: there is no table.
    held: Option<Held>,
    /// Our routes that are there.
    routes: BTreeSet<VipRoute>,
    /// When it was last looked after.
    visited: Instant,
}

/// What a visit came to.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    /// What is known now; `None`: nothing, the next visit reads back.
    pub(crate) known: Option<Known>,
    /// How many things were changed.
    pub(crate) changes: usize,
    /// What did not work; the rest was done.
    pub(crate) failures: Vec<SandboxError>,
}

/// Why a namespace does not hold all of its plan.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// It could not be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// The table could not be written or read.
    #[error(transparent)]
    Table(#[from] NftError),
    /// VIPs outside the subnets have no way out.
    #[error(transparent)]
    Routes(#[from] RoutesError),
    /// Conntrack could not be read or changed.
    #[error("cannot cut connections to tasks that are gone")]
    Connections(#[from] ConntrackError),
}

impl SandboxError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace(error) => error.remedy(),
            Self::Table(error) => error.remedy(),
            Self::Routes(error) => error.remedy(),
            Self::Connections(error) => error.remedy(),
        }
    }
}

impl Known {
    /// Whether a visit would find nothing to do.
    pub(crate) fn is_content(&self, plan: &SandboxPlan, now: Instant) -> bool {
        let rested = now.saturating_duration_since(self.visited) < UPKEEP;
        let same = self.held.as_ref().map_or(plan.balances.is_empty(), |it| {
            !plan.balances.is_empty() && same_balances(&it.balances, &plan.balances)
        });
        rested && same && self.routes == plan.routes
    }
}

/// The same table, or one that asks for the same.
fn same_balances(one: &Arc<Balances>, other: &Arc<Balances>) -> bool {
    Arc::ptr_eq(one, other) || diff_balances(one, other).is_empty()
}

/// Visits a namespace and makes `plan` true there.
pub(crate) fn visit(plan: &SandboxPlan, seed: Seed, known: Option<Known>, now: Instant) -> Visit {
    match Visitor::enter(plan, seed, known, now) {
        Ok(Some(visitor)) => visitor.settle(plan),
        Ok(None) => Visit::default(),
        Err(error) => Visit { failures: vec![error.into()], ..Visit::default() },
    }
}

/// Removes all of ours from a namespace that no plan names any more.
pub(crate) fn leave(netns: &Path, known: Known) -> Visit {
    let left = open(netns, Some(known.cookie))
        .map_err(SandboxError::from)
        .and_then(|there| there.map_or(Ok(false), |netns| cleanup(&netns)));
    match left {
        Ok(removed) => Visit { changes: usize::from(removed), ..Visit::default() },
        Err(error) => Visit { known: Some(known), changes: 0, failures: vec![error] },
    }
}

/// Removes our table and our routes from a namespace, also those of a portolan that died. Returns
/// whether there was anything.
pub fn cleanup(netns: &Netns) -> Result<bool, SandboxError> {
    let mut socket = Socket::open(netns)?;
    let table = readback::is_there(&mut socket)?;
    if table {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        socket.commit(&batch)?;
    }
    let settled = routes::settle(netns, &BTreeSet::new())?;
    Ok(table || settled.changes > 0)
}

/// Opens the namespace; `None`: it is not there any more, or another one is in its place.
fn open(path: &Path, cookie: Option<u64>) -> Result<Option<Netns>, NetnsError> {
    match Netns::open_checked(path, cookie) {
        Ok(netns) => Ok(Some(netns)),
        Err(NetnsError::Replaced { .. }) => Ok(None),
        Err(NetnsError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        // What was mounted on the file has been unmounted, and the file will go next.
        Err(NetnsError::Enter { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// One visit of one namespace.
struct Visitor {
    netns: Netns,
    seed: Seed,
    now: Instant,
    cookie: u64,
    known: Option<Known>,
    changes: usize,
    failures: Vec<SandboxError>,
    /// VIPs of which conntrack may remember flows that go elsewhere now.
    suspect: BTreeSet<Ipv4Addr>,
}

impl Visitor {
    fn enter(
        plan: &SandboxPlan,
        seed: Seed,
        known: Option<Known>,
        now: Instant,
    ) -> Result<Option<Self>, NetnsError> {
        let meant = plan.cookie;
        let known = known.filter(|it| meant.is_none_or(|cookie| cookie == it.cookie));
        let (netns, known) = match known {
            Some(known) => match open(&plan.netns, Some(known.cookie))? {
                Some(netns) => (Some(netns), Some(known)),
                // Where any namespace at the path is meant, this may be the next one.
                None => (open(&plan.netns, meant)?, None),
            },
            None => (open(&plan.netns, meant)?, None),
        };
        let Some(netns) = netns else { return Ok(None) };
        let cookie = match (&known, meant) {
            (Some(known), _) => known.cookie,
            (None, Some(cookie)) => cookie,
            (None, None) => netns.cookie()?,
        };
        let (changes, failures, suspect) = (0, Vec::new(), BTreeSet::new());
        Ok(Some(Self { netns, seed, now, cookie, known, changes, failures, suspect }))
    }

    /// Routes first, so that no VIP answers before it can be reached; conntrack last, when new
    /// flows already go where they should. Each is tried even if another one fails.
    fn settle(mut self, plan: &SandboxPlan) -> Visit {
        let due = self
            .known
            .as_ref()
            .is_none_or(|it| self.now.saturating_duration_since(it.visited) >= UPKEEP);
        let known = self.known.take();
        let (there, visited) = known
            .as_ref()
            .map_or((BTreeSet::new(), self.now), |it| (it.routes.clone(), it.visited));
        let routes = self.settle_routes(plan, there, due);
        let held = match self.settle_table(known.as_ref(), &plan.balances, due) {
            Ok(held) => held,
            Err(error) => return self.lost(error.into()),
        };
        if let Err(error) = self.cut(plan) {
            return self.lost(error.into());
        }
        let visited = if due { self.now } else { visited };
        let Self { cookie, changes, failures, .. } = self;
        Visit { known: Some(Known { cookie, held, routes, visited }), changes, failures }
    }

    /// The visit ends with nothing known: the next one reads back and tries all of it again.
    fn lost(self, error: SandboxError) -> Visit {
        let Self { changes, mut failures, .. } = self;
        failures.push(error);
        Visit { known: None, changes, failures }
    }

    fn settle_routes(
        &mut self,
        plan: &SandboxPlan,
        there: BTreeSet<VipRoute>,
        due: bool,
    ) -> BTreeSet<VipRoute> {
        if !due && there == plan.routes {
            return there;
        }
        match routes::settle(&self.netns, &plan.routes) {
            Ok(settled) => {
                self.changes += settled.changes;
                self.failures.extend(settled.failures.into_iter().map(SandboxError::from));
                settled.there
            }
            Err(error) => {
                self.failures.push(error.into());
                BTreeSet::new()
            }
        }
    }

    /// Makes the table hold `want`, with what is known of it if that is still so.
    fn settle_table(
        &mut self,
        known: Option<&Known>,
        want: &Arc<Balances>,
        due: bool,
    ) -> Result<Option<Held>, NftError> {
        let mut socket = Socket::open(&self.netns)?;
        if let Some(Known { held, .. }) = known {
            if !due || readback::is_there(&mut socket)? == held.is_some() {
                match self.write(&mut socket, held.as_ref(), want, due) {
                    Ok(held) => return Ok(held),
                    // Somebody else changed the table: what it holds is no longer what is known.
                    Err(error) => tracing::debug!(%error, "reading the table back"),
                }
            }
        }
        let held = match readback::read_back(&mut socket, self.seed)? {
            Found::Nothing => None,
            Found::Ours { held, alive } => {
                self.changes += usize::from(!alive);
                Some(held)
            }
            Found::Strange(what) => {
                tracing::warn!(netns = %self.netns.path().display(), what, "replacing the VIP table");
                self.remove(&mut socket)?;
                None
            }
        };
        self.suspect.extend(want.keys());
        self.write(&mut socket, held.as_ref(), want, true)
    }

    /// Brings the table from `held` to `want`, in one transaction.
    fn write(
        &mut self,
        socket: &mut Socket,
        held: Option<&Held>,
        want: &Arc<Balances>,
        revive: bool,
    ) -> Result<Option<Held>, NftError> {
        let nothing = Balances::new();
        let changes = diff_balances(held.map_or(&nothing, |it| &it.balances), want);
        if want.is_empty() {
            if held.is_some() {
                self.remove(socket)?;
            }
            return Ok(None);
        }
        let amended = held.and_then(|it| ruleset::amended(it, &changes, want, self.seed));
        let (mut batch, held) = amended.unwrap_or_else(|| ruleset::whole(want, self.seed));
        if revive {
            ruleset::revive(&mut batch);
        }
        socket.commit(&batch)?;
        for change in &changes {
            tracing::debug!(netns = %self.netns.path().display(), "{change}");
        }
        self.changes += changes.len();
        self.suspect.extend(changes.iter().filter_map(suspicious));
        Ok(Some(held))
    }

    fn remove(&mut self, socket: &mut Socket) -> Result<(), NftError> {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        socket.commit(&batch)?;
        self.changes += 1;
        Ok(())
    }

    /// Deletes what conntrack remembers of flows that go nowhere: those to tasks that are gone,
    /// and those that began before the table was there and that nobody has answered. What
    /// somebody answered without us (the engine's own balancing) goes on.
    fn cut(&self, plan: &SandboxPlan) -> Result<(), ConntrackError> {
        if self.suspect.is_empty() {
            return Ok(());
        }
        let suspect = &self.suspect;
        let doomed = |flow: &Flow| {
            let IpAddr::V4(vip) = flow.original_destination else { return false };
            let balance = plan.balances.get(&vip).filter(|_| suspect.contains(&vip));
            balance.is_some_and(|it| {
                let alive = matches!(flow.reply_source, IpAddr::V4(to) if it.alive.contains(&to));
                !alive && (flow.nat || !flow.replied)
            })
        };
        let cut = conntrack::delete_matching(&self.netns, doomed)?;
        if cut > 0 {
            tracing::debug!(netns = %self.netns.path().display(), cut, "cut connections");
        }
        Ok(())
    }
}

/// The VIP whose flows may go elsewhere since this change.
fn suspicious(change: &Change<'_>) -> Option<Ipv4Addr> {
    match change {
        Change::AddVip { vip, .. } | Change::Cut { vip, .. } => Some(*vip),
        Change::SetSlots { .. }
        | Change::RemoveVip { .. }
        | Change::AddRoute(_)
        | Change::RemoveRoute(_) => None,
    }
}

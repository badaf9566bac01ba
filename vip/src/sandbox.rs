//! Makes one network namespace hold what its plan says.
//!
//! Invariants
//! - *only differences*: what the kernel holds is known from the last visit, or read back;
//! - *right place*: a namespace is visited only while its cookie is the one that was meant;
//! - *one socket*: where there is a table, a socket is kept for the next change. To open one and
//!   close it again costs a hundred times a change, because the kernel makes who closes such a
//!   socket wait for all that the last transaction deleted (a grace period of RCU, 4 to 15 ms);
//! - *no dead namespaces*: that socket keeps the namespace, so it is closed when its path no longer
//!   names it, which is looked at on every visit, and when its plan is gone;
//! - *gone is not an error*: a namespace that has left needs nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kernel::conntrack::ConntrackError;
use kernel::link;
use kernel::netns::{Netns, NetnsError};
use kernel::nft::{Batch, NftError, Socket};
use kernel::provoke::ProvokeError;
use kernel::sock_diag::SockDiagError;
use tokio::time::Instant;

use crate::affinity;
use crate::diff::Change;
use crate::family::IpFamily;
use crate::layout::ALIVE_FOR;
use crate::patience;
use crate::plan::{Balances, SandboxPlan, VipRoute};
use crate::readback;
use crate::relay;
use crate::relay::annex::AnnexError;
use crate::routes::{self, RoutesError};
use crate::ruleset::{self, Held};
use crate::steps::Steps;

/// How long a namespace is left alone when its plan does not change. Then it is seen whether the
/// table is still there, and the table's life is prolonged: twenty times within its term.
pub(crate) const UPKEEP: Duration = Duration::from_secs(30);

/// What is known of a namespace since the last visit.
#[derive(Debug)]
pub(crate) struct Known {
    /// The namespace's own cookie.
    pub(crate) cookie: u64,
    /// The table, if there is one.
    table: Option<OurTable>,
    /// Our routes that are there.
    routes: BTreeSet<VipRoute>,
    /// When it was last looked after.
    visited: Instant,
    /// Somebody may have changed the table since.
    doubted: bool,
    /// The last visit failed: only the place is known, so that it can be left.
    failed: bool,
}

/// Our tables, one or two.
#[derive(Debug)]
struct OurTable {
    held: Held,
    socket: Socket,
    /// The namespace's inode number: not given to another one as long as the socket is open.
    inode: u64,
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
    /// VIPs of which conntrack may remember flows that go nowhere now.
    pub(crate) suspect: BTreeSet<IpAddr>,
    /// What became of the tables, for those who count.
    pub(crate) tally: Tally,
}

/// What is counted of a visit.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How long each transaction took.
    pub(crate) transactions: Vec<Duration>,
    /// There was no table of ours, and now there is.
    pub(crate) made: bool,
    /// A table of a portolan before this one was taken on.
    pub(crate) adopted: bool,
    /// Somebody else changed a table, and what we want was not in it.
    pub(crate) repaired: bool,
    /// Tables that were not as we make them.
    pub(crate) replaced: usize,
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
    /// VIPs that are relayed cannot be led to the relay.
    #[error(transparent)]
    Annex(#[from] AnnexError),
    /// Conntrack could not be read or changed.
    #[error("cannot cut connections to tasks that are gone")]
    Flows(#[from] ConntrackError),
    /// Clients of tasks that are gone could not be told.
    #[error(transparent)]
    Sockets(#[from] SockDiagError),
    /// Clients of tasks whose address another one has could not be made to speak to it.
    #[error(transparent)]
    Inquiry(#[from] ProvokeError),
}

impl SandboxError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace(error) | Self::Inquiry(ProvokeError::Namespace(error)) => {
                error.remedy()
            }
            Self::Table(error) => error.remedy(),
            Self::Routes(error) => error.remedy(),
            Self::Annex(error) => error.remedy(),
            Self::Flows(error) => error.remedy(),
            Self::Sockets(error) => error.remedy(),
            Self::Inquiry(ProvokeError::Refused(_)) => None,
        }
    }
}

impl Tally {
    /// Whether nothing was taken for true: it is a first visit, or somebody else was there.
    pub(crate) fn has_looked(&self) -> bool {
        self.made || self.adopted || self.replaced > 0
    }
}

impl Known {
    /// Nothing but the place.
    pub(crate) fn place(cookie: u64, now: Instant) -> Self {
        let routes = BTreeSet::new();
        Self { cookie, table: None, routes, visited: now, doubted: false, failed: true }
    }

    /// Whether the last visit made it hold its plan of then.
    pub(crate) fn is_settled(&self) -> bool {
        !self.failed
    }

    /// Whether a visit would find nothing to do.
    pub(crate) fn is_content(&self, plan: &SandboxPlan, now: Instant) -> bool {
        let same = self.table.as_ref().map_or(plan.balances.is_empty(), |it| {
            // Who is asked for the same has the same value: plans share what did not change.
            !plan.balances.is_empty() && Arc::ptr_eq(&it.held.balances, &plan.balances)
        });
        same && !self.doubted
            && !self.failed
            && self.age(now) < UPKEEP
            && self.routes == plan.routes
    }

    /// Somebody may have changed the table: the next visit reads it back.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// The netlink port from which the table is changed, if there is a table.
    pub(crate) fn port(&self) -> Option<u32> {
        self.table.as_ref().and_then(|it| it.socket.port().ok())
    }

    /// Keeps half-closed connections, where there is a table.
    pub(crate) fn make_patient(&mut self) {
        if let Some(table) = &mut self.table {
            patience::make(&mut table.socket);
        }
    }

    /// The number of the last change of the namespace's tables by anybody.
    pub(crate) fn generation(&mut self) -> Option<u32> {
        self.table.as_mut().and_then(|it| it.socket.generation().ok())
    }

    /// Whether this is about the namespace that is meant, and not too old to be true.
    fn holds(&self, plan: &SandboxPlan, now: Instant) -> bool {
        let meant = plan.cookie.is_none_or(|cookie| cookie == self.cookie);
        // A table that nobody looked after for so long has switched itself off.
        meant && self.age(now) < ALIVE_FOR
    }

    /// The namespace that this is about, if it is there.
    fn open(&self, path: &Path) -> Result<Option<Netns>, NetnsError> {
        // Where there is a socket, the inode number says it, without a thread that enters.
        let Some(OurTable { inode, .. }) = &self.table else {
            return open(path, Some(self.cookie));
        };
        Ok(open(path, None)?.filter(|it| it.inode() == *inode))
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.visited)
    }
}

/// Visits a namespace and makes `plan` true there; `steps` are what is worked out of it already.
pub(crate) fn visit(
    plan: &SandboxPlan,
    known: Option<Known>,
    steps: &Steps,
    now: Instant,
) -> Visit {
    let known = known.filter(|it| it.holds(plan, now));
    let cookie = plan.cookie.or_else(|| known.as_ref().map(|it| it.cookie));
    match Visitor::enter(plan, known, steps, now) {
        Ok(Some((visitor, known))) => visitor.settle(plan, known),
        Ok(None) => Visit::default(),
        Err(error) => {
            let known = cookie.map(|it| Known::place(it, now));
            Visit { known, failures: vec![error.into()], ..Visit::default() }
        }
    }
}

/// Removes all of ours from a namespace that no plan names any more.
pub(crate) fn leave(netns: &Path, known: Known) -> Visit {
    let left = open(netns, Some(known.cookie))
        .map_err(SandboxError::from)
        .and_then(|there| there.map_or(Ok(false), |netns| cleanup(&netns)));
    match left {
        Ok(removed) => Visit { changes: usize::from(removed), ..Visit::default() },
        Err(error) => Visit { known: Some(known), failures: vec![error], ..Visit::default() },
    }
}

/// Removes our table and our routes from a namespace, also those of a portolan that died. Returns
/// whether there was anything.
pub fn cleanup(netns: &Netns) -> Result<bool, SandboxError> {
    let removed = remove_tables(netns);
    // There is one only while a portolan relays, and then with routes.
    link::delete_link(netns, relay::annex::CABLE).map_err(RoutesError::from)?;
    let settled = routes::settle(netns, &BTreeSet::new())?;
    Ok(removed? > 0 || settled.changes > 0)
}

/// Removes our table and our routes from this process's own namespace; gives how many there were.
pub(crate) fn leave_host() -> Result<usize, SandboxError> {
    let host = Netns::this()?;
    let removed = remove_tables(&host)?;
    Ok(removed + routes::settle(&host, &BTreeSet::new())?.changes)
}

/// Removes our tables, and tells how many things there were. Where nftables is refused there are none.
pub(crate) fn remove_tables(netns: &Netns) -> Result<usize, NftError> {
    let remove = || -> Result<usize, NftError> {
        let mut socket = Socket::open(netns)?;
        let tables = readback::there(&mut socket)?;
        let mut batch = Batch::new();
        for family in &tables {
            batch.delete_table(family.table());
        }
        let patient = patience::remove(&mut socket, &mut batch)?;
        socket.commit(&batch)?;
        Ok(tables.len() + usize::from(patient))
    };
    match remove() {
        Err(error) if error.is_refused() => Ok(0),
        outcome => outcome,
    }
}

/// Opens the namespace; `None`: it is not there any more, or another one is in its place.
pub(crate) fn open(path: &Path, cookie: Option<u64>) -> Result<Option<Netns>, NetnsError> {
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
struct Visitor<'a> {
    netns: Netns,
    cookie: u64,
    now: Instant,
    /// It is time to see whether what is known is still so.
    due: bool,
    /// Somebody else changed the tables.
    doubted: bool,
    steps: &'a Steps,
    visit: Visit,
}

impl<'a> Visitor<'a> {
    fn enter(
        plan: &SandboxPlan,
        known: Option<Known>,
        steps: &'a Steps,
        now: Instant,
    ) -> Result<Option<(Self, Option<Known>)>, NetnsError> {
        let path = &plan.netns;
        let (netns, known) = match known {
            Some(known) => match known.open(path)? {
                Some(netns) => (Some(netns), Some(known)),
                // Where any namespace at the path is meant, this may be the next one.
                None => (open(path, plan.cookie)?, None),
            },
            None => (open(path, plan.cookie)?, None),
        };
        let Some(netns) = netns else { return Ok(None) };
        let cookie = match (&known, plan.cookie) {
            (Some(known), _) => known.cookie,
            (None, Some(cookie)) => cookie,
            (None, None) => netns.cookie()?,
        };
        let doubted = known.as_ref().is_some_and(|it| it.doubted);
        let due = doubted || known.as_ref().is_none_or(|it| it.failed || it.age(now) >= UPKEEP);
        let visit = Visit::default();
        Ok(Some((Self { netns, cookie, now, due, doubted, steps, visit }, known)))
    }

    /// Routes first, so that no VIP answers before it can be reached. The table is tried even if
    /// they fail.
    fn settle(mut self, plan: &SandboxPlan, known: Option<Known>) -> Visit {
        let routes = self.settle_routes(plan, known.as_ref());
        let visited = known.as_ref().map(|it| it.visited);
        match self.settle_table(&plan.balances, known) {
            Ok(table) => {
                self.visit.tally.repaired = self.doubted && self.visit.changes > 0;
                let visited = visited.filter(|_| !self.due).unwrap_or(self.now);
                let (doubted, failed) = (false, false);
                let cookie = self.cookie;
                self.visit.known = Some(Known { cookie, table, routes, visited, doubted, failed });
            }
            // Only where it was is known now: the next visit reads back.
            Err(error) => {
                self.visit.known = Some(Known::place(self.cookie, self.now));
                self.visit.failures.push(error.into());
            }
        }
        self.visit
    }

    fn settle_routes(&mut self, plan: &SandboxPlan, known: Option<&Known>) -> BTreeSet<VipRoute> {
        if let Some(known) = known.filter(|it| !self.due && it.routes == plan.routes) {
            return known.routes.clone();
        }
        match routes::settle(&self.netns, &plan.routes) {
            Ok(settled) => {
                self.visit.changes += settled.changes;
                self.visit.failures.extend(settled.failures.into_iter().map(SandboxError::from));
                settled.there
            }
            Err(error) => {
                self.visit.failures.push(error.into());
                BTreeSet::new()
            }
        }
    }

    /// Makes our tables hold `want`, with what is known of them if that is still so.
    fn settle_table(
        &mut self,
        want: &Arc<Balances>,
        known: Option<Known>,
    ) -> Result<Option<OurTable>, NftError> {
        let (mut socket, believed) = match known.filter(|it| !it.failed).map(|it| it.table) {
            Some(None) if want.is_empty() && !self.due => return Ok(None),
            Some(Some(OurTable { socket, .. })) if self.doubted => (socket, None),
            Some(Some(OurTable { socket, held, inode: _ })) => (socket, Some(held)),
            Some(None) => (Socket::open(&self.netns)?, Some(Held::default())),
            None => (Socket::open(&self.netns)?, None),
        };
        let held = self.settle_held(&mut socket, want, believed)?;
        let inode = self.netns.inode();
        Ok((!held.tables.is_empty()).then_some(OurTable { held, socket, inode }))
    }

    fn settle_held(
        &mut self,
        socket: &mut Socket,
        want: &Arc<Balances>,
        believed: Option<Held>,
    ) -> Result<Held, NftError> {
        let is_first = believed.is_none() && !self.doubted;
        if let Some(held) = believed
            && (!self.due || readback::there(socket)?.iter().eq(held.tables.keys()))
        {
            match self.write(socket, &held, &BTreeSet::new(), want) {
                Ok(held) => return Ok(held),
                // Somebody else changed the table: what it holds is no longer what is known.
                Err(error) => tracing::debug!(%error, "reading the table back"),
            }
        }
        self.due = true;
        self.visit.suspect.extend(want.keys());
        let found = readback::read_back(socket, &self.netns, want)?;
        for what in found.strange.values() {
            let netns = self.netns.path().display();
            tracing::warn!(%netns, what, "replacing a VIP table that is not as portolan makes it");
        }
        self.visit.changes += found.strange.len() + usize::from(!found.alive);
        self.visit.tally.replaced = found.strange.len();
        let empty = found.held.tables.is_empty();
        self.visit.tally.made = empty && found.strange.is_empty() && !want.is_empty();
        self.visit.tally.adopted = !empty && is_first;
        self.write(socket, &found.held, &found.strange.into_keys().collect(), want)
    }

    /// Brings the tables from `held` to `want`, in one transaction. Those of the families in
    /// `strange` are there too, and nobody knows what they hold.
    fn write(
        &mut self,
        socket: &mut Socket,
        held: &Held,
        strange: &BTreeSet<IpFamily>,
        want: &Arc<Balances>,
    ) -> Result<Held, NftError> {
        let changes = self.steps.changes(&held.balances, want);
        let (mut batch, mut after) = if strange.is_empty() {
            self.steps.transaction(held, &changes, want)
        } else {
            ruleset::transaction(held, strange, &changes, want)
        };
        if self.due {
            ruleset::sweep(&mut batch, &mut after);
            ruleset::revive(&mut batch, &after);
        }
        let begun = Instant::now();
        socket.commit(&batch)?;
        self.visit.tally.transactions.push(begun.elapsed());
        if self.due || changes.iter().any(takes_from_clients) {
            affinity::forget(socket, &after)?;
        }
        for change in &changes {
            tracing::debug!(netns = %self.netns.path().display(), "{change}");
        }
        self.visit.changes += changes.len();
        self.visit.suspect.extend(changes.iter().filter_map(suspicious));
        Ok(after)
    }
}

/// Whether clients may have learned a way that this change closes.
fn takes_from_clients(change: &Change<'_>) -> bool {
    match change {
        Change::RemoveVip { old, .. } | Change::SetSlots { old, .. } => old.keeps(),
        Change::AddVip { .. }
        | Change::Rest { .. }
        | Change::Cut { .. }
        | Change::AddRoute(_)
        | Change::RemoveRoute(_) => false,
    }
}

/// The VIP whose flows may go elsewhere since this change.
fn suspicious(change: &Change<'_>) -> Option<IpAddr> {
    match change {
        Change::AddVip { vip, .. }
        | Change::RemoveVip { vip, .. }
        | Change::Rest { vip, .. }
        | Change::Cut { vip, .. } => Some(*vip),
        Change::SetSlots { vip, old, .. } => old.slots.is_empty().then_some(*vip),
        Change::AddRoute(_) | Change::RemoveRoute(_) => None,
    }
}

//! Serves the VIPs of sandboxes in which nftables is refused, or not wanted: they are at home in an
//! annex of the sandbox, and the relay listens on them there.
//!
//! Invariants
//! - *one plane each*: a sandbox that is served here has no table of ours;
//! - *decided once*: a sandbox in which nftables was refused stays here until portolan starts anew;
//! - *nothing left*: what is made for a sandbox is taken back when no plan asks for it, and goes
//!   with this process however it dies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use registry::id::SandboxId;
use registry::{Notes, Outcome};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::compile::host::host;
use crate::plan::{Plan, SandboxPlan};
use crate::relay::annex::Annex;
use crate::relay::{self, Entrance, Limits, Meter, Relay};
use crate::sandbox::{self, SandboxError, UPKEEP};

/// How VIPs are served (`vip.data_plane`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DataPlane {
    /// By nftables, and where that is refused by the relay.
    #[default]
    Auto,
    /// By nftables; where that is refused VIPs do not work.
    Nftables,
    /// By the relay.
    Userspace,
}

/// The sandboxes that are served here.
#[derive(Debug)]
pub(crate) struct Userspace {
    plane: DataPlane,
    drain: Duration,
    relay: Relay,
    /// Where nftables was refused, and with what words.
    refused: BTreeMap<SandboxId, String>,
    held: BTreeMap<SandboxId, Held>,
}

/// A sandbox as the last visit left it.
#[derive(Debug)]
struct Held {
    netns: PathBuf,
    cookie: u64,
    annex: Annex,
    visited: Instant,
}

/// What came of a visit; no [`Held`]: the namespace is gone.
struct Visit {
    id: SandboxId,
    held: Option<Held>,
    changes: usize,
    failure: Option<SandboxError>,
}

impl Userspace {
    /// Nobody is served yet.
    pub(crate) fn new(plane: DataPlane, drain: Duration) -> Self {
        let relay = Relay::new(Limits::default());
        Self { plane, drain, relay, refused: BTreeMap::new(), held: BTreeMap::new() }
    }

    /// Counts on `meter` what is relayed.
    pub(crate) fn counting_on(self, meter: &Meter) -> Self {
        Self { relay: self.relay.counting_on(meter), ..self }
    }

    /// Whether a sandbox is served here, and not by nftables.
    pub(crate) fn serves(&self, sandbox: &SandboxId) -> bool {
        self.plane == DataPlane::Userspace || self.refused.contains_key(sandbox)
    }

    /// Takes a sandbox over in which nftables was refused, if that may be; tells whether it did.
    pub(crate) fn takes_over(&mut self, sandbox: &SandboxId, error: &SandboxError) -> bool {
        let SandboxError::Table(error) = error else { return false };
        if self.plane != DataPlane::Auto || !error.is_refused() || *sandbox == host() {
            return false;
        }
        tracing::warn!(%sandbox, %error, "nftables is refused; VIPs are relayed in userspace");
        self.refused.insert(sandbox.clone(), error.to_string());
        true
    }

    /// What users should know: where VIPs are relayed though nftables would be better.
    pub(crate) fn notes(&self, plan: &Plan) -> Notes {
        let mut notes = Notes::default();
        for (id, reason) in &self.refused {
            let Some(sandbox) = plan.sandboxes.get(id) else { continue };
            notes.warning(
                format!("sandbox {}", sandbox.name),
                "vip",
                format!("VIPs are relayed by portolan itself, on known ports only: {reason}"),
                "allow nftables there and restart portolan, or set `vip.data_plane = \"userspace\"`",
            );
        }
        notes
    }

    /// Makes VIPs local where they are relayed, and relays them.
    pub(crate) async fn apply(&mut self, plan: &Plan, now: Instant, outcome: &mut Outcome) {
        self.refused.retain(|id, _| plan.sandboxes.contains_key(id));
        let wanted: BTreeSet<&SandboxId> =
            plan.sandboxes.keys().filter(|it| self.serves(it)).collect();
        if wanted.is_empty() && self.held.is_empty() {
            return;
        }
        // What goes, goes first: once its address is gone nobody could be told.
        self.relay(plan, outcome).await;
        let mut visits = self.visits(plan, &wanted, now);
        while let Some(visit) = visits.join_next().await {
            match visit {
                Ok(visit) => self.account(plan, visit, outcome),
                Err(error) => outcome.failures.error(
                    "vip",
                    "",
                    format!("a visit of a sandbox failed: {error}"),
                    "none needed: it is tried again; report it as a bug",
                ),
            }
        }
        self.relay(plan, outcome).await;
    }

    /// Visits of sandboxes that are not as planned, or were not looked after for a while.
    fn visits(
        &mut self,
        plan: &Plan,
        wanted: &BTreeSet<&SandboxId>,
        now: Instant,
    ) -> JoinSet<Visit> {
        let mut visits = JoinSet::new();
        for (id, sandbox) in plan.sandboxes.iter().filter(|(id, _)| wanted.contains(id)) {
            let content = self.held.get(id).is_some_and(|it| {
                it.netns == sandbox.netns
                    && it.annex.vips().iter().eq(sandbox.balances.keys())
                    && now < it.visited + UPKEEP
            });
            if !content {
                let (id, sandbox) = (id.clone(), sandbox.clone());
                let held = self.held.remove(&id).filter(|it| it.netns == sandbox.netns);
                visits.spawn_blocking(move || visit(id, &sandbox, held, now));
            }
        }
        let gone: Vec<_> = self.held.keys().filter(|it| !wanted.contains(it)).cloned().collect();
        for id in gone {
            if let Some(held) = self.held.remove(&id) {
                visits.spawn_blocking(move || leave(id, held));
            }
        }
        visits
    }

    fn account(&mut self, plan: &Plan, visit: Visit, outcome: &mut Outcome) {
        let Visit { id, held, changes, failure } = visit;
        outcome.changes += changes;
        if let Some(error) = failure {
            let name = plan.sandboxes.get(&id).map_or(id.as_str(), |it| &it.name);
            crate::apply::report(outcome, name, &error);
        }
        match held {
            Some(held) => drop(self.held.insert(id, held)),
            None => drop(self.held.remove(&id)),
        }
    }

    async fn relay(&mut self, plan: &Plan, outcome: &mut Outcome) {
        let mut wanted = relay::Plan::new();
        for (id, held) in &self.held {
            if let Some(sandbox) = plan.sandboxes.get(id) {
                let (cookie, annex) = (held.cookie, &held.annex);
                let all = relay::sandbox::entrances(sandbox, cookie, &annex.place(), self.drain);
                let here = |it: &Entrance| annex.vips().contains(&it.address.ip());
                wanted.extend(all.into_iter().filter(|(it, _)| here(it)));
            }
        }
        let applied = self.relay.apply(&wanted).await;
        outcome.changes += applied.changes;
        for relay::error::Failure { subject, error } in applied.failures {
            let remedy = error.remedy().unwrap_or("none needed: it is tried again");
            outcome.failures.error(subject, "vip", crate::apply::chain(&error), remedy);
        }
    }
}

/// Makes the VIPs of a sandbox be at home in its annex.
fn visit(id: SandboxId, plan: &SandboxPlan, held: Option<Held>, now: Instant) -> Visit {
    match settle(plan, held, now) {
        Ok(Some((held, changes))) => Visit { id, held: Some(held), changes, failure: None },
        Ok(None) => Visit { id, held: None, changes: 0, failure: None },
        Err(error) => Visit { id, held: None, changes: 0, failure: Some(error) },
    }
}

/// `None`: the namespace is gone.
fn settle(
    plan: &SandboxPlan,
    held: Option<Held>,
    now: Instant,
) -> Result<Option<(Held, usize)>, SandboxError> {
    let Some(netns) = sandbox::open(&plan.netns, plan.cookie)? else { return Ok(None) };
    let cookie = plan.cookie.map_or_else(|| netns.cookie(), Ok)?;
    let (mut annex, before) = match held.filter(|it| it.cookie == cookie) {
        Some(held) => (held.annex, 0),
        // It may hold what another plane left.
        None => (Annex::beside(&netns)?, sandbox::remove_tables(&netns)?),
    };
    let changes = annex.settle(&netns, &plan.balances.keys().copied().collect())?;
    let held = Held { netns: plan.netns.clone(), cookie, annex, visited: now };
    Ok(Some((held, before + changes)))
}

/// Takes everything back.
fn leave(id: SandboxId, held: Held) -> Visit {
    let left = match sandbox::open(&held.netns, Some(held.cookie)) {
        Ok(Some(netns)) => sandbox::cleanup(&netns).map(usize::from),
        Ok(None) => Ok(0),
        Err(error) => Err(error.into()),
    };
    match left {
        Ok(changes) => Visit { id, held: None, changes, failure: None },
        Err(error) => Visit { id, held: Some(held), changes: 0, failure: Some(error) },
    }
}

#[cfg(test)]
mod tests {
    use kernel::nft::NftError;

    use super::*;

    fn errors() -> [(SandboxError, bool); 4] {
        let what = || "make a table".to_owned();
        let io = |errno| std::io::Error::from_raw_os_error(errno);
        [
            // 95 is EOPNOTSUPP, 97 EAFNOSUPPORT, 16 EBUSY.
            (NftError::Unsupported { what: what(), index: 0, source: io(95) }.into(), true),
            (NftError::Denied { what: what() }.into(), true),
            (NftError::Io { what: what(), source: io(97) }.into(), true),
            (NftError::Busy { what: what(), index: 0, source: io(16) }.into(), false),
        ]
    }

    #[test]
    fn a_sandbox_is_taken_over_where_nftables_is_refused_and_nowhere_else() {
        for (error, refused) in errors() {
            let id = SandboxId::from("one");
            let serves = |plane| {
                let mut userspace = Userspace::new(plane, Duration::ZERO);
                let took = userspace.takes_over(&id, &error);
                assert_eq!(took, userspace.serves(&id) && plane == DataPlane::Auto);
                assert!(plane == DataPlane::Userspace || !userspace.serves(&"other".into()));
                took
            };
            assert_eq!(serves(DataPlane::Auto), refused, "{error}");
            assert!(!serves(DataPlane::Nftables), "what was asked for stays: it is an error");
            assert!(!serves(DataPlane::Userspace), "there is nothing to take over");
            let mut userspace = Userspace::new(DataPlane::Auto, Duration::ZERO);
            assert!(!userspace.takes_over(&host(), &error), "nothing is relayed on the host");
        }
    }
}

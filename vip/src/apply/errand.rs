//! The errands of one apply: namespaces to be visited, and what is read and stored beside.
//!
//! Always true here: each runs on a thread for blocking work, knows nothing of the others, and says
//! how it went.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use registry::id::SandboxId;
use tokio::time::Instant;

use super::Visited;
use crate::compile::host::host;
use crate::lease::Leases;
use crate::lease_file::{LeaseFile, WriteError};
use crate::plan::SandboxPlan;
use crate::routes;
use crate::sandbox::{self, Known, SandboxError, Visit};
use crate::steps::Steps;
use crate::watch::{self, Begun, Watch};

/// One visit to be made.
#[derive(Debug)]
pub(super) enum Errand {
    Settle {
        id: SandboxId,
        plan: SandboxPlan,
        known: Option<Known>,
        watch: Option<Watch>,
        /// Where it was before it was given another namespace.
        before: Option<Box<Visited>>,
    },
    Leave {
        id: SandboxId,
        visited: Visited,
    },
    Store(Arc<Leases>),
    /// What the host has routes to in these ranges, and its addresses where they are asked for.
    LookAtHost([IpNet; 2], bool),
    /// The host is no place of ours: what another configuration left there goes.
    LeaveHost,
}

/// How it went.
pub(super) enum Done {
    Visited {
        id: SandboxId,
        name: String,
        netns: PathBuf,
        visit: Box<Visit>,
        watched: Watched,
    },
    Stored(Result<Arc<Leases>, WriteError>),
    /// What the host has routes to, if it could be read, and its addresses.
    LookedAtHost(Option<BTreeSet<IpNet>>, BTreeSet<IpAddr>),
    /// How many things were there.
    LeftHost(Result<usize, SandboxError>),
}

/// Who hears what others do to a sandbox's table after a visit.
#[derive(Debug)]
pub(super) enum Watched {
    Nobody,
    As(Watch),
    Anew(Begun),
}

impl Errand {
    pub(super) fn run(self, file: &LeaseFile, steps: &Steps, now: Instant) -> Done {
        match self {
            Self::Settle { id, plan, known, watch, before } => {
                let mut visit = sandbox::visit(&plan, known, steps, now);
                if let Some(before) = before {
                    move_out(*before, &plan, &mut visit);
                }
                let watched = watched(&id, &plan, &mut visit, watch);
                let visit = visit.into();
                Done::Visited { id, name: plan.name, netns: plan.netns, visit, watched }
            }
            Self::Leave { id, visited: Visited { netns, known, watch: _ } } => {
                let visit = sandbox::leave(&netns, known).into();
                let (name, watched) = (id.as_str().to_owned(), Watched::Nobody);
                Done::Visited { name, id, netns, visit, watched }
            }
            Self::Store(leases) => Done::Stored(file.store(&leases).map(|()| leases)),
            Self::LookAtHost(pools, addresses) => {
                Done::LookedAtHost(host_routes(pools), host_addresses(addresses))
            }
            Self::LeaveHost => Done::LeftHost(sandbox::leave_host()),
        }
    }
}

/// Removes what is ours from where the sandbox was, unless that is another name of where it is.
fn move_out(before: Visited, plan: &SandboxPlan, visit: &mut Visit) {
    let here = visit.known.as_ref().map(|it| it.cookie).or(plan.cookie);
    if here != Some(before.known.cookie) {
        let left = sandbox::leave(&before.netns, before.known);
        visit.changes += left.changes;
        visit.failures.extend(left.failures);
    }
}

/// Sees to it that changes by others are heard of as long as there is a table.
fn watched(id: &SandboxId, plan: &SandboxPlan, visit: &mut Visit, watch: Option<Watch>) -> Watched {
    let Some(known) = &mut visit.known else { return Watched::Nobody };
    // The host's other flows that are translated are nobody's business of ours.
    if visit.tally.has_looked() && *id != host() {
        known.make_patient();
    }
    match watch {
        Some(watch) if watch.fits(known) => Watched::As(watch),
        Some(_) | None => match watch::begin(&plan.netns, known) {
            Ok(begun) => begun.map_or(Watched::Nobody, Watched::Anew),
            // The upkeep looks, and tries again.
            Err(error) => {
                let sandbox = &plan.name;
                tracing::warn!(sandbox, %error, "changes of the table by others are not heard of");
                Watched::Nobody
            }
        },
    }
}

/// What no VIP may hide; `None`: it cannot be seen, and what was seen last is believed.
pub(super) fn host_routes(pools: [IpNet; 2]) -> Option<BTreeSet<IpNet>> {
    let routes = routes::of_the_host(pools);
    routes.inspect_err(|error| tracing::warn!(%error, "the host's routes cannot be read")).ok()
}

/// The host's own addresses, where they are asked for; none where they cannot be read.
pub(super) fn host_addresses(asked: bool) -> BTreeSet<IpAddr> {
    if !asked {
        return BTreeSet::new();
    }
    let read = routes::addresses_of_the_host();
    let read =
        read.inspect_err(|error| tracing::warn!(%error, "the host's addresses are not known"));
    read.unwrap_or_default()
}

//! Asks every sandbox's own 127.0.0.11 for names of the plan, and compares what it says.
//!
//! Invariants
//! - *as a client*: the question goes the way that a container's goes, through the rules of its
//!   namespace, so what answers is what containers hear;
//! - *bounded*: in each sandbox [`NAMES`] names are asked, evenly taken from all, and a sandbox
//!   that is silent is given up after [`SILENCES`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kernel::door::Door;
use kernel::netns::NetnsError;
use registry::model::{Dial, Upstream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::answer::{Record, Verdict, answer};
use crate::compile::SANDBOX_ADDRESS;
use crate::name::Name;
use crate::plan::{Plan, View};
use crate::upstream::exchange::{Place, ask_udp};
use crate::wire::{Edns, Kind, Query, Rcode};

/// As many names are asked in each sandbox.
pub const NAMES: usize = 32;
/// After as many questions without an answer a sandbox is asked no more.
const SILENCES: usize = 3;
/// An answer from the registry comes within a millisecond.
const WAIT: Duration = Duration::from_millis(500);
/// As many sandboxes are asked at the same time.
const AT_ONCE: usize = 8;

/// What came of asking.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verified {
    /// How many questions were answered.
    pub answered: usize,
    /// What differs, a line each, by sandbox.
    pub differences: Vec<String>,
}

/// Asks in every sandbox of `plan`.
pub async fn verify(plan: &Plan) -> Result<Verified, NetnsError> {
    let door = Arc::new(Door::open()?);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for view in plan.views.values() {
        let (view, door, places) = (Arc::clone(view), Arc::clone(&door), Arc::clone(&places));
        asking.spawn(async move {
            let _place = places.acquire_owned().await;
            sandbox(&door, &view).await
        });
    }
    let mut all = Verified::default();
    while let Some(ended) = asking.join_next().await {
        match ended {
            Ok(Verified { answered, differences }) => {
                all.answered += answered;
                all.differences.extend(differences);
            }
            Err(error) => all.differences.push(format!("a look failed: {error}")),
        }
    }
    all.differences.sort();
    Ok(all)
}

async fn sandbox(door: &Door, view: &View) -> Verified {
    let place = Place { netns: view.netns.clone(), cookie: view.cookie };
    let (mut told, mut silences) = (Verified::default(), 0);
    for name in names(view) {
        let Ok(asked) = Name::from_text(&name) else { continue };
        let query = Query::plain(asked, Kind::A);
        let Verdict::Answer(planned) = answer(view, &query, 0) else { continue };
        let planned: BTreeSet<_> = planned.records.iter().filter_map(ipv4).collect();
        let said = said(door, &place, &query).await;
        let difference = match &said {
            Ok(said) if *said == planned => None,
            Ok(said) => Some(format!("is {}, and {} is planned", list(said), list(&planned))),
            Err(reason) => Some(reason.clone()),
        };
        told.answered += usize::from(said.is_ok());
        silences += usize::from(said.is_err());
        let line = |it| format!("sandbox {}: {name} {it}", view.name);
        told.differences.extend(difference.map(line));
        if silences == SILENCES {
            break;
        }
    }
    told
}

/// Some of the names that the sandbox can resolve.
fn names(view: &View) -> BTreeSet<String> {
    let known: usize = view.zones.iter().map(|it| it.names.len()).sum();
    let every = known.div_ceil(NAMES).max(1);
    let all = view.zones.iter().flat_map(|it| it.names.keys());
    all.step_by(every).cloned().collect()
}

async fn said(door: &Door, place: &Place, query: &Query) -> Result<BTreeSet<Ipv4Addr>, String> {
    let address = SocketAddr::from((SANDBOX_ADDRESS, 53));
    let server = Upstream { address, dial: Dial::Sandbox };
    // Enough for the largest set of tasks that fits a datagram at all.
    let edns = Some(Edns { size: 65_000, dnssec_ok: false });
    match timeout(WAIT, ask_udp(door, place, server, query, edns)).await {
        Ok(Ok(reply)) if !reply.authoritative() => {
            Err("is answered by somebody else, not by portolan".to_owned())
        }
        Ok(Ok(reply)) if reply.code == Rcode::NOERROR => {
            let unreadable = || "has an answer that cannot be read".to_owned();
            Ok(reply.ipv4_addresses().ok_or_else(unreadable)?.into_iter().collect())
        }
        Ok(Ok(reply)) => Err(format!("is answered with code {}", reply.code.0)),
        Ok(Err(error)) => Err(format!("cannot be asked: {error}")),
        Err(_elapsed) => Err("has no answer".to_owned()),
    }
}

fn ipv4(record: &Record) -> Option<Ipv4Addr> {
    match record {
        Record::Address(IpAddr::V4(address)) => Some(*address),
        Record::Address(IpAddr::V6(_))
        | Record::Pointer(_)
        | Record::Service { .. }
        | Record::Minimal => None,
    }
}

fn list(addresses: &BTreeSet<Ipv4Addr>) -> String {
    if addresses.is_empty() {
        return "nothing".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

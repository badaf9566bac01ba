//! Asks every sandbox's own 127.0.0.11 for names of the plan, and compares what it says.
//!
//! Invariants
//! - *as a client*: the question goes the way that a container's goes, through the rules of its
//!   namespace, so what answers is what containers hear;
//! - *every one*: where a sandbox can resolve nothing, it is asked what everybody is told;
//! - *bounded*: in each sandbox [`NAMES`] names are asked, evenly taken from all, and [`REVERSED`] of
//!   the addresses that they have; a sandbox that is silent is given up after [`SILENCES`].

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
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
use crate::name::{Name, reverse_wire};
use crate::plan::{Plan, View};
use crate::upstream::exchange::{Place, ask_udp};
use crate::wire::{Edns, Kind, Query, Rcode};

/// As many names are asked in each sandbox.
pub const NAMES: usize = 32;
/// As many addresses are asked for their names.
const REVERSED: usize = 8;
/// What every sandbox is told by portolan (RFC 6761 section 6.3).
const EVERYWHERE: &str = "localhost";
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
    for Question { text, query, planned } in questions(view) {
        let said = said(door, &place, &query).await;
        let difference = match &said {
            Ok(said) if *said == planned => None,
            Ok(said) => Some(format!("is {}, and {} is planned", list(said), list(&planned))),
            Err(reason) => Some(reason.clone()),
        };
        told.answered += usize::from(said.is_ok());
        silences += usize::from(said.is_err());
        let line = |it| format!("sandbox {}: {text} {it}", view.name);
        told.differences.extend(difference.map(line));
        if silences == SILENCES {
            break;
        }
    }
    told
}

/// What is asked, and what the answer has to be.
#[derive(Debug)]
struct Question {
    /// For people.
    text: String,
    query: Query,
    planned: BTreeSet<String>,
}

impl Question {
    /// `None`: it is not portolan that answers it.
    fn of(view: &View, text: String, name: Name, kind: Kind) -> Option<Self> {
        let query = Query::plain(name, kind);
        let Verdict::Answer(planned) = answer(view, &query, 0) else { return None };
        let planned = planned.records.iter().filter_map(in_words).collect();
        Some(Self { text, query, planned })
    }
}

fn questions(view: &View) -> Vec<Question> {
    let mut questions = Vec::new();
    let mut addresses = BTreeSet::new();
    for text in names(view) {
        let Ok(name) = Name::from_text(&text) else { continue };
        for (kind, called) in [(Kind::A, ""), (Kind::AAAA, " (AAAA)")] {
            let text = format!("{text}{called}");
            let Some(question) = Question::of(view, text, name.clone(), kind) else { continue };
            addresses.extend(question.planned.iter().filter_map(|it| it.parse::<IpAddr>().ok()));
            questions.push(question);
        }
    }
    addresses.retain(|it| !it.is_loopback());
    let every = addresses.len().div_ceil(REVERSED).max(1);
    questions.extend(addresses.into_iter().step_by(every).filter_map(|address| {
        let mut wire = reverse_wire(address);
        wire.push(0);
        let name = Name::from_wire(&wire).ok()?;
        Question::of(view, format!("{address} (PTR)"), name, Kind::PTR)
    }));
    questions
}

/// Some of the names that the sandbox can resolve.
fn names(view: &View) -> BTreeSet<String> {
    let known: usize = view.zones.iter().map(|it| it.names.len()).sum();
    let every = known.div_ceil(NAMES).max(1);
    let all = view.zones.iter().flat_map(|it| it.names.keys());
    let own = view.links.keys().chain(view.hosts.keys()).take(NAMES);
    let mut names: BTreeSet<String> = all.step_by(every).chain(own).cloned().collect();
    if names.is_empty() {
        names.insert(EVERYWHERE.to_owned());
    }
    names
}

async fn said(door: &Door, place: &Place, query: &Query) -> Result<BTreeSet<String>, String> {
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
            Ok(reply.told(query.kind).ok_or_else(unreadable)?.into_iter().collect())
        }
        Ok(Ok(reply)) => Err(format!("is answered with code {}", reply.code.0)),
        Ok(Err(error)) => Err(format!("cannot be asked: {error}")),
        Err(_elapsed) => Err("has no answer".to_owned()),
    }
}

fn in_words(record: &Record) -> Option<String> {
    match record {
        Record::Address(address) => Some(address.to_string()),
        Record::Pointer(name) => Some(name.key()),
        Record::Service { .. } | Record::Minimal => None,
    }
}

fn list(said: &BTreeSet<String>) -> String {
    if said.is_empty() {
        return "nothing".to_owned();
    }
    said.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use registry::Snapshot;
    use registry::source::world;

    use super::*;
    use crate::compile::compile;
    use crate::plan::{Config, VipTable};
    use crate::upstream::UpstreamConfig;

    fn asked(world: &str) -> Vec<String> {
        let snapshot = Snapshot::build(world::parse(world, "test").unwrap(), 1);
        let config = Config {
            ttl: Duration::from_secs(5),
            vip_ttl: Duration::from_secs(30),
            forward_single_label: false,
            host_listen: None,
            upstream: UpstreamConfig::default(),
        };
        let (plan, _notes) = compile(&snapshot, &VipTable::default(), &config);
        let view = plan.views.values().next().unwrap();
        let line = |it: &Question| format!("{}: {}", it.text, list(&it.planned));
        questions(view).iter().map(line).collect()
    }

    const SANDBOX: &str = "[[sandbox]]\nname = \"box\"\nnetns = \"/nowhere\"\nnetworks = [\"n\"]\n";

    #[test]
    fn a_name_is_asked_for_both_families_and_its_addresses_for_their_names() {
        let world = "[[network]]\nname = \"n\"\nsubnets = [\"10.0.0.0/24\", \"fd00::/64\"]\n\
             [[task]]\nname = \"a\"\naddresses = { n = [\"10.0.0.1\", \"fd00::1\"] }\n";
        let expected =
            ["a: 10.0.0.1", "a (AAAA): fd00::1", "10.0.0.1 (PTR): a.n", "fd00::1 (PTR): a.n"];
        assert_eq!(asked(&format!("{world}{SANDBOX}")), expected);
    }

    #[test]
    fn a_sandbox_that_can_resolve_nothing_is_asked_all_the_same() {
        let said = asked(&format!("[[network]]\nname = \"n\"\n{SANDBOX}"));
        assert_eq!(said, ["localhost: 127.0.0.1", "localhost (AAAA): ::1"]);
    }
}

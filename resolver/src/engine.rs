//! Asks the engine's own resolver in a sandbox, which knows names that gossip does not carry
//! (aliases, on Swarm workers).
//!
//! Invariants
//! - *the engine's word, our answer*: addresses that the registry knows are answered as the
//!   registry would, so that nobody is sent to a draining task; what it does not know is handed on
//!   with TTLs of ours, because the engine gives ten minutes to what changes in seconds;
//! - *no type confusion*: of other types than A and AAAA the engine knows nothing and would ask
//!   the world; it is asked for an address instead, which tells whether the name exists;
//! - *an engine that is away denies nothing*: what it said last holds until it is back;
//! - *no doubt about short names*: what it does not know itself does not exist, whatever it fetches
//!   from outside, unless short names are to be forwarded.

mod client;
mod meaning;
mod memory;
mod overtake;
mod ports;
mod word;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::door::Door;
use registry::model::{Dial, Upstream};
use tokio::time::{Instant, timeout};

pub use client::EngineClient;

use crate::answer::{Answer, Reason, addresses, may_be_public};
use crate::chance;
use crate::compile::SANDBOX_ADDRESS;
use crate::name::Name;
use crate::plan::{Outside, View};
use crate::upstream::exchange::Place;
use crate::wire::encode::{self, Recursion};
use crate::wire::reply::Reply;
use crate::wire::{Edns, Kind, Query, Rcode, Transport};
use memory::{Asked, Memory, Slot, Told};
use overtake::{Asker, Outcome};
use ports::Ports;
use word::Word;

/// The engine's own resolver in one sandbox. It may start after us, and again elsewhere when the
/// engine restarts, so it is looked for when it is needed.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Its sandbox.
    pub(crate) place: Place,
    /// Our own port on 127.0.0.11.
    own: u16,
    ports: Ports,
    memory: Mutex<Memory>,
}

impl Engine {
    /// The engine's resolver in the sandbox where `own` is our UDP port.
    pub(crate) fn new(place: Place, own: u16) -> Self {
        Self { place, own, ports: Ports::default(), memory: Mutex::default() }
    }

    fn slot(&self, view: &View, asked: &Query) -> Slot {
        self.memory().slot(&view.zones, key(asked), Instant::now())
    }

    /// A panic elsewhere leaves at worst a name that is asked again.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it says to `asked`, asked unless somebody did a moment ago.
    async fn told(&self, door: &Door, view: &View, asked: &Query) -> Word {
        let asking = async || {
            let heard = self.hear(door, view, asked).await;
            let word = self.memory().lasting(&view.zones, &key(asked), heard, Instant::now());
            let until = Instant::now() + believed(&word, view.ttl);
            Told { word, until }
        };
        self.slot(view, asked).get_or_init(asking).await.word.clone()
    }

    async fn hear(&self, door: &Door, view: &View, asked: &Query) -> Word {
        let ports = self.ports.get(&self.place, self.own).await;
        let Some(wait) = u32::try_from(ports.len()).ok().and_then(|it| WAIT.checked_div(it)) else {
            return Word::Nobody;
        };
        // What the engine knows for certain: the sandbox's own name.
        let own_name = Name::from_text(&view.name).ok();
        let own_name = own_name.filter(|_| denies_at_once(view, asked) || has_others(view, asked));
        for port in &ports {
            let address = SocketAddr::from((SANDBOX_ADDRESS, *port));
            let server = Upstream { address, dial: Dial::Sandbox };
            let asker = Asker { door, place: &self.place, server };
            match timeout(wait, asker.ask(asked, own_name.as_ref())).await {
                Ok(Ok(Outcome::Reply(reply))) => return understood(reply, view, asked),
                Ok(Ok(Outcome::Overtaken)) => return Word::Elsewhere,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        self.ports.forget(&ports).await;
        Word::Silent
    }
}

/// The reply to `query` as the engine means it. `None`: it does not know the name, which may be
/// somebody's in the Internet, and there are servers that are better asked without it.
pub(crate) async fn ask(
    door: &Door,
    engine: &Engine,
    view: &View,
    query: &Query,
    transport: Transport,
) -> Option<Vec<u8>> {
    let asked = asked(view, query);
    let word = engine.told(door, view, &asked).await;
    let said = |it: Answer| encode::answer(query, &it, transport, Recursion::Offered);
    let failed = |code, reason| encode::refusal(query, code, reason, Recursion::Offered);
    if has_others(view, query) && !is_its_own(&word) {
        return None;
    }
    Some(match word {
        Word::Known(entry) => {
            // Without random numbers the order is not shuffled, and still answered.
            said(addresses(&entry, query.kind, chance::unpredictable().unwrap_or_default()))
        }
        Word::Foreign(_) if asked.kind != query.kind => said(Answer::no_data(view.ttl)),
        Word::Foreign(reply) => hand_on(reply, query, transport, view.ttl)
            .unwrap_or_else(|| failed(Rcode::SERVFAIL, Reason::EngineSilent)),
        Word::NoData => said(Answer::no_data(view.ttl)),
        Word::NoName => said(Answer::no_name(view.ttl)),
        Word::Elsewhere => said(Answer::no_name(view.ttl.min(UNCERTAIN))),
        Word::Failed(code) => failed(code, Reason::Plain),
        Word::Silent | Word::Nobody => failed(Rcode::SERVFAIL, Reason::EngineSilent),
    })
}

fn key(asked: &Query) -> Asked {
    (asked.name.key(), asked.kind)
}

/// What the engine is asked instead of `query`: the same for all clients. Of a short name that is
/// not to be forwarded without RD, so that a server to which the engine sends it does not take it
/// to the root (RFC 1035 section 4.1.1); the engine itself does not look at RD.
fn asked(view: &View, query: &Query) -> Query {
    let kind = if query.kind == Kind::AAAA { Kind::AAAA } else { Kind::A };
    let (checking_disabled, authentic_data) = (false, false);
    let edns = Some(Edns { size: ENGINE_UDP, dnssec_ok: false });
    let recursion_desired = !denies_at_once(view, query);
    Query { recursion_desired, checking_disabled, authentic_data, kind, edns, ..query.clone() }
}

/// Whether a name that the engine does not know itself does not exist: short names, and
/// `tasks.NAME`, which means nothing outside.
fn denies_at_once(view: &View, query: &Query) -> bool {
    let mut labels = query.name.labels();
    match (labels.next(), labels.next(), labels.next()) {
        (Some(_), None, None) => !view.forward_single_label,
        (Some(first), Some(_), None) => first.eq_ignore_ascii_case(b"tasks"),
        _ => false,
    }
}

/// Whether servers outside may know the name, and can be asked without the engine: with what is
/// kept of them, and with more patience than a container's own names get.
fn has_others(view: &View, query: &Query) -> bool {
    matches!(view.outside, Outside::Servers(_)) && may_be_public(&query.name.key())
}

/// Whether the engine says that of what it knows itself.
fn is_its_own(word: &Word) -> bool {
    match word {
        Word::Known(_) | Word::NoData => true,
        Word::Foreign(reply) => word::hear(reply).is_some_and(|it| !it.is_from_outside),
        Word::NoName | Word::Elsewhere | Word::Failed(_) | Word::Silent | Word::Nobody => false,
    }
}

/// `reply` in the registry's words.
fn understood(reply: Reply, view: &View, asked: &Query) -> Word {
    let Some(heard) = word::hear(&reply) else {
        return Word::Failed(Rcode::SERVFAIL);
    };
    let denies = denies_at_once(view, asked);
    match reply.code {
        _ if denies && heard.is_from_outside => Word::NoName,
        Rcode::NOERROR => match heard.addresses {
            Some(none) if none.is_empty() && !reply.truncated => Word::NoData,
            // Where some were cut off, those that came tell whose the others are.
            Some(all) => match meaning::meaning(&view.zones, &asked.name.key(), &all) {
                Some(entry) => Word::Known(entry),
                None => Word::Foreign(reply),
            },
            None => Word::Foreign(reply),
        },
        Rcode::NXDOMAIN => Word::NoName,
        _ if denies => Word::NoName,
        code => Word::Failed(code),
    }
}

/// How long a word is believed; `ttl` in seconds is what clients are told.
fn believed(word: &Word, ttl: u32) -> Duration {
    match word {
        Word::Known(entry) => Duration::from_secs(entry.ttl.min(ttl).into()),
        Word::Foreign(_) => Duration::from_secs(ttl.into()),
        Word::NoData | Word::NoName | Word::Elsewhere | Word::Failed(_) | Word::Silent => NEGATIVE,
        Word::Nobody => ports::LOOK_AGAIN,
    }
}

fn hand_on(reply: Reply, query: &Query, transport: Transport, ttl: u32) -> Option<Vec<u8>> {
    let reply = word::readdressed(reply, query)?.capped(ttl, query.edns.is_some())?;
    Some(reply.for_client(query, transport))
}

/// What the engine knows it says within a millisecond or two; what it asks upstream may take its
/// four seconds and is not worth waiting for. Not less: a busy engine must not make a name vanish.
const WAIT: Duration = Duration::from_secs(1);
/// A name that is not there may be in a moment: its service is being made.
const NEGATIVE: Duration = Duration::from_secs(1);
/// Seconds for which clients may keep a denial that was concluded and not said.
const UNCERTAIN: u32 = 1;
/// Every address of a large service, in one datagram over loopback.
const ENGINE_UDP: u16 = 4096;

#[cfg(test)]
mod tests;

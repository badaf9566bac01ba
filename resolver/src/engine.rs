//! Asks the engine's own resolver in a sandbox, which knows names that gossip does not carry
//! (aliases, on Swarm workers).
//!
//! Invariants
//! - *the engine's word, our time*: its answers are handed on with TTLs of ours, because it gives
//!   ten minutes to what changes in seconds;
//! - *no type confusion*: of other types than A and AAAA the engine knows nothing and would ask
//!   the world; it is asked for an address instead, which tells whether the name exists;
//! - *no doubt about short names*: what it fails to resolve it does not know, because what it
//!   knows it answers at once.

mod client;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::door::Door;
use kernel::netns::{Netns, NetnsError};
use kernel::socket::{SocketError, udp_ports_bound_to};
use registry::model::{Dial, Upstream};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

pub use client::EngineClient;

use crate::answer::{Answer, Reason};
use crate::compile::SANDBOX_ADDRESS;
use crate::forward::{Place, ask_udp};
use crate::wire::encode::{self, Recursion};
use crate::wire::reply::Reply;
use crate::wire::{Edns, Kind, Query, Rcode, Transport};

/// The engine's own resolver in one sandbox. It may start after us, and again elsewhere when the
/// engine restarts, so it is looked for when it is needed.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Its sandbox.
    pub(crate) place: Place,
    /// Our own port on 127.0.0.11.
    own: u16,
    /// UDP ports on 127.0.0.11 that are not ours, as found last: usually one, the engine's.
    found: Mutex<Found>,
}

#[derive(Clone, Debug, Default)]
struct Found {
    ports: Vec<u16>,
    looked: Option<Instant>,
}

impl Engine {
    /// The engine's resolver in the sandbox where `own` is our UDP port.
    pub(crate) fn new(place: Place, own: u16) -> Self {
        Self { place, own, found: Mutex::default() }
    }

    /// The ports to ask, looked up anew where none is known.
    async fn ports(&self) -> Vec<u16> {
        let found = self.lock().clone();
        let fresh = found.looked.is_some_and(|it| it.elapsed() < LOOK_AGAIN);
        if !found.ports.is_empty() || fresh {
            return found.ports;
        }
        let ports = ports_in(&self.place, Some(self.own)).await;
        *self.lock() = Found { ports: ports.clone(), looked: Some(Instant::now()) };
        ports
    }

    fn forget(&self) {
        self.lock().ports.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // Only whole values are put in, so a panic elsewhere leaves nothing half done.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The UDP ports of 127.0.0.11 that are taken in a namespace, `own` left out; none where that
/// cannot be told.
async fn ports_in(place: &Place, own: Option<u16>) -> Vec<u16> {
    let Place { netns, cookie } = place.clone();
    let looking = spawn_blocking(move || {
        let netns = Netns::open_checked(&netns, cookie)?;
        let mut ports = udp_ports_bound_to(&netns, SANDBOX_ADDRESS)?;
        ports.retain(|it| Some(*it) != own);
        ports.truncate(MAX_PORTS);
        Ok::<_, LookError>(ports)
    });
    match looking.await {
        Ok(Ok(ports)) => ports,
        Ok(Err(error)) => {
            tracing::debug!(%error, "cannot look for the engine's resolver");
            Vec::new()
        }
        Err(error) => {
            tracing::debug!(%error, "the look for the engine's resolver ended early");
            Vec::new()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// The reply to `query` as the engine has it; where there is no engine the name does not exist.
/// `ttl` bounds how long the client may keep it.
pub(crate) async fn ask(
    door: &Door,
    engine: &Engine,
    query: &Query,
    transport: Transport,
    ttl: u32,
) -> Vec<u8> {
    let said = |it: Answer| encode::answer(query, &it, transport, Recursion::Offered);
    let asked = match query.kind {
        Kind::A | Kind::AAAA => query.clone(),
        _ => Query { kind: Kind::A, ..query.clone() },
    };
    let reply = match first_reply(door, engine, &asked).await {
        Heard::Reply(reply) => reply,
        Heard::NoEngine => return said(Answer::no_name(ttl)),
        Heard::Nothing => {
            return encode::refusal(
                query,
                Rcode::SERVFAIL,
                Reason::EngineSilent,
                Recursion::Offered,
            );
        }
    };
    let single = query.name.labels().nth(1).is_none();
    match reply.code {
        Rcode::NOERROR if asked.kind != query.kind || reply.answers() == 0 => {
            said(Answer::no_data(ttl))
        }
        Rcode::NOERROR => hand_on(reply, query, transport, ttl),
        Rcode::NXDOMAIN => said(Answer::no_name(ttl)),
        _ if single => said(Answer::no_name(ttl)),
        code => encode::refusal(query, code, Reason::Plain, Recursion::Offered),
    }
}

enum Heard {
    Reply(Reply),
    NoEngine,
    Nothing,
}

async fn first_reply(door: &Door, engine: &Engine, query: &Query) -> Heard {
    let edns = Some(Edns { size: ENGINE_UDP, dnssec_ok: false });
    let ports = engine.ports().await;
    let Some(wait) = u32::try_from(ports.len()).ok().and_then(|it| WAIT.checked_div(it)) else {
        return Heard::NoEngine;
    };
    for port in ports {
        let address = SocketAddr::from((SANDBOX_ADDRESS, port));
        let server = Upstream { address, dial: Dial::Sandbox };
        let asking = ask_udp(door, &engine.place, server, query, edns);
        if let Ok(Ok(reply)) = timeout(wait, asking).await {
            return Heard::Reply(reply);
        }
    }
    engine.forget();
    Heard::Nothing
}

fn hand_on(reply: Reply, query: &Query, transport: Transport, ttl: u32) -> Vec<u8> {
    match reply.capped(ttl, query.edns.is_some()) {
        Some(reply) => reply.for_client(query, transport),
        None => encode::refusal(query, Rcode::SERVFAIL, Reason::EngineSilent, Recursion::Offered),
    }
}

/// What the engine knows it says within a millisecond or two; what it asks upstream may take its
/// four seconds and is not worth waiting for. Not less: a busy engine must not make a name vanish.
const WAIT: Duration = Duration::from_secs(1);
/// Where there was no engine a moment ago, there is none yet.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A container may bind ports of 127.0.0.11 too; so many are tried, it harms only itself.
const MAX_PORTS: usize = 4;
/// Every address of a large service, in one datagram over loopback.
const ENGINE_UDP: u16 = 4096;

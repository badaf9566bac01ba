//! Asks one server, and finds out early that it passed the question on to somebody else.
//!
//! The engine forwards a name that it does not know, and is silent until its own servers answer or
//! it gives them up, after four seconds each. But what it knows it answers from memory, each
//! question in a goroutine of its own. So a question that is passed by two later ones to which it
//! knows the answer was forwarded. Two, 50 ms apart and one after the other: the first shows that
//! the engine is awake, the second that it went on being so while the question had all that time.
//! A goroutine that is not scheduled, or waits for a lock of the engine's, while two others like it
//! come and go, would be misjudged: it would have to wait 100 ms where they wait none, and the
//! denial is believed for a second.
//!
//! Always true here: an engine that does not answer what it knows proves nothing.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use kernel::door::Door;
use registry::model::Upstream;
use tokio::time::sleep;

use super::ENGINE_UDP;
use crate::name::Name;
use crate::upstream::exchange::{AskError, Place, ask_udp};
use crate::wire::reply::Reply;
use crate::wire::{Edns, Kind, Query, Rcode};

/// Asks `server` from `place`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub(super) door: &'a Door,
    pub(super) place: &'a Place,
    pub(super) server: Upstream,
}

/// What came of a question.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A reply.
    Reply(Reply),
    /// None yet, while later questions for a known name were answered.
    Overtaken,
}

impl Asker<'_> {
    /// The reply to `query`; with a `known` name it is not waited for any longer than it takes to
    /// see that the server asks others.
    pub(super) async fn ask(
        self,
        query: &Query,
        known: Option<&Name>,
    ) -> Result<Outcome, AskError> {
        let mut asking = pin!(self.once(query));
        tokio::select! {
            biased;
            reply = &mut asking => reply.map(Outcome::Reply),
            () = self.overtaken(query, known) => Ok(Outcome::Overtaken),
        }
    }

    async fn once(self, query: &Query) -> Result<Reply, AskError> {
        let edns = Some(Edns { size: ENGINE_UDP, dnssec_ok: false });
        ask_udp(self.door, self.place, self.server, query, edns).await
    }

    /// Resolves when two questions for `known` were answered, and never otherwise.
    async fn overtaken(self, query: &Query, known: Option<&Name>) {
        let Some(known) = known else { return pending().await };
        let beat = Query { name: known.clone(), kind: Kind::A, ..query.clone() };
        sleep(AT_ONCE).await;
        for _ in 0..BEATS {
            match self.once(&beat).await {
                Ok(reply) if reply.code == Rcode::NOERROR && reply.answers() > 0 => {}
                Ok(_) | Err(_) => return pending().await,
            }
            sleep(PATIENCE).await;
        }
    }
}

/// What the engine knows is nearly always there by then, and costs one question.
const AT_ONCE: Duration = Duration::from_millis(5);
/// Questions for the known name that must be answered.
const BEATS: usize = 2;
/// How much time the question gets after each of them.
const PATIENCE: Duration = Duration::from_millis(50);

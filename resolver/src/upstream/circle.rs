//! Those who ask the same servers from the same place: what they share.
//!
//! Invariants
//! - *one question serves all*: what one of them has asked, all are told, while it is in flight and
//!   as long as it is kept;
//! - *kept apart*: nothing comes in from another circle. A sandbox with a server that is dialled from
//!   inside it is alone in its circle, because it may be that server itself. Where answers are
//!   filtered against rebinding the subnets of the asker decide too, so that then a circle is also
//!   of one list of subnets: what is held back from one sandbox is never told or denied to another;
//! - *gone with its last sandbox*: its questions in flight end then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use kernel::door::Door;
use registry::model::Dial;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::asking::{Asking, Heard, is_final};
use super::cache::{Admission, Cache, Folded, Found, Refresh, Renewal};
use super::exchange::Place;
use super::flight::{Boarded, Flight, Flights, Pilot};
use super::health::Health;
use super::limits::{Leave, Passage};
use super::locked;
use super::policy::Policy;
use super::rebinding;
use super::server::Server;
use crate::answer::Reason;
use crate::metrics::Source;
use crate::plan::{Outside, View};
use crate::wire::reply::Reply;
use crate::wire::reply::asked::Asked;
use crate::wire::reply::chain::Chain;
use crate::wire::{Query, Rcode, Recursion, Transport, encode};

/// Who asks, as far as it decides what he is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// Whom he asks.
    pub(crate) servers: &'a [Server],
    /// The address ranges of his networks.
    pub(crate) subnets: &'a [IpNet],
}

/// Sandboxes that share what they are told.
#[derive(Debug)]
pub(crate) struct Circle {
    core: Arc<Core>,
    /// The questions in flight. They hold the core, not the circle, which ends them.
    flying: Mutex<JoinSet<()>>,
    members: AtomicUsize,
}

/// What questions in flight need of a circle.
#[derive(Debug)]
struct Core {
    policy: Arc<Policy>,
    servers: Vec<Server>,
    /// `None`: they decide nothing.
    subnets: Option<Vec<IpNet>>,
    asking: Asking,
    cache: Mutex<Cache>,
    flights: Flights<Landed>,
}

/// How a question ended.
#[derive(Debug)]
enum Landed {
    /// With the best reply that there was.
    Reply(Reply),
    /// With one that may not be told.
    Blocked(Reply),
    /// With aliases that lead nowhere.
    Endless,
    /// Nobody answered.
    Nothing,
}

/// A reply for a client, and who gave it.
pub(crate) type Given = (Vec<u8>, Source);

/// What is kept for a question.
#[derive(Debug)]
pub(super) enum Kept {
    /// Nothing that may be told.
    Nothing,
    /// This, and nobody needs to be asked.
    Settled(Given),
    /// This, and somebody should be asked behind it.
    Renewed(Given),
    /// What was true once. Who is asked now may know better.
    Expired,
}

/// What was told of what is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Told {
    /// Octets of the reply.
    pub(crate) length: usize,
    /// Its response code.
    pub(crate) code: Rcode,
    /// Whether it still holds.
    pub(crate) source: Source,
}

impl<'a> Asker<'a> {
    /// The sandbox that `view` is of; `None`: it may ask nobody.
    pub(crate) fn of(view: &'a View) -> Option<Self> {
        match &view.outside {
            Outside::Servers(servers) => Some(Self { servers, subnets: &view.subnets }),
            Outside::Internal | Outside::NoServers => None,
        }
    }

    /// Whether he may share what he is told with others: no server can be his own.
    fn shares(&self) -> bool {
        self.servers.iter().all(|it| it.dial == Dial::Host)
    }
}

impl Circle {
    /// One of `asker` alone so far, who is at `place`.
    pub(super) fn new(policy: &Arc<Policy>, door: Door, place: Place, asker: Asker<'_>) -> Self {
        let core = Core {
            policy: Arc::clone(policy),
            servers: asker.servers.to_owned(),
            subnets: policy.filter.is_some().then(|| asker.subnets.to_owned()),
            asking: Asking::new(policy, door, place),
            cache: Mutex::new(Cache::new(Arc::clone(&policy.budget))),
            flights: Flights::default(),
        };
        Self { core: Arc::new(core), flying: Mutex::default(), members: AtomicUsize::new(0) }
    }

    /// Whether `asker` belongs to it, if any sandbox but its first may.
    pub(super) fn admits(&self, policy: &Arc<Policy>, asker: Asker<'_>) -> bool {
        asker.shares() && Arc::ptr_eq(&self.core.policy, policy) && self.is_of(asker)
    }

    /// Whether one of its members still belongs to it, being `asker` now.
    pub(super) fn is_of(&self, asker: Asker<'_>) -> bool {
        self.core.servers == asker.servers
            && self.core.subnets.as_ref().is_none_or(|it| it == asker.subnets)
    }

    /// Whether `asker`, who is at `place`, is one of its members, or would be one.
    pub(super) fn has(&self, asker: Asker<'_>, place: &Place) -> bool {
        self.is_of(asker) && (asker.shares() || self.core.asking.is_at(place))
    }

    /// Counts one member more.
    pub(super) fn enter(&self) {
        self.members.fetch_add(1, Relaxed);
    }

    /// Counts one member less.
    pub(super) fn exit(&self) {
        self.members.fetch_sub(1, Relaxed);
    }

    /// Sandboxes that it is of.
    pub(super) fn members(&self) -> usize {
        self.members.load(Relaxed)
    }

    /// Its servers and those that were asked besides, by suffix.
    pub(super) fn servers(&self) -> BTreeMap<Server, Health> {
        let mut servers = self.core.asking.healths();
        for server in &self.core.servers {
            servers.entry(server.clone()).or_default();
        }
        servers
    }

    /// What it keeps.
    pub(super) fn cache(&self) -> impl std::ops::DerefMut<Target = Cache> + '_ {
        locked(&self.core.cache)
    }

    /// Writes what is kept for `asked` into `out`, where that may be told and nobody needs to be
    /// asked. One lock and one look-up, and no allocation.
    pub(super) fn recall(&self, asked: &Asked<'_>, out: &mut [u8]) -> Option<Told> {
        let (told, refresh) = told(&mut self.cache(), asked, Renewal::Left, out)?;
        (refresh == Refresh::Not).then_some(told)
    }

    /// What is kept for `query`, by one who has it asked anew where that is due.
    pub(super) fn kept(&self, query: &Query, transport: Transport) -> Kept {
        let renewal = if query.recursion_desired { Renewal::Claimed } else { Renewal::Left };
        let Some((octets, Told { source, .. }, refresh)) = self.read(query, transport, renewal)
        else {
            return Kept::Nothing;
        };
        match refresh {
            Refresh::Not => Kept::Settled((octets, source)),
            Refresh::Behind => Kept::Renewed((octets, source)),
            Refresh::First => Kept::Expired,
        }
    }

    /// Whatever was said about `query` and may still be told.
    pub(super) fn fallback(&self, query: &Query, transport: Transport) -> Option<(Vec<u8>, Told)> {
        let (octets, told, _) = self.read(query, transport, Renewal::Left)?;
        is_final(told.code).then_some((octets, told)) // that they fail is no answer
    }

    fn read(
        &self,
        query: &Query,
        transport: Transport,
        renewal: Renewal,
    ) -> Option<(Vec<u8>, Told, Refresh)> {
        let asked = Asked::of(query, transport);
        let mut out = vec![0; asked.limit]; // before the lock is taken
        let (told, refresh) = told(&mut self.cache(), &asked, renewal, &mut out)?;
        out.truncate(told.length);
        Some((out, told, refresh))
    }

    /// Takes back that one who was told to ask `query` anew does so: the next one may.
    pub(super) fn not_renewing(&self, query: &Query) {
        self.cache().admit(query, Admission::Ignore, Instant::now().into_std());
    }

    /// Has `servers` asked, or waits with those who have; why not, where that is too much.
    pub(super) fn ask(
        &self,
        servers: Vec<Server>,
        query: &Query,
        leave: &Leave,
    ) -> Result<Waiting, Reason> {
        let now = Instant::now();
        let limits = &self.core.policy.register.limits;
        let boarded = self.core.flights.board(query, now, || limits.admit(leave, now))?;
        Ok(match boarded {
            Boarded::Joined(flight) => Waiting(flight),
            Boarded::Begins(flight, pilot, passage) => {
                self.begin(servers, query.clone(), pilot, passage);
                Waiting(flight)
            }
        })
    }

    fn begin(&self, servers: Vec<Server>, query: Query, pilot: Pilot<Landed>, passage: Passage) {
        let core = Arc::clone(&self.core);
        let mut flying = locked(&self.flying);
        while let Some(done) = flying.try_join_next() {
            if let Err(error) = done
                && error.is_panic()
            {
                tracing::error!(%error, "a question to upstream servers panicked");
            }
        }
        let generation = self.cache().generation();
        flying.spawn(async move {
            let heard = core.asking.race(&servers, &query).await;
            pilot.land(core.keep(heard, &query, generation));
            drop(passage);
        });
    }
}

impl Core {
    /// Keeps what was `heard`, as far as it may be and unless that `generation` is forgotten.
    fn keep(&self, heard: Option<Heard>, query: &Query, generation: u64) -> Landed {
        let (landed, admission) = self.judge(heard, query); // before the lock is taken
        let mut cache = locked(&self.cache);
        if cache.generation() == generation {
            cache.admit(query, admission, Instant::now().into_std());
        }
        landed
    }

    fn judge(&self, heard: Option<Heard>, query: &Query) -> (Landed, Admission) {
        let failure = Admission::Failure(Rcode::SERVFAIL);
        let Some(Heard { reply, chain }) = heard else { return (Landed::Nothing, failure) };
        if chain == Chain::Endless {
            return (Landed::Endless, failure);
        }
        let subnets = self.subnets.as_deref().unwrap_or_default();
        let blocked =
            self.policy.filter.as_ref().is_some_and(|it| it.blocks(query, &reply, subnets));
        let admission = Admission::of(query, &reply, &chain, blocked);
        (if blocked { Landed::Blocked(reply) } else { Landed::Reply(reply) }, admission)
    }
}

/// One who waits for the end of a question.
#[derive(Debug)]
pub(super) struct Waiting(Flight<Landed>);

/// How a question ended for one who waited.
#[derive(Debug)]
pub(super) enum Ended {
    /// With this.
    Answered(Given),
    /// With this, unless something better is known.
    Failed(Option<Given>),
}

impl Waiting {
    /// When the question was asked first, maybe by another.
    pub(super) fn begun(&self) -> Instant {
        self.0.begun
    }

    /// What becomes of `query`, which is the same question.
    pub(super) async fn end(self, query: &Query, transport: Transport) -> Ended {
        let refused = |reason| encode::refusal(query, Rcode::SERVFAIL, reason, Recursion::Offered);
        let given = |octets| (octets, Source::Upstream);
        match self.0.landed().await.as_deref() {
            Some(Landed::Reply(reply)) => {
                let octets = given(reply.for_client(query, transport));
                // Half an answer is none for who came by TCP, and what was true once is better.
                let half = reply.truncated && transport == Transport::Tcp;
                let answered = is_final(reply.code) && !half;
                if answered { Ended::Answered(octets) } else { Ended::Failed(Some(octets)) }
            }
            Some(Landed::Blocked(reply)) => Ended::Answered(given(
                rebinding::held_back(reply, query, transport)
                    .unwrap_or_else(|| refused(Reason::Plain)),
            )),
            Some(Landed::Endless) => Ended::Failed(Some(given(refused(Reason::Plain)))),
            Some(Landed::Nothing) | None => Ended::Failed(None),
        }
    }
}

/// Writes what `cache` keeps for who `asked` into `out`.
fn told(
    cache: &mut Cache,
    asked: &Asked<'_>,
    renewal: Renewal,
    out: &mut [u8],
) -> Option<(Told, Refresh)> {
    let folded = Folded::new(asked.name);
    let now = Instant::now().into_std();
    let (entry, source, refresh) = match cache.look_up(&folded.key(asked), renewal, now) {
        Found::Missing => return None,
        Found::Fresh { entry, prefetch: true } => (entry, Source::Cache, Refresh::Behind),
        Found::Fresh { entry, prefetch: false } => (entry, Source::Cache, Refresh::Not),
        Found::Stale { entry, refresh } => (entry, Source::Stale, refresh),
    };
    let length = entry.write(asked, now, out)?;
    Some((Told { length, code: entry.code(), source }, refresh))
}

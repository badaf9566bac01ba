//! A sandbox's way outside: from its question to what it is told.
//!
//! Invariants
//! - *a handle*: what is learnt is the [`Circle`]'s, which the sandbox shares with those who ask the
//!   same servers; when it asks others it belongs to another circle, and takes nothing along;
//! - *what was true is better than nothing*: where all fail, or do not answer soon, what they said
//!   before is told (RFC 8767);
//! - *nobody waits for a renewal*: what holds, or is known not to be renewed at once, is told while
//!   servers are asked behind it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use kernel::door::Door;
use tokio::time::timeout_at;

use super::circle::{Asker, Circle, Ended, Given, Kept, Told, Waiting};
use super::exchange::Place;
use super::limits::Leave;
use super::policy::Policy;
use crate::answer::{Answer, Reason, Reverse, reverse};
use crate::metrics::Source;
use crate::plan::View;
use crate::wire::reply::asked::Asked;
use crate::wire::{Query, Rcode, Recursion, Transport, encode};

/// A sandbox's way outside.
#[derive(Debug)]
pub(crate) struct Realm {
    policy: Arc<Policy>,
    door: Door,
    place: Place,
    /// `None`: it may ask nobody.
    member: ArcSwapOption<Member>,
}

/// That a sandbox belongs to a circle.
#[derive(Debug)]
struct Member(Arc<Circle>);

impl Realm {
    /// The way outside of the sandbox at `place`.
    pub(crate) fn new(policy: &Arc<Policy>, door: Door, place: Place) -> Self {
        Self { policy: Arc::clone(policy), door, place, member: ArcSwapOption::empty() }
    }

    /// Enters the circle of those who ask as `view` says, and leaves any other.
    pub(crate) fn follow(&self, view: &View) {
        match Asker::of(view) {
            Some(asker) => drop(self.enter(asker)),
            None => self.member.store(None),
        }
    }

    /// Writes what is kept for `asked` into `out`, where that may be told and nobody needs to be
    /// asked: its length and code. Takes one lock and allocates nothing.
    pub(crate) fn recall(
        &self,
        asker: Asker<'_>,
        asked: &Asked<'_>,
        out: &mut [u8],
    ) -> Option<Told> {
        let member = self.member.load();
        let Member(circle) = &**member.as_ref()?;
        circle.is_of(asker).then(|| circle.recall(asked, out))?
    }

    /// What was said about the `query` of one who may not ask now, though it may be stale.
    pub(crate) fn remembered(
        &self,
        asker: Asker<'_>,
        query: &Query,
        transport: Transport,
    ) -> Option<(Vec<u8>, Source, Rcode)> {
        let member = self.member.load();
        let Member(circle) = &**member.as_ref()?;
        let (octets, told) = circle.is_of(asker).then(|| circle.fallback(query, transport))??;
        Some((octets, told.source, told.code))
    }

    /// The reply to the `query` of `asker`, and who gave it: what is kept, or the best that servers
    /// say; or why there is none. `leave` is kept for as long as servers are asked.
    pub(crate) async fn resolve(
        &self,
        asker: Asker<'_>,
        leave: &Leave,
        query: &Query,
        transport: Transport,
    ) -> Result<Given, Reason> {
        let Some(servers) = self.policy.servers(asker.servers, query) else {
            let answer = nowhere(query, asker.subnets);
            let reply = encode::answer(query, &answer, transport, Recursion::Offered);
            return Ok((reply, Source::Local));
        };
        let circle = self.circle(asker);
        let kept = circle.kept(query, transport);
        if let Kept::Settled(given) = kept {
            return Ok(given);
        }
        if !query.recursion_desired {
            return match kept {
                Kept::Renewed(given) => Ok(given),
                // Whoever wants nobody to be asked gets what is known (RFC 1034 section 4.3.1).
                Kept::Nothing | Kept::Expired | Kept::Settled(_) => Ok((
                    encode::refusal(query, Rcode::REFUSED, Reason::Plain, Recursion::Offered),
                    Source::Refused,
                )),
            };
        }
        if servers.is_empty() {
            return Err(Reason::NoServers); // but for some suffixes
        }
        let waiting = circle.ask(servers, query, leave);
        if let Kept::Renewed(given) = kept {
            if waiting.is_err() {
                circle.not_renewing(query);
            }
            return Ok(given); // asked behind it, if there is leave
        }
        let stale = || {
            let (octets, told) = circle.fallback(query, transport)?;
            Some((octets, told.source))
        };
        let given = match waiting {
            Ok(waiting) => {
                let known = matches!(kept, Kept::Expired);
                waited(waiting, query, transport, known, stale).await
            }
            Err(reason) => stale().ok_or(reason),
        };
        if !matches!(given, Ok((_, Source::Cache | Source::Stale))) {
            self.policy.register.missed();
        }
        given
    }

    /// The circle of `asker`. It is another than this sandbox's where he asks as it asked before it
    /// was changed: such a question changes nothing back.
    fn circle(&self, asker: Asker<'_>) -> Arc<Circle> {
        if let Some(member) = &*self.member.load()
            && member.0.is_of(asker)
        {
            return Arc::clone(&member.0);
        }
        let new = || Circle::new(&self.policy, self.door.clone(), self.place.clone(), asker);
        self.policy.register.circle(&self.policy, asker, new)
    }

    /// The circle of `asker`, which is this sandbox's from now on.
    fn enter(&self, asker: Asker<'_>) -> Arc<Circle> {
        let circle = self.circle(asker);
        let member = self.member.load();
        if member.as_ref().is_none_or(|it| !Arc::ptr_eq(&it.0, &circle)) {
            self.member.store(Some(Arc::new(Member::of(&circle))));
        }
        circle
    }
}

/// What `query` ends with; where something is `known`, what is `stale` after a while.
async fn waited(
    waiting: Waiting,
    query: &Query,
    transport: Transport,
    known: bool,
    stale: impl Fn() -> Option<Given>,
) -> Result<Given, Reason> {
    let soon = waiting.begun() + CLIENT_RESPONSE;
    let mut end = pin!(waiting.end(query, transport));
    let early =
        if known { timeout_at(soon, &mut end).await.ok() } else { Some(end.as_mut().await) };
    let ended = match early {
        Some(ended) => ended,
        // The question goes on without this one; its answer is kept.
        None => match stale() {
            Some(given) => return Ok(given),
            None => end.await,
        },
    };
    match ended {
        Ended::Answered(given) => Ok(given),
        Ended::Failed(given) => stale().or(given).ok_or(Reason::Unreachable),
    }
}

impl Member {
    fn of(circle: &Arc<Circle>) -> Self {
        circle.enter();
        Self(Arc::clone(circle))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.exit();
    }
}

/// What is told of a name that only private servers could know, where none is asked: what has names
/// of the sandbox's own networks below it exists, and is empty (RFC 8020).
fn nowhere(query: &Query, subnets: &[IpNet]) -> Answer {
    match reverse(&query.name.key()) {
        Some(Reverse::Range(range)) if subnets.iter().any(|it| range.contains(it)) => {
            Answer::no_data(NOWHERE)
        }
        Some(Reverse::Range(_) | Reverse::Address(_) | Reverse::Nonsense(_)) | None => {
            Answer::no_name(NOWHERE)
        }
    }
}

/// How long a name that only private servers could know is kept as unknown, in seconds.
const NOWHERE: u32 = 60;
/// So long after a question who can be told what was true before waits for what is (RFC 8767
/// section 5, client response timer).
const CLIENT_RESPONSE: Duration = Duration::from_millis(1800);

#[cfg(test)]
mod tests;

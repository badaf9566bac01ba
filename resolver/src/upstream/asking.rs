//! Asks some servers one question, by their health.
//!
//! Invariants
//! - *a dead server costs one short delay once*: the next is asked after the time that the first
//!   usually needs, and who did not answer comes later until it does;
//! - *bounded*: four and a half seconds in all, so that a client that waits five gets an answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernel::door::Door;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::exchange::{AskError, Dialer, Place};
use super::health::Health;
use super::locked;
use super::policy::Policy;
use super::race::{BUDGET, Race};
use super::server::Server;
use super::way::Way;
use crate::wire::reply::Reply;
use crate::wire::reply::chain::Chain;
use crate::wire::{Query, Rcode};

/// What asking servers takes.
#[derive(Debug)]
pub(super) struct Asking {
    policy: Arc<Policy>,
    door: Door,
    /// From where those are dialled that are a sandbox's.
    place: Place,
    healths: Arc<Healths>,
    /// Questions that go on only to learn how a server is; they end with this value.
    lingering: Mutex<JoinSet<()>>,
}

/// A reply, and whether it belongs to its question.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) reply: Reply,
    pub(super) chain: Chain,
}

/// What is remembered of servers; bounded by how many one list and the configuration have.
#[derive(Debug, Default)]
struct Healths(Mutex<BTreeMap<Server, Health>>);

impl Asking {
    /// Asks from `place`.
    pub(super) fn new(policy: &Arc<Policy>, door: Door, place: Place) -> Self {
        let (healths, lingering) = (Arc::default(), Mutex::default());
        Self { policy: Arc::clone(policy), door, place, healths, lingering }
    }

    /// Whether it asks from `place`.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        self.place == *place
    }

    /// What is remembered of the servers that were asked.
    pub(super) fn healths(&self) -> BTreeMap<Server, Health> {
        locked(&self.healths.0).clone()
    }

    /// The first good reply; else the first at all.
    pub(super) async fn race(&self, servers: &[Server], query: &Query) -> Option<Heard> {
        let how = |it: &Server| self.healths.of(it, |it| (it.rank(), it.patience()));
        let ranks: Vec<_> = servers.iter().map(how).collect();
        self.probe(servers, query);
        let mut race = Race::begin(&ranks, Instant::now());
        let mut asked = JoinSet::new();
        let mut waiting = BTreeMap::new();
        let mut second_best = None;
        loop {
            let now = Instant::now();
            while let Some((at, server)) = race.ask(now).and_then(|at| Some((at, servers.get(at)?)))
            {
                waiting.insert(at, now);
                let question = self.question(server, query);
                asked.spawn(async move { (at, question.await) });
            }
            if race.is_over(now) {
                self.silent(servers, &waiting, now);
                return second_best;
            }
            tokio::select! {
                Some(done) = asked.join_next(), if !asked.is_empty() => {
                    let Ok((at, heard)) = done else { race.failed(Instant::now()); continue };
                    waiting.remove(&at);
                    match heard {
                        Some(heard) if is_final(heard.reply.code) => {
                            self.overtaken(servers, &waiting, query);
                            return Some(heard);
                        }
                        other => {
                            second_best = second_best.or(other);
                            race.failed(Instant::now());
                        }
                    }
                }
                () = sleep_until(race.wake()) => {}
            }
        }
    }

    /// Those that did not answer in time are asked once more, in the background: are they dead?
    fn overtaken(&self, servers: &[Server], waiting: &BTreeMap<usize, Instant>, query: &Query) {
        for server in waiting.keys().filter_map(|at| servers.get(*at)) {
            if self.healths.of(server, Health::overtaken) {
                self.linger(server, query, |_| true);
            }
        }
    }

    /// Those that did not answer until the end have failed, but for who had hardly been asked. Told
    /// here, because their questions end with the race.
    fn silent(&self, servers: &[Server], waiting: &BTreeMap<usize, Instant>, now: Instant) {
        for (at, begun) in waiting {
            let Some(server) = servers.get(*at) else { continue };
            self.healths.of(server, |it| {
                if now.duration_since(*begun) >= it.patience() {
                    it.failed(*begun, now);
                }
            });
        }
    }

    /// Asks, in the background, those that failed and may be back.
    fn probe(&self, servers: &[Server], query: &Query) {
        for server in servers {
            let now = Instant::now();
            if self.healths.of(server, |it| it.is_probe_due(now)) {
                self.linger(server, query, |it| it.take_probe(now));
            }
        }
    }

    /// Asks `server` in the background, where there is leave to, and `wanted` still holds then.
    fn linger(&self, server: &Server, query: &Query, wanted: impl FnOnce(&mut Health) -> bool) {
        let mut lingering = locked(&self.lingering);
        while lingering.try_join_next().is_some() {}
        if lingering.len() < MAX_LINGERING
            && let Some(passage) = self.policy.register.limits.own()
            && self.healths.of(server, wanted)
        {
            let question = self.question(server, query);
            lingering.spawn(async move {
                drop(question.await);
                drop(passage);
            });
        }
    }

    /// One question to one server, whose health is told of how it ended.
    fn question(
        &self,
        server: &Server,
        query: &Query,
    ) -> impl Future<Output = Option<Heard>> + Send + 'static {
        let dialer = Dialer::new(server.dial, &self.door, &self.place);
        let way = Way::to(server, dialer, &self.policy.lines);
        let (healths, server) = (Arc::clone(&self.healths), server.clone());
        // What is shared by those who understand AD and those who do not is asked for with it.
        let query = Query { authentic_data: server.trusts_ad, ..query.clone() };
        async move {
            let begun = Instant::now();
            match timeout(BUDGET, ask(&healths, &way, &server, &query)).await {
                Ok(Ok((Heard { reply, chain }, rtt))) => {
                    healths.of(&server, |it| it.answered(rtt, Instant::now()));
                    Some(Heard { reply: reply.vouched(server.trusts_ad), chain })
                }
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "upstream server not asked");
                    healths.of(&server, |it| it.failed(begun, Instant::now()));
                    None
                }
                Err(_) => {
                    tracing::debug!(%server, "upstream server silent");
                    healths.of(&server, |it| it.failed(begun, Instant::now()));
                    None
                }
            }
        }
    }
}

/// Whether no other server is asked after this: it says what is, or that it is not.
pub(super) fn is_final(code: Rcode) -> bool {
    [Rcode::NOERROR, Rcode::NXDOMAIN].contains(&code)
}

/// Background questions at once of those who ask the same servers: one for each server, and some to
/// spare.
const MAX_LINGERING: usize = 8;

async fn ask(
    healths: &Healths,
    way: &Way,
    server: &Server,
    query: &Query,
) -> Result<(Heard, Option<Duration>), AskError> {
    let reads_edns = healths.of(server, |it| it.edns(Instant::now()));
    let mut edns = way.edns(query.edns).filter(|_| reads_edns);
    let (mut reply, mut rtt) = way.ask(query, edns).await?;
    if reply.code == Rcode::FORMERR && edns.is_some() {
        // A server from before EDNS (RFC 6891 section 7).
        edns = None;
        (reply, rtt) = way.ask(query, None).await?;
        if reply.code != Rcode::FORMERR {
            healths.of(server, |it| it.reads_no_edns(Instant::now()));
        }
    }
    if reply.truncated {
        reply = way.whole(reply, query, edns).await;
    }
    match reply.chain(query) {
        Chain::Malformed => Err(AskError::Mismatch),
        chain @ (Chain::Sound(_) | Chain::Stray | Chain::Endless | Chain::Cut) => {
            Ok((Heard { reply, chain }, rtt))
        }
    }
}

impl Healths {
    fn of<T>(&self, server: &Server, what: impl FnOnce(&mut Health) -> T) -> T {
        let mut all = locked(&self.0);
        match all.get_mut(server) {
            Some(known) => what(known),
            None => what(all.entry(server.clone()).or_default()),
        }
    }
}

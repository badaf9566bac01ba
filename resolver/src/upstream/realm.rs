//! Asks the servers of one sandbox, by their health, and keeps what they said.
//!
//! Invariants
//! - *of one sandbox*: what was learnt here is told to no other;
//! - *a dead server costs one short delay once*: the next is asked after the time that the first
//!   usually needs, and who did not answer comes later until it does;
//! - *bounded*: four and a half seconds in all, so that a client that waits five gets an answer;
//! - *what was true is better than nothing*: where all fail, what they said before is told
//!   (RFC 8767).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use kernel::door::Door;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::UpstreamConfig;
use super::cache::{Budget, Cache, Folded, Found, Renewal};
use super::exchange::{AskError, Dialer, Place};
use super::health::Health;
use super::private::is_private;
use super::race::{BUDGET, Race};
use super::rebinding::Filter;
use super::server::Server;
use super::suffix::longest;
use super::tls::Lines;
use super::way::Way;
use crate::answer::{Answer, Reason};
use crate::metrics::Source;
use crate::name::Name;
use crate::wire::encode;
use crate::wire::reply::Reply;
use crate::wire::reply::asked::Asked;
use crate::wire::reply::chain::Chain;
use crate::wire::{Query, Rcode, Recursion, Transport};

/// What the operator wants of all sandboxes' questions.
#[derive(Debug)]
pub(crate) struct Policy {
    suffixes: Vec<(String, Vec<Server>)>,
    filter: Option<Filter>,
    budget: Arc<Budget>,
    lines: Lines,
}

/// A sandbox's way outside.
#[derive(Debug)]
pub(crate) struct Realm {
    policy: Arc<Policy>,
    door: Door,
    place: Place,
    /// What the servers said that are asked now.
    said: Mutex<Said>,
    health: Arc<Healths>,
    /// Questions that go on only to learn how a server is; they end with the realm.
    lingering: Mutex<JoinSet<Option<Reply>>>,
}

/// What some servers said. Others may say other things: with them it begins anew.
#[derive(Debug)]
struct Said {
    servers: Vec<Server>,
    cache: Cache,
}

/// What is remembered of servers; bounded by how many a sandbox was ever given.
#[derive(Debug, Default)]
struct Healths(Mutex<BTreeMap<SocketAddr, Health>>);

impl Policy {
    /// As configured.
    pub(crate) fn new(config: &UpstreamConfig) -> Self {
        let suffixes = config.suffixes.iter().map(|(key, it)| (key.clone(), it.clone())).collect();
        let names = config.rebinding_allow.iter().chain(config.suffixes.keys());
        let allowed: Vec<Name> = names.filter_map(|it| Name::from_text(it).ok()).collect();
        let filter = config.rebinding_filter.then(|| Filter::new(&allowed));
        let budget = Arc::new(Budget::new(config.cache_bytes));
        Self { suffixes, filter, budget, lines: Lines::new(config) }
    }
}

impl Realm {
    /// The way outside of the sandbox at `place`.
    pub(crate) fn new(policy: &Arc<Policy>, door: Door, place: Place) -> Self {
        Self {
            policy: Arc::clone(policy),
            door,
            place,
            said: Mutex::new(Said {
                servers: Vec::new(),
                cache: Cache::new(Arc::clone(&policy.budget)),
            }),
            health: Arc::default(),
            lingering: Mutex::default(),
        }
    }

    /// The reply to `query`, and who gave it: what is kept, or the best that `servers` say, or
    /// SERVFAIL. `subnets` are the sandbox's own.
    pub(crate) async fn resolve(
        &self,
        servers: &[Server],
        subnets: &[IpNet],
        query: &Query,
        transport: Transport,
    ) -> (Vec<u8>, Source) {
        self.asked_now(servers);
        if let Some(kept) = self.kept(query, transport, Need::Fresh) {
            return kept;
        }
        let given = servers;
        let key = query.name.key();
        let servers = longest(&self.policy.suffixes, &key).map_or(servers, Vec::as_slice);
        let private = is_private(&query.name, query.kind);
        let servers: Vec<&Server> =
            servers.iter().filter(|it| !private || it.is_private()).take(Server::MAX).collect();
        if private && servers.is_empty() {
            let answer = Answer::no_name(NOWHERE);
            let reply = encode::answer(query, &answer, transport, Recursion::Offered);
            return (reply, Source::Local);
        }
        if let Some(reply) = self.race(&servers, query).await {
            let mut said = locked(&self.said);
            if said.servers == given {
                return (
                    self.keep(&mut said.cache, reply, subnets, query, transport),
                    Source::Upstream,
                );
            }
            // Other servers are asked since: this is told, and not kept.
            let mut nobodys = Cache::new(Arc::new(Budget::new(0)));
            return (self.keep(&mut nobodys, reply, subnets, query, transport), Source::Upstream);
        }
        locked(&self.said).cache.fail(query, Instant::now().into_std());
        if let Some(stale) = self.kept(query, transport, Need::Any) {
            return stale;
        }
        let reason = Reason::Unreachable;
        (encode::refusal(query, Rcode::SERVFAIL, reason, Recursion::Offered), Source::Refused)
    }

    /// Writes what is kept for `asked` into `out`, where that may be told and nobody needs to be
    /// asked: its length and code. Takes one lock and allocates nothing.
    pub(crate) fn recall(
        &self,
        servers: &[Server],
        asked: &Asked<'_>,
        out: &mut [u8],
    ) -> Option<Told> {
        let mut said = locked(&self.said);
        if said.servers != servers {
            return None;
        }
        told(&mut said.cache, asked, Need::Settled, out)
    }

    /// Forgets what other servers than `servers` said.
    fn asked_now(&self, servers: &[Server]) {
        let mut said = locked(&self.said);
        if said.servers != servers {
            said.cache.clear();
            servers.clone_into(&mut said.servers);
        }
    }

    /// What is kept for `query`; nothing where it should be asked for again.
    fn kept(&self, query: &Query, transport: Transport, need: Need) -> Option<(Vec<u8>, Source)> {
        kept(&mut locked(&self.said).cache, query, transport, need)
    }

    /// Keeps `reply` as far as it may be kept, and makes of it what the client is told.
    fn keep(
        &self,
        cache: &mut Cache,
        reply: Reply,
        subnets: &[IpNet],
        query: &Query,
        to: Transport,
    ) -> Vec<u8> {
        let refused = |code| encode::refusal(query, code, Reason::Plain, Recursion::Offered);
        if reply.chain(query) == Chain::Endless {
            return refused(Rcode::SERVFAIL);
        }
        let now = Instant::now().into_std();
        if self.policy.filter.as_ref().is_some_and(|it| it.blocks(query, &reply, subnets)) {
            cache.insert_blocked(query, &reply, now);
            let told = kept(cache, query, to, Need::Any);
            return told.map_or_else(|| refused(Rcode::REFUSED), |(octets, _)| octets);
        }
        cache.insert(query, &reply, now);
        reply.for_client(query, to)
    }

    /// The first good reply; else the first at all.
    async fn race(&self, servers: &[&Server], query: &Query) -> Option<Reply> {
        let ranks: Vec<_> = servers
            .iter()
            .map(|it| self.health.of(it.address, |it| (it.rank(), it.patience())))
            .collect();
        self.probe(servers, query);
        let mut race = Race::begin(&ranks, Instant::now());
        let mut asked = JoinSet::new();
        let mut waiting = BTreeSet::new();
        let mut second_best = None;
        loop {
            let now = Instant::now();
            while let Some(server) = race.ask(now).and_then(|at| servers.get(at)) {
                waiting.insert(server.address);
                let question = self.question(server, query);
                let address = server.address;
                asked.spawn(async move { (address, question.await) });
            }
            if race.is_over(now) {
                return second_best;
            }
            tokio::select! {
                Some(done) = asked.join_next(), if !asked.is_empty() => {
                    let Ok((address, reply)) = done else { race.failed(Instant::now()); continue };
                    waiting.remove(&address);
                    match reply {
                        Some(reply) if [Rcode::NOERROR, Rcode::NXDOMAIN].contains(&reply.code) => {
                            self.overtaken(servers, &waiting, query);
                            return Some(reply);
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
    fn overtaken(&self, servers: &[&Server], by: &BTreeSet<SocketAddr>, query: &Query) {
        for server in servers.iter().filter(|it| by.contains(&it.address)) {
            if self.health.of(server.address, Health::overtaken) {
                self.linger(server, query);
            }
        }
    }

    /// Asks, in the background, those that failed and may be back.
    fn probe(&self, servers: &[&Server], query: &Query) {
        for server in servers {
            if self.health.of(server.address, |it| it.take_probe(Instant::now())) {
                self.linger(server, query);
            }
        }
    }

    fn linger(&self, server: &Server, query: &Query) {
        let mut lingering = locked(&self.lingering);
        while lingering.try_join_next().is_some() {}
        if lingering.len() < MAX_LINGERING {
            lingering.spawn(self.question(server, query));
        }
    }

    /// One question to one server, whose health is told of how it ended.
    fn question(
        &self,
        server: &Server,
        query: &Query,
    ) -> impl Future<Output = Option<Reply>> + Send + 'static {
        let dialer = Dialer::new(server.dial, &self.door, &self.place);
        let way = Way::to(server, dialer, &self.policy.lines);
        let (health, address) = (Arc::clone(&self.health), server.address);
        // What is shared by those who understand AD and those who do not is asked for with it.
        let query = Query { authentic_data: server.trusts_ad, ..query.clone() };
        let trusted = server.trusts_ad;
        async move {
            let begun = Instant::now();
            let asking = ask(&health, &way, address, &query);
            match timeout(BUDGET, asking).await {
                Ok(Ok((reply, rtt))) => {
                    health.of(address, |it| it.answered(rtt, Instant::now()));
                    Some(reply.vouched(trusted))
                }
                Ok(Err(error)) => {
                    tracing::debug!(server = %address, %error, "upstream server not asked");
                    health.of(address, |it| it.failed(begun, Instant::now()));
                    None
                }
                Err(_) => {
                    tracing::debug!(server = %address, "upstream server silent");
                    health.of(address, |it| it.failed(begun, Instant::now()));
                    None
                }
            }
        }
    }
}

/// What may be told of what is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Need {
    /// Only what nobody should be asked about now; another may be about to ask.
    Settled,
    /// The same, by one who asks otherwise.
    Fresh,
    /// Whatever there is.
    Any,
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

/// Background questions of one sandbox at once: one for each server, and some to spare.
const MAX_LINGERING: usize = 8;
/// How long a name that only private servers could know is kept as unknown, in seconds.
const NOWHERE: u32 = 60;

/// What `cache` keeps for `query`; nothing where it should be asked for again.
fn kept(
    cache: &mut Cache,
    query: &Query,
    transport: Transport,
    need: Need,
) -> Option<(Vec<u8>, Source)> {
    let asked = Asked::of(query, transport);
    let mut out = vec![0; asked.limit];
    let Told { length, source, .. } = told(cache, &asked, need, &mut out)?;
    out.truncate(length);
    Some((out, source))
}

/// The same for who `asked`, written into `out`.
fn told(cache: &mut Cache, asked: &Asked<'_>, need: Need, out: &mut [u8]) -> Option<Told> {
    let folded = Folded::new(asked.name);
    let now = Instant::now().into_std();
    let renewal = if need == Need::Fresh { Renewal::Claimed } else { Renewal::Left };
    let (entry, source) = match cache.look_up(&folded.key(asked), renewal, now) {
        Found::Missing => return None,
        // Who meets a popular name near its end asks for it; all others are told meanwhile.
        Found::Fresh { prefetch: true, .. } | Found::Stale { ask: true, .. }
            if need != Need::Any =>
        {
            return None;
        }
        Found::Fresh { entry, .. } => (entry, Source::Cache),
        Found::Stale { entry, .. } => (entry, Source::Stale),
    };
    if entry.is_failure() && need == Need::Any {
        return None; // that they fail is known already
    }
    let length = entry.write(asked, now, out)?;
    Some(Told { length, code: entry.code(), source })
}

async fn ask(
    health: &Healths,
    way: &Way,
    server: SocketAddr,
    query: &Query,
) -> Result<(Reply, Option<Duration>), AskError> {
    let reads_edns = health.of(server, |it| it.edns(Instant::now()));
    let mut edns = way.edns(query.edns).filter(|_| reads_edns);
    let (mut reply, mut rtt) = way.ask(query, edns).await?;
    if reply.code == Rcode::FORMERR && edns.is_some() {
        // A server from before EDNS (RFC 6891 section 7).
        edns = None;
        (reply, rtt) = way.ask(query, None).await?;
        if reply.code != Rcode::FORMERR {
            health.of(server, |it| it.reads_no_edns(Instant::now()));
        }
    }
    if reply.truncated {
        reply = way.whole(reply, query, edns).await?;
    }
    if reply.chain(query) == Chain::Malformed {
        return Err(AskError::Mismatch);
    }
    Ok((reply, rtt))
}

impl Healths {
    fn of<T>(&self, server: SocketAddr, what: impl FnOnce(&mut Health) -> T) -> T {
        what(locked(&self.0).entry(server).or_default())
    }
}

/// Only whole values are put behind these locks, so a panic elsewhere leaves nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Answers one question from one view: a pure function, the heart of the resolver.
//!
//! Invariants
//! - *ours stays here*: a name that the view knows, in whatever family, type or case, is answered
//!   here and never asked of anybody else; the same holds for reverse names of its subnets;
//! - *first network wins*: the candidates of a dotted name are tried as the engine tries them, and
//!   within one candidate the networks in the view's order;
//! - *no network's answer is mixed with another's*;
//! - *no chance of its own*: the order of addresses is drawn from the `seed` given.

mod find;
mod host;
mod reverse;
mod special;
mod srv;

use std::net::IpAddr;
use std::sync::Arc;

use registry::model::Completeness;

use crate::chance::swaps;
use crate::name::Name;
use crate::plan::{Entry, Outside, Pointer, View, Zone};
use crate::upstream::suffix::is_below;
use crate::wire::{Class, Kind, Query, Rcode};
pub(crate) use find::candidates;
use find::find;
pub use host::answer_host;
pub(crate) use reverse::{Reverse, is_reverse, reverse};
pub(crate) use special::place as place_of_special;
use srv::service_record;

/// What is done with a question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// This is the answer.
    Answer(Answer),
    /// The sandbox's upstream servers are asked.
    Forward,
    /// The engine's own resolver in that sandbox is asked.
    AskEngine,
    /// No answer, and why.
    Refuse(Rcode, Reason),
}

/// An answer from the registry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Whether the name exists.
    pub exists: bool,
    /// The records asked for; their owner is the question's name.
    pub records: Vec<Record>,
    /// Addresses of the names in `records`.
    pub additional: Vec<(Name, IpAddr)>,
    /// How many seconds all this may be kept; the SOA's minimum where there are no records.
    pub ttl: u32,
}

/// One record of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// A or AAAA.
    Address(IpAddr),
    /// PTR.
    Pointer(Name),
    /// SRV (RFC 2782), priority 0.
    Service {
        /// Share of the connections.
        weight: u16,
        /// Where to connect.
        port: u16,
        /// To whom.
        target: Name,
    },
    /// What ANY gets (RFC 8482 section 4.2): HINFO with the CPU `RFC8482`.
    Minimal,
}

/// Why there is no answer, for people (RFC 8914).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Nothing more than the code says.
    Plain,
    /// The sandbox's networks are internal: nobody outside may be asked.
    Internal,
    /// The sandbox has no upstream server.
    NoServers,
    /// None of the servers answered.
    Unreachable,
    /// Too much is being asked outside, by this sandbox or by all.
    Busy,
    /// The engine's own resolver did not answer.
    EngineSilent,
}

/// What decided what is done with a question, for whoever explains it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ground {
    /// Its class or its type.
    Form,
    /// An extra host.
    ExtraHost,
    /// That the name means the same everywhere.
    Fixed,
    /// Somebody's name, or a link.
    Known,
    /// A service's ports.
    Ports,
    /// An address of the sandbox's networks.
    OwnAddress,
    /// An address that means something else on every machine.
    SpecialAddress,
    /// That names of ours lie below.
    Above,
    /// That the name exists nowhere.
    Nowhere,
    /// That the engine may know more than the registry.
    Gossip,
    /// That the name has one label.
    Short,
    /// That its last label can be a network's, and no top-level domain's.
    NeverPublic,
    /// That nobody here knows it.
    Unknown,
}

/// What `view` has to say to `query`; `seed` decides the order of addresses.
pub fn answer(view: &View, query: &Query, seed: u64) -> Verdict {
    decide(view, query, seed).0
}

/// The same, and what decided.
pub(crate) fn decide(view: &View, query: &Query, seed: u64) -> (Verdict, Ground) {
    let said = |answer, ground| (Verdict::Answer(answer), ground);
    if query.class != Class::IN {
        return (Verdict::Refuse(Rcode::REFUSED, Reason::Plain), Ground::Form);
    }
    if let Some(refusal) = refuse_kind(query.kind) {
        return (refusal, Ground::Form);
    }
    let key = query.name.key();
    if let Some(entry) = view.hosts.get(&key) {
        return said(addresses(entry, query.kind, seed), Ground::ExtraHost);
    }
    if let Some(answer) = special::fixed(&key, query.kind, view.ttl) {
        return said(answer, Ground::Fixed);
    }
    if let Some(found) = find(view, &key) {
        return said(addresses(found.entry(), query.kind, seed), Ground::Known);
    }
    if let Some(answer) = service_record(&view.zones, &key, query.kind, seed, view.ttl) {
        return said(answer, Ground::Ports);
    }
    if let Some(asked) = reverse(&key) {
        if let Some(answer) =
            reverse_answer(&view.zones, &view.subnets, &asked, query.kind, view.ttl)
        {
            return said(answer, Ground::OwnAddress);
        }
        return match special::reverse_answer(&asked, query.kind, view.ttl) {
            Some(answer) if !has_servers(view, &key) => said(answer, Ground::SpecialAddress),
            Some(_) | None => (outside(view), Ground::Unknown),
        };
    }
    if is_above_names(&view.zones, &key) {
        return said(Answer::no_data(view.ttl), Ground::Above);
    }
    if special::is_nowhere(&key) && !has_servers(view, &key) {
        return said(Answer::no_name(view.ttl), Ground::Nowhere);
    }
    unknown(view, &key, query.kind)
}

impl Answer {
    /// The name exists and has no such record.
    pub(crate) fn no_data(ttl: u32) -> Self {
        Self { exists: true, ttl, ..Self::default() }
    }

    /// The name does not exist.
    pub(crate) fn no_name(ttl: u32) -> Self {
        Self { ttl, ..Self::default() }
    }
}

impl Reason {
    /// The Extended DNS Error (RFC 8914 section 4) and its text; `None` where there is none.
    pub fn extended(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Plain => None,
            Self::Internal => Some((18, "this container's networks are internal")),
            Self::NoServers => Some((22, "this container has no upstream name server")),
            Self::Unreachable => Some((22, "no upstream name server answered")),
            Self::Busy => Some((0, "too many questions are being asked outside")),
            Self::EngineSilent => Some((23, "the engine's own resolver did not answer")),
        }
    }
}

/// Types that are no data: OPT is not a question (RFC 6891 section 6.1.1), zones are not given
/// away (RFC 5936), and the other meta types are not implemented.
fn refuse_kind(kind: Kind) -> Option<Verdict> {
    let code = match kind {
        Kind::OPT => Rcode::FORMERR,
        Kind::IXFR | Kind::AXFR => Rcode::REFUSED,
        Kind::TKEY | Kind::TSIG | Kind::MAILB | Kind::MAILA => Rcode::NOTIMP,
        _ => return None,
    };
    Some(Verdict::Refuse(code, Reason::Plain))
}

/// The records of type `kind` among `entry`'s addresses, in an order drawn from `seed`.
pub(crate) fn addresses(entry: &Entry, kind: Kind, seed: u64) -> Answer {
    let wanted = |it: &&IpAddr| match kind {
        Kind::A => it.is_ipv4(),
        Kind::AAAA => it.is_ipv6(),
        _ => false,
    };
    let mut records: Vec<Record> =
        entry.addresses.iter().filter(wanted).map(|it| Record::Address(*it)).collect();
    shuffle(&mut records, seed);
    if kind == Kind::ANY {
        records.push(Record::Minimal);
    }
    Answer { exists: true, records, additional: Vec::new(), ttl: entry.ttl }
}

/// What a reverse name gets here; `None` where it is none of ours.
fn reverse_answer(
    zones: &[Arc<Zone>],
    subnets: &[ipnet::IpNet],
    asked: &Reverse,
    kind: Kind,
    ttl: u32,
) -> Option<Answer> {
    if let Reverse::Address(address) = asked
        && let Some(Pointer { name, ttl }) = zones.iter().find_map(|it| it.reverse.get(address))
    {
        let records = match kind {
            Kind::PTR => vec![Record::Pointer(name.clone())],
            Kind::ANY => vec![Record::Minimal],
            _ => Vec::new(),
        };
        return Some(Answer { records, ..Answer::no_data(*ttl) });
    }
    let within = |range: &ipnet::IpNet| subnets.iter().any(|it| it.contains(range));
    match asked {
        Reverse::Address(address) => {
            subnets.iter().any(|it| it.contains(address)).then(|| Answer::no_name(ttl))
        }
        // Above addresses of ours: exists, and is empty (RFC 8020).
        Reverse::Range(range) => within(range).then(|| Answer::no_data(ttl)),
        Reverse::Nonsense(range) => within(range).then(|| Answer::no_name(ttl)),
    }
}

/// Whether names of ours lie below `key`, so that it exists and is empty (RFC 8020): a network's
/// own name, and `tasks`. Saying that it does not exist would deny `web.frontend` too.
fn is_above_names(zones: &[Arc<Zone>], key: &str) -> bool {
    let above = |zone: &Zone| {
        zone.key == key || zone.key.strip_suffix(key).is_some_and(|it| it.ends_with('.'))
    };
    let has_services =
        |zone: &Zone, name: &str| (name == "tasks" && !zone.services.is_empty()).then_some(());
    !key.is_empty()
        && (zones.iter().any(|it| above(it)) || find::in_zones(zones, key, has_services).is_some())
}

fn unknown(view: &View, key: &str, kind: Kind) -> (Verdict, Ground) {
    let single = !key.is_empty() && !key.contains('.');
    if single && SINGLE_LABEL_KINDS.contains(&kind) {
        return if view.asks_engine() && !has_servers(view, key) {
            (Verdict::AskEngine, Ground::Gossip)
        } else if view.forward_single_label || has_servers(view, key) {
            (outside(view), Ground::Unknown)
        } else if is_above_hosts(view, key) {
            (Verdict::Answer(Answer::no_data(view.ttl)), Ground::Above)
        } else {
            (Verdict::Answer(Answer::no_name(view.ttl)), Ground::Short)
        };
    }
    let gossip = |zone: &Zone| {
        zone.completeness == Completeness::Gossip
            && key.strip_suffix(zone.key.as_str()).is_some_and(|it| it.ends_with('.'))
    };
    // `tasks.ALIAS`: gossip carries no aliases of services either.
    let tasks = view.asks_engine()
        && key.strip_prefix("tasks.").is_some_and(|it| !it.is_empty() && !it.contains('.'));
    // `app.3`, the host name of another node's task: it carries none of these either.
    let last = key.rsplit('.').next().unwrap_or(key);
    let host =
        view.asks_engine() && cannot_be_top_level(last.as_bytes()) && !has_servers(view, key);
    let may_know = host || tasks || view.zones.iter().any(|it| gossip(it));
    if matches!(kind, Kind::A | Kind::AAAA) && may_know {
        return (Verdict::AskEngine, Ground::Gossip);
    }
    if cannot_be_public(view, key) && !has_servers(view, key) {
        return (Verdict::Answer(Answer::no_name(view.ttl)), Ground::NeverPublic);
    }
    (outside(view), Ground::Unknown)
}

/// Whether the operator named servers for `key`: he knows better than the rules for names that
/// nobody should be asked about. Many sites have a `local` of their own.
fn has_servers(view: &View, key: &str) -> bool {
    view.suffixes.iter().any(|it| is_below(key, it))
}

/// Whether extra hosts lie below `key`, a single label: `internal`, where there is
/// `host.docker.internal`.
fn is_above_hosts(view: &View, key: &str) -> bool {
    view.hosts.keys().any(|it| it.strip_suffix(key).is_some_and(|it| it.ends_with('.')))
}

/// Whether no top-level domain can be called so: they have letters only, or begin with `xn--`
/// (RFC 1123 section 2.1 and its practice).
pub(crate) fn cannot_be_top_level(label: &[u8]) -> bool {
    !label.starts_with(b"xn--") && !label.iter().all(u8::is_ascii_lowercase)
}

/// Whether `key` may be somebody's in the Internet, for whom the engine can do no more than ask
/// servers outside.
pub(crate) fn may_be_public(key: &str) -> bool {
    let top = key.rsplit_once('.').map(|(below, top)| (below, top.as_bytes()));
    top.is_some_and(|(below, top)| below != "tasks" && !cannot_be_top_level(top))
}

/// Whether `key` can be meant for nobody but us: `NAME.NETWORK` or `tasks.NAME` whose last label no
/// top-level domain can have, as in `web.shop_default`. A network called `app` has the name of one.
fn cannot_be_public(view: &View, key: &str) -> bool {
    let Some((_, last)) = key.rsplit_once('.').filter(|(_, it)| cannot_be_top_level(it.as_bytes()))
    else {
        return false;
    };
    let below =
        |zone: &Zone| key.strip_suffix(zone.key.as_str()).is_some_and(|it| it.ends_with('.'));
    view.zones.iter().any(|it| below(it)) || key.strip_prefix("tasks.") == Some(last)
}

fn outside(view: &View) -> Verdict {
    match &view.outside {
        Outside::Servers(_) => Verdict::Forward,
        Outside::Internal => Verdict::Refuse(Rcode::SERVFAIL, Reason::Internal),
        Outside::NoServers => Verdict::Refuse(Rcode::SERVFAIL, Reason::NoServers),
    }
}

/// Puts `records` into an order drawn from `seed`.
fn shuffle(records: &mut [Record], seed: u64) {
    for (one, other) in swaps(records.len(), seed) {
        records.swap(one, other);
    }
}

/// Whether an unknown name of one label is denied for this type, where nobody else may know it.
pub(crate) fn is_denied(kind: Kind) -> bool {
    SINGLE_LABEL_KINDS.contains(&kind)
}

/// Whether names that end so may mean the same everywhere ([`special`]), or be reverse names.
pub(crate) fn may_be_special(last_label: &[u8]) -> bool {
    matches!(last_label, b"" | b"localhost" | b"local" | b"invalid" | b"onion" | b"alt" | b"arpa")
}

/// Types that applications ask of short names: unknown ones are denied here instead of being told
/// to the world. Others (NS, SOA, DS, DNSKEY ...) of top-level names belong to the real DNS.
const SINGLE_LABEL_KINDS: [Kind; 8] =
    [Kind::A, Kind::AAAA, Kind::HTTPS, Kind::SVCB, Kind::SRV, Kind::MX, Kind::TXT, Kind::ANY];

#[cfg(test)]
mod tests;

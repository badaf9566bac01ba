//! The answer in words, and what decided it.
//!
//! Always true here: a reason is told where the ground of the decision says so, never guessed from
//! the name.

use std::net::IpAddr;

use super::{Form, Question, Route, listed_up_to};
use crate::answer::{Answer, Ground, Record, Verdict, place_of_special};
use crate::plan::Outside;
use crate::upstream::is_below;

/// What is answered.
pub(super) fn answer(
    question: &Question<'_>,
    verdicts: &[(Verdict, Ground)],
    route: Option<&Route>,
) -> String {
    let answers: Vec<&Answer> = verdicts
        .iter()
        .filter_map(|(it, _)| match it {
            Verdict::Answer(answer) => Some(answer),
            Verdict::Forward | Verdict::AskEngine | Verdict::Refuse(..) => None,
        })
        .collect();
    let mut records: Vec<_> = answers.iter().flat_map(|it| it.records.iter().map(record)).collect();
    records.sort();
    match (records.as_slice(), answers.first(), verdicts.first()) {
        ([], Some(answer), Some((_, ground))) if answer.exists => {
            let what = match (question.form, ground) {
                (Form::Host, Ground::Known | Ground::ExtraHost) => "known, but without an address",
                (Form::Service, Ground::Ports) if question.port().is_some() => {
                    "known, but without a serving task"
                }
                _ => "exists, and is empty",
            };
            format!("{what} (NODATA)")
        }
        ([], Some(_), _) => "no such name (NXDOMAIN)".to_owned(),
        (some, Some(answer), _) => {
            let records = listed_up_to(RECORDS, some.iter().cloned(), ", ");
            format!("{records} (for {} s)", answer.ttl)
        }
        (_, None, Some((Verdict::AskEngine, _))) => "asked of the engine's own resolver".to_owned(),
        (_, None, Some((Verdict::Forward, _))) => {
            route.map_or_else(|| "not ours".to_owned(), Route::in_words)
        }
        (_, None, Some((Verdict::Refuse(_, reason), _))) => {
            let why = reason.extended().map_or("questions of this kind are refused", |it| it.1);
            format!("refused: {why}")
        }
        (_, None, Some((Verdict::Answer(_), _)) | None) => "nothing".to_owned(),
    }
}

/// All addresses of a service that a person looks at one by one.
const RECORDS: usize = 32;

fn record(record: &Record) -> String {
    match record {
        Record::Address(address) => address.to_string(),
        Record::Pointer(name) => name.to_string(),
        Record::Service { weight, port, target } => {
            format!("{target} port {port} weight {weight}")
        }
        Record::Minimal => "HINFO".to_owned(),
    }
}

/// Why it was decided so, where the places do not say it.
pub(super) fn because(question: &Question<'_>, ground: Ground) -> Option<String> {
    let Question { key, view, .. } = question;
    let text = match ground {
        Ground::Fixed if is_below(key, "localhost") => {
            "`localhost` and all below it mean the asker's own machine (RFC 6761), whoever else is \
             called so"
                .to_owned()
        }
        Ground::Fixed => {
            "`resolver.arpa` is kept empty, so that no client is led round this resolver (RFC 9462)"
                .to_owned()
        }
        Ground::Nowhere => nowhere(key).to_owned(),
        Ground::SpecialAddress => {
            let place = place_of_special(key).map_or_else(String::new, |it| format!(" in {it}"));
            format!("addresses{place} mean something else on every machine, so nobody is asked")
        }
        Ground::Above => above(question),
        Ground::Gossip => {
            let networks = view
                .zones
                .iter()
                .filter(|it| it.completeness == registry::model::Completeness::Gossip);
            let networks = super::listed(networks.map(|it| quoted(&it.name)), ", ");
            format!(
                "this node knows {networks} from gossip, which carries no aliases, and the engine \
                 may know `{key}`; `portolan exec {} dig {key}` shows what it says",
                view.name
            )
        }
        Ground::NeverPublic => {
            let on = view.zones.iter().find(|it| is_below(key, &it.key));
            let whom = on.map_or_else(
                || "a service here".to_owned(),
                |it| format!("somebody on `{}`", it.name),
            );
            format!(
                "`{key}` can only mean {whom}: no top-level domain is called so, and nobody \
                 outside is asked"
            )
        }
        Ground::Short if matches!(view.outside, Outside::Servers(_)) => {
            "names without a dot are not asked outside; `dns.forward_single_label = true` in the \
             configuration has them asked, `dns.suffixes` one of them"
                .to_owned()
        }
        Ground::OwnAddress => "nobody outside is asked about addresses of this container's \
                               networks"
            .to_owned(),
        Ground::Ports => match question.port() {
            Some(port) => format!("no published port `{port}` of that protocol is known for it"),
            None => format!("ports are asked for as `_PORT.{key}`"),
        },
        Ground::Form | Ground::ExtraHost | Ground::Known | Ground::Short | Ground::Unknown => {
            return None;
        }
    };
    Some(text)
}

/// What lies below a name that is nobody's.
fn above(question: &Question<'_>) -> String {
    let Question { key, view, .. } = question;
    if let Some(zone) = view.zones.iter().find(|it| is_below(&it.key, key)) {
        return format!("`{0}` is a network: names on it are asked for as `NAME.{0}`", zone.name);
    }
    match view.hosts.keys().find(|it| is_below(it, key)) {
        Some(host) => format!("the extra host `{host}` is below it, so it exists"),
        None => {
            "names of services are below it: `tasks.SERVICE` means all serving tasks".to_owned()
        }
    }
}

fn nowhere(key: &str) -> &'static str {
    for (name, why) in [
        (
            "local",
            "names below `local` belong to multicast DNS (RFC 6762); `dns.suffixes` can name \
             servers for a site's own",
        ),
        ("invalid", "names below `invalid` exist nowhere, on purpose (RFC 6761)"),
        ("onion", "names below `onion` are Tor's (RFC 7686), never asked of DNS servers"),
        ("alt", "names below `alt` are not of the DNS (RFC 9476)"),
        (
            "use-application-dns.net",
            "its absence tells browsers to ask the resolver that they were given, not one of \
             their own",
        ),
    ] {
        if is_below(key, name) {
            return why;
        }
    }
    "such names exist nowhere"
}

/// The reverse name of `address`.
pub(super) fn reverse_name(address: IpAddr) -> String {
    let (labels, suffix): (Vec<String>, _) = match address {
        IpAddr::V4(it) => (it.octets().iter().rev().map(u8::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(it) => {
            let nibbles = it.octets().into_iter().rev().flat_map(|it| [it & 15, it >> 4]);
            (nibbles.map(|it| format!("{it:x}")).collect(), "ip6.arpa")
        }
    };
    format!("{}.{suffix}", labels.join("."))
}

/// A name as sentences hold it.
pub(super) fn quoted(name: &str) -> String {
    format!("`{name}`")
}

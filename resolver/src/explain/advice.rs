//! What would make a name resolve; where it does, who is missing all the same.
//!
//! Always true here: what is said to exist does, and what is told to do would help.

use registry::model::{Dial, Origin};

use super::elsewhere::{elsewhere, foreign_address, is_decided, knows, on_only};
use super::similar::similar;
use super::words::because;
use super::{Explanation, Form, LISTED, Question, Route, holder, route};
use crate::answer::{Ground, Verdict, candidates};
use crate::plan::{Outside, View, Zone};
use crate::upstream::Protocol;

/// What there is to say beside the answer `first`, which `ground` decided.
pub(super) fn advice(
    question: &Question<'_>,
    (first, ground): (&Verdict, Ground),
    told: &Explanation,
    resolves: bool,
) -> Vec<String> {
    let mut advice = Vec::new();
    let exists = matches!(first, Verdict::Answer(it) if it.exists);
    let tasks_matter = ground != Ground::Ports || exists && question.port().is_some();
    if tasks_matter {
        advice.extend(idle(question));
    }
    if resolves {
        advice.extend(because(question, ground).filter(|_| ground == Ground::Fixed));
        return advice;
    }
    advice.extend(empty_link(question, ground));
    advice.extend(elsewhere(question, ground));
    advice.extend(foreign_address(question, ground));
    let nowhere = advice.is_empty();
    if ground == Ground::Gossip {
        // Likely right: an alias. A proposal comes after who knows.
        advice.extend(because(question, ground));
        advice
            .extend(meant(question).filter(|_| nowhere).map(|it| format!("if it does not: {it}")));
        return advice;
    }
    let is_somebody = is_decided(ground) || told.route.as_ref().is_some_and(Route::has_records);
    if nowhere && !is_somebody && ground != Ground::Above {
        advice.extend(meant(question));
    }
    let says_more = if ground == Ground::Short {
        advice.is_empty()
    } else {
        ground != Ground::Ports || !tasks_matter
    };
    advice.extend(because(question, ground).filter(|_| says_more));
    if ground == Ground::Unknown && advice.is_empty() {
        advice.extend(way_out(question, told));
    }
    advice
}

/// Who has the name on the sandbox's networks and cannot answer for it.
fn idle(question: &Question<'_>) -> Vec<String> {
    let Question { snapshot, view, whom, form, .. } = question;
    if *form == Form::Reverse {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, wanted) in candidates(whom) {
        for zone in view.zones.iter().filter(|it| wanted.is_none_or(|key| it.key == key)) {
            if let Some(network) = snapshot.network(&zone.network) {
                found.extend(holder::idle(snapshot, network, zone, name));
            }
        }
    }
    let mut told = Vec::new();
    for text in found {
        if told.len() < LISTED && !told.contains(&text) {
            told.push(text);
        }
    }
    told
}

/// A link that leads nowhere.
fn empty_link(question: &Question<'_>, ground: Ground) -> Option<String> {
    let Question { view, key, .. } = question;
    let entry = view.links.get(*key).filter(|_| ground == Ground::Known)?;
    entry.addresses.is_empty().then(|| {
        format!(
            "whoever `{key}` links to does not run, or is not on the network of the link: start it, \
             or put it on that network"
        )
    })
}

/// What the name was probably meant to be: here first, else on another network.
fn meant(question: &Question<'_>) -> Option<String> {
    let Question { snapshot, plan, view, whom, form, .. } = question;
    if *form == Form::Reverse || whom.is_empty() {
        return None;
    }
    if let Some(found) = meant_here(view, whom, *form) {
        let behind = question.key.strip_suffix(whom).unwrap_or_default();
        return Some(format!("did you mean `{behind}{found}`?"));
    }
    let answers = |it: &Zone| {
        snapshot.network(&it.network).is_some_and(|network| !network.is_default_bridge())
    };
    let is_mine = |it: &Zone| view.zones.iter().any(|my| my.network == it.network);
    let others = plan.zones.values().filter(|it| !is_mine(it) && answers(it));
    others.take(LISTED * LISTED).find_map(|zone| {
        let found = similar(whom, names(zone, *form))?;
        Some(format!(
            "did you mean `{found}`? It exists on `{}`; {}: add the network to one of them",
            zone.name,
            on_only(view)
        ))
    })
}

/// Names that may be meant, services first.
fn names(zone: &Zone, form: Form) -> impl Iterator<Item = &str> {
    let services = zone.services.keys().filter(|it| !it.starts_with("tasks."));
    let others = zone.names.keys().filter(move |_| form == Form::Host);
    services.chain(others).map(String::as_str)
}

fn meant_here(view: &View, whom: &str, form: Form) -> Option<String> {
    let own = view.links.keys().chain(view.hosts.keys()).map(String::as_str);
    let own = own.filter(|_| form == Form::Host);
    let here = view.zones.iter().flat_map(|it| names(it, form));
    if let Some(found) = similar(whom, here.chain(own)) {
        return Some(found.to_owned());
    }
    // `wbe.frontend`, `web.fronted`: one half is right, the other nearly.
    for (name, network) in candidates(whom) {
        let Some(network) = network else { continue };
        for zone in &view.zones {
            if zone.key == network {
                if let Some(found) = similar(name, names(zone, form)) {
                    return Some(format!("{found}.{}", zone.key));
                }
            } else if knows(zone, name, form) && similar(network, [zone.key.as_str()]).is_some() {
                return Some(format!("{name}.{}", zone.key));
            }
        }
    }
    None
}

/// Why nobody outside is asked, and what would change that.
fn way_out(question: &Question<'_>, told: &Explanation) -> Option<String> {
    let view = question.view;
    let asks_nobody = |it: &Route| it.servers.is_empty() && it.passed_over.is_empty();
    match &view.outside {
        Outside::Internal if view.zones.is_empty() => Some(format!(
            "none of the networks of `{}` is known, so nobody outside is asked: see `portolan \
             status`",
            view.name
        )),
        Outside::Internal => Some(format!(
            "{}, and internal networks have no way out: add a network that is not internal",
            on_only(view)
        )),
        Outside::Servers(_) if told.route.as_ref().is_some_and(Route::is_dead) => {
            let route = told.route.as_ref()?;
            let server = route.servers.first()?;
            let (before, place) = match server.dial {
                Dial::Host => (String::new(), "the host"),
                Dial::Sandbox => (format!("portolan exec {} ", view.name), "inside the container"),
            };
            let over = if server.protocol == Protocol::Plain { "" } else { "+tls " };
            Some(format!(
                "no name server answers: see from {place} what `{before}dig {over}-p {} @{} {}` says",
                server.address.port(),
                server.address.ip(),
                question.key
            ))
        }
        Outside::Servers(_) if !told.route.as_ref().is_some_and(asks_nobody) => None,
        Outside::NoServers | Outside::Servers(_) => Some(no_servers(question)),
    }
}

/// That there is nobody to ask, and where somebody could be named: whoever made the container comes
/// before the engine's configuration, and that before all others.
fn no_servers(question: &Question<'_>) -> String {
    let name = &question.view.name;
    let made = "where it is made (`--dns`; `upstreams` in a world file)";
    match route::origin(question) {
        Some(Origin::Sandbox) => {
            format!("no name server is known for `{name}` that can be asked: name another {made}")
        }
        Some(Origin::Engine) => format!(
            "no name server is known for `{name}` that can be asked: name another where it is made \
             (`--dns`), or in the engine's configuration (`dns` in daemon.json)"
        ),
        // They come instead of those of the host's resolv.conf.
        Some(Origin::Host) | None if !question.config.servers.is_empty() => format!(
            "no name server is known for `{name}` that can be asked: name one {made}, or another \
             as `dns.upstreams`"
        ),
        Some(Origin::Host) | None => format!(
            "no name server is known for `{name}`: name one {made}, in the host's resolv.conf, or \
             as `dns.upstreams`"
        ),
    }
}

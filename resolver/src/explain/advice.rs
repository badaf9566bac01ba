//! What would make a name resolve; where it does, who is missing all the same.
//!
//! Always true here: what is said to exist does, and what is told to do would help.

use registry::model::{Dial, Network};

use super::similar::similar;
use super::words::{because, quoted};
use super::{Explanation, Form, LISTED, Question, Route, holder, listed};
use crate::answer::{Ground, Reverse, Verdict, candidates, reverse};
use crate::name;
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
    advice.extend(elsewhere(question));
    advice.extend(foreign_address(question));
    let nowhere = advice.is_empty();
    if ground == Ground::Gossip {
        // Likely right: an alias. A proposal comes after who knows.
        advice.extend(because(question, ground));
        advice
            .extend(meant(question).filter(|_| nowhere).map(|it| format!("if it does not: {it}")));
        return advice;
    }
    if nowhere && ground != Ground::Above {
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

fn is_mine(view: &View, network: &Network) -> bool {
    view.zones.iter().any(|it| it.network == network.id)
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
                found.extend(holder::idle(snapshot, network, name));
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
            "whoever `{key}` links to does not run, or is on no network with `{}`: start it, or \
             put both on one network",
            view.name
        )
    })
}

/// Networks that this sandbox is not on and where the name is somebody's.
fn elsewhere(question: &Question<'_>) -> Option<String> {
    let Question { snapshot, plan, view, whom, form, .. } = question;
    if *form == Form::Reverse {
        return None;
    }
    let knows = |zone: &Zone, name: &str| match form {
        Form::Service => zone.services.contains_key(name),
        Form::Host | Form::Reverse => zone.names.contains_key(name),
    };
    let (name, networks) = candidates(whom).find_map(|(name, wanted)| {
        let networks: Vec<String> = snapshot
            .networks()
            .filter(|it| !it.ingress && !is_mine(view, it))
            .filter(|it| wanted.is_none_or(|key| name::key(&it.name) == key))
            .filter(|it| plan.zones.get(&it.id).is_some_and(|it| knows(it, name)))
            .map(|it| quoted(&it.name))
            .collect();
        (!networks.is_empty()).then_some((name, networks))
    })?;
    let what = if networks.len() == 1 { "the network" } else { "one of these networks" };
    let of_them = if networks.len() == 1 { "one of them" } else { "it" };
    Some(format!(
        "`{name}` exists on {}; {}: add {what} to {of_them}",
        listed(networks, ", "),
        whereabouts(view)
    ))
}

/// An address of a network that this sandbox is not on.
fn foreign_address(question: &Question<'_>) -> Option<String> {
    let Question { snapshot, plan, view, key, .. } = question;
    let Some(Reverse::Address(address)) = reverse(key) else { return None };
    let network = snapshot.networks().find(|it| {
        !it.ingress && !is_mine(view, it) && it.subnets.iter().any(|net| net.contains(&address))
    })?;
    let owner = plan.zones.get(&network.id).and_then(|it| it.reverse.get(&address));
    let owner = owner.map_or_else(String::new, |it| {
        format!(", where it is {}", it.name.to_string().trim_end_matches('.'))
    });
    Some(format!(
        "{address} is of `{}`{owner}; {}: add the network to it, or ask \
         from a container on it",
        network.name,
        whereabouts(view)
    ))
}

/// What the name was probably meant to be: here first, else on another network.
fn meant(question: &Question<'_>) -> Option<String> {
    let Question { plan, view, whom, form, .. } = question;
    if *form == Form::Reverse || whom.is_empty() {
        return None;
    }
    if let Some(found) = meant_here(view, whom, *form) {
        let behind = question.key.strip_suffix(whom).unwrap_or_default();
        return Some(format!("did you mean `{behind}{found}`?"));
    }
    let others =
        plan.zones.values().filter(|it| view.zones.iter().all(|my| my.network != it.network));
    others.take(LISTED * LISTED).find_map(|zone| {
        let found = similar(whom, names(zone, *form))?;
        Some(format!(
            "did you mean `{found}`? It exists on `{}`; {}: add the network to one of them",
            zone.name,
            whereabouts(view)
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
            } else if names(zone, form).any(|it| it == name)
                && similar(network, [zone.key.as_str()]).is_some()
            {
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
            whereabouts(view)
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
        Outside::NoServers | Outside::Servers(_) => Some(format!(
            "no name server is known for `{}`: name one where it is made (`--dns`; `upstreams` in \
             a world file), in the host's resolv.conf, or as `dns.upstreams`",
            view.name
        )),
    }
}

/// Where the sandbox is, as a sentence.
fn whereabouts(view: &View) -> String {
    let networks = listed(view.zones.iter().map(|it| quoted(&it.name)), ", ");
    match networks.as_str() {
        "" => format!("`{}` is on no network", view.name),
        some => format!("`{}` is on {some} only", view.name),
    }
}

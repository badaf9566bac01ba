//! Whom a name or an address means on networks that the sandbox is not on.
//!
//! Always true here: a network that is proposed answers names, so never the engine's default one;
//! and where something else decides the name, whoever is there is proposed by a name that would
//! get him, which was tried.

use std::net::IpAddr;
use std::sync::Arc;

use registry::model::Network;

use super::words::quoted;
use super::{Form, Question, listed};
use crate::answer::{Ground, Reverse, Verdict, candidates, decide, reverse};
use crate::name::{self, Name};
use crate::plan::{View, Zone};
use crate::wire::Query;

/// Networks that this sandbox is not on and where the name is somebody's.
pub(super) fn elsewhere(question: &Question<'_>, ground: Ground) -> Option<String> {
    let Question { view, whom, form, .. } = question;
    if *form == Form::Reverse {
        return None;
    }
    if is_decided(ground) {
        return candidates(whom).find_map(|(name, wanted)| {
            let (networks, full): (Vec<_>, Vec<_>) = known_on(question, name, wanted)
                .filter_map(|(it, zone)| Some((quoted(&it.name), gets(question, zone, name)?)))
                .unzip();
            (!networks.is_empty()).then(|| reached_as(view, name, &networks, &full))
        });
    }
    candidates(whom).find_map(|(name, wanted)| {
        let networks: Vec<_> = known_on(question, name, wanted).map(|(it, _)| it).collect();
        let answering = networks.iter().filter(|it| !it.is_default_bridge());
        let answering: Vec<String> = answering.map(|it| quoted(&it.name)).collect();
        if answering.is_empty() {
            let bridge = networks.first()?;
            return Some(format!("`{name}` is on {}: put it on {}", nameless(bridge), own(view)));
        }
        let what = if answering.len() == 1 { "the network" } else { "one of these networks" };
        let of_them = if answering.len() == 1 { "one of them" } else { "it" };
        let networks = listed(answering, ", ");
        Some(format!("`{name}` exists on {networks}; {}: add {what} to {of_them}", on_only(view)))
    })
}

/// Whether it was decided before the question could come to one more network, or might have.
pub(super) fn is_decided(ground: Ground) -> bool {
    matches!(ground, Ground::ExtraHost | Ground::Fixed | Ground::Known | Ground::Ports)
}

/// Whether names of that sort are known to the zone by `name`.
pub(super) fn knows(zone: &Zone, name: &str, form: Form) -> bool {
    match form {
        Form::Service => zone.services.contains_key(name),
        Form::Host | Form::Reverse => zone.names.contains_key(name),
    }
}

/// An address of a network that this sandbox is not on.
pub(super) fn foreign_address(question: &Question<'_>, ground: Ground) -> Option<String> {
    let Question { snapshot, plan, view, key, .. } = question;
    let Some(Reverse::Address(address)) = reverse(key) else { return None };
    let has_it = |it: &&Network| it.subnets.iter().any(|net| net.contains(&address));
    let network = others(question).find(has_it).filter(|_| ground != Ground::OwnAddress)?;
    if network.is_default_bridge() {
        let holds = |it: &IpAddr| *it == address;
        let there = |it: &registry::model::Task| {
            it.networks.get(&network.id).is_some_and(|it| it.addresses.iter().any(holds))
        };
        let owner = snapshot.tasks_on(&network.id).find(|it| there(it));
        let remedy =
            owner.map_or_else(String::new, |it| format!(": put `{}` on {}", it.name, own(view)));
        return Some(format!("{address} is of {}{remedy}", nameless(network)));
    }
    let owner = plan.zones.get(&network.id).and_then(|it| it.reverse.get(&address));
    let owner = owner.map_or_else(String::new, |it| {
        format!(", where it is {}", it.name.to_string().trim_end_matches('.'))
    });
    Some(format!(
        "{address} is of `{}`{owner}; {}: add the network to it, or ask from a container on it",
        network.name,
        on_only(view)
    ))
}

/// Where the sandbox is, as a sentence.
pub(super) fn on_only(view: &View) -> String {
    let networks = listed(view.zones.iter().map(|it| quoted(&it.name)), ", ");
    match networks.as_str() {
        "" => format!("`{}` is on no network", view.name),
        some => format!("`{}` is on {some} only", view.name),
    }
}

/// The networks that the sandbox is not on, and could be.
fn others<'a>(question: &Question<'a>) -> impl Iterator<Item = &'a Network> {
    let Question { snapshot, view, .. } = *question;
    let is_mine = |it: &Network| view.zones.iter().any(|zone| zone.network == it.id);
    snapshot.networks().filter(move |it| !it.ingress && !is_mine(it))
}

/// Those where somebody has the name; of that name, where one is `wanted`.
fn known_on<'a>(
    question: &Question<'a>,
    name: &str,
    wanted: Option<&str>,
) -> impl Iterator<Item = (&'a Network, &'a Arc<Zone>)> {
    let Question { plan, form, .. } = *question;
    others(question)
        .filter(move |it| wanted.is_none_or(|key| name::key(&it.name) == key))
        .filter_map(move |it| Some((it, plan.zones.get(&it.id)?)))
        .filter(move |(_, zone)| knows(zone, name, form))
}

/// What gets whoever is called `name` there, if this sandbox were there too; `None`: nothing does,
/// or there is nothing to get.
fn gets(question: &Question<'_>, zone: &Arc<Zone>, name: &str) -> Option<String> {
    let Question { snapshot, view, key, whom, form, .. } = question;
    if snapshot.network(&zone.network)?.is_default_bridge() {
        return None;
    }
    let full = format!("{}{name}.{}", key.strip_suffix(whom)?, zone.key);
    let asked = Name::from_text(&full).ok()?;
    let mut there = View::clone(view);
    there.zones.push(Arc::clone(zone));
    let answered = |kind| {
        let (verdict, _) = decide(&there, &Query::plain(asked.clone(), kind), 0);
        matches!(verdict, Verdict::Answer(it) if !it.records.is_empty())
    };
    form.kinds().iter().any(|kind| answered(*kind)).then_some(full)
}

fn reached_as(view: &View, name: &str, networks: &[String], full: &[String]) -> String {
    let (which, added) = match networks {
        [one] => ("that one", one.as_str()),
        _ => ("one of those", "its network"),
    };
    format!(
        "`{name}` exists on {} too; {}: to reach {which}, add {added} to `{}` and ask for {}",
        listed(networks.iter().cloned(), ", "),
        on_only(view),
        view.name,
        listed(full.iter().map(|it| quoted(it)), " or ")
    )
}

/// The default bridge, in words.
fn nameless(network: &Network) -> String {
    format!("`{}`, the engine's default network, on which names do not work", network.name)
}

/// A network on which the sandbox would see others, in words.
fn own(view: &View) -> String {
    let networks = listed(view.zones.iter().map(|it| quoted(&it.name)), " or ");
    if networks.is_empty() {
        return format!("a network that you make, with `{}`", view.name);
    }
    networks
}

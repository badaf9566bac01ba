//! Where a name is looked for, in the order in which [`crate::answer`] looks.
//!
//! Always true here: a place that the sandbox does not have (no extra hosts, no links) is not
//! among those that are told.

use std::net::IpAddr;
use std::sync::Arc;

use registry::model::Network;

use super::{Explanation, Form, Question, Step, holder, listed, words};
use crate::answer::{Ground, Reverse, Verdict, candidates, decide, reverse};
use crate::name::{self, Name};
use crate::plan::{View, Zone};
use crate::wire::{Kind, Query};

/// Where the question looks, in order, until somebody has the name; behind him those who have it
/// too and come later.
pub(super) fn steps(question: &Question<'_>, ground: Ground) -> Vec<Step> {
    let mut steps = match question.form {
        _ if ground == Ground::Fixed => Vec::new(), // decided before anybody is looked for
        Form::Host => names(question),
        Form::Reverse => addresses(question),
        Form::Service => services(question),
    };
    let mut found = false;
    steps.retain(|it| {
        let keep = !found || !it.is_empty();
        found |= !it.is_empty();
        keep
    });
    steps
}

fn names(question: &Question<'_>) -> Vec<Step> {
    let Question { view, key, .. } = question;
    let mut steps = Vec::new();
    let step = |place: &str, name: &str, holders| {
        let (place, name) = (place.to_owned(), name.to_owned());
        Step { place, name, holders }
    };
    if !view.hosts.is_empty() && !key.is_empty() {
        let own = view.hosts.contains_key(*key);
        let holders = own.then(|| "an extra host of this container".to_owned());
        steps.push(step(HOSTS, key, holders.into_iter().collect()));
    }
    for (name, network) in candidates(key) {
        // A link is on a network with those of its addresses that are of it.
        let holders = link(view, name, network);
        if !view.links.is_empty() && (network.is_none() || !holders.is_empty()) {
            steps.push(step(LINKS, name, holders));
        }
        for (zone, network) in networks(question, network) {
            steps.push(step(&zone.name, name, holder::holders(question.snapshot, network, name)));
        }
    }
    steps
}

/// The place that is no network: names that the container's hosts file has.
const HOSTS: &str = "extra hosts";
/// The place that is none either: names that only it has for others.
const LINKS: &str = "links";

/// The networks that a candidate means, in search order.
fn networks<'a>(
    question: &Question<'a>,
    named: Option<&str>,
) -> impl Iterator<Item = (&'a Zone, &'a Network)> {
    let zones = question.view.zones.iter().filter(move |it| named.is_none_or(|key| it.key == key));
    zones.filter_map(|zone| Some((zone.as_ref(), question.snapshot.network(&zone.network)?)))
}

fn link(view: &View, name: &str, network: Option<&str>) -> Vec<String> {
    let Some(entry) = view.links.get(name) else { return Vec::new() };
    if entry.addresses.is_empty() {
        let nobody = network.is_none().then(|| "a link to nobody who is there".to_owned());
        return nobody.into_iter().collect();
    }
    let called = |address: &IpAddr| {
        let of_it = |zone: &&Arc<Zone>| {
            network.is_none_or(|key| zone.key == key)
                && zone.subnets.iter().any(|it| it.contains(address))
        };
        let zone = view.zones.iter().find(of_it);
        let name = zone.and_then(|it| it.reverse.get(address)).map(|it| it.name.to_string());
        let known = name.map(|it| it.trim_end_matches('.').to_owned());
        (network.is_none() || zone.is_some()).then(|| known.unwrap_or_else(|| address.to_string()))
    };
    let targets: Vec<String> = entry.addresses.iter().filter_map(called).collect();
    if targets.is_empty() {
        return Vec::new();
    }
    vec![format!("a link to {}", listed(targets, ", "))]
}

fn addresses(question: &Question<'_>) -> Vec<Step> {
    let Some(Reverse::Address(address)) = reverse(question.key) else { return Vec::new() };
    let mut steps = Vec::new();
    for zone in &question.view.zones {
        let has = zone.reverse.contains_key(&address);
        if has || zone.subnets.iter().any(|it| it.contains(&address)) {
            let holders = question
                .snapshot
                .network(&zone.network)
                .filter(|_| has)
                .map(|it| holder::owners(question.snapshot, it, zone, address));
            steps.push(Step {
                place: zone.name.clone(),
                name: address.to_string(),
                holders: holders.unwrap_or_default(),
            });
        }
    }
    steps
}

fn services(question: &Question<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, network) in candidates(question.whom) {
        for (zone, network) in networks(question, network) {
            let holders = holder::services(question.snapshot, network, name);
            let holders: Vec<String> =
                holders.map(|it| format!("service {} ({})", it.name, holder::ports(it))).collect();
            let found = (!holders.is_empty()).then(|| listed(holders, " and "));
            let holders = found.into_iter().collect();
            steps.push(Step { place: zone.name.clone(), name: name.to_owned(), holders });
        }
    }
    steps
}

/// Who is there under that name too, behind the first, and how he is asked for.
pub(super) fn others(question: &Question<'_>, told: &Explanation) -> Option<String> {
    let mut found = told.found();
    let first = found.next()?;
    let view = question.view;
    let linked = |name: &str, key: &str| !link(view, name, Some(key)).is_empty();
    let asked_as = |it: &Step| {
        let place = match it.place.as_str() {
            HOSTS => return None,
            LINKS => &view.zones.iter().find(|zone| linked(&it.name, &zone.key))?.name,
            network if linked(&it.name, &name::key(network)) => return None, // it means the link
            network => network,
        };
        let full = format!("{}.{place}", it.name);
        let (verdict, ground) =
            decide(view, &Query::plain(Name::from_text(&full).ok()?, Kind::A), 0);
        let answers = matches!(verdict, Verdict::Answer(it) if it.exists);
        (full != question.key && answers && ground == Ground::Known).then_some(full)
    };
    let others: Vec<String> = found.filter_map(asked_as).collect();
    if question.form != Form::Host || others.is_empty() {
        return None;
    }
    let others = listed(others.iter().map(|it| words::quoted(it)), " and ");
    Some(match first.place.as_str() {
        own @ (HOSTS | LINKS) => format!("{own} come first; others are asked for as {others}"),
        network => format!("`{network}` comes first; others are asked for as {others}"),
    })
}

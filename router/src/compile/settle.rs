//! Decides who answers where several services ask for the same host and path.
//!
//! The order of the offers is the order of age: the first owns the route. Who may share it with
//! the owner does; whoever may not is told who has it and what to do, and changes nothing.

use std::sync::Arc;

use registry::Notes;
use registry::model::Service;

use super::{Offer, label};
use crate::table::{Backend, Host, Route};

/// The route for one host and context root; `None` when nobody offers anything.
pub(super) fn settle(
    host: Host,
    context_root: Arc<str>,
    offers: &[Arc<Offer<'_>>],
    notes: &mut Notes,
) -> Option<Route> {
    let (owner, others) = offers.split_first()?;
    let mut sharing: Vec<&Offer<'_>> = vec![owner];
    for other in others {
        if sharing.iter().any(|it| it.claim == other.claim) {
            continue; // the same host twice in one label
        }
        if !may_share(owner, other) {
            conflict(&host, &context_root, owner, other, notes);
            continue;
        }
        if other.rewrite != owner.rewrite {
            differs(&host, &context_root, owner, other, notes);
        }
        sharing.push(other);
    }
    let backends = merge(&sharing);
    let unavailable = match &owner.backends {
        Err(reason) if backends.is_empty() => Some(Arc::clone(reason)),
        Err(_) | Ok(_) => None,
    };
    Some(Route {
        host,
        context_root,
        rewrite: owner.rewrite,
        claims: sharing.iter().map(|it| it.claim.clone()).collect(),
        backends,
        unavailable,
    })
}

/// Whether two services share a route: of one stack or project, both of none, or by agreement. Two
/// groups of one service do not: one of them would be unreachable without anybody noticing.
fn may_share(owner: &Offer<'_>, other: &Offer<'_>) -> bool {
    if owner.claim.service == other.claim.service {
        return false;
    }
    let key = |service: &Service| service.labels.get(SHARE).filter(|it| !it.is_empty()).cloned();
    let agreed = key(owner.service).is_some_and(|it| key(other.service) == Some(it));
    owner.service.stack == other.service.stack || agreed
}

/// All backends, each address once.
fn merge(sharing: &[&Offer<'_>]) -> Arc<[Backend]> {
    let mut offered = sharing.iter().filter_map(|it| it.backends.as_ref().ok());
    match (offered.next(), offered.next()) {
        (None, _) => Arc::from([]),
        (Some(only), None) => Arc::clone(only),
        (Some(_), Some(_)) => {
            let mut all: Vec<Backend> = Vec::new();
            for backend in
                sharing.iter().filter_map(|it| it.backends.as_ref().ok()).flat_map(|it| it.iter())
            {
                if !all.iter().any(|it| it.address == backend.address && it.reach == backend.reach)
                {
                    all.push(backend.clone());
                }
            }
            all.into()
        }
    }
}

fn conflict(host: &Host, root: &str, owner: &Offer<'_>, other: &Offer<'_>, notes: &mut Notes) {
    let route = if root.is_empty() { host.to_string() } else { format!("{host}{root}") };
    let (text, remedy) = if owner.claim.service == other.claim.service {
        let first = label("hosts", &owner.claim.group);
        (
            format!("`{route}` is already routed by this service's label `{first}`"),
            "give each group its own host or context root".to_owned(),
        )
    } else {
        (
            format!("`{route}` already belongs to service {}, which came first", owner.claim.name),
            format!(
                "choose another host or context root, or set `{SHARE}` to the same key on both"
            ),
        )
    };
    let place = label("hosts", &other.claim.group);
    notes.error(format!("service {}", other.claim.name), place, text, remedy);
}

fn differs(host: &Host, root: &str, owner: &Offer<'_>, other: &Offer<'_>, notes: &mut Notes) {
    notes.warning(
        format!("service {}", other.claim.name),
        label("context_root_rewrite", &other.claim.group),
        format!("`{host}{root}` is shared with service {}, whose setting counts", owner.claim.name),
        "set the label alike on both",
    );
}

/// Services of different stacks that carry the same value of this label share routes.
const SHARE: &str = "portolan.lb.share";

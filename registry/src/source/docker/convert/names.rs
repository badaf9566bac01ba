//! What a container or task is called on a network, as the engine's own DNS has it. Pure.

use std::collections::BTreeSet;

use crate::source::docker::container::{Attached, Container};
use crate::source::docker::engine::EngineNetwork;

/// The names of a container of this node on a network, besides its own: aliases, short id, host
/// name. No names live on the default bridge and on the ingress network.
pub(super) fn of_container(
    network: &EngineNetwork,
    container: &Container,
    place: &Attached,
) -> BTreeSet<String> {
    if !has_names(network) {
        return BTreeSet::new();
    }
    let own = [container.short_id().to_owned(), container.hostname.clone()];
    let names = place.names.iter().cloned().chain(own);
    names.filter(|it| !it.is_empty() && *it != container.name).collect()
}

/// The names of another node's task on a network, besides its own, from its container's id and
/// host name. A host name that is a template is known to its own node only.
pub(super) fn of_remote(
    network: &EngineNetwork,
    container: &str,
    hostname: &str,
) -> BTreeSet<String> {
    if !has_names(network) {
        return BTreeSet::new();
    }
    let short = container.get(..12).unwrap_or_default();
    let hostname = if hostname.contains("{{") { "" } else { hostname };
    [short, hostname].into_iter().filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

/// Whether the engine answers names on that network.
pub(super) fn has_names(network: &EngineNetwork) -> bool {
    !network.ingress && !network.is_default_bridge
}

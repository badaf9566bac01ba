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
/// host name. A host name that could not be read is known to its own node only.
pub(super) fn of_remote(
    network: &EngineNetwork,
    container: &str,
    hostname: Option<&str>,
) -> BTreeSet<String> {
    if !has_names(network) {
        return BTreeSet::new();
    }
    let short = container.get(..12).filter(|it| !it.is_empty());
    short.into_iter().chain(hostname).map(str::to_owned).collect()
}

/// A host name as its task has it: Swarm expands the placeholders of [Go templates] when it makes
/// the container. `None` where it uses more of that language than `known` fields, or is empty.
///
/// [Go templates]: https://docs.docker.com/reference/cli/docker/service/create/#create-services-using-templates
pub(super) fn expanded(template: &str, known: &[(&str, &str)]) -> Option<String> {
    let mut name = String::new();
    let mut rest = template;
    while let Some((plain, more)) = rest.split_once("{{") {
        let (field, after) = more.split_once("}}")?;
        let (_, value) = known.iter().find(|(it, _)| *it == field.trim())?;
        name.push_str(plain);
        name.push_str(value);
        rest = after;
    }
    name.push_str(rest);
    Some(name).filter(|it| !it.is_empty())
}

/// Whether the engine answers names on that network.
pub(super) fn has_names(network: &EngineNetwork) -> bool {
    !network.ingress && !network.is_default_bridge
}

#[cfg(test)]
mod tests {
    use super::expanded;

    #[test]
    fn a_host_name_is_what_swarm_makes_of_its_template() {
        let known = [(".Service.Name", "app"), (".Task.Slot", "3")];
        let cases = [
            ("plain", Some("plain")),
            ("{{.Service.Name}}.{{.Task.Slot}}", Some("app.3")),
            ("x-{{ .Task.Slot }}-y", Some("x-3-y")),
            ("", None),
            ("{{.Task.Slot", None),
            ("{{.Node.Labels}}", None),
            ("{{if .Task.Slot}}a{{end}}", None),
        ];
        for (template, name) in cases {
            assert_eq!(expanded(template, &known).as_deref(), name, "{template}");
        }
    }
}

//! A world as text, as the recorded engines' worlds are written down.

use std::fmt::Write as _;

use crate::Snapshot;
use crate::id::NetworkId;
use crate::model::Sandbox;

/// A world as text, one line a thing; ids are cut to their first 12 characters.
pub(super) fn shown(world: &Snapshot) -> String {
    let mut text = String::new();
    for it in world.networks() {
        writeln!(
            text,
            "network {} {} {:?} {:?} internal {} ingress {} names {:?} reach {:?}",
            it.name, it.driver, it.scope, it.subnets, it.internal, it.ingress, it.names, it.reach
        )
        .unwrap();
    }
    let network = |id: &NetworkId| world.network(id).map_or("?", |it| &it.name).to_owned();
    for it in world.services() {
        writeln!(
            text,
            "service {} {} {} stack {:?}",
            short(it.id.as_str()),
            it.name,
            it.mode,
            it.stack
        )
        .unwrap();
        for (id, on) in &it.networks {
            writeln!(text, "    on {} vip {:?} aliases {:?}", network(id), on.vip, on.aliases)
                .unwrap();
        }
        for port in &it.ports {
            writeln!(
                text,
                "    port {}:{}/{} {:?}",
                port.published, port.target, port.protocol, port.mode
            )
            .unwrap();
        }
        let labels = it.labels.iter().filter(|(key, _)| !key.starts_with("com.docker.stack."));
        writeln!(text, "    labels {:?}", labels.collect::<Vec<_>>()).unwrap();
    }
    for it in world.tasks() {
        let node = it.node.as_ref().map(|it| short(it.as_str()));
        let service = it.service.as_ref().map(|it| short(it.as_str()));
        writeln!(text, "task {} of {service:?} on {node:?}: {} ({})", it.name, it.state, it.reason)
            .unwrap();
        for (id, on) in &it.networks {
            writeln!(text, "    on {} {:?} names {:?}", network(id), on.addresses, on.names)
                .unwrap();
        }
    }
    for it in world.sandboxes() {
        shown_sandbox(&mut text, it, network);
    }
    for it in world.nodes() {
        writeln!(text, "node {} {:?} {} ingress {:?}", it.name, it.address, it.state, it.ingress)
            .unwrap();
    }
    for note in world.notes() {
        writeln!(text, "note {note}").unwrap();
    }
    text
}

fn shown_sandbox(text: &mut String, it: &Sandbox, network: impl Fn(&NetworkId) -> String) {
    let order: Vec<_> =
        it.networks.iter().map(|it| (network(&it.network), &it.addresses)).collect();
    let upstreams: Vec<_> =
        it.upstreams.iter().map(|it| format!("{:?} {}", it.dial, it.address)).collect();
    writeln!(
        text,
        "sandbox {} hostname {} tasks {} links {:?} asks {upstreams:?}\n    order {order:?}",
        it.name,
        it.hostname,
        it.tasks.len(),
        it.links
    )
    .unwrap();
    for id in &it.nameless {
        writeln!(text, "    nameless {}", network(id)).unwrap();
    }
    for (name, addresses) in &it.hosts {
        writeln!(text, "    host {name} {addresses:?}").unwrap();
    }
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

//! Where tasks are asked for what comes to a published port. Pure.

use std::collections::BTreeSet;

use registry::model::{Protocol, PublishedPort};

use super::compile::is_meshed;

/// The port at which a task that publishes `ports` is asked for what comes to `port`; `None`: it
/// does not publish that. `ingress`: on Swarm's ingress network.
pub(super) fn asked_at(
    ports: &[PublishedPort],
    port: &PublishedPort,
    ingress: bool,
    masquerade: bool,
) -> Option<u16> {
    let is_same = |it: &&PublishedPort| {
        is_meshed(it) && (it.published, it.protocol) == (port.published, port.protocol)
    };
    let own = ports.iter().filter(is_same).min_by_key(|it| it.target != port.target)?;
    let is_led_on = ingress && through_the_engine(ports, own, masquerade);
    Some(if is_led_on { own.published } else { own.target })
}

/// Whether tasks are to be asked at the published port, which the engine's own redirection in each
/// of them leads to the target. It leads whatever comes to a published number, so a target that is
/// the number of another published port can only be had so. Not datagrams that keep their client:
/// ours leads them on before the engine's redirection.
fn through_the_engine(ports: &[PublishedPort], port: &PublishedPort, masquerade: bool) -> bool {
    is_led_on(ports, port) && (masquerade || port.protocol == Protocol::Tcp)
}

/// Targets of datagrams that the engine's own redirection would lead on, because they are numbers of
/// other published ports.
pub(super) fn led_on(ports: &[PublishedPort]) -> BTreeSet<u16> {
    let datagrams = ports.iter().filter(|it| is_meshed(it) && it.protocol == Protocol::Udp);
    datagrams.filter(|it| is_led_on(ports, it)).map(|it| it.target).collect()
}

fn is_led_on(ports: &[PublishedPort], port: &PublishedPort) -> bool {
    let mut others = ports.iter().filter(|it| is_meshed(it));
    others.any(|it| {
        it.protocol == port.protocol && it.published == port.target && it.target != port.target
    })
}

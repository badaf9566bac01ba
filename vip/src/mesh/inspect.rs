//! What the kernel does with published ports, looked at anew and compared with the plan.
//!
//! Always true here: nothing is changed, and nothing is believed that was known before.

mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use ipnet::Ipv4Net;
use kernel::netns::Netns;
use kernel::nft::Socket;
use tokio::time::Instant;

use super::balance::Balancing;
use super::compile::Enabled;
use super::error::MeshError;
use super::gate::{self, Host};
use super::ground;
use super::outbound::{self, Outbound};
use super::plan::{Ingress, Plan, Port};
use super::rival::Ipvs;
use super::table::{self, Ruleset};
use crate::sandbox::open;

/// What differs from `plan`, a line each; empty: nothing does. A port that a program of the host
/// keeps, and an engine's own mesh that is left alone, are no differences.
pub fn inspect(plan: &Plan, enabled: Enabled) -> Result<Vec<String>, MeshError> {
    let host = Netns::this()?;
    let mut lines = outbound(&host, plan)?;
    if plan.is_empty() {
        return Ok(lines);
    }
    let mut wanted: Led = plan
        .direct
        .iter()
        .map(|(port, it)| (*port, it.led(*port).iter().copied().collect()))
        .collect();
    if let Some(ingress) = plan.ingress.as_ref().filter(|it| !it.ports.is_empty()) {
        let Some(netns) = open(&ingress.netns, None)? else {
            return Err(MeshError::NotConnected);
        };
        let frame = |it: &Balancing| gate::doorway([0; 4].into(), Ipv4Net::default(), it);
        let seen = led(&netns, &frame, plan)?;
        if seen.is_none() && enabled == Enabled::Auto && has_rival(&netns)? {
            return Ok(lines);
        }
        let doorway = ground::doorway(&netns, &ingress.subnets)?.ok_or(MeshError::NotConnected)?;
        compare("the engine's doorway", &inside(ingress), seen, &mut lines);
        lines.extend(plan.ways.values().flat_map(ways::differences));
        let through = |port: &Port| BTreeSet::from([SocketAddrV4::new(doorway.own, port.number)]);
        let led = ingress.ports.iter().filter(|(port, it)| !it.is_proxied(**port));
        wanted.extend(led.map(|(port, _)| (*port, through(port))));
    }
    let seen = led(&host, &|it: &Balancing| Host::default().ruleset(it), plan)?;
    let missing = wanted.keys().filter(|it| seen.as_ref().is_none_or(|led| !led.contains_key(it)));
    let missing: BTreeSet<Port> = missing.copied().collect();
    let occupied = ground::occupied(&host, &missing)?;
    wanted.retain(|port, _| !occupied.whole.contains_key(port));
    compare("the host", &wanted, seen, &mut lines);
    Ok(lines)
}

/// What differs in the way out of containers on the engine's gateway bridge.
fn outbound(host: &Netns, plan: &Plan) -> Result<Vec<String>, MeshError> {
    if plan.gateway.is_empty() {
        return Ok(Vec::new());
    }
    let exits = Outbound::default().exits(host, plan, true, Instant::now())?;
    let wanted = Host { exits, ..Host::default() }.ruleset(&Balancing::default());
    let seen = table::read_rules(&mut Socket::open(host)?)?;
    let odd = outbound::CHAINS.iter().filter(|it| !seen.has_as(it, &wanted));
    Ok(odd.map(|it| format!("the host: chain `{it}` is not as planned")).collect())
}

/// Whether the engine's own mesh may be what works there.
fn has_rival(doorway: &Netns) -> Result<bool, MeshError> {
    Ok(match ground::ipvs(doorway)? {
        Ipvs::Impossible | Ipvs::Unknown => false,
        Ipvs::Loadable | Ipvs::Idle | Ipvs::Forwards => true,
    })
}

/// Where ports lead.
type Led = BTreeMap<Port, BTreeSet<SocketAddrV4>>;

fn inside(ingress: &Ingress) -> Led {
    let slots = ingress.ports.iter();
    slots.map(|(port, it)| (*port, it.led(*port).iter().copied().collect())).collect()
}

/// Where the table in a namespace leads; `None`: there is none like `frame` makes.
fn led(
    netns: &Netns,
    frame: &dyn Fn(&Balancing) -> Ruleset,
    plan: &Plan,
) -> Result<Option<Led>, MeshError> {
    let mut socket = Socket::open(netns)?;
    let ports = plan.ports().map(|(port, it)| (*port, it.slots.as_slice(), it.affinity));
    let seen = match table::read(&mut socket, &frame(&Balancing::of_all_kinds().next(ports))) {
        Err(error) if error.is_too_long() => None,
        read => read?,
    };
    Ok(seen.map(|seen| {
        let balancing = Balancing::seen(&seen);
        balancing.slots().map(|(port, slots)| (port, slots.iter().copied().collect())).collect()
    }))
}

fn compare(place: &str, wanted: &Led, seen: Option<Led>, lines: &mut Vec<String>) {
    let Some(mut seen) = seen else {
        if !wanted.is_empty() {
            lines.push(format!("{place}: its table is missing"));
        }
        return;
    };
    // Who has no task is in no map: it is refused.
    for (port, tasks) in wanted.iter().filter(|it| !it.1.is_empty()) {
        match seen.remove(port) {
            Some(held) if held == *tasks => {}
            Some(held) => lines.push(format!(
                "{place}: {port} leads to {}, and {} is planned",
                list(&held),
                list(tasks)
            )),
            None => lines.push(format!("{place}: {port} leads nowhere")),
        }
    }
    let left = seen.keys().map(|port| format!("{place}: {port} is led on, and nobody asks for it"));
    lines.extend(left);
}

fn list(all: &BTreeSet<SocketAddrV4>) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use registry::model::Protocol;

    use super::*;

    fn led(ports: &[(u16, &[&str])]) -> Led {
        let port = |number| Port { protocol: Protocol::Tcp, number };
        let tasks = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect();
        ports.iter().map(|(number, all)| (port(*number), tasks(all))).collect()
    }

    #[test]
    fn each_port_that_leads_otherwise_is_told_and_no_other() {
        let wanted =
            led(&[(1, &["10.0.0.1:80"]), (2, &["10.0.0.2:80"]), (3, &["10.0.0.3:80"]), (4, &[])]);
        let seen = led(&[(1, &["10.0.0.1:80"]), (2, &["10.0.0.9:80"]), (5, &["10.0.0.5:80"])]);
        let mut lines = Vec::new();
        compare("the host", &wanted, Some(seen), &mut lines);
        let expected = [
            "the host: 2/tcp leads to 10.0.0.9:80, and 10.0.0.2:80 is planned",
            "the host: 3/tcp leads nowhere",
            "the host: 5/tcp is led on, and nobody asks for it",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_missing_table_is_told_where_there_should_be_one() {
        let mut lines = Vec::new();
        compare("the host", &Led::new(), None, &mut lines);
        assert_eq!(lines, [""; 0]);
        compare("the host", &led(&[(1, &["10.0.0.1:80"])]), None, &mut lines);
        assert_eq!(lines, ["the host: its table is missing"]);
    }
}

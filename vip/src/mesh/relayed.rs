//! Published ports that are relayed in userspace: for clients that speak IPv6, which tasks on the
//! mesh's networks do not, and for services that want to be told of clients by the PROXY protocol.
//! Pure.
//!
//! Invariants
//! - *what leads, is relayed*: a port that a program of the host has, or that the engine's own mesh
//!   serves, is left alone here too;
//! - *no way around*: what wants the PROXY protocol is led by no table, so that it is refused while
//!   this is away;
//! - *the same bounds*: a port that is to be had at some addresses only is relayed only there.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use registry::balance_spec::{Affinity, Bind};

use super::plan::{Plan, Port, Published};
use crate::relay::{self, Entrance, Place, Target, Way};

/// What is to be relayed of the published ports that lead somewhere. `addresses` are those of the
/// host, each with its interface.
pub(crate) fn relayed(
    plan: &Plan,
    leading: &BTreeSet<Port>,
    addresses: &[(String, IpNet)],
) -> relay::Plan {
    let ingress = plan.ingress.iter().flat_map(|ingress| {
        let dial = Place::Netns { path: ingress.netns.clone(), cookie: None };
        ingress.ports.iter().map(move |(port, it)| (port, it, dial.clone()))
    });
    let direct = plan.direct.iter().map(|(port, it)| (port, it, Place::Host));
    let mut relayed = relay::Plan::new();
    for (port, published, dial) in ingress.chain(direct) {
        if !leading.contains(port) {
            continue;
        }
        let proxied = published.is_proxied(*port);
        let target = Arc::new(target(published, dial));
        for at in entrances(published, addresses) {
            // IPv4 is nftables' work, which keeps the client's address by itself.
            if at.is_ipv6() || proxied {
                let address = SocketAddr::new(at, port.number);
                let (protocol, way) = (port.protocol, Way::Redirected);
                let entrance = Entrance { place: Place::Host, address, protocol, way };
                relayed.insert(entrance, Arc::clone(&target));
            }
        }
    }
    relayed
}

/// The addresses of the host at which a port is to be had; an unspecified one means all of its
/// family.
fn entrances(published: &Published, addresses: &[(String, IpNet)]) -> BTreeSet<IpAddr> {
    let has_ipv6 = addresses.iter().any(|(_, net)| net.addr().is_ipv6());
    let mut at = BTreeSet::new();
    if published.bind.is_empty() {
        at.extend([IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]);
    }
    for bind in &published.bind {
        match bind {
            Bind::Address(address) => drop(at.insert(*address)),
            Bind::Interface(name) => {
                let here = addresses.iter().filter(|(device, _)| device == name);
                at.extend(here.map(|(_, net)| net.addr()));
            }
            Bind::Nowhere => {}
        }
    }
    at.retain(|it| it.is_ipv4() || has_ipv6);
    at
}

fn target(published: &Published, dial: Place) -> Target {
    let port = |task: &Ipv4Addr| published.former.get(task).copied().unwrap_or(published.target);
    let at = |task: &Ipv4Addr| SocketAddr::from((*task, port(task)));
    Target {
        service: published.service.clone(),
        network: "mesh".to_owned(),
        slots: published.slots.iter().map(|it| SocketAddr::V4(*it)).collect(),
        alive: published.alive.iter().map(at).collect(),
        resting: published.resting.iter().map(|(task, limit)| (at(task), *limit)).collect(),
        dial,
        proxy_protocol: published.proxy_protocol,
        affinity: published.affinity == Affinity::Client,
        drain: published.drain,
    }
}

#[cfg(test)]
mod tests {
    use registry::model::Protocol;

    use super::*;
    use crate::mesh::plan::Ingress;

    fn told(published: Published, leading: &[u16]) -> Vec<String> {
        let port = Port { protocol: Protocol::Tcp, number: 8000 };
        let ingress = Ingress {
            netns: "/run/ingress".into(),
            subnets: Vec::new(),
            ports: [(port, Arc::new(published))].into(),
            alive: [].into(),
            draining: [].into(),
            masquerade: false,
            unread: false,
        };
        let plan = Plan { ingress: Some(ingress), ..Plan::default() };
        let leading = leading.iter().map(|it| Port { protocol: Protocol::Tcp, number: *it });
        let addresses = [("lo", "::1/128"), ("eth0", "10.1.0.1/24"), ("eth0", "fd00::1/64")];
        let addresses = addresses.map(|(device, net)| (device.to_owned(), net.parse().unwrap()));
        let relayed = relayed(&plan, &leading.collect(), &addresses);
        relayed.iter().map(|(entrance, target)| format!("{entrance}: {target}")).collect()
    }

    fn published() -> Published {
        Published {
            service: "web".to_owned(),
            slots: vec!["10.0.0.5:80".parse().unwrap()],
            alive: [Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6)].into(),
            target: 80,
            ..Published::default()
        }
    }

    const TO: &str = "(redirected): web.mesh -> 10.0.0.5:80, idle 10.0.0.6:80 from /run/ingress";

    #[test]
    fn clients_that_speak_ipv6_are_relayed_where_the_port_leads() {
        assert_eq!(told(published(), &[8000]), [format!("tcp [::]:8000 in host {TO}")]);
        assert!(told(published(), &[8001]).is_empty());
    }

    #[test]
    fn all_clients_are_relayed_to_who_wants_the_proxy_protocol() {
        let told = told(Published { proxy_protocol: true, ..published() }, &[8000]);
        let lines =
            ["0.0.0.0", "[::]"].map(|it| format!("tcp {it}:8000 in host {TO} with proxy header"));
        assert_eq!(told, lines);
    }

    #[test]
    fn a_port_is_relayed_only_where_it_is_to_be_had() {
        let bound = |bind: Bind| told(Published { bind: vec![bind], ..published() }, &[8000]);
        let one = [format!("tcp [fd00::1]:8000 in host {TO}")];
        assert_eq!(bound(Bind::Interface("eth0".to_owned())), one);
        assert_eq!(bound(Bind::Address("fd00::1".parse().unwrap())), one);
        assert!(bound(Bind::Address("10.1.0.1".parse().unwrap())).is_empty());
        assert!(bound(Bind::Nowhere).is_empty());
    }
}

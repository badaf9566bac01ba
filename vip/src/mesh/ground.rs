//! What only the kernel knows and the mesh has to: interfaces and addresses of the engine's
//! doorway, whether the engine's own mesh works, and who else listens on published ports.
//!
//! Always true here: nothing is changed, and nothing is believed for longer than one look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use kernel::listeners::{self, Listener};
use kernel::netns::{Netns, NetnsError};
use kernel::route::{self, RouteError};

use super::balance::number;
use super::plan::Port;

/// The engine's namespace for the mesh, as it is connected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Doorway {
    /// Its address on the host's bridge.
    pub(crate) own: Ipv4Addr,
    /// The bridge's network.
    pub(crate) bridge: Ipv4Net,
    /// The host's address there.
    pub(crate) gateway: Ipv4Addr,
    /// Its interfaces: towards the host, and on the ingress network.
    pub(crate) devices: [String; 2],
}

/// Looks at the doorway; `None` while the engine has not connected it on both sides.
pub(crate) fn doorway(netns: &Netns, ingress: &[Ipv4Net]) -> Result<Option<Doorway>, RouteError> {
    let routes = route::routes(netns)?;
    let default = routes.into_iter().find(|it| it.destination == IpNet::V4(Ipv4Net::default()));
    let Some((outside, Some(IpAddr::V4(gateway)))) = default.map(|it| (it.device, it.gateway))
    else {
        return Ok(None);
    };
    let addresses = route::addresses(netns)?;
    let own = |(device, net): &(String, IpNet)| match net {
        IpNet::V4(net) if *device == outside => Some(*net),
        IpNet::V4(_) | IpNet::V6(_) => None,
    };
    let inside = |(device, net): &(String, IpNet)| match net.addr() {
        IpAddr::V4(address) if ingress.iter().any(|it| it.contains(&address)) => {
            Some(device.clone())
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    let found = addresses.iter().find_map(own).zip(addresses.iter().find_map(inside));
    Ok(found.map(|(net, inside)| Doorway {
        own: net.addr(),
        bridge: net.trunc(),
        gateway,
        devices: [outside, inside],
    }))
}

/// Whether the engine's own mesh forwards: its IPVS has services by mark in the doorway.
pub(crate) fn engine_forwards(doorway: &Netns) -> Result<bool, NetnsError> {
    doorway.run(|| {
        let mut text = String::new();
        let opened = File::open("/proc/thread-self/net/ip_vs");
        // Without IPVS there is no such file.
        opened.is_ok_and(|it| it.take(MOST_BYTES).read_to_string(&mut text).is_ok())
            && text.lines().any(|it| it.starts_with("FWM"))
    })
}

/// The interfaces of the host that have an address in one of these networks.
pub(crate) fn devices(
    host: &Netns,
    within: &BTreeSet<Ipv4Net>,
) -> Result<BTreeSet<String>, RouteError> {
    let addresses = route::addresses(host)?.into_iter();
    let on = addresses.filter(|(_, net)| match net.addr() {
        IpAddr::V4(address) => within.iter().any(|it| it.contains(&address)),
        IpAddr::V6(_) => false,
    });
    Ok(on.map(|(device, _)| device).collect())
}

/// The addresses of this process's own namespace, each with its interface.
pub(crate) fn addresses() -> Result<Vec<(String, IpNet)>, RouteError> {
    route::addresses(&Netns::this()?)
}

/// Programs of the host that listen on published ports.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Occupied {
    /// Ports that a program has on all addresses, with its name.
    pub(crate) whole: BTreeMap<Port, String>,
    /// Ports that a program has on one address, with its name.
    pub(crate) addresses: BTreeMap<(Port, Ipv4Addr), String>,
}

/// Which of `ports` other programs than the engine hold.
pub(crate) fn occupied(host: &Netns, ports: &BTreeSet<Port>) -> Result<Occupied, NetnsError> {
    let mut occupied = Occupied::default();
    if ports.is_empty() {
        return Ok(occupied);
    }
    let all = listeners::listeners(host)?;
    for &port in ports {
        let is = |it: &&Listener| it.protocol == number(port.protocol) && it.port == port.number;
        for listener in all.iter().filter(is) {
            let names = listeners::holders(&[listener.inode]);
            let strangers = names.iter().filter(|it| !ENGINE.contains(&it.as_str()));
            let strangers: Vec<_> = strangers.map(String::as_str).collect();
            // Nobody to be seen has it: a process of another PID namespace.
            if strangers.is_empty() && !names.is_empty() {
                continue;
            }
            let name = if names.is_empty() { "a program".to_owned() } else { strangers.join(", ") };
            match listener.address {
                address if address.is_unspecified() => drop(occupied.whole.insert(port, name)),
                IpAddr::V4(address) => drop(occupied.addresses.insert((port, address), name)),
                IpAddr::V6(_) => {}
            }
        }
    }
    Ok(occupied)
}

/// The engine holds the ports of its own mesh, so that nobody else takes them: it never answers on
/// them, and holding them is no more than a sign.
const ENGINE: &[&str] = &["dockerd"];

/// A service takes a line of 60 bytes, each of its tasks another one.
const MOST_BYTES: u64 = 16 << 20;

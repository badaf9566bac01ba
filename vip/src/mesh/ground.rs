//! What only the kernel knows and the mesh has to: interfaces and addresses of the engine's
//! doorway, whether the engine's own mesh works, and who else listens on published ports.
//!
//! Always true here: nothing is changed, and nothing is believed for longer than one look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use kernel::listeners::{self, Holders, Listener};
use kernel::netns::{Netns, NetnsError};
use kernel::route::{self, RouteError};

use super::balance::number;
use super::plan::Port;
use super::rival::Ipvs;

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

/// What of IPVS is to be seen in the doorway: the engine's has services by mark.
pub(crate) fn ipvs(doorway: &Netns) -> Result<Ipvs, NetnsError> {
    doorway.run(|| {
        // Without IPVS there is no such file.
        let Ok(file) = File::open("/proc/thread-self/net/ip_vs") else { return absent() };
        let mut text = String::new();
        let read = file.take(MOST_BYTES).read_to_string(&mut text).is_ok();
        let forwards = read && text.lines().any(|it| it.starts_with("FWM"));
        if forwards { Ipvs::Forwards } else { Ipvs::Idle }
    })
}

/// Whether IPVS that is not there could be loaded, as the list of this kernel's modules says.
fn absent() -> Ipvs {
    let read = |path: &str| {
        let mut text = String::new();
        let file = File::open(path).ok()?;
        file.take(MOST_BYTES).read_to_string(&mut text).ok().map(|_| text)
    };
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    match read(&format!("/lib/modules/{}/modules.dep", release.trim_end())) {
        None => Ipvs::Unknown,
        Some(modules) if modules.contains("/ip_vs.ko") => Ipvs::Loadable,
        Some(_) => Ipvs::Impossible,
    }
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
    /// Ports that somebody has on all addresses, and it cannot be seen whether that is the engine.
    pub(crate) unseen: BTreeSet<Port>,
}

/// Which of `ports` other programs than the engine hold.
pub(crate) fn occupied(host: &Netns, ports: &BTreeSet<Port>) -> Result<Occupied, NetnsError> {
    if ports.is_empty() {
        return Ok(Occupied::default());
    }
    let on = |it: &Listener| {
        let is = |port: &&Port| it.protocol == number(port.protocol) && it.port == port.number;
        ports.iter().find(is).map(|port| (*port, *it))
    };
    let all: Vec<_> = listeners::listeners(host)?.iter().filter_map(on).collect();
    let holders = listeners::holders(&all.iter().map(|(_, it)| it.inode).collect());
    Ok(judge(&all, &holders))
}

fn judge(listeners: &[(Port, Listener)], holders: &Holders) -> Occupied {
    let mut occupied = Occupied::default();
    let engine = |it: &&String| ENGINE.contains(&it.as_str());
    let sees_engine = holders.seen.iter().any(|it| engine(&it));
    for &(port, listener) in listeners {
        let names = holders.names.get(&listener.inode);
        let strangers: Vec<&str> =
            names.into_iter().flatten().filter(|it| !engine(it)).map(String::as_str).collect();
        if strangers.is_empty() && names.is_some() {
            continue;
        }
        let whole = listener.address.is_unspecified();
        // The engine holds a port on all addresses, and may be who it is.
        if whole && names.is_none() && !sees_engine {
            occupied.unseen.insert(port);
            continue;
        }
        // Nobody to be seen has it: a process of another PID namespace.
        let name = if names.is_none() { "a program".to_owned() } else { strangers.join(", ") };
        match listener.address {
            _ if whole => drop(occupied.whole.insert(port, name)),
            IpAddr::V4(address) => drop(occupied.addresses.insert((port, address), name)),
            IpAddr::V6(_) => {}
        }
    }
    occupied
}

/// The engine holds the ports of its own mesh, so that nobody else takes them: it never answers on
/// them, and holding them is no more than a sign.
const ENGINE: &[&str] = &["dockerd"];

/// A service takes a line of 60 bytes, each of its tasks another one.
const MOST_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use registry::model::Protocol;

    use super::*;

    #[test]
    fn a_stranger_keeps_a_port_and_whom_nobody_can_see_does_not_where_the_engine_is_hidden() {
        let port = |number| Port { protocol: Protocol::Tcp, number };
        let listener = |at: &str, number, inode| {
            let address = at.parse().unwrap();
            (port(number), Listener { protocol: 6, address, port: number, inode })
        };
        let listeners = [
            listener("::", 8001, 1),
            listener("0.0.0.0", 8002, 2),
            listener("0.0.0.0", 8003, 3),
            listener("127.0.0.1", 8004, 4),
        ];
        let name = |it: &str| BTreeSet::from([it.to_owned()]);
        let names = BTreeMap::from([(1, name("dockerd")), (2, name("nginx"))]);
        let seen = ["dockerd", "nginx"].map(str::to_owned).into();
        let mut holders = Holders { names, seen };
        let judged = judge(&listeners, &holders);
        let whole = [(port(8002), "nginx".to_owned()), (port(8003), "a program".to_owned())];
        assert_eq!((judged.whole, judged.unseen), (whole.into(), [].into()));
        holders.names.remove(&1);
        holders.seen.remove("dockerd");
        let judged = judge(&listeners, &holders);
        assert_eq!(judged.whole, [(port(8002), "nginx".to_owned())].into());
        assert_eq!(judged.unseen, [port(8001), port(8003)].into());
        assert_eq!(judged.addresses.len(), 1, "the engine holds all addresses");
    }
}

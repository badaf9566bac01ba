//! A namespace of our own beside a sandbox, with a cable to it: there VIPs are at home that are
//! relayed.
//!
//! ```text
//! sandbox                              annex (no name)
//!   10.0.1.2 dev portolan0               local 10.0.1.2 dev lo, and who listens on it
//!   portolan0 ------------------------- eth0, default dev eth0
//! ```
//!
//! Invariants
//! - *no port is taken in the sandbox*: who listens there on all addresses, as most servers do,
//!   has the ports that VIPs have as well;
//! - *the sandbox's own address*: sessions are dialled from inside the sandbox, not from here;
//! - *gone with us*: the annex is kept by descriptors of this process alone; when it goes the cable
//!   goes, and with it the routes to VIPs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use kernel::link;
use kernel::netns::{Netns, NetnsError};
use kernel::route::{self, Route, RouteError};
use kernel::sysctl::{self, SysctlError};

use super::plan::Place;

/// The sandbox's end of the cable.
pub const CABLE: &str = "portolan0";
/// The annex's end.
const INSIDE: &str = "eth0";

/// A new namespace has the host's settings, of which these would keep it from answering: VIPs are
/// not addresses of the interface that is asked for them (as kube-proxy and LVS want it), and who
/// asks may have any address.
const SYSCTLS: [(&str, &str); 3] = [("arp_ignore", "0"), ("arp_filter", "0"), ("rp_filter", "0")];

/// A namespace beside a sandbox.
#[derive(Debug)]
pub(crate) struct Annex {
    netns: Netns,
    cookie: u64,
    vips: BTreeSet<IpAddr>,
}

/// Why a sandbox has none.
#[derive(Debug, thiserror::Error)]
pub enum AnnexError {
    /// It could not be made or entered.
    #[error("cannot make a namespace for VIPs that are relayed")]
    Namespace(#[from] NetnsError),
    /// The cable, or what leads along it, could not be made.
    #[error("cannot lead VIPs to the relay")]
    Link(#[from] RouteError),
    /// It would not answer for VIPs.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

impl AnnexError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace(error) => error.remedy(),
            Self::Link(error) => error.remedy(),
            Self::Sysctl(error) => error.remedy(),
        }
    }
}

impl Annex {
    /// Makes an empty one beside the sandbox; one that a portolan before us left loses its cable.
    pub(crate) fn beside(sandbox: &Netns) -> Result<Self, AnnexError> {
        let netns = Netns::fresh()?;
        let cookie = netns.cookie()?;
        link::delete_link(sandbox, CABLE)?;
        link::add_veth(sandbox, CABLE, INSIDE, &netns)?;
        for (place, device) in [(&netns, "lo"), (&netns, INSIDE), (sandbox, CABLE)] {
            link::set_up(place, device)?;
        }
        make_talkative(&netns)?;
        // Back to whoever asked, whatever address the sandbox gave the packet.
        let everybody: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for everybody in everybody {
            let destination = IpNet::new(everybody, 0);
            let back = destination.ok().map(|it| along(it, INSIDE));
            back.map_or(Ok(()), |it| route::add_route(&netns, &it))?;
        }
        Ok(Self { netns, cookie, vips: BTreeSet::new() })
    }

    /// Where sockets are made that listen on VIPs.
    pub(crate) fn place(&self) -> Place {
        Place::Netns { path: self.netns.path().to_owned(), cookie: Some(self.cookie) }
    }

    /// The VIPs that are at home here.
    pub(crate) fn vips(&self) -> &BTreeSet<IpAddr> {
        &self.vips
    }

    /// Makes exactly `want` at home here, and leads the sandbox here for them. Tells how many
    /// things changed.
    pub(crate) fn settle(
        &mut self,
        sandbox: &Netns,
        want: &BTreeSet<IpAddr>,
    ) -> Result<usize, AnnexError> {
        // Neighbour discovery, unlike ARP, answers only for addresses of the interface itself.
        for vip in want.difference(&self.vips).filter(|it| it.is_ipv6()) {
            link::add_address(&self.netns, INSIDE, IpNet::from(*vip))?;
        }
        let ipv4 = want.iter().filter(|it| it.is_ipv4()).copied().collect();
        route::settle_local_addresses(&self.netns, &ipv4)?;
        let changes = settle_routes(sandbox, want)?;
        self.vips.clone_from(want);
        Ok(changes)
    }
}

fn make_talkative(annex: &Netns) -> Result<(), SysctlError> {
    for interface in ["all", INSIDE] {
        for (name, value) in SYSCTLS {
            sysctl::write(annex, &format!("ipv4/conf/{interface}/{name}"), value)?;
        }
    }
    Ok(())
}

/// Makes our routes in the sandbox exactly those to `want`, along the cable.
fn settle_routes(sandbox: &Netns, want: &BTreeSet<IpAddr>) -> Result<usize, RouteError> {
    let mut there = route::our_routes(sandbox)?;
    let mut changes = 0;
    for vip in want {
        let route = along(IpNet::from(*vip), CABLE);
        // The kernel fills in the source address of none of them, but gives the metric of some.
        let same = |it: &Route| it.destination == route.destination && it.device == route.device;
        if let Some(place) = there.iter().position(same) {
            there.swap_remove(place);
        } else {
            route::add_route(sandbox, &route)?;
            changes += 1;
        }
    }
    for old in there {
        route::delete_route(sandbox, &old)?;
        changes += 1;
    }
    Ok(changes)
}

fn along(destination: IpNet, device: &str) -> Route {
    let device = device.to_owned();
    Route { destination, device, source: None, gateway: None, protocol: route::PROTOCOL }
}

/// Whether the sandbox's VIPs are relayed.
pub(crate) fn is_beside(sandbox: &Netns) -> bool {
    // Whatever is wrong with the namespace is told by the look that follows.
    route::interface_index(sandbox, CABLE).is_ok()
}

/// What is between the sandbox's routes and those to `vips` along the cable, a line each.
pub(crate) fn differences<'a>(
    sandbox: &Netns,
    vips: impl Iterator<Item = &'a IpAddr>,
) -> Result<Vec<String>, AnnexError> {
    let there = route::our_routes(sandbox)?;
    let mut led: BTreeSet<IpNet> =
        there.iter().filter(|it| it.device == CABLE).map(|it| it.destination).collect();
    let missing = vips.filter(|vip| !led.remove(&IpNet::from(**vip)));
    let mut lines: Vec<_> =
        missing.map(|vip| format!("no route leads {vip} to the relay")).collect();
    lines.extend(led.iter().map(|it| format!("route {it} to the relay is not in the plan")));
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_whose_settings_hide_addresses_of_other_interfaces_does_not_hide_vips() {
        let (sandbox, annex) = (Netns::fresh().unwrap(), Netns::fresh().unwrap());
        link::add_veth(&sandbox, CABLE, INSIDE, &annex).unwrap();
        let names =
            ["all", INSIDE].map(|it| SYSCTLS.map(|(name, _)| format!("ipv4/conf/{it}/{name}")));
        for name in names.iter().flatten() {
            sysctl::write(&annex, name, "1").unwrap();
        }
        make_talkative(&annex).unwrap();
        for name in names.iter().flatten() {
            assert_eq!(sysctl::read(&annex, name).unwrap().as_deref(), Some("0"), "{name}");
        }
    }
}

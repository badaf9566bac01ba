//! Builds the world that a world file describes: a bridge for each network, a network namespace
//! for each sandbox, and a cable between them for each attachment.
//!
//! Everything is made in the caller's own network and mount namespaces and goes with them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use kernel::link;
use kernel::netns::{Netns, NetnsError};
use kernel::route::{self, Route, RouteError};
use registry::Draft;
use registry::id::NetworkId;
use registry::model::{Network, Sandbox};

/// What could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A namespace could not be made or entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A link, address or route could not be made.
    #[error("cannot build {what}: {source}")]
    Route {
        /// For which sandbox or network.
        what: String,
        /// The refusal.
        source: RouteError,
    },
}

/// Builds `world` in the namespaces of the calling thread.
pub fn build(world: &Draft) -> Result<(), BuildError> {
    let host = Netns::this()?;
    link::set_up(&host, "lo").map_err(on("lo"))?;
    let mut bridges = BTreeMap::new();
    for (number, network) in world.networks.iter().enumerate() {
        let bridge = Bridge { device: format!("br{number}"), network };
        bridge.build(&host).map_err(on(&network.name))?;
        bridges.insert(&network.id, bridge);
    }
    for (number, sandbox) in world.sandboxes.iter().enumerate() {
        let netns = link::name_netns(&sandbox.netns)?;
        cable(&host, &netns, number, sandbox, &bridges).map_err(on(&sandbox.name))?;
    }
    Ok(())
}

struct Bridge<'a> {
    device: String,
    network: &'a Network,
}

impl Bridge<'_> {
    fn build(&self, host: &Netns) -> Result<(), RouteError> {
        link::add_bridge(host, &self.device)?;
        for subnet in &self.network.subnets {
            if let Some(gateway) = gateway(subnet) {
                link::add_address(host, &self.device, with_prefix(gateway, subnet))?;
            }
        }
        link::set_up(host, &self.device)
    }
}

fn cable(
    host: &Netns,
    netns: &Netns,
    number: usize,
    sandbox: &Sandbox,
    bridges: &BTreeMap<&NetworkId, Bridge<'_>>,
) -> Result<(), RouteError> {
    let mut way_out = None;
    for (index, attachment) in sandbox.networks.iter().enumerate() {
        let Some(bridge) = bridges.get(&attachment.network) else { continue };
        let (outside, inside) = (format!("ve{number}.{index}"), format!("eth{index}"));
        link::add_veth(host, &outside, &inside, netns)?;
        link::set_master(host, &outside, &bridge.device)?;
        link::set_up(host, &outside)?;
        link::set_up(netns, &inside)?;
        for address in &attachment.addresses {
            let subnet = bridge.network.subnets.iter().find(|it| it.contains(address));
            let Some(subnet) = subnet else { continue };
            link::add_address(netns, &inside, with_prefix(*address, subnet))?;
            if !bridge.network.internal && address.is_ipv4() && way_out.is_none() {
                way_out = gateway(subnet).map(|gateway| (inside.clone(), gateway));
            }
        }
    }
    let Some((device, gateway)) = way_out else { return Ok(()) };
    let destination = IpNet::default();
    let (source, protocol) = (None, STATIC);
    route::add_route(
        netns,
        &Route { destination, device, source, gateway: Some(gateway), protocol },
    )
}

/// `RTPROT_STATIC`: made by an administrator, so none of portolan's to clean up.
const STATIC: u8 = 4;

/// The first address of a subnet, as engines give it to the host.
fn gateway(subnet: &IpNet) -> Option<IpAddr> {
    subnet.hosts().next()
}

fn with_prefix(address: IpAddr, subnet: &IpNet) -> IpNet {
    IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| address.into())
}

fn on(what: &str) -> impl Fn(RouteError) -> BuildError {
    let what = what.to_owned();
    move |source| BuildError::Route { what: what.clone(), source }
}

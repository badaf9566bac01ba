//! Ways out for VIPs that no subnet of the namespace covers.
//!
//! Every route made here carries portolan's protocol number and is of no other use, so that those
//! of a portolan that died are known and removed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use kernel::netns::Netns;
use kernel::route::{self, Route, RouteError};

use crate::plan::VipRoute;

/// What came of settling the routes of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// How many were added, replaced or removed.
    pub(crate) changes: usize,
    /// Ours that are there now.
    pub(crate) there: BTreeSet<VipRoute>,
    /// Those that could not be made.
    pub(crate) failures: Vec<RoutesError>,
}

/// Why routes are not as planned.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// The plan is ahead of the namespace, or behind it.
    #[error("no interface has the address {source_address}, from which {block} would be reached")]
    NoInterface {
        /// The VIPs that have no way out.
        block: IpNet,
        /// The sandbox's own address on their network.
        source_address: IpAddr,
    },
    /// Somebody else's route leads there; it would be lost.
    #[error("a route to {block} that is not portolan's is there already")]
    Taken {
        /// The VIPs that go where that route leads.
        block: IpNet,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] RouteError),
}

impl RoutesError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NoInterface { .. } => None, // the container is being connected or disconnected
            Self::Taken { .. } => Some("delete that route, or give the service another VIP"),
            Self::Kernel(error) => error.remedy(),
        }
    }
}

/// What inside `pools` this process's own namespace has routes to, ours left out.
pub(crate) fn of_the_host(pools: [IpNet; 2]) -> Result<BTreeSet<IpNet>, RoutesError> {
    let host = Netns::this().map_err(RouteError::from)?;
    let inside = |to: &IpNet| pools.iter().any(|it| it.contains(to));
    let matters = |it: &Route| it.protocol != route::PROTOCOL && inside(&it.destination);
    let routes = route::routes_where(&host, matters)?;
    Ok(routes.into_iter().map(|it| it.destination).collect())
}

/// The addresses of this process's own namespace.
pub(crate) fn addresses_of_the_host() -> Result<BTreeSet<IpAddr>, RouteError> {
    let addresses = route::addresses(&Netns::this()?)?;
    Ok(addresses.into_iter().map(|(_, it)| it.addr()).collect())
}

/// Our routes in the namespace.
pub(crate) fn there(netns: &Netns) -> Result<BTreeSet<VipRoute>, RoutesError> {
    let ours = route::our_routes(netns)?.into_iter();
    let read = ours.filter_map(|it| Some(VipRoute { block: it.destination, source: it.source? }));
    Ok(read.collect())
}

/// Makes our routes in the namespace exactly `want`.
pub(crate) fn settle(netns: &Netns, want: &BTreeSet<VipRoute>) -> Result<Settled, RoutesError> {
    let mut there = route::our_routes(netns)?;
    let mut settled = Settled::default();
    if there.is_empty() && want.is_empty() {
        return Ok(settled);
    }
    let addresses = route::addresses(netns)?;
    let device_of =
        |own: IpAddr| addresses.iter().find(|(_, it)| it.addr() == own).map(|(name, _)| name);
    for &VipRoute { block, source } in want {
        let Some(device) = device_of(source) else {
            settled.failures.push(RoutesError::NoInterface { block, source_address: source });
            continue;
        };
        let route = Route {
            destination: block,
            device: device.clone(),
            source: Some(source),
            gateway: None,
            protocol: route::PROTOCOL,
        };
        if let Some(place) = there.iter().position(|it| *it == route) {
            there.swap_remove(place);
        } else if let Err(error) = add(netns, &route, &mut there) {
            settled.failures.push(error);
            continue;
        } else {
            settled.changes += 1;
        }
        settled.there.insert(VipRoute { block, source });
    }
    for old in there {
        match route::delete_route(netns, &old) {
            Ok(()) => settled.changes += 1,
            Err(error) => settled.failures.push(error.into()),
        }
    }
    Ok(settled)
}

/// Makes a route in place of one of ours that is `there`, never in place of anybody else's.
fn add(netns: &Netns, route: &Route, there: &mut Vec<Route>) -> Result<(), RoutesError> {
    let block = route.destination;
    if there.iter().any(|it| it.destination == block) {
        route::add_route(netns, route)?;
        there.retain(|it| it.destination != block);
        return Ok(());
    }
    let made = route::add_new_route(netns, route)?;
    if made { Ok(()) } else { Err(RoutesError::Taken { block }) }
}

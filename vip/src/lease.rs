//! Which addresses of the pool are given to whom.
//!
//! Invariants, by structure
//! - *one owner*: a block belongs to one network, an address of it to one service;
//! - *inside*: what [`crate::allocate`] puts into a block lies in it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use registry::model::{Network, Service, ServiceKind};

use crate::family::IpFamily;

/// Every block of the pool that is given away.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Leases {
    /// By address range; ranges do not overlap.
    pub blocks: BTreeMap<IpNet, Block>,
}

/// A part of the pool that belongs to one network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Block {
    /// Whose it is.
    pub network: Holder,
    /// The addresses given to services.
    pub leases: BTreeMap<IpAddr, Lease>,
}

/// One address given to one service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Who has it, or had it last.
    pub service: Holder,
    /// When its service was first missed, milliseconds since the epoch; `None`: it is in use.
    pub released: Option<u64>,
}

/// Who holds something. The id tells holders of one name apart; the name finds the holder again
/// when the engine made it anew with another id (`docker stack rm` and `deploy`).
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Holder {
    /// The source's id.
    pub id: String,
    /// A network's name; a service's kind, stack and name.
    pub name: String,
}

impl Holder {
    /// The network as a holder of blocks.
    pub fn network(network: &Network) -> Self {
        Self { id: network.id.as_str().to_owned(), name: network.name.clone() }
    }

    /// The service as a holder of addresses. The stack is part of its name, because compose calls
    /// the services of all projects `web`.
    pub fn service(service: &Service) -> Self {
        let kind = match service.kind {
            ServiceKind::Swarm => "swarm",
            ServiceKind::Compose => "compose",
            ServiceKind::World => "world",
        };
        let stack = service.stack.as_deref().unwrap_or_default();
        let name = format!("{kind}:{stack}/{}", service.name);
        Self { id: service.id.as_str().to_owned(), name }
    }
}

impl Leases {
    /// Those of one family.
    pub(crate) fn of_family(&self, family: IpFamily) -> Self {
        let of_it = self.blocks.iter().filter(|(range, _)| IpFamily::of(range.addr()) == family);
        Self { blocks: of_it.map(|(range, it)| (*range, it.clone())).collect() }
    }

    /// The addresses in use, by network id and service id: one of each family at most.
    pub(crate) fn in_use(&self) -> BTreeMap<(&str, &str), Vec<IpAddr>> {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for block in self.blocks.values() {
            for (address, lease) in block.leases.iter().filter(|(_, it)| it.released.is_none()) {
                let key = (block.network.id.as_str(), lease.service.id.as_str());
                found.entry(key).or_default().push(*address);
            }
        }
        found
    }

    /// The block of network `network` (by id) that covers `address`.
    pub(crate) fn block_around(&self, address: IpAddr, network: &str) -> Option<IpNet> {
        // Blocks do not overlap, so only the last one that begins at or below it can cover it.
        let last = self.blocks.range(..=IpNet::from(address)).next_back();
        let (range, _) =
            last.filter(|(range, it)| range.contains(&address) && it.network.id == network)?;
        Some(*range)
    }
}

/// `240.240.0.1 world:/web on frontend`, one line a lease: fixtures and logs.
impl fmt::Display for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for block in self.blocks.values() {
            for (address, lease) in &block.leases {
                let resting = if lease.released.is_some() { ", resting" } else { "" };
                let (service, network) = (&lease.service.name, &block.network.name);
                writeln!(f, "{address} {service} on {network}{resting}")?;
            }
        }
        Ok(())
    }
}

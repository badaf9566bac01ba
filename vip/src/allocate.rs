//! Gives every service that needs one an address of the pool on each of its networks.
//!
//! Invariants
//! - *sticky*: an address stays with its service, found by id, else by name, as long as it may;
//! - *free*: none is given that is in a known subnet or that somebody else holds in this snapshot;
//! - *rested*: one that was released is not given to another service for [`QUARANTINE_MS`], so that
//!   a client with an old answer does not reach a stranger;
//! - *blocks*: each network has blocks of the pool of its own, because a sandbox needs one route
//!   for each of them.
//!
//! Pure: pool, leases and the time are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, IpSubnets};

use crate::lease::{Block, Holder, Lease, Leases};

/// How long a released address rests, in milliseconds: far longer than any cache of ours keeps an
/// answer, and than a service is gone while its stack is deployed anew.
pub const QUARANTINE_MS: u64 = 10 * 60 * 1000;

/// Prefix lengths of blocks: at least as large as the first where the pool is, because fewer blocks
/// are fewer routes, and not smaller than the second unless the pool is: 14 services.
const BLOCKS: RangeInclusive<u8> = 24..=28;
/// As [`BLOCKS`]: 65,534 services, and 14.
const BLOCKS6: RangeInclusive<u8> = 112..=124;
/// A pool that has room for it is cut into 256 blocks.
const BLOCKS_LOG2: u8 = 8;

/// What the allocator may use.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    /// Where addresses come from.
    pub(crate) pool: IpNet,
    /// Subnets of all networks.
    pub(crate) subnets: BTreeSet<IpNet>,
    /// What the host has routes to: no new block lies there. Routes come and go, and what is in use
    /// stays where it is.
    pub(crate) routed: BTreeSet<IpNet>,
    /// Single addresses that somebody has: fixed VIPs, tasks.
    pub(crate) taken: BTreeSet<IpAddr>,
}

/// Who wants an address where: the services of each network.
pub(crate) type Claims = BTreeMap<Holder, BTreeSet<Holder>>;

/// What came of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Allocation {
    /// All leases as they are now.
    pub(crate) leases: Leases,
    /// Network and service of claims for which the pool had no address left.
    pub(crate) unserved: Vec<(Holder, Holder)>,
    /// Addresses that were in use and had to be given up, with service and network.
    pub(crate) moved: Vec<(IpAddr, Holder, Holder)>,
}

/// Answers `claims`, keeping what `old` gave wherever that is still possible.
pub(crate) fn allocate(old: &Leases, claims: &Claims, ground: &Ground, now: u64) -> Allocation {
    let mut allocator = Allocator {
        ground,
        candidates: candidates(ground.pool),
        blocks: BTreeMap::new(),
        unserved: Vec::new(),
        moved: Vec::new(),
    };
    allocator.keep_possible(old);
    allocator.find_networks(claims);
    let unmet = allocator.settle(claims, now);
    // Before new addresses are given: what has rested is free again.
    allocator.blocks.retain(|_, it| !it.leases.is_empty());
    for (network, service) in unmet {
        allocator.give_new(network, service);
    }
    let Allocator { blocks, unserved, moved, .. } = allocator;
    Allocation { leases: Leases { blocks }, unserved, moved }
}

struct Allocator<'a> {
    ground: &'a Ground,
    /// Blocks not yet looked at; those behind are in use or were found unusable.
    candidates: Option<IpSubnets>,
    blocks: BTreeMap<IpNet, Block>,
    unserved: Vec<(Holder, Holder)>,
    moved: Vec<(IpAddr, Holder, Holder)>,
}

impl Allocator<'_> {
    /// Takes over what lies in the pool, in no subnet, and is nobody else's.
    fn keep_possible(&mut self, old: &Leases) {
        for (range, block) in &old.blocks {
            let sound = self.ground.tenable(*range) && !self.overlaps(*range);
            let mut kept = Block { network: block.network.clone(), leases: BTreeMap::new() };
            for (address, lease) in &block.leases {
                if sound && range.contains(address) && !self.ground.taken.contains(address) {
                    kept.leases.insert(*address, lease.clone());
                } else if lease.released.is_none() {
                    self.moved.push((*address, lease.service.clone(), block.network.clone()));
                }
            }
            if sound {
                self.blocks.insert(*range, kept);
            }
        }
    }

    /// Hands the blocks of networks that are gone to those that came with the same name and want
    /// addresses: whoever wants none would have a block now or later, by what rests where.
    fn find_networks(&mut self, claims: &Claims) {
        let owners: BTreeSet<_> = self.blocks.values().map(|it| it.network.id.clone()).collect();
        let live: BTreeSet<_> = claims.keys().map(|it| it.id.as_str()).collect();
        for (network, services) in claims {
            for block in self.blocks.values_mut() {
                let same = block.network.id == network.id;
                let heir = !services.is_empty()
                    && !owners.contains(&network.id)
                    && block.network.name == network.name
                    && !live.contains(block.network.id.as_str());
                if same || heir {
                    block.network = network.clone();
                }
            }
        }
    }

    /// Gives each service the address it has, by id, else the one that its name had. Releases all
    /// others and forgets those that have rested. Returns who got none: network and service.
    fn settle<'c>(&mut self, claims: &'c Claims, now: u64) -> Vec<(&'c Holder, &'c Holder)> {
        let mut unmet: BTreeMap<&Holder, BTreeMap<&str, &Holder>> = BTreeMap::new();
        for (network, services) in claims {
            let by_id = services.iter().map(|it| (it.id.as_str(), it)).collect();
            unmet.insert(network, by_id);
        }
        for block in self.blocks.values_mut() {
            let mut nobody = BTreeMap::new();
            let waiting = unmet.get_mut(&block.network).unwrap_or(&mut nobody);
            for lease in block.leases.values_mut() {
                lease.take_by_id(waiting, now);
            }
        }
        for block in self.blocks.values_mut() {
            let mut nobody = BTreeMap::new();
            let waiting = unmet.get_mut(&block.network).unwrap_or(&mut nobody);
            for lease in block.leases.values_mut().filter(|it| it.released.is_some()) {
                lease.take_by_name(waiting);
            }
            block.leases.retain(|_, it| it.released.is_none_or(|at| now - at < QUARANTINE_MS));
        }
        let flat = unmet.into_iter().flat_map(|(n, rest)| rest.into_values().map(move |s| (n, s)));
        flat.collect()
    }

    fn give_new(&mut self, network: &Holder, service: &Holder) {
        let Some((range, address)) = self.free_address(network) else {
            self.unserved.push((network.clone(), service.clone()));
            return;
        };
        let empty = || Block { network: network.clone(), leases: BTreeMap::new() };
        let lease = Lease { service: service.clone(), released: None };
        self.blocks.entry(range).or_insert_with(empty).leases.insert(address, lease);
    }

    /// The lowest free address in the network's blocks, with its block; a new block if they are
    /// full.
    fn free_address(&mut self, network: &Holder) -> Option<(IpNet, IpAddr)> {
        let own = self.blocks.iter().filter(|(_, it)| it.network == *network);
        for (range, block) in own {
            if let Some(free) = self.ground.free_in(*range, &block.leases) {
                return Some((*range, free));
            }
        }
        loop {
            let range = self.candidates.as_mut()?.next()?;
            if !self.ground.usable(range) || self.overlaps(range) {
                continue;
            }
            if let Some(free) = self.ground.free_in(range, &BTreeMap::new()) {
                return Some((range, free));
            }
        }
    }

    fn overlaps(&self, range: IpNet) -> bool {
        self.blocks.keys().any(|it| overlap(*it, range))
    }
}

impl Ground {
    /// Whether a new block may lie there.
    fn usable(&self, range: IpNet) -> bool {
        self.tenable(range) && !self.routed.iter().any(|it| overlap(*it, range))
    }

    /// Whether a block that was given may stay.
    fn tenable(&self, range: IpNet) -> bool {
        self.pool.contains(&range) && !self.subnets.iter().any(|it| overlap(*it, range))
    }

    /// Without the first and last address of the block: some programs think they know what those
    /// mean.
    fn free_in(&self, range: IpNet, leases: &BTreeMap<IpAddr, Lease>) -> Option<IpAddr> {
        let bits = range.max_prefix_len() - range.prefix_len();
        let full = 1_usize.checked_shl(bits.into()).is_some_and(|most| leases.len() >= most);
        let free = |it: &IpAddr| !leases.contains_key(it) && !self.taken.contains(it);
        let is_end = |it: &IpAddr| bits > 1 && [range.network(), range.broadcast()].contains(it);
        if full { None } else { range.hosts().find(|it| free(it) && !is_end(it)) }
    }
}

impl Lease {
    /// In use if its service is among those `waiting`, and then that waits no more; else released
    /// from `now` on unless it was before.
    fn take_by_id<'c>(&mut self, waiting: &mut BTreeMap<&'c str, &'c Holder>, now: u64) {
        if let Some(service) = waiting.remove(self.service.id.as_str()) {
            self.service = service.clone(); // it may have been renamed
            self.released = None;
        } else {
            // A clock that was set back must not make an address rest for years.
            self.released = Some(self.released.map_or(now, |it| it.min(now)));
        }
    }

    /// In use by the first of those `waiting` that has the name of its last service.
    fn take_by_name<'c>(&mut self, waiting: &mut BTreeMap<&'c str, &'c Holder>) {
        let heir = waiting.values().find(|it| it.name == self.service.name).copied();
        if let Some(service) = heir {
            waiting.remove(service.id.as_str());
            self.service = service.clone();
            self.released = None;
        }
    }
}

/// The blocks of the pool; `None` is never met, because the prefix is never shorter than the
/// pool's.
fn candidates(pool: IpNet) -> Option<IpSubnets> {
    let limits = match pool {
        IpNet::V4(_) => BLOCKS,
        IpNet::V6(_) => BLOCKS6,
    };
    let prefix = (pool.prefix_len() + BLOCKS_LOG2).clamp(*limits.start(), *limits.end());
    pool.trunc().subnets(prefix.max(pool.prefix_len())).ok()
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests;

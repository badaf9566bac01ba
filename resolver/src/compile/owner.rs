//! Whose each address of a network is, so that what the engine's own resolver says can be read as
//! what the registry knows.
//!
//! Always true here: an address of a task that must not get connections still tells whose it is,
//! and never stands among those that are answered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use registry::Snapshot;
use registry::model::{Completeness, Mode, Network, Service, ServingState};

use super::seconds;
use crate::plan::{Config, Entry, Owner, VipTable};

/// The owners of `network`'s addresses; none where every name of it is known, since then nobody
/// else is asked about it.
pub(super) fn owners(
    snapshot: &Snapshot,
    network: &Network,
    vips: &VipTable,
    config: &Config,
) -> BTreeMap<IpAddr, Arc<Owner>> {
    let mut owners = BTreeMap::new();
    if network.names == Completeness::Complete {
        return owners;
    }
    for service in snapshot.services_on(&network.id) {
        let (owner, tasks) = service_owner(snapshot, service, network, vips, config);
        let owner = Arc::new(owner);
        for address in owner.vip.into_iter().chain(tasks) {
            owners.entry(address).or_insert_with(|| Arc::clone(&owner));
        }
    }
    let ttl = seconds(config.ttl);
    for task in snapshot.tasks_on(&network.id).filter(|it| it.state != ServingState::Stopped) {
        let Some(endpoint) = task.networks.get(&network.id) else { continue };
        let own = entry(endpoint.addresses.clone(), ttl);
        let owner =
            Arc::new(Owner { name: task.name.clone(), vip: None, front: own.clone(), tasks: own });
        for address in &endpoint.addresses {
            owners.entry(*address).or_insert_with(|| Arc::clone(&owner));
        }
    }
    owners
}

/// `service` as an owner, and the addresses of all its tasks that are not gone.
fn service_owner(
    snapshot: &Snapshot,
    service: &Service,
    network: &Network,
    vips: &VipTable,
    config: &Config,
) -> (Owner, Vec<IpAddr>) {
    let fixed = service.networks.get(&network.id).and_then(|it| it.vip);
    let allocated = || vips.get(&(service.id.clone(), network.id.clone())).copied();
    let vip = match service.mode {
        Mode::Vip => fixed.or_else(allocated),
        Mode::DnsRr => None,
    };
    let (mut all, mut serving) = (Vec::new(), Vec::new());
    for task in snapshot.tasks_of(&service.id).filter(|it| it.state != ServingState::Stopped) {
        let Some(endpoint) = task.networks.get(&network.id) else { continue };
        all.extend_from_slice(&endpoint.addresses);
        if task.serves() {
            serving.extend_from_slice(&endpoint.addresses);
        }
    }
    let tasks = entry(serving, seconds(config.ttl));
    let front = match vip {
        Some(vip) => entry(vec![vip], seconds(config.vip_ttl)),
        None => tasks.clone(),
    };
    (Owner { name: service.name.clone(), vip, front, tasks }, all)
}

fn entry(mut addresses: Vec<IpAddr>, ttl: u32) -> Entry {
    addresses.sort_unstable();
    addresses.dedup();
    Entry { addresses, ttl }
}

//! What the engine's own resolver means by the addresses that it gives, in the registry's words.
//! Pure.
//!
//! The engine knows names that gossip does not carry, above all aliases; the registry knows better
//! who serves. So its addresses are taken for who owns them, and the registry answers for those.
//!
//! Invariants
//! - *all or nothing*: one address that the registry does not know, and the engine is believed;
//! - *no network's answer is mixed with another's*: all owners are of one network;
//! - *a task's own name stays its own*: one address of many is not taken for all of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::plan::{Entry, Owner, Zone};

/// What `addresses`, the engine's for the name `key`, stand for; `None`: not known here.
pub(super) fn meaning(zones: &[Arc<Zone>], key: &str, addresses: &[IpAddr]) -> Option<Entry> {
    zones.iter().find_map(|zone| on(zone, key, addresses))
}

fn on(zone: &Zone, key: &str, addresses: &[IpAddr]) -> Option<Entry> {
    let owners: Option<Vec<&Arc<Owner>>> = addresses.iter().map(|it| zone.owners.get(it)).collect();
    let mut owners = owners.filter(|it| !it.is_empty())?;
    let said: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    owners.sort_unstable_by_key(|it| Arc::as_ptr(it));
    owners.dedup_by_key(|it| Arc::as_ptr(it));
    let every_task = key.starts_with("tasks.");
    let mut meant = Entry { addresses: Vec::new(), ttl: u32::MAX };
    for owner in owners {
        let of_it = |it: &&IpAddr| zone.owners.get(it).is_some_and(|one| Arc::ptr_eq(one, owner));
        let said: Vec<IpAddr> = said.iter().filter(of_it).copied().collect();
        let Entry { addresses, ttl } = of_one(owner, every_task, &said);
        meant.addresses.extend(addresses);
        meant.ttl = meant.ttl.min(ttl);
    }
    meant.addresses.sort_unstable();
    meant.addresses.dedup();
    Some(meant)
}

/// What `said`, some of `owner`'s addresses, stand for.
fn of_one(owner: &Owner, every_task: bool, said: &[IpAddr]) -> Entry {
    if every_task {
        return owner.tasks.clone();
    }
    if owner.vip.is_some_and(|vip| said.contains(&vip)) {
        return owner.front.clone();
    }
    match said {
        // One task: its short id or hostname. A service with a single task means the same by its
        // alias. One that must not be used any more is the last that the engine knows of its
        // service, whose new ones are wanted, unless that has a VIP: then it was no alias.
        [task] if owner.tasks.addresses.contains(task) || owner.vip.is_some() => {
            let serving = owner.tasks.addresses.iter().filter(|it| *it == task).copied();
            Entry { addresses: serving.collect(), ttl: owner.tasks.ttl }
        }
        _ => owner.tasks.clone(),
    }
}

#[cfg(test)]
mod tests;

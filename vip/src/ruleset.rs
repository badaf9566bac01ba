//! What a change of balances is in nftables: one transaction, beside what the table holds then.
//! Pure; the pieces are in [`crate::layout`].
//!
//! Invariants
//! - *even*: each service has a counter of its own; one shared by services would correlate with
//!   the order in which a client calls them, and some tasks would get nothing;
//! - *no holes*: the slots of a service are in the lower or the upper half of the numbers. A change
//!   writes the other half and turns the service's rule to it; the old half stays until the next
//!   transaction. A packet that is between rule and map meets a full half on either side;
//! - *one transaction* each, however many services there are;
//! - *first calls spread*: a counter starts at zero when its rule is written, so each sandbox
//!   begins elsewhere in the list; otherwise all would call the same task after every change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kernel::nft::{Batch, Element, ElementValue};

use crate::diff::Change;
use crate::layout::{
    self, ALIVE, Capacity, Half, SERVICES, Seed, SlotKey, SlotRule, TABLE, VIPS, alive, chain, key,
    member, service,
};
use crate::plan::Balances;

/// What a table in the kernel holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Held {
    pub(crate) capacity: Capacity,
    /// Its balances, as far as the kernel knows them: VIPs and slots.
    pub(crate) balances: Arc<Balances>,
    /// VIPs whose slots are in the upper half.
    pub(crate) upper: BTreeSet<Ipv4Addr>,
    /// Slots that no rule uses any more, to be deleted by the next transaction.
    pub(crate) stale: BTreeSet<SlotKey>,
}

/// The transaction that makes a table that holds `balances`, whatever was there, and what it holds
/// then. Connections that exist go on: conntrack remembers them, not the table.
pub(crate) fn whole(balances: &Arc<Balances>, seed: Seed) -> (Batch, Held) {
    let capacity = Capacity::for_growth_of(balances.len());
    let mut batch = Batch::new();
    batch.replace_table(TABLE, false);
    frame(&mut batch, capacity);
    let mut services = Vec::new();
    let mut slots: BTreeMap<String, Vec<Element>> = BTreeMap::new();
    for (vip, balance) in &**balances {
        if let Some(rule) = SlotRule::of(&balance.slots, Half::Lower) {
            let map = capacity.map_of(*vip);
            batch.add_chain(TABLE, &chain(*vip), None);
            add_rule(&mut batch, *vip, rule, &map);
            services.push(service(*vip));
            let elements = elements(*vip, Half::Lower, &balance.slots, seed);
            slots.entry(map).or_default().extend(elements);
        }
    }
    for (map, slots) in &slots {
        add(&mut batch, map, slots);
    }
    let vips: Vec<_> = balances.keys().map(|it| member(*it)).collect();
    add(&mut batch, SERVICES, &services);
    add(&mut batch, VIPS, &vips);
    revive(&mut batch);
    let (upper, stale) = (BTreeSet::new(), BTreeSet::new());
    (batch, Held { capacity, balances: Arc::clone(balances), upper, stale })
}

/// The transaction for `changes` that lead from `held` to `target`, and what the table holds then;
/// `None` when the table is too small for it.
pub(crate) fn amended(
    held: &Held,
    changes: &[Change<'_>],
    target: &Arc<Balances>,
    seed: Seed,
) -> Option<(Batch, Held)> {
    if !within(target.len(), held.capacity.vips) {
        return None;
    }
    let mut amendment = Amendment {
        batch: Batch::new(),
        capacity: held.capacity,
        upper: held.upper.clone(),
        stale: BTreeSet::new(),
        seed,
    };
    let mut stale: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for key in &held.stale {
        stale.entry(held.capacity.map_of(key.vip)).or_default().push(key.bytes());
    }
    for (map, keys) in &stale {
        amendment.batch.delete_elements(TABLE, map, keys);
    }
    for change in changes {
        amendment.write(change);
    }
    let Amendment { batch, capacity, upper, stale, seed: _ } = amendment;
    Some((batch, Held { capacity, balances: Arc::clone(target), upper, stale }))
}

/// Lets the table work for another [`crate::layout::ALIVE_FOR`].
pub(crate) fn revive(batch: &mut Batch) {
    batch.flush_set(TABLE, ALIVE);
    batch.add_elements(TABLE, ALIVE, &[alive()]);
}

/// Chains, sets and rules that do not depend on services.
fn frame(batch: &mut Batch, capacity: Capacity) {
    for set in layout::sets(capacity) {
        batch.add_set(TABLE, &set);
    }
    for map in capacity.map_names() {
        batch.add_set(TABLE, &layout::slot_map(&map));
    }
    for (name, hook) in layout::chains() {
        batch.add_chain(TABLE, name, hook);
    }
    for (chain, exprs) in layout::rules() {
        batch.add_rule(TABLE, chain, &exprs, &capacity.userdata());
    }
}

struct Amendment {
    batch: Batch,
    capacity: Capacity,
    upper: BTreeSet<Ipv4Addr>,
    stale: BTreeSet<SlotKey>,
    seed: Seed,
}

impl Amendment {
    fn write(&mut self, change: &Change<'_>) {
        match change {
            Change::AddVip { vip, balance } => {
                add(&mut self.batch, VIPS, &[member(*vip)]);
                self.open(*vip, &balance.slots);
            }
            Change::RemoveVip { vip, old } => {
                self.close(*vip, old);
                self.batch.delete_elements(TABLE, VIPS, &[key(*vip)]);
            }
            Change::SetSlots { vip, old, new } => match (old.is_empty(), new.is_empty()) {
                (true, _) => self.open(*vip, new),
                (false, true) => self.close(*vip, old),
                (false, false) => self.turn(*vip, old, new),
            },
            // Not the table's: conntrack's and the routes'.
            Change::Cut { .. } | Change::AddRoute(_) | Change::RemoveRoute(_) => {}
        }
    }

    /// A service that had no task gets its chain.
    fn open(&mut self, vip: Ipv4Addr, slots: &[Ipv4Addr]) {
        let Some(rule) = SlotRule::of(slots, Half::Lower) else { return };
        self.upper.remove(&vip);
        self.fill(vip, Half::Lower, slots);
        self.batch.add_chain(TABLE, &chain(vip), None);
        add_rule(&mut self.batch, vip, rule, &self.capacity.map_of(vip));
        add(&mut self.batch, SERVICES, &[service(vip)]);
    }

    /// A service that has no task any more: `refuse` answers for it.
    fn close(&mut self, vip: Ipv4Addr, old: &[Ipv4Addr]) {
        if old.is_empty() {
            return;
        }
        let half = self.half(vip);
        self.batch.delete_elements(TABLE, SERVICES, &[key(vip)]);
        self.batch.flush_chain(TABLE, &chain(vip));
        self.batch.delete_chain(TABLE, &chain(vip));
        let keys: Vec<_> = keys(vip, half, old.len()).map(SlotKey::bytes).collect();
        self.batch.delete_elements(TABLE, &self.capacity.map_of(vip), &keys);
        self.upper.remove(&vip);
    }

    /// Writes the other half and turns the rule to it.
    fn turn(&mut self, vip: Ipv4Addr, old: &[Ipv4Addr], new: &[Ipv4Addr]) {
        let half = self.half(vip);
        let Some(rule) = SlotRule::of(new, half.other()) else { return };
        self.fill(vip, half.other(), new);
        self.batch.flush_chain(TABLE, &chain(vip));
        add_rule(&mut self.batch, vip, rule, &self.capacity.map_of(vip));
        self.stale.extend(keys(vip, half, old.len()));
        match half {
            Half::Lower => self.upper.insert(vip),
            Half::Upper => self.upper.remove(&vip),
        };
    }

    fn fill(&mut self, vip: Ipv4Addr, half: Half, slots: &[Ipv4Addr]) {
        let slots: Vec<_> = elements(vip, half, slots, self.seed).collect();
        add(&mut self.batch, &self.capacity.map_of(vip), &slots);
    }

    fn half(&self, vip: Ipv4Addr) -> Half {
        if self.upper.contains(&vip) { Half::Upper } else { Half::Lower }
    }
}

fn add_rule(batch: &mut Batch, vip: Ipv4Addr, rule: SlotRule, map: &str) {
    batch.add_rule(TABLE, &chain(vip), &rule.exprs(map), &rule.userdata());
}

/// Nothing is sent for nothing: the kernel refuses an empty list.
fn add(batch: &mut Batch, set: &str, elements: &[Element]) {
    if !elements.is_empty() {
        batch.add_elements(TABLE, set, elements);
    }
}

/// The numbers of `count` slots of `vip`.
fn keys(vip: Ipv4Addr, half: Half, count: usize) -> impl Iterator<Item = SlotKey> {
    (half.first()..).take(count).map(move |number| SlotKey { vip, number })
}

fn elements(
    vip: Ipv4Addr,
    half: Half,
    slots: &[Ipv4Addr],
    seed: Seed,
) -> impl Iterator<Item = Element> {
    let start = seed.start(vip, slots.len());
    let turned = slots.iter().cycle().skip(start).take(slots.len());
    keys(vip, half, slots.len()).zip(turned).map(|(key, address)| Element {
        key: key.bytes(),
        value: ElementValue::Data(address.octets().to_vec()),
        timeout: None,
    })
}

fn within(count: usize, limit: u32) -> bool {
    u32::try_from(count).is_ok_and(|it| it <= limit)
}

#[cfg(test)]
mod tests;

//! What a change of balances is in nftables: one transaction, beside what the tables hold then.
//! Pure; the pieces are in [`crate::layout`].
//!
//! Invariants
//! - *one transaction* each, over the tables of both families, however many services there are;
//! - *flat*: what a change costs does not depend on how many services there are;
//! - *like new*: a table that was changed holds what a new one would hold, except for classes that
//!   no service is in any more, which the next [`sweep`] takes away.

mod edits;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::nft::Batch;

use self::edits::Edits;
use crate::diff::Change;
use crate::family::IpFamily;
use crate::layout::{
    self, ALIVE, BALANCE, BALANCE_UDP, Capacity, alive, class_name, class_rules, class_set,
    class_userdata, frame_rules,
};
use crate::plan::{Balance, Balances};

/// What our tables in a namespace hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Held {
    /// The balances of both families, as far as the kernel knows them.
    pub(crate) balances: Arc<Balances>,
    pub(crate) tables: BTreeMap<IpFamily, Shape>,
}

/// What one table is made of, in numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    pub(crate) capacity: Capacity,
    /// VIPs.
    pub(crate) vips: u32,
    /// Slots of all VIPs.
    pub(crate) slots: u32,
    /// VIPs whose clients keep their task.
    pub(crate) kept: u32,
    /// How many VIPs have how many slots; zero: the class is there, and nobody is in it.
    pub(crate) classes: BTreeMap<u32, u32>,
}

/// The transaction that brings the tables from `held` to `target`, `changes` being what lies
/// between, and what they hold then. Tables of the families in `strange` are there, and nobody
/// knows what they hold.
pub(crate) fn transaction(
    held: &Held,
    strange: &BTreeSet<IpFamily>,
    changes: &[Change<'_>],
    target: &Arc<Balances>,
) -> (Batch, Held) {
    let mut batch = Batch::new();
    let mut tables = BTreeMap::new();
    for family in IpFamily::ALL {
        let shape = held.tables.get(&family);
        let after = shape.unwrap_or(&Shape::EMPTY).after(changes_of(family, changes));
        let there = shape.is_some() || strange.contains(&family);
        if after.vips == 0 {
            if there {
                batch.delete_table(family.table());
            }
        } else if let Some(shape) = shape.filter(|_| after.fits()) {
            amend(&mut batch, family, shape, &after, changes);
            tables.insert(family, after);
        } else {
            tables.insert(family, whole(&mut batch, family, target));
        }
    }
    (batch, Held { balances: Arc::clone(target), tables })
}

/// Lets the tables work for another [`crate::layout::ALIVE_FOR`].
pub(crate) fn revive(batch: &mut Batch, held: &Held) {
    for family in held.tables.keys() {
        batch.flush_set(family.table(), ALIVE);
        batch.add_elements(family.table(), ALIVE, &[alive()]);
    }
}

/// Takes away what belongs to classes that no service is in. Not done with the change that leaves
/// them: services go up and down, and all rules of the chain are written anew for it.
pub(crate) fn sweep(batch: &mut Batch, held: &mut Held) {
    for (family, shape) in &mut held.tables {
        let idle: Vec<_> = shape.idle().collect();
        if idle.is_empty() {
            continue;
        }
        let (table, family) = (family.table(), *family);
        shape.classes.retain(|_, vips| *vips > 0);
        let chains = [BALANCE, BALANCE_UDP];
        for chain in chains {
            batch.flush_chain(table, chain);
        }
        for (chain, exprs) in frame_rules(family, shape.capacity) {
            if chains.contains(&chain) {
                batch.add_rule(table, chain, &exprs, &shape.capacity.userdata());
            }
        }
        shape.classes.keys().for_each(|slots| add_class_rules(batch, family, *slots));
        for slots in idle {
            batch.delete_set(table, &class_name(slots));
        }
    }
}

/// Writes a new table in place of whatever is there. Connections that exist go on: conntrack
/// remembers them, not the table. Only who keeps which task is forgotten.
fn whole(batch: &mut Batch, family: IpFamily, balances: &Balances) -> Shape {
    let shape = Shape::of(family, balances);
    let (table, capacity) = (family.table(), shape.capacity);
    batch.replace_table(table, false);
    for set in layout::sets(family, capacity) {
        if set.dynamic {
            batch.add_dynamic_set(table, &set.spec());
        } else {
            batch.add_set(table, &set.spec());
        }
    }
    for (name, hook) in layout::chains(capacity) {
        batch.add_chain(table, name, hook);
    }
    for (chain, exprs) in frame_rules(family, capacity) {
        batch.add_rule(table, chain, &exprs, &capacity.userdata());
    }
    shape.classes.keys().for_each(|slots| add_class(batch, family, *slots));
    let mut edits = Edits::new(family);
    for (vip, balance) in of_family(family, balances) {
        edits.add_vip(*vip, balance);
    }
    edits.write(batch);
    batch.add_elements(table, ALIVE, &[alive()]);
    shape
}

/// Writes what changes a table from one shape to another.
fn amend(
    batch: &mut Batch,
    family: IpFamily,
    shape: &Shape,
    after: &Shape,
    changes: &[Change<'_>],
) {
    for slots in after.classes.keys().filter(|it| !shape.classes.contains_key(it)) {
        add_class(batch, family, *slots);
    }
    let mut edits = Edits::new(family);
    for change in changes_of(family, changes) {
        edits.add(change);
    }
    edits.write(batch);
}

fn add_class(batch: &mut Batch, family: IpFamily, slots: u32) {
    batch.add_set(family.table(), &class_set(&class_name(slots), family));
    add_class_rules(batch, family, slots);
}

fn add_class_rules(batch: &mut Batch, family: IpFamily, slots: u32) {
    for (chain, exprs) in class_rules(family, slots) {
        batch.add_rule(family.table(), chain, &exprs, &class_userdata(slots));
    }
}

impl Shape {
    /// That of no table.
    const EMPTY: Self = Self {
        capacity: Capacity { vips: 0, slots: 0, clients: 0 },
        vips: 0,
        slots: 0,
        kept: 0,
        classes: BTreeMap::new(),
    };

    /// That of a table of this capacity with these classes, and nobody in them.
    pub(crate) fn empty(capacity: Capacity, classes: impl Iterator<Item = u32>) -> Self {
        Self { capacity, classes: classes.map(|it| (it, 0)).collect(), ..Self::EMPTY }
    }

    /// That of a new table for the balances of this family.
    pub(crate) fn of(family: IpFamily, balances: &Balances) -> Self {
        let mut shape = Self::EMPTY;
        for (_, balance) in of_family(family, balances) {
            shape.count(balance);
        }
        let Self { vips, slots, kept, .. } = shape;
        shape.capacity = Capacity::for_growth_of(vips, slots, kept);
        shape
    }

    /// That of this table after these changes.
    fn after<'a>(&self, changes: impl Iterator<Item = &'a Change<'a>>) -> Self {
        let mut shape = self.clone();
        for change in changes {
            match change {
                Change::AddVip { vip: _, balance } => shape.count(balance),
                Change::RemoveVip { vip: _, old } => {
                    shape.vips = shape.vips.saturating_sub(1);
                    shape.leave(old);
                }
                Change::SetSlots { vip: _, old, new } => {
                    shape.leave(old);
                    shape.enter(new);
                }
                Change::Rest { .. }
                | Change::Cut { .. }
                | Change::AddRoute(_)
                | Change::RemoveRoute(_) => {}
            }
        }
        shape
    }

    fn fits(&self) -> bool {
        let Capacity { vips, slots, clients } = self.capacity;
        // Without any client to keep, looking for one costs every new flow something.
        let keeps = (self.kept > 0) == (clients > 0);
        self.vips <= vips && self.slots <= slots && self.kept <= clients && keeps
    }

    /// The classes that are there, and that nobody is in.
    fn idle(&self) -> impl Iterator<Item = u32> {
        self.classes.iter().filter(|(_, vips)| **vips == 0).map(|(slots, _)| *slots)
    }

    /// Counts a VIP.
    pub(crate) fn count(&mut self, balance: &Balance) {
        self.vips = self.vips.saturating_add(1);
        self.enter(balance);
    }

    fn enter(&mut self, balance: &Balance) {
        self.kept += u32::from(balance.keeps());
        let slots = number(balance.slots.len());
        self.slots = self.slots.saturating_add(slots);
        if slots > 0 {
            *self.classes.entry(slots).or_default() += 1;
        }
    }

    fn leave(&mut self, balance: &Balance) {
        self.kept = self.kept.saturating_sub(u32::from(balance.keeps()));
        let slots = number(balance.slots.len());
        self.slots = self.slots.saturating_sub(slots);
        if let Some(vips) = self.classes.get_mut(&slots) {
            *vips = vips.saturating_sub(1);
        }
    }
}

/// The balances of one family.
pub(crate) fn of_family(
    family: IpFamily,
    balances: &Balances,
) -> impl Iterator<Item = (&IpAddr, &Arc<Balance>)> {
    balances.iter().filter(move |(vip, _)| IpFamily::of(**vip) == family)
}

/// The changes of one family's table.
fn changes_of<'a, 'c>(
    family: IpFamily,
    changes: &'c [Change<'a>],
) -> impl Iterator<Item = &'c Change<'a>> {
    changes
        .iter()
        .filter(move |it| it.vip_of_the_table().is_some_and(|vip| IpFamily::of(vip) == family))
}

/// A count of slots: there are far fewer than that.
pub(crate) fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

//! The elements that a change adds and deletes, set by set.
//!
//! Always true here: what is deleted goes before what is added, so that an element may be replaced;
//! only what differs is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kernel::nft::{Batch, Element};

use super::number;
use crate::diff::Change;
use crate::family::{IpFamily, octets};
use crate::layout::{KEPT, SLOTS, SlotKey, VIPS, class_name, keep, keep_key, member};
use crate::plan::Balance;

/// Elements of one table.
#[derive(Debug)]
pub(super) struct Edits {
    family: IpFamily,
    deleted: BTreeMap<String, Vec<Vec<u8>>>,
    added: BTreeMap<String, Vec<Element>>,
}

impl Edits {
    pub(super) fn new(family: IpFamily) -> Self {
        Self { family, deleted: BTreeMap::new(), added: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, change: &Change<'_>) {
        match change {
            Change::AddVip { vip, balance } => self.add_vip(*vip, balance),
            Change::RemoveVip { vip, old } => {
                self.set_slots(*vip, &old.slots, &[]);
                self.set_kept(*vip, old, &Balance::default());
                self.leave(VIPS, *vip);
            }
            Change::SetSlots { vip, old, new } => {
                self.set_slots(*vip, &old.slots, &new.slots);
                self.set_kept(*vip, old, new);
            }
            // Not the table's: conntrack's and the routes'.
            Change::Rest { .. }
            | Change::Cut { .. }
            | Change::AddRoute(_)
            | Change::RemoveRoute(_) => {}
        }
    }

    pub(super) fn add_vip(&mut self, vip: IpAddr, balance: &Balance) {
        self.join(VIPS, vip);
        self.set_slots(vip, &[], &balance.slots);
        self.set_kept(vip, &Balance::default(), balance);
    }

    fn set_kept(&mut self, vip: IpAddr, old: &Balance, new: &Balance) {
        let (had, wanted) = (kept(old), kept(new));
        for task in had.difference(&wanted) {
            self.deleted.entry(KEPT.to_owned()).or_default().push(keep_key(vip, *task));
        }
        for task in wanted.difference(&had) {
            self.added.entry(KEPT.to_owned()).or_default().push(keep(vip, *task));
        }
    }

    fn set_slots(&mut self, vip: IpAddr, old: &[IpAddr], new: &[IpAddr]) {
        for index in 0..old.len().max(new.len()) {
            let (had, wanted) = (old.get(index), new.get(index));
            if had == wanted {
                continue;
            }
            let key = SlotKey { vip, number: number(index) };
            if had.is_some() {
                self.deleted.entry(SLOTS.to_owned()).or_default().push(key.bytes());
            }
            if let Some(task) = wanted {
                self.added.entry(SLOTS.to_owned()).or_default().push(key.to(*task));
            }
        }
        let (had, wanted) = (number(old.len()), number(new.len()));
        if had != wanted && had > 0 {
            self.leave(&class_name(had), vip);
        }
        if had != wanted && wanted > 0 {
            self.join(&class_name(wanted), vip);
        }
    }

    fn join(&mut self, set: &str, vip: IpAddr) {
        self.added.entry(set.to_owned()).or_default().push(member(vip));
    }

    fn leave(&mut self, set: &str, vip: IpAddr) {
        self.deleted.entry(set.to_owned()).or_default().push(octets(vip));
    }

    /// Nothing is sent for nothing: the kernel refuses an empty list.
    pub(super) fn write(self, batch: &mut Batch) {
        for (set, keys) in &self.deleted {
            batch.delete_elements(self.family.table(), set, keys);
        }
        for (set, elements) in &self.added {
            batch.add_elements(self.family.table(), set, elements);
        }
    }
}

/// The tasks that clients may keep.
fn kept(balance: &Balance) -> BTreeSet<IpAddr> {
    let slots = balance.slots.iter().filter(|_| balance.affine);
    slots.copied().collect()
}

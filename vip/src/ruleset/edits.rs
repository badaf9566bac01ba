//! The elements that a change adds and deletes, set by set.
//!
//! Always true here: what is deleted goes before what is added, so that an element may be replaced;
//! only what differs is touched.

use std::borrow::Cow;
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
    deleted: BTreeMap<Set, Vec<Vec<u8>>>,
    added: BTreeMap<Set, Vec<Element>>,
}

/// A set or map of the table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Set {
    Kept,
    /// The VIPs of so many slots.
    Class(u32),
    Slots,
    Vips,
}

impl Set {
    fn name(self) -> Cow<'static, str> {
        match self {
            Self::Kept => KEPT.into(),
            Self::Class(slots) => class_name(slots).into(),
            Self::Slots => SLOTS.into(),
            Self::Vips => VIPS.into(),
        }
    }
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
                self.leave(Set::Vips, *vip);
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
        self.join(Set::Vips, vip);
        self.set_slots(vip, &[], &balance.slots);
        self.set_kept(vip, &Balance::default(), balance);
    }

    fn set_kept(&mut self, vip: IpAddr, old: &Balance, new: &Balance) {
        let (had, wanted) = (kept(old), kept(new));
        for task in had.difference(&wanted) {
            self.deleted.entry(Set::Kept).or_default().push(keep_key(vip, *task));
        }
        for task in wanted.difference(&had) {
            self.added.entry(Set::Kept).or_default().push(keep(vip, *task));
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
                self.deleted.entry(Set::Slots).or_default().push(key.bytes());
            }
            if let Some(task) = wanted {
                self.added.entry(Set::Slots).or_default().push(key.to(*task));
            }
        }
        let (had, wanted) = (number(old.len()), number(new.len()));
        if had != wanted && had > 0 {
            self.leave(Set::Class(had), vip);
        }
        if had != wanted && wanted > 0 {
            self.join(Set::Class(wanted), vip);
        }
    }

    fn join(&mut self, set: Set, vip: IpAddr) {
        self.added.entry(set).or_default().push(member(vip));
    }

    fn leave(&mut self, set: Set, vip: IpAddr) {
        self.deleted.entry(set).or_default().push(octets(vip));
    }

    /// Nothing is sent for nothing: the kernel refuses an empty list.
    pub(super) fn write(self, batch: &mut Batch) {
        for (set, keys) in &self.deleted {
            batch.delete_elements(self.family.table(), &set.name(), keys);
        }
        for (set, elements) in &self.added {
            batch.add_elements(self.family.table(), &set.name(), elements);
        }
    }
}

/// The tasks that clients may keep.
fn kept(balance: &Balance) -> BTreeSet<IpAddr> {
    let slots = balance.slots.iter().filter(|_| balance.affine);
    slots.copied().collect()
}

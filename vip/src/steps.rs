//! What leads from one table of balances to another, worked out once for all sandboxes that hold the
//! one and are to hold the other: usually all sandboxes of a network.
//!
//! Invariants
//! - *only a short cut*: what is not known here is worked out by whoever needs it, with the same
//!   outcome;
//! - *known by place*: a table is known by where it is in memory, and kept as long as that says
//!   something about it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kernel::nft::Batch;

use crate::diff::{Change, diff_at, diff_balances};
use crate::family::IpFamily;
use crate::plan::Balances;
use crate::ruleset::{self, Held, Shape};

/// What leads from the tables of one plan to those of the next.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    known: BTreeMap<Between, Step>,
    written: Mutex<BTreeMap<Between, Arc<OnceLock<Written>>>>,
}

/// Two tables, by where they are. All that are empty are one, which is nowhere.
type Between = [usize; 2];

#[derive(Debug)]
struct Step {
    /// Kept so that no others are in their places.
    _tables: [Arc<Balances>; 2],
    /// Where they differ.
    vips: Vec<IpAddr>,
}

/// A transaction, and the shapes of the tables that it is for. It keeps the table that it leads to.
#[derive(Debug)]
struct Written {
    from: BTreeMap<IpFamily, Shape>,
    batch: Batch,
    after: Held,
}

impl Steps {
    /// Takes note of where two tables differ.
    pub(crate) fn add(&mut self, old: &Arc<Balances>, new: &Arc<Balances>, vips: Vec<IpAddr>) {
        let tables = [Arc::clone(old), Arc::clone(new)];
        self.known.insert(between(old, new), Step { _tables: tables, vips });
    }

    /// What leads from `old` to `new`, by VIP.
    pub(crate) fn changes<'a>(
        &self,
        old: &'a Arc<Balances>,
        new: &'a Arc<Balances>,
    ) -> Vec<Change<'a>> {
        if Arc::ptr_eq(old, new) {
            return Vec::new();
        }
        match self.known.get(&between(old, new)) {
            Some(step) => diff_at(old, new, &step.vips),
            None => diff_balances(old, new),
        }
    }

    /// As [`ruleset::transaction`] from tables that are all known, written once for all who hold
    /// the same.
    pub(crate) fn transaction(
        &self,
        held: &Held,
        changes: &[Change<'_>],
        target: &Arc<Balances>,
    ) -> (Batch, Held) {
        let write = || ruleset::transaction(held, &BTreeSet::new(), changes, target);
        let between = between(&held.balances, target);
        if !held.balances.is_empty() && !self.known.contains_key(&between) {
            return write();
        }
        let written = {
            // What it guards is whole between any two statements.
            let mut all = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(between).or_default())
        };
        let written = written.get_or_init(|| {
            let (batch, after) = write();
            Written { from: held.tables.clone(), batch, after }
        });
        if written.from == held.tables {
            (written.batch.clone(), written.after.clone())
        } else {
            write()
        }
    }

    /// Forgets what was written: whoever comes later is one of few.
    pub(crate) fn rest(&self) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn between(old: &Arc<Balances>, new: &Arc<Balances>) -> Between {
    [old, new].map(|it| if it.is_empty() { 0 } else { Arc::as_ptr(it).addr() })
}

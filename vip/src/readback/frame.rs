//! What a table is made of, apart from elements: checked against what portolan makes.
//!
//! Always true here: every chain, hook, rule and set is accounted for, or the table is strange. Of a
//! rule its comment and the names of its expressions are compared: who changes a constant and keeps
//! all of these is believed, and harms the namespace that is its own.

use std::collections::BTreeSet;

use kernel::nft::{ChainInfo, Expr, RuleInfo};

use super::Strange;
use crate::family::IpFamily;
use crate::layout::{
    self, BALANCE, BALANCE_UDP, Capacity, class_name, class_rules, frame_rules, read_class,
};

/// The parts of a table as the kernel lists them.
pub(super) struct Parts {
    pub(super) family: IpFamily,
    pub(super) chains: Vec<ChainInfo>,
    pub(super) rules: Vec<RuleInfo>,
    pub(super) sets: BTreeSet<String>,
}

/// What is known of a table whose parts are all ours.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) capacity: Capacity,
    /// The numbers of slots for which it has rules.
    pub(super) classes: BTreeSet<u32>,
}

impl Parts {
    pub(super) fn frame(&self) -> Result<Frame, Strange> {
        let capacity = self.rules.iter().find_map(|it| Capacity::read(&it.userdata));
        let capacity = capacity.ok_or(Strange("it has another layout"))?;
        self.check_chains(capacity)?;
        let classes = self.classes(capacity, BALANCE)?;
        if self.classes(capacity, BALANCE_UDP)? != classes {
            return Err(Strange("its rules for UDP are others than those for the rest"));
        }
        let mut sets: BTreeSet<_> = classes.iter().map(|it| class_name(*it)).collect();
        sets.extend(layout::sets(self.family, capacity).iter().map(|it| it.name.to_owned()));
        if self.sets != sets {
            return Err(Strange("its sets are not ours"));
        }
        Ok(Frame { capacity, classes })
    }

    fn check_chains(&self, capacity: Capacity) -> Result<(), Strange> {
        let chains = layout::chains(capacity);
        for (name, hook) in &chains {
            if !self.chains.iter().any(|it| it.name == *name && it.hook == *hook) {
                return Err(Strange("a chain is missing or hooked elsewhere"));
            }
            if ![BALANCE, BALANCE_UDP].contains(name)
                && !self.of_classes(capacity, name)?.is_empty()
            {
                return Err(Strange("it has a rule that is not ours"));
            }
        }
        if self.chains.len() != chains.len() {
            return Err(Strange("it has a chain that is not ours"));
        }
        Ok(())
    }

    /// The rules of a chain that follow those that every table has, which must be there.
    fn of_classes(&self, capacity: Capacity, chain: &str) -> Result<Vec<&RuleInfo>, Strange> {
        let mut rules = self.rules.iter().filter(|it| it.chain == chain);
        let fixed = frame_rules(self.family, capacity);
        for (_, exprs) in fixed.iter().filter(|(of, _)| *of == chain) {
            let here = rules.next().ok_or(Strange("a rule is missing"))?;
            if !is(here, exprs) || Capacity::read(&here.userdata) != Some(capacity) {
                return Err(Strange("its rules are not ours"));
            }
        }
        Ok(rules.collect())
    }

    /// The numbers of slots for which a chain has rules.
    fn classes(&self, capacity: Capacity, chain: &str) -> Result<BTreeSet<u32>, Strange> {
        let mut classes = BTreeSet::new();
        for rule in self.of_classes(capacity, chain)? {
            let slots = read_class(&rule.userdata).filter(|slots| {
                let made = class_rules(self.family, *slots);
                made.iter().any(|(of, exprs)| *of == chain && is(rule, exprs))
            });
            let slots = slots.ok_or(Strange("it has a rule that is not ours"))?;
            if !classes.insert(slots) {
                return Err(Strange("it has a rule twice"));
            }
        }
        Ok(classes)
    }
}

/// Whether a rule does what these expressions do, as far as the kernel's names of them tell.
fn is(rule: &RuleInfo, exprs: &[Expr]) -> bool {
    rule.exprs.iter().map(String::as_str).eq(exprs.iter().map(Expr::kernel_name))
}

//! One nftables table as a value: written whole, amended by elements and new chains, and compared
//! with what the kernel has.
//!
//! Invariants
//! - *one transaction* each: no packet sees half of a change;
//! - *elements where possible*: a table is replaced only when its rules change, and then its
//!   connections go on, because conntrack remembers them and not the table;
//! - *known again*: each rule carries a hash of itself, so that a table of another form, or one
//!   that somebody changed, is seen and replaced;
//! - *bounded*: reading back ends where there is far more than was wanted, whoever put it there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kernel::nft::{
    Batch, Element, ElementValue, Expr, Family, Hook, KeyType, NftError, SetSpec, SetValue, Socket,
    Table, comment,
};

/// Our table for the routing mesh in each namespace.
pub(crate) const TABLE: Table<'static> = Table { family: Family::Ip, name: "portolan_mesh" };

/// Set that holds [`ALIVE_KEY`] while a portolan looks after the table.
pub(crate) const ALIVE: &str = "alive";
/// The one element of [`ALIVE`].
pub(crate) const ALIVE_KEY: [u8; 4] = 1_u32.to_ne_bytes();
/// How long the table leads anywhere without a portolan that looks after it: as VIPs.
const ALIVE_FOR: Duration = crate::layout::ALIVE_FOR;

/// What a table is to hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Ruleset {
    /// Sets and maps, by name.
    pub(crate) sets: BTreeMap<&'static str, Set>,
    /// Chains, by name.
    pub(crate) chains: BTreeMap<String, Chain>,
    /// Whether it has [`ALIVE`], which rules ask about.
    pub(crate) mortal: bool,
}

/// A set or map, and what is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Set {
    pub(crate) key: &'static [KeyType],
    pub(crate) value: SetValue,
    pub(crate) elements: BTreeMap<Vec<u8>, ElementValue>,
    /// Rules put elements into it, up to so many: what is in it is nobody's plan.
    pub(crate) learned: Option<u32>,
}

/// A chain and its rules in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Chain {
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Vec<Expr>>,
}

/// What the kernel has under our table's name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    pub(crate) chains: BTreeMap<String, Option<Hook>>,
    /// The user data of each chain's rules, in order.
    rules: BTreeMap<String, Vec<Vec<u8>>>,
    /// The elements of each set, without [`ALIVE`]'s and what rules put into some.
    pub(crate) sets: BTreeMap<String, BTreeMap<Vec<u8>, ElementValue>>,
    alive: bool,
}

impl Ruleset {
    /// Adds a set or map.
    pub(crate) fn set(&mut self, name: &'static str, key: &'static [KeyType], value: SetValue) {
        self.sets.insert(name, Set { key, value, elements: BTreeMap::new(), learned: None });
    }

    /// Adds an element to a set that was added before.
    pub(crate) fn element(&mut self, set: &str, key: Vec<u8>, value: ElementValue) {
        if let Some(set) = self.sets.get_mut(set) {
            set.elements.insert(key, value);
        }
    }

    /// Adds a rule; its chain is made with it.
    pub(crate) fn rule(&mut self, chain: &str, exprs: Vec<Expr>) {
        self.chains.entry(chain.to_owned()).or_default().rules.push(exprs);
    }

    /// Adds a base chain.
    pub(crate) fn base(&mut self, chain: &str, hook: Hook) {
        self.chains.entry(chain.to_owned()).or_default().hook = Some(hook);
    }

    /// How much there is of whatever there is most of.
    fn size(&self) -> usize {
        let rules = self.chains.values().map(|it| it.rules.len()).sum();
        let elements = self.sets.values().map(|it| it.elements.len());
        elements.chain([rules, self.chains.len(), self.sets.len()]).max().unwrap_or_default()
    }

    /// The transaction that makes the table, whatever was there.
    pub(crate) fn whole(&self) -> Batch {
        let mut batch = Batch::new();
        batch.replace_table(TABLE, false);
        if self.mortal {
            batch.add_set(TABLE, &alive_set());
        }
        for (name, set) in &self.sets {
            match set.learned {
                Some(_) => batch.add_dynamic_set(TABLE, &set.spec(name)),
                None => batch.add_set(TABLE, &set.spec(name)),
            }
        }
        for (name, chain) in &self.chains {
            batch.add_chain(TABLE, name, chain.hook);
        }
        for (name, chain) in &self.chains {
            add_rules(&mut batch, name, chain);
        }
        for (name, set) in &self.sets {
            let elements: Vec<_> = set.elements.iter().map(element).collect();
            batch.add_elements(TABLE, name, &elements);
        }
        self.revive(&mut batch);
        batch
    }

    /// The transaction that leads from `old` to this by elements and new chains; `None` where more
    /// than that differs.
    pub(crate) fn amending(&self, old: &Self) -> Option<Batch> {
        let same_sets = self.mortal == old.mortal
            && self.sets.len() == old.sets.len()
            && self.sets.iter().all(|(name, set)| {
                let form = |it: &Set| (it.key, it.value, it.learned);
                old.sets.get(name).is_some_and(|it| form(it) == form(set))
            });
        let kept = |(name, chain): (&String, &Chain)| self.chains.get(name) == Some(chain);
        if !same_sets || !old.chains.iter().all(kept) {
            return None;
        }
        let mut batch = Batch::new();
        let new = || self.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name));
        new().for_each(|(name, chain)| batch.add_chain(TABLE, name, chain.hook));
        new().for_each(|(name, chain)| add_rules(&mut batch, name, chain));
        for (name, set) in &self.sets {
            let none = BTreeMap::new();
            let before = old.sets.get(name).map_or(&none, |it| &it.elements);
            let gone = before.iter().filter(|(key, value)| set.elements.get(*key) != Some(value));
            let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
            let added = set.elements.iter().filter(|(key, value)| before.get(*key) != Some(value));
            let added: Vec<_> = added.map(element).collect();
            batch.delete_elements(TABLE, name, &gone);
            batch.add_elements(TABLE, name, &added);
        }
        Some(batch)
    }

    /// Lets the table work for another [`ALIVE_FOR`].
    pub(crate) fn revive(&self, batch: &mut Batch) {
        if self.mortal {
            batch.flush_set(TABLE, ALIVE);
            let (key, value) = (ALIVE_KEY.to_vec(), ElementValue::None);
            let alive = Element { key, value, timeout: Some(ALIVE_FOR) };
            batch.add_elements(TABLE, ALIVE, &[alive]);
        }
    }

    /// Whether the kernel has exactly this.
    pub(crate) fn is_seen_in(&self, seen: &Seen) -> bool {
        let chains = self.chains.iter().map(|(name, chain)| (name, chain.hook));
        let rules = self.chains.iter().filter(|(_, chain)| !chain.rules.is_empty());
        let rules = rules.map(|(name, chain)| (name, chain.rules.iter()));
        let sets = self.sets.iter().map(|(name, set)| (*name, &set.elements));
        seen.alive == self.mortal
            && chains.eq(seen.chains.iter().map(|(name, hook)| (name, *hook)))
            && rules
                .map(|(name, it)| (name.clone(), it.map(|it| userdata(it)).collect()))
                .collect::<BTreeMap<_, Vec<_>>>()
                == seen.rules
            && sets.eq(seen.sets.iter().map(|(name, it)| (name.as_str(), it)))
    }
}

impl Seen {
    /// Whether it has this chain as `ruleset` has it; neither having it is the same, too.
    pub(crate) fn has_as(&self, chain: &str, ruleset: &Ruleset) -> bool {
        let wanted = ruleset.chains.get(chain);
        let rules = |it: &Chain| it.rules.iter().map(|it| userdata(it)).collect::<Vec<_>>();
        self.chains.get(chain).copied() == wanted.map(|it| it.hook)
            && self.rules.get(chain).cloned() == wanted.map(rules)
    }
}

impl Set {
    /// One that rules fill, up to `size` elements with time-outs.
    pub(crate) fn learned(key: &'static [KeyType], value: SetValue, size: u32) -> Self {
        Self { key, value, elements: BTreeMap::new(), learned: Some(size) }
    }

    fn spec<'a>(&self, name: &'a str) -> SetSpec<'a>
    where
        Self: 'a,
    {
        let (timeout, size) = (self.learned.is_some(), self.learned);
        SetSpec { name, key: self.key, value: self.value, timeout, size }
    }
}

fn alive_set() -> SetSpec<'static> {
    const MARK: &[KeyType] = &[KeyType::Mark];
    SetSpec { name: ALIVE, key: MARK, value: SetValue::None, timeout: true, size: None }
}

fn element((key, value): (&Vec<u8>, &ElementValue)) -> Element {
    Element { key: key.clone(), value: value.clone(), timeout: None }
}

fn add_rules(batch: &mut Batch, name: &str, chain: &Chain) {
    for exprs in &chain.rules {
        batch.add_rule(TABLE, name, exprs, &userdata(exprs));
    }
}

/// A hash of what the rule says (FNV-1a over its expressions), as its comment.
fn userdata(exprs: &[Expr]) -> Vec<u8> {
    let step = |it: u64, byte: u8| (it ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = format!("{exprs:?}").bytes().fold(0xcbf2_9ce4_8422_2325, step);
    comment(&format!("portolan {hash:016x}"))
}

/// Whether there is a table of our name.
pub(crate) fn is_there(socket: &mut Socket) -> Result<bool, NftError> {
    let tables = socket.tables()?;
    Ok(tables.iter().any(|it| it.family == TABLE.family && it.name == TABLE.name))
}

/// What the kernel has of our table; `None`: there is none, or it has sets that none of ours has.
/// Where there is far more of anything than is `known`, that is an error ([`NftError::is_too_long`]),
/// after which the socket is of no further use.
pub(crate) fn read(socket: &mut Socket, known: &Ruleset) -> Result<Option<Seen>, NftError> {
    socket.limit(known.size().saturating_mul(2).saturating_add(SPARE));
    if !is_there(socket)? {
        return Ok(None);
    }
    let names: BTreeSet<String> = socket.sets(TABLE)?.into_iter().collect();
    if names.iter().any(|it| it != ALIVE && !known.sets.contains_key(it.as_str())) {
        return Ok(None);
    }
    let mut seen = read_rules(socket)?;
    for name in names {
        let is_learned = known.sets.get(name.as_str()).is_some_and(|it| it.learned.is_some());
        if name == ALIVE {
            seen.alive = !socket.elements(TABLE, ALIVE)?.is_empty();
        } else if is_learned {
            seen.sets.insert(name, BTreeMap::new());
        } else {
            let elements = socket.elements(TABLE, &name)?;
            let elements = elements.into_iter().map(|it| (it.key, it.value)).collect();
            seen.sets.insert(name, elements);
        }
    }
    Ok(Some(seen))
}

/// The chains and rules of our table, and none of its sets; nothing where there is no table.
pub(crate) fn read_rules(socket: &mut Socket) -> Result<Seen, NftError> {
    let chains = socket.chains(TABLE)?.into_iter().map(|it| (it.name, it.hook)).collect();
    let mut seen = Seen { chains, ..Seen::default() };
    for rule in socket.rules(TABLE)? {
        seen.rules.entry(rule.chain).or_default().push(rule.userdata);
    }
    Ok(seen)
}

/// What a portolan before this one may have had more than is wanted now: of ports, tasks, classes.
const SPARE: usize = 4096;

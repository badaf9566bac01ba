//! What a table in the kernel holds, read back: the only truth after a start or a failure.
//!
//! A table counts as ours only if nothing in it is strange: chains, hooks, sets, rules, and every
//! element leads somewhere. Anything else is replaced whole, so nothing here repairs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kernel::nft::{ChainInfo, Element, ElementValue, NftError, RuleInfo, Socket, Verdict};

use crate::layout::{
    self, ALIVE, Capacity, SERVICES, Seed, SlotKey, SlotRule, TABLE, VIPS, chain, chain_vip,
};
use crate::plan::{Balance, Balances};
use crate::ruleset::Held;

/// What is in a namespace.
#[derive(Debug)]
pub(crate) enum Found {
    /// No table of our name.
    Nothing,
    /// A table that some portolan made.
    Ours {
        /// What it holds.
        held: Held,
        /// Whether it still works, or has run out for want of a portolan.
        alive: bool,
    },
    /// A table of our name that is not as we make it, and what is strange about it.
    Strange(&'static str),
}

/// Reads the table in the namespace of `socket`.
pub(crate) fn read_back(socket: &mut Socket, seed: Seed) -> Result<Found, NftError> {
    if !is_there(socket)? {
        return Ok(Found::Nothing);
    }
    let chains = socket.chains(TABLE)?;
    let rules = socket.rules(TABLE)?;
    let frame = Frame { chains, rules };
    let capacity = match frame.capacity() {
        Ok(capacity) => capacity,
        Err(Strange(what)) => return Ok(Found::Strange(what)),
    };
    let sets: BTreeSet<_> = socket.sets(TABLE)?.into_iter().collect();
    let fixed = [ALIVE, VIPS, SERVICES].map(str::to_owned);
    if sets != fixed.into_iter().chain(capacity.map_names()).collect() {
        return Ok(Found::Strange("its sets are not ours"));
    }
    let mut slots = BTreeMap::new();
    for map in capacity.map_names() {
        let elements = socket.elements(TABLE, &map)?;
        let read = elements.iter().map(slot).collect::<Option<Vec<_>>>();
        let Some(read) =
            read.filter(|it| it.iter().all(|(key, _)| capacity.map_of(key.vip) == map))
        else {
            return Ok(Found::Strange("an element of a map of slots is odd"));
        };
        slots.extend(read);
    }
    let services = socket.elements(TABLE, SERVICES)?;
    let contents = Contents { capacity, vips: socket.elements(TABLE, VIPS)?, services, slots };
    let alive = !socket.elements(TABLE, ALIVE)?.is_empty();
    Ok(match contents.held(&frame, seed) {
        Ok(held) => Found::Ours { held, alive },
        Err(Strange(what)) => Found::Strange(what),
    })
}

/// Whether there is a table of our name.
pub(crate) fn is_there(socket: &mut Socket) -> Result<bool, NftError> {
    let tables = socket.tables()?;
    Ok(tables.iter().any(|it| it.family == TABLE.family && it.name == TABLE.name))
}

/// The chains and rules of a table as the kernel lists them.
struct Frame {
    chains: Vec<ChainInfo>,
    rules: Vec<RuleInfo>,
}

/// What is in the sets of a table.
struct Contents {
    capacity: Capacity,
    vips: Vec<Element>,
    services: Vec<Element>,
    slots: BTreeMap<SlotKey, Ipv4Addr>,
}

/// What is strange about a table.
#[derive(Debug)]
struct Strange(&'static str);

impl Contents {
    fn held(self, frame: &Frame, seed: Seed) -> Result<Held, Strange> {
        let Self { capacity, vips, services, mut slots } = self;
        let rules = frame.service_rules()?;
        let led: BTreeSet<_> = services
            .iter()
            .map(led_to)
            .collect::<Option<_>>()
            .ok_or(Strange("an element of its map of services leads elsewhere"))?;
        if !led.iter().eq(rules.keys()) {
            return Err(Strange("its map of services and its chains differ"));
        }
        let vips = vips.iter().map(|it| layout::address(&it.key)).collect::<Option<Vec<_>>>();
        let vips = vips.ok_or(Strange("an element of its set of VIPs is odd"))?;
        let mut balances: Balances = vips.into_iter().map(|it| (it, Arc::default())).collect();
        let mut upper = BTreeSet::new();
        for (vip, rule) in rules {
            let list = take(&mut slots, vip, rule, seed).ok_or(Strange("a slot is missing"))?;
            let place = balances.get_mut(&vip).ok_or(Strange("a service is no VIP"))?;
            *place = Arc::new(Balance { slots: list, ..Balance::default() });
            if rule.half == layout::Half::Upper {
                upper.insert(vip);
            }
        }
        let stale = slots.into_keys().collect();
        Ok(Held { capacity, balances: Arc::new(balances), upper, stale })
    }
}

impl Frame {
    /// Checks what every table of ours has, and returns the sizes that it was made with.
    fn capacity(&self) -> Result<Capacity, Strange> {
        let fixed = layout::chains();
        for (name, hook) in &fixed {
            if !self.chains.iter().any(|it| it.name == *name && it.hook == *hook) {
                return Err(Strange("a chain is missing or hooked elsewhere"));
            }
        }
        let others =
            self.chains.iter().filter(|it| !fixed.iter().any(|(name, _)| it.name == *name));
        for other in others {
            if chain_vip(&other.name).is_none() || other.hook.is_some() {
                return Err(Strange("it has a chain that is not ours"));
            }
        }
        let mut capacities = BTreeSet::new();
        for (name, _) in &fixed {
            let rules: Vec<_> = self.rules.iter().filter(|it| it.chain == *name).collect();
            let wanted = layout::RULE_NAMES.iter().filter(|(chain, _)| chain == name);
            if !rules.iter().map(|it| &it.exprs).eq(wanted.map(|(_, names)| names)) {
                return Err(Strange("its rules are not ours"));
            }
            capacities.extend(rules.iter().map(|it| Capacity::read(&it.userdata)));
        }
        match capacities.pop_first() {
            Some(Some(capacity)) if capacities.is_empty() => Ok(capacity),
            Some(_) | None => Err(Strange("it has another layout")),
        }
    }

    /// The rule of each service's chain, by VIP.
    fn service_rules(&self) -> Result<BTreeMap<Ipv4Addr, SlotRule>, Strange> {
        let mut found = BTreeMap::new();
        for rule in &self.rules {
            let Some(vip) = chain_vip(&rule.chain) else { continue };
            let read = SlotRule::read(&rule.userdata).filter(|_| rule.exprs == SlotRule::NAMES);
            let read = read.ok_or(Strange("a service's rule is not ours"))?;
            if found.insert(vip, read).is_some() {
                return Err(Strange("a service's chain has a second rule"));
            }
        }
        let chains = self.chains.iter().filter_map(|it| chain_vip(&it.name));
        if !chains.collect::<BTreeSet<_>>().iter().eq(found.keys()) {
            return Err(Strange("a service's chain has no rule"));
        }
        Ok(found)
    }
}

/// The VIP of an element of the map of services, if it leads to that VIP's chain.
fn led_to(element: &Element) -> Option<Ipv4Addr> {
    let vip = layout::address(&element.key)?;
    match &element.value {
        ElementValue::Verdict(Verdict::Goto(name)) if *name == chain(vip) => Some(vip),
        ElementValue::Verdict(_) | ElementValue::Data(_) | ElementValue::None => None,
    }
}

fn slot(element: &Element) -> Option<(SlotKey, Ipv4Addr)> {
    match &element.value {
        ElementValue::Data(value) => Some((SlotKey::read(&element.key)?, layout::address(value)?)),
        ElementValue::None | ElementValue::Verdict(_) => None,
    }
}

/// Takes the slots of one service out of the map, turned back to the order of its plan.
fn take(
    slots: &mut BTreeMap<SlotKey, Ipv4Addr>,
    vip: Ipv4Addr,
    rule: SlotRule,
    seed: Seed,
) -> Option<Vec<Ipv4Addr>> {
    let first = rule.half.first();
    let numbers = first..first.checked_add(rule.slots)?;
    // Stops at the first that is missing: the rule may claim any number of slots.
    let list = numbers.map(|number| slots.remove(&SlotKey { vip, number }));
    let mut list: Vec<_> = list.collect::<Option<_>>()?;
    let start = seed.start(vip, list.len());
    list.rotate_right(start);
    Some(list)
}

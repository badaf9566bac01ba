//! What our tables in the kernel hold, read back: the only truth after a start or a failure.
//!
//! Invariants
//! - *ours or strange*: a table counts as ours only if nothing in it is strange: chains, hooks,
//!   sets, rules, and every element leads somewhere. Anything else is replaced whole, so nothing
//!   here repairs;
//! - *bounded*: who has `CAP_NET_ADMIN` in the namespace can fill a table of our name. Reading ends
//!   soon after it holds more than it could hold of ours.

mod frame;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::netns::Netns;
use kernel::nft::{Element, ElementValue, NftError, Socket, TableInfo};

use self::frame::Parts;
use crate::family::IpFamily;
use crate::layout::{ALIVE, Capacity, KEPT, SLOTS, SlotKey, VIPS, class_name};
use crate::plan::{Balance, Balances};
use crate::ruleset::{Held, Shape};

/// What is in a namespace.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What those tables of ours hold that are as some portolan makes them.
    pub(crate) held: Held,
    /// Whether all of them work: they run out for want of a portolan.
    pub(crate) alive: bool,
    /// Tables of our name that are not as we make them, and what is strange about them.
    pub(crate) strange: BTreeMap<IpFamily, &'static str>,
}

/// Reads our tables in `netns`, which `socket` is in; `planned` is what they should hold.
pub(crate) fn read_back(
    socket: &mut Socket,
    netns: &Netns,
    planned: &Balances,
) -> Result<Found, NftError> {
    let slots: usize = planned.values().map(|it| it.slots.len() + 1).sum();
    socket.limit(slots.saturating_mul(GROWN) + SPARE);
    match read_tables(socket) {
        Err(error) if error.is_too_long() => {
            *socket = Socket::open(netns)?;
            let families = there(socket)?;
            let strange = families.into_iter().map(|it| (it, "it is longer than any of ours"));
            Ok(Found { alive: true, strange: strange.collect(), ..Found::default() })
        }
        read => read,
    }
}

/// Tables of ours may be left from a world that was as many times as large.
const GROWN: usize = 4;
/// And as many entries more: a table of another kind has far fewer.
const SPARE: usize = 65_536;

/// Reads all of our tables, as far as the socket's limit goes.
pub(crate) fn read_tables(socket: &mut Socket) -> Result<Found, NftError> {
    let mut found = Found { alive: true, ..Found::default() };
    let mut balances = Balances::new();
    for family in ours(&socket.tables()?) {
        match read_table(socket, family)? {
            Ok(Table { shape, balances: more, alive }) => {
                found.held.tables.insert(family, shape);
                found.alive &= alive;
                balances.extend(more);
            }
            Err(Strange(what)) => {
                found.strange.insert(family, what);
            }
        }
    }
    found.held.balances = Arc::new(balances);
    Ok(found)
}

/// Of which families there is a table of our name.
pub(crate) fn there(socket: &mut Socket) -> Result<BTreeSet<IpFamily>, NftError> {
    Ok(ours(&socket.tables()?))
}

fn ours(tables: &[TableInfo]) -> BTreeSet<IpFamily> {
    let is_there = |family: &IpFamily| {
        let table = family.table();
        tables.iter().any(|it| it.family == table.family && it.name == table.name)
    };
    IpFamily::ALL.into_iter().filter(is_there).collect()
}

/// A table of ours.
struct Table {
    shape: Shape,
    balances: Balances,
    alive: bool,
}

/// What is strange about a table.
#[derive(Debug)]
struct Strange(&'static str);

fn read_table(socket: &mut Socket, family: IpFamily) -> Result<Result<Table, Strange>, NftError> {
    let table = family.table();
    let parts = Parts {
        family,
        chains: socket.chains(table)?,
        rules: socket.rules(table)?,
        sets: socket.sets(table)?.into_iter().collect(),
    };
    let frame = match parts.frame() {
        Ok(frame) => frame,
        Err(strange) => return Ok(Err(strange)),
    };
    let mut classes = BTreeMap::new();
    for slots in &frame.classes {
        classes.insert(*slots, socket.elements(table, &class_name(*slots))?);
    }
    let vips = socket.elements(table, VIPS)?;
    let slots = socket.elements(table, SLOTS)?;
    let keeps = frame.capacity.clients > 0;
    let kept = if keeps { socket.elements(table, KEPT)? } else { Vec::new() };
    let alive = !socket.elements(table, ALIVE)?.is_empty();
    let contents = Contents { family, vips, slots, kept, classes };
    Ok(contents.table(frame.capacity, alive))
}

/// What is in the sets of a table.
struct Contents {
    family: IpFamily,
    vips: Vec<Element>,
    slots: Vec<Element>,
    kept: Vec<Element>,
    /// The VIPs of each number of slots.
    classes: BTreeMap<u32, Vec<Element>>,
}

impl Contents {
    fn table(self, capacity: Capacity, alive: bool) -> Result<Table, Strange> {
        let mut slots = self.slots()?;
        let mut counts: BTreeMap<_, _> = self.classes.keys().map(|it| (*it, Vec::new())).collect();
        for (count, members) in &self.classes {
            let vips = self.addresses(members, "an element of a set of VIPs is odd")?;
            counts.insert(*count, vips);
        }
        let vips = self.addresses(&self.vips, "an element of its set of VIPs is odd")?;
        let mut lists: BTreeMap<_, _> = vips.into_iter().map(|it| (it, Vec::new())).collect();
        for (count, vips) in &counts {
            for vip in vips {
                let list = lists.get_mut(vip).ok_or(Strange("a service is no VIP"))?;
                if !list.is_empty() {
                    return Err(Strange("a VIP has two numbers of slots"));
                }
                *list = take(&mut slots, *vip, *count).ok_or(Strange("a slot is missing"))?;
            }
        }
        if !slots.is_empty() {
            return Err(Strange("it has a slot that no rule leads to"));
        }
        let mut kept = self.kept()?;
        let mut shape = Shape::empty(capacity, counts.keys().copied());
        let mut balances = Balances::new();
        for (vip, slots) in lists {
            let keeps = kept.remove(&vip);
            if keeps
                .as_ref()
                .is_some_and(|it| !slots.iter().collect::<BTreeSet<_>>().iter().copied().eq(it))
            {
                return Err(Strange("its clients keep other tasks than those that serve"));
            }
            let balance = Balance { slots, affine: keeps.is_some(), ..Balance::default() };
            shape.count(&balance);
            balances.insert(vip, Arc::new(balance));
        }
        if !kept.is_empty() {
            return Err(Strange("a service with affinity is no VIP"));
        }
        Ok(Table { shape, balances, alive })
    }

    /// The tasks that clients of each VIP may keep.
    fn kept(&self) -> Result<BTreeMap<IpAddr, BTreeSet<IpAddr>>, Strange> {
        let mut kept: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for element in &self.kept {
            let (vip, task) = self
                .family
                .split(&element.key)
                .and_then(|(vip, task)| Some((vip, self.family.read(task)?)))
                .ok_or(Strange("an element of its set of kept tasks is odd"))?;
            kept.entry(vip).or_default().insert(task);
        }
        Ok(kept)
    }

    fn slots(&self) -> Result<BTreeMap<SlotKey, IpAddr>, Strange> {
        let read = |element: &Element| match &element.value {
            ElementValue::Data(task) => {
                Some((SlotKey::read(self.family, &element.key)?, self.family.read(task)?))
            }
            ElementValue::None | ElementValue::Verdict(_) => None,
        };
        let slots: Option<_> = self.slots.iter().map(read).collect();
        slots.ok_or(Strange("an element of its map of slots is odd"))
    }

    fn addresses(&self, elements: &[Element], odd: &'static str) -> Result<Vec<IpAddr>, Strange> {
        let addresses: Option<_> = elements.iter().map(|it| self.family.read(&it.key)).collect();
        addresses.ok_or(Strange(odd))
    }
}

/// Takes the slots of one service out of the map.
fn take(slots: &mut BTreeMap<SlotKey, IpAddr>, vip: IpAddr, count: u32) -> Option<Vec<IpAddr>> {
    // Stops at the first that is missing: the rule may claim any number of slots.
    (0..count).map(|number| slots.remove(&SlotKey { vip, number })).collect()
}

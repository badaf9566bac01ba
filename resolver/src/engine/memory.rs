//! What the engine's own resolver said lately, so that many who ask the same are one question.
//!
//! Invariants
//! - *one at a time*: while a name is being asked, others who ask it wait for that answer; where
//!   its asker goes away, one of them asks on;
//! - *of one world*: what was understood with zones that are no longer the sandbox's is forgotten;
//! - *bounded*: [`MOST_NAMES`], whatever the container asks; beyond it each asks for himself;
//! - *an engine that is away takes no name with it*: whose addresses it gave last is kept for
//!   [`LASTING`] until it says otherwise, and read anew with the zones of the day; an address that
//!   has become somebody else's is nobody's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::meaning::meaning;
use super::word::Word;
use crate::plan::Zone;
use crate::wire::Kind;

/// A name in normal form, and the family of the addresses asked for.
pub(super) type Asked = (String, Kind);

/// What was said, or is about to be.
pub(super) type Slot = Arc<OnceCell<Told>>;

/// What was said, and for how long it is believed.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) word: Word,
    pub(super) until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// With which zones everything here was understood. A weak pointer keeps the place of a zone
    /// from being used again, so that another zone is never taken for it.
    zones: Vec<Weak<Zone>>,
    slots: BTreeMap<Asked, Slot>,
    /// What the engine said when it last knew a name.
    last: BTreeMap<Asked, Last>,
}

/// The last word by which a name was known.
#[derive(Debug)]
struct Last {
    at: Instant,
    /// With whose they were; none: there was no such data.
    addresses: Vec<(IpAddr, String)>,
}

impl Memory {
    /// Where the answer to `asked` stands or will stand.
    pub(super) fn slot(&mut self, zones: &[Arc<Zone>], asked: Asked, now: Instant) -> Slot {
        if !self.is_of(zones) {
            self.slots.clear();
            self.zones = zones.iter().map(Arc::downgrade).collect();
        }
        if let Some(slot) = self.slots.get(&asked).filter(|it| !is_over(it, now)) {
            return Arc::clone(slot);
        }
        if self.slots.len() >= MOST_NAMES {
            self.slots.retain(|_, slot| !is_over(slot, now));
        }
        if self.slots.len() >= MOST_NAMES {
            // What is known can be asked again; what is being asked has people waiting.
            self.slots.retain(|_, slot| !slot.initialized());
        }
        let slot = Slot::default();
        if self.slots.len() < MOST_NAMES {
            self.slots.insert(asked, Arc::clone(&slot));
        }
        slot
    }

    /// What holds of `asked` after `word`: that word, or, where the engine says nothing, what it
    /// said last, as far as `zones` still know whose that is.
    pub(super) fn lasting(
        &mut self,
        zones: &[Arc<Zone>],
        asked: &Asked,
        word: Word,
        now: Instant,
    ) -> Word {
        let addresses = match &word {
            Word::Known(entry) => entry.addresses.as_slice(),
            Word::NoData => &[],
            Word::Silent | Word::Nobody => return self.recalled(zones, asked, now).unwrap_or(word),
            Word::Failed(_) => return word,
            Word::Foreign(_) | Word::NoName | Word::Elsewhere => {
                self.last.remove(asked);
                return word;
            }
        };
        let owned = |it: &IpAddr| Some((*it, owner(zones, it)?.to_owned()));
        let addresses = addresses.iter().filter_map(owned).collect();
        if self.last.len() >= MOST_NAMES && !self.last.contains_key(asked) {
            let oldest =
                self.last.iter().min_by_key(|(_, it)| it.at).map(|(asked, _)| asked.clone());
            oldest.map(|it| self.last.remove(&it));
        }
        self.last.insert(asked.clone(), Last { at: now, addresses });
        word
    }

    fn recalled(&self, zones: &[Arc<Zone>], asked: &Asked, now: Instant) -> Option<Word> {
        let last = self.last.get(asked).filter(|it| now < it.at + LASTING)?;
        if last.addresses.is_empty() {
            return Some(Word::NoData);
        }
        let same = |(address, name): &&(IpAddr, String)| owner(zones, address) == Some(name);
        let still: Vec<IpAddr> = last.addresses.iter().filter(same).map(|it| it.0).collect();
        meaning(zones, &asked.0, &still).map(Word::Known)
    }

    fn is_of(&self, zones: &[Arc<Zone>]) -> bool {
        let same = |(weak, zone): (&Weak<Zone>, &Arc<Zone>)| weak.as_ptr() == Arc::as_ptr(zone);
        self.zones.len() == zones.len() && self.zones.iter().zip(zones).all(same)
    }
}

/// What users call whose `address` is.
fn owner<'a>(zones: &'a [Arc<Zone>], address: &IpAddr) -> Option<&'a str> {
    zones.iter().find_map(|it| it.owners.get(address)).map(|it| it.name.as_str())
}

fn is_over(slot: &Slot, now: Instant) -> bool {
    slot.get().is_some_and(|it| it.until <= now)
}

/// Longer than anybody leaves an engine that is away.
const LASTING: Duration = Duration::from_secs(24 * 3600);
/// More than may be asked at once in a sandbox, so that what is being asked always has room; and
/// more names than an application has.
const MOST_NAMES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Entry, Owner};
    use crate::shared_map::SharedMap;

    fn asked(name: &str) -> Asked {
        (name.to_owned(), Kind::A)
    }

    fn told(slot: &Slot, until: Instant) {
        slot.set(Told { word: Word::NoName, until }).unwrap();
    }

    fn zone(name: &str) -> Arc<Zone> {
        Arc::new(Zone {
            network: name.into(),
            name: name.to_owned(),
            key: name.to_owned(),
            completeness: registry::model::Completeness::Gossip,
            subnets: Vec::new(),
            names: SharedMap::default(),
            services: SharedMap::default(),
            reverse: SharedMap::default(),
            owners: SharedMap::default(),
            table: crate::fast::Prepared::default(),
        })
    }

    #[tokio::test]
    async fn a_name_is_asked_once_until_its_answer_is_over() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let first = memory.slot(&[], asked("a"), now);
        assert!(Arc::ptr_eq(&first, &memory.slot(&[], asked("a"), now)), "being asked");
        let end = now + Duration::from_secs(1);
        told(&first, end);
        assert!(Arc::ptr_eq(&first, &memory.slot(&[], asked("a"), now)), "known");
        let aaaa = (asked("a").0, Kind::AAAA);
        assert!(!Arc::ptr_eq(&first, &memory.slot(&[], aaaa, now)), "another family");
        assert!(!Arc::ptr_eq(&first, &memory.slot(&[], asked("a"), end)), "over");
    }

    #[tokio::test]
    async fn a_change_of_the_sandboxs_names_forgets_what_was_said() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let (one, other) = (zone("n"), zone("n"));
        let slot = memory.slot(&[Arc::clone(&one)], asked("a"), now);
        assert!(Arc::ptr_eq(&slot, &memory.slot(&[one], asked("a"), now)));
        assert!(!Arc::ptr_eq(&slot, &memory.slot(&[other], asked("a"), now)));
    }

    /// A zone in which 10.0.0.5 is of a service so called.
    fn zone_of(owner: &str) -> Arc<Zone> {
        let entry = Entry { addresses: vec![[10, 0, 0, 5].into()], ttl: 5 };
        let (front, tasks) = (entry.clone(), entry);
        let vip = tasks.addresses.first().copied();
        let owner = Arc::new(Owner { name: owner.to_owned(), vip, front, tasks });
        let mut zone = Zone::clone(&zone("n"));
        zone.owners = [([10, 0, 0, 5].into(), owner)].into_iter().collect();
        Arc::new(zone)
    }

    #[tokio::test]
    async fn what_was_said_last_holds_for_a_day_as_long_as_the_address_is_of_the_same_one() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let (db, other) = ([zone_of("db")], [zone_of("other")]);
        let known = Word::Known(Entry { addresses: vec![[10, 0, 0, 5].into()], ttl: 5 });
        memory.lasting(&db, &asked("alias"), known.clone(), now);
        let day = Duration::from_secs(24 * 3600);
        let mut away = |zones: &[Arc<Zone>], after| {
            memory.lasting(zones, &asked("alias"), Word::Silent, now + after)
        };
        assert_eq!(away(&db, day / 2), known);
        assert_eq!(away(&other, day / 2), Word::Silent, "somebody else's now");
        assert_eq!(away(&db, day), Word::Silent);
    }

    #[tokio::test]
    async fn it_never_holds_more_than_it_may() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        for number in 0..3 * MOST_NAMES {
            let slot = memory.slot(&[], asked(&number.to_string()), now);
            assert!(memory.slots.len() <= MOST_NAMES);
            if number < 2 * MOST_NAMES {
                told(&slot, now + Duration::from_secs(5));
            }
        }
        assert_eq!(memory.slots.len(), MOST_NAMES, "those being asked stay");
        let late = memory.slot(&[], asked("late"), now);
        assert!(!Arc::ptr_eq(&late, &memory.slot(&[], asked("late"), now)), "each for himself");
    }
}

//! What the engine's own resolver said lately, so that many who ask the same are one question.
//!
//! Invariants
//! - *one at a time*: while a name is being asked, others who ask it wait for that answer; where
//!   its asker goes away, one of them asks on;
//! - *of one world*: what was understood with zones that are no longer the sandbox's is forgotten;
//! - *bounded*: [`MOST_NAMES`], whatever the container asks; beyond it each asks for himself;
//! - *an engine that is away takes no name with it*: whose addresses it gave last is kept until it
//!   says otherwise, and read anew with the zones of the day.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

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
    /// The addresses behind the last words by which a name was known; none: it had no such data.
    last: BTreeMap<Asked, Vec<IpAddr>>,
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
    pub(super) fn lasting(&mut self, zones: &[Arc<Zone>], asked: &Asked, word: Word) -> Word {
        let addresses = match &word {
            Word::Known(entry) => entry.addresses.clone(),
            Word::NoData => Vec::new(),
            Word::Silent | Word::Nobody => return self.recalled(zones, asked).unwrap_or(word),
            Word::Failed(_) => return word,
            Word::Foreign(_) | Word::NoName | Word::Elsewhere => {
                self.last.remove(asked);
                return word;
            }
        };
        if self.last.len() >= MOST_NAMES && !self.last.contains_key(asked) {
            self.last.pop_first();
        }
        self.last.insert(asked.clone(), addresses);
        word
    }

    fn recalled(&self, zones: &[Arc<Zone>], asked: &Asked) -> Option<Word> {
        let last = self.last.get(asked)?;
        if last.is_empty() {
            return Some(Word::NoData);
        }
        let owned = |it: &&IpAddr| zones.iter().any(|zone| zone.owners.get(*it).is_some());
        let still: Vec<IpAddr> = last.iter().filter(owned).copied().collect();
        meaning(zones, &asked.0, &still).map(Word::Known)
    }

    fn is_of(&self, zones: &[Arc<Zone>]) -> bool {
        let same = |(weak, zone): (&Weak<Zone>, &Arc<Zone>)| weak.as_ptr() == Arc::as_ptr(zone);
        self.zones.len() == zones.len() && self.zones.iter().zip(zones).all(same)
    }
}

fn is_over(slot: &Slot, now: Instant) -> bool {
    slot.get().is_some_and(|it| it.until <= now)
}

/// More than may be asked at once in a sandbox, so that what is being asked always has room; and
/// more names than an application has.
const MOST_NAMES: usize = 512;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
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

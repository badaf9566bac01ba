//! Names and their records as octets, found with one probe: made once, with a view or a zone.
//!
//! Invariants
//! - *immutable*: nothing changes after it is made; it is shared by whoever reads it;
//! - *compact*: keys and records lie in one piece of memory, whatever their number;
//! - *askable*: a name that no question can hold is not in it;
//! - *unpredictable*: where a name goes depends on a number drawn when the process starts.

use std::net::IpAddr;
use std::sync::{LazyLock, OnceLock};

use crate::chance;
use crate::plan::{Entry, Pointer, Zone};
use crate::wire::encode::POINTER_TO_QUESTION;
use crate::wire::{Class, Kind};

/// The names of a zone.
#[derive(Debug)]
pub(crate) struct ZoneTable {
    /// The network's name, as [`wire_key`] has it.
    pub(super) network: Box<[u8]>,
    /// Its names, and the reverse names of its addresses.
    pub(super) names: Table,
}

/// A place for a zone's table, which follows from the zone's other fields and does not count when
/// zones are compared.
#[derive(Debug, Default)]
pub struct Prepared(OnceLock<ZoneTable>);

impl Prepared {
    /// Makes the table of `zone`, whose place this is, if it is not there yet.
    pub(crate) fn prepare(&self, zone: &Zone) {
        self.0.get_or_init(|| {
            let reverse = zone.reverse.iter().map(|(address, it)| Source::Pointer(*address, it));
            let names = zone.names.iter().map(|(key, entry)| Source::Entry(key, entry));
            let network = wire_key(&zone.key).unwrap_or_default().into();
            ZoneTable { network, names: Table::build(names.chain(reverse)) }
        });
    }

    /// The table, once it is made.
    pub(super) fn get(&self) -> Option<&ZoneTable> {
        self.0.get()
    }
}

impl Clone for Prepared {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Prepared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Prepared {}

/// Names and their records.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Places in `rows` plus one, where a name's hash points; 0: none. A power of two, twice as
    /// many as there are rows.
    index: Box<[u32]>,
    rows: Box<[Row]>,
    octets: Box<[u8]>,
}

/// A name.
#[derive(Clone, Copy, Debug)]
struct Row {
    hash: u32,
    key_at: u32,
    ttl: u32,
    sets: [Set; 2],
    key_length: u8,
}

/// Its records of one type, one after another and all of one length.
#[derive(Clone, Copy, Debug)]
struct Set {
    at: u32,
    length: u32,
    count: u16,
    kind: Kind,
}

/// A name that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    table: &'a Table,
    row: &'a Row,
}

/// Records to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records<'a> {
    pub(super) octets: &'a [u8],
    pub(super) count: usize,
}

/// What a row is made of.
#[derive(Clone, Copy)]
enum Source<'a> {
    Entry(&'a str, &'a Entry),
    Pointer(IpAddr, &'a Pointer),
}

impl Table {
    /// A table of these names.
    pub(super) fn of<'a>(entries: impl Iterator<Item = (&'a String, &'a Entry)>) -> Self {
        Self::build(entries.map(|(key, entry)| Source::Entry(key, entry)))
    }

    fn build<'a>(sources: impl Iterator<Item = Source<'a>>) -> Self {
        let mut maker = Maker::default();
        for source in sources {
            match source {
                Source::Entry(key, entry) => maker.entry(key, entry),
                Source::Pointer(address, pointer) => maker.pointer(address, pointer),
            };
        }
        maker.finish()
    }

    /// The row of `name`, in lower case, on the wire, without the root.
    pub(super) fn get(&self, name: &[u8]) -> Option<Found<'_>> {
        if self.rows.is_empty() {
            return None;
        }
        let hash = hash(name);
        let mut at = hash;
        loop {
            let place = usize::try_from(at).ok()? & (self.index.len() - 1);
            let row =
                self.rows.get(usize::try_from(*self.index.get(place)?).ok()?.checked_sub(1)?)?;
            if row.hash == hash && self.piece(row.key_at, u32::from(row.key_length)) == name {
                return Some(Found { table: self, row });
            }
            at = at.wrapping_add(1);
        }
    }

    fn piece(&self, at: u32, length: u32) -> &[u8] {
        let range = usize::try_from(at).ok().zip(usize::try_from(length).ok());
        range.and_then(|(at, length)| self.octets.get(at..at + length)).unwrap_or_default()
    }
}

impl<'a> Found<'a> {
    /// Its records of a type; `None`: it has none.
    pub(super) fn records(&self, kind: Kind) -> Option<Records<'a>> {
        let set = self.row.sets.iter().find(|it| it.kind == kind && it.count > 0)?;
        let octets = self.table.piece(set.at, set.length);
        Some(Records { octets, count: usize::from(set.count) })
    }

    /// Seconds that the answer may be kept.
    pub(super) fn ttl(&self) -> u32 {
        self.row.ttl
    }

    /// Whether it is the name of an address.
    pub(super) fn is_reverse(&self) -> bool {
        self.row.sets.iter().any(|it| it.kind == Kind::PTR)
    }
}

/// The normal form of a name ([`crate::name::key`]) as the wire has it, in lower case and without
/// the root; `None`: no question can ask for it.
pub(super) fn wire_key(key: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(key.len() + 1);
    for label in key.split('.') {
        let start = wire.len();
        wire.push(0);
        let mut octets = label.bytes();
        while let Some(octet) = octets.next() {
            wire.push(match octet {
                b'\\' => {
                    let digits = [octets.next()?, octets.next()?, octets.next()?];
                    std::str::from_utf8(&digits).ok()?.parse().ok()?
                }
                plain => plain,
            });
        }
        let length = wire.len() - start - 1;
        if !(1..=63).contains(&length) {
            return None;
        }
        *wire.get_mut(start)? = u8::try_from(length).ok()?;
    }
    (wire.len() <= 254).then_some(wire)
}

/// A table that is being made.
#[derive(Default)]
struct Maker {
    rows: Vec<Row>,
    octets: Vec<u8>,
}

impl Maker {
    /// `None`: it cannot be asked for.
    fn entry(&mut self, key: &str, entry: &Entry) -> Option<()> {
        let key = wire_key(key)?;
        let (ttl, addresses) = (entry.ttl, entry.addresses.iter());
        let v4 = addresses.clone().filter_map(|it| match it {
            IpAddr::V4(it) => Some(it.octets()),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.filter_map(|it| match it {
            IpAddr::V4(_) => None,
            IpAddr::V6(it) => Some(it.octets()),
        });
        let v4 = self.set(Kind::A, ttl, v4)?;
        let v6 = self.set(Kind::AAAA, ttl, v6)?;
        self.row(&key, ttl, [v4, v6])
    }

    fn pointer(&mut self, address: IpAddr, pointer: &Pointer) -> Option<()> {
        let key = crate::name::reverse_wire(address);
        let pointers = self.set(Kind::PTR, pointer.ttl, std::iter::once(pointer.name.wire()))?;
        self.row(&key, pointer.ttl, [pointers, Set { count: 0, ..pointers }])
    }

    /// Writes a record for each of `data`; all are of one length.
    fn set(
        &mut self,
        kind: Kind,
        ttl: u32,
        data: impl Iterator<Item = impl AsRef<[u8]>>,
    ) -> Option<Set> {
        let at = self.octets.len();
        let mut count = 0_u16;
        for octets in data {
            let octets = octets.as_ref();
            for field in [POINTER_TO_QUESTION, kind.0, Class::IN.0] {
                self.octets.extend_from_slice(&field.to_be_bytes());
            }
            self.octets.extend_from_slice(&ttl.to_be_bytes());
            self.octets.extend_from_slice(&u16::try_from(octets.len()).ok()?.to_be_bytes());
            self.octets.extend_from_slice(octets);
            count = count.checked_add(1)?;
        }
        let length = u32::try_from(self.octets.len() - at).ok()?;
        Some(Set { at: u32::try_from(at).ok()?, length, count, kind })
    }

    fn row(&mut self, key: &[u8], ttl: u32, sets: [Set; 2]) -> Option<()> {
        let key_at = u32::try_from(self.octets.len()).ok()?;
        self.octets.extend_from_slice(key);
        let key_length = u8::try_from(key.len()).ok()?;
        self.rows.push(Row { hash: hash(key), key_at, ttl, sets, key_length });
        Some(())
    }

    fn finish(self) -> Table {
        let Self { rows, octets } = self;
        let size = if rows.is_empty() { 0 } else { (rows.len() * 2).next_power_of_two() };
        let mut index = vec![0_u32; size].into_boxed_slice();
        for (number, row) in (1..).zip(&rows) {
            let places = (0..size)
                .map(|step| usize::try_from(row.hash).unwrap_or(0).wrapping_add(step) & (size - 1));
            for place in places {
                if let Some(free) = index.get_mut(place).filter(|it| **it == 0) {
                    *free = number;
                    break;
                }
            }
        }
        Table { index, rows: rows.into(), octets: octets.into() }
    }
}

/// Where a name goes: eight octets at a time, each time folded with a product of 128 bits.
fn hash(name: &[u8]) -> u32 {
    let mut state = *SECRET ^ u64::try_from(name.len()).unwrap_or(0);
    let mut pieces = name.chunks_exact(8);
    for piece in pieces.by_ref() {
        state = mix(state, piece.try_into().map_or(0, u64::from_le_bytes));
    }
    let mut rest = [0; 8];
    for (place, octet) in rest.iter_mut().zip(pieces.remainder()) {
        *place = *octet;
    }
    let [low, .., a, b, c] = mix(state, u64::from_le_bytes(rest)).to_le_bytes();
    u32::from_le_bytes([low, a, b, c])
}

fn mix(state: u64, piece: u64) -> u64 {
    let product = u128::from(state ^ piece) * u128::from(ODD);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

/// An odd number with as many ones as zeroes (the golden ratio's).
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

static SECRET: LazyLock<u64> = LazyLock::new(|| chance::unpredictable().unwrap_or(ODD));

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(addresses: &[&str], ttl: u32) -> Entry {
        Entry { addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(), ttl }
    }

    #[test]
    fn every_name_is_found_with_its_records_and_no_other_is() {
        let names: Vec<_> = (0..1000).map(|it| (format!("app.{it}.x"), it)).collect();
        let entries: Vec<_> = names
            .iter()
            .map(|(name, it)| (name.clone(), entry(&["10.0.0.1", "fd00::1"], *it)))
            .collect();
        let table = Table::of(entries.iter().map(|(name, it)| (name, it)));
        for (name, ttl) in &names {
            let found = table.get(&wire_key(name).unwrap()).unwrap();
            assert_eq!(found.ttl(), *ttl);
            assert_eq!(found.records(Kind::A).unwrap().octets.len(), 16);
            assert_eq!(found.records(Kind::AAAA).unwrap().octets.len(), 28);
            assert!(found.records(Kind::PTR).is_none() && !found.is_reverse());
        }
        for other in ["app", "app.1000.x", "app.1.y"] {
            assert!(table.get(&wire_key(other).unwrap()).is_none(), "{other}");
        }
        assert!(Table::default().get(b"\x03web").is_none());
    }

    #[test]
    fn a_name_that_cannot_be_asked_for_is_left_out() {
        let entries = ["", "a..b", &"x".repeat(64), &"x.".repeat(130), r"a\04"]
            .map(|it| (it.to_owned(), entry(&["10.0.0.1"], 5)));
        let table = Table::of(entries.iter().map(|(name, it)| (name, it)));
        assert!(table.rows.is_empty());
        assert_eq!(wire_key(r"a\046b.\195\132").unwrap(), b"\x03a.b\x02\xc3\x84");
    }
}

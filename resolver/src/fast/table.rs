//! Names and their records as octets, found with one probe: made with a view or a zone, out of the
//! zone's last table where only a few names are others.
//!
//! Invariants
//! - *immutable*: nothing changes after it is made; it is shared by whoever reads it;
//! - *compact*: keys and records of a shard lie in one piece of memory, whatever their number;
//! - *askable*: a name that no question can hold is not in it;
//! - *unpredictable*: where a name goes depends on a number drawn when the process starts.
//!
//! How tables are made stands in [`maker`].

mod maker;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, OnceLock};

use crate::chance;
use crate::plan::{Entry, Zone};
use crate::wire::Kind;
use maker::Source;
pub(super) use maker::wire_key;

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

    /// The table of `zone` made of this one, which is that of a zone that differs from it in those
    /// names and addresses only. Not made where this one is not made, or too small by now.
    pub(crate) fn patched(
        &self,
        zone: &Zone,
        names: &BTreeSet<String>,
        addresses: &BTreeSet<IpAddr>,
    ) -> Self {
        let patched = Self::default();
        let rows = zone.names.len() + zone.reverse.len();
        if let Some(old) = self.0.get().filter(|it| it.names.has_room_for(rows)) {
            let names = names.iter().map(|key| (key, zone.names.get(key)));
            let addresses = addresses.iter().map(|it| (*it, zone.reverse.get(it)));
            let names = old.names.patched(names, addresses);
            patched.0.get_or_init(|| ZoneTable { network: old.network.clone(), names });
        }
        patched
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

/// Names and their records, in shards, so that a table in which a few names are others takes
/// over most of the one before.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// A power of two, or none; the upper half of a name's hash says which.
    shards: Box<[Shard]>,
}

/// A piece of a table.
#[derive(Clone, Debug)]
struct Shard {
    /// Places in `rows` plus one, where the lower half of a name's hash points; 0: none. A power
    /// of two, twice as many as there are rows.
    index: Arc<[u32]>,
    rows: Arc<[Row]>,
    octets: Arc<[u8]>,
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
    shard: &'a Shard,
    row: &'a Row,
}

/// Records to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records<'a> {
    pub(super) octets: &'a [u8],
    pub(super) count: usize,
}

impl Table {
    /// A table of these names.
    pub(super) fn of<'a>(entries: impl Iterator<Item = (&'a String, &'a Entry)>) -> Self {
        Self::build(entries.map(|(key, entry)| Source::Entry(key, entry)))
    }

    /// The row of `name`, in lower case, on the wire, without the root.
    pub(super) fn get(&self, name: &[u8]) -> Option<Found<'_>> {
        if self.shards.is_empty() {
            return None;
        }
        let hash = hash(name);
        self.shards.get(self.shard_of(hash))?.get(hash, name)
    }

    /// Which shard a name with that hash is in.
    fn shard_of(&self, hash: u32) -> usize {
        usize::try_from(hash >> 16).unwrap_or(0) & self.shards.len().wrapping_sub(1)
    }
}

impl Shard {
    fn get(&self, hash: u32, name: &[u8]) -> Option<Found<'_>> {
        if self.rows.is_empty() {
            return None;
        }
        let mut at = hash;
        loop {
            let place = usize::try_from(at).ok()? & (self.index.len() - 1);
            let row =
                self.rows.get(usize::try_from(*self.index.get(place)?).ok()?.checked_sub(1)?)?;
            if row.hash == hash && self.key(row) == name {
                return Some(Found { shard: self, row });
            }
            at = at.wrapping_add(1);
        }
    }

    fn key(&self, row: &Row) -> &[u8] {
        self.piece(row.key_at, u32::from(row.key_length))
    }

    fn piece(&self, at: u32, length: u32) -> &[u8] {
        let range = usize::try_from(at).ok().zip(usize::try_from(length).ok());
        range.and_then(|(at, length)| self.octets.get(at..at + length)).unwrap_or_default()
    }
}

impl Row {
    /// Whether it is the name of an address.
    fn is_reverse(&self) -> bool {
        self.sets.iter().any(|it| it.kind == Kind::PTR)
    }
}

impl<'a> Found<'a> {
    /// Its records of a type; `None`: it has none.
    pub(super) fn records(&self, kind: Kind) -> Option<Records<'a>> {
        let set = self.row.sets.iter().find(|it| it.kind == kind && it.count > 0)?;
        let octets = self.shard.piece(set.at, set.length);
        Some(Records { octets, count: usize::from(set.count) })
    }

    /// Seconds that the answer may be kept.
    pub(super) fn ttl(&self) -> u32 {
        self.row.ttl
    }

    /// Whether it is the name of an address.
    pub(super) fn is_reverse(&self) -> bool {
        self.row.is_reverse()
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::name::Name;
    use crate::plan::Pointer;

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

    /// What `table` has of `name`: nothing, or its records and their TTL.
    fn seen(table: &Table, name: &[u8]) -> Option<(u32, Vec<Vec<u8>>)> {
        let found = table.get(name)?;
        let kinds = [Kind::A, Kind::AAAA, Kind::PTR];
        let records =
            kinds.map(|it| found.records(it).map_or_else(Vec::new, |it| it.octets.to_vec()));
        Some((found.ttl(), records.to_vec()))
    }

    #[test]
    fn a_patched_table_has_what_one_made_anew_has() {
        let address = |it: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + it));
        let pointer =
            |it: u32| Pointer { name: Name::from_text(&format!("t{it}.n")).unwrap(), ttl: 5 };
        let mut names: BTreeMap<_, _> = (0..1000)
            .map(|it| (format!("app.{it}"), entry(&["10.0.0.1", "fd00::1"], it)))
            .collect();
        let mut pointers: BTreeMap<_, _> = (0..1000).map(|it| (address(it), pointer(it))).collect();
        // Somebody is called like an address of ours.
        names.insert("6.2.0.10.in-addr.arpa".to_owned(), entry(&["10.0.2.6"], 9));
        let made = |names: &BTreeMap<String, Entry>, pointers: &BTreeMap<IpAddr, Pointer>| {
            let names = names.iter().map(|(key, it)| Source::Entry(key, it));
            Table::build(names.chain(pointers.iter().map(|(at, it)| Source::Pointer(*at, it))))
        };
        let mut table = made(&names, &pointers);
        assert!(table.shards.len() > 8, "{}", table.shards.len());
        for round in 0..100_u32 {
            let (gone, new) = (format!("app.{}", round * 7), format!("new.{round}"));
            let other = format!("app.{}", round * 7 + 1);
            names.remove(&gone);
            names.insert(new.clone(), entry(&["10.1.0.1"], round));
            names.insert(other.clone(), entry(&["fd00::2"], round));
            let (left, moved) = (address(round), address(round * 3 + 500));
            pointers.remove(&left);
            pointers.insert(moved, pointer(round));
            table = table.patched(
                [&gone, &new, &other].into_iter().map(|it| (it, names.get(it))),
                [left, moved].into_iter().map(|it| (it, pointers.get(&it))),
            );
        }
        let anew = made(&names, &pointers);
        let old = (0..1000).map(|it| format!("app.{it}"));
        let keys = names.keys().cloned().chain(old).filter_map(|it| wire_key(&it));
        let reverse = (0..1000).map(|it| crate::name::reverse_wire(address(it)));
        for key in keys.chain(reverse) {
            assert_eq!(seen(&table, &key), seen(&anew, &key));
        }
    }

    #[test]
    fn a_name_that_cannot_be_asked_for_is_left_out() {
        let entries = ["", "a..b", &"x".repeat(64), &"x.".repeat(130), r"a\04"]
            .map(|it| (it.to_owned(), entry(&["10.0.0.1"], 5)));
        let table = Table::of(entries.iter().map(|(name, it)| (name, it)));
        assert!(table.shards.iter().all(|it| it.rows.is_empty()));
        assert_eq!(wire_key(r"a\046b.\195\132").unwrap(), b"\x03a.b\x02\xc3\x84");
    }
}

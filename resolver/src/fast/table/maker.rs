//! How tables are made: whole, or out of the one before.
//!
//! Always true here: a row stands in the shard that its hash says, and of a name and an address
//! that are called the same the name comes first, however the table came to be.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Row, Set, Shard, Table, hash};
use crate::plan::{Entry, Pointer};
use crate::wire::encode::POINTER_TO_QUESTION;
use crate::wire::{Class, Kind};

/// Rows of a shard to begin with: as many as are copied when one of them changes, while a copy of
/// the table costs three pointers for each shard.
const ROWS: usize = 128;
/// Rows of a shard, in the middle, from which on the table is made anew.
const MOST_ROWS: usize = 4 * ROWS;

/// Octets of a message (RFC 1035 section 4.2.2).
const LONGEST_ANSWER: usize = 0xffff;

/// What a row is made of.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// A name and its addresses.
    Entry(&'a str, &'a Entry),
    /// An address and its name.
    Pointer(IpAddr, &'a Pointer),
}

impl Source<'_> {
    /// The name asked for, as [`wire_key`] has it; `None`: it cannot be asked for.
    fn key(&self) -> Option<Vec<u8>> {
        match self {
            Self::Entry(key, _) => wire_key(key),
            Self::Pointer(address, _) => Some(crate::name::reverse_wire(*address)),
        }
    }
}

/// What becomes of a row.
struct Patch<'a> {
    key: Vec<u8>,
    is_reverse: bool,
    /// `None`: it goes.
    source: Option<Source<'a>>,
}

impl Table {
    /// A table of what `sources` gives, each name once.
    pub(super) fn build<'a>(sources: impl Iterator<Item = Source<'a>>) -> Self {
        let keyed: Vec<_> = sources
            .filter_map(|source| {
                let key = source.key()?;
                Some((hash(&key), key, source))
            })
            .collect();
        if keyed.is_empty() {
            return Self::default();
        }
        let count = keyed.len().div_ceil(ROWS).next_power_of_two();
        let mut makers: Vec<Maker> = (0..count).map(|_| Maker::default()).collect();
        for (hash, key, source) in &keyed {
            let shard = usize::try_from(hash >> 16).unwrap_or(0) & (count - 1);
            if let Some(maker) = makers.get_mut(shard) {
                maker.source(*hash, key, *source);
            }
        }
        Self { shards: makers.into_iter().map(Maker::finish).collect() }
    }

    /// Whether so many rows fit without making shards slow to copy.
    pub(super) fn has_room_for(&self, rows: usize) -> bool {
        rows <= self.shards.len() * MOST_ROWS
    }

    /// The same table with these names and addresses as given; `None`: not there any more.
    pub(super) fn patched<'a>(
        &self,
        names: impl Iterator<Item = (&'a String, Option<&'a Entry>)>,
        addresses: impl Iterator<Item = (IpAddr, Option<&'a Pointer>)>,
    ) -> Self {
        let names = names.filter_map(|(key, entry)| {
            let source = entry.map(|it| Source::Entry(key, it));
            Some(Patch { key: wire_key(key)?, is_reverse: false, source })
        });
        let addresses = addresses.map(|(address, pointer)| {
            let source = pointer.map(|it| Source::Pointer(address, it));
            Patch { key: crate::name::reverse_wire(address), is_reverse: true, source }
        });
        let mut touched: BTreeMap<usize, Vec<Patch<'_>>> = BTreeMap::new();
        for patch in names.chain(addresses) {
            touched.entry(self.shard_of(hash(&patch.key))).or_default().push(patch);
        }
        let mut shards = self.shards.clone();
        for (number, patches) in touched {
            if let Some(shard) = shards.get_mut(number) {
                *shard = shard.patched(&patches);
            }
        }
        Self { shards }
    }
}

impl Shard {
    fn patched(&self, patches: &[Patch<'_>]) -> Self {
        let mut maker = Maker::default();
        for row in self.rows.iter() {
            let (key, is_reverse) = (self.key(row), row.is_reverse());
            if !patches.iter().any(|it| it.is_reverse == is_reverse && it.key == key) {
                maker.copy(self, row);
            }
        }
        for patch in patches {
            if let Some(source) = patch.source {
                maker.source(hash(&patch.key), &patch.key, source);
            }
        }
        maker.finish()
    }
}

/// The normal form of a name ([`crate::name::key`]) as the wire has it, in lower case and without
/// the root; `None`: no question can ask for it.
pub(in crate::fast) fn wire_key(key: &str) -> Option<Vec<u8>> {
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

/// A shard that is being made.
#[derive(Default)]
struct Maker {
    rows: Vec<Row>,
    octets: Vec<u8>,
}

impl Maker {
    fn source(&mut self, hash: u32, key: &[u8], source: Source<'_>) -> Option<()> {
        match source {
            Source::Entry(_, entry) => self.entry(hash, key, entry),
            Source::Pointer(_, pointer) => self.pointer(hash, key, pointer),
        }
    }

    fn entry(&mut self, hash: u32, key: &[u8], entry: &Entry) -> Option<()> {
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
        self.row(hash, key, ttl, [v4, v6])
    }

    fn pointer(&mut self, hash: u32, key: &[u8], pointer: &Pointer) -> Option<()> {
        let pointers = self.set(Kind::PTR, pointer.ttl, std::iter::once(pointer.name.wire()))?;
        self.row(hash, key, pointer.ttl, [pointers, Set { count: 0, length: 0, ..pointers }])
    }

    /// Takes over a row of another shard.
    fn copy(&mut self, from: &Shard, row: &Row) -> Option<()> {
        let mut sets = row.sets;
        for set in &mut sets {
            let at = u32::try_from(self.octets.len()).ok()?;
            self.octets.extend_from_slice(from.piece(set.at, set.length));
            set.at = at;
        }
        self.row(row.hash, from.key(row), row.ttl, sets)
    }

    /// Writes a record for each of `data`, all of one length, until there are more of them than fit
    /// any answer: then the row is there, and whoever asks is left to the general path.
    fn set(
        &mut self,
        kind: Kind,
        ttl: u32,
        data: impl Iterator<Item = impl AsRef<[u8]>>,
    ) -> Option<Set> {
        let at = self.octets.len();
        let mut count = 0_u16;
        for octets in data {
            if self.octets.len() - at > LONGEST_ANSWER {
                break;
            }
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

    fn row(&mut self, hash: u32, key: &[u8], ttl: u32, sets: [Set; 2]) -> Option<()> {
        let key_at = u32::try_from(self.octets.len()).ok()?;
        self.octets.extend_from_slice(key);
        let key_length = u8::try_from(key.len()).ok()?;
        self.rows.push(Row { hash, key_at, ttl, sets, key_length });
        Some(())
    }

    fn finish(mut self) -> Shard {
        self.rows.sort_by_key(Row::is_reverse); // stable: names first
        let Self { rows, octets } = self;
        let size = if rows.is_empty() { 0 } else { (rows.len() * 2).next_power_of_two() };
        let mut index = vec![0_u32; size];
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
        Shard { index: index.into(), rows: rows.into(), octets: octets.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    use registry::Snapshot;

    use crate::fast::{Plain, Quick, Seat};
    use crate::plan::{Config, VipTable};
    use crate::upstream::UpstreamConfig;
    use crate::wire::Rcode;

    #[test]
    fn a_name_with_more_addresses_than_records_are_counted_is_left_to_the_general_path() {
        let world = "[[network]]\nname = \"n\"\n[[task]]\nname = \"many\"\naddresses = { n = \"10.0.0.1\" }\n\
                     [[sandbox]]\nname = \"asking\"\nnetns = \"/run/netns/a\"\nnetworks = [\"n\"]\n";
        let mut draft = registry::source::world::parse(world, "test").unwrap();
        let endpoint = draft.tasks[0].networks.get_mut(&"n".into()).unwrap();
        let addresses = (0..70_000).map(|it| Ipv4Addr::from_bits(0x0a00_0000 + it).into());
        endpoint.addresses = addresses.collect();
        let config = Config {
            ttl: Duration::from_secs(5),
            vip_ttl: Duration::from_secs(5),
            forward_single_label: false,
            host_listen: None,
            upstream: UpstreamConfig::default(),
        };
        let (plan, _) = crate::compile(&Snapshot::build(draft, 1), &VipTable::new(), &config);
        let seat = Seat::new(Arc::clone(plan.views.values().next().unwrap()));
        let quick = |question: &[u8]| {
            let octets = [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], question].concat();
            match seat.quick(&Plain::read(&octets).unwrap(), 1, &mut [0; 1232]) {
                Quick::Reply { code, .. } => Ok(code),
                other @ (Quick::Foreign | Quick::General) => Err(other),
            }
        };
        assert_eq!(quick(b"\x04many\0\0\x01\0\x01"), Err(Quick::General), "A");
        assert_eq!(quick(b"\x04many\0\0\x1c\0\x01"), Ok(Rcode::NOERROR), "AAAA");
        assert_eq!(quick(b"\x04none\0\0\x01\0\x01"), Ok(Rcode::NXDOMAIN));
    }
}

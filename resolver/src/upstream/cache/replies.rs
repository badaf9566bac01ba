//! Replies for tests, octet by octet: what they say is what stands there, well-formed or not.

use crate::name::Name;
use crate::wire::reply::{Reply, matching};
use crate::wire::{Kind, Query};

/// A question for `name`.
pub(crate) fn query(name: &str, kind: Kind) -> Query {
    Query { id: 0x1234, ..Query::plain(Name::from_text(name).unwrap(), kind) }
}

/// Owner (empty: the question's name, by a pointer), type, TTL, data.
pub(crate) type Record<'a> = (&'a str, u16, u32, &'a [u8]);

/// Records on the wire, of class IN.
pub(crate) fn records(records: &[Record<'_>]) -> Vec<u8> {
    let mut octets = Vec::new();
    for (owner, kind, ttl, data) in records {
        match *owner {
            "" => octets.extend_from_slice(b"\xc0\x0c"),
            owner => octets.extend_from_slice(Name::from_text(owner).unwrap().wire()),
        }
        octets.extend_from_slice(&kind.to_be_bytes());
        octets.extend_from_slice(&[0, 1]);
        octets.extend_from_slice(&ttl.to_be_bytes());
        octets.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        octets.extend_from_slice(data);
    }
    octets
}

/// The octets of a reply to `query` with `code`, so many records in each section, and `records`.
pub(crate) fn octets(query: &Query, code: u8, counts: [u16; 3], records: &[u8]) -> Vec<u8> {
    let mut octets = vec![0, 7, 0x81, 0x80 | code, 0, 1];
    octets.extend(counts.iter().flat_map(|it| it.to_be_bytes()));
    octets.extend_from_slice(query.name.wire());
    octets.extend([query.kind.0, query.class.0].iter().flat_map(|it| it.to_be_bytes()));
    octets.extend_from_slice(records);
    octets
}

/// The same, as a reply that matched.
pub(crate) fn reply(query: &Query, code: u8, counts: [u16; 3], records: &[u8]) -> Reply {
    matching(octets(query, code, counts, records), query, 7).unwrap()
}

/// The data of a SOA whose minimum is `minimum`.
pub(crate) fn soa(minimum: u32) -> Vec<u8> {
    let timers = [1, 3600, 1200, 604_800, minimum].map(u32::to_be_bytes);
    [&b"\x02ns\0\x04mail\0"[..], timers.as_flattened()].concat()
}

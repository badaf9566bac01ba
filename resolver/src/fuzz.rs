//! What strangers' octets go through, behind one function, for fuzzing.
//!
//! Always true here: whatever the octets, reading ends, panics nowhere, and nothing that is written
//! is longer than its room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::name::Name;
use crate::upstream::cache::{Budget, Cache, Folded, Found, Refresh, Renewal};
use crate::upstream::rebinding::Filter;
use crate::upstream::tls::line::first_message;
use crate::wire::reply::asked::Asked;
use crate::wire::reply::chain::Chain;
use crate::wire::reply::matching;
use crate::wire::{Class, Edns, Kind, Query, Transport};

/// Takes `octets` as what an upstream server replied at `now`: to a question that stands in them,
/// so that any can match. Reads, keeps and tells it, fresh and stale, to clients of each kind; gives
/// how many replies it wrote.
///
/// # Panics
///
/// Where something that is always true is not: that is what is looked for.
pub fn upstream_reply(octets: &[u8], now: Instant) -> usize {
    let Some(query) = question_in(octets) else { return 0 };
    let id = octets.first_chunk().map_or(0, |it| u16::from_be_bytes(*it));
    let Some(reply) = matching(octets, &query, id) else { return 0 };
    let reply = reply.vouched(true);
    drop(reply.ipv4_addresses());
    for kind in [Kind::A, Kind::AAAA, Kind::PTR] {
        drop(reply.told(kind));
    }
    let filter = Filter::new([&query.name]);
    assert!(!filter.blocks(&query, &reply, &[]), "an allowed name was held back");
    let blocked = Filter::default().blocks(&query, &reply, &[]);
    let mut written = 0;
    for transport in [Transport::Udp, Transport::Tcp] {
        let capped = reply.clone().capped(5, false).map(|it| it.for_client(&query, transport));
        let plain = reply.clone().for_client(&query, transport);
        for told in [capped, Some(plain)].into_iter().flatten() {
            let limit = Asked::limit(query.edns, transport);
            assert!(told.len() <= limit, "{} octets for a client that takes {limit}", told.len());
            written += 1;
        }
    }
    let budget = Arc::new(Budget::new(LIMIT));
    let mut cache = Cache::new(Arc::clone(&budget));
    if blocked {
        cache.insert_blocked(&query, &reply, now);
    } else {
        cache.insert(&query, &reply, now);
    }
    let belongs = matches!(reply.chain(&query), Chain::Sound(_)) || cache.len() == 0;
    assert!(belongs || query_failed(&mut cache, &query, now), "kept what does not belong");
    let mut prefetches = 0;
    for seconds in [0, 1, 4, 100_000, 10_000_000] {
        let later = now + Duration::from_secs(seconds);
        written += tell(&mut cache, &query, later, &mut prefetches);
    }
    assert!(prefetches <= 1, "{prefetches} times told to ask anew");
    assert!(cache.bytes() <= LIMIT && budget.held() == cache.bytes(), "more than the budget");
    cache.fail(&query, now);
    drop(cache.take());
    assert_eq!(budget.held(), 0, "octets that nobody holds");
    written
}

/// Takes `octets` as what an upstream server sent on a stream by `now`, and each message in them as
/// [`upstream_reply`] does; gives how many octets of it are whole messages.
///
/// # Panics
///
/// As [`upstream_reply`] does.
pub fn upstream_stream(octets: &[u8], now: Instant) -> usize {
    let mut rest = octets;
    while let Some((message, behind)) = first_message(rest) {
        assert_eq!(message.len() + 2, rest.len() - behind.len(), "octets lost or taken twice");
        upstream_reply(message, now);
        rest = behind;
    }
    octets.len() - rest.len()
}

/// Octets that the cache may hold.
const LIMIT: usize = 1 << 17;

fn tell(cache: &mut Cache, query: &Query, now: Instant, prefetches: &mut usize) -> usize {
    let mut written = 0;
    for edns in [None, query.edns, Some(Edns { size: 4096, dnssec_ok: false })] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let asked = Asked { edns, ..Asked::of(query, transport) };
            let asked = Asked { limit: Asked::limit(edns, transport), ..asked };
            let folded = Folded::new(asked.name);
            let entry = match cache.look_up(&folded.key(&asked), Renewal::Claimed, now) {
                Found::Missing => continue,
                Found::Fresh { entry, prefetch } => {
                    *prefetches += usize::from(prefetch);
                    entry
                }
                Found::Stale { entry, refresh } => {
                    assert_eq!(refresh, Refresh::First, "nobody has failed");
                    entry
                }
            };
            let mut out = vec![0; asked.limit];
            let length = entry.write(&asked, now, &mut out);
            assert!(length.is_some_and(|it| it <= asked.limit), "{length:?} of {}", asked.limit);
            written += 1;
        }
    }
    written
}

fn query_failed(cache: &mut Cache, query: &Query, now: Instant) -> bool {
    let asked = Asked::of(query, Transport::Tcp);
    let folded = Folded::new(asked.name);
    match cache.look_up(&folded.key(&asked), Renewal::Claimed, now) {
        Found::Fresh { entry, .. } | Found::Stale { entry, .. } => entry.is_failure(),
        Found::Missing => true,
    }
}

/// The question that stands in a reply, as if it had been ours.
fn question_in(octets: &[u8]) -> Option<Query> {
    let name = Name::from_wire(octets.get(12..)?).ok()?;
    let fields = octets.get(12 + name.wire().len()..)?.first_chunk::<4>()?;
    let [a, b, c, d] = *fields;
    let flags = *octets.get(3)?;
    Some(Query {
        id: 0x1234,
        recursion_desired: true,
        checking_disabled: flags & 0x10 != 0,
        authentic_data: flags & 0x20 != 0,
        name,
        kind: Kind(u16::from_be_bytes([a, b])),
        class: Class(u16::from_be_bytes([c, d])),
        edns: (flags & 0x40 != 0).then_some(Edns { size: 1232, dnssec_ok: true }),
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Owners and data that mean something to chains: the question, below it, elsewhere, loops.
    fn record() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![
            Just(&b"\xc0\x0c"[..]),
            Just(&b"\x01b\xc0\x0c"[..]),
            Just(&b"\x01c\x02ex\0"[..]),
            Just(&b"\x02ex\0"[..]),
            Just(&b"\xc0\x20"[..]),
            Just(&b"\0"[..]),
        ];
        let kind = prop_oneof![
            Just(1_u16),
            Just(2),
            Just(5),
            Just(6),
            Just(28),
            Just(39),
            Just(41),
            Just(65)
        ];
        let ttl = prop_oneof![Just(0_u32), 1..90_u32, any::<u32>()];
        let data = prop_oneof![
            name.clone().prop_map(<[u8]>::to_vec),
            vec(any::<u8>(), 0..40),
            Just(vec![10, 0, 0, 1])
        ];
        (name, kind, ttl, data).prop_map(|(owner, kind, ttl, data)| {
            let length = u16::try_from(data.len()).unwrap().to_be_bytes();
            [owner, &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length, &data].concat()
        })
    }

    proptest! {
        #[test]
        fn any_octets_are_read_kept_and_told(octets in vec(any::<u8>(), 0..300)) {
            upstream_reply(&octets, tokio::time::Instant::now().into_std());
        }

        #[test]
        fn any_records_are_read_kept_and_told(
            records in vec(record(), 0..9),
            (flags, counts) in (any::<u8>(), (0..5_u8, 0..3_u8, 0..3_u8)),
            (cut, place, octet) in (0..3_usize, any::<usize>(), proptest::option::of(any::<u8>())),
        ) {
            let header = [0, 7, 0x81, flags & 0xf3, 0, 1, 0, counts.0, 0, counts.1, 0, counts.2];
            let mut octets = [&header[..], b"\x01a\x02ex\0\0\x01\0\x01", &records.concat()].concat();
            if let Some(octet) = octet {
                let place = place % octets.len();
                octets[place] = octet;
            }
            octets.truncate(octets.len() - cut);
            upstream_reply(&octets, tokio::time::Instant::now().into_std());
        }
    }
}

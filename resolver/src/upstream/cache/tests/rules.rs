//! What is kept, and how long: RFC 1034, 2181, 2308, 6672, 9520 as a table.

use super::replies::{Record, query, records, reply, soa};
use super::*;
use crate::name::Name;
use crate::wire::reply::chain::{Chain, LONGEST_CHAIN, MOST_OWNERS, Plain};

/// What upstream says to `a.example A`: why, its code, how many answers, authorities and
/// additionals, which, and for how many seconds it is kept; 0: not at all.
type Case<'a> = (&'a str, u8, [u16; 3], &'a [Record<'a>], u64);

const IP: &[u8] = &[192, 0, 2, 1];
const B: &[u8] = b"\x01b\x07example\0";
const C: &[u8] = b"\x01c\x07example\0";
const OPT: u16 = 41;
const NS: u16 = 2;
const DNAME: u16 = 39;

#[track_caller]
fn check(cases: &[Case<'_>]) {
    let start = now();
    for (what, code, counts, list, kept) in cases {
        let (mut cache, query) = (cache(), query("a.example", Kind::A));
        cache.insert(&query, &reply(&query, *code, *counts, &records(list)), start);
        let fresh = |cache: &mut Cache, after| {
            told(cache, &query, start + seconds(after)).is_some_and(|it| !it.1)
        };
        assert_eq!(cache.len(), usize::from(*kept > 0), "{what}");
        assert!(*kept == 0 || fresh(&mut cache, 0) && fresh(&mut cache, kept - 1), "{what}: early");
        assert!(!fresh(&mut cache, *kept), "{what}: late");
    }
}

#[test]
fn answers_are_kept_as_long_as_the_rules_say() {
    check(&[
        ("the least TTL", 0, [2, 0, 0], &[("", A, 300, IP), ("", A, 9, IP)], 9),
        ("others do not count", 0, [1, 1, 0], &[("", A, 9, IP), ("example", NS, 3, B)], 9),
        ("at most a day", 0, [1, 0, 0], &[("", A, 999_999, IP)], 86_400),
        ("TTL 0", 0, [1, 0, 0], &[("", A, 0, IP)], 0),
        ("a TTL that is negative", 0, [1, 0, 0], &[("", A, 1 << 31, IP)], 0),
        ("a TTL just not negative", 0, [1, 0, 0], &[("", A, (1 << 31) - 1, IP)], 86_400),
        ("another type", 0, [1, 0, 0], &[("", 28, 60, &[0; 16])], 0),
        ("SERVFAIL", 2, [0, 0, 0], &[], 5),
        ("REFUSED", 5, [0, 0, 0], &[], 5),
        ("NOTIMP", 4, [0, 0, 0], &[], 5),
        ("FORMERR", 1, [0, 0, 0], &[], 5),
        ("BADVERS", 0, [0, 0, 1], &[(".", OPT, 1 << 24, b"")], 5),
        ("an OPT among the answers", 0, [1, 0, 0], &[(".", OPT, 0, b"")], 0),
        (
            "an OPT that is not the last",
            0,
            [1, 0, 2],
            &[("", A, 60, IP), (".", OPT, 0, b""), ("b.example", A, 60, IP)],
            60,
        ),
    ]);
}

#[test]
fn denials_are_kept_as_long_as_the_rules_say() {
    let (minute, none, long) = (&soa(60)[..], &soa(0)[..], &soa(90_000)[..]);
    check(&[
        ("NXDOMAIN: the minimum", 3, [0, 1, 0], &[("example", SOA, 900, minute)], 60),
        ("NXDOMAIN: the SOA's TTL", 3, [0, 1, 0], &[("example", SOA, 30, minute)], 30),
        ("NODATA: the minimum", 0, [0, 1, 0], &[("", SOA, 900, minute)], 60),
        ("NODATA: at most three hours", 0, [0, 1, 0], &[("", SOA, 90_000, long)], 10_800),
        ("NODATA: minimum 0", 0, [0, 1, 0], &[("", SOA, 90, none)], 0),
        ("NXDOMAIN without a SOA", 3, [0, 0, 0], &[], 0),
        ("NODATA without a SOA", 0, [0, 1, 0], &[("example", NS, 90, B)], 0),
        ("a SOA of another zone", 3, [0, 1, 0], &[("other", SOA, 90, minute)], 0),
        ("a SOA from below", 3, [0, 1, 0], &[("x.a.example", SOA, 90, minute)], 0),
        ("a SOA that is cut", 3, [0, 1, 0], &[("example", SOA, 90, &minute[..20])], 0),
        ("a SOA in its data alone", 3, [0, 1, 0], &[("example", NS, 90, minute)], 0),
        ("the root's SOA", 3, [0, 1, 0], &[(".", SOA, 90, minute)], 60),
    ]);
}

#[test]
fn chains_of_aliases_are_kept_as_long_as_the_rules_say() {
    let minute = &soa(60)[..];
    let (ip_b, ip_c) = (("b.example", A, 60, IP), ("c.example", A, 60, IP));
    check(&[
        (
            "the least TTL",
            0,
            [3, 0, 0],
            &[("", CNAME, 80, B), ("b.example", CNAME, 20, C), ip_c],
            20,
        ),
        ("in disorder", 0, [3, 0, 0], &[ip_c, ("B.example", CNAME, 20, C), ("", CNAME, 80, B)], 20),
        ("to nothing", 0, [1, 0, 0], &[("", CNAME, 80, B)], 0),
        (
            "to nothing, by its SOA",
            3,
            [1, 1, 0],
            &[("", CNAME, 80, B), ("example", SOA, 90, minute)],
            60,
        ),
        (
            "to nothing, shorter than its SOA",
            0,
            [1, 1, 0],
            &[("", CNAME, 7, B), ("example", SOA, 90, minute)],
            7,
        ),
        (
            "to another zone, by the SOA of the first",
            3,
            [1, 1, 0],
            &[("", CNAME, 80, b"\x03net\0"), ("example", SOA, 90, minute)],
            0,
        ),
        (
            "by DNAME",
            0,
            [3, 0, 0],
            &[("example", DNAME, 70, b"\x03net\0"), ("", CNAME, 70, B), ip_b],
            60,
        ),
        ("a DNAME beside it", 0, [2, 0, 0], &[("", A, 60, IP), ("net", DNAME, 60, B)], 0),
        ("an answer nobody asked for", 0, [2, 0, 0], &[("", A, 60, IP), ip_b], 0),
        ("only answers nobody asked for", 0, [1, 0, 0], &[ip_b], 0),
        ("a loop", 0, [2, 0, 0], &[("", CNAME, 60, B), ("b.example", CNAME, 60, b"\xc0\x0c")], 5),
        ("a name that is its own alias", 0, [1, 0, 0], &[("", CNAME, 60, b"\xc0\x0c")], 5),
        ("an alias that is cut", 0, [1, 0, 0], &[("", CNAME, 60, b"\x09b")], 0),
    ]);
}

#[test]
fn who_asks_for_an_alias_is_not_led_along_it() {
    let query = query("a.example", Kind(CNAME));
    let reply = reply(&query, 0, [1, 0, 0], &records(&[("", CNAME, 60, b"\xc0\x0c")]));
    let Chain::Sound(last) = reply.chain(&query) else { panic!("{:?}", reply.chain(&query)) };
    assert_eq!(last.wire(), query.name.wire());
}

#[test]
fn a_chain_of_sixteen_is_followed_and_a_longer_one_is_endless() {
    let query = query("n0.example", Kind::A);
    for (length, endless) in [(LONGEST_CHAIN, false), (LONGEST_CHAIN + 1, true), (100, true)] {
        let names: Vec<_> = (0..=length).map(|it| format!("n{it}.example")).collect();
        let wire: Vec<_> = names.iter().map(|it| Name::from_text(it).unwrap()).collect();
        let mut list: Vec<Record<'_>> =
            (0..length).map(|it| (names[it].as_str(), CNAME, 60, wire[it + 1].wire())).collect();
        list.push((&names[length], A, 60, IP));
        let count = u16::try_from(list.len()).unwrap();
        let chain = reply(&query, 0, [count, 0, 0], &records(&list)).chain(&query);
        assert_eq!(chain == Chain::Endless, endless, "{length}: {chain:?}");
        assert_eq!(matches!(chain, Chain::Sound(_)), !endless, "{length}: {chain:?}");
    }
}

#[test]
fn pointers_that_lead_forward_or_in_circles_make_a_reply_malformed() {
    let query = query("a.example", Kind::A);
    for owner in
        [&b"\xc0\x1b"[..], b"\xc0\x1d", b"\xc0\xff", b"\xc0\x00", b"\xc0\x0b", b"\x01x\xc0\x1b"]
    {
        let record = [owner, b"\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01"].concat();
        let reply = reply(&query, 0, [1, 0, 0], &record);
        assert_eq!(reply.chain(&query), Chain::Malformed, "{owner:?}");
    }
}

#[test]
fn no_more_owners_are_read_than_an_honest_server_writes() {
    let query = query("a.example", Kind::A);
    let wire = query.name.wire();
    for (owners, expected) in [
        (&[&b"\xc0\x0c"[..]][..], "sound"),
        (&[wire], "sound"),
        (&[&b"\xc0\x0c"[..], wire], "malformed"),
    ] {
        for (count, expected) in [(MOST_OWNERS, "sound"), (MOST_OWNERS + 1, expected)] {
            let rest = b"\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
            let one = |at: usize| [owners[at % owners.len()], &rest[..]].concat();
            let list: Vec<_> = (0..count).flat_map(one).collect();
            let counts = [u16::try_from(count).unwrap(), 0, 0];
            let chain = match reply(&query, 0, counts, &list).chain(&query) {
                Chain::Sound(_) => "sound",
                Chain::Malformed => "malformed",
                other @ (Chain::Stray | Chain::Endless | Chain::Cut) => panic!("{other:?}"),
            };
            assert_eq!(chain, expected, "{count} {owners:?}");
        }
    }
}

#[test]
fn a_name_is_below_another_where_a_label_of_it_begins_and_nowhere_else() {
    let plain = |octets: &[u8]| Plain::read(octets, 0).unwrap();
    let long = [b"\x01z".repeat(126), b"\x01a\0".to_vec()].concat();
    for (name, above, expected) in [
        (&b"\x01b\x01A\0"[..], &b"\x01a\0"[..], true),
        (b"\x01a\0", b"\x01a\0", true),
        (b"\x01a\0", b"\0", true),
        (b"\0", b"\x01a\0", false),
        (b"\x03b\x01a\0", b"\x01a\0", false),
        (&long, b"\x01a\0", true),
        (&long, b"\x01z\x01a\0", true),
        (&long, b"\x01b\0", false),
    ] {
        assert_eq!(plain(name).is_in(&plain(above)), expected, "{name:?} {above:?}");
    }
}

#[test]
fn a_failure_is_told_again_by_its_code_and_drives_nobody_out() {
    let (mut cache, start) = (cache(), now());
    for code in [2, 4, 5] {
        let query = query(&format!("{code}.example"), Kind::A);
        cache.insert(&query, &reply(&query, code, [0; 3], &[]), start);
        let (message, _) = told(&mut cache, &query, start).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::from(0, code));
    }
    let mut cache = Cache::new(Arc::new(Budget::new(64 * 1024)));
    for number in 0..2000 {
        keep(&mut cache, &format!("{number}.example"), 60, start);
    }
    let before = cache.len();
    for number in 0..2000 {
        cache.fail(&query(&format!("failed{number}.example"), Kind::A), start);
    }
    let mut kept = 0;
    for number in 0..2000 {
        kept +=
            usize::from(cache.peek(&query(&format!("{number}.example"), Kind::A), start).is_some());
    }
    assert_eq!(kept, before);
}

#[test]
fn for_one_entry_no_more_than_sixty_four_others_leave() {
    let (mut cache, start) = (Cache::new(Arc::new(Budget::new(128 * 1024))), now());
    for number in 0..2000 {
        keep(&mut cache, &format!("{number}.example"), 60, start);
    }
    let large = query("large.example", Kind::A);
    let reply = reply(&large, 0, [900, 0, 0], &records(&vec![("", A, 60, IP); 900]));
    let mut before = cache.len();
    for _ in 0..9 {
        cache.insert(&large, &reply, start);
        assert!(before - cache.len() <= 64, "{before} {}", cache.len());
        before = cache.len();
    }
    assert!(told(&mut cache, &large, start).is_some());
}

#[test]
fn aliases_that_lead_to_nothing_are_explained_as_no_data() {
    use crate::upstream::outlook::KeptAs;
    let (minute, start) = (&soa(60)[..], now());
    let denied = [("", CNAME, 80, B), ("example", SOA, 90, minute)];
    let led = [("", CNAME, 80, B), ("b.example", A, 60, IP)];
    for (counts, list, expected) in
        [([1, 1, 0], denied, KeptAs::NoData), ([2, 0, 0], led, KeptAs::Records(2))]
    {
        let (mut cache, query) = (cache(), query("a.example", Kind::A));
        cache.insert(&query, &reply(&query, 0, counts, &records(&list)), start);
        assert_eq!(cache.peek(&query, start).unwrap().says, expected);
    }
}

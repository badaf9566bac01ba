//! The cache as those who ask see it; hickory reads what it writes.

mod rules;

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use proptest::collection::vec;
use proptest::prelude::*;

use super::replies::{query, records, reply, soa};
use super::*;
use crate::wire::{Edns, Kind};

const MIB: usize = 1024 * 1024;
const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn cache() -> Cache {
    Cache::new(Arc::new(Budget::new(MIB)))
}

fn asked(query: &Query) -> Asked<'_> {
    Asked::of(query, Transport::Udp)
}

/// What `query` gets at `now`, and whether it is stale; `None`: nothing is kept.
fn told(cache: &mut Cache, query: &Query, now: Instant) -> Option<(Message, bool)> {
    let asked = asked(query);
    let folded = Folded::new(asked.name);
    let (entry, stale) = match cache.look_up(&folded.key(&asked), Renewal::Claimed, now) {
        Found::Missing => return None,
        Found::Fresh { entry, .. } => (entry, false),
        Found::Stale { entry, .. } => (entry, true),
    };
    let mut out = [0; 1232];
    let length = entry.write(&asked, now, &mut out).unwrap();
    Some((Message::from_vec(&out[..length]).unwrap(), stale))
}

fn answers(message: &Message) -> Vec<String> {
    message.answers.iter().map(ToString::to_string).collect()
}

/// Keeps one address for `name`, for `ttl` seconds.
fn keep(cache: &mut Cache, name: &str, ttl: u32, now: Instant) -> Query {
    let query = query(name, Kind::A);
    let octets = records(&[("", A, ttl, &[192, 0, 2, 1])]);
    cache.insert(&query, &reply(&query, 0, [1, 0, 0], &octets), now);
    query
}

#[test]
fn ttls_count_down_and_end() {
    let (mut cache, start) = (cache(), now());
    let query = keep(&mut cache, "www.example", 60, start);
    for (after, ttl) in [(0, 60), (1, 59), (59, 1)] {
        let (message, stale) = told(&mut cache, &query, start + seconds(after)).unwrap();
        assert_eq!(answers(&message), [format!("www.example. {ttl} IN A 192.0.2.1")]);
        assert!(!stale);
    }
    assert!(told(&mut cache, &query, start + seconds(60)).unwrap().1);
}

#[test]
fn what_is_cut_or_of_another_class_is_not_kept() {
    let (mut cache, start) = (cache(), now());
    let query = query("a.example", Kind::A);
    let octets = records(&[("", A, 60, &[192, 0, 2, 1])]);
    let whole = reply(&query, 0, [1, 0, 0], &octets);
    let mut cut = whole.clone();
    cut.truncated = true;
    cache.insert(&query, &cut, start);
    let mut chaos = whole.clone();
    let at = chaos.octets.len() - 11;
    chaos.octets[at] = 3;
    cache.insert(&query, &chaos, start);
    cache.insert(&Query { class: crate::wire::Class::CH, ..query.clone() }, &whole, start);
    assert_eq!(cache.len(), 0);
    cache.insert(&query, &whole, start);
    assert_eq!(cache.len(), 1);
}

#[test]
fn nothing_is_kept_under_another_name() {
    let (mut cache, start) = (cache(), now());
    let victim = query("bank.example", Kind::A);
    let asked = query("evil.example", Kind::A);
    for list in [
        &[("", A, 60, &[192, 0, 2, 1][..]), ("bank.example", A, 60, &[192, 0, 2, 66])][..],
        &[("", CNAME, 60, b"\x04bank\x07example\0"), ("bank.example", A, 60, &[192, 0, 2, 66])],
    ] {
        cache.insert(&asked, &reply(&asked, 0, [2, 0, 0], &records(list)), start);
        assert!(told(&mut cache, &victim, start).is_none());
    }
    assert_eq!(cache.len(), 1, "the alias, under the name that was asked for");
}

#[test]
fn the_question_comes_back_in_its_own_case_with_its_own_id() {
    let (mut cache, start) = (cache(), now());
    keep(&mut cache, "www.example", 60, start);
    let query = Query { id: 77, recursion_desired: false, ..query("WwW.eXample", Kind::A) };
    let (message, _) = told(&mut cache, &query, start).unwrap();
    assert_eq!(message.metadata.id, 77);
    assert_eq!(message.queries[0].name().to_string(), "WwW.eXample.");
    assert_eq!(answers(&message), ["WwW.eXample. 60 IN A 192.0.2.1"]);
    assert!(message.metadata.recursion_available && !message.metadata.recursion_desired);
    assert!(!message.metadata.authoritative && message.edns.is_none());
}

#[test]
fn signatures_wanted_and_unchecked_are_questions_of_their_own() {
    let (mut cache, start) = (cache(), now());
    let plain = keep(&mut cache, "www.example", 60, start);
    let with_do = Some(Edns { size: 1232, dnssec_ok: true });
    for (other, kept) in [
        (Query { edns: with_do, ..plain.clone() }, false),
        (Query { checking_disabled: true, ..plain.clone() }, false),
        (Query { kind: Kind::AAAA, ..plain.clone() }, false),
        (Query { edns: Some(Edns { size: 512, dnssec_ok: false }), ..plain.clone() }, true),
        (Query { recursion_desired: false, ..plain }, true),
    ] {
        assert_eq!(told(&mut cache, &other, start).is_some(), kept, "{other:?}");
    }
}

#[test]
fn that_signatures_were_checked_is_told_only_of_trusted_servers_and_to_who_understands() {
    let start = now();
    let query = query("www.example", Kind::A);
    let mut reply = reply(&query, 0, [1, 0, 0], &records(&[("", A, 60, &[192, 0, 2, 1])]));
    reply.octets[3] |= 0x20;
    for (trusted, authentic_data, expected) in
        [(false, true, false), (true, true, true), (true, false, false)]
    {
        let mut cache = cache();
        let reply = reply.clone().vouched(trusted);
        cache.insert(&query, &reply, start);
        let asked = Query { authentic_data, ..query.clone() };
        let (message, _) = told(&mut cache, &asked, start).unwrap();
        assert_eq!(message.metadata.authentic_data, expected, "{trusted} {authentic_data}");
        let message = Message::from_vec(&reply.for_client(&asked, Transport::Udp)).unwrap();
        assert_eq!(
            message.metadata.authentic_data, expected,
            "{trusted} {authentic_data}, not kept"
        );
    }
}

#[test]
fn stale_answers_hold_30_seconds_and_say_that_they_are_stale() {
    let start = now();
    let edns = Some(Edns { size: 1232, dnssec_ok: false });
    let negative = records(&[("example", SOA, 60, &soa(60))]);
    let positive = records(&[("", A, 60, &[192, 0, 2, 1])]);
    for (code, counts, records, error) in
        [(0, [1, 0, 0], positive, 3_u16), (3, [0, 1, 0], negative, 19)]
    {
        let mut cache = cache();
        let query = Query { edns, ..query("a.example", Kind::A) };
        cache.insert(&query, &reply(&query, code, counts, &records), start);
        let end = start + seconds(60);
        let (message, stale) = told(&mut cache, &query, end).unwrap();
        assert!(stale);
        assert_eq!(message.metadata.response_code, ResponseCode::from(0, code));
        let records = message.answers.iter().chain(&message.authorities);
        assert!(records.map(|it| it.ttl).all(|it| it == 30), "{message}");
        let raw = raw(&mut cache, &query, end);
        assert!(raw.ends_with(&[0, 15, 0, 2, 0, u8::try_from(error).unwrap()]), "{raw:?}");
        assert!(told(&mut cache, &query, end + seconds(24 * 3600 - 1)).is_some());
        assert!(told(&mut cache, &query, end + seconds(24 * 3600)).is_none(), "a day is enough");
        assert_eq!(cache.len(), 0);
    }
}

fn raw(cache: &mut Cache, query: &Query, now: Instant) -> Vec<u8> {
    let asked = asked(query);
    let folded = Folded::new(asked.name);
    let (Found::Fresh { entry, .. } | Found::Stale { entry, .. }) =
        cache.look_up(&folded.key(&asked), Renewal::Claimed, now)
    else {
        panic!("nothing is kept");
    };
    let mut out = [0; 1232];
    let length = entry.write(&asked, now, &mut out).unwrap();
    out[..length].to_vec()
}

#[test]
fn a_failure_never_drives_out_an_answer_and_is_not_repeated_at_once() {
    let (mut cache, start) = (cache(), now());
    let query = keep(&mut cache, "www.example", 60, start);
    let failed = reply(&query, 2, [0; 3], &[]);
    cache.insert(&query, &failed, start + seconds(59));
    assert_eq!(told(&mut cache, &query, start + seconds(59)).unwrap().0.answers.len(), 1);
    let over = start + seconds(100);
    let asks = |cache: &mut Cache, now| {
        let asked = asked(&query);
        let folded = Folded::new(asked.name);
        match cache.look_up(&folded.key(&asked), Renewal::Claimed, now) {
            Found::Stale { refresh, .. } => refresh,
            other @ (Found::Missing | Found::Fresh { .. }) => panic!("{other:?}"),
        }
    };
    // The failure of the second before its end is long ago.
    assert_eq!(asks(&mut cache, over), Refresh::First);
    cache.fail(&query, over);
    assert_eq!(asks(&mut cache, over), Refresh::Not);
    assert_eq!(asks(&mut cache, over + seconds(4)), Refresh::Not);
    assert_eq!(asks(&mut cache, over + seconds(5)), Refresh::Behind);
    assert_eq!(asks(&mut cache, over + seconds(34)), Refresh::Behind);
    assert_eq!(asks(&mut cache, over + seconds(35)), Refresh::First);
    assert_eq!(told(&mut cache, &query, over).unwrap().0.answers.len(), 1);
}

#[test]
fn failures_hold_five_seconds_and_are_never_stale() {
    let (mut cache, start) = (cache(), now());
    let query = Query {
        edns: Some(Edns { size: 1232, dnssec_ok: false }),
        ..query("www.example", Kind::A)
    };
    cache.fail(&query, start);
    let (message, stale) = told(&mut cache, &query, start + seconds(4)).unwrap();
    assert_eq!((message.metadata.response_code, stale), (ResponseCode::ServFail, false));
    assert!(raw(&mut cache, &query, start).ends_with(&[0, 15, 0, 2, 0, 13]), "Cached Error");
    assert!(told(&mut cache, &query, start + seconds(5)).is_none());
    cache.fail(&query, start);
    keep(&mut cache, "www.example", 60, start);
    assert_eq!(told(&mut cache, &query, start).unwrap().0.answers.len(), 1);
}

#[test]
fn what_a_living_server_says_replaces_what_was_kept_even_if_it_may_not_be_kept() {
    let start = now();
    let soa = records(&[("example", SOA, 60, &soa(60))]);
    let zero = records(&[("", A, 0, &[192, 0, 2, 2])]);
    for (code, counts, records, left) in [
        (3, [0, 1, 0], &soa[..], Some(ResponseCode::NXDomain)),
        (3, [0, 0, 0], &[], None),
        (0, [0, 0, 0], &[], None),
        (0, [1, 0, 0], &zero, None),
        (5, [0, 0, 0], &[], Some(ResponseCode::NoError)),
    ] {
        let mut cache = cache();
        let query = keep(&mut cache, "www.example", 60, start);
        let later = start + seconds(100);
        cache.insert(&query, &reply(&query, code, counts, records), later);
        let found = told(&mut cache, &query, later).map(|it| it.0.metadata.response_code);
        assert_eq!(found, left, "{code} {counts:?}");
    }
}

#[test]
fn hot_names_are_to_be_asked_for_anew_once_near_their_end() {
    let (mut cache, start) = (cache(), now());
    let query = keep(&mut cache, "www.example", 100, start);
    let told = |cache: &mut Cache, renewal, after| {
        let asked = asked(&query);
        let folded = Folded::new(asked.name);
        let found = cache.look_up(&folded.key(&asked), renewal, start + seconds(after));
        matches!(found, Found::Fresh { prefetch: true, .. })
    };
    let prefetch = |cache: &mut Cache, after| told(cache, Renewal::Claimed, after);
    let at: Vec<_> =
        [0, 10, 50, 89, 90, 91, 99].into_iter().filter(|it| prefetch(&mut cache, *it)).collect();
    assert_eq!(at, [90]);
    drop(cache.take());
    keep(&mut cache, "www.example", 100, start);
    let cold: Vec<_> = [95, 96, 97].into_iter().filter(|it| prefetch(&mut cache, *it)).collect();
    assert_eq!(cold, [97], "the third who asks makes it hot");
    drop(cache.take());
    keep(&mut cache, "www.example", 100, start);
    let left: Vec<_> =
        [95, 96, 97, 98].into_iter().filter(|it| told(&mut cache, Renewal::Left, *it)).collect();
    assert_eq!(left, [97, 98], "who does not claim it leaves it to the next");
    assert!(prefetch(&mut cache, 98) && !prefetch(&mut cache, 98));
    cache.fail(&query, start + seconds(98));
    assert!(prefetch(&mut cache, 98), "asking anew has failed: somebody may try again");
    for (code, list) in [(5, &[][..]), (0, &[("b.example", A, 60, &[192, 0, 2, 1][..])])] {
        let counts = [u16::try_from(list.len()).unwrap(), 0, 0];
        cache.insert(&query, &reply(&query, code, counts, &records(list)), start + seconds(98));
        assert!(prefetch(&mut cache, 98), "nor is such a reply an answer: {code}");
    }
}

#[test]
fn what_is_too_long_loses_what_only_helps_and_then_everything() {
    let (mut cache, start) = (cache(), now());
    let query = query("a.example", Kind::A);
    let fits = [("", A, 60, &[192, 0, 2, 1][..]); 20];
    let many = [("", A, 60, &[192, 0, 2, 1][..]); 40];
    let helps = [("b.example", A, 60, &[192, 0, 2, 1][..]); 10];
    for (list, counts, expected) in [
        ([&fits[..], &helps].concat(), [20, 0, 10], (20, 0, false)),
        (many.to_vec(), [40, 0, 0], (0, 0, true)),
    ] {
        cache.insert(&query, &reply(&query, 0, counts, &records(&list)), start);
        let (message, _) = told(&mut cache, &query, start).unwrap();
        let cut = message.metadata.truncation;
        assert_eq!((message.answers.len(), message.additionals.len(), cut), expected);
        let octets = replies::octets(&query, 0, counts, &records(&list));
        let plain = crate::wire::reply::matching(&octets, &query, 7).unwrap();
        let told = Message::from_vec(&plain.for_client(&query, Transport::Udp)).unwrap();
        let cut = told.metadata.truncation;
        assert_eq!((told.answers.len(), told.additionals.len(), cut), expected);
    }
}

#[test]
fn what_the_filter_holds_back_is_kept_as_no_data() {
    let (mut cache, start) = (cache(), now());
    let query = Query {
        edns: Some(Edns { size: 1232, dnssec_ok: false }),
        ..query("evil.example", Kind::A)
    };
    let octets = records(&[("", A, 60, &[10, 0, 0, 1])]);
    let mut reply = reply(&query, 0, [1, 0, 0], &octets).vouched(true);
    reply.octets[3] |= 0x20;
    cache.insert_blocked(&query, &reply, start);
    let checks = Query { authentic_data: true, ..query.clone() };
    assert!(!told(&mut cache, &checks, start).unwrap().0.metadata.authentic_data);
    let (message, _) = told(&mut cache, &query, start).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert!(message.answers.is_empty());
    assert!(raw(&mut cache, &query, start).ends_with(&[0, 15, 0, 2, 0, 15]), "Blocked");
}

#[test]
fn a_cache_that_is_dropped_or_cleared_gives_everything_back() {
    let (budget, start) = (Arc::new(Budget::new(MIB)), now());
    let mut one = Cache::new(Arc::clone(&budget));
    let mut two = Cache::new(Arc::clone(&budget));
    for number in 0..100 {
        keep(&mut one, &format!("{number}.example"), 60, start);
        keep(&mut two, &format!("{number}.example"), 60, start);
    }
    assert_eq!(budget.held(), one.bytes() + two.bytes());
    assert_eq!((one.take().len(), one.len(), one.bytes()), (100, 0, 0));
    assert_eq!(budget.held(), two.bytes());
    drop(two);
    assert_eq!(budget.held(), 0);
    let query = keep(&mut one, "again.example", 60, start);
    assert!(told(&mut one, &query, start).is_some());
}

#[test]
fn one_takes_half_at_most_and_greedy_ones_share_alike() {
    const LIMIT: usize = MIB / 8;
    let (budget, start) = (Arc::new(Budget::new(LIMIT)), now());
    let mut caches: Vec<_> = (0..3).map(|_| Cache::new(Arc::clone(&budget))).collect();
    let flood = |cache: &mut Cache, round: u32| {
        for number in 0..2_000 {
            keep(cache, &format!("{round}.{number}.example"), 60, start);
        }
    };
    flood(&mut caches[0], 0);
    let alone = caches[0].bytes();
    assert!(alone <= LIMIT / 2 && alone > LIMIT / 3, "{alone}");
    for round in 1..4 {
        for cache in &mut caches {
            flood(cache, round);
        }
    }
    let shares: Vec<_> = caches.iter().map(Cache::bytes).collect();
    assert!(shares.iter().all(|it| *it > LIMIT / 8), "{shares:?}");
    assert_eq!(budget.held(), shares.iter().sum::<usize>());
    assert!(budget.held() <= LIMIT);
}

#[test]
fn a_flood_of_names_leaves_the_hot_ones_in() {
    let (mut cache, start) = (Cache::new(Arc::new(Budget::new(MIB / 4))), now());
    let hot: Vec<_> =
        (0..50).map(|it| keep(&mut cache, &format!("hot{it}.example"), 3600, start)).collect();
    for flood in 0..20_000_u32 {
        keep(&mut cache, &format!("{flood}.flood.example"), 60, start);
        if flood % 10 == 0 {
            let one = &hot[usize::try_from(flood / 10).unwrap() % hot.len()];
            assert!(told(&mut cache, one, start).is_some(), "after {flood}");
        }
    }
}

#[test]
fn a_budget_of_nothing_keeps_nothing() {
    let mut cache = Cache::new(Arc::new(Budget::new(0)));
    let query = keep(&mut cache, "www.example", 60, now());
    assert!(told(&mut cache, &query, now()).is_none());
    cache.fail(&query, now());
    assert_eq!((cache.len(), cache.bytes()), (0, 0));
}

/// A name, a TTL, how many addresses, seconds until the next.
fn steps() -> impl Strategy<Value = Vec<(u8, u32, u8, u64)>> {
    vec((0..40_u8, 0..400_u32, 0..30_u8, 0..50_u64), 1..120)
}

proptest! {
    #[test]
    fn what_is_put_in_comes_out_no_longer_lived_and_never_more_than_the_budget(steps in steps()) {
        let budget = Arc::new(Budget::new(8 * 1024));
        let mut cache = Cache::new(Arc::clone(&budget));
        let (mut now, mut model) = (now(), std::collections::BTreeMap::new());
        for (name, ttl, count, pause) in steps {
            let question = query(&format!("n{name}.example"), Kind::A);
            let addresses: Vec<_> = (0..count).map(|it| [192, 0, ttl.to_be_bytes()[3], it]).collect();
            let list: Vec<_> = addresses.iter().map(|it| ("", A, ttl, &it[..])).collect();
            let reply = reply(&question, 0, [count.into(), 0, 0], &records(&list));
            cache.insert(&question, &reply, now);
            model.insert(name, (now, ttl, addresses));
            prop_assert!(cache.bytes() <= 8 * 1024 && budget.held() == cache.bytes());
            now += seconds(pause);
            for (name, (since, ttl, addresses)) in model.iter().skip(usize::from(name)).take(4) {
                let edns = Some(Edns { size: 4096, dnssec_ok: false });
                let question = Query { edns, ..query(&format!("n{name}.example"), Kind::A) };
                let Some((message, stale)) = told(&mut cache, &question, now) else { continue };
                let age = u32::try_from((now - *since).as_secs()).unwrap();
                prop_assert_eq!(stale, age >= *ttl);
                let left = if stale { 30 } else { ttl - age };
                let expected: Vec<_> = addresses
                    .iter()
                    .map(|[a, b, c, d]| format!("n{name}.example. {left} IN A {a}.{b}.{c}.{d}"))
                    .collect();
                prop_assert_eq!(answers(&message), expected);
            }
        }
    }
}

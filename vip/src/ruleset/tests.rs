//! Whatever is written is read back as what it was meant to be, by a real kernel.

use std::cell::RefCell;

use kernel::netns::Netns;
use kernel::nft::Socket;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::diff::diff_balances;
use crate::plan::{Balance, Balances};
use crate::readback::{Found, read_back};

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

/// Few VIPs, so that they come and go, and few tasks, so that slots repeat.
fn balances() -> impl Strategy<Value = Arc<Balances>> {
    let slots = vec((0..6_u8).prop_map(address), 0..5);
    let balance = slots.prop_map(|slots| Arc::new(Balance { slots, ..Balance::default() }));
    btree_map((0..8_u8).prop_map(address), balance, 1..8).prop_map(Arc::new)
}

#[track_caller]
fn assert_holds(socket: &mut Socket, held: &Held, seed: Seed) {
    let Found::Ours { held: found, alive } = read_back(socket, seed).unwrap() else {
        panic!("not ours: {:?}", read_back(socket, seed).unwrap());
    };
    assert!(alive);
    assert_eq!(diff_balances(&found.balances, &held.balances), []);
    let Held { capacity, balances: _, upper, stale } = held;
    assert_eq!((&found.capacity, &found.upper, &found.stale), (capacity, upper, stale));
}

#[test]
fn any_history_of_tables_is_read_back_as_it_was_written() {
    let netns = Netns::fresh().unwrap();
    let socket = RefCell::new(Socket::open(&netns).unwrap());
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
    let history = (vec(balances(), 1..12), any::<u64>().prop_map(|it| it.to_string()));
    let outcome = TestRunner::new(config).run(&history, |(tables, sandbox)| {
        let (mut socket, seed) = (socket.borrow_mut(), Seed::of(&sandbox));
        let (batch, mut held) = whole(&tables[0], seed);
        socket.commit(&batch).unwrap();
        for table in &tables {
            let changes = diff_balances(&held.balances, table);
            let (batch, next) = amended(&held, &changes, table, seed).unwrap();
            socket.commit(&batch).unwrap();
            held = next;
            assert_holds(&mut socket, &held, seed);
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn a_table_that_is_full_is_made_anew_and_larger() {
    let table = |count: u32| {
        let vip = |it| (Ipv4Addr::from_bits(0x0a00_0000 + it), Arc::<Balance>::default());
        Arc::new((0..count).map(vip).collect::<Balances>())
    };
    let seed = Seed::of("any");
    let (_, held) = whole(&table(1), seed);
    let room = held.capacity.vips;
    let full = table(room);
    let changes = diff_balances(&held.balances, &full);
    assert!(amended(&held, &changes, &full, seed).is_some(), "all of the room is used");
    let more = table(room + 1);
    assert!(amended(&held, &diff_balances(&held.balances, &more), &more, seed).is_none());
    let (batch, held) = whole(&more, seed);
    assert!(held.capacity.vips > room);
    let netns = Netns::fresh().unwrap();
    let mut socket = Socket::open(&netns).unwrap();
    socket.commit(&batch).unwrap();
    assert_holds(&mut socket, &held, seed);
}

#[test]
fn sandboxes_begin_at_different_tasks() {
    let vip = address(2);
    let begins = |it: u32| Seed::of(&format!("sandbox-{it}")).start(vip, 4);
    let mut counts = [0; 4];
    (0..400).for_each(|it| counts[begins(it)] += 1);
    assert!(counts.iter().all(|it| (60..140).contains(it)), "{counts:?}");
}

#[test]
fn maps_are_shared_by_few_services() {
    let capacity = Capacity::for_growth_of(1_000);
    let mut shares = BTreeMap::<String, u32>::new();
    for vip in 0..1_000 {
        *shares.entry(capacity.map_of(Ipv4Addr::from_bits(0x0a00_0000 + vip))).or_default() += 1;
    }
    let most = shares.values().max().copied();
    assert!(most < Some(40), "{most:?} of 1,000 services share one of {} maps", capacity.maps);
    let names: BTreeSet<_> = capacity.map_names().collect();
    assert!(shares.keys().all(|it| names.contains(it)));
}

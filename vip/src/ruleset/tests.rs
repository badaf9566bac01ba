//! Whatever is written is read back as what it was meant to be, by a real kernel.

use std::cell::RefCell;

use kernel::netns::Netns;
use kernel::nft::Socket;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::diff::diff_balances;
use crate::readback::{Found, read_tables};

/// Of both families.
fn address(number: u8) -> IpAddr {
    if number.is_multiple_of(2) {
        [10, 0, 0, number].into()
    } else {
        [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into()
    }
}

/// Few VIPs, so that they come and go, and few tasks, so that slots repeat.
fn balances() -> impl Strategy<Value = Arc<Balances>> {
    let balance = |vip: u8| {
        let task = move |it: u8| address(2 * it + vip % 2);
        let slots = vec((0..6_u8).prop_map(task), 0..5);
        (slots, any::<bool>()).prop_map(move |(slots, affine)| {
            (address(vip), Arc::new(Balance { slots, affine, ..Balance::default() }))
        })
    };
    vec((0..10_u8).prop_flat_map(balance), 0..8).prop_map(|it| Arc::new(it.into_iter().collect()))
}

fn commit(socket: &mut Socket, held: &Held, target: &Arc<Balances>) -> Held {
    let changes = diff_balances(&held.balances, target);
    let (batch, after) = transaction(held, &BTreeSet::new(), &changes, target);
    socket.commit(&batch).unwrap();
    after
}

#[track_caller]
fn assert_holds(socket: &mut Socket, held: &Held) {
    let Found { held: found, alive, strange } = read_tables(socket).unwrap();
    assert!(alive && strange.is_empty(), "{strange:?}");
    assert_eq!(diff_balances(&found.balances, &held.balances), []);
    assert_eq!(found.tables, held.tables);
}

#[test]
fn any_history_of_tables_is_read_back_as_it_was_written() {
    let netns = Netns::fresh().unwrap();
    let socket = RefCell::new(Socket::open(&netns).unwrap());
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
    let outcome = TestRunner::new(config).run(&vec(balances(), 1..12), |tables| {
        let mut socket = socket.borrow_mut();
        let mut held = Held::default();
        for table in &tables {
            held = commit(&mut socket, &held, table);
            assert_holds(&mut socket, &held);
        }
        commit(&mut socket, &held, &Arc::default());
        Ok(())
    });
    outcome.unwrap();
}

/// As `nft list` prints it, in blocks (a set, a chain), all sorted, because sets and rules of classes
/// stand in the order in which they came; and without the sizes that a table was made with: one
/// that has grown was made for more than a new one.
fn listing(netns: &Netns) -> [Vec<Vec<String>>; 2] {
    ["ip", "ip6"].map(|family| {
        let line = ["list", "table", family, "portolan_vip"];
        #[expect(clippy::disallowed_methods, reason = "compared is what another program sees")]
        let list = || std::process::Command::new("nft").args(line).output();
        let output = netns.run(list).unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let text = text.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches("}\n"));
        let mut blocks: Vec<_> = text.split("\n\n").map(block).collect();
        blocks.sort();
        blocks
    })
}

fn block(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|it| !it.trim_start().starts_with("size "));
    // Neither is the time that remains what this is about.
    let ends = [" expires ", " comment \"portolan 2: room for "];
    let cut = |it: &str| {
        let end = ends.iter().filter_map(|end| it.find(end)).min();
        it[..end.unwrap_or(it.len())].to_owned()
    };
    let mut lines: Vec<_> = lines.map(cut).collect();
    lines.sort();
    lines
}

/// Whatever two plans: changed from one to the other a table lists as one that was loaded anew.
/// Only the sizes differ that sets were declared with. Before, the classes are swept away that
/// nobody is in any more, as every upkeep does.
#[test]
fn a_table_that_was_changed_lists_as_one_that_was_loaded_anew() {
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() };
    let outcome = TestRunner::new(config).run(&(balances(), balances()), |(old, new)| {
        let (changed, fresh) = (Netns::fresh().unwrap(), Netns::fresh().unwrap());
        let [mut socket, mut other] = [&changed, &fresh].map(|it| Socket::open(it).unwrap());
        let held = commit(&mut socket, &Held::default(), &old);
        let mut held = commit(&mut socket, &held, &new);
        let mut batch = Batch::new();
        sweep(&mut batch, &mut held);
        socket.commit(&batch).unwrap();
        assert_holds(&mut socket, &held);
        commit(&mut other, &Held::default(), &new);
        let [v4, v6] = listing(&changed);
        prop_assert_eq!(
            (v4.len() > 1, v6.len() > 1),
            (new.keys().any(IpAddr::is_ipv4), new.keys().any(IpAddr::is_ipv6))
        );
        prop_assert_eq!([v4, v6], listing(&fresh));
        Ok(())
    });
    outcome.unwrap();
}

/// `count` services from 10.0.0.0 on, of two tasks each.
fn services(count: u32) -> Arc<Balances> {
    let slots = vec![address(100), address(102)];
    let balance = Arc::new(Balance { slots, ..Balance::default() });
    let vip = |it: u32| IpAddr::from((0x0a00_0000_u32 + it).to_be_bytes());
    Arc::new((0..count).map(|it| (vip(it), Arc::clone(&balance))).collect())
}

#[test]
fn a_table_that_is_full_is_made_anew_and_larger() {
    let netns = Netns::fresh().unwrap();
    let mut socket = Socket::open(&netns).unwrap();
    let held = commit(&mut socket, &Held::default(), &services(1));
    let room = |it: &Held| it.tables[&IpFamily::V4].capacity;
    let first = room(&held);
    let full = commit(&mut socket, &held, &services(first.slots / 2));
    assert_eq!(room(&full), first, "all of the room is used");
    assert_holds(&mut socket, &full);
    let more = commit(&mut socket, &full, &services(first.slots / 2 + 1));
    assert!(room(&more).slots > first.slots && room(&more).vips >= first.vips);
    assert_holds(&mut socket, &more);
}

#[test]
fn what_a_change_writes_does_not_depend_on_how_many_services_there_are() {
    let messages = [10, 1_000].map(|count| {
        let old = services(count);
        let held = transaction(
            &Held::default(),
            &BTreeSet::new(),
            &diff_balances(&Balances::new(), &old),
            &old,
        )
        .1;
        let mut new = (*old).clone();
        let one = Balance { slots: vec![address(100)], ..Balance::default() };
        new.insert([10, 0, 0, 3].into(), Arc::new(one));
        let new = Arc::new(new);
        transaction(&held, &BTreeSet::new(), &diff_balances(&old, &new), &new).0.len()
    });
    // The class of one slot is new: a set and two rules. A slot goes, and the VIP changes its class.
    assert_eq!(messages, [6, 6]);
}

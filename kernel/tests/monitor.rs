//! Watching tables in namespaces of the tests' own: run as root, or inside `unshare -Urnm`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{Batch, Event, Family, Monitor, Socket, Table};
use support::run;

const OURS: Table<'_> = Table { family: Family::Ip, name: "ours" };
const OTHER: Table<'_> = Table { family: Family::Ip, name: "other" };

/// Far longer than the kernel needs.
const PATIENCE: Duration = Duration::from_secs(10);

struct Watched {
    netns: Netns,
    socket: Socket,
    own: u32,
}

/// A namespace with a table of ours, which nobody watches yet.
fn watched() -> Watched {
    let netns = Netns::fresh().expect("root, or a user namespace");
    let mut socket = Socket::open(&netns).unwrap();
    let mut batch = Batch::new();
    batch.add_table(OURS, false);
    socket.commit(&batch).unwrap();
    let own = socket.port().unwrap();
    Watched { netns, socket, own }
}

impl Watched {
    async fn next(&self, monitor: &mut Monitor) -> Option<Event> {
        tokio::time::timeout(PATIENCE, monitor.changed("ours", self.own)).await.expect("an event")
    }
}

fn add_chain(socket: &mut Socket, table: Table<'_>, name: &str) {
    let mut batch = Batch::new();
    batch.add_chain(table, name, None);
    socket.commit(&batch).unwrap();
}

#[tokio::test]
async fn what_others_do_to_the_table_is_told_and_what_we_do_is_not() {
    let mut it = watched();
    let mut monitor = Monitor::open(&it.netns, None).unwrap();
    add_chain(&mut it.socket, OURS, "mine");
    run(&it.netns, "nft add table ip other");
    assert!(!monitor.has_changed("ours", it.own), "our own, and another table");
    for change in ["nft add chain ip ours theirs", "nft delete table ip ours"] {
        run(&it.netns, change);
        assert_eq!(it.next(&mut monitor).await, Some(Event::Changed), "{change}");
    }
    assert!(!monitor.has_changed("ours", it.own), "nothing more");
}

#[tokio::test]
async fn a_flushed_ruleset_is_told_though_a_muted_table_is_in_it() {
    let it = watched();
    run(&it.netns, "nft add table ip other");
    let mut monitor = Monitor::open(&it.netns, Some("other")).unwrap();
    run(&it.netns, "nft flush ruleset");
    assert_eq!(it.next(&mut monitor).await, Some(Event::Changed));
}

#[tokio::test]
async fn a_muted_table_wakes_nobody() {
    let mut it = watched();
    let mut batch = Batch::new();
    batch.add_table(OTHER, false);
    it.socket.commit(&batch).unwrap();
    let mut monitor = Monitor::open(&it.netns, Some("other")).unwrap();
    for name in ["a", "b", "c"] {
        add_chain(&mut it.socket, OTHER, name);
    }
    // Whoever asks for that very table would hear of it, were it not muted.
    assert!(!monitor.has_changed("other", 0));
    run(&it.netns, "nft add table ip othe");
    assert!(monitor.has_changed("othe", 0), "names that begin alike are told");
    run(&it.netns, "nft add table ip othermore");
    assert!(monitor.has_changed("othermore", 0), "and names that go on");
}

#[tokio::test]
async fn a_queue_that_overflowed_is_an_event() {
    let mut it = watched();
    let mut monitor = Monitor::open(&it.netns, None).unwrap();
    let mut batch = Batch::new();
    batch.add_table(OTHER, false);
    for number in 0..50_000 {
        batch.add_chain(OTHER, &format!("chain{number}"), None);
    }
    it.socket.commit(&batch).unwrap();
    assert_eq!(it.next(&mut monitor).await, Some(Event::Lost));
}

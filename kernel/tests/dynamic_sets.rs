//! Maps that rules themselves fill, in the real kernel: run as root or inside `unshare -Urnm`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{
    Batch, ChainKind, CtKey, Element, ElementValue, Expr, Family, Hook, HookPoint, KeyType,
    PayloadBase, SetSpec, SetValue, Socket, Table,
};
use support::run;

const T: Table<'_> = Table { family: Family::Ip, name: "t" };
const OUTPUT: Hook = Hook { kind: ChainKind::Filter, point: HookPoint::Output, priority: 0 };
const CLIENT: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A map of where packets came from to where they went, with room for `size`.
fn world(size: u32, value: u8) -> (Netns, Socket) {
    let netns = Netns::fresh().expect("root, or a user namespace");
    run(&netns, "ip link set lo up");
    let mut socket = Socket::open(&netns).expect("nftables");
    let mut batch = Batch::new();
    batch.add_table(T, false);
    let (key, to) = ([KeyType::Ipv4Addr; 2], SetValue::Data(KeyType::Ipv4Addr));
    let spec = SetSpec { name: "seen", key: &key, value: to, timeout: true, size: Some(size) };
    batch.add_dynamic_set(T, &spec);
    batch.add_chain(T, "output", Some(OUTPUT));
    let rule = [
        Expr::Ct { key: CtKey::OriginalSource4, to: 0 },
        Expr::Ct { key: CtKey::OriginalDestination4, to: 1 },
        Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: 2 },
        Expr::DynsetUpdate {
            set: "seen".to_owned(),
            key: 0,
            value: Some(value),
            timeout: Some(Duration::from_secs(60)),
        },
    ];
    batch.add_rule(T, "output", &rule, &[]);
    socket.commit(&batch).unwrap();
    (netns, socket)
}

fn send(netns: &Netns, to: [u8; 4]) {
    let from = std::net::SocketAddr::from((CLIENT, 0));
    let socket = kernel::socket::udp_bound(netns, from).unwrap();
    // Nobody listens; the packet is seen all the same.
    socket.send_to(b"?", (Ipv4Addr::from(to), 9)).unwrap();
}

fn element(to: [u8; 4], value: [u8; 4]) -> Element {
    let timeout = Some(Duration::from_secs(60));
    let value = ElementValue::Data(value.to_vec());
    Element { key: [CLIENT.octets(), to].concat(), value, timeout }
}

#[test]
fn a_rule_learns_where_flows_go_and_lists_as_an_update() {
    let (netns, mut socket) = world(64, 2);
    let line = "update @seen { ct original ip saddr . ct original ip daddr timeout 1m : ip daddr }";
    let listed = run(&netns, "nft list ruleset");
    assert!(listed.contains(line), "{listed}");
    send(&netns, [127, 0, 0, 2]);
    let found = socket.elements(T, "seen").unwrap();
    assert!(found.contains(&element([127, 0, 0, 2], [127, 0, 0, 2])), "{found:?}");
}

#[test]
fn what_is_learned_stays_until_it_is_deleted_and_a_full_map_learns_no_more() {
    let (netns, mut socket) = world(1, 0);
    // The value here is the client's own address: what is kept of the first tells it.
    send(&netns, [127, 0, 0, 2]);
    let first = [element([127, 0, 0, 2], CLIENT.octets())];
    assert_eq!(socket.elements(T, "seen").unwrap(), first);
    send(&netns, [127, 0, 0, 3]);
    assert_eq!(socket.elements(T, "seen").unwrap(), first);
    let mut batch = Batch::new();
    batch.delete_elements(T, "seen", &[first[0].key.clone()]);
    socket.commit(&batch).unwrap();
    send(&netns, [127, 0, 0, 3]);
    assert_eq!(socket.elements(T, "seen").unwrap(), [element([127, 0, 0, 3], CLIENT.octets())]);
}

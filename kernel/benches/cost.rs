//! What the kernel's door costs: namespaces entered, sockets made, transactions committed.
//!
//! Prints the median and the best of many rounds, wall clock; run it as root, or inside
//! `unshare -Urnm`. Machines are shared: compare lines of one run with each other.

#![expect(clippy::unwrap_used, reason = "a benchmark stops where something fails")]
#![expect(clippy::print_stdout, reason = "its output is a table")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::time::{Duration, Instant};

use kernel::door::Door;
use kernel::netns::Netns;
use kernel::nft::{
    Batch, Element, ElementValue, Family, KeyType, SetSpec, SetValue, Socket, Table, concat,
};
use kernel::{conntrack, link, route, socket};

const T: Table<'_> = Table { family: Family::Ip, name: "cost" };

fn main() {
    let netns = Netns::fresh().unwrap();
    link::set_up(&netns, "lo").unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    measure("Netns::run", 2000, || netns.run(|| ()).unwrap());
    measure("Netns::cookie", 2000, || netns.cookie().unwrap());
    measure("socket::udp_bound", 2000, || socket::udp_bound(&netns, loopback).unwrap());
    measure("nft::Socket::open", 2000, || Socket::open(&netns).unwrap());
    measure("route::routes", 500, || route::routes(&netns).unwrap());
    measure("conntrack::delete_matching, nothing", 100, || {
        conntrack::delete_matching(&netns, |_| true).unwrap()
    });
    door(&netns);
    let mut nft = Socket::open(&netns).unwrap();
    owner_table(&netns);
    for size in [1, 5_000, 50_000] {
        elements(&mut nft, size);
    }
}

fn door(netns: &Netns) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let door = Door::open().unwrap();
    let path = netns.path().to_owned();
    let peer = "127.0.0.1:53".parse().unwrap();
    measure("Door::tcp_socket, from async", 2000, || {
        runtime.block_on(door.tcp_socket(Some(path.clone()), None, peer)).unwrap()
    });
    measure("Door::udp_connected, from async", 2000, || {
        runtime.block_on(door.udp_connected(Some(path.clone()), None, peer)).unwrap()
    });
}

fn owner_table(netns: &Netns) {
    measure("an owner table made", 200, || {
        let mut socket = Socket::open(netns).unwrap();
        let mut batch = Batch::new();
        batch.replace_table(T, true);
        socket.commit(&batch).unwrap();
        socket
    });
}

fn elements(nft: &mut Socket, size: u32) {
    let all: Vec<_> = (0..size).map(|number| element(number, 1)).collect();
    let load = || {
        let mut batch = Batch::new();
        batch.replace_table(T, false);
        batch.add_set(
            T,
            &SetSpec {
                name: "slots",
                key: &[KeyType::Ipv4Addr, KeyType::Mark],
                value: SetValue::Data(KeyType::Ipv4Addr),
                timeout: false,
                size: Some(size * 2),
            },
        );
        batch.add_elements(T, "slots", &all);
        batch
    };
    measure(&format!("encode a first load of {size}"), 20, load);
    let batch = load();
    measure(&format!("commit a first load of {size}"), 20, || nft.commit(&batch).unwrap());
    let mut number = 1;
    measure(&format!("swap 1 element of {size}"), 2000, || {
        number += 1;
        let mut batch = Batch::new();
        batch.delete_elements(T, "slots", &[element(0, 0).key]);
        batch.add_elements(T, "slots", &[element(0, number)]);
        nft.commit(&batch).unwrap();
    });
    let mut next = size;
    measure(&format!("add 1 element to {size}"), 500, || {
        let mut batch = Batch::new();
        batch.add_elements(T, "slots", &[element(next, 1)]);
        nft.commit(&batch).unwrap();
        let mut undo = Batch::new();
        undo.delete_elements(T, "slots", &[element(next, 1).key]);
        next += 1;
        nft.commit(&undo).unwrap();
    });
    measure(&format!("read back {size}"), 20, || nft.elements(T, "slots").unwrap());
    let mut batch = Batch::new();
    batch.delete_table(T);
    nft.commit(&batch).unwrap();
}

fn element(number: u32, task: u32) -> Element {
    Element {
        key: concat(&[&(0xf0f0_0000 + number / 5).to_be_bytes(), &(number % 5).to_ne_bytes()]),
        value: ElementValue::Data((0x0a00_0000 + task).to_be_bytes().to_vec()),
        timeout: None,
    }
}

fn measure<T>(what: &str, rounds: usize, mut deed: impl FnMut() -> T) {
    let mut times: Vec<Duration> = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        let kept = deed();
        times.push(start.elapsed());
        drop(kept);
    }
    times.sort_unstable();
    let median = times.get(rounds / 2).copied().unwrap_or_default();
    let best = times.first().copied().unwrap_or_default();
    println!("{what:44} median {median:>10.1?}  best {best:>10.1?}");
}

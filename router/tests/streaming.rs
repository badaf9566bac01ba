//! Bodies of 50 MB pass without being kept, however slowly the other side takes them. Alone in its
//! process, because it is the process's memory that is looked at.
#![cfg(test)]

#[path = "http/client.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod client;
#[path = "http/task.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod task;
#[path = "http/world.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod world;

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use client::Client;
use task::{Task, Then};
use world::Bench;

const SIZE: usize = 50_000_000;
const PIECE: usize = 50_000;

/// The most memory that this process ever had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// Takes `SIZE` bytes, after a pause in which they could pile up.
fn take(from: &mut impl Read) -> usize {
    thread::sleep(Duration::from_millis(500));
    let (mut piece, mut taken) = (vec![0; PIECE], 0);
    while taken < SIZE {
        match from.read(&mut piece).unwrap() {
            0 => break,
            count => taken += count,
        }
    }
    taken
}

fn give(to: &mut impl Write) {
    let piece = vec![b'x'; PIECE];
    for _ in 0..SIZE / PIECE {
        to.write_all(&piece).unwrap();
    }
}

#[test]
fn fifty_megabytes_pass_each_way_in_flat_memory() {
    let task = Task::start(|asked| {
        if asked.head.starts_with("GET") {
            asked.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            give(asked.stream.get_mut());
            return Then::Keep;
        }
        let taken = take(&mut asked.stream).to_string();
        asked.reply(&taken)
    });
    let bench = Bench::with_web(&[task.address], |_| {});
    let before = peak();

    let mut client = Client::connect(bench.address);
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
    assert!(client.head().unwrap().contains(&format!("content-length: {SIZE}\r\n")));
    assert_eq!(take(&mut client.stream), SIZE);

    client.send(&format!("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {SIZE}\r\n\r\n"));
    give(client.stream.get_mut());
    assert_eq!(client.reply().unwrap().text(), SIZE.to_string());

    let grown = peak() - before;
    assert!(grown < 4_000_000, "{grown} bytes for 100 MB passed");
}

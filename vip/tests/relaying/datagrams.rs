//! Clients of datagrams.
//!
//! Always true here: all of it on loopback addresses of this machine.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::num::NonZeroUsize;
use std::time::Duration;

use registry::model::Protocol;
use vip::relay::{Limits, Target};

use super::{PATIENCE, Rig, Task, ask, both, datagrams, nobody, target, wait_until};

#[tokio::test]
async fn a_client_of_datagrams_keeps_its_task_and_gets_another_at_once_when_that_stops_serving() {
    let tasks = [11, 12].map(Task::new);
    let [first, second] = tasks.each_ref().map(|it| it.address);
    let mut rig = Rig::new(Protocol::Udp);
    rig.make(target(&[first, second], &[])).await;
    let sockets: Vec<_> = (0..16).map(|_| datagrams()).collect();
    let ask_all = |rig: &Rig| -> Vec<String> {
        sockets.iter().map(|it| ask(it, rig.entrance.address).unwrap()).collect()
    };
    let before = ask_all(&rig);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 2, "{before:?}");
    assert_eq!(ask_all(&rig), before);
    rig.make(target(&[second], &[first])).await;
    let after = || ask_all(&rig);
    wait_until(after, |it| it.iter().all(|it| it == "task.12")).await;
    let count = rig.count();
    assert!(count.open == 16 && count.flows > 16 && count.lost == 0, "{count:?}");
}

#[tokio::test]
async fn a_task_that_cannot_be_reached_loses_its_client_of_datagrams() {
    let (_held, dead) = nobody(socket2::Type::DGRAM);
    let task = Task::new(13);
    let mut rig = Rig::new(Protocol::Udp);
    rig.make(target(&[dead, task.address], &[])).await;
    let socket = datagrams();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // One question may be lost to the dead task; the next one goes to the other.
    let answered = || ask(&socket, rig.entrance.address).ok();
    wait_until(answered, |it| it.as_deref() == Some("task.13")).await;
}

#[tokio::test]
async fn a_client_of_datagrams_leaves_a_task_that_listens_no_more() {
    for affinity in [false, true] {
        let (_port, dying, address) = both(17);
        let task = Task::new(18);
        let mut rig = Rig::new(Protocol::Udp);
        rig.make(Target { affinity, ..target(&[address], &[]) }).await;
        let socket = datagrams();
        socket.send_to(b"?", rig.entrance.address).unwrap();
        let (_, from) = dying.recv_from(&mut [0; 64]).unwrap();
        dying.send_to(b"last words", from).unwrap();
        socket.recv(&mut [0; 64]).unwrap();
        rig.make(Target { affinity, ..target(&[address, task.address], &[]) }).await;
        drop(dying);
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // One question is lost to the dead task: that is how we learn of it.
        let answered = || ask(&socket, rig.entrance.address).ok();
        wait_until(answered, |it| it.as_deref() == Some("task.18")).await;
    }
}

#[tokio::test]
async fn the_longest_unused_client_of_datagrams_gives_way() {
    let task = Task::new(14);
    let limits = Limits { flows: 4, threads: NonZeroUsize::MIN, ..Limits::default() };
    let mut rig = Rig::with(Protocol::Udp, limits);
    rig.make(target(&[task.address], &[])).await;
    let sockets: Vec<_> = (0..10).map(|_| datagrams()).collect();
    for socket in sockets.iter().chain(&sockets) {
        assert_eq!(ask(socket, rig.entrance.address).unwrap(), "task.14");
    }
    wait_until(|| rig.count(), |it| it.open == 4 && it.flows == 20).await;
}

#[tokio::test]
async fn a_client_of_many_datagrams_takes_nothing_from_another_one() {
    let task = Task::new(15);
    let limits =
        Limits { flows: 16, flows_per_client: 2, threads: NonZeroUsize::MIN, ..Limits::default() };
    let mut rig = Rig::with(Protocol::Udp, limits);
    rig.make(target(&[task.address], &[])).await;
    let other = UdpSocket::bind("127.0.0.9:0").unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(ask(&other, rig.entrance.address).unwrap(), "task.15");
    let sockets: Vec<_> = (0..20).map(|_| datagrams()).collect();
    for socket in &sockets {
        assert_eq!(ask(socket, rig.entrance.address).unwrap(), "task.15");
    }
    assert_eq!(ask(&other, rig.entrance.address).unwrap(), "task.15");
    wait_until(|| rig.count(), |it| it.open == 3 && it.flows == 21).await;
}

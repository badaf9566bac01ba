//! The userspace plane over real sockets: what clients and tasks see of it, and what changes do.
//!
//! All of it on loopback addresses of this machine: places are tried in the worlds.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod datagrams;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use registry::model::Protocol;
use vip::relay::plan::Way;
use vip::relay::{Entrance, Limits, Place, Plan, Relay, Target};

/// How long somebody waits: far longer than anything here takes, also on a machine that stalls.
const PATIENCE: Duration = Duration::from_secs(10);

/// A task that says its name as often as it is sent a byte, and hangs up when its client does.
struct Task {
    address: SocketAddr,
}

impl Task {
    /// On 127.0.0.`last`, the same port in both protocols.
    fn new(last: u8) -> Self {
        let (listener, datagrams, address) = both(last);
        let name = format!("task.{last}");
        let datagram_name = name.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let name = name.clone();
                thread::spawn(move || answer(stream, &name));
            }
        });
        thread::spawn(move || {
            while let Ok((_, from)) = datagrams.recv_from(&mut [0; 64]) {
                datagrams.send_to(datagram_name.as_bytes(), from).unwrap();
            }
        });
        Self { address }
    }
}

/// A listener and a socket for datagrams on one port of 127.0.0.`last`.
fn both(last: u8) -> (TcpListener, UdpSocket, SocketAddr) {
    loop {
        let listener = TcpListener::bind((IpAddr::from([127, 0, 0, last]), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        if let Ok(datagrams) = UdpSocket::bind(address) {
            return (listener, datagrams, address);
        }
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    while let Ok(1) = stream.read(&mut [0]) {
        if stream.write_all(name.as_bytes()).is_err() {
            return;
        }
    }
}

/// Where everything is relayed from: one port that was free a moment ago.
fn entrance(protocol: Protocol) -> Entrance {
    let address = match protocol {
        Protocol::Tcp => TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
        Protocol::Udp => UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
    };
    Entrance { place: Place::Host, address, protocol, way: Way::Bound }
}

fn target(slots: &[SocketAddr], idle: &[SocketAddr]) -> Target {
    Target {
        service: "web".to_owned(),
        network: "front".to_owned(),
        slots: slots.to_vec(),
        alive: slots.iter().chain(idle).copied().collect::<BTreeSet<_>>(),
        resting: idle.iter().map(|it| (*it, Some(Duration::from_secs(600)))).collect(),
        dial: Place::Host,
        proxy_protocol: false,
        affinity: false,
        drain: Duration::from_secs(600),
    }
}

/// A relay that a test drives by hand.
struct Rig {
    relay: Relay,
    entrance: Entrance,
}

impl Rig {
    fn new(protocol: Protocol) -> Self {
        Self::with(protocol, Limits::default())
    }

    fn with(protocol: Protocol, limits: Limits) -> Self {
        Self { relay: Relay::new(limits), entrance: entrance(protocol) }
    }

    async fn make(&mut self, target: Target) {
        let plan: Plan = [(self.entrance.clone(), Arc::new(target))].into();
        self.apply(&plan).await;
    }

    async fn apply(&mut self, plan: &Plan) {
        let applied = self.relay.apply(plan).await;
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.entrance.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn count(&self) -> vip::relay::meter::Count {
        let all = self.relay.meter().read();
        all.get(&("web".to_owned(), "front".to_owned())).copied().unwrap_or_default()
    }
}

/// Who answers at the other end.
fn who(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"?")?;
    let mut name = [0; 64];
    match stream.read(&mut name)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        length => Ok(String::from_utf8_lossy(&name[..length]).into_owned()),
    }
}

fn ask(socket: &UdpSocket, to: SocketAddr) -> io::Result<String> {
    socket.send_to(b"?", to)?;
    let mut name = [0; 64];
    let (length, from) = socket.recv_from(&mut name)?;
    assert_eq!(from, to, "an answer comes from where the question went");
    Ok(String::from_utf8_lossy(&name[..length]).into_owned())
}

fn datagrams() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// An address at which nobody is, and which nobody else gets meanwhile.
fn nobody(kind: socket2::Type) -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    if kind == socket2::Type::DGRAM {
        // It takes datagrams from there alone: others are told that the port is unreachable.
        let discard: SocketAddr = "127.0.0.1:9".parse().unwrap();
        socket.connect(&discard.into()).unwrap();
    }
    (socket, address)
}

/// Waits until `is` is so; says what was seen last if it never is.
async fn wait_until<T: std::fmt::Debug>(mut see: impl FnMut() -> T, is: impl Fn(&T) -> bool) {
    let begun = tokio::time::Instant::now();
    loop {
        let seen = see();
        if is(&seen) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn connections_are_spread_over_the_tasks_and_counted() {
    let tasks = [2, 3].map(Task::new);
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&tasks.each_ref().map(|it| it.address), &[])).await;
    let mut shares = BTreeMap::new();
    for _ in 0..400 {
        *shares.entry(who(&mut rig.connect()).unwrap()).or_insert(0) += 1;
    }
    // Five sigma of a binomial distribution with p = 1/2.
    assert!(shares.values().all(|it| (150..=250).contains(it)), "{shares:?}");
    wait_until(|| rig.count(), |it| it.open == 0).await;
    let count = rig.count();
    assert_eq!((count.connections, count.to_tasks, count.to_clients), (400, 400, 400 * 6));
}

#[tokio::test]
async fn much_goes_both_ways_at_once_and_a_half_close_is_passed_on() {
    const LENGTH: usize = 8 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&[listener.local_addr().unwrap()], &[])).await;
    // Echoes until its client has finished sending, then says so and finishes as well.
    let task = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut room, mut seen) = (vec![0; 1 << 16], 0);
        loop {
            let length = stream.read(&mut room).unwrap();
            if length == 0 {
                break;
            }
            stream.write_all(&room[..length]).unwrap();
            seen += length;
        }
        stream.write_all(b"end").unwrap();
        seen
    });
    let stream = rig.connect();
    let mut sender = stream.try_clone().unwrap();
    let data: Vec<u8> = (0..LENGTH).map(|it| u8::try_from(it % 251).unwrap()).collect();
    let sent = data.clone();
    let sending = thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    (&stream).read_to_end(&mut got).unwrap();
    sending.join().unwrap();
    assert_eq!(task.join().unwrap(), LENGTH);
    assert!(got.len() == LENGTH + 3 && got.starts_with(&data) && got.ends_with(b"end"));
}

#[tokio::test]
async fn who_does_not_read_stops_the_sender() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&[listener.local_addr().unwrap()], &[])).await;
    let mut stream = rig.connect();
    let (mut task, _) = listener.accept().unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    // Four socket buffers and a pipe; 256 MiB are more than all of them.
    while sent < 256 << 20 {
        match stream.write(&block) {
            Ok(count) => sent += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert!(sent < 256 << 20);
    stream.shutdown(Shutdown::Write).unwrap();
    let got = io::copy(&mut task, &mut io::sink()).unwrap();
    assert_eq!(got, u64::try_from(sent).unwrap(), "nothing was lost meanwhile");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&[listener.local_addr().unwrap()], &[])).await;
    let reset = |stream: TcpStream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    };

    let mut client = rig.connect();
    let (task, _) = listener.accept().unwrap();
    reset(task);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let client = rig.connect();
    let (mut task, _) = listener.accept().unwrap();
    task.set_read_timeout(Some(PATIENCE)).unwrap();
    reset(client);
    assert_eq!(task.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_a_task_said_before_its_reset_arrives() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&[listener.local_addr().unwrap()], &[])).await;
    let mut client = rig.connect();
    client.write_all(b"a request that is not read").unwrap();
    let (mut task, _) = listener.accept().unwrap();
    task.set_read_timeout(Some(PATIENCE)).unwrap();
    task.read_exact(&mut [0]).unwrap();
    task.write_all(b"no").unwrap();
    drop(task); // what was not read makes the kernel reset the connection
    let mut got = [0; 2];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"no");
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_task_that_refuses_is_passed_over_and_without_another_the_client_is_reset() {
    let (_held, dead) = nobody(socket2::Type::STREAM);
    let task = Task::new(4);
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&[dead, task.address], &[])).await;
    for _ in 0..50 {
        assert_eq!(who(&mut rig.connect()).unwrap(), "task.4");
    }
    rig.make(target(&[dead], &[])).await;
    let told = rig.connect().read(&mut [0]).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ConnectionReset);
    wait_until(|| rig.count().unreached, |it| *it == 1).await;
}

#[tokio::test]
async fn without_a_serving_task_clients_are_refused_by_the_kernel() {
    let task = Task::new(5);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut rig = Rig::new(protocol);
        let refused = |rig: &Rig| match protocol {
            Protocol::Tcp => TcpStream::connect(rig.entrance.address).unwrap_err().kind(),
            Protocol::Udp => {
                let socket = datagrams();
                socket.connect(rig.entrance.address).unwrap();
                socket.send(b"?").unwrap();
                socket.recv(&mut [0]).unwrap_err().kind()
            }
        };
        let answered = |rig: &Rig| match protocol {
            Protocol::Tcp => who(&mut rig.connect()).unwrap(),
            Protocol::Udp => ask(&datagrams(), rig.entrance.address).unwrap(),
        };
        rig.make(target(&[], &[])).await;
        assert_eq!(refused(&rig), ErrorKind::ConnectionRefused);
        rig.make(target(&[task.address], &[])).await;
        assert_eq!(answered(&rig), "task.5");
        rig.make(target(&[], &[task.address])).await;
        wait_until(|| refused(&rig), |it| *it == ErrorKind::ConnectionRefused).await;
    }
}

#[tokio::test]
async fn sessions_stay_while_their_task_drains_and_are_reset_when_it_is_gone() {
    let tasks = [6, 7].map(Task::new);
    let [first, second] = tasks.each_ref().map(|it| it.address);
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&[first], &[])).await;
    let mut old = rig.connect();
    assert_eq!(who(&mut old).unwrap(), "task.6");
    rig.make(target(&[second], &[first])).await;
    assert_eq!(who(&mut old).unwrap(), "task.6", "it goes on");
    assert_eq!(who(&mut rig.connect()).unwrap(), "task.7", "new ones go elsewhere");
    let reading = thread::spawn(move || old.read(&mut [0]).unwrap_err().kind());
    rig.make(target(&[second], &[])).await;
    assert_eq!(reading.join().unwrap(), ErrorKind::ConnectionReset);
    assert_eq!(rig.count().cut, 1);
}

#[tokio::test]
async fn sessions_are_reset_when_the_drain_time_is_over() {
    let tasks = [8, 9].map(Task::new);
    let [first, second] = tasks.each_ref().map(|it| it.address);
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&[first], &[])).await;
    let (mut old, mut other) = (rig.connect(), rig.connect());
    assert_eq!(who(&mut old).unwrap(), "task.8");
    assert_eq!(who(&mut other).unwrap(), "task.8");
    let drain = Duration::from_millis(100);
    let resting = [(first, Some(drain))].into();
    rig.make(Target { resting, drain, ..target(&[second], &[first]) }).await;
    assert_eq!(old.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    // The same where the entrance is gone.
    let mut session = rig.connect();
    assert_eq!(who(&mut session).unwrap(), "task.9");
    rig.apply(&Plan::new()).await;
    let refused = || TcpStream::connect(rig.entrance.address).map(drop);
    wait_until(refused, Result::is_err).await;
    assert_eq!(session.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn sessions_with_tasks_that_only_get_no_new_ones_go_on() {
    let tasks = [19, 20, 21].map(Task::new);
    let [far, held, near] = tasks.each_ref().map(|it| it.address);
    let mut rigs = [Protocol::Tcp, Protocol::Udp].map(Rig::new);
    // One that serves is not preferred; of another a health check says that it is not ready.
    let elsewhere = Target { resting: [(held, None)].into(), ..target(&[near], &[far, held]) };
    let elsewhere = Target { drain: Duration::ZERO, ..elsewhere };
    for (task, name) in [(far, "task.19"), (held, "task.20")] {
        rigs[0].make(target(&[task], &[])).await;
        let mut session = rigs[0].connect();
        assert_eq!(who(&mut session).unwrap(), name);
        rigs[0].make(elsewhere.clone()).await;
        // Two looks at what is over.
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        assert_eq!(who(&mut session).unwrap(), name);

        rigs[1].make(target(&[task], &[])).await;
        let socket = datagrams();
        assert_eq!(ask(&socket, rigs[1].entrance.address).unwrap(), name);
        rigs[1].make(elsewhere.clone()).await;
        let after = if task == far { name } else { "task.21" };
        assert_eq!(ask(&socket, rigs[1].entrance.address).unwrap(), after);
    }
}

#[tokio::test]
async fn a_client_has_no_more_sessions_than_its_share() {
    let task = Task::new(10);
    let limits = Limits { connections_per_client: 2, ..Limits::default() };
    let mut rig = Rig::with(Protocol::Tcp, limits);
    rig.make(target(&[task.address], &[])).await;
    let mut held: Vec<_> = (0..2).map(|_| rig.connect()).collect();
    assert!(held.iter_mut().all(|it| who(it).is_ok()));
    assert_eq!(who(&mut rig.connect()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(rig.count().refused, 1);
    drop(held);
    wait_until(|| rig.count().open, |it| *it == 0).await;
    assert_eq!(who(&mut rig.connect()).unwrap(), "task.10");
}

#[tokio::test]
async fn a_task_that_wants_to_know_is_told_who_its_client_is_before_anything_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(Protocol::Tcp);
    let target = target(&[listener.local_addr().unwrap()], &[]);
    rig.make(Target { proxy_protocol: true, ..target }).await;
    let mut client = rig.connect();
    client.write_all(b"hello").unwrap();
    let (mut task, _) = listener.accept().unwrap();
    task.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = [0; 28 + 5];
    task.read_exact(&mut got).unwrap();
    let (header, rest) = got.split_at(28);
    let (here, there) = (client.local_addr().unwrap(), rig.entrance.address);
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    expected.extend([127, 0, 0, 1, 127, 0, 0, 1]);
    expected.extend(here.port().to_be_bytes());
    expected.extend(there.port().to_be_bytes());
    assert_eq!((header, rest), (&expected[..], &b"hello"[..]));
}

#[tokio::test]
async fn an_address_that_is_taken_is_a_failure_of_its_own_and_tried_again() {
    let task = Task::new(15);
    let mut rig = Rig::new(Protocol::Tcp);
    let other = entrance(Protocol::Tcp);
    let holder = TcpListener::bind(rig.entrance.address).unwrap();
    let one = Arc::new(target(&[task.address], &[]));
    let plan: Plan = [(rig.entrance.clone(), Arc::clone(&one)), (other.clone(), one)].into();
    let applied = rig.relay.apply(&plan).await;
    let failed: Vec<_> = applied.failures.iter().map(|it| it.subject.clone()).collect();
    assert_eq!((failed, applied.changes), (vec![rig.entrance.to_string()], 1));
    assert!(applied.failures[0].error.remedy().is_some());
    let mut reached = TcpStream::connect(other.address).unwrap();
    assert_eq!(who(&mut reached).unwrap(), "task.15", "the other is not concerned");
    drop(holder);
    rig.apply(&plan).await;
    assert_eq!(who(&mut rig.connect()).unwrap(), "task.15");
    assert_eq!(rig.relay.apply(&plan).await.changes, 0);
}

#[tokio::test]
async fn the_end_of_the_relay_resets_its_sessions() {
    let task = Task::new(16);
    let mut rig = Rig::new(Protocol::Tcp);
    rig.make(target(&[task.address], &[])).await;
    let mut session = rig.connect();
    assert_eq!(who(&mut session).unwrap(), "task.16");
    let address = rig.entrance.address;
    rig.relay.finish().await;
    assert_eq!(session.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

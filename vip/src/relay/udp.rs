//! UDP sessions: what one client sends to one entrance goes to one task, and what that answers
//! comes back from the address that the client asked.
//!
//! Invariants
//! - *a socket each*: a session's socket is connected to its task, so that nobody else's datagrams
//!   come back, and an unreachable task is told;
//! - *moved at once*: when its task stops serving, or nobody listens there, a session ends, and the
//!   client's next datagram begins another one;
//! - *bounded*: the longest unused session gives way, of a client that has many its own oldest; of
//!   datagrams that come before a session's socket is there, few wait.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use kernel::burst::{Burst, Packet};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::gate::Gate;
use super::limits::{self, Client, Limits};
use super::meter::{Open, add};
use super::plan::{Place, Target};
use super::recent::Recent;
use super::worker::Thread;

/// The sessions of one thread.
pub(super) struct Flows {
    all: RefCell<Recent<Key, Rc<Flow>>>,
    /// The sessions of each client, the oldest first.
    clients: RefCell<BTreeMap<Client, VecDeque<Key>>>,
    most_of_client: usize,
    /// Sessions whose sockets are being made, and the bound of them.
    begun: Cell<usize>,
    most_begun: usize,
}

/// A session whose socket is being made.
struct Beginning(Rc<Thread>);

impl Beginning {
    /// `None`: there are too many.
    fn of(thread: &Rc<Thread>) -> Option<Self> {
        let Flows { begun, most_begun, .. } = &thread.flows;
        (begun.get() < *most_begun).then(|| {
            begun.set(begun.get() + 1);
            Self(Rc::clone(thread))
        })
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        let begun = &self.0.flows.begun;
        begun.set(begun.get().saturating_sub(1));
    }
}

/// Which session a datagram belongs to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    gate: u64,
    client: SocketAddr,
    /// The address that the client asked, where the entrance has several.
    asked: Option<IpAddr>,
}

/// One session.
struct Flow {
    gate: Rc<Gate>,
    key: Key,
    task: SocketAddr,
    /// `None`: it is being made.
    socket: RefCell<Option<Rc<UdpSocket>>>,
    /// What came before the socket was there.
    waiting: RefCell<Vec<Vec<u8>>>,
    began: Instant,
    replied: Cell<bool>,
    /// Both sides have spoken for a while.
    lasting: Cell<bool>,
    /// Brings answers back.
    reader: RefCell<Option<AbortHandle>>,
    _open: Open,
}

impl Flows {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            all: RefCell::new(Recent::new(limits.flows)),
            clients: RefCell::default(),
            most_of_client: limits.flows_per_client,
            begun: Cell::new(0),
            most_begun: limits.flows_begun,
        }
    }

    /// Ends sessions that were idle for too long.
    pub(super) fn tick(&self, now: Instant) {
        self.end(self.all.borrow_mut().expire(now, |it| it.life()));
    }

    /// Ends sessions with tasks that serve no more.
    pub(super) fn move_on(&self, gate: &Gate, target: &Target) {
        let here = |it: &Rc<Flow>| it.gate.number == gate.number;
        let rests = |it: &SocketAddr| !target.alive.contains(it) || target.resting.contains_key(it);
        let moved = |it: &Rc<Flow>| here(it) && rests(&it.task);
        self.end(self.all.borrow_mut().remove_if(moved));
    }

    /// Ends all sessions of an entrance.
    pub(super) fn close(&self, gate: &Gate) {
        let here = |it: &Rc<Flow>| it.gate.number == gate.number;
        self.end(self.all.borrow_mut().remove_if(here));
    }

    /// These were taken out.
    fn end(&self, flows: impl IntoIterator<Item = Rc<Flow>>) {
        for flow in flows {
            flow.end();
            self.has_left(&flow);
        }
    }

    fn find(&self, key: &Key) -> Option<Rc<Flow>> {
        self.all.borrow_mut().touch(key, Instant::now()).map(|it| Rc::clone(it))
    }

    fn add(&self, flow: &Rc<Flow>) {
        let client = flow.client();
        let oldest = |keys: &VecDeque<Key>| {
            (keys.len() >= self.most_of_client).then(|| keys.front().copied()).flatten()
        };
        let oldest = self.clients.borrow().get(&client).and_then(oldest);
        if let Some(oldest) = oldest {
            self.end(self.all.borrow_mut().remove(&oldest));
        }
        self.end(self.all.borrow_mut().insert(flow.key, Rc::clone(flow), flow.began));
        self.clients.borrow_mut().entry(client).or_default().push_back(flow.key);
    }

    /// Takes a session out, unless another one has its place already.
    fn forget(&self, flow: &Rc<Flow>) {
        let same = |it: &Rc<Flow>| Rc::ptr_eq(it, flow);
        let mut flows = self.all.borrow_mut();
        if flows.touch(&flow.key, flow.began).is_some_and(|it| same(it)) {
            flows.remove(&flow.key);
            self.has_left(flow);
        }
    }

    fn has_left(&self, flow: &Flow) {
        let (client, mut clients) = (flow.client(), self.clients.borrow_mut());
        if let Some(keys) = clients.get_mut(&client) {
            if let Some(place) = keys.iter().position(|it| *it == flow.key) {
                keys.remove(place);
            }
            if keys.is_empty() {
                clients.remove(&client);
            }
        }
    }
}

impl Flow {
    fn client(&self) -> Client {
        limits::client(self.gate.place, self.key.client.ip())
    }

    /// As conntrack: 30 s, or 120 s once both sides have spoken for more than two.
    fn life(&self) -> Duration {
        if self.lasting.get() { LASTING } else { IDLE }
    }

    fn end(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.abort();
        }
    }

    /// Whether the task is known not to listen: the next datagram would be given for that error.
    fn is_refused(&self) -> bool {
        let socket = self.socket.borrow();
        socket.as_ref().is_some_and(|it| !matches!(it.take_error(), Ok(None)))
    }

    /// Hands datagrams of a burst on to the task.
    fn hand_on(&self, burst: &mut Burst, which: Range<usize>, octets: usize) {
        if self.replied.get() && self.began.elapsed() >= STREAM_AFTER {
            self.lasting.set(true);
        }
        let counters = self.gate.counters();
        if let Some(socket) = &*self.socket.borrow() {
            let sent = burst.hand_on(&**socket, which);
            add(&counters.to_tasks, octets);
            add(&counters.lost, sent.lost);
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        for nth in which {
            if waiting.len() < WAITING {
                waiting.push(burst.octets(nth).to_owned());
            } else {
                add(&counters.lost, 1);
            }
        }
    }
}

/// Takes datagrams as long as it lives.
pub(super) async fn serve(thread: Rc<Thread>, gate: Rc<Gate>, socket: UdpSocket) {
    let socket = Rc::new(socket);
    let mut packets = Vec::new();
    loop {
        if let Err(error) = socket.readable().await {
            tracing::warn!(%error, entrance = %gate.entrance, "cannot receive datagrams");
            sleep(PAUSE).await;
        }
        let received = socket.try_io(Interest::READABLE, || {
            let mut burst = thread.burst.borrow_mut();
            packets.clear();
            packets.extend_from_slice(burst.receive(&*socket)?);
            hand_on(&thread, &gate, &socket, &mut burst, &packets);
            Ok(())
        });
        match received {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, entrance = %gate.entrance, "cannot receive datagrams");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Hands a burst on, neighbours of one session together.
fn hand_on(
    thread: &Rc<Thread>,
    gate: &Rc<Gate>,
    entrance: &Rc<UdpSocket>,
    burst: &mut Burst,
    packets: &[Packet],
) {
    let mut rest = packets.iter().enumerate().peekable();
    while let Some((first, packet)) = rest.next() {
        let Some(client) = packet.from else { continue };
        let same = |it: &&Packet| it.from == packet.from && it.to == packet.to;
        let (mut end, mut octets) = (first + 1, packet.length);
        while let Some((nth, next)) = rest.next_if(|(_, it)| same(it)) {
            end = nth + 1;
            octets += next.length;
        }
        let key = Key { gate: gate.number, client, asked: packet.to };
        let known = thread.flows.find(&key).filter(|flow| {
            let refused = flow.is_refused();
            if refused {
                give_up(thread, flow);
                flow.end();
            }
            !refused
        });
        match known.or_else(|| begin(thread, gate, entrance, key)) {
            Some(flow) => flow.hand_on(burst, first..end, octets),
            None => add(&gate.counters().unreached, 1),
        }
    }
}

fn begin(
    thread: &Rc<Thread>,
    gate: &Rc<Gate>,
    entrance: &Rc<UdpSocket>,
    key: Key,
) -> Option<Rc<Flow>> {
    let beginning = Beginning::of(thread)?;
    let task = gate.choose(key.client.ip().to_canonical(), &[], &thread.dice)?;
    let counters = gate.counters();
    add(&counters.flows, 1);
    let flow = Rc::new(Flow {
        gate: Rc::clone(gate),
        key,
        task,
        socket: RefCell::default(),
        waiting: RefCell::default(),
        began: Instant::now(),
        replied: Cell::new(false),
        lasting: Cell::new(false),
        reader: RefCell::default(),
        _open: Open::count(&counters),
    });
    let work = answers(Rc::clone(thread), Rc::clone(&flow), Rc::clone(entrance), beginning);
    *flow.reader.borrow_mut() = Some(gate.spawn(work));
    thread.flows.add(&flow);
    Some(flow)
}

/// Brings a task's answers back, until the session ends.
async fn answers(
    thread: Rc<Thread>,
    flow: Rc<Flow>,
    entrance: Rc<UdpSocket>,
    beginning: Beginning,
) {
    let connected = connect(&thread, &flow).await;
    drop(beginning);
    let error = match connected {
        Ok(socket) => bring_back(&thread, &flow, &socket, &entrance).await,
        Err(error) => error,
    };
    tracing::debug!(%error, task = %flow.task, entrance = %flow.gate.entrance, "a session ends");
    give_up(&thread, &flow);
}

/// The client's next session goes elsewhere.
fn give_up(thread: &Thread, flow: &Rc<Flow>) {
    flow.gate.abandoned(flow.key.client.ip().to_canonical(), flow.task);
    thread.flows.forget(flow);
}

async fn connect(thread: &Thread, flow: &Flow) -> io::Result<Rc<UdpSocket>> {
    let dial = flow.gate.target().dial.clone();
    let (path, cookie) = match dial {
        Place::Host => (None, None),
        Place::Netns { path, cookie } => (Some(path), cookie),
    };
    let socket = thread.door.udp_connected(path, cookie, flow.task).await;
    let socket = socket.map_err(io::Error::other)?;
    let counters = flow.gate.counters();
    let mut refused = Ok(());
    for octets in flow.waiting.take() {
        match socket.send(&octets) {
            Ok(count) => add(&counters.to_tasks, count),
            Err(error) => {
                add(&counters.lost, 1);
                refused = Err(error);
            }
        }
    }
    if let Err(error) = refused
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        return Err(error);
    }
    let socket = Rc::new(UdpSocket::from_std(socket)?);
    *flow.socket.borrow_mut() = Some(Rc::clone(&socket));
    Ok(socket)
}

/// Why the task cannot be heard any more.
async fn bring_back(
    thread: &Thread,
    flow: &Flow,
    socket: &UdpSocket,
    entrance: &UdpSocket,
) -> io::Error {
    let counters = flow.gate.counters();
    loop {
        // A port where nobody listens makes the socket ready for an error, and for nothing else;
        // to receive takes the error.
        let ready = match socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(ready) => ready,
            Err(error) => return error,
        };
        let which = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
        let received = socket.try_io(which, || {
            let mut burst = thread.burst.borrow_mut();
            let packets = burst.receive(socket)?;
            let octets = packets.iter().map(|it| it.length).sum();
            let count = packets.len();
            let sent = burst.pass_to(entrance, 0..count, flow.key.client, flow.key.asked);
            add(&counters.to_clients, octets);
            add(&counters.lost, sent.lost);
            Ok(())
        });
        match received {
            Ok(()) => {
                flow.replied.set(true);
                thread.flows.find(&flow.key);
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Port unreachable, most of all.
            Err(error) => return error,
        }
    }
}

/// Octets that a datagram can have.
pub(super) const LONGEST: usize = 65_535;
/// `net.netfilter.nf_conntrack_udp_timeout`.
const IDLE: Duration = Duration::from_secs(30);
/// `net.netfilter.nf_conntrack_udp_timeout_stream`.
const LASTING: Duration = Duration::from_secs(120);
/// How old a session is before conntrack takes it for a stream.
const STREAM_AFTER: Duration = Duration::from_secs(2);
/// Datagrams of one session that wait for its socket, some 50 us.
const WAITING: usize = 16;
/// Pause after an error that may last: without it the loop would spin.
const PAUSE: Duration = Duration::from_millis(100);

//! TCP sessions: a client's connection, a task's connection, and octets both ways.
//!
//! Invariants
//! - *as if direct*: the end of one side's sending is the end of ours to the other, and a reset is
//!   a reset; what was received before it is delivered first;
//! - *no buffers of ours*: octets stay in the kernel, and who does not read slows the sender down;
//! - *another task only while nothing was sent*;
//! - *no half sessions*: one that ends in any other way than by both ends' wish resets both.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kernel::splice::Pipe;
use kernel::stream;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::gate::{Gate, Listed};
use super::header;
use super::limits::Ticket;
use super::meter::{Open, add};
use super::plan::{Place, Way};
use super::worker::Thread;

/// Takes connections as long as it lives.
pub(super) async fn accept(thread: Rc<Thread>, gate: Rc<Gate>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((client, peer)) => begin(&thread, &gate, client, peer),
            Err(error) => {
                tracing::warn!(%error, entrance = %gate.entrance, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn begin(thread: &Rc<Thread>, gate: &Rc<Gate>, client: TcpStream, peer: SocketAddr) {
    let client = End::of(client);
    let Some(ticket) = thread.admit(gate, peer.ip()) else {
        add(&gate.counters().refused, 1);
        return;
    };
    gate.run(|listed| session(Rc::clone(thread), Rc::clone(gate), client, peer, listed, ticket));
}

async fn session(
    thread: Rc<Thread>,
    gate: Rc<Gate>,
    mut client: End,
    peer: SocketAddr,
    listed: Listed,
    ticket: Ticket,
) {
    let counters = gate.counters();
    add(&counters.connections, 1);
    let _open = Open::count(&counters);
    let Some((mut task, proxy_protocol)) = dial(&thread, &gate, peer, &listed).await else {
        add(&counters.unreached, 1);
        return;
    };
    match relay(&thread, &gate, &mut client, &mut task, proxy_protocol.then_some(peer)).await {
        Ok(()) => {
            client.reset = false;
            task.reset = false;
        }
        Err(error) => tracing::trace!(%error, %peer, entrance = %gate.entrance, "a session broke"),
    }
    drop((client, task, listed, ticket));
}

/// A connection to a task, and whether it wants to be told who the client is.
async fn dial(
    thread: &Thread,
    gate: &Gate,
    peer: SocketAddr,
    listed: &Listed,
) -> Option<(End, bool)> {
    let mut tried = Vec::new();
    for _ in 0..thread.limits.tries {
        let task = gate.choose(peer.ip().to_canonical(), &tried, &thread.dice)?;
        let dial = gate.target().dial.clone();
        match timeout(thread.limits.connect, connect(thread, &dial, task)).await {
            // What became of the service meanwhile? Nothing was sent yet.
            Ok(Ok(stream)) => {
                let target = gate.target();
                if target.alive.contains(&task) || target.slots.contains(&task) {
                    listed.with(task);
                    return Some((End::of(stream), target.proxy_protocol));
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, %task, entrance = %gate.entrance, "a task cannot be reached");
                gate.failed(task);
            }
            Err(_) => gate.failed(task),
        }
        tried.push(task);
    }
    None
}

async fn connect(thread: &Thread, from: &Place, task: SocketAddr) -> io::Result<TcpStream> {
    let socket = match from {
        Place::Host if task.is_ipv4() => TcpSocket::new_v4()?,
        Place::Host => TcpSocket::new_v6()?,
        Place::Netns { path, cookie } => {
            let made = thread.door.tcp_socket(Some(path.clone()), *cookie, task).await;
            TcpSocket::from_std_stream(made.map_err(io::Error::other)?)
        }
    };
    socket.connect(task).await
}

/// Hands octets on until both sides have said that they have finished.
async fn relay(
    thread: &Thread,
    gate: &Gate,
    client: &mut End,
    task: &mut End,
    told: Option<SocketAddr>,
) -> io::Result<()> {
    let counters = gate.counters();
    client.attend()?;
    task.attend()?;
    if let Some(peer) = told {
        let header = header::header(peer, wanted(gate, &client.stream)?);
        task.stream.write_all(&header).await?;
    }
    let (client, task) = (&client.stream, &task.stream);
    let mut up = Lane::new(thread, client, task, &counters.to_tasks);
    let mut down = Lane::new(thread, task, client, &counters.to_clients);
    let ended = tokio::select! {
        ended = async { tokio::try_join!(up.run(), down.run()) } => ended.map(drop),
        error = broken(client) => Err(error),
        error = broken(task) => Err(error),
    };
    if ended.is_err() {
        up.deliver().await;
        down.deliver().await;
    }
    ended
}

/// Where the client wanted to go.
fn wanted(gate: &Gate, client: &TcpStream) -> io::Result<SocketAddr> {
    match gate.entrance.way {
        Way::Bound => client.local_addr(),
        Way::Redirected => match stream::original_destination(client) {
            Some(wanted) => Ok(wanted),
            // Not translated by this namespace's conntrack: the address is the right one.
            None => Ok(SocketAddr::new(client.local_addr()?.ip(), gate.entrance.address.port())),
        },
    }
}

/// Waits until the connection is reset, or lost, or cannot be written to any more.
async fn broken(stream: &TcpStream) -> io::Error {
    let told = || match stream::error_of(stream) {
        Ok(Some(error)) | Err(error) => Ok(error),
        Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
    };
    loop {
        if let Err(error) = stream.ready(Interest::ERROR).await {
            return error;
        }
        if let Ok(error) = stream.try_io(Interest::ERROR, told) {
            return error;
        }
    }
}

/// One direction of a session.
struct Lane<'a> {
    thread: &'a Thread,
    from: &'a TcpStream,
    to: &'a TcpStream,
    /// What is under way; `None` while nothing is.
    pipe: Option<Pipe>,
    counter: &'a AtomicU64,
}

impl<'a> Lane<'a> {
    fn new(
        thread: &'a Thread,
        from: &'a TcpStream,
        to: &'a TcpStream,
        counter: &'a AtomicU64,
    ) -> Self {
        Self { thread, from, to, pipe: None, counter }
    }

    /// Until the sender has finished, and the receiver was told.
    async fn run(&mut self) -> io::Result<()> {
        let mut turns = 0;
        loop {
            match self.fill()? {
                Filled::Something => {
                    while !self.drain()? {
                        self.to.writable().await?;
                    }
                    turns += 1;
                    if turns % TURNS == 0 {
                        // Others have waited; meanwhile more comes, and goes in one piece.
                        tokio::task::yield_now().await;
                    }
                }
                Filled::Nothing => {
                    self.rest();
                    self.from.readable().await?;
                }
                Filled::End => {
                    self.rest();
                    return stream::finish(self.to);
                }
            }
        }
    }

    fn fill(&mut self) -> io::Result<Filled> {
        let mut pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => self.thread.pipe()?,
        };
        let filled = self.from.try_io(Interest::READABLE, || pipe.fill(self.from));
        self.pipe = Some(pipe);
        match filled {
            Ok(0) => Ok(Filled::End),
            Ok(_) => Ok(Filled::Something),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Filled::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Whether all went; otherwise the receiver takes nothing at the moment.
    fn drain(&mut self) -> io::Result<bool> {
        let Some(pipe) = &mut self.pipe else { return Ok(true) };
        while pipe.held() > 0 {
            match self.to.try_io(Interest::WRITABLE, || pipe.drain(self.to)) {
                Ok(count) => add(self.counter, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Nothing is under way: somebody else may have the pipe.
    fn rest(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            self.thread.keep(pipe);
        }
    }

    /// After the other end broke: what had arrived before is still delivered, if it can be soon.
    async fn deliver(&mut self) {
        for _ in 0..LAST_ROUNDS {
            match self.drain() {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
            match self.fill() {
                Ok(Filled::Something) => {}
                Ok(Filled::Nothing | Filled::End) | Err(_) => break,
            }
        }
        let flushed = async {
            while stream::unsent(self.to).is_ok_and(|it| it > 0) {
                sleep(FLUSH_PAUSE).await;
            }
        };
        timeout(FLUSH, flushed).await.ok();
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.rest();
    }
}

enum Filled {
    Something,
    Nothing,
    End,
}

/// One end of a session. Unless told otherwise, dropping it resets the connection.
struct End {
    stream: TcpStream,
    reset: bool,
}

impl End {
    fn of(stream: TcpStream) -> Self {
        Self { stream, reset: true }
    }

    fn attend(&self) -> io::Result<()> {
        stream::attend(&self.stream, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_TIMES)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.reset
            && let Err(error) = stream::reset_when_closed(&self.stream)
        {
            tracing::debug!(%error, "a connection is closed instead of reset");
        }
    }
}

/// Pause after an accept that failed, usually for want of descriptors: without it the loop would
/// spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pieces handed on until others get their turn.
const TURNS: u32 = 4;
/// Pieces looked for at a connection that broke.
const LAST_ROUNDS: u32 = 16;
/// How long a receiver gets for what came before the other end's reset.
const FLUSH: Duration = Duration::from_secs(1);
const FLUSH_PAUSE: Duration = Duration::from_millis(5);
/// A peer that is gone without a word is known after two minutes; an idle session costs a packet a
/// minute each way.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMES: u32 = 6;

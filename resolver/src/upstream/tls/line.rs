//! The way to one server over TLS: one connection, kept while it is used, with many questions on it
//! at a time (RFC 7766 section 6.2.1.1, RFC 7858 section 3.4).
//!
//! Invariants
//! - *nobody else*: nothing is sent before the server's certificate has been verified;
//! - *bounded*: so many questions on a connection, so long without one, so long without an answer;
//! - *no answer is lost with a connection that was kept too long*: a question on one that the
//!   server closes meanwhile is asked again on a new one (RFC 7766 section 6.2.4);
//! - *its tasks end with it*.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::trouble::{Likeness, Trouble};
use crate::upstream::exchange::{Dialer, framed_padded, query_id};
use crate::wire::reply::{self, Reply};
use crate::wire::{Edns, Query, be16};

/// The way to one server.
#[derive(Debug)]
pub(crate) struct Line {
    address: SocketAddr,
    name: ServerName<'static>,
    client: Arc<ClientConfig>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the connection takes questions.
    open: Option<mpsc::Sender<Ask>>,
    /// It, and those before it that are ending.
    connections: JoinSet<()>,
    /// What the log said last, unless it is over.
    told: Option<Likeness>,
}

/// A question on its way.
#[derive(Debug)]
struct Ask {
    query: Query,
    edns: Option<Edns>,
    reply: oneshot::Sender<Result<Reply, Arc<Trouble>>>,
}

impl Line {
    /// To the server at `address`, whose certificate must be for `name`.
    pub(super) fn new(
        address: SocketAddr,
        name: ServerName<'static>,
        client: &Arc<ClientConfig>,
    ) -> Self {
        Self { address, name, client: Arc::clone(client), state: Mutex::default() }
    }

    /// Asks, and waits for the reply that matches for as long as it is polled; with the time that it
    /// took, unless connecting is in that.
    pub(crate) async fn ask(
        &self,
        query: &Query,
        edns: Option<Edns>,
    ) -> Result<(Reply, Option<Duration>), Arc<Trouble>> {
        let mut trouble = Arc::new(Trouble::Closed);
        for _ in 0..ATTEMPTS {
            let begun = Instant::now();
            let (queue, kept) = self.connection();
            let (reply, answer) = oneshot::channel();
            let ask = Ask { query: query.clone(), edns, reply };
            if queue.send(ask).await.is_ok() {
                match answer.await {
                    Ok(Ok(reply)) => {
                        self.state().told = None;
                        return Ok((reply, kept.then(|| begun.elapsed())));
                    }
                    Ok(Err(refused)) => {
                        trouble = refused;
                        break;
                    }
                    Err(_closed) => {}
                }
            }
            self.forget(&queue);
        }
        self.tell(&trouble);
        Err(trouble)
    }

    /// Where the connection takes questions, and whether it stood already; else a new one's.
    fn connection(&self) -> (mpsc::Sender<Ask>, bool) {
        let mut state = self.state();
        while state.connections.try_join_next().is_some() {}
        if let Some(queue) = state.open.as_ref().filter(|it| !it.is_closed()) {
            return (queue.clone(), true);
        }
        let (queue, asked) = mpsc::channel(MAX_PIPELINED);
        state.open = Some(queue.clone());
        let connector = TlsConnector::from(Arc::clone(&self.client));
        let (address, name) = (self.address, self.name.clone());
        state.connections.spawn(async move {
            let connected = timeout(CONNECT, connect(&connector, address, name)).await;
            match connected.unwrap_or(Err(Trouble::Slow)) {
                Ok(stream) => Connection::new(stream, asked).serve().await,
                Err(trouble) => refuse(asked, &Arc::new(trouble)).await,
            }
        });
        (queue, false)
    }

    fn forget(&self, queue: &mpsc::Sender<Ask>) {
        let mut state = self.state();
        if state.open.as_ref().is_some_and(|it| it.same_channel(queue)) {
            state.open = None;
        }
    }

    /// Says once what somebody can do something about.
    fn tell(&self, trouble: &Trouble) {
        let Some(remedy) = trouble.remedy() else { return };
        let likeness = Some(trouble.likeness());
        if std::mem::replace(&mut self.state().told, likeness) != likeness {
            let (server, name) = (self.address, self.name.to_str());
            tracing::warn!(%server, %name, "name server not asked: {trouble}; {remedy}");
        }
    }

    /// Only whole values are put behind this lock, so a panic elsewhere leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(
    connector: &TlsConnector,
    address: SocketAddr,
    name: ServerName<'static>,
) -> Result<TlsStream<TcpStream>, Trouble> {
    let stream = Dialer::Host.tcp(address).await.map_err(|it| Trouble::Dial(Box::new(it)))?;
    connector.connect(name, stream).await.map_err(Trouble::of_handshake)
}

/// Tells all who ask that there is no connection.
async fn refuse(mut asked: mpsc::Receiver<Ask>, trouble: &Arc<Trouble>) {
    asked.close();
    while let Some(ask) = asked.recv().await {
        drop(ask.reply.send(Err(Arc::clone(trouble)))); // who asked may have gone
    }
}

/// A connection whose server has shown its certificate.
struct Connection {
    stream: TlsStream<TcpStream>,
    asked: mpsc::Receiver<Ask>,
    waiting: BTreeMap<u16, Ask>,
    received: Vec<u8>,
    /// It has given an answer.
    proven: bool,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>, asked: mpsc::Receiver<Ask>) -> Self {
        let (waiting, received) = (BTreeMap::new(), Vec::new());
        Self { stream, asked, waiting, received, proven: false }
    }

    /// Serves until it has been idle, or is broken; who waits then learns it by being dropped.
    async fn serve(mut self) {
        let mut moved = Instant::now();
        loop {
            let patience = match (self.waiting.is_empty(), self.proven) {
                (true, _) => IDLE,
                (false, true) => STALE,
                (false, false) => DEAD,
            };
            self.received.reserve(READ);
            tokio::select! {
                ask = self.asked.recv(), if self.waiting.len() < MAX_PIPELINED => {
                    let Some(ask) = ask else { break };
                    if self.waiting.is_empty() {
                        moved = Instant::now();
                    }
                    if self.send(ask).await.is_err() {
                        break;
                    }
                }
                read = self.stream.read_buf(&mut self.received) => {
                    if !matches!(read, Ok(1..)) {
                        break;
                    }
                    self.replies();
                    moved = Instant::now();
                }
                () = sleep_until(moved + patience) => break,
            }
        }
        // No more questions, before the peer is told: that may take a while.
        drop((self.asked, self.waiting));
        drop(timeout(CLOSE, self.stream.shutdown()).await);
    }

    async fn send(&mut self, ask: Ask) -> io::Result<()> {
        self.waiting.retain(|_, it| !it.reply.is_closed());
        if ask.reply.is_closed() {
            return Ok(()); // nobody waits any more
        }
        let mut id = query_id()?;
        while self.waiting.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let octets = framed_padded(&ask.query, id, ask.edns);
        self.waiting.insert(id, ask);
        let write = async {
            self.stream.write_all(&octets).await?;
            self.stream.flush().await
        };
        timeout(WRITE, write).await?
    }

    /// Hands out the whole messages among what was received.
    fn replies(&mut self) {
        let mut rest = self.received.as_slice();
        while let Some((message, behind)) = first_message(rest) {
            rest = behind;
            let Some(id) = be16(message, 0) else { continue };
            let Some(ask) = self.waiting.get(&id) else { continue };
            if let Some(reply) = reply::matching(message, &ask.query, id)
                && let Some(ask) = self.waiting.remove(&id)
            {
                self.proven = true;
                drop(ask.reply.send(Ok(reply))); // who asked may have an answer from elsewhere
            }
        }
        let taken = self.received.len() - rest.len();
        self.received.drain(..taken);
    }
}

/// The first message of a stream (RFC 1035 section 4.2.2), and what stands behind it; `None`: it is
/// not whole yet.
pub(crate) fn first_message(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(be16(stream, 0)?);
    stream.get(2..)?.split_at_checked(length)
}

/// A server may close a connection as often as it likes, but each question it is asked thrice at
/// most.
const ATTEMPTS: usize = 3;
/// Questions on one connection that wait for an answer: what all sandboxes ask at once.
const MAX_PIPELINED: usize = 4096;
/// Until a connection can be used; the question has other servers to go to.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection without questions is closed by us, before most servers do it.
const IDLE: Duration = Duration::from_secs(10);
/// One that gave answers before, owes some and says nothing: the server may be gone without a word.
/// Early enough for a new one within a client's patience.
const STALE: Duration = Duration::from_secs(2);
/// One that never gave an answer: beyond the patience of any client.
const DEAD: Duration = Duration::from_secs(5);
/// A server that takes nothing so long is gone.
const WRITE: Duration = Duration::from_secs(2);
/// To say goodbye.
const CLOSE: Duration = Duration::from_secs(1);
/// Octets taken at a time: many replies. What is kept of them is less than a message, which is
/// 65,537 octets at most.
const READ: usize = 8192;

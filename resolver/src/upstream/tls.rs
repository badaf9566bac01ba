//! DNS over TLS (RFC 7858): one connection to a server, kept while it is used, with many questions
//! on it at a time.
//!
//! Invariants
//! - *nobody else*: nothing is sent before the server's certificate has been verified for the name
//!   that the operator wrote, or for the address;
//! - *bounded*: so many questions on a connection, so long without one;
//! - *no answer is lost with a connection that was kept too long*: a question on one that the
//!   server closes meanwhile is asked once more on a new one (RFC 7766 section 6.2.4).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use super::exchange::{AskError, Dialer, framed, query_id};
use crate::wire::reply::{self, Reply};
use crate::wire::{Edns, Query, be16};

/// The way to one server.
#[derive(Debug)]
pub(crate) struct Line {
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    tasks: TaskTracker,
    /// The connection that is open, if any.
    open: Mutex<Option<mpsc::Sender<Ask>>>,
}

/// What is trusted, and how.
pub(crate) fn client(roots: Vec<CertificateDer<'static>>) -> Result<ClientConfig, rustls::Error> {
    let mut store = RootCertStore::empty();
    let (_, unread) = store.add_parsable_certificates(roots);
    if unread > 0 || store.is_empty() {
        let trusted = store.len();
        tracing::warn!(trusted, unread, "certificates of authorities for DNS over TLS");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth())
}

/// The certificates of the authorities that this machine trusts.
pub(crate) fn native_roots() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read certificates of authorities for DNS over TLS");
    }
    found.certs
}

impl Line {
    /// The way to the server at `address`, whose certificate is for `name`, or for the address.
    pub(crate) fn new(
        address: SocketAddr,
        name: Option<&str>,
        config: Arc<ClientConfig>,
        tasks: TaskTracker,
    ) -> Self {
        let named = name.and_then(|it| ServerName::try_from(it.to_owned()).ok());
        let name = named.unwrap_or_else(|| address.ip().into());
        Self { address, name, config, tasks, open: Mutex::default() }
    }

    /// Asks the server, and waits for as long as it is polled. True: on a connection that was
    /// open before, so that the time it took is one round trip.
    pub(crate) async fn ask(
        &self,
        dialer: &Dialer,
        query: &Query,
        edns: Option<Edns>,
    ) -> Result<(Reply, bool), AskError> {
        loop {
            let (queue, kept) = self.connection(dialer);
            let (reply, answer) = oneshot::channel();
            let sent = queue.send(Ask { query: query.clone(), edns, reply }).await.is_ok();
            match (sent, answer.await) {
                (true, Ok(Ok(reply))) => return Ok((reply, kept)),
                (true, Ok(Err(trouble))) => return Err(AskError::Tls(trouble)),
                _ if kept => self.forget(&queue),
                _ => return Err(AskError::Tls("the server closed the connection".to_owned())),
            }
        }
    }

    /// The connection that is open, or a new one.
    fn connection(&self, dialer: &Dialer) -> (mpsc::Sender<Ask>, bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = open.as_ref().filter(|it| !it.is_closed()) {
            return (queue.clone(), true);
        }
        let (queue, asked) = mpsc::channel(MAX_PIPELINED);
        *open = Some(queue.clone());
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let (dialer, address, name) = (dialer.clone(), self.address, self.name.clone());
        self.tasks.spawn(async move {
            let connecting = async {
                let stream = dialer.tcp(address).await.map_err(|it| it.to_string())?;
                let secured = connector.connect(name, stream).await;
                secured.map_err(|error| refused(&error))
            };
            let connected = timeout(CONNECT, connecting).await;
            match connected.unwrap_or_else(|_| Err("the server does not connect".to_owned())) {
                Ok(stream) => Connection::new(stream, asked).serve().await,
                Err(trouble) => refuse(asked, &trouble).await,
            }
        });
        (queue, false)
    }

    fn forget(&self, queue: &mpsc::Sender<Ask>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|it| it.same_channel(queue)) {
            *open = None;
        }
    }
}

/// Questions on one connection that wait for an answer; a resolver forwards less to one server.
const MAX_PIPELINED: usize = 512;
/// Until a connection can be used; the question has other servers to go to.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection without questions is closed by us, before most servers do it.
const IDLE: Duration = Duration::from_secs(10);
/// One that owes answers and says nothing is dead.
const DEAD: Duration = Duration::from_secs(5);
/// A server that takes nothing so long is gone.
const WRITE: Duration = Duration::from_secs(2);
/// The longest message and its length.
const LONGEST: usize = 2 + 65_535;

/// What the operator can do about a handshake that failed.
fn refused(error: &io::Error) -> String {
    let of_certificate = error
        .get_ref()
        .and_then(|it| it.downcast_ref::<rustls::Error>())
        .is_some_and(|it| matches!(it, rustls::Error::InvalidCertificate(_)));
    if of_certificate {
        format!(
            "its certificate is not accepted: {error}; write the name that it is for behind `#`, \
             or add its authority to this machine's certificates"
        )
    } else {
        format!("no TLS with the server: {error}; look whether it serves DNS over TLS there")
    }
}

async fn refuse(mut asked: mpsc::Receiver<Ask>, trouble: &str) {
    asked.close();
    while let Some(ask) = asked.recv().await {
        drop(ask.reply.send(Err(trouble.to_owned())));
    }
}

#[derive(Debug)]
struct Ask {
    query: Query,
    edns: Option<Edns>,
    reply: oneshot::Sender<Result<Reply, String>>,
}

struct Connection {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: WriteHalf<TlsStream<TcpStream>>,
    asked: mpsc::Receiver<Ask>,
    waiting: BTreeMap<u16, Ask>,
    received: Vec<u8>,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>, asked: mpsc::Receiver<Ask>) -> Self {
        let (read, write) = split(stream);
        Self { read, write, asked, waiting: BTreeMap::new(), received: Vec::new() }
    }

    /// Serves until it has been idle, or broken; what waits then is told by being dropped.
    async fn serve(mut self) {
        let mut moved = Instant::now();
        loop {
            let patience = if self.waiting.is_empty() { IDLE } else { DEAD };
            let room = self.waiting.len() < MAX_PIPELINED && self.received.len() < LONGEST;
            tokio::select! {
                ask = self.asked.recv(), if room => {
                    let Some(ask) = ask else { return };
                    if self.waiting.is_empty() {
                        moved = Instant::now();
                    }
                    if self.send(ask).await.is_err() {
                        return;
                    }
                }
                read = self.read.read_buf(&mut self.received) => {
                    if !matches!(read, Ok(1..)) {
                        return;
                    }
                    self.replies();
                    moved = Instant::now();
                }
                () = sleep_until(moved + patience) => return,
            }
        }
    }

    async fn send(&mut self, ask: Ask) -> io::Result<()> {
        self.waiting.retain(|_, it| !it.reply.is_closed());
        let mut id = query_id()?;
        while self.waiting.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let octets = framed(&ask.query, id, ask.edns);
        self.waiting.insert(id, ask);
        let write = async {
            self.write.write_all(&octets).await?;
            self.write.flush().await
        };
        timeout(WRITE, write).await?
    }

    /// Hands out the whole messages among what was received.
    fn replies(&mut self) {
        let mut taken = 0;
        while let Some(rest) = self.received.get(taken..)
            && let Some(length) = be16(rest, 0).map(usize::from)
            && let Some(message) = rest.get(2..2 + length)
        {
            taken += 2 + length;
            let Some(id) = be16(message, 0) else { continue };
            let Some(ask) = self.waiting.get(&id) else { continue };
            if let Some(reply) = reply::matching(message, &ask.query, id)
                && let Some(ask) = self.waiting.remove(&id)
            {
                drop(ask.reply.send(Ok(reply))); // who asked may have an answer from elsewhere
            }
        }
        self.received.drain(..taken.min(self.received.len()));
    }
}

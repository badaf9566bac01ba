//! Idle connections to tasks, one pool per thread: no lock, no hand-over between cores.
//!
//! Always true: at most `limits.idle` connections are kept, of each backend at most
//! `limits.idle_per_backend`, none longer than `timeouts.idle`; the one used last is used next, so
//! that the others can go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::body::RequestBody;

/// A connection to a task. Dropping it closes it.
pub(crate) struct Connection {
    sender: SendRequest<RequestBody>,
    driver: AbortHandle,
}

/// The idle connections of one thread, by the id of the endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<Idle>,
    per_backend: usize,
    in_all: usize,
    time: Duration,
}

#[derive(Debug, Default)]
struct Idle {
    by_endpoint: BTreeMap<u64, Vec<Parked>>,
    count: usize,
}

#[derive(Debug)]
struct Parked {
    connection: Connection,
    since: Instant,
}

impl Connection {
    /// A connection whose I/O is done by the task behind `driver`.
    pub(crate) fn new(sender: SendRequest<RequestBody>, driver: AbortHandle) -> Self {
        Self { sender, driver }
    }

    /// Sends a request. The future does not borrow the connection, which has to outlive it.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Pool {
    /// An empty pool with these bounds.
    pub(crate) fn new(per_backend: usize, in_all: usize, time: Duration) -> Self {
        Self { idle: RefCell::default(), per_backend, in_all, time }
    }

    /// The connection to an endpoint that was used last, if it still seems good.
    pub(crate) fn take(&self, endpoint: u64, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let idle = &mut *idle;
        let Entry::Occupied(mut parked) = idle.by_endpoint.entry(endpoint) else { return None };
        let mut found = None;
        while let Some(Parked { connection, since }) = parked.get_mut().pop() {
            idle.count -= 1;
            if now.duration_since(since) < self.time && connection.sender.is_ready() {
                found = Some(connection);
                break;
            }
        }
        if parked.get().is_empty() {
            parked.remove();
        }
        found
    }

    /// Keeps a connection for the next request, or closes it where there is no room.
    pub(crate) fn put(&self, endpoint: u64, connection: Connection, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.count >= self.in_all || connection.sender.is_closed() {
            return;
        }
        let parked = idle.by_endpoint.entry(endpoint).or_default();
        if parked.len() < self.per_backend {
            parked.push(Parked { connection, since: now });
            idle.count += 1;
        }
    }

    /// Closes connections that nobody needed for too long or that the task closed.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        idle.by_endpoint.retain(|_, parked| {
            parked.retain(|it| {
                now.duration_since(it.since) < self.time && !it.connection.sender.is_closed()
            });
            !parked.is_empty()
        });
        idle.count = idle.by_endpoint.values().map(Vec::len).sum();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = self.sender.is_closed();
        f.debug_struct("Connection").field("closed", &closed).finish_non_exhaustive()
    }
}

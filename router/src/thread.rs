//! One serving thread: a runtime of its own, a listener of its own, its own connections to tasks.
//!
//! Invariants
//! - *nothing shared on the way of a request* but the route table, read without a lock, and counters;
//! - *no task outlives the thread*: after `timeouts.drain` what is left is dropped;
//! - *one connection's panic is its own*: it ends that connection.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kernel::door::Door;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Identity;
use crate::balance::Dice;
use crate::config::{Config, Limits};
use crate::forwarded::Client;
use crate::framing::HeadLimits;
use crate::guard::{Guard, Rules};
use crate::live::Live;
use crate::serve;
use crate::stats::Stats;
use crate::upstream::Pool;

/// What all threads of a router share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) live: Arc<ArcSwap<Live>>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) identity: Identity,
    pub(crate) door: Door,
    /// One permit for each client connection.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
}

/// What the requests of one thread share.
pub(crate) struct Thread {
    pub(crate) config: Arc<Config>,
    pub(crate) live: Arc<ArcSwap<Live>>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) identity: Identity,
    pub(crate) door: Door,
    pub(crate) pool: Pool,
    pub(crate) dice: RefCell<Dice>,
    /// Parent of the connections to tasks, which end with the thread.
    pub(crate) tasks: TaskTracker,
    stop: CancellationToken,
}

impl Thread {
    fn new(shared: Shared, seed: u64) -> Self {
        let Shared { config, live, stats, identity, door, connections: _, stop } = shared;
        let limits = &config.limits;
        let pool = Pool::new(limits.idle_per_backend, limits.idle, config.timeouts.idle);
        let dice = RefCell::new(Dice::new(seed));
        let tasks = TaskTracker::new();
        Self { config, live, stats, identity, door, pool, dice, tasks, stop }
    }

    /// A fresh id: 32 lower-case hex digits.
    pub(crate) fn request_id(&self) -> HeaderValue {
        let mut dice = self.dice.borrow_mut();
        let id = format!("{:016x}{:016x}", dice.roll(), dice.roll());
        HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("0"))
    }

    fn rules(self: &Rc<Self>) -> Rules {
        let Config { limits, timeouts, .. } = &*self.config;
        let thread = Rc::clone(self);
        Rules {
            heads: HeadLimits { target: limits.target, head: limits.head.min(Limits::HEAD_MAX) },
            head_time: timeouts.head,
            keep_alive: timeouts.keep_alive,
            stall: timeouts.stall,
            refuse: Box::new(move |refusal| {
                thread.stats.malformed.add();
                #[expect(clippy::disallowed_methods, reason = "the edge: the answer's Date")]
                let now = SystemTime::now();
                thread.identity.refuse(refusal, thread.request_id(), now)
            }),
        }
    }
}

/// Serves connections from `listener` until the router stops, then drains.
pub(crate) async fn run(shared: Shared, listener: TcpListener, seed: u64) {
    let connections = Arc::clone(&shared.connections);
    let thread = Rc::new(Thread::new(shared, seed));
    let rules = Rc::new(thread.rules());
    let clients = TaskTracker::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = thread.stop.cancelled() => break,
            _ = sweep.tick() => thread.pool.sweep(Instant::now()),
            accepted = accept(&listener, &connections) => match accepted {
                Ok((stream, peer, permit)) => {
                    thread.stats.accepted.add();
                    let client = Client::new(peer.ip(), &thread.config.trusted);
                    let served = connection(Rc::clone(&thread), Rc::clone(&rules), client, stream);
                    clients.spawn_local(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    clients.close();
    if tokio::time::timeout(thread.config.timeouts.drain, clients.wait()).await.is_err() {
        let left = clients.len();
        tracing::warn!(left, "connections still open at the end of the drain time are dropped");
    }
}

/// The next client connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}

/// Serves one client connection to its end.
async fn connection(thread: Rc<Thread>, rules: Rc<Rules>, client: Client, stream: TcpStream) {
    let client = Rc::new(client);
    let stop = thread.stop.clone();
    let service =
        service_fn(move |request| serve::respond(Rc::clone(&thread), Rc::clone(&client), request));
    let connection = http1::Builder::new()
        .half_close(true) // a client that sends no more still waits for its answer
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Guard::new(stream, rules)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client connection broke");
    }
}

/// Bytes that one client connection may hold on their way to a task; a head fits with room to spare.
const BUFFER: usize = 2 * Limits::HEAD_MAX;
/// How often idle connections to tasks are looked through.
const SWEEP: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, usually for want of descriptors: without it the loop would
/// spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

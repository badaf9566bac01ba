//! The router as a whole: listeners and threads, and the table that they serve.
//!
//! Invariants
//! - *whole*: a table is swapped in at once; every request sees the old one or the new one;
//! - *gone with its owner*: dropping the [`Router`] stops its threads, which drain for a bounded time;
//!   a [`Handle`] tells when they ended.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kernel::door::Door;
use kernel::netns::NetnsError;
use kernel::socket::SocketError;
use registry::{Consumer, Notes, Outcome, Snapshot};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::answer::Identity;
use crate::compile::{self, Vips};
use crate::config::Config;
use crate::diff;
use crate::live::{Endpoints, Live};
use crate::stats::Stats;
use crate::table::RouteTable;
use crate::thread::{self, Shared};

/// One cluster's router: serves HTTP from its making to its dropping.
pub struct Router {
    config: Arc<Config>,
    vips: watch::Receiver<Arc<Vips>>,
    live: Arc<ArcSwap<Live>>,
    endpoints: Endpoints,
    handle: Handle,
}

/// What others may know of a running router, and how they stop it.
#[derive(Clone, Debug)]
pub struct Handle {
    address: SocketAddr,
    stats: Arc<Stats>,
    stop: CancellationToken,
    threads: TaskTracker,
}

/// Why a router cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// Somebody else listens there.
    #[error("cannot listen for HTTP on {address}: the address is in use")]
    Busy {
        /// Where.
        address: SocketAddr,
        /// As the kernel said it.
        source: io::Error,
    },
    /// The kernel refuses the address.
    #[error("cannot listen for HTTP on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// As the kernel said it.
        source: io::Error,
    },
    /// A further listener on the same address could not be made.
    #[error("cannot listen for HTTP on {address} once more")]
    Share {
        /// Where.
        address: SocketAddr,
        /// What was tried.
        source: Box<SocketError>,
    },
    /// The thread that makes sockets in other namespaces cannot start.
    #[error("cannot start the thread that makes sockets in other network namespaces")]
    Door(#[source] Box<NetnsError>),
    /// A serving thread cannot start.
    #[error("cannot start a serving thread")]
    Thread(#[source] io::Error),
}

impl RouterError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Busy { .. } => Some(
                "stop the program that listens there (`ss -ltnp` shows it), or choose another \
                 address with `router.clusters.NAME.http`",
            ),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("choose a port above 1023, or run as root")
            }
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrNotAvailable => {
                Some("choose an address of this machine with `router.clusters.NAME.http`")
            }
            Self::Share { source, .. } => source.remedy(),
            Self::Listen { .. } | Self::Door(_) | Self::Thread(_) => None,
        }
    }
}

impl Router {
    /// Binds `config.http` and starts serving an empty table. Where `listener` is given it is used
    /// instead, shared by all threads: a process that is about to move into another namespace makes
    /// it before.
    pub fn new(
        config: Config,
        vips: watch::Receiver<Arc<Vips>>,
        listener: Option<TcpListener>,
    ) -> Result<Self, RouterError> {
        let (address, listeners) = listeners(&config, listener)?;
        let config = Arc::new(config);
        let live = Arc::new(ArcSwap::from_pointee(Live::default()));
        let stop = CancellationToken::new();
        let stats = Arc::new(Stats::default());
        let threads = TaskTracker::new();
        let shared = Shared {
            identity: Identity::new(&proxy_id(&config)),
            live: Arc::clone(&live),
            stats: Arc::clone(&stats),
            door: Door::open().map_err(|source| RouterError::Door(Box::new(source)))?,
            connections: Arc::new(Semaphore::new(
                config.limits.connections.min(Semaphore::MAX_PERMITS),
            )),
            stop: stop.clone(),
            config: Arc::clone(&config),
        };
        // Made before the threads: should one of them fail to start, dropping it stops the others.
        let router = Self {
            config,
            vips,
            live,
            endpoints: Endpoints::default(),
            handle: Handle { address, stats, stop, threads },
        };
        for listener in listeners {
            start(shared.clone(), listener, router.handle.threads.token())?;
        }
        router.handle.threads.close();
        Ok(router)
    }

    /// What others may know of it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Handle {
    /// Where HTTP is accepted.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was counted since the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Asks the threads to end: no new connections, requests in flight get `timeouts.drain`.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns when all threads have ended.
    pub async fn ended(&self) {
        self.threads.wait().await;
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// What the threads get to end after their drain time is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Consumer for Router {
    const NAME: &'static str = "router";
    type Plan = RouteTable;

    fn compile(&mut self, snapshot: &Arc<Snapshot>) -> (RouteTable, Notes) {
        let vips = Arc::clone(&self.vips.borrow_and_update());
        compile::compile(snapshot, &vips, &self.config)
    }

    async fn apply(&mut self, plan: &Arc<RouteTable>) -> Outcome {
        let before = self.live.load_full();
        let changes = diff::diff(&before.table, plan);
        for change in &changes {
            tracing::debug!("{change}");
        }
        let count = changes.len();
        if count > 0 {
            self.live.store(Arc::new(self.endpoints.enliven(plan)));
        }
        Outcome { changes: count, failures: Notes::default() }
    }

    async fn nudged(&mut self) {
        if self.vips.changed().await.is_err() {
            // Nobody gives out VIPs any more: those that are known stay.
            std::future::pending::<()>().await;
        }
    }

    async fn finish(self) {
        let handle = self.handle();
        handle.stop();
        // The threads bound their own drain; this is for one that does not keep to it.
        if timeout(self.config.timeouts.drain + LAST_WORDS, handle.ended()).await.is_err() {
            tracing::warn!("requests in flight were cut at the end of the drain time");
        }
    }
}

/// One listener for each thread, all on one address.
fn listeners(
    config: &Config,
    given: Option<TcpListener>,
) -> Result<(SocketAddr, Vec<TcpListener>), RouterError> {
    let count = config.threads.get();
    if let Some(listener) = given {
        let address = config.http;
        let failed = |source| RouterError::Listen { address, source };
        let address = listener.local_addr().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let clones = (1..count).map(|_| listener.try_clone().map_err(failed));
        let mut listeners = clones.collect::<Result<Vec<_>, _>>()?;
        listeners.push(listener);
        return Ok((address, listeners));
    }
    refuse_busy(config.http)?;
    let mut address = config.http;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = kernel::socket::tcp_listener_reuseport(address, BACKLOG)
            .map_err(|source| RouterError::Share { address, source: Box::new(source) })?;
        // Port 0: all the others go where the kernel put the first.
        address =
            listener.local_addr().map_err(|source| RouterError::Listen { address, source })?;
        listeners.push(listener);
    }
    Ok((address, listeners))
}

/// Listeners that share a port would also share it with another portolan, which would get half of
/// the connections; one that does not share fails where anybody else is.
fn refuse_busy(address: SocketAddr) -> Result<(), RouterError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
            Err(RouterError::Busy { address, source })
        }
        Err(source) => Err(RouterError::Listen { address, source }),
    }
}

fn start(
    shared: Shared,
    listener: TcpListener,
    alive: TaskTrackerToken,
) -> Result<(), RouterError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RouterError::Thread)?;
    let listener = {
        let _in_runtime = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(RouterError::Thread)?
    };
    let serve = move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, thread::run(shared, listener, random()));
        drop(local);
        drop(alive);
    };
    let thread = std::thread::Builder::new().name("router".to_owned()).spawn(serve);
    thread.map(drop).map_err(RouterError::Thread)
}

/// What `x-proxy-id` says.
fn proxy_id(config: &Config) -> String {
    if let Some(id) = &config.proxy_id {
        return id.clone();
    }
    match rustix::system::uname().nodename().to_str() {
        Ok(name) if !name.is_empty() => name.to_owned(),
        Ok(_) | Err(_) => format!("{:012x}", random() >> 16),
    }
}

/// A number that differs from process to process and from call to call.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Connections that the kernel keeps for each listener while its thread is busy.
const BACKLOG: i32 = 4096;

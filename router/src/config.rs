//! How one cluster's router behaves. Every field may take any value of its type; what is named
//! here as a default is what `Limits::default()` and `Timeouts::default()` give.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use hyper::StatusCode;
use ipnet::IpNet;

/// One cluster's router.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Where plain HTTP is accepted; port 0 lets the kernel choose.
    pub http: SocketAddr,
    /// The service cluster it serves (`com.docker.lb.service_cluster`); empty for the default one.
    pub cluster: String,
    /// How many threads serve, each with its own listener and its own connections to the tasks:
    /// one per core.
    pub threads: NonZeroUsize,
    /// What `x-proxy-id` says; `None`: this machine's host name, or 12 random hex digits.
    pub proxy_id: Option<String>,
    /// The answer for hosts and paths that no service asked for.
    pub unknown_host: UnknownHost,
    /// Peers whose `X-Forwarded-*` are believed; usually other proxies. Nobody by default.
    pub trusted: Vec<IpNet>,
    /// How much a client may ask for.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
}

/// The answer for hosts and paths that no service asked for. Interlock's proxies gave either,
/// depending on the image.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UnknownHost {
    /// 404.
    #[default]
    NotFound,
    /// 503.
    Unavailable,
}

/// How much a client may ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Client connections open at a time, over all threads; more wait in the kernel's backlog.
    pub connections: usize,
    /// Bytes of a request's target, 414 above.
    pub target: usize,
    /// Bytes of a request's head, 431 above. At most [`Limits::HEAD_MAX`] counts.
    pub head: usize,
    /// Bytes of a request's body, 413 above; `None`: any number.
    pub body: Option<u64>,
    /// Idle connections kept for each task by each thread.
    pub idle_per_backend: usize,
    /// Idle connections kept in all by each thread.
    pub idle: usize,
    /// Tasks tried until one accepts a connection.
    pub tries: usize,
}

/// How long things may take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// From a request's first byte to the end of its head (408), and from a connection's start to
    /// its first request.
    pub head: Duration,
    /// Between two requests of a connection, which is then closed.
    pub keep_alive: Duration,
    /// Between two pieces of a request's body (408).
    pub body: Duration,
    /// While a client takes none of what was written for it; the connection is then dropped.
    pub stall: Duration,
    /// To connect to one task.
    pub connect: Duration,
    /// From the end of the request, or its last piece, to the head of the response (504).
    pub response: Duration,
    /// Between two pieces of a response's body; the transfer is then broken off.
    pub response_body: Duration,
    /// How long an unused connection to a task is kept.
    pub idle: Duration,
    /// How long requests in flight may still take once the router stops.
    pub drain: Duration,
}

impl Limits {
    /// What is kept of a head while it is read; no more, whatever is configured.
    pub const HEAD_MAX: usize = 64 * 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384, // 22 KiB each when idle: 350 MiB at the worst
            target: 16 * 1024,   // twice the longest that browsers and caches are known to send
            head: 32 * 1024,     // nginx: 4 x 8 KiB
            body: None,          // image registries and uploads are ordinary services
            idle_per_backend: 64,
            idle: 4096,
            tries: 3,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75), // nginx
            body: Duration::from_secs(60),       // nginx, Interlock
            stall: Duration::from_secs(60),      // nginx
            connect: Duration::from_secs(5),
            response: Duration::from_secs(60),
            response_body: Duration::from_secs(600), // Interlock's ReadTimeout: event streams
            idle: Duration::from_secs(4),            // below Node's 5 s, the shortest in wide use
            drain: Duration::from_secs(10),
        }
    }
}

impl UnknownHost {
    /// The status that says so.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

//! Serves sandboxes and the host, with two threads of their own, apart from whoever compiles plans,
//! so that a burst of changes delays no answer. One, `dns-local`, answers datagrams with what is
//! known; the other, `dns-ask`, does all that may have to wait: streams, and questions that
//! somebody else is asked. A flood of foreign names so costs local ones nothing but a core.
//!
//! Invariants
//! - *a swap, not a restart*: a new view reaches a [`Desk`] as one pointer; its sockets stay;
//! - *apart*: what is bounded (questions outside, TCP connections) is bounded for each sandbox, so
//!   one that floods us hurts itself;
//! - *honest*: [`Server::pulse`] moves while the threads serve, and [`Serving::ended`] tells
//!   when a sandbox's task is no more; whoever holds the takeover watches both.

mod errand;
mod tcp;
mod udp;

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use kernel::door::Door;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::answer::Reason;
use crate::engine::{self, Engine};
use crate::fast::Seat;
use crate::metrics::{Metrics, Source};
use crate::plan::{HostView, Outside, View};
use crate::respond::{Step, Whom, respond_counted, respond_host};
use crate::upstream::Asker;
use crate::upstream::limits::{Leave, MAX_WAITING, SandboxLimits};
use crate::upstream::realm::Realm;
use crate::wire::{self, Query, Rcode, Recursion, Transport};
use errand::Errand;

/// The threads that answer.
#[derive(Debug)]
pub(crate) struct Server {
    local: Worker,
    ask: Worker,
}

/// The sockets of one sandbox, or the host's.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// For datagrams.
    pub(crate) udp: UdpSocket,
    /// For streams.
    pub(crate) tcp: TcpListener,
}

/// Sockets that are being served; dropping it closes them.
#[derive(Debug)]
pub(crate) struct Serving {
    /// Who answers there.
    pub(crate) desk: Arc<Desk>,
    ended: CancellationToken,
    _stop: DropGuard,
}

/// Why the serving thread did not start, or took no more work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// No thread, or no runtime for it.
    #[error("cannot start the thread that answers DNS: {0}")]
    Start(#[from] std::io::Error),
    /// It ended.
    #[error("the thread that answers DNS has ended")]
    Ended,
    /// Too many sandboxes wait for it.
    #[error("the thread that answers DNS is behind by {ORDERS} sandboxes")]
    Behind,
}

impl Server {
    /// Starts the threads; they end when the `Server` is dropped.
    pub(crate) fn start() -> Result<Self, ServerError> {
        Ok(Self { local: Worker::start("dns-local")?, ask: Worker::start("dns-ask")? })
    }

    /// Serves `sockets` at `desk` from now on.
    pub(crate) fn open(&self, desk: &Arc<Desk>, sockets: Sockets) -> Result<Serving, ServerError> {
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (errands, queue) = mpsc::channel(MAX_WAITING);
        let order = |work| Order {
            desk: Arc::clone(desk),
            work,
            stop: stop.clone(),
            ended: ended.clone().drop_guard(),
        };
        self.ask.take(order(Work::Ask(sockets.tcp, queue)))?;
        self.local.take(order(Work::Datagrams(sockets.udp, errands)))?;
        Ok(Serving { desk: Arc::clone(desk), ended, _stop: stop.drop_guard() })
    }

    /// Numbers that grow while the threads serve.
    pub(crate) fn pulse(&self) -> [u64; 2] {
        [&self.local, &self.ask].map(|it| it.pulse.load(Relaxed))
    }
}

impl Serving {
    /// Whether nobody answers there any more, though nobody asked for that.
    pub(crate) fn ended(&self) -> bool {
        self.ended.is_cancelled()
    }
}

/// Who answers at some sockets, and with what.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each sandbox, behind an Arc")]
pub(crate) enum Desk {
    /// Inside a sandbox.
    Sandbox(SandboxDesk),
    /// On the host.
    Host {
        /// What is known.
        view: ArcSwap<HostView>,
        /// Where is counted.
        metrics: Arc<Metrics>,
    },
}

/// What answering inside a sandbox takes.
#[derive(Debug)]
pub(crate) struct SandboxDesk {
    /// What is known.
    pub(crate) seat: ArcSwap<Seat>,
    /// The engine's resolver there.
    pub(crate) engine: Engine,
    /// How sockets are made there.
    pub(crate) door: Door,
    /// Its way to upstream servers.
    pub(crate) realm: Realm,
    /// What may be asked outside.
    pub(crate) limits: SandboxLimits,
    /// Where is counted.
    pub(crate) metrics: Arc<Metrics>,
}

impl Desk {
    /// Where is counted.
    fn metrics(&self) -> &Metrics {
        match self {
            Self::Sandbox(desk) => &desk.metrics,
            Self::Host { metrics, .. } => metrics,
        }
    }

    /// What is done about what a client sent.
    fn step(&self, octets: &[u8], transport: Transport, seed: u64) -> Step {
        match self {
            Self::Sandbox(desk) => {
                let seat = desk.seat.load();
                respond_counted(&seat.view, octets, transport, seed, &desk.metrics)
            }
            Self::Host { view, metrics } => {
                respond_host(&view.load(), octets, transport, seed, metrics)
            }
        }
    }

    /// Leave to ask outside; where too many ask already the reply, from what is kept if anything is.
    fn leave(&self, query: &Query, whom: Whom, transport: Transport) -> Result<Leave, Vec<u8>> {
        let refused = |code, reason| {
            self.metrics().answered(Source::Refused, code);
            wire::refusal(query, code, reason, Recursion::Offered)
        };
        let Self::Sandbox(desk) = self else {
            return Err(refused(Rcode::REFUSED, Reason::Plain)); // the host's view never asks
        };
        desk.limits.leave(whom).map_err(|reason| {
            if whom == Whom::Upstream
                && let Some(asker) = Asker::of(&desk.seat.load().view)
                && let Some((reply, source, code)) = desk.realm.remembered(asker, query, transport)
            {
                desk.metrics.answered(source, code);
                return reply;
            }
            Metrics::count(&desk.metrics.busy);
            refused(Rcode::SERVFAIL, reason)
        })
    }

    /// The reply of somebody else to `query`, which has `leave` to be asked.
    async fn ask(&self, query: &Query, whom: Whom, leave: &Leave, transport: Transport) -> Vec<u8> {
        let Self::Sandbox(desk) = self else {
            return wire::refusal(query, Rcode::REFUSED, Reason::Plain, Recursion::Offered);
        };
        let view = Arc::clone(&desk.seat.load().view);
        let told = match whom {
            Whom::Engine => desk.ask_engine(&view, leave, query, transport).await,
            Whom::Upstream => None,
        };
        let given = match (told, Asker::of(&view), &view.outside) {
            (Some(told), ..) => told,
            (None, Some(asker), _) => desk.realm.resolve(asker, leave, query, transport).await,
            (None, None, Outside::Internal) => Err(Reason::Internal),
            (None, None, _) => Err(Reason::NoServers),
        };
        let (reply, source) = given.unwrap_or_else(|reason| {
            if reason == Reason::Busy {
                Metrics::count(&desk.metrics.busy);
            }
            let asked = reason == Reason::Unreachable;
            let source = if asked { Source::Upstream } else { Source::Refused };
            (wire::refusal(query, Rcode::SERVFAIL, reason, Recursion::Offered), source)
        });
        if let Some(header) = wire::Header::read(&reply) {
            desk.metrics.answered(source, header.rcode());
        }
        reply
    }
}

impl SandboxDesk {
    /// What the engine's own resolver says; `None`: servers outside are to be asked.
    async fn ask_engine(
        &self,
        view: &View,
        leave: &Leave,
        query: &Query,
        transport: Transport,
    ) -> Option<Result<(Vec<u8>, Source), Reason>> {
        let _until_answered = match leave.engine() {
            Ok(permit) => permit,
            Err(reason) => return Some(Err(reason)),
        };
        let told = engine::ask(&self.door, &self.engine, view, query, transport).await?;
        Some(Ok((told, Source::Engine)))
    }
}

/// Sandboxes that wait to be served; all of a large host's at a start.
const ORDERS: usize = 4096;
/// Often enough that two are missed well before the dead-man's element expires.
const BEAT: Duration = Duration::from_millis(250);

/// A thread that serves, with a runtime of its own.
#[derive(Debug)]
struct Worker {
    orders: mpsc::Sender<Order>,
    pulse: Arc<AtomicU64>,
}

struct Order {
    desk: Arc<Desk>,
    work: Work,
    stop: CancellationToken,
    /// Dropped with the task, however that ends.
    ended: DropGuard,
}

/// What is done for a desk, by one of the threads.
enum Work {
    /// Datagrams are answered, or become errands.
    Datagrams(UdpSocket, mpsc::Sender<Errand>),
    /// Streams are served, and errands run.
    Ask(TcpListener, mpsc::Receiver<Errand>),
}

impl Worker {
    fn start(name: &str) -> std::io::Result<Self> {
        let (orders, queue) = mpsc::channel(ORDERS);
        let pulse = Arc::new(AtomicU64::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let beat = Arc::clone(&pulse);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(run(queue, beat)))?;
        Ok(Self { orders, pulse })
    }

    fn take(&self, order: Order) -> Result<(), ServerError> {
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => ServerError::Ended,
            mpsc::error::TrySendError::Full(_) => ServerError::Behind,
        })
    }
}

async fn run(mut queue: mpsc::Receiver<Order>, pulse: Arc<AtomicU64>) {
    let mut desks = JoinSet::new();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beat.tick() => {
                pulse.fetch_add(1, Relaxed);
            }
            order = queue.recv() => match order {
                Some(order) => {
                    desks.spawn(serve(order));
                }
                None => return,
            },
            Some(done) = desks.join_next(), if !desks.is_empty() => report(done),
        }
    }
}

async fn serve(order: Order) {
    let Order { desk, work, stop, ended } = order;
    tokio::select! {
        () = stop.cancelled() => {}
        done = work.run(&desk) => if let Err(error) = done {
            tracing::error!(%error, "cannot serve sockets that were just made");
        },
    }
    drop(ended);
}

impl Work {
    async fn run(self, desk: &Arc<Desk>) -> std::io::Result<()> {
        match self {
            Self::Datagrams(socket, errands) => {
                udp::serve(desk, tokio::net::UdpSocket::from_std(socket)?, errands).await;
            }
            Self::Ask(listener, errands) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::select! {
                    () = tcp::serve(desk, listener) => {}
                    () = errand::run(desk, errands) => {}
                }
            }
        }
        Ok(())
    }
}

/// A panic in one task stays there, and is said.
fn report(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        tracing::error!(%error, "a DNS task panicked");
    }
}

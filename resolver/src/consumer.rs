//! The resolver as one of the registry's consumers.
//!
//! Always true here: constructing it needs no rights; everything privileged happens in `apply`,
//! and what fails there is a note on the sandbox that it fails for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use registry::{Consumer, Notes, Outcome, Snapshot};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::apply::Keeper;
use crate::compile::Compiler;
use crate::holder::HolderProgram;
use crate::host::HostSockets;
use crate::metrics::{Counts, Metrics, Source};
use crate::plan::{Config, Plan, View, VipTable};
use crate::upstream::Outlook;
use crate::upstream::policy::Policy;
use crate::upstream::register::{CacheFigures, Flushed, Register, UpstreamState};
use crate::wire::Query;

/// Answers names in every sandbox and on the host.
#[derive(Debug)]
pub struct Resolver {
    compiler: Compiler,
    vips: watch::Receiver<Arc<VipTable>>,
    host: Option<HostSockets>,
    holder: Option<HolderProgram>,
    meter: Meter,
    /// `None`: not started yet, or its thread has ended.
    keeper: Option<Keeper>,
    last: Plan,
}

/// Why the resolver could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host's listener could not be bound.
    #[error(
        "cannot listen for DNS on {address}: {source}; stop what listens there, or set \
         `dns.host_listen` to another address or to \"off\""
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The refusal.
        source: io::Error,
    },
    /// Sockets that were handed over could not be used.
    #[error("cannot use the DNS sockets that were handed over: {0}")]
    Sockets(#[source] io::Error),
}

/// What the counters stand at, and what is known outside, for whoever asks while the resolver runs.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    metrics: Arc<Metrics>,
    upstreams: Arc<Register>,
}

impl Meter {
    /// The counters now.
    pub fn counts(&self) -> Counts {
        self.metrics.counts()
    }

    /// How the servers outside are, in order of their addresses; a bounded number of them. Those
    /// that no sandbox has asked yet are not there.
    pub fn states(&self) -> Vec<UpstreamState> {
        self.upstreams.states()
    }

    /// What is kept of what servers outside said.
    pub fn cache(&self) -> CacheFigures {
        let hits = [Source::Cache, Source::Stale].map(|it| self.metrics.given_by(it)).iter().sum();
        CacheFigures { hits, ..self.upstreams.cache() }
    }

    /// Forgets all that is kept of what servers outside said. How they are stays known.
    pub fn flush(&self) -> Flushed {
        self.upstreams.flush()
    }

    /// What is known outside about `questions` of the sandbox of `view`. Nobody is asked.
    pub fn outlook(&self, view: &View, questions: &[Query]) -> Outlook {
        self.upstreams.outlook(view, questions)
    }

    /// Questions that servers outside are being asked now.
    pub fn in_flight(&self) -> usize {
        self.upstreams.in_flight()
    }
}

impl Resolver {
    /// A resolver that serves nothing yet. `host` are sockets to use instead of
    /// [`Config::host_listen`]; `vips` is what the VIP manager allocated last.
    pub fn new(
        config: Config,
        vips: watch::Receiver<Arc<VipTable>>,
        host: Option<HostSockets>,
    ) -> Result<Self, StartError> {
        let host = match (host, config.host_listen) {
            (Some(given), _) => Some(given.nonblocking().map_err(StartError::Sockets)?),
            (None, Some(address)) => Some(
                HostSockets::bind(address)
                    .and_then(HostSockets::nonblocking)
                    .map_err(|source| StartError::Listen { address, source })?,
            ),
            (None, None) => None,
        };
        let (meter, last) = (Meter::default(), Plan::default());
        Ok(Self {
            compiler: Compiler::new(config),
            vips,
            host,
            holder: None,
            meter,
            keeper: None,
            last,
        })
    }

    /// Has `program` give all sandboxes back when this process dies; see [`crate::hold`].
    #[must_use]
    pub fn held_by(self, program: HolderProgram) -> Self {
        Self { holder: Some(program), ..self }
    }

    /// Counts on `meter`, which outlives it.
    #[must_use]
    pub fn counting_on(self, meter: &Meter) -> Self {
        Self { meter: meter.clone(), ..self }
    }

    /// A handle on the counters that outlives the move into the consumer's loop.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Where operators ask, if anywhere.
    pub fn host_address(&self) -> Option<SocketAddr> {
        self.host.as_ref().and_then(|it| it.udp.local_addr().ok())
    }

    fn keeper(&mut self) -> Result<&Keeper, String> {
        if self.keeper.is_none() {
            let host = self.host.as_ref().map(HostSockets::try_clone).transpose();
            let host = host.map_err(|error| format!("cannot use the host's sockets: {error}"))?;
            let Meter { metrics, upstreams } = &self.meter;
            let policy = Policy::new(&self.compiler.config().upstream, upstreams);
            let started = Keeper::start(host, self.holder.clone(), metrics, policy);
            let started = started.map_err(|error| error.to_string())?;
            self.keeper = Some(started);
        }
        self.keeper.as_ref().ok_or_else(|| "the keeper did not start".to_owned())
    }
}

impl Consumer for Resolver {
    const NAME: &'static str = "resolver";
    type Plan = Plan;

    fn compile(&mut self, snapshot: &Arc<Snapshot>) -> (Plan, Notes) {
        let vips = Arc::clone(&self.vips.borrow_and_update());
        let (plan, notes) = self.compiler.compile(snapshot, &vips);
        let plan = plan.sharing_with(&self.last);
        self.last = plan.clone();
        (plan, notes)
    }

    async fn apply(&mut self, plan: &Arc<Plan>) -> Outcome {
        let trouble = match self.keeper() {
            Ok(keeper) => match timeout(APPLY, keeper.apply(plan)).await {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {
                    self.keeper = None; // a new one begins with the next apply
                    "the thread that holds sandboxes has ended; it is started anew".to_owned()
                }
                Err(_) => format!("the kernel did not take the changes within {APPLY:?}"),
            },
            Err(error) => error,
        };
        let mut outcome = Outcome::default();
        outcome.failures.error("resolver", "", trouble, "see the log for what came before");
        outcome
    }

    async fn nudged(&mut self) {
        if self.vips.changed().await.is_err() {
            // No VIP manager: nothing will ever change.
            std::future::pending::<()>().await;
        }
    }

    fn upkeep(&self) -> Option<Duration> {
        Some(UPKEEP)
    }
}

/// A thousand sandboxes take a second or two; beyond this the kernel is stuck.
const APPLY: Duration = Duration::from_secs(60);
/// Until what was lost or came late is looked for again.
const UPKEEP: Duration = Duration::from_secs(1);

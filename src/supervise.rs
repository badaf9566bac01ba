//! Runs the parts of the process: the source that fills the registry, the judge between it and the
//! consumers, each consumer on a thread of its own, the admin socket.
//!
//! Invariants
//! - *isolated*: a consumer that panics is started anew after a pause; the others do not notice;
//! - *bounded*: [`Supervisor::stop`] waits for the router's drain time and [`GRACE`], no longer;
//! - *told*: a start that cannot succeed (a busy port, a bad world file, missing rights) is an
//!   error of [`Supervisor::start`], not a line in a log.

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use registry::consumer::Backoff;
use registry::health::Verdicts;
use registry::source::{self, Publisher};
use registry::{Consumer, Events, Report, Snapshot, World, drive};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::config::{Config, Source};
use crate::host::ThisHost;
use crate::{judging, thrift};

/// How long the parts get to end in order, besides the time that requests in flight get.
const GRACE: Duration = Duration::from_secs(5);

/// The verb by which this program is the process that gives sandboxes back when it dies.
const HOLD: &str = "hold";

/// Which consumers this process runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parts {
    /// DNS.
    pub resolver: bool,
    /// VIPs and balancing.
    pub vip: bool,
    /// HTTP.
    pub router: bool,
}

impl Parts {
    /// Everything, as `up` does unless told otherwise.
    pub fn all() -> Self {
        Self { resolver: true, vip: true, router: true }
    }
}

/// Sockets that were made elsewhere and are to be used instead of the configured addresses.
#[derive(Debug, Default)]
pub struct Given {
    /// The router's listener.
    pub http: Option<TcpListener>,
    /// The operators' DNS.
    pub dns: Option<resolver::HostSockets>,
}

/// What the parts last said, for whoever asks.
#[derive(Clone, Debug)]
pub struct Live {
    /// The newest snapshot.
    pub world: World,
    /// The resolver's last report.
    pub resolver: Reports<resolver::Plan>,
    /// The VIP manager's last report.
    pub vip: Reports<vip::Plan>,
    /// The routing mesh's last report.
    pub mesh: Reports<vip::mesh::Plan>,
    /// The router's last report.
    pub router: Reports<router::RouteTable>,
    /// What the resolver counts.
    pub dns: resolver::Meter,
    /// What the VIP manager counts.
    pub balancing: vip::Meter,
    /// Whether published ports are led.
    pub meshed: vip::mesh::Enabled,
    /// Whom the resolver may ask outside.
    pub upstream: Arc<resolver::UpstreamConfig>,
    /// The parts that run.
    pub parts: Parts,
    /// Where the world is read from.
    pub source: Arc<Source>,
    /// The newest snapshot as the source told it, before health checks had their say.
    pub told: World,
    /// What health checks last said. Its generation is the source's, not that of `world`.
    pub health: Reports<vip::health::Plan>,
    /// What health checks count.
    pub probes: vip::health::Probes,
    /// What happened lately.
    pub events: Events,
}

type Reports<P> = watch::Receiver<Option<Arc<Report<P>>>>;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Rights or kernel features are missing.
    #[error(transparent)]
    Missing(#[from] kernel::privilege::Missing),
    /// The world file is wrong.
    #[error(transparent)]
    World(#[from] crate::config::ConfigErrors),
    /// The resolver could not start.
    #[error(transparent)]
    Resolver(#[from] resolver::StartError),
    /// The router could not start.
    #[error(transparent)]
    Router(#[from] router::RouterError),
    /// The admin socket could not be made.
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    /// Namespaces cannot be entered.
    #[error(transparent)]
    Host(kernel::netns::NetnsError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// The running parts.
#[derive(Debug)]
pub struct Supervisor {
    live: Live,
    stop: CancellationToken,
    grace: Duration,
    tasks: JoinSet<()>,
    consumers: Vec<(&'static str, std::thread::JoinHandle<()>)>,
    /// Goes last: until then nobody else is this machine's portolan.
    _lock: Arc<admin::Lock>,
}

impl Supervisor {
    /// Starts `parts` as `config` says.
    pub async fn start(config: &Config, parts: Parts, given: Given) -> Result<Self, StartError> {
        if parts.resolver || parts.vip {
            kernel::privilege::check_capabilities()?;
            check_nftables(config, parts)?;
        }
        let admin = admin::listen(&config.admin_socket).await?;
        let port = match config.admin_listen {
            Some(address) => Some(admin::AdminPort::open(address).await?),
            None => None,
        };
        let stop = CancellationToken::new();
        // What was started before a part that cannot start ends with it.
        let started = stop.clone().drop_guard();
        let (snapshots, source_world) = watch::channel(Arc::new(Snapshot::default()));
        let mut tasks = JoinSet::new();
        start_source(config, snapshots, &mut tasks, &stop)?;
        let (judged, world) = watch::channel(Arc::new(Snapshot::default()));
        let (verdicts, found) = watch::channel(Arc::default());
        let events = Events::default();
        let judging =
            judging::judge(source_world.clone(), found, judged, events.clone(), stop.clone());
        tasks.spawn(judging);
        let mut starting = Starting {
            config,
            world: world.clone(),
            stop: &stop,
            meter: resolver::Meter::default(),
            balancing: vip::Meter::default(),
            probes: vip::health::Probes::default(),
            events: events.clone(),
            threads: vec![],
        };
        let health = starting.health(source_world.clone(), verdicts)?;
        let (vips, vip_table) = watch::channel(Arc::default());
        let telling =
            judging::tell_of_vips(vip_table.clone(), world.clone(), events.clone(), stop.clone());
        tasks.spawn(telling);
        let vip = if parts.vip { starting.vip(vips)? } else { none() };
        let mesh = if parts.vip { starting.mesh()? } else { none() };
        let resolver =
            if parts.resolver { starting.resolver(vip_table.clone(), given.dns)? } else { none() };
        let router = if parts.router { starting.router(vip_table, given.http)? } else { none() };
        let consumers = starting.threads;
        let (dns, balancing, probes) = (starting.meter, starting.balancing, starting.probes);
        let upstream = Arc::new(config.resolver.upstream.clone());
        let live = Live {
            world,
            resolver,
            vip,
            mesh,
            router,
            dns,
            balancing,
            meshed: config.mesh.enabled,
            upstream,
            parts,
            source: Arc::new(config.source.clone()),
            told: source_world,
            health,
            probes,
            events,
        };
        let lock = admin.serve(live.clone(), &mut tasks, stop.clone());
        if let Some(port) = port {
            port.serve(live.clone(), &mut tasks, stop.clone());
        }
        tasks.spawn(thrift::give_back(live.clone(), stop.clone()));
        started.disarm();
        let grace = config.router.timeouts.drain.saturating_add(GRACE);
        Ok(Self { live, stop, grace, tasks, consumers, _lock: lock })
    }

    /// Waits until every part has made its first plan true without a failure.
    pub async fn ready(&self) {
        ready(&self.live).await;
    }

    /// What is missing for [`Supervisor::ready`], with the reason each part gave.
    pub fn unready(&self) -> String {
        admin::status(&self.live).unready()
    }

    /// Ends all parts and waits for them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = async {
            while self.tasks.join_next().await.is_some() {}
            while self.consumers.iter().any(|(_, thread)| !thread.is_finished()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(self.grace, ended).await.is_err() {
            let late = self.consumers.iter().filter(|(_, thread)| !thread.is_finished());
            let late: Vec<_> = late.map(|(name, _)| *name).collect();
            tracing::warn!(?late, grace = ?self.grace, "still running after the grace period; left behind");
            self.tasks.abort_all();
        }
    }
}

/// Without nftables VIPs can be relayed, and DNS stays the engine's.
fn check_nftables(config: &Config, parts: Parts) -> Result<(), StartError> {
    match kernel::privilege::check_nftables() {
        Err(missing) if parts.vip && config.vip.data_plane != vip::DataPlane::Nftables => {
            tracing::warn!(
                "{missing}; VIPs are relayed in userspace, names are left to the engine"
            );
            Ok(())
        }
        outcome => outcome.map_err(StartError::from),
    }
}

/// Waits until every part has made the present world, or a later one, true without a failure.
pub(crate) async fn ready(live: &Live) {
    let mut live = live.clone();
    live.world.wait_for(|snapshot| snapshot.generation() > 0).await.ok();
    let goal = live.world.borrow().generation();
    if live.parts.vip {
        done(&mut live.vip, goal).await;
        done(&mut live.mesh, goal).await;
    }
    if live.parts.resolver {
        done(&mut live.resolver, goal).await;
    }
    if live.parts.router {
        done(&mut live.router, goal).await;
    }
}

async fn done<P>(reports: &mut Reports<P>, goal: u64) {
    let reached = |report: &Option<Arc<Report<P>>>| {
        report.as_ref().is_some_and(|it| it.generation >= goal && !it.outcome.failures.has_errors())
    };
    // An error means that the part ended; then somebody else is about to stop us.
    reports.wait_for(reached).await.ok();
}

fn none<P>() -> Reports<P> {
    watch::channel(None).1
}

fn start_source(
    config: &Config,
    snapshots: watch::Sender<Arc<Snapshot>>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let stop = stop.clone();
    match &config.source {
        Source::World(path) => {
            let publisher = Publisher::new(snapshots);
            let follower = source::world::open(path, &publisher)
                .map_err(crate::config::ConfigErrors::from_world)?;
            tasks.spawn(async move { follower.follow(publisher, stop).await });
        }
        Source::Docker(docker) => {
            let host = ThisHost::open().map_err(StartError::Host)?;
            let docker = source::docker::Config {
                endpoint: docker.endpoint.clone(),
                poll_interval: docker.poll_interval,
            };
            tasks.spawn(async move { source::docker::run(docker, host, snapshots, stop).await });
        }
    }
    Ok(())
}

struct Starting<'a> {
    config: &'a Config,
    world: World,
    stop: &'a CancellationToken,
    /// Counts on when the resolver is started anew.
    meter: resolver::Meter,
    /// The same for the VIP manager.
    balancing: vip::Meter,
    probes: vip::health::Probes,
    events: Events,
    threads: Vec<(&'static str, std::thread::JoinHandle<()>)>,
}

impl Starting<'_> {
    /// Checks look at the world as the source tells it: what they find is put over it afterwards.
    fn health(
        &mut self,
        source: World,
        verdicts: watch::Sender<Arc<Verdicts>>,
    ) -> Result<Reports<vip::health::Plan>, StartError> {
        let (probes, events) = (self.probes.clone(), self.events.clone());
        let make = move || {
            let made = vip::Health::new(verdicts.clone(), probes.clone(), events.clone());
            made.map_err(StartError::Host)
        };
        self.consumer_of(source, make)
    }

    fn vip(
        &mut self,
        vips: watch::Sender<Arc<VipTable>>,
    ) -> Result<Reports<vip::Plan>, StartError> {
        let (config, meter) = (self.config.vip.clone(), self.balancing.clone());
        let events = self.events.clone();
        self.consumer(move || {
            let vip = vip::Vip::new(config.clone(), vips.clone());
            Ok(vip.counting_on(&meter).telling(&events))
        })
    }

    fn mesh(&mut self) -> Result<Reports<vip::mesh::Plan>, StartError> {
        let (config, meter) = (self.config.mesh.clone(), self.balancing.clone());
        self.consumer(move || Ok(vip::Mesh::new(config.clone()).counting_on(&meter)))
    }

    fn resolver(
        &mut self,
        vips: watch::Receiver<Arc<VipTable>>,
        given: Option<resolver::HostSockets>,
    ) -> Result<Reports<resolver::Plan>, StartError> {
        let (config, meter) = (self.config.resolver.clone(), self.meter.clone());
        let clone = move || given.as_ref().map(resolver::HostSockets::try_clone).transpose();
        self.consumer(move || {
            let given = clone().map_err(StartError::Thread)?;
            let resolver = resolver::Resolver::new(config.clone(), vips.clone(), given)?;
            let resolver = resolver.counting_on(&meter);
            Ok(resolver.held_by(resolver::HolderProgram::itself(&[HOLD])))
        })
    }

    fn router(
        &mut self,
        vips: watch::Receiver<Arc<VipTable>>,
        given: Option<TcpListener>,
    ) -> Result<Reports<router::RouteTable>, StartError> {
        let config = self.config.router.clone();
        let clone = move || given.as_ref().map(TcpListener::try_clone).transpose();
        self.consumer(move || {
            let given = clone().map_err(StartError::Thread)?;
            Ok(router::Router::new(config.clone(), vips.clone(), given)?)
        })
    }

    fn consumer<C: Consumer + 'static>(
        &mut self,
        make: impl Fn() -> Result<C, StartError> + Send + 'static,
    ) -> Result<Reports<C::Plan>, StartError> {
        self.consumer_of(self.world.clone(), make)
    }

    /// Makes a consumer, and drives it on a thread of its own; after a panic it is made anew.
    fn consumer_of<C: Consumer + 'static>(
        &mut self,
        world: World,
        make: impl Fn() -> Result<C, StartError> + Send + 'static,
    ) -> Result<Reports<C::Plan>, StartError> {
        let (sender, reports) = watch::channel(None);
        let stop = self.stop.clone();
        let mut first = Some(make()?);
        let body = move || {
            let mut backoff = Backoff::default();
            while !stop.is_cancelled() {
                let consumer = match first.take().map_or_else(&make, Ok) {
                    Ok(consumer) => consumer,
                    Err(error) => {
                        tracing::error!(consumer = C::NAME, %error, "cannot be started anew");
                        std::thread::sleep(backoff.pause());
                        continue;
                    }
                };
                let once = || run(consumer, world.clone(), sender.clone(), stop.clone());
                if catch_unwind(AssertUnwindSafe(once)).is_ok() {
                    return;
                }
                tracing::error!(consumer = C::NAME, "panicked; starting it anew");
                std::thread::sleep(backoff.pause());
            }
        };
        let thread = std::thread::Builder::new().name(C::NAME.to_owned()).spawn(body);
        self.threads.push((C::NAME, thread.map_err(StartError::Thread)?));
        Ok(reports)
    }
}

type VipTable = resolver::VipTable;

fn run<C: Consumer>(
    consumer: C,
    world: World,
    reports: watch::Sender<Option<Arc<Report<C::Plan>>>>,
    stop: CancellationToken,
) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(drive(consumer, world, reports, stop)),
        Err(error) => tracing::error!(consumer = C::NAME, %error, "cannot make a runtime"),
    }
}

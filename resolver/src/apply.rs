//! Makes a plan true: opens, closes and re-zones sandboxes, and keeps their takeovers alive.
//!
//! One thread does all of it, because what it does is netlink and waits for the kernel; it is
//! neither the one that compiles nor the one that answers.
//!
//! Invariants
//! - *apart*: what fails in one sandbox is a note on it, and stops no other;
//! - *never rebound*: data that changes reaches an open sandbox as a pointer;
//! - *refreshed while served*: a takeover is refreshed every [`REFRESH`] as long as the serving
//!   thread shows a pulse and the sandbox's own task lives, and not otherwise;
//! - *let go*: a namespace that its path no longer names is closed within [`REFRESH`], so that
//!   nothing of ours keeps it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kernel::door::Door;
use kernel::netns::{Netns, NetnsError, still_there};
use kernel::nft::NftError;
use kernel::socket::{SocketError, tcp_listener, udp_bound};
use registry::id::SandboxId;
use registry::{Notes, Outcome};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::compile::SANDBOX_ADDRESS;
use crate::diff::{Change, diff};
use crate::engine::Engine;
use crate::fast::Seat;
use crate::holder::{Answering, Hold, Holder, HolderProgram};
use crate::host::HostSockets;
use crate::metrics::Metrics;
use crate::plan::{HostView, Plan, View};
use crate::serve::{Desk, SandboxDesk, Server, ServerError, Serving, Sockets};
use crate::takeover::{Ports, Takeover};
use crate::upstream::exchange::Place;
use crate::upstream::limits::SandboxLimits;
use crate::upstream::policy::Policy;
use crate::upstream::realm::Realm;

/// The thread that holds all sandboxes. It ends, and gives everything back, when dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    orders: mpsc::Sender<Order>,
}

/// Why a keeper did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    /// The thread that answers did not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The thread that makes sockets did not start.
    #[error(transparent)]
    Door(#[from] NetnsError),
    /// The keeper's own thread did not start.
    #[error("cannot start the thread that holds sandboxes: {0}")]
    Thread(#[from] std::io::Error),
}

impl Keeper {
    /// Starts the threads; `host` are the sockets that operators ask, `holder` gives sandboxes back
    /// when this process dies.
    pub(crate) fn start(
        host: Option<HostSockets>,
        holder: Option<HolderProgram>,
        metrics: &Arc<Metrics>,
        policy: Policy,
    ) -> Result<Self, KeeperError> {
        let (orders, queue) = mpsc::channel(1); // the consumer waits for each order
        let server = Server::start()?;
        let host = match host {
            Some(HostSockets { udp, tcp }) => {
                let view = ArcSwap::from_pointee(HostView::default());
                let desk = Arc::new(Desk::Host { view, metrics: Arc::clone(metrics) });
                Some(server.open(&desk, Sockets { udp, tcp })?)
            }
            None => None,
        };
        let room = Room {
            server,
            door: Door::open()?,
            host,
            holder: Holder::start(holder),
            metrics: Arc::clone(metrics),
            policy: Arc::new(policy),
            views: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            last_pulse: [0; 2],
            refreshed: Instant::now(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new()
            .name("dns-keep".to_owned())
            .spawn(move || runtime.block_on(room.keep(queue)))?;
        Ok(Self { orders })
    }

    /// Makes `plan` true; `None`: the thread is no more.
    pub(crate) async fn apply(&self, plan: &Arc<Plan>) -> Option<Outcome> {
        let (reply, outcome) = oneshot::channel();
        self.orders.send(Order { plan: Arc::clone(plan), reply }).await.ok()?;
        outcome.await.ok()
    }
}

/// Thrice within the dead-man's time: one that comes late does no harm.
const REFRESH: Duration = Duration::from_secs(1);
/// A tick may come a little early; and there are several beats of the pulse in between.
const DUE: Duration = Duration::from_millis(900);

struct Order {
    plan: Arc<Plan>,
    reply: oneshot::Sender<Outcome>,
}

/// All that is held. Dropped from the top: takeovers are given back while somebody still answers.
struct Room {
    sandboxes: BTreeMap<SandboxId, Held>,
    holder: Holder,
    host: Option<Serving>,
    server: Server,
    door: Door,
    metrics: Arc<Metrics>,
    /// What the operator wants of questions to upstream servers.
    policy: Arc<Policy>,
    /// Whose sandboxes these are, with the views that they have.
    views: BTreeMap<SandboxId, Arc<View>>,
    last_pulse: [u64; 2],
    refreshed: Instant,
}

/// One sandbox that is served. Dropped from the top, as [`Room`].
struct Held {
    /// `None`: it could not be made, or is gone; the next apply tries again.
    takeover: Option<Takeover>,
    hold: Option<Hold>,
    answering: Answering,
    serving: Serving,
    ports: Ports,
    inode: u64,
    /// The takeover was lost, and not won back yet.
    lost: bool,
}

/// Why a sandbox is not served.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot tell the port of a socket: {0}")]
    Port(#[from] std::io::Error),
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl Room {
    async fn keep(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut tick = interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order { plan, reply }) => {
                        let outcome = self.apply(&plan);
                        // Whoever asked may have been stopped meanwhile.
                        drop(reply.send(outcome));
                    }
                    None => return,
                },
                _ = tick.tick() => self.refresh_if_due(),
            }
        }
    }

    fn apply(&mut self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome::default();
        if self.holder.missing() {
            outcome.failures.warning(
                "resolver",
                "holder",
                "no process gives sandboxes back when this one dies; the kernel does it alone, \
                 one after another",
                "none needed: it is started anew; the log says why it is not there",
            );
        }
        if let Some(Desk::Host { view, .. }) = self.host.as_ref().map(|it| &*it.desk)
            && !Arc::ptr_eq(&view.load(), &plan.host)
        {
            view.store(Arc::clone(&plan.host));
        }
        let served = self.views.clone();
        for change in diff(&served, plan) {
            tracing::debug!(%change);
            match change {
                Change::Rezone(view) => {
                    // It may have been let go since the changes were worked out: then it has no
                    // view either, and the next plan opens it.
                    if let Some(held) = self.sandboxes.get(&view.sandbox) {
                        held.rezone(view);
                        self.views.insert(view.sandbox.clone(), Arc::clone(view));
                    }
                }
                Change::Close(id) => {
                    self.sandboxes.remove(id);
                    self.views.remove(id);
                }
                Change::Open(view) => match self.open(view) {
                    Ok(mut held) => {
                        held.take_over(view, &self.holder, &mut outcome);
                        if held.takeover.is_some() {
                            tracing::info!(sandbox = %view.name, "took over DNS");
                        }
                        self.sandboxes.insert(view.sandbox.clone(), held);
                        self.views.insert(view.sandbox.clone(), Arc::clone(view));
                    }
                    Err(error) => {
                        unopened(&mut outcome.failures, view, &error);
                        continue;
                    }
                },
            }
            outcome.changes += 1;
            self.refresh_if_due();
        }
        for (id, view) in served.iter().filter(|(id, _)| plan.views.contains_key(*id)) {
            if let Some(held) = self.sandboxes.get_mut(id).filter(|it| it.takeover.is_none()) {
                held.take_over(view, &self.holder, &mut outcome);
                if held.takeover.is_some() && std::mem::take(&mut held.lost) {
                    Metrics::count(&self.metrics.takeovers_won_back);
                    tracing::info!(sandbox = %view.name, "won DNS back");
                }
            }
        }
        outcome
    }

    fn open(&self, view: &Arc<View>) -> Result<Held, OpenError> {
        let netns = Netns::open_checked(&view.netns, view.cookie)?;
        let address = SocketAddr::from((SANDBOX_ADDRESS, 0)); // the kernel chooses the port
        let udp = udp_bound(&netns, address)?;
        let tcp = tcp_listener(&netns, address)?;
        let own = Ports { udp: udp.local_addr()?.port(), tcp: tcp.local_addr()?.port() };
        let answering = Answering { udp: udp.try_clone()?.into(), tcp: tcp.try_clone()?.into() };
        let place = Place { netns: view.netns.clone(), cookie: view.cookie };
        let realm = Realm::new(&self.policy, self.door.clone(), place.clone());
        realm.follow(view);
        let desk = Arc::new(Desk::Sandbox(SandboxDesk {
            seat: ArcSwap::from_pointee(Seat::counted(Arc::clone(view), &self.metrics)),
            realm,
            engine: Engine::new(place, own.udp),
            door: self.door.clone(),
            limits: SandboxLimits::new(Instant::now()),
            metrics: Arc::clone(&self.metrics),
        }));
        let serving = self.server.open(&desk, Sockets { udp, tcp })?;
        let inode = netns.inode();
        let (takeover, hold, lost) = (None, None, false);
        Ok(Held { takeover, hold, answering, serving, ports: own, inode, lost })
    }

    /// A long apply must not let the takeovers of others expire.
    fn refresh_if_due(&mut self) {
        if self.refreshed.elapsed() >= DUE {
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        self.refreshed = Instant::now();
        let pulse = self.server.pulse();
        let serves = pulse.iter().zip(&self.last_pulse).all(|(now, last)| now != last);
        self.last_pulse = pulse;
        self.holder.watch();
        let views = &mut self.views;
        self.sandboxes.retain(|id, held| {
            let Some(view) = views.get(id) else { return false };
            let gone = !still_there(&view.netns, held.inode);
            if gone || held.serving.ended() {
                tracing::info!(sandbox = %view.name, gone, "let go");
                views.remove(id);
                return false;
            }
            if serves
                && let Some(takeover) = &mut held.takeover
                && let Err(error) = takeover.refresh()
            {
                tracing::warn!(sandbox = %view.name, error = causes(&error), "takeover lost");
                Metrics::count(&self.metrics.takeovers_lost);
                held.takeover = None;
                held.hold = None;
                held.lost = true;
            }
            held.hand_over(&self.holder);
            true
        });
        if !serves {
            tracing::warn!("the thread that answers DNS shows no pulse; takeovers are not renewed");
        }
    }
}

impl Held {
    /// Makes the takeover; where that fails the sandbox keeps the engine's DNS.
    fn take_over(&mut self, view: &View, holder: &Holder, outcome: &mut Outcome) {
        let made = Netns::open_checked(&view.netns, view.cookie)
            .map_err(NftError::from)
            .and_then(|netns| Takeover::make(&netns, self.ports));
        match made {
            Ok(takeover) => {
                self.takeover = Some(takeover);
                self.hand_over(holder);
                outcome.changes += 1;
            }
            Err(error) => outcome.failures.error(
                format!("sandbox {}", view.name),
                "portolan_dns",
                format!("still uses the engine's DNS: {}", causes(&error)),
                error.remedy().unwrap_or("none needed if the container is stopping"),
            ),
        }
    }

    /// Puts what is taken over into the hands of the holder that runs now.
    fn hand_over(&mut self, holder: &Holder) {
        if let Some(takeover) = &self.takeover
            && !holder.has(self.hold.as_ref())
        {
            self.hold = holder.hold(takeover, &self.answering);
        }
    }

    fn rezone(&self, view: &Arc<View>) {
        if let Desk::Sandbox(desk) = &*self.serving.desk {
            desk.seat.store(Arc::new(Seat::counted(Arc::clone(view), &desk.metrics)));
            desk.realm.follow(view);
        }
    }
}

/// A namespace that is not there, or is another one, has usually left with its container: no
/// error, and tried again with the next upkeep.
fn unopened(failures: &mut Notes, view: &View, error: &OpenError) {
    let subject = format!("sandbox {}", view.name);
    let text = format!("is not served: {}", causes(error));
    let (left, remedy) = match error {
        OpenError::Netns(source @ (NetnsError::Open { .. } | NetnsError::Replaced { .. })) => {
            (source.remedy().is_none(), source.remedy())
        }
        OpenError::Netns(source) => (false, source.remedy()),
        OpenError::Socket(source) => (false, source.remedy()),
        OpenError::Port(_) | OpenError::Server(_) => (false, None),
    };
    let remedy = remedy.unwrap_or("none needed if the container is starting or stopping");
    if left {
        failures.warning(subject, "netns", text, remedy);
    } else {
        failures.error(subject, "netns", text, remedy);
    }
}

/// An error and what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kernel::link;

    use super::*;
    use crate::plan::Outside;

    fn plan(netns: &BTreeMap<&str, std::path::PathBuf>, ttl: u32) -> Plan {
        let view = |(name, path): (&&str, &std::path::PathBuf)| {
            let view = View {
                sandbox: (*name).into(),
                name: (*name).to_owned(),
                netns: path.clone(),
                cookie: None,
                zones: Vec::new(),
                subnets: Vec::new(),
                links: BTreeMap::new(),
                hosts: BTreeMap::new(),
                outside: Outside::NoServers,
                suffixes: Arc::default(),
                forward_single_label: false,
                ttl,
            };
            (view.sandbox.clone(), Arc::new(view))
        };
        Plan { views: netns.iter().map(view).collect(), ..Plan::default() }
    }

    fn room() -> Room {
        Room {
            server: Server::start().unwrap(),
            door: Door::open().unwrap(),
            host: None,
            holder: Holder::start(None),
            metrics: Arc::default(),
            policy: Arc::new(Policy::new(&crate::UpstreamConfig::default(), &Arc::default())),
            views: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            last_pulse: [u64::MAX; 2], // whatever the pulse is, it differs
            refreshed: Instant::now(),
        }
    }

    #[test]
    fn a_table_that_is_lost_is_noticed_by_the_next_refresh_and_made_anew() {
        let netns = Netns::fresh().unwrap();
        link::set_up(&netns, "lo").unwrap();
        let plan = plan(&BTreeMap::from([("a", netns.path().to_owned())]), 1);
        let mut room = room();
        room.apply(&plan);
        let lost = |room: &Room| room.sandboxes.values().filter(|it| it.takeover.is_none()).count();
        room.refresh();
        assert_eq!(lost(&room), 0);
        for held in room.sandboxes.values_mut() {
            held.takeover.as_mut().unwrap().lose();
        }
        room.last_pulse = [u64::MAX; 2];
        room.refresh();
        assert_eq!(lost(&room), 1);
        room.apply(&plan);
        assert_eq!(lost(&room), 0);
        let counts = room.metrics.counts();
        assert_eq!((counts.takeovers_lost, counts.takeovers_won_back), (1, 1));
    }

    #[test]
    fn a_sandbox_that_leaves_while_others_get_new_data_is_opened_when_it_is_back() {
        let folder = std::env::temp_dir().join(format!("portolan-apply-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let namespaces = ["a", "b"].map(|name| (name, Netns::fresh().unwrap()));
        let paths = BTreeMap::from(namespaces.each_ref().map(|(name, netns)| {
            link::set_up(netns, "lo").unwrap();
            std::os::unix::fs::symlink(netns.path(), folder.join(name)).unwrap();
            (*name, folder.join(name))
        }));
        let mut room = room();
        let served = |room: &Room| room.sandboxes.keys().cloned().collect::<BTreeSet<_>>();
        let both = BTreeSet::from([SandboxId::from("a"), SandboxId::from("b")]);
        room.apply(&plan(&paths, 1));
        assert_eq!(served(&room), both);

        std::fs::remove_file(&paths["b"]).unwrap();
        room.refreshed -= DUE; // the next change is followed by a refresh, as in a long apply
        room.apply(&plan(&paths, 2));
        assert_eq!(served(&room), BTreeSet::from([SandboxId::from("a")]));
        std::os::unix::fs::symlink(namespaces[1].1.path(), &paths["b"]).unwrap();
        room.apply(&plan(&paths, 2));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(served(&room), both);
    }
}

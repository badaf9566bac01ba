//! Drives the plan into every namespace, a few at a time, and looks after what is there.
//!
//! Invariants
//! - *no sandbox waits for another*: what fails in one is a note on it, and is tried again; those
//!   that are known come before those that are new, because their changes are short;
//! - *nothing lost*: an address is published before it is balanced, and written to disk at the same
//!   time: only who is killed in that moment may give it to another service after its restart;
//! - *nothing of the runtime blocks*: namespaces are visited on threads for blocking work;
//! - *stopping changes nothing*: tables stay and work for ten minutes.

mod errand;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use registry::event::Kind;
use registry::id::SandboxId;
use registry::{Consumer, Events, Notes, Outcome, Snapshot};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::errand::{Done, Errand, Watched, host_addresses, host_routes};
use crate::aftermath::{Aftermath, Scene};
use crate::compile::{Config, compile};
use crate::drain::Drain;
use crate::lease::Leases;
use crate::lease_file::LeaseFile;
use crate::logbook::{Log, Logbook};
use crate::meter::{Meter, Metrics, Place};
use crate::plan::{Addresses, Balances, Plan, SandboxPlan};
use crate::sandbox::{Known, SandboxError, Tally, UPKEEP, Visit};
use crate::steps::Steps;
use crate::userspace::Userspace;
use crate::watch::{Watch, Watches};

/// How many namespaces are visited at the same time. Transactions of different namespaces do not
/// wait for each other in the kernel; more than this only takes processors from the containers.
const AT_ONCE: usize = 4;

/// How long after a start a task that is seen to drain may be one that drained before it. An
/// engine's source needs some seconds to see all who do.
const SEEN_AGAIN: Duration = Duration::from_secs(60);

/// How long sandboxes wait for the engine to tell who is on their networks, which it does within
/// seconds. Their tables, of a portolan that ended lately, live longer.
const UNREAD_FOR: Duration = Duration::from_secs(300);

/// When the logbook is written that had to wait for an older one.
const LOG_AGAIN: Duration = Duration::from_millis(100);

/// The VIP manager.
#[derive(Debug)]
pub struct Vip {
    config: Config,
    begun: Instant,
    /// When the host's routes were read last.
    looked_at_host: Option<Instant>,
    /// Nothing of ours is on the host, where nothing is to be.
    left_host: bool,
    file: LeaseFile,
    /// As of the last plan, or of the file.
    leases: Arc<Leases>,
    /// What the file says, if it was written.
    stored: Option<Arc<Leases>>,
    /// What reading the file had to say: it stays true until the next start.
    loading: Notes,
    addresses: watch::Sender<Arc<Addresses>>,
    /// The tables of the last plan, to be shared by the next.
    tables: Arc<BTreeMap<SandboxId, Arc<Balances>>>,
    /// What leads from those before to them.
    steps: Arc<Steps>,
    sandboxes: BTreeMap<SandboxId, Visited>,
    logbook: Logbook,
    /// What the portolan before this one left, until there is a world to compare it with.
    left: Log,
    /// Until when drains that it saw may be seen again.
    remembers_until: Option<Instant>,
    /// Whether the last plan is that of a world, and not of nothing known yet.
    knows_world: bool,
    /// Whether the logbook says all of it.
    logged: bool,
    aftermath: Aftermath,
    watches: Watches,
    userspace: Userspace,
    meter: Meter,
    events: Events,
}

/// A sandbox that was visited.
#[derive(Debug)]
struct Visited {
    netns: PathBuf,
    known: Known,
    /// Hears what others do to the table.
    watch: Option<Watch>,
}

impl Vip {
    /// Reads the leases of the last run. Every VIP is published through `addresses` as soon as it
    /// is known, for the resolver.
    pub fn new(config: Config, addresses: watch::Sender<Arc<Addresses>>) -> Self {
        let file = LeaseFile::in_dir(&config.state_dir);
        let (leases, loading) = file.load();
        let leases = Arc::new(leases);
        let stored = Some(Arc::clone(&leases));
        let userspace = Userspace::new(config.data_plane, config.drain);
        let host_routes = host_routes(config.pools()).unwrap_or_default();
        let host_addresses = host_addresses(config.host);
        let config = Config { host_routes, host_addresses, ..config };
        let (logbook, left) = Logbook::in_dir(&config.state_dir);
        Self {
            config,
            begun: Instant::now(),
            looked_at_host: None,
            left_host: false,
            file,
            leases,
            stored,
            loading,
            addresses,
            tables: Arc::default(),
            steps: Arc::default(),
            sandboxes: BTreeMap::new(),
            logbook,
            left,
            remembers_until: None,
            knows_world: false,
            logged: true,
            aftermath: Aftermath::default(),
            watches: Watches::default(),
            userspace,
            meter: Meter::default(),
            events: Events::default(),
        }
    }

    /// Tells of what it finds and does on `events`.
    #[must_use]
    pub fn telling(self, events: &Events) -> Self {
        Self { events: events.clone(), ..self }
    }

    /// Counts on `meter` what it does.
    #[must_use]
    pub fn counting_on(self, meter: &Meter) -> Self {
        let userspace = self.userspace.counting_on(meter.relay());
        Self { meter: meter.clone(), userspace, ..self }
    }

    /// What is to be done for `plan`, what is shortest first.
    fn errands(&mut self, plan: &Plan, now: Instant) -> VecDeque<Errand> {
        let mut errands = VecDeque::new();
        if self.stored.as_ref() != Some(&plan.leases) {
            errands.push_back(Errand::Store(Arc::clone(&plan.leases)));
        }
        let doubted = self.watches.doubted();
        Metrics::add(&self.meter.metrics().foreign_changes, doubted.len());
        for id in doubted {
            if let Some(visited) = self.sandboxes.get_mut(&id) {
                visited.known.doubt();
            }
        }
        let seen_long_ago = |at: Instant| now.saturating_duration_since(at) >= UPKEEP;
        if self.looked_at_host.is_none_or(seen_long_ago) {
            self.looked_at_host = Some(now);
            errands.push_back(Errand::LookAtHost(self.config.pools(), self.config.host));
        }
        if !self.config.host && !self.left_host {
            errands.push_back(Errand::LeaveHost);
        }
        let mut new = Vec::new();
        let waits = |id| self.waits(plan, id, now);
        let waiting: BTreeSet<_> = plan.sandboxes.keys().filter(|it| waits(it)).collect();
        let ours = |id| !self.userspace.serves(id) && !waiting.contains(id);
        let wanted: Vec<_> = plan.sandboxes.iter().filter(|(id, _)| ours(id)).collect();
        for (id, plan) in wanted {
            let (id, plan) = (id.clone(), plan.clone());
            match self.sandboxes.remove(&id) {
                Some(visited)
                    if visited.netns == plan.netns && visited.known.is_content(&plan, now) =>
                {
                    self.sandboxes.insert(id, visited);
                }
                Some(visited) if visited.netns == plan.netns => {
                    let Visited { known, watch, .. } = visited;
                    let (known, before) = (Some(known), None);
                    errands.push_back(Errand::Settle { id, plan, known, watch, before });
                }
                before => {
                    let (known, watch, before) = (None, None, before.map(Box::new));
                    new.push(Errand::Settle { id, plan, known, watch, before });
                }
            }
        }
        let gone: Vec<_> =
            self.sandboxes.keys().filter(|id| !plan.sandboxes.contains_key(id)).cloned().collect();
        for id in gone {
            if let Some(visited) = self.sandboxes.remove(&id) {
                errands.push_back(Errand::Leave { id, visited });
            }
        }
        errands.extend(new);
        errands
    }

    /// Whether what a portolan before this one left there is better than what is known now: who
    /// serves on a network of the sandbox was not told yet, which is not nobody.
    fn waits(&self, plan: &Plan, id: &SandboxId, now: Instant) -> bool {
        plan.unread.contains(id)
            && now.saturating_duration_since(self.begun) < UNREAD_FOR
            && self.sandboxes.get(id).is_some_and(|it| !it.known.is_settled())
    }

    fn tell_of_waiting(&self, plan: &Plan, now: Instant, outcome: &mut Outcome) {
        let names = plan.sandboxes.iter().filter(|(id, _)| self.waits(plan, id, now));
        for (_, SandboxPlan { name, .. }) in names {
            outcome.failures.warning(
                format!("sandbox {name}"),
                "vip",
                "the engine does not tell yet who serves on its networks; its VIPs stay as they were",
                "see what `status` says of the engine",
            );
        }
    }

    /// Takes over what the portolan before this one left, as soon as it can be compared.
    fn take_over(&mut self, now: Instant) {
        if self.remembers_until.is_some_and(|it| now >= it) {
            self.remembers_until = None;
            self.aftermath.forget();
        }
        if !self.knows_world {
            return;
        }
        let Log { places, drains } = std::mem::take(&mut self.left);
        for (id, (netns, cookie)) in places {
            let known = Known::place(cookie, now);
            self.sandboxes.entry(id).or_insert(Visited { netns, known, watch: None });
        }
        if !drains.is_empty() {
            let today = now_ms();
            let age = |since: u64| Duration::from_millis(today.saturating_sub(since));
            let ages = drains.into_iter().map(|(it, since)| (it, age(since))).collect();
            self.aftermath.remember(ages, now);
            self.remembers_until = Some(now + SEEN_AGAIN);
        }
    }

    /// Writes down what the next portolan has to know.
    fn log(&mut self, now: Instant) {
        if !self.knows_world {
            return;
        }
        let place =
            |(id, it): (&SandboxId, &Visited)| (id.clone(), (it.netns.clone(), it.known.cookie));
        let (today, written) = (now_ms(), &self.logbook.last().drains);
        let since = |(drain, age): (&Drain, Duration)| {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            // What is written stays as it is: two clocks never agree to the millisecond.
            let since = written.get(drain).copied();
            (drain.clone(), since.unwrap_or_else(|| today.saturating_sub(age)))
        };
        let drains = self.aftermath.ages(now).map(since).collect();
        let places = self.sandboxes.iter().map(place).collect();
        self.logged = self.logbook.keep(Log { places, drains });
    }

    /// Looks for flows that lead nowhere in sandboxes whose tables stay as they are.
    fn look_after(&mut self, plan: &Plan, expired: &[Drain]) {
        let mut places = Vec::with_capacity(self.sandboxes.len());
        for (id, Visited { netns, known, watch: _ }) in &self.sandboxes {
            let Some(SandboxPlan { name, balances, .. }) = plan.sandboxes.get(id) else { continue };
            let (cookie, netns) = (known.cookie, &**netns);
            self.aftermath.look(Scene { id, name, netns, cookie, balances }, expired);
            if !balances.is_empty() {
                let (netns, balances) = (netns.to_owned(), Arc::clone(balances));
                places.push(Place { netns, cookie, balances });
            }
        }
        self.meter.metrics().found_at(places);
    }

    fn count(&self, tally: &Tally) {
        let metrics = self.meter.metrics();
        for took in &tally.transactions {
            metrics.committed(*took);
        }
        Metrics::add(&metrics.takeovers, usize::from(tally.made));
        Metrics::add(&metrics.adoptions, usize::from(tally.adopted));
        Metrics::add(&metrics.tables_replaced, tally.replaced);
    }

    fn account(&mut self, done: Done, plan: &Plan, outcome: &mut Outcome) {
        match done {
            Done::Visited { id, name, netns, visit, watched } => {
                let Visit { known, changes, failures, suspect, tally } = *visit;
                outcome.changes += changes;
                self.count(&tally);
                if tally.repaired {
                    let text = "somebody else changed its VIP table, which was put right";
                    self.events.emit(Kind::Repair, format!("sandbox {name}"), text);
                }
                for failure in &failures {
                    if !self.userspace.takes_over(&id, failure) {
                        report(outcome, &name, failure);
                    }
                }
                let Some(known) = known else { return };
                if let Some(SandboxPlan { balances, .. }) = plan.sandboxes.get(&id) {
                    let (cookie, netns) = (known.cookie, &*netns);
                    let scene = Scene { id: &id, name: &name, netns, cookie, balances };
                    self.aftermath.changed(scene, suspect);
                }
                let watch = match watched {
                    Watched::Nobody => None,
                    Watched::As(watch) => Some(watch),
                    Watched::Anew(begun) => Some(self.watches.follow(id.clone(), begun)),
                };
                self.sandboxes.insert(id, Visited { netns, known, watch });
            }
            // The next compile heeds it: a VIP moves when the world changes, not on its own.
            Done::LookedAtHost(routes, addresses) => {
                self.config.host_addresses = addresses;
                if let Some(routes) = routes {
                    self.config.host_routes = routes;
                }
            }
            Done::LeftHost(Ok(changes)) => {
                outcome.changes += changes;
                self.left_host = true;
            }
            Done::LeftHost(Err(error)) => report(outcome, "host", &error),
            Done::Stored(Ok(leases)) => self.stored = Some(leases),
            Done::Stored(Err(error)) => outcome.failures.error(
                "vip leases",
                "",
                format!("{}; after a restart allocated VIPs may change", chain(&error)),
                "make `state_dir` writable and see that its disk is not full",
            ),
        }
    }
}

impl Consumer for Vip {
    const NAME: &'static str = "vip";
    type Plan = Plan;

    fn compile(&mut self, snapshot: &Arc<Snapshot>) -> (Plan, Notes) {
        let (mut plan, mut notes) = compile(snapshot, &self.leases, now_ms(), &self.config);
        self.steps = Arc::new(plan.share(&self.tables));
        self.knows_world = snapshot.generation() > 0;
        if !self.knows_world {
            // No source has said anything yet: nobody's address is given up for that.
            plan.leases = Arc::clone(&self.leases);
        }
        let tables = plan.sandboxes.iter().map(|(id, it)| (id.clone(), Arc::clone(&it.balances)));
        let tables = Arc::new(tables.collect());
        self.aftermath.compiled(snapshot, &plan, &self.tables, &tables);
        self.tables = tables;
        self.leases = Arc::clone(&plan.leases);
        self.addresses.send_if_modified(|published| {
            let news = *published != plan.addresses;
            if news {
                *published = Arc::clone(&plan.addresses);
            }
            news
        });
        notes.extend(self.loading.clone());
        notes.extend(self.userspace.notes(&plan));
        (plan, notes)
    }

    async fn apply(&mut self, plan: &Arc<Plan>) -> Outcome {
        let now = Instant::now();
        let mut outcome = Outcome::default();
        self.take_over(now);
        let expired = self.aftermath.pass(now, &self.meter);
        for Drain { network, vip, task } in &expired {
            let text =
                format!("its time to drain behind {vip} on {network} is over: connections are cut");
            self.events.emit(Kind::Drain, format!("task at {task}"), text);
        }
        self.tell_of_waiting(plan, now, &mut outcome);
        let mut errands = self.errands(plan, now);
        let mut running = JoinSet::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(errand) = errands.pop_front()
            {
                let (file, steps) = (self.file.clone(), Arc::clone(&self.steps));
                running.spawn_blocking(move || errand.run(&file, &steps, now));
            }
            match running.join_next().await {
                Some(Ok(done)) => self.account(done, plan, &mut outcome),
                // What was known of that sandbox is lost with it; the next visit reads back.
                Some(Err(error)) => outcome.failures.error(
                    "vip",
                    "",
                    format!("a visit of a sandbox failed: {error}"),
                    "none needed: it is tried again; report it as a bug",
                ),
                None => break,
            }
        }
        self.steps.rest();
        self.userspace.apply(plan, now, &mut outcome).await;
        self.look_after(plan, &expired);
        for (name, failure) in self.aftermath.go_on(&self.meter, &self.events) {
            report(&mut outcome, &name, &failure);
        }
        self.log(now);
        outcome
    }

    fn bell(&self) -> Option<Arc<Notify>> {
        Some(self.watches.bell())
    }

    fn upkeep(&self) -> Option<Duration> {
        let log = (!self.logged).then_some(LOG_AGAIN);
        let next = self.aftermath.next(Instant::now()).into_iter().chain(log).min();
        Some(next.map_or(UPKEEP, |next| next.min(UPKEEP)))
    }
}

pub(crate) fn report(outcome: &mut Outcome, sandbox: &str, failure: &SandboxError) {
    let remedy = failure.remedy().unwrap_or("none needed: it is tried again");
    outcome.failures.error(format!("sandbox {sandbox}"), "vip", chain(failure), remedy);
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Milliseconds since the epoch.
fn now_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the edge: leases outlive the process's clocks")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

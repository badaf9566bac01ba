//! Makes a plan true: threads that serve, sockets in the namespaces that it names, and the
//! redirections that lead to them.
//!
//! Invariants
//! - *only differences*: an entrance that stays keeps its sockets and its sessions;
//! - *nobody waits for another*: an entrance that cannot be opened is a failure of its own, and
//!   tried again with the next [`Relay::apply`];
//! - *nothing before it is needed*: threads start with the first entrance;
//! - *gone with its owner*: dropping the [`Relay`] resets all sessions and ends the threads.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use kernel::door::Door;
use kernel::listening::{Listening, Spot};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::choice::Memory;
use super::diff::{Change, diff};
use super::error::{Applied, Failure, RelayError};
use super::gate::Sign;
use super::limits::{Census, Limits};
use super::meter::Meter;
use super::plan::{Entrance, Place, Plan, Target, Way};
use super::redirect::{Ports, Redirect, families};
use super::sockets::{is_open, make, redirect, spot};
use super::worker::{self, Command, Listen, Thread};

/// The userspace data plane.
#[derive(Debug)]
pub struct Relay {
    limits: Arc<Limits>,
    census: Arc<Census>,
    meter: Meter,
    threads: Vec<Serving>,
    open: BTreeMap<Entrance, Open>,
    places: BTreeMap<Place, u64>,
    redirects: BTreeMap<(Place, bool), Redirect>,
    /// Numbers given to entrances and places.
    numbers: u64,
}

/// A serving thread.
#[derive(Debug)]
struct Serving {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

/// An entrance that is as planned.
#[derive(Debug)]
struct Open {
    sign: Sign,
    target: Arc<Target>,
    standing: Standing,
}

/// What stands at an entrance.
#[derive(Debug)]
enum Standing {
    /// Nobody: the kernel refuses clients.
    Nobody,
    /// We listen, at this port.
    Listening(u16),
    /// A port is held at which clients are refused.
    Refusing(Listening),
}

/// One entrance that is to be opened or changed.
struct Job {
    sign: Sign,
    target: Arc<Target>,
    /// What has to be made for it; `None`: nothing, what stands there is right.
    spot: Option<Spot>,
}

impl Relay {
    /// A relay of nothing.
    pub fn new(limits: Limits) -> Self {
        Self {
            census: Census::new(&limits),
            limits: Arc::new(limits),
            meter: Meter::default(),
            threads: Vec::new(),
            open: BTreeMap::new(),
            places: BTreeMap::new(),
            redirects: BTreeMap::new(),
            numbers: 0,
        }
    }

    /// Counts on `meter` what it does.
    #[must_use]
    pub fn counting_on(self, meter: &Meter) -> Self {
        Self { meter: meter.clone(), ..self }
    }

    /// What it counts.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Makes `plan` true; what is so already is left alone.
    pub async fn apply(&mut self, plan: &Plan) -> Applied {
        let mut applied = Applied::default();
        let held: Plan =
            self.open.iter().map(|(key, it)| (key.clone(), Arc::clone(&it.target))).collect();
        let changes = diff(&held, plan);
        if changes.is_empty() {
            return applied;
        }
        if let Err(error) = self.start() {
            let subject = "relay".to_owned();
            applied.failures.push(Failure { subject, error: RelayError::Thread(error) });
            return applied;
        }
        let mut jobs: BTreeMap<Place, Vec<Job>> = BTreeMap::new();
        for change in changes {
            tracing::debug!("{change}");
            match change {
                Change::Close(entrance) => {
                    self.close(entrance).await;
                    applied.changes += 1;
                }
                Change::Open { entrance, target } | Change::Retarget { entrance, target } => {
                    match self.job(entrance, target) {
                        Ok(job) => jobs.entry(entrance.place.clone()).or_default().push(job),
                        Err(error) => {
                            let subject = entrance.to_string();
                            applied.failures.push(Failure { subject, error });
                        }
                    }
                }
            }
        }
        for (place, jobs) in jobs {
            self.work(place, jobs, &mut applied).await;
        }
        self.settle_redirects(&mut applied).await;
        self.settled().await;
        self.places.retain(|place, _| self.open.keys().any(|it| it.place == *place));
        self.meter.tidy();
        if self.threads.iter().any(|it| it.thread.is_finished()) {
            // All that it served is gone; the next time all of it is made anew, and until then
            // nobody is led to ports where nobody listens.
            self.threads.clear();
            self.open.clear();
            self.redirects.clear();
            let error = RelayError::Thread(io::Error::other("one has ended"));
            applied.failures.push(Failure { subject: "relay".to_owned(), error });
        }
        applied
    }

    /// Resets all sessions, and returns when the threads have ended.
    pub async fn finish(mut self) {
        self.redirects.clear();
        let threads = std::mem::take(&mut self.threads);
        let join = move || {
            for Serving { commands, thread } in threads {
                drop(commands);
                if thread.join().is_err() {
                    tracing::error!("a relaying thread panicked");
                }
            }
        };
        if spawn_blocking(join).await.is_err() {
            tracing::error!("waiting for the relaying threads failed");
        }
    }

    fn start(&mut self) -> io::Result<()> {
        if !self.threads.is_empty() {
            return Ok(());
        }
        let door = Door::open().map_err(io::Error::other)?;
        // All of them or none: each entrance has a socket for each.
        let mut threads = Vec::new();
        for number in 0..self.limits.threads.get() {
            let (commands, queue) = mpsc::channel(COMMANDS);
            let seed = RandomState::new().build_hasher().finish();
            let (limits, census) = (Arc::clone(&self.limits), Arc::clone(&self.census));
            let (runtime, door) = (runtime()?, door.clone());
            let serve = move || {
                let local = tokio::task::LocalSet::new();
                let thread = Thread::new(limits, census, door, seed);
                local.block_on(&runtime, worker::run(thread, queue));
            };
            let name = format!("relay-{number}");
            let thread = std::thread::Builder::new().name(name).spawn(serve)?;
            threads.push(Serving { commands, thread });
        }
        self.threads = threads;
        Ok(())
    }

    async fn close(&mut self, entrance: &Entrance) {
        if let Some(open) = self.open.remove(entrance) {
            for serving in &self.threads {
                serving.commands.send(Command::Close(open.sign.number)).await.ok();
            }
        }
    }

    /// Returns when the threads have done what they were told.
    async fn settled(&self) {
        for serving in &self.threads {
            let (asker, told) = oneshot::channel();
            if serving.commands.send(Command::Tell(asker)).await.is_ok() {
                // An error: the thread has ended, which is seen to elsewhere.
                told.await.ok();
            }
        }
    }

    fn job(&mut self, entrance: &Entrance, target: &Arc<Target>) -> Result<Job, RelayError> {
        let target = Arc::clone(target);
        let wanted = spot(entrance, &target, self.limits.threads.get());
        if let Some(open) = self.open.get(entrance) {
            let stands = match (&open.standing, wanted.map(|it| is_open(it.kind))) {
                (Standing::Nobody, None) => true,
                (Standing::Listening(_), Some(wanted)) => wanted,
                (Standing::Refusing(_), Some(wanted)) => !wanted,
                (Standing::Nobody, Some(_))
                | (Standing::Listening(_) | Standing::Refusing(_), None) => false,
            };
            let spot = wanted.filter(|_| !stands);
            return Ok(Job { sign: open.sign.clone(), target, spot });
        }
        let most = self.limits.entrances;
        if self.open.len() >= most {
            return Err(RelayError::TooMany { most });
        }
        self.numbers += 2;
        let (number, fresh) = (self.numbers, self.numbers + 1);
        let place = *self.places.entry(entrance.place.clone()).or_insert(fresh);
        let memory = Arc::new(Mutex::new(Memory::default()));
        let sign = Sign { number, place, entrance: entrance.clone(), memory };
        Ok(Job { sign, target, spot: wanted })
    }

    /// Makes the sockets of one place, and has the threads use them.
    async fn work(&mut self, place: Place, jobs: Vec<Job>, applied: &mut Applied) {
        let spots: Vec<Spot> = jobs.iter().filter_map(|it| it.spot).collect();
        let mut made = make(place, spots).await.into_iter();
        for job in jobs {
            let Job { sign, target, spot } = job;
            let listening = match spot.map(|_| made.next()) {
                None => None,
                Some(Some(Ok(listening))) => Some(listening),
                Some(failed) => {
                    let error = match failed {
                        Some(Err(error)) => error,
                        Some(Ok(_)) | None => RelayError::Thread(io::Error::other("cut short")),
                    };
                    let subject = sign.entrance.to_string();
                    applied.failures.push(Failure { subject, error });
                    continue;
                }
            };
            applied.changes += 1;
            self.set(sign, target, listening).await;
        }
    }

    /// Tells the threads what an entrance is from now on.
    async fn set(&mut self, sign: Sign, target: Arc<Target>, made: Option<Listening>) {
        let counters = self.meter.of(&target.service, &target.network);
        let before = self.open.remove(&sign.entrance).map(|it| it.standing);
        let shut = target.slots.is_empty();
        let as_before = || if shut { Listen::NoMore } else { Listen::AsBefore };
        let port = made.as_ref().and_then(Listening::address).map_or(0, |it| it.port());
        let (standing, sockets): (_, Vec<Listen>) = match made {
            None if shut && sign.entrance.way != Way::Redirected => (Standing::Nobody, vec![]),
            None => (before.unwrap_or(Standing::Nobody), vec![]),
            Some(Listening::Connections(all)) => {
                (Standing::Listening(port), all.into_iter().map(Listen::Tcp).collect())
            }
            Some(Listening::Datagrams(all)) => {
                (Standing::Listening(port), all.into_iter().map(Listen::Udp).collect())
            }
            Some(held @ Listening::Nothing(_)) => (Standing::Refusing(held), vec![]),
        };
        let mut sockets = sockets.into_iter();
        for serving in &self.threads {
            let command = Command::Set {
                sign: sign.clone(),
                target: Arc::clone(&target),
                counters: Arc::clone(&counters),
                socket: sockets.next().unwrap_or_else(as_before),
            };
            serving.commands.send(command).await.ok();
        }
        let entrance = sign.entrance.clone();
        self.open.insert(entrance, Open { sign, target, standing });
    }

    /// Leads clients to the ports where they are served.
    async fn settle_redirects(&mut self, applied: &mut Applied) {
        let mut wanted: BTreeMap<Place, Ports> = BTreeMap::new();
        for (entrance, open) in &self.open {
            let port = match &open.standing {
                Standing::Listening(port) => Some(*port),
                Standing::Refusing(held) => held.address().map(|it| it.port()),
                Standing::Nobody => None,
            };
            if let (Way::Redirected, Some(port)) = (entrance.way, port) {
                let ports = wanted.entry(entrance.place.clone()).or_default();
                ports.insert((entrance.address, entrance.protocol), port);
            }
        }
        let needed = |place: &Place, ipv6: bool| {
            wanted.get(place).is_some_and(|ports| families(ports).contains(&ipv6))
        };
        self.redirects.retain(|(place, ipv6), _| needed(place, *ipv6));
        for (place, ports) in wanted {
            for ipv6 in families(&ports) {
                let mut ports = ports.clone();
                ports.retain(|(address, _), _| address.is_ipv6() == ipv6);
                let key = (place.clone(), ipv6);
                let had = self.redirects.remove(&key);
                match redirect(place.clone(), ipv6, had, ports).await {
                    Ok((redirect, changes)) => {
                        applied.changes += changes;
                        self.redirects.insert(key, redirect);
                    }
                    Err(error) => self.forget_redirected(&place, ipv6, error, applied).await,
                }
            }
        }
    }

    /// Nothing leads to these entrances: they are to be opened anew the next time.
    async fn forget_redirected(
        &mut self,
        place: &Place,
        ipv6: bool,
        error: RelayError,
        applied: &mut Applied,
    ) {
        let lost = |it: &Entrance| {
            it.place == *place && it.way == Way::Redirected && it.address.is_ipv6() == ipv6
        };
        let lost: Vec<_> = self.open.keys().filter(|it| lost(it)).cloned().collect();
        for entrance in lost {
            // However many: one that stays open is nobody's, and there would be more each time.
            self.close(&entrance).await;
        }
        applied.failures.push(Failure { subject: format!("ports in {place}"), error });
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Commands that a thread has not seen yet. They take microseconds each.
const COMMANDS: usize = 256;

//! One serving thread: a runtime of its own, sockets of its own for every entrance, its own
//! sessions.
//!
//! Invariants
//! - *nothing shared on the way of an octet* but counters;
//! - *no session outlives the thread*: what is left when it ends is reset;
//! - *one session's panic is its own*.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kernel::burst::Burst;
use kernel::door::Door;
use kernel::splice::Pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::choice::Dice;
use super::gate::{Gate, Sign};
use super::limits::{self, Census, Limits, Ticket};
use super::meter::Counters;
use super::plan::{Target, Way};
use super::tcp;
use super::udp::{self, Flows};

/// What a thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// An entrance is to be so.
    Set { sign: Sign, target: Arc<Target>, counters: Arc<Counters>, socket: Listen },
    /// An entrance is gone.
    Close(u64),
    /// Whoever asks wants to know when all before this is so.
    Tell(oneshot::Sender<()>),
}

/// What is done about an entrance's socket.
#[derive(Debug)]
pub(super) enum Listen {
    /// Listening goes on as it did, or not.
    AsBefore,
    /// Nothing more is taken.
    NoMore,
    /// Connections are taken.
    Tcp(TcpListener),
    /// Datagrams are taken.
    Udp(UdpSocket),
}

/// What the sessions of one thread share.
pub(super) struct Thread {
    pub(super) limits: Arc<Limits>,
    pub(super) door: Door,
    pub(super) dice: RefCell<Dice>,
    pub(super) burst: RefCell<Burst>,
    pub(super) flows: Flows,
    census: Arc<Census>,
    pipes: RefCell<Vec<Pipe>>,
    /// Pipes in which something is under way.
    lent: Cell<usize>,
}

struct Served {
    gate: Rc<Gate>,
    /// Takes connections or datagrams.
    listening: Option<AbortHandle>,
}

/// An entrance that is gone, with sessions that may go on.
struct Gone {
    gate: Rc<Gate>,
    until: Instant,
}

impl Thread {
    pub(super) fn new(limits: Arc<Limits>, census: Arc<Census>, door: Door, seed: u64) -> Self {
        Self {
            door,
            census,
            dice: RefCell::new(Dice::new(seed)),
            burst: RefCell::new(Burst::new(BURST, udp::LONGEST)),
            flows: Flows::new(&limits),
            pipes: RefCell::default(),
            lent: Cell::new(0),
            limits,
        }
    }

    /// Counts a session more, unless there are too many.
    pub(super) fn admit(&self, gate: &Gate, client: IpAddr) -> Option<Ticket> {
        self.census.admit(limits::client(gate.place, client))
    }

    /// An empty pipe, for as long as something is under way in it: larger ones while few are.
    pub(super) fn pipe(&self) -> io::Result<Pipe> {
        let lent = self.lent.get();
        let pipe = match self.pipes.borrow_mut().pop().filter(|_| lent < PIPES) {
            Some(kept) => kept,
            None => Pipe::new(room(lent))?,
        };
        self.lent.set(lent + 1);
        Ok(pipe)
    }

    /// Takes a pipe back.
    pub(super) fn keep(&self, pipe: Pipe) {
        self.lent.set(self.lent.get().saturating_sub(1));
        let mut pipes = self.pipes.borrow_mut();
        if pipe.held() == 0 && pipe.size() >= PIPE && pipes.len() < PIPES {
            pipes.push(pipe);
        }
    }
}

/// Octets that one more pipe may hold. What waits in a pipe for somebody who does not read is
/// nobody's memory but ours: half a gigabyte at most for a thread that has all sessions.
fn room(lent: usize) -> usize {
    match lent {
        0..PIPES => PIPE,
        PIPES..MANY_PIPES => PIPE / 16,
        _ => PAGE,
    }
}

/// Serves until the commands end.
pub(super) async fn run(thread: Thread, mut commands: mpsc::Receiver<Command>) {
    let thread = Rc::new(thread);
    let (mut served, mut gone) = (BTreeMap::new(), Vec::new());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Tell(asker)) => {
                    // What was aborted is dropped in its next turn.
                    tokio::task::yield_now().await;
                    asker.send(()).ok();
                }
                Some(command) => obey(&thread, &mut served, &mut gone, command),
                None => break,
            },
            now = tick.tick() => {
                thread.flows.tick(now);
                for it in served.values() {
                    it.gate.tick(now);
                }
                gone.retain(|it| it.goes_on(now));
            }
        }
    }
    for gate in served.values().map(|it| &it.gate).chain(gone.iter().map(|it| &it.gate)) {
        gate.end();
    }
}

fn obey(
    thread: &Rc<Thread>,
    served: &mut BTreeMap<u64, Served>,
    gone: &mut Vec<Gone>,
    command: Command,
) {
    let now = Instant::now();
    match command {
        Command::Set { sign, target, counters, socket } => {
            let here = served.entry(sign.number).or_insert_with(|| {
                let gate = Gate::new(sign, Arc::clone(&target), Arc::clone(&counters));
                Served { gate, listening: None }
            });
            here.gate.retarget(Arc::clone(&target), counters, now);
            thread.flows.move_on(&here.gate, &target);
            here.listen(thread, socket);
        }
        Command::Close(number) => {
            let Some(Served { gate, listening }) = served.remove(&number) else { return };
            if let Some(listening) = listening {
                listening.abort();
            }
            thread.flows.close(&gate);
            let until = match gate.entrance.way {
                // Its address may go as well: those who use it have to be told now.
                Way::Bound => now,
                Way::Redirected => now + gate.target().drain,
            };
            let session = Gone { gate, until };
            if session.goes_on(now) {
                gone.push(session);
            }
        }
        Command::Tell(asker) => drop(asker),
    }
}

impl Served {
    fn listen(&mut self, thread: &Rc<Thread>, socket: Listen) {
        let (thread, gate) = (Rc::clone(thread), Rc::clone(&self.gate));
        let begun = match socket {
            Listen::AsBefore => return,
            Listen::NoMore => Ok(None),
            Listen::Tcp(listener) => tokio::net::TcpListener::from_std(listener)
                .map(|it| Some(self.gate.spawn(tcp::accept(thread, gate, it)))),
            Listen::Udp(socket) => tokio::net::UdpSocket::from_std(socket)
                .map(|it| Some(self.gate.spawn(udp::serve(thread, gate, it)))),
        };
        let begun = begun.unwrap_or_else(|error| {
            tracing::error!(%error, entrance = %self.gate.entrance, "cannot listen");
            None
        });
        if let Some(before) = std::mem::replace(&mut self.listening, begun) {
            before.abort();
        }
    }
}

impl Gone {
    fn goes_on(&self, now: Instant) -> bool {
        self.gate.tick(now);
        let goes_on = now < self.until && !self.gate.is_idle();
        if !goes_on {
            self.gate.end();
        }
        goes_on
    }
}

/// How often what is over is looked for.
const TICK: Duration = Duration::from_secs(1);
/// Octets that one piece may have: as much as an unprivileged process may ask for.
const PIPE: usize = 1 << 20;
/// Pipes of that size, those included that are kept for the next piece; two descriptors each.
const PIPES: usize = 64;
/// Pipes of a sixteenth of that size, as pipes usually have, and those larger ones.
const MANY_PIPES: usize = 4_096;
/// The smallest pipe there is.
const PAGE: usize = 4_096;
/// Datagrams taken with one system call.
const BURST: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sessions_of_all_clients_who_read_nothing_hold_half_a_gigabyte() {
        let lanes = 2 * Limits::default().connections;
        let held: usize = (0..lanes).map(room).sum();
        assert!(held < 512 << 20, "{} MiB", held >> 20);
        assert_eq!((room(0), room(PIPES), room(lanes)), (1 << 20, 1 << 16, 1 << 12));
    }
}

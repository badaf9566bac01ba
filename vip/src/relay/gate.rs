//! One entrance as one thread serves it: where new sessions go, and which ones there are.
//!
//! Invariants
//! - *nobody is cut without reason*: only sessions to tasks that are gone, at once, and to tasks
//!   that drain, when their time is over;
//! - *a cut is a reset*: the session's task is aborted, and what it drops resets both ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::choice::{Dice, Memory};
use super::meter::{Counters, add};
use super::plan::{Entrance, Target};

/// One entrance.
pub(super) struct Gate {
    pub(super) entrance: Entrance,
    /// Tells it from all other entrances that there ever were.
    pub(super) number: u64,
    /// Tells its place from others.
    pub(super) place: u64,
    target: RefCell<Arc<Target>>,
    counters: RefCell<Arc<Counters>>,
    memory: Arc<Mutex<Memory>>,
    sessions: RefCell<BTreeMap<u64, Session>>,
    /// When sessions to tasks end that drain.
    leaving: RefCell<BTreeMap<SocketAddr, Instant>>,
    begun: Cell<u64>,
    /// Parent of the sessions.
    tasks: RefCell<JoinSet<()>>,
}

struct Session {
    /// `None`: not connected yet.
    task: Option<SocketAddr>,
    cut: AbortHandle,
}

/// What all threads share of an entrance.
#[derive(Clone, Debug)]
pub(super) struct Sign {
    pub(super) number: u64,
    pub(super) place: u64,
    pub(super) entrance: Entrance,
    pub(super) memory: Arc<Mutex<Memory>>,
}

/// The entry of a session in its gate's list; it goes with the session.
pub(super) struct Listed {
    gate: Rc<Gate>,
    number: u64,
}

impl Gate {
    pub(super) fn new(sign: Sign, target: Arc<Target>, counters: Arc<Counters>) -> Rc<Self> {
        let Sign { number, place, entrance, memory } = sign;
        Rc::new(Self {
            entrance,
            number,
            place,
            target: RefCell::new(target),
            counters: RefCell::new(counters),
            memory,
            sessions: RefCell::default(),
            leaving: RefCell::default(),
            begun: Cell::new(0),
            tasks: RefCell::new(JoinSet::new()),
        })
    }

    pub(super) fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.borrow())
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters.borrow())
    }

    /// A task for a new session.
    pub(super) fn choose(
        &self,
        client: IpAddr,
        tried: &[SocketAddr],
        dice: &RefCell<Dice>,
    ) -> Option<SocketAddr> {
        let (target, now) = (self.target.borrow(), Instant::now());
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.choose(&target, client, tried, now, &mut dice.borrow_mut())
    }

    /// Remembers that a task did not answer.
    pub(super) fn failed(&self, task: SocketAddr) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.failed(task, Instant::now());
    }

    /// Remembers that a task did not answer this client, who need not stay with it.
    pub(super) fn abandoned(&self, client: IpAddr, task: SocketAddr) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.abandoned(client, task, Instant::now());
    }

    /// Runs a part of this gate's work that ends with it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + 'static) -> AbortHandle {
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(work)
    }

    /// Runs a session; `session` gets its entry in the list.
    pub(super) fn run<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        session: impl FnOnce(Listed) -> F,
    ) {
        let number = self.begun.get();
        self.begun.set(number + 1);
        let cut = self.spawn(session(Listed { gate: Rc::clone(self), number }));
        self.sessions.borrow_mut().insert(number, Session { task: None, cut });
    }

    /// New sessions go elsewhere from now on.
    pub(super) fn retarget(&self, target: Arc<Target>, counters: Arc<Counters>, now: Instant) {
        {
            let draining =
                target.resting.iter().filter_map(|(task, limit)| Some((*task, (*limit)?)));
            let mut leaving = self.leaving.borrow_mut();
            leaving.retain(|task, _| target.resting.get(task).is_some_and(Option::is_some));
            for (task, limit) in draining {
                leaving.entry(task).or_insert(now + limit);
            }
        }
        let stays = |task: &SocketAddr| target.alive.contains(task) || target.slots.contains(task);
        self.cut(|task| !stays(task));
        *self.target.borrow_mut() = target;
        *self.counters.borrow_mut() = counters;
    }

    /// Ends what is over, and forgets what is old. To be called every second or so.
    pub(super) fn tick(&self, now: Instant) {
        let mut over = Vec::new();
        self.leaving.borrow_mut().retain(|task, end| {
            let ended = *end <= now;
            if ended {
                over.push(*task);
            }
            !ended
        });
        if !over.is_empty() {
            self.cut(|task| over.contains(task));
        }
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).tidy(&self.target.borrow(), now);
        while self.tasks.borrow_mut().try_join_next().is_some() {}
    }

    /// Whether nothing goes on here any more.
    pub(super) fn is_idle(&self) -> bool {
        self.sessions.borrow().is_empty()
    }

    /// Resets all that is left, also what is not connected yet.
    pub(super) fn end(&self) {
        let count = self.sessions.borrow().values().map(|it| it.cut.abort()).count();
        add(&self.counters.borrow().cut, count);
        self.tasks.borrow_mut().abort_all();
    }

    fn cut(&self, gone: impl Fn(&SocketAddr) -> bool) {
        let sessions = self.sessions.borrow();
        let cut = sessions.values().filter(|it| it.task.as_ref().is_some_and(&gone));
        let count = cut.map(|it| it.cut.abort()).count();
        add(&self.counters.borrow().cut, count);
    }
}

impl Listed {
    /// Says which task the session is with.
    pub(super) fn with(&self, task: SocketAddr) {
        if let Some(session) = self.gate.sessions.borrow_mut().get_mut(&self.number) {
            session.task = Some(task);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        // A session that is aborted while the list is read is dropped later, by the runtime.
        if let Ok(mut sessions) = self.gate.sessions.try_borrow_mut() {
            sessions.remove(&self.number);
        }
    }
}

//! What happened, for people: the last events, kept in memory, and news of them for followers.
//!
//! Invariants
//! - *bounded*: [`KEPT`] events; the oldest go first, and whoever follows sees by the numbers that
//!   some went by;
//! - *cheap*: to emit takes a lock for as long as a push, and waits for no follower;
//! - *numbered*: numbers grow by one, from 1 at each start of the process.
//!
//! `changes` says which events lie between two snapshots, and `moment` how times are written.

mod changes;
mod moment;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use tokio::sync::watch;

pub use changes::between;
pub use moment::rfc3339;

/// Events that are kept. An hour of a lively Swarm; each is some 200 octets.
pub const KEPT: usize = 1_000;

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// From 1; grows by one.
    pub number: u64,
    /// When, in milliseconds since the epoch.
    pub at: u64,
    /// Of what kind.
    pub kind: Kind,
    /// To whom, e.g. `task web.1.x`.
    pub subject: String,
    /// What, one sentence, lower case, no full stop.
    pub text: String,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Kind {
    /// A service, task or node came, went, or changed its state.
    World,
    /// A health check's verdict.
    Health,
    /// An address was given to a service, or taken back.
    Vip,
    /// Connections to a task that goes: let end, or reset.
    Drain,
    /// The routing mesh.
    Mesh,
    /// Something in the kernel was found other than portolan left it, and put right.
    Repair,
    /// Where the world is read from cannot be read, or can again.
    Source,
}

/// A handle on the events of this process, for those who emit and those who read.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
    /// When this ring was made, which tells it from that of an earlier process.
    run: u64,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    newest: u64,
}

impl Default for Events {
    fn default() -> Self {
        let (ring, newest) = (Mutex::default(), watch::Sender::new(0));
        Self(Arc::new(Shared { ring, newest, run: now() }))
    }
}

impl Events {
    /// Says that something happened now.
    pub fn emit(&self, kind: Kind, subject: impl Into<String>, text: impl Into<String>) {
        self.emit_at(now(), kind, subject.into(), text.into());
    }

    fn emit_at(&self, at: u64, kind: Kind, subject: String, text: String) {
        tracing::info!(event = %kind, subject, "{text}");
        let newest = {
            let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.push(at, kind, subject, text);
            ring.newest
        };
        // Two who emit at once may come here in either order.
        self.0.newest.send_if_modified(|known| {
            let news = *known < newest;
            *known = newest.max(*known);
            news
        });
    }

    /// What is kept of the events after `number`, oldest first.
    pub fn since(&self, number: u64) -> Vec<Event> {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.events.iter().filter(|it| it.number > number).cloned().collect()
    }

    /// When these events began, in milliseconds since the epoch. Numbers of another run mean
    /// nothing here.
    pub fn run(&self) -> u64 {
        self.0.run
    }

    /// Resolves once there is an event after `number`. Safe to drop.
    pub async fn after(&self, number: u64) {
        // The sender lives as long as this handle.
        self.0.newest.subscribe().wait_for(|newest| *newest > number).await.ok();
    }
}

impl Ring {
    fn push(&mut self, at: u64, kind: Kind, subject: String, text: String) {
        self.newest = self.newest.saturating_add(1);
        if self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Event { number: self.newest, at, kind, subject, text });
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::World => "world",
            Self::Health => "health",
            Self::Vip => "vip",
            Self::Drain => "drain",
            Self::Mesh => "mesh",
            Self::Repair => "repair",
            Self::Source => "source",
        })
    }
}

/// Milliseconds since the epoch.
fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the edge: when it happened is when it is said")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_events_are_kept_and_their_numbers_tell_how_many_went_by() {
        let events = Events::default();
        for _ in 0..KEPT + 5 {
            events.emit(Kind::World, "task a", "came");
        }
        let kept: Vec<u64> = events.since(0).iter().map(|it| it.number).collect();
        assert_eq!(kept.len(), KEPT);
        assert_eq!((kept[0], kept[KEPT - 1]), (6, KEPT as u64 + 5));
        assert_eq!(events.since(KEPT as u64 + 4).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_by_the_next_event_and_not_by_those_it_knows() {
        let events = Events::default();
        events.emit(Kind::Source, "engine", "gone");
        events.after(0).await;
        let patience = std::time::Duration::from_secs(60);
        assert!(tokio::time::timeout(patience, events.after(1)).await.is_err());
        let both = async {
            tokio::task::yield_now().await;
            events.emit(Kind::Source, "engine", "back");
        };
        let (woken, ()) = tokio::join!(tokio::time::timeout(patience, events.after(1)), both);
        assert!(woken.is_ok());
    }
}

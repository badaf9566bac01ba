//! What those who ask as one sandbox does know of their servers, and what is kept about a question:
//! for whoever explains it.
//!
//! Always true here: looking changes nothing, neither what is kept nor what leaves next.

use std::time::Duration;

use super::circle::Asker;
use super::exchange::Place;
use super::health::State as Standing;
use super::register::Register;
use super::server::Server;
use crate::plan::View;
use crate::wire::{Kind, Query};

/// What is known about a question.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outlook {
    /// How the servers are that were asked.
    pub servers: Vec<ServerOutlook>,
    /// What is kept about it, for clients that ask without DO and CD.
    pub kept: Vec<KeptAnswer>,
}

/// How a server is, as one sandbox sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerOutlook {
    /// Which.
    pub server: Server,
    /// How it is.
    pub standing: Standing,
    /// Smoothed round-trip time; `None`: it has not answered yet.
    pub rtt: Option<Duration>,
}

/// An answer that is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeptAnswer {
    /// The type that was asked for.
    pub kind: Kind,
    /// What it says.
    pub says: KeptAs,
    /// Whether its time is over, so that it is told only while no server answers.
    pub stale: bool,
    /// Seconds until its time is over; since then, where it is.
    pub seconds: u32,
}

/// What a kept answer says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeptAs {
    /// These many records.
    Records(u16),
    /// That there are none of that type.
    NoData,
    /// That there is no such name.
    NoName,
    /// That no server answered, or none could say.
    Failure,
    /// What the filter against rebinding holds back.
    Blocked,
}

impl Register {
    /// What is known about `questions` in the sandbox of `view`.
    pub(crate) fn outlook(&self, view: &View, questions: &[Query]) -> Outlook {
        let place = Place { netns: view.netns.clone(), cookie: view.cookie };
        let circle = Asker::of(view).and_then(|it| self.circle_of(it, &place));
        let Some(circle) = circle else { return Outlook::default() };
        let servers = circle.servers().into_iter().map(|(server, health)| ServerOutlook {
            server,
            standing: health.state(),
            rtt: health.rtt(),
        });
        let servers = servers.collect();
        let now = tokio::time::Instant::now().into_std();
        let cache = circle.cache();
        let kept = questions.iter().filter_map(|it| cache.peek(it, now)).collect();
        Outlook { servers, kept }
    }
}

//! Questions that came as datagrams and that somebody else is asked: carried out apart from the
//! thread that answers what is known.
//!
//! Invariants
//! - *bounded*: an errand holds its leave ([`super::Desk::leave`]) until its reply is sent;
//! - *gone with its sandbox*: when that is closed its errands end, and let go of the socket.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Desk, report};
use crate::answer::Reason;
use crate::metrics::{Metrics, Source};
use crate::respond::Whom;
use crate::upstream::limits::Leave;
use crate::wire::{self, Query, Rcode, Recursion, Transport};

/// A question, and who wants the answer.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) query: Query,
    pub(super) whom: Whom,
    pub(super) client: Client,
    pub(super) leave: Leave,
    pub(super) arrived: Instant,
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) address: SocketAddr,
}

impl Errand {
    /// The reply where it cannot be carried out.
    pub(super) fn refusal(&self, desk: &Desk) -> Vec<u8> {
        Metrics::count(&desk.metrics().busy);
        desk.metrics().answered(Source::Refused, Rcode::SERVFAIL);
        wire::refusal(&self.query, Rcode::SERVFAIL, Reason::Busy, Recursion::Offered)
    }

    async fn run(self, desk: Arc<Desk>) {
        let Self { query, whom, client, leave, arrived } = self;
        let reply = desk.ask(&query, whom, &leave, Transport::Udp).await;
        if client.socket.try_send_to(&reply, client.address).is_err() {
            Metrics::count(&desk.metrics().unsent);
        }
        desk.metrics().took(arrived.elapsed(), 1);
        drop(leave);
    }
}

/// Runs errands as they come, until dropped or until nobody sends any more.
pub(super) async fn run(desk: &Arc<Desk>, mut errands: mpsc::Receiver<Errand>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            errand = errands.recv() => match errand {
                Some(errand) => {
                    running.spawn(errand.run(Arc::clone(desk)));
                }
                None => return,
            },
            Some(done) = running.join_next(), if !running.is_empty() => report(done),
        }
    }
}

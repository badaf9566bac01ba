//! Datagrams of one sandbox: receive, answer at once or ask outside, send.
//!
//! Invariants
//! - *no waiting*: the loop never waits for a server or for room in the socket; a reply that the
//!   socket does not take is lost, as datagrams are;
//! - *fair*: after [`BATCH`] datagrams the thread's other sandboxes get their turn.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use super::{Desk, report};
use crate::chance::Even;
use crate::metrics::Metrics;
use crate::respond::{Step, Whom};
use crate::wire::{Query, Transport};

/// Answers what comes to `socket`, until dropped.
pub(super) async fn serve(desk: &Arc<Desk>, socket: UdpSocket) {
    let mut order = match Even::new() {
        Ok(order) => order,
        Err(error) => {
            tracing::error!(%error, "the kernel gives no random numbers");
            return;
        }
    };
    let mut clerk = Clerk { desk, socket: Arc::new(socket), asked: JoinSet::new() };
    let socket = Arc::clone(&clerk.socket);
    loop {
        tokio::select! {
            ready = socket.readable() => match ready.and_then(|()| clerk.batch(&mut order)) {
                Ok(()) => yield_now().await,
                Err(error) => {
                    tracing::warn!(%error, "cannot receive DNS queries; trying again");
                    sleep(AFTER_ERROR).await;
                }
            },
            Some(done) = clerk.asked.join_next(), if !clerk.asked.is_empty() => report(done),
        }
    }
}

/// About half a millisecond of work.
const BATCH: usize = 64;
/// Longer queries do not exist: a name, a header and an OPT with padding fit thrice.
const LONGEST_QUERY: usize = 4096;
/// Errors on a bound socket are rare and pass (out of memory); this keeps one from spinning.
const AFTER_ERROR: Duration = Duration::from_millis(20);

struct Clerk<'a> {
    desk: &'a Arc<Desk>,
    socket: Arc<UdpSocket>,
    asked: JoinSet<()>,
}

impl Clerk<'_> {
    fn batch(&mut self, order: &mut Even) -> io::Result<()> {
        let mut buffer = [0; LONGEST_QUERY];
        for _ in 0..BATCH {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, client)) => {
                    let octets = buffer.get(..length).unwrap_or_default();
                    self.datagram(octets, client, order.next());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn datagram(&mut self, octets: &[u8], client: SocketAddr, seed: u64) {
        match self.desk.step(octets, Transport::Udp, seed) {
            Step::Silence => {}
            Step::Reply(reply) => send(self.desk, &self.socket, &reply, client),
            Step::Ask(query, whom) => self.ask(query, whom, client),
        }
    }

    fn ask(&mut self, query: Query, whom: Whom, client: SocketAddr) {
        let leave = match self.desk.leave(&query) {
            Ok(leave) => leave,
            Err(refusal) => return send(self.desk, &self.socket, &refusal, client),
        };
        let (desk, socket) = (Arc::clone(self.desk), Arc::clone(&self.socket));
        self.asked.spawn(async move {
            let reply = desk.ask(&query, whom, Transport::Udp).await;
            send(&desk, &socket, &reply, client);
            drop(leave);
        });
    }
}

fn send(desk: &Desk, socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if socket.try_send_to(reply, client).is_err() {
        Metrics::count(&desk.metrics().unsent);
    }
}

//! Streams of one sandbox (RFC 7766): many questions on a connection, answered as they are ready.
//!
//! Invariants
//! - *bounded*: so many connections, so many questions of one in flight, so long without either;
//! - *no mix*: only the connection's own task writes to it, one whole answer after another;
//! - *what was asked is answered*: a client that closed its side still gets its answers;
//! - *idle ones block nobody*: where all seats are taken, the longest idle goes ([`seats`]).

mod seats;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Desk, report};
use crate::chance::Even;
use crate::metrics::Metrics;
use crate::respond::Step;
use crate::wire::Transport;
use seats::{Seat, Seats};

/// Accepts connections to `listener`, until dropped.
pub(super) async fn serve(desk: &Arc<Desk>, listener: TcpListener) {
    let mut seats = Seats::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(done) = connections.join_next(), if !connections.is_empty() => report(done),
            }
        };
        match accepted {
            Ok((stream, _)) => {
                Metrics::count(&desk.metrics().connections);
                // Who comes later waits in the kernel's queue.
                make_room(&mut seats, &mut connections).await;
                let seat = seats.take(Instant::now());
                let desk = Arc::clone(desk);
                connections.spawn(async move {
                    let serving = Connection::new(desk, stream, Arc::clone(&seat)).serve();
                    let served = tokio::select! {
                        served = serving => served,
                        () = seat.dismissed() => Ok(()),
                    };
                    if let Err(error) = served {
                        tracing::debug!(%error, "DNS connection ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS connection; trying again");
                sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// Waits for a free seat, having asked whoever needs his least to leave.
async fn make_room(seats: &mut Seats, connections: &mut JoinSet<()>) {
    while connections.len() >= MAX_CONNECTIONS {
        let somebody_leaves = seats.dismiss();
        tokio::select! {
            Some(done) = connections.join_next() => report(done),
            () = seats.somebody_idle(), if !somebody_leaves => {}
        }
    }
}

/// Connections of one sandbox at once. Stub resolvers open one for an answer that was cut; a pool
/// of some tens is the most that real clients keep.
const MAX_CONNECTIONS: usize = 128;
/// Questions of one connection that are being asked outside.
const MAX_PIPELINED: usize = 32;
/// A connection with nothing to do is closed (RFC 7766 section 6.2.3 leaves it to us), and so is
/// one whose next question takes longer than this to come.
const IDLE: Duration = Duration::from_secs(10);
/// A client that does not take its answer is given up.
const WRITE: Duration = Duration::from_secs(5);
/// As accept fails when descriptors run out.
const AFTER_ERROR: Duration = Duration::from_millis(50);
/// What is read ahead: two short questions more than the longest message.
const BUFFER: usize = 2 + 65_535 + 512;

struct Connection {
    desk: Arc<Desk>,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    received: Vec<u8>,
    asked: JoinSet<Vec<u8>>,
    seat: Arc<Seat>,
}

impl Connection {
    fn new(desk: Arc<Desk>, stream: TcpStream, seat: Arc<Seat>) -> Self {
        let (read, write) = stream.into_split();
        Self { desk, read, write, received: Vec::new(), asked: JoinSet::new(), seat }
    }

    async fn serve(mut self) -> io::Result<()> {
        let mut order = Even::new()?;
        let mut open = true;
        // When a whole question or an answer went through last; single octets do not count.
        let mut moved = Instant::now();
        while open || !self.asked.is_empty() {
            let room = self.received.len() < BUFFER && self.asked.len() < MAX_PIPELINED;
            if self.asked.is_empty() {
                self.seat.idle(moved);
            }
            tokio::select! {
                read = self.read.read_buf(&mut self.received), if open && room => {
                    let came = read?;
                    let before = self.received.len();
                    open = came > 0 && self.messages(&mut order).await?;
                    if self.received.len() < before {
                        moved = Instant::now();
                    }
                }
                Some(done) = self.asked.join_next(), if !self.asked.is_empty() => {
                    if let Ok(reply) = done {
                        self.send(&reply).await?;
                    }
                    // What waited for room in flight has it now.
                    open = open && self.messages(&mut order).await?;
                    moved = Instant::now();
                }
                () = sleep_until(moved + IDLE), if self.asked.is_empty() => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes whole messages from what was received; `false`: the client is talking nonsense.
    async fn messages(&mut self, order: &mut Even) -> io::Result<bool> {
        self.seat.busy();
        let mut taken = 0;
        let mut sense = true;
        while sense && self.asked.len() < MAX_PIPELINED {
            let rest = self.received.get(taken..).unwrap_or_default();
            let Some((length, rest)) = rest.split_first_chunk() else { break };
            let length = usize::from(u16::from_be_bytes(*length));
            let Some(message) = rest.get(..length) else { break };
            taken += 2 + length;
            let arrived = Instant::now();
            match self.desk.step(message, Transport::Tcp, order.next()) {
                // Runts and replies: on a stream the rest cannot be trusted either.
                Step::Silence => sense = false,
                Step::Reply(reply) => {
                    self.send(&reply).await?;
                    self.desk.metrics().took(arrived.elapsed(), 1);
                }
                Step::Ask(query, whom) => match self.desk.leave(&query, whom, Transport::Tcp) {
                    Ok(leave) => {
                        let desk = Arc::clone(&self.desk);
                        self.asked.spawn(async move {
                            let reply = desk.ask(&query, whom, &leave, Transport::Tcp).await;
                            drop(leave);
                            desk.metrics().took(arrived.elapsed(), 1);
                            reply
                        });
                    }
                    Err(refusal) => self.send(&refusal).await?,
                },
            }
        }
        self.received.drain(..taken.min(self.received.len()));
        Ok(sense)
    }

    async fn send(&mut self, reply: &[u8]) -> io::Result<()> {
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), reply].concat();
        timeout(WRITE, self.write.write_all(&framed)).await?
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;
    use crate::plan::HostView;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_drips_a_question_does_not_keep_its_seat() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let view = ArcSwap::from_pointee(HostView::default());
        let desk = Arc::new(Desk::Host { view, metrics: Arc::default() });
        let began = Instant::now();
        let serving = async {
            let seat = Seats::default().take(began);
            Connection::new(desk, stream, seat).serve().await.unwrap();
            began.elapsed()
        };
        let dripping = async {
            for _ in 0..30 {
                client.write_all(&[1]).await.ok(); // of a message of 257 octets
                sleep(Duration::from_secs(1)).await;
            }
        };
        let (served, ()) = tokio::join!(serving, dripping);
        assert_eq!(served.as_secs(), IDLE.as_secs());
    }
}

//! Datagrams of one sandbox, or the host's: receive many, answer at once what is known, hand on
//! the rest, send many.
//!
//! Invariants
//! - *no waiting*: the loop never waits for a server or for room in the socket; a reply that the
//!   socket does not take is lost, as datagrams are;
//! - *fair*: after [`BATCH`] datagrams the thread's other sandboxes get their turn;
//! - *one room*: the memory that datagrams pass through belongs to the thread, not to a sandbox.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kernel::datagram::{Datagram, Datagrams, Longest, Sent};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::errand::{Client, Errand};
use super::{Desk, SandboxDesk};
use crate::chance::Even;
use crate::fast::{Plain, Quick};
use crate::metrics::{Metrics, Source};
use crate::plan::View;
use crate::respond::Step;
use crate::upstream::{Asker, Told};
use crate::wire::Transport;
use crate::wire::encode::OUR_UDP;

/// Answers what comes to `socket`, until dropped; what somebody else must be asked goes to
/// `errands`.
pub(super) async fn serve(desk: &Desk, socket: UdpSocket, errands: mpsc::Sender<Errand>) {
    let order = match Even::new() {
        Ok(order) => order,
        Err(error) => {
            tracing::error!(%error, "the kernel gives no random numbers");
            return;
        }
    };
    let mut clerk = Clerk { desk, socket: Arc::new(socket), errands, order };
    loop {
        let ready = clerk.socket.readable().await;
        match ready.and_then(|()| ROOM.with_borrow_mut(|room| clerk.batch(room))) {
            Ok(Waiting::Nothing) => {}
            Ok(Waiting::More) => yield_now().await,
            Err(error) => {
                tracing::warn!(%error, "cannot receive DNS queries; trying again");
                sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// About a tenth of a millisecond of work.
const BATCH: usize = 64;
/// Longer queries do not exist: a name, a header and an OPT with padding fit thrice.
const LONGEST: Longest = Longest { query: 4096, answer: OUR_UDP as usize };
/// Errors on a bound socket are rare and pass (out of memory); this keeps one from spinning.
const AFTER_ERROR: Duration = Duration::from_millis(20);

thread_local! {
    static ROOM: RefCell<Datagrams> = RefCell::new(Datagrams::new(BATCH, LONGEST));
}

struct Clerk<'a> {
    desk: &'a Desk,
    socket: Arc<UdpSocket>,
    errands: mpsc::Sender<Errand>,
    order: Even,
}

/// What a batch left in the socket.
enum Waiting {
    Nothing,
    More,
}

impl Clerk<'_> {
    fn batch(&mut self, room: &mut Datagrams) -> io::Result<Waiting> {
        let mut count = 0;
        let received = self.socket.try_io(Interest::READABLE, || {
            count = room.receive(&*self.socket)?;
            // A batch that is not full leaves nothing: the next wait is for news.
            if count < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match received {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if count > 0 {
            let arrived = Instant::now();
            room.answer(|datagram, out| self.datagram(datagram, out));
            let Sent { sent, lost } = room.send(&*self.socket);
            let metrics = self.desk.metrics();
            metrics.took(arrived.elapsed(), u64::try_from(sent).unwrap_or(u64::MAX));
            Metrics::add(&metrics.unsent, lost);
        }
        Ok(if count == BATCH { Waiting::More } else { Waiting::Nothing })
    }

    /// Writes the reply, if there is one now, and tells how long it is.
    fn datagram(&mut self, datagram: Datagram<'_>, out: &mut [u8]) -> usize {
        let seed = self.order.next();
        if let Desk::Sandbox(desk) = self.desk
            && let Some(asked) = Plain::read(datagram.octets)
        {
            let seat = desk.seat.load();
            match seat.quick(&asked, seed, out) {
                Quick::Reply { length, code, zone } => {
                    Metrics::count(&desk.metrics.udp_queries);
                    desk.metrics.answered(Source::Local, code);
                    if let Some(counts) = zone.and_then(|it| seat.counts.get(it)) {
                        counts.answered(code);
                    }
                    return length;
                }
                Quick::Foreign => {
                    if let Some(length) = recall(desk, &seat.view, &asked, out) {
                        return length;
                    }
                }
                Quick::General => {}
            }
        }
        self.general(datagram, seed, out)
    }

    fn general(&self, datagram: Datagram<'_>, seed: u64, out: &mut [u8]) -> usize {
        let reply = match self.desk.step(datagram.octets, Transport::Udp, seed) {
            Step::Silence => return 0,
            Step::Reply(reply) => reply,
            Step::Ask(query, whom) => {
                // A sandbox's clients have addresses; without one nobody could be answered.
                let Some(address) = datagram.from() else { return 0 };
                let client = Client { socket: Arc::clone(&self.socket), address };
                let arrived = Instant::now();
                match self.desk.leave(&query, whom, Transport::Udp) {
                    Ok(leave) => {
                        let errand = Errand { query, whom, client, leave, arrived };
                        match self.errands.try_send(errand) {
                            Ok(()) => return 0,
                            Err(back) => back.into_inner().refusal(self.desk),
                        }
                    }
                    Err(refusal) => refusal,
                }
            }
        };
        let Some(place) = out.get_mut(..reply.len()) else { return 0 }; // never longer: respond
        place.copy_from_slice(&reply);
        reply.len()
    }
}

/// Answers from what others said before, if that is at hand and holds.
fn recall(desk: &SandboxDesk, view: &View, asked: &Plain<'_>, out: &mut [u8]) -> Option<usize> {
    let asker = Asker::of(view)?;
    let Told { length, code, source } = desk.realm.recall(asker, &asked.asked()?, out)?;
    Metrics::count(&desk.metrics.udp_queries);
    desk.metrics.answered(source, code);
    Some(length)
}

//! A client connection that hands on only whole and checked requests, and waits for nothing
//! without end.
//!
//! Invariants
//! - *checked*: what is read from it went through [`Framing`]; where that says stop, the reader sees
//!   the connection end, finishes what it has, and the refusal is written last, in order;
//! - *timed*: a head, a pause between requests and a client that takes nothing all have a deadline;
//! - *told*: closing waits a little for a client that is still sending, since a reset would destroy
//!   the answer on its way.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::framing::{End, Framing, HeadLimits, Waiting};
use crate::refusal::Refusal;

/// A client connection. See the module for what it promises.
pub(crate) struct Guard<S> {
    stream: S,
    rules: Rc<Rules>,
    framing: Framing,
    /// Bytes read and not handed on: the first `ready` of them may be.
    held: BytesMut,
    ready: usize,
    end: Option<End>,
    /// What is waited for, and until when.
    waiting: Option<(Waiting, Instant)>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether a request came already.
    begun: bool,
    /// Whether the client said that it sends no more.
    finished: bool,
    stall: Option<Pin<Box<Sleep>>>,
    closing: Closing,
    /// Whether, while closing, the client may be in the middle of sending: it is then read on, so
    /// that its answer is not destroyed by a reset.
    owes: bool,
    /// Runs while closing.
    patience: Option<Pin<Box<Sleep>>>,
}

/// How connections are treated; one for all of a thread's.
pub(crate) struct Rules {
    pub(crate) heads: HeadLimits,
    /// For a head, and for the first request.
    pub(crate) head_time: Duration,
    /// Between requests.
    pub(crate) keep_alive: Duration,
    /// While the client takes nothing.
    pub(crate) stall: Duration,
    /// Makes the bytes of the response that refuses a request.
    pub(crate) refuse: Refuse,
}

/// Makes the whole response that refuses a request.
pub(crate) type Refuse = Box<dyn Fn(&Refusal) -> Vec<u8>>;

enum Closing {
    No,
    Answering(io::Cursor<Vec<u8>>),
    Shutting,
    Looking,
    Done,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// Guards a fresh connection.
    pub(crate) fn new(stream: S, rules: Rc<Rules>) -> Self {
        Self {
            stream,
            framing: Framing::new(rules.heads),
            rules,
            held: BytesMut::new(),
            ready: 0,
            end: None,
            waiting: None,
            timer: None,
            begun: false,
            finished: false,
            stall: None,
            closing: Closing::No,
            owes: false,
            patience: None,
        }
    }

    /// Reads into the caller's buffer; what may not go on yet moves to `held`. Ready with what was
    /// put there, possibly nothing.
    fn read_through(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            self.finished = true;
            return Poll::Ready(Ok(()));
        }
        let look = self.framing.look(fresh);
        if look.end.is_none() {
            self.held.extend_from_slice(fresh.get(look.release..).unwrap_or_default());
        }
        self.end = look.end;
        buf.set_filled(before + look.release);
        Poll::Ready(Ok(()))
    }

    /// Reads behind what is held and looks again.
    fn read_behind(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        if piece.filled().is_empty() {
            self.finished = true;
            return Poll::Ready(Ok(()));
        }
        self.held.extend_from_slice(piece.filled());
        let look = self.framing.look(&self.held);
        self.ready = look.release;
        if look.end.is_some() {
            self.held.truncate(look.release);
        }
        self.end = look.end;
        Poll::Ready(Ok(()))
    }

    /// Hands on what is ready.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.ready.min(buf.remaining());
        buf.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.advance(count);
        self.ready -= count;
        self.moved_on();
    }

    fn moved_on(&mut self) {
        self.begun = true;
        self.waiting = None;
    }

    /// Ready when the client took too long; the connection's end is then decided.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiting = self.framing.waiting(!self.held.is_empty());
        let time = match waiting {
            Waiting::Request if self.begun => self.rules.keep_alive,
            Waiting::Request | Waiting::Head => self.rules.head_time,
            // Only whoever reads the body knows whether it is being waited for.
            Waiting::Body => return Poll::Pending,
        };
        let until = match self.waiting {
            Some((before, until)) if before == waiting => until,
            Some(_) | None => Instant::now() + time,
        };
        self.waiting = Some((waiting, until));
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        // A timer from an earlier wait may fire early; resetting it for every request would cost
        // more than this.
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                self.end = Some(match waiting {
                    Waiting::Head => End::Refused(Refusal::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "the request's head took too long",
                    )),
                    Waiting::Request | Waiting::Body => End::Broken,
                });
                self.held.clear();
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// Passes a write's outcome on; an error when the client has taken nothing for too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let time = self.rules.stall;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no data")))
    }

    /// Writes the refusal, if there is one, says that nothing more comes, and lets the client
    /// finish what it was sending; all of it within [`LINGER`].
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Looked at first: a client that always has more would never let it be looked at.
            if self.owes && self.poll_patience(cx).is_ready() {
                self.closing = Closing::Done;
            }
            match self.poll_closing_step(cx) {
                Poll::Ready(step) => self.closing = step?,
                Poll::Pending => {
                    ready!(self.poll_patience(cx));
                    self.closing = Closing::Done;
                }
            }
            if matches!(self.closing, Closing::Done) {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER))).as_mut().poll(cx)
    }

    /// Reads what nobody wants; where there was something, there may be more.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Closing>> {
        let mut scratch = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        self.owes = true;
        Poll::Ready(Ok(if piece.filled().is_empty() { Closing::Done } else { Closing::Looking }))
    }

    fn poll_closing_step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Closing>> {
        Poll::Ready(Ok(match &mut self.closing {
            Closing::No => {
                self.owes = self.framing.waiting(!self.held.is_empty()) != Waiting::Request;
                match self.end.take() {
                    Some(End::Refused(refusal)) => {
                        self.owes = true;
                        Closing::Answering(io::Cursor::new((self.rules.refuse)(&refusal)))
                    }
                    Some(End::Broken) | None => Closing::Shutting,
                }
            }
            Closing::Answering(answer) if !answer.has_remaining() => Closing::Shutting,
            Closing::Answering(answer) => {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, answer.chunk()))?;
                answer.advance(written);
                return Poll::Ready(Ok(std::mem::replace(&mut self.closing, Closing::Done)));
            }
            Closing::Shutting => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
                Closing::Looking
            }
            Closing::Looking if self.finished => Closing::Done,
            Closing::Looking => match self.poll_discard(cx) {
                // Between requests, and nothing has come that a reset would answer.
                Poll::Pending if !self.owes => Closing::Done,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => next?,
            },
            Closing::Done => Closing::Done,
        }))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            if this.ready > 0 {
                this.give(buf);
                return Poll::Ready(Ok(()));
            }
            if this.end.is_some() || this.finished {
                return Poll::Ready(Ok(()));
            }
            let came = if this.held.is_empty() {
                this.read_through(cx, buf)
            } else {
                this.read_behind(cx)
            };
            match came {
                Poll::Ready(came) => came?,
                Poll::Pending => ready!(this.poll_deadline(cx)),
            }
            if buf.filled().len() > before {
                this.moved_on();
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, data);
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, data);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close(cx)
    }
}

/// Bytes read at a time where they do not go straight into the reader's buffer.
const PIECE: usize = 4096;
/// How long a closing connection waits for a client that is still sending. A client that has not
/// read its answer by then is too slow for a courtesy.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;

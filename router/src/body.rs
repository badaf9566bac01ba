//! Bodies on their way: counted, timed, never collected.
//!
//! Invariants
//! - *whole or broken*: an error of the sender is an error for the receiver, never an early end;
//! - *moving*: whoever waits for a piece waits for a bounded time;
//! - *no trailers*: fields after a body are dropped, as the fields that announce them are.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::upstream::Lease;

/// A request's body, from the client to the task.
pub(crate) enum RequestBody {
    /// There is none: the request can be sent again.
    Empty,
    /// It comes from the client as the task takes it.
    Client(Box<Upload>),
}

/// A body that comes from a client.
pub(crate) struct Upload {
    body: Incoming,
    pace: Pace,
    /// Bytes that may still come.
    left: u64,
    progress: Rc<Progress>,
}

/// How far an upload is; shared with whoever waits for the response.
#[derive(Debug)]
pub(crate) struct Progress {
    /// When the last piece was taken.
    pub(crate) last: Cell<Instant>,
    pub(crate) state: Cell<UploadState>,
}

/// What has become of an upload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UploadState {
    /// Not at its end yet.
    Open,
    /// All of it was taken.
    Complete,
    /// The client sent no more in time.
    TooSlow,
    /// The client sent more than is allowed.
    TooLarge,
    /// The client went away or broke the rules of framing.
    Broken,
}

/// A response's body, to the client.
pub(crate) enum Body {
    /// There is none.
    Empty,
    /// A line of the router's own.
    Text(Bytes),
    /// It comes from the task as the client takes it.
    Task(Box<Download>),
}

/// A body that comes from a task.
pub(crate) struct Download {
    body: Incoming,
    pace: Pace,
    /// Gives the connection back at the body's end; dropped before, it closes the connection.
    lease: Option<Lease>,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("no data for {0:?}")]
    Stalled(Duration),
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("the sender broke off")]
    Broken(#[source] hyper::Error),
}

/// A deadline for the next piece, armed only while waiting.
struct Pace {
    time: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl RequestBody {
    /// The body of a request and, if there is one, its progress.
    pub(crate) fn new(
        body: Incoming,
        limit: Option<u64>,
        time: Duration,
    ) -> (Self, Option<Rc<Progress>>) {
        if body.is_end_stream() {
            return (Self::Empty, None);
        }
        let progress = Rc::new(Progress {
            last: Cell::new(Instant::now()),
            state: Cell::new(UploadState::Open),
        });
        let upload = Upload {
            body,
            pace: Pace::new(time),
            left: limit.unwrap_or(u64::MAX),
            progress: Rc::clone(&progress),
        };
        (Self::Client(Box::new(upload)), Some(progress))
    }
}

impl Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (polled, state) = match self.pace.poll(&mut self.body, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                self.progress.last.set(Instant::now());
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = self.left.checked_sub(length) else {
                    self.progress.state.set(UploadState::TooLarge);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                };
                self.left = left;
                let complete = self.body.is_end_stream();
                let state = if complete { UploadState::Complete } else { UploadState::Open };
                (Some(Ok(frame)), state)
            }
            Poll::Ready(Some(Err(error))) => {
                let state = match error {
                    BodyError::Stalled(_) => UploadState::TooSlow,
                    BodyError::TooLarge => UploadState::TooLarge,
                    BodyError::Broken(_) => UploadState::Broken,
                };
                (Some(Err(error)), state)
            }
            Poll::Ready(None) => (None, UploadState::Complete),
        };
        self.progress.state.set(state);
        Poll::Ready(polled)
    }
}

impl Download {
    /// The body of a response that came over a leased connection.
    pub(crate) fn new(body: Incoming, time: Duration, lease: Lease) -> Self {
        Self { body, pace: Pace::new(time), lease: Some(lease) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(self.pace.poll(&mut self.body, cx));
        let at_end = match &polled {
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(error)) => {
                tracing::debug!(%error, "a task broke off its response");
                drop(self.lease.take());
                false
            }
            None => true,
        };
        if at_end && let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        Poll::Ready(polled)
    }
}

impl Pace {
    fn new(time: Duration) -> Self {
        Self { time, timer: None, waiting: false }
    }

    /// The next piece of data; trailers are skipped.
    fn poll(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Poll::Ready(polled) = Pin::new(&mut *body).poll_frame(cx) else {
                return self.wait(cx).map(|()| Some(Err(BodyError::Stalled(self.time))));
            };
            self.waiting = false;
            match polled {
                Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Broken(error)))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let time = self.time;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        if !std::mem::replace(&mut self.waiting, true) {
            timer.as_mut().reset(Instant::now() + time);
        }
        timer.as_mut().poll(cx)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client(upload) => upload.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(upload) => upload.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(upload) => upload.body.size_hint(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => {
                let text = std::mem::take(text);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(text))))
            }
            Self::Task(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(_) => false,
            Self::Task(download) => download.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Task(download) => download.body.size_hint(),
        }
    }
}

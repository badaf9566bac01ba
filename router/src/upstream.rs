//! Asks a task: chooses one, connects or reuses a connection, sends, waits for the head.
//!
//! Invariants
//! - *once*: a request is sent again only if nothing of it was sent, or if it has no body and its
//!   method is idempotent (RFC 9110 section 9.2.2), and then once;
//! - *bounded*: at most `limits.tries` tasks and one connection more are tried, each wait has its
//!   time;
//! - *clean*: a connection on which anything was odd is closed, not reused.

mod connect;
mod pool;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::{Body as HttpBody, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use crate::balance::{Load, Shunned};
use crate::body::{Body, Download, Progress, RequestBody, UploadState};
use crate::live::{Busy, Choice, Live};
use crate::refusal::Refusal;
use crate::reply;
use crate::table::{Route, Whom};
use crate::thread::Thread;

use self::connect::ConnectError;
pub(crate) use self::pool::{Connection, Pool};

/// Whom a request was put to, for the response's header fields.
#[derive(Debug)]
pub(crate) struct Asked {
    /// When the first was asked.
    pub(crate) began: Instant,
    /// The addresses, in order.
    pub(crate) addresses: Vec<HeaderValue>,
}

/// A connection in use for one request.
pub(crate) struct Lease {
    connection: Connection,
    busy: Busy,
    thread: Rc<Thread>,
    upload: Option<Rc<Progress>>,
    reusable: bool,
}

/// A request on its way to the tasks of one route.
pub(crate) struct Errand<'a> {
    pub(crate) thread: &'a Rc<Thread>,
    pub(crate) route: &'a Route,
    pub(crate) choice: &'a Choice,
    pub(crate) upload: Option<Rc<Progress>>,
    pub(crate) asked: Option<Asked>,
    /// Positions of the backends that accepted no connection.
    refused: Vec<usize>,
}

/// What came of sending a request over one connection.
enum Sent {
    Answered(Response<Incoming>, Connection),
    /// Nothing was written; the request comes back.
    Unsent(Request<RequestBody>),
    /// The connection broke before any byte of a response.
    Lost(hyper::Error),
    /// No response in time.
    Late,
}

impl Lease {
    /// Gives the connection to whoever needs it next, unless something about it is odd.
    pub(crate) fn give_back(self) {
        let Self { connection, busy, thread, upload, reusable } = self;
        // A task that answered early has not read all of the request.
        let complete = upload.is_none_or(|upload| upload.state.get() == UploadState::Complete);
        if reusable && complete {
            thread.pool.put(busy.endpoint().id, connection, Instant::now());
        }
    }
}

impl<'a> Errand<'a> {
    /// An errand under the route at position `place`.
    pub(crate) fn new(
        thread: &'a Rc<Thread>,
        live: &'a Live,
        route: &'a Route,
        place: usize,
        upload: Option<Rc<Progress>>,
    ) -> Option<Self> {
        let choice = live.choices.get(place)?;
        Some(Self { thread, route, choice, upload, asked: None, refused: Vec::new() })
    }

    /// Puts the request to tasks until one answers.
    pub(crate) async fn run(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Body>, Refusal> {
        let mut spare = replayable(&request).then(|| copy(&request));
        let mut fresh = false;
        for _ in 0..=self.thread.config.limits.tries {
            let Some(place) = self.choose() else { break };
            let Some((busy, connection)) = self.connection(place, fresh).await else { continue };
            match self.send(connection, request).await {
                Sent::Answered(response, connection) => {
                    return self.accept(response, connection, busy);
                }
                Sent::Unsent(unsent) => request = unsent,
                Sent::Late => return Err(self.late(place)),
                Sent::Lost(error) => {
                    self.refuse_upload()?;
                    tracing::debug!(%error, address = %busy.endpoint().address, "connection lost");
                    match spare.take() {
                        Some(copy) => request = copy,
                        None => return Err(self.lost(place)),
                    }
                }
            }
            fresh = true;
            self.thread.stats.retries.add();
        }
        Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            format!("no task of service {} accepted a connection", self.route.service()),
        ))
    }

    /// The position of the backend to ask next; `None` when all were tried.
    fn choose(&self) -> Option<usize> {
        if self.refused.len() >= self.thread.config.limits.tries {
            return None;
        }
        let load = |place: usize| match self.choice.endpoints.get(place) {
            Some(_) if self.refused.contains(&place) => {
                Load { in_flight: u32::MAX, shunned: Shunned::Always }
            }
            Some(endpoint) if endpoint.just_failed() => {
                Load { in_flight: endpoint.in_flight(), shunned: Shunned::IfPossible }
            }
            Some(endpoint) => Load { in_flight: endpoint.in_flight(), shunned: Shunned::No },
            None => Load { in_flight: u32::MAX, shunned: Shunned::Always },
        };
        self.choice.spread.choose(&mut self.thread.dice.borrow_mut(), load)
    }

    /// A connection to the backend at `place`, a new one if it has to be `fresh`.
    async fn connection(&mut self, place: usize, fresh: bool) -> Option<(Busy, Connection)> {
        let endpoint = Arc::clone(self.choice.endpoints.get(place)?);
        self.note(&endpoint.text);
        let busy = Busy::new(&endpoint);
        if !fresh && let Some(connection) = self.thread.pool.take(endpoint.id, Instant::now()) {
            self.thread.stats.reused.add();
            return Some((busy, connection));
        }
        match connect::connect(self.thread, &endpoint).await {
            Ok(connection) => {
                self.thread.stats.connected.add();
                Some((busy, connection))
            }
            Err(error) => {
                self.thread.stats.unconnected.add();
                self.complain(place, &error);
                endpoint.failed();
                self.refused.push(place);
                None
            }
        }
    }

    fn note(&mut self, address: &HeaderValue) {
        let asked = self
            .asked
            .get_or_insert_with(|| Asked { began: Instant::now(), addresses: Vec::new() });
        if asked.addresses.last() != Some(address) {
            asked.addresses.push(address.clone());
        }
    }

    async fn send(&self, mut connection: Connection, request: Request<RequestBody>) -> Sent {
        let limit = self.thread.config.timeouts.response;
        let began = Instant::now();
        let mut response = pin!(connection.send(request));
        let outcome = loop {
            // A task may wait for the end of the request: the clock runs from its last piece.
            let moved = self.upload.as_ref().map_or(began, |upload| upload.last.get());
            let until = moved.max(began) + limit;
            match tokio::time::timeout_at(until, response.as_mut()).await {
                Ok(outcome) => break outcome,
                Err(_) if self.upload.as_ref().is_some_and(|it| it.last.get() > moved) => {}
                Err(_) => return Sent::Late,
            }
        };
        match outcome {
            Ok(response) => Sent::Answered(response, connection),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Sent::Unsent(unsent),
                None => Sent::Lost(error.into_error()),
            },
        }
    }

    /// Takes over a response's head, or refuses to pass it on.
    fn accept(
        &mut self,
        response: Response<Incoming>,
        connection: Connection,
        busy: Busy,
    ) -> Result<Response<Body>, Refusal> {
        let (mut parts, body) = response.into_parts();
        let reusable = match reply::sanitise(&mut parts) {
            Ok(framing) => framing == reply::Framing::Clean,
            Err(fault) => {
                let address = busy.endpoint().address;
                tracing::debug!(%address, fault, "a task's response is refused");
                let text =
                    format!("service {} sent a malformed response: {fault}", self.route.service());
                return Err(Refusal::new(StatusCode::BAD_GATEWAY, text));
            }
        };
        let thread = Rc::clone(self.thread);
        let lease = Lease { connection, busy, thread, upload: self.upload.take(), reusable };
        if body.is_end_stream() {
            lease.give_back();
            return Ok(Response::from_parts(parts, Body::Empty));
        }
        let time = self.thread.config.timeouts.response_body;
        let download = Download::new(body, time, lease);
        Ok(Response::from_parts(parts, Body::Task(Box::new(download))))
    }

    /// Says whose fault it is when a request could not be sent to its end.
    fn refuse_upload(&self) -> Result<(), Refusal> {
        let state = self.upload.as_ref().map(|upload| upload.state.get());
        let (status, text) = match state {
            Some(UploadState::TooSlow) => {
                (StatusCode::REQUEST_TIMEOUT, "the request's body took too long")
            }
            Some(UploadState::TooLarge) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the request's body is too large")
            }
            Some(UploadState::Broken) => {
                (StatusCode::BAD_REQUEST, "the request's body broke off or is malformed")
            }
            Some(UploadState::Open | UploadState::Complete) | None => return Ok(()),
        };
        Err(Refusal::new(status, text))
    }

    fn late(&self, place: usize) -> Refusal {
        let time = self.thread.config.timeouts.response;
        let whom = self.whom(place);
        Refusal::new(StatusCode::GATEWAY_TIMEOUT, format!("{whom} did not answer within {time:?}"))
    }

    fn lost(&self, place: usize) -> Refusal {
        let whom = self.whom(place);
        Refusal::new(StatusCode::BAD_GATEWAY, format!("{whom} closed the connection unanswered"))
    }

    fn complain(&self, place: usize, error: &ConnectError) {
        tracing::debug!(whom = self.whom(place), %error, "cannot connect");
    }

    fn whom(&self, place: usize) -> String {
        match self.route.backends.get(place) {
            Some(backend) => match &backend.whom {
                Whom::Task(name) => format!("task {name} of service {}", backend.service),
                Whom::Vip => format!("the VIP of service {}", backend.service),
            },
            None => format!("service {}", self.route.service()),
        }
    }
}

/// Whether sending the request twice does what sending it once does.
fn replayable(request: &Request<RequestBody>) -> bool {
    let idempotent =
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];
    matches!(request.body(), RequestBody::Empty) && idempotent.contains(request.method())
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

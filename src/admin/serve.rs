//! HTTP for whoever asks, on the socket and on the port.
//!
//! Invariants
//! - *bounded*: so many askers at a time on each, and so long for a question and its answer;
//! - *read-only*: nothing is changed by whoever reaches the port, and nothing by GET;
//! - *not for web pages*: a name that somebody else made lead to the port (DNS rebinding) is not
//!   the port's: who reads a page on this machine does not read the registry to its author.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{api, events, exposition, metrics};
use crate::supervise::Live;
use crate::verify;

/// As many askers as get an answer at a time; the next one waits for its turn.
const MAX_CONNECTIONS: usize = 32;
/// As many askers have namespaces looked into at a time.
const MAX_LOOKS: usize = 2;
/// How long an asker may take to send its question and to read the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// As accept fails when descriptors run out.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// Where askers come in.
pub(super) trait Door: Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next asker.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Door for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// Places for questions that take their time, so that they leave room for the others.
#[derive(Debug)]
struct Slow {
    looks: Semaphore,
    followers: Semaphore,
}

impl Default for Slow {
    fn default() -> Self {
        let (looks, followers) = (Semaphore::new(MAX_LOOKS), Semaphore::new(events::FOLLOWERS));
        Self { looks, followers }
    }
}

/// What whoever comes may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rights {
    /// Ask.
    Read,
    /// Ask, and have things done.
    Change,
}

/// Answers whoever comes to `door`, until `stop`.
pub(super) async fn serve(door: &impl Door, rights: Rights, live: Live, stop: &CancellationToken) {
    let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let (live, slow) = (Arc::new(live), Arc::new(Slow::default()));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stop.cancelled() => return,
        };
        let stream = tokio::select! {
            accepted = door.next() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok(stream) = stream else {
            tokio::time::sleep(AFTER_ERROR).await;
            continue;
        };
        let (live, slow) = (Arc::clone(&live), Arc::clone(&slow));
        connections.spawn(async move {
            let service = service_fn(|request| {
                let (live, slow) = (&live, &slow);
                async move { Ok::<_, Infallible>(respond(live, slow, rights, &request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(rights.patience(), connection).await {
                Ok(Err(error)) => tracing::debug!(%error, "admin connection ended"),
                Ok(Ok(())) => {}
                Err(_) => tracing::debug!("an asker did not read its answer in time"),
            }
            drop(place);
        });
    }
}

impl Rights {
    /// How long a question and its answer may take.
    fn patience(self) -> Duration {
        match self {
            Self::Read => PATIENCE,
            Self::Change => PATIENCE + verify::LONGEST,
        }
    }
}

async fn respond<B>(
    live: &Arc<Live>,
    slow: &Slow,
    rights: Rights,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    if rights == Rights::Read && !is_meant(request.headers().get(HOST)) {
        let text = "this is portolan's admin port, which has no such name; ask for it by a loopback \
                    address or as localhost";
        return json(StatusCode::MISDIRECTED_REQUEST, &api::error(text));
    }
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    if *request.method() == Method::POST
        && rights == Rights::Change
        && let Some((status, value)) = api::act(live, path)
    {
        return json(status, &value);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return wrong_method("only GET and HEAD are understood", "GET, HEAD");
    }
    if path == api::FLUSH {
        return wrong_method("only POST, on the admin socket, is understood", "POST");
    }
    if path == "/metrics" {
        let live = Arc::clone(live);
        return match tokio::task::spawn_blocking(move || metrics::text(&live)).await {
            Ok(text) => body(StatusCode::OK, exposition::CONTENT_TYPE, text),
            Err(failure) => {
                json(StatusCode::INTERNAL_SERVER_ERROR, &api::error(&failure.to_string()))
            }
        };
    }
    if path == events::EVENTS {
        return json(StatusCode::OK, &events::answer(live, &slow.followers, query).await);
    }
    // Probes are sent for it, so it is not for whoever reaches the port.
    if rights == Rights::Change && api::is_look(path) {
        let _place = slow.looks.acquire().await;
        let (status, value) = api::look(live, path, query).await;
        return json(status, &value);
    }
    let (status, value) = api::answer(live, path, query);
    json(status, &value)
}

/// Whether somebody who asks so means the port, which listens on loopback only. Browsers always say
/// whom they mean; old programs may not.
fn is_meant(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Some(authority) = host.to_str().ok().and_then(|it| it.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_end_matches('.');
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.is_ok_and(|it| it.to_canonical().is_loopback())
        || name.eq_ignore_ascii_case("localhost")
}

fn wrong_method(text: &str, allowed: &'static str) -> Response<Full<Bytes>> {
    let mut refusal = json(StatusCode::METHOD_NOT_ALLOWED, &api::error(text));
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    refusal
}

fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    body(status, "application/json", value.to_string())
}

fn body(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_asked_by_loopback_names_only() {
        let meant = |host: &str| is_meant(Some(&HeaderValue::from_str(host).unwrap()));
        for host in
            ["127.0.0.1:9090", "127.0.0.9", "[::1]:9090", "[::ffff:127.0.0.1]", "LocalHost."]
        {
            assert!(meant(host), "{host}");
        }
        for host in
            ["evil.test:9090", "10.0.0.1", "localhost.evil.test", "127.0.0.1.nip.io", "", "["]
        {
            assert!(!meant(host), "{host}");
        }
        assert!(is_meant(None), "who says nothing is no browser");
    }
}

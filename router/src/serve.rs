//! One request from its head to the response's head.
//!
//! Always true: every request gets exactly one answer, signed; whatever goes wrong on the way is a
//! [`Refusal`] with a status and a reason. The table that a request began with serves it to its end.

use std::borrow::Cow;
use std::convert::Infallible;
use std::rc::Rc;

use hyper::body::{Body as HttpBody, Incoming};
use hyper::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use crate::answer;
use crate::authority;
use crate::body::{Body, RequestBody};
use crate::forwarded::{self, Client};
use crate::head::bad;
use crate::hop;
use crate::path;
use crate::refusal::Refusal;
use crate::rewrite::{self, Path};
use crate::route::{self, Found};
use crate::thread::Thread;
use crate::upstream::{Asked, Errand};

/// Answers one request of `client`.
pub(crate) async fn respond(
    thread: Rc<Thread>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    thread.stats.requests.add();
    let id = thread.request_id();
    let mut asked = None;
    let outcome = answer(&thread, &client, &id, request, &mut asked).await;
    let mut response = outcome.unwrap_or_else(|refusal| {
        let count = if refusal.status.is_server_error() {
            &thread.stats.failed
        } else {
            &thread.stats.refused
        };
        count.add();
        tracing::debug!(id = ?id, status = refusal.status.as_u16(), reason = %refusal.text, "refused");
        answer::text(&refusal)
    });
    thread.identity.sign(response.headers_mut(), id, asked.as_ref());
    Ok(response)
}

async fn answer(
    thread: &Rc<Thread>,
    client: &Client,
    id: &HeaderValue,
    request: Request<Incoming>,
    asked: &mut Option<Asked>,
) -> Result<Response<Body>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let authority = authority_of(&parts)?;
    if parts.uri.path() == "*" {
        return match parts.method {
            Method::OPTIONS => Ok(answer::options()),
            _ => Err(bad("only OPTIONS may ask for `*`")),
        };
    }
    let host = host_of(authority.as_ref())?;
    check_expectation(&parts)?;

    let live = thread.live.load_full();
    let asked_for = path::resolve(parts.uri.path()).into_owned();
    let (place, found) = match route::find(&live.table, &host, &asked_for) {
        Found::Route(place, found) => (place, found),
        unknown @ (Found::NoHost | Found::NoPath) => return Err(no_route(thread, &host, unknown)),
    };
    if let Some(reason) = &found.unavailable {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason.to_string()));
    }
    let path = match rewrite::path(found, &asked_for) {
        Path::Send(path) => path,
        Path::AddSlash => {
            let location = rewrite::with_query(&format!("{asked_for}/"), parts.uri.query());
            return answer::redirect(&parts.method, &location);
        }
        Path::Refuse => {
            return Err(bad("the path could be read as leading out of its context root"));
        }
    };
    parts.uri = target(&parts.uri, &path)?;
    refuse_too_large(thread, &body)?;
    prepare(thread, client, id, &mut parts, authority);
    let limits = &thread.config.limits;
    let (body, upload) = RequestBody::new(body, limits.body, thread.config.timeouts.body);
    if upload.is_some() && !parts.headers.contains_key(CONTENT_LENGTH) {
        // Said here because hyper would send a GET without its body otherwise.
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let unserved = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the route is being changed");
    let mut errand = Errand::new(thread, &live, found, place, upload).ok_or_else(unserved)?;
    let response = errand.run(Request::from_parts(parts, body)).await;
    *asked = errand.asked;
    response
}

/// What the request says it is for, as it was written: the target's authority where there is one
/// (RFC 9112 section 3.2.2), else `Host`; `None` only for HTTP/1.0.
fn authority_of(parts: &Parts) -> Result<Option<HeaderValue>, Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(bad("several Host fields")),
        (None, _) if parts.version == Version::HTTP_11 => return Err(bad("no Host field")),
        (host, _) => host,
    };
    match (parts.uri.scheme(), parts.uri.authority()) {
        (None, None) => Ok(host.cloned()),
        (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP => {
            let authority = HeaderValue::from_str(authority.as_str());
            authority.map(Some).or(Err(bad("the target's authority is malformed")))
        }
        (Some(_), _) => Err(bad("the target's scheme is not http")),
        (None, Some(_)) => Err(bad("the target names no path")),
    }
}

/// The host that a request is routed by. HTTP/1.0 requests may have none: no route is for them.
fn host_of(authority: Option<&HeaderValue>) -> Result<Cow<'_, str>, Refusal> {
    match authority {
        None => Ok(Cow::Borrowed("")),
        Some(authority) => {
            authority::host(authority.as_bytes()).ok_or_else(|| bad("the Host field is not a host"))
        }
    }
}

/// `100-continue` is met by hyper once the body is asked for; there is no other expectation.
fn check_expectation(parts: &Parts) -> Result<(), Refusal> {
    match parts.headers.get(EXPECT) {
        Some(expected) if !expected.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Refusal::new(StatusCode::EXPECTATION_FAILED, "only `100-continue` can be expected"))
        }
        Some(_) | None => Ok(()),
    }
}

fn no_route(thread: &Thread, host: &str, unknown: Found<'_>) -> Refusal {
    let text = match (unknown, host) {
        (_, "") => "no route for a request without Host".to_owned(),
        (Found::NoPath, host) => format!("no route for this path of host {host}"),
        (Found::NoHost | Found::Route(..), host) => format!("no route for host {host}"),
    };
    Refusal::new(thread.config.unknown_host.status(), text)
}

/// The target as a task expects it: path and query only.
fn target(uri: &Uri, path: &str) -> Result<Uri, Refusal> {
    if uri.path() == path {
        // Nothing to make anew: only scheme and authority go.
        let target = uri.path_and_query().cloned();
        return Ok(Uri::from(target.unwrap_or(PathAndQuery::from_static("/"))));
    }
    let target = PathAndQuery::try_from(rewrite::with_query(path, uri.query()));
    target.map(Uri::from).or(Err(bad("the path is malformed")))
}

fn refuse_too_large(thread: &Thread, body: &Incoming) -> Result<(), Refusal> {
    let announced = body.size_hint().lower();
    match thread.config.limits.body {
        Some(limit) if announced > limit => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request's body is larger than {limit} bytes"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Makes the head of the request that the task gets.
fn prepare(
    thread: &Thread,
    client: &Client,
    id: &HeaderValue,
    parts: &mut Parts,
    authority: Option<HeaderValue>,
) {
    parts.version = Version::HTTP_11;
    hop::strip(&mut parts.headers);
    parts.headers.remove(EXPECT);
    forwarded::set(&mut parts.headers, client, authority.as_ref(), id, &thread.config.trusted);
    if let Some(authority) = authority {
        parts.headers.insert(HOST, authority);
    }
}

//! What every answer carries, and the answers that the router gives itself.

use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue, LOCATION,
};
use hyper::{HeaderMap, Method, Response, StatusCode};
use tokio::time::Instant;

use crate::body::Body;
use crate::forwarded::X_REQUEST_ID;
use crate::refusal::Refusal;
use crate::upstream::Asked;

/// Who answers, as the response says.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    proxy_id: HeaderValue,
    server_info: HeaderValue,
}

impl Identity {
    /// A proxy of that id; what a header field cannot hold is left out of it.
    pub(crate) fn new(proxy_id: &str) -> Self {
        let fit: String = proxy_id.chars().filter(char::is_ascii_graphic).take(64).collect();
        let info = concat!("portolan/", env!("CARGO_PKG_VERSION"));
        Self {
            proxy_id: HeaderValue::try_from(fit).unwrap_or(HeaderValue::from_static("unknown")),
            server_info: HeaderValue::from_static(info),
        }
    }

    /// Sets the fields that every answer carries; the last two only if a task was asked.
    pub(crate) fn sign(&self, headers: &mut HeaderMap, id: HeaderValue, asked: Option<&Asked>) {
        headers.insert(X_REQUEST_ID, id);
        headers.insert(X_PROXY_ID, self.proxy_id.clone());
        headers.insert(X_SERVER_INFO, self.server_info.clone());
        if let Some(asked) = asked {
            headers.insert(X_UPSTREAM_ADDR, addresses(asked));
            headers.insert(X_UPSTREAM_RESPONSE_TIME, seconds(asked));
        }
    }

    /// The bytes of a whole response that refuses a request and ends the connection.
    pub(crate) fn refuse(&self, refusal: &Refusal, id: HeaderValue, now: SystemTime) -> Vec<u8> {
        let (mut parts, _) = text(refusal).into_parts();
        self.sign(&mut parts.headers, id, None);
        let body = line(refusal);
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now)) {
            parts.headers.insert(DATE, date);
        }
        let reason = parts.status.canonical_reason().unwrap_or_default();
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).into_bytes();
        for (name, value) in &parts.headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body.as_bytes());
        bytes
    }
}

/// A refusal as a response: its reason as one line of text.
pub(crate) fn text(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Body::Text(Bytes::from(line(refusal))));
    *response.status_mut() = refusal.status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// A permanent redirect to `location` on the same host; relative, because the router does not know
/// under which port and scheme the client sees it. The method stays, where it matters.
pub(crate) fn redirect(method: &Method, location: &str) -> Result<Response<Body>, Refusal> {
    let status = match *method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    let location = HeaderValue::try_from(location)
        .or(Err(Refusal::new(StatusCode::BAD_REQUEST, "the path cannot stand in a redirect")))?;
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    Ok(response)
}

/// The answer to `OPTIONS *`, which asks about the server and not about a resource.
pub(crate) fn options() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    response.headers_mut().insert(ALLOW, methods);
    response
}

fn line(refusal: &Refusal) -> String {
    format!("{}\n", refusal.text)
}

/// All addresses asked, in order, as nginx lists them.
fn addresses(asked: &Asked) -> HeaderValue {
    match asked.addresses.as_slice() {
        [only] => only.clone(),
        several => {
            let joined =
                several.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
            HeaderValue::from_bytes(&joined).unwrap_or(HeaderValue::from_static("unknown"))
        }
    }
}

/// Seconds since the first task was asked, to the millisecond.
fn seconds(asked: &Asked) -> HeaderValue {
    let took = Instant::now().duration_since(asked.began);
    let text = format!("{}.{:03}", took.as_secs(), took.subsec_millis());
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0.000"))
}

const X_PROXY_ID: HeaderName = HeaderName::from_static("x-proxy-id");
const X_SERVER_INFO: HeaderName = HeaderName::from_static("x-server-info");
const X_UPSTREAM_ADDR: HeaderName = HeaderName::from_static("x-upstream-addr");
const X_UPSTREAM_RESPONSE_TIME: HeaderName = HeaderName::from_static("x-upstream-response-time");

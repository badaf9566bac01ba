//! Takes off what is meant for one hop only (RFC 9110 section 7.6.1). Pure.
//!
//! Always true afterwards: no `Connection` and nothing it named, no field about this connection's
//! framing or credentials. What tells requests apart is never taken off on a sender's word.

use hyper::HeaderMap;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Removes the hop-by-hop fields of a request or response.
pub(crate) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The fields that `Connection` names, save those that nobody may have taken off: leaving out
/// `Host` or `Authorization` downstream would change what the request means.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| !PROTECTED.contains(name))
        .collect()
}

const HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"), // RFC 7540's upgrade, obsolete since RFC 9113
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("proxy-authentication-info"),
];

const PROTECTED: [HeaderName; 4] = [HOST, AUTHORIZATION, COOKIE, CONTENT_LENGTH];

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn stripped(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<String> = headers.keys().map(ToString::to_string).collect();
        left.sort_unstable(); // their order is not kept, nor does it mean anything
        left
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_are_removed() {
        let left = stripped(&[
            ("connection", "keep-alive, X-Foo"),
            ("connection", "x-bar"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("x-foo", "1"),
            ("x-bar", "1"),
            ("accept", "*/*"),
        ]);
        assert_eq!(left, ["accept"]);
    }

    #[test]
    fn connection_cannot_take_off_what_tells_requests_apart() {
        let left = stripped(&[
            ("connection", "host, authorization, cookie, content-length, ;;, ,"),
            ("host", "a.test"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("content-length", "0"),
        ]);
        assert_eq!(left, ["authorization", "content-length", "cookie", "host"]);
    }
}

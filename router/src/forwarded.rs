//! Tells the task who asked: the `X-Forwarded-*` family, `X-Real-IP`, `x-request-id`. Pure.
//!
//! Always true afterwards: unless the peer is trusted, nothing of the family stems from the client,
//! in whatever spelling; a CGI server reads `X_Forwarded_For` as `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName, HeaderValue};
use ipnet::IpNet;

/// Who is at the other end of a client connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: IpAddr,
    /// The address as text, made once per connection.
    text: HeaderValue,
    trusted: bool,
}

impl Client {
    /// The peer of a connection, believed if it is in one of `trusted`.
    pub(crate) fn new(peer: IpAddr, trusted: &[IpNet]) -> Self {
        let address = peer.to_canonical();
        let text = HeaderValue::try_from(address.to_string());
        Self {
            address,
            text: text.unwrap_or(HeaderValue::from_static("unknown")),
            trusted: is_trusted(address, trusted),
        }
    }
}

/// Sets the family on a request that came for `host` (the `Host` field as the client wrote it).
pub(crate) fn set(
    headers: &mut HeaderMap,
    client: &Client,
    host: Option<&HeaderValue>,
    request_id: &HeaderValue,
    trusted: &[IpNet],
) {
    let unwanted: Vec<HeaderName> =
        headers.keys().filter(|name| is_unwanted(name, client.trusted)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
    let (real, chain) = if client.trusted {
        (real_ip(headers, client, trusted), chain(headers, client))
    } else {
        (client.text.clone(), client.text.clone())
    };
    headers.insert(X_REAL_IP, real);
    headers.insert(X_FORWARDED_FOR, chain);
    if !client.trusted || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !client.trusted || !headers.contains_key(X_FORWARDED_HOST) {
        match host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host.clone()),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
}

/// Fields that are removed: spellings with `_` of what is set here, `Forwarded` (which is not
/// appended to and would then contradict), and the rest of the family from strangers.
fn is_unwanted(name: &HeaderName, trusted: bool) -> bool {
    let text = name.as_str();
    if text.contains('_') {
        let dashed = text.replace('_', "-");
        return dashed.starts_with(FAMILY) || SET.iter().any(|set| set.as_str() == dashed);
    }
    name == FORWARDED || (!trusted && text.starts_with(FAMILY) && !SET.contains(name))
}

/// `X-Forwarded-For` as the trusted peer sent it, and the peer.
fn chain(headers: &HeaderMap, client: &Client) -> HeaderValue {
    let mut chain = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(client.text.as_bytes());
    HeaderValue::from_bytes(&chain).unwrap_or_else(|_| client.text.clone())
}

/// The last address in the chain that is not a trusted proxy: the client as far as anyone trusted
/// has seen it. What stands left of it may be invented.
fn real_ip(headers: &HeaderMap, client: &Client, trusted: &[IpNet]) -> HeaderValue {
    let mut real = client.address;
    let values: Vec<&str> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("unreadable").split(','))
        .collect();
    for hop in values.into_iter().rev() {
        let Some(address) = parse(hop.trim()) else { break };
        real = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    HeaderValue::try_from(real.to_string()).unwrap_or_else(|_| client.text.clone())
}

/// An address with or without port and brackets; others (`unknown`, `_hidden`) are none.
fn parse(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().ok().or_else(|| hop.parse().ok().map(|it: SocketAddr| it.ip()))?;
    Some(address.to_canonical())
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

const FAMILY: &str = "x-forwarded-";
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Names one request in the logs of client, router and task.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What [`set`] always sets, so that it need not be removed first.
const SET: [HeaderName; 5] =
    [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_REAL_IP, X_REQUEST_ID];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(peer: &str, sent: &[(&'static str, &'static str)], expect: &[(&str, &str)]) {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|it| it.parse().unwrap()).into();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let client = Client::new(peer.parse().unwrap(), &trusted);
        let host = HeaderValue::from_static("a.test:8080");
        set(&mut headers, &client, Some(&host), &HeaderValue::from_static("id"), &trusted);
        let mut found: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        found.sort_unstable();
        assert_eq!(found, expect);
    }

    #[test]
    fn a_stranger_is_described_by_us_alone() {
        let expect = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "a.test:8080"),
            ("x-forwarded-proto", "http"),
            ("x-real-ip", "192.0.2.1"),
            ("x-request-id", "id"),
        ];
        check("192.0.2.1", &[], &expect);
        check("::ffff:192.0.2.1", &[], &expect);
        let forged = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.test"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/evil"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x_forwarded-anything", "6.6.6.6"),
            ("x-real_ip", "6.6.6.6"),
            ("x-request-id", "forged"),
            ("x_request_id", "forged"),
        ];
        check("192.0.2.1", &forged, &expect);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_named() {
        check(
            "10.0.0.9",
            &[
                ("x-forwarded-for", "9.9.9.9, 192.0.2.7:4711"),
                ("x-forwarded-for", "10.0.0.3"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-port", "443"),
                ("forwarded", "for=1.1.1.1"),
                ("x_forwarded_for", "6.6.6.6"),
            ],
            &[
                ("x-forwarded-for", "9.9.9.9, 192.0.2.7:4711, 10.0.0.3, 10.0.0.9"),
                ("x-forwarded-host", "a.test:8080"),
                ("x-forwarded-port", "443"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "192.0.2.7"),
                ("x-request-id", "id"),
            ],
        );
    }

    #[test]
    fn the_real_address_is_the_last_that_anyone_trusted_saw() {
        for (chain, real) in [
            ("unknown", "10.0.0.9"),
            ("1.1.1.1, unknown", "10.0.0.9"),
            ("1.1.1.1, _hidden, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
            ("[2001:db8::1]:443, fd00::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("1.1.1.1,", "10.0.0.9"),
        ] {
            let trusted: Vec<IpNet> =
                ["10.0.0.0/8", "fd00::/8"].map(|it| it.parse().unwrap()).into();
            let mut headers = HeaderMap::new();
            headers.insert(X_FORWARDED_FOR, HeaderValue::from_static(chain));
            let client = Client::new("10.0.0.9".parse().unwrap(), &trusted);
            assert_eq!(real_ip(&headers, &client, &trusted), real, "{chain}");
        }
    }
}

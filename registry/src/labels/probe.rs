//! Values of labels about balancing and health checks: from text to type, or what is wrong with it.
//!
//! Always true here: what is read can be sent and used as it stands (a path has no white space, a
//! time is within its range), so that nobody has to look at it again.

use std::net::IpAddr;
use std::time::Duration;

use super::values::{Bad, bad, host, port};
use crate::balance_spec::{Affinity, Bind, Prefer};
use crate::duration;
use crate::model::Protocol;

/// Whom an HTTP check asks for what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    /// `None`: the only one there is.
    pub(super) port: Option<u16>,
    /// With its leading slash, and query.
    pub(super) path: String,
}

/// `PORT/path`, `/path`, or `PORT` for its root.
pub(super) fn http(value: &str) -> Result<Target, Bad> {
    const REMEDY: &str = "write a port and a path, e.g. `8080/health`, or the path alone";
    let value = value.trim();
    if let Some((_, rest)) = value.split_once("://") {
        let path = rest.split_once('/').map(|(_, it)| it).unwrap_or_default();
        let remedy = match http(&format!("/{path}")) {
            Ok(target) => format!("write its port and path, e.g. `8080{}`", target.path),
            Err(other) => other.remedy,
        };
        return Err(bad("is a URL", remedy));
    }
    let (number, path) = match value.find('/') {
        Some(slash) => value.split_at(slash),
        None => (value, "/"),
    };
    let port = match number {
        "" if value.is_empty() => return Err(bad("names no path", REMEDY)),
        "" => None,
        number => match port(number) {
            Ok(port) => Some(port),
            Err(_) => return Err(bad("does not begin with a port or a slash", REMEDY)),
        },
    };
    // What a request's target has (RFC 3986 sections 3.3 and 3.4); a fragment is never sent.
    let legal = |it: u8| it.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@?".contains(&it);
    if !path.bytes().all(legal) {
        let text = "has characters that no request has";
        return Err(bad(text, "write other characters than letters and digits as %XX"));
    }
    if path.len() > LONGEST_PATH {
        return Err(bad("is too long", format!("write at most {LONGEST_PATH} characters")));
    }
    Ok(Target { port, path: path.to_owned() })
}

/// The host of a request, without port.
pub(super) fn name_of_host(value: &str) -> Result<String, Bad> {
    match host(value)? {
        wildcard if wildcard.starts_with('*') => {
            Err(bad("is a wildcard", "write one of the names that it stands for"))
        }
        name => Ok(name),
    }
}

/// `client` or `none`.
pub(super) fn affinity(value: &str) -> Result<Affinity, Bad> {
    match value.trim() {
        "client" => Ok(Affinity::Client),
        "none" | "" => Ok(Affinity::None),
        _ => Err(bad("is no affinity", "write `client` or `none`")),
    }
}

/// `node` or `any`.
pub(super) fn prefer(value: &str) -> Result<Prefer, Bad> {
    match value.trim() {
        "node" => Ok(Prefer::Node),
        "any" | "" => Ok(Prefer::Any),
        _ => Err(bad("names no tasks", "write `node` or `any`")),
    }
}

/// `v2`; that of version 1 is text, and nobody needs it who can read the other.
pub(super) fn proxy_protocol(value: &str) -> Result<bool, Bad> {
    match value.trim() {
        "v2" => Ok(true),
        "off" | "" => Ok(false),
        _ => Err(bad("is no version of the PROXY protocol that is spoken", "write `v2` or `off`")),
    }
}

/// An address without port or prefix length.
pub(super) fn address(value: &str) -> Result<IpAddr, Bad> {
    value.trim().parse().map_err(|_it: std::net::AddrParseError| {
        bad("is not an IP address", "write one address, e.g. 10.0.5.100")
    })
}

/// An address or the name of an interface.
pub(super) fn bind(value: &str) -> Result<Bind, Bad> {
    let value = value.trim();
    if let Ok(address) = value.parse() {
        return Ok(Bind::Address(address));
    }
    // What the kernel's dev_valid_name() lets through.
    let dots = value == "." || value == "..";
    let illegal = |it: char| it == '/' || it == ':' || it.is_whitespace() || it.is_control();
    if value.is_empty() || value.len() > 15 || dots || value.contains(illegal) {
        return Err(bad(
            "is neither an address nor the name of an interface, so the port is not had there",
            "write an address of the node or an interface's name, e.g. 192.0.2.5 or eth0",
        ));
    }
    Ok(Bind::Interface(value.to_owned()))
}

/// `PORT`, `PORT/tcp` or `PORT/udp`.
pub(super) fn port_and_protocol(value: &str) -> Result<(u16, Protocol), Bad> {
    let (number, protocol) = value.trim().split_once('/').unwrap_or((value, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(bad("has no protocol that is balanced", "write `PORT/tcp` or `PORT/udp`")),
    };
    match port(number) {
        Ok(port) => Ok((port, protocol)),
        Err(_) => Err(bad("is not a port", "write ports as `80` or `53/udp`")),
    }
}

/// How long a drain may take.
pub(super) fn drain(value: &str) -> Result<Duration, Bad> {
    time(value, Duration::ZERO, Duration::from_secs(24 * 3600), "from 0s to 24h, e.g. 30s")
}

/// How often is probed. Oftener than each second is more than a verdict is worth.
pub(super) fn interval(value: &str) -> Result<Duration, Bad> {
    time(value, Duration::from_secs(1), Duration::from_secs(3600), "from 1s to 1h, e.g. 10s")
}

/// How long a probe may take.
pub(super) fn timeout(value: &str) -> Result<Duration, Bad> {
    let most = Duration::from_secs(60);
    time(value, Duration::from_millis(100), most, "from 100ms to 1m, e.g. 2s")
}

/// How many probes in a row make a verdict.
pub(super) fn streak(value: &str) -> Result<u32, Bad> {
    let digits = value.trim();
    match digits.parse() {
        Ok(count @ 1..=100) if digits.bytes().all(|it| it.is_ascii_digit()) => Ok(count),
        _ => Err(bad("is not a number of probes", "write a number from 1 to 100")),
    }
}

fn time(value: &str, least: Duration, most: Duration, range: &str) -> Result<Duration, Bad> {
    match duration::parse(value) {
        Some(time) if time >= least && time <= most => Ok(time),
        Some(_) => Err(bad("is out of range", format!("write a time {range}"))),
        None => Err(bad("is not a time", format!("write a time {range}"))),
    }
}

/// Octets; longer than any path that a person writes into a label.
const LONGEST_PATH: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_port_and_a_path_or_one_of_them() {
        for (text, port, path) in [
            ("8080/health", Some(8080), "/health"),
            ("/health?full=1", None, "/health?full=1"),
            (" 80 ", Some(80), "/"),
            ("80/", Some(80), "/"),
        ] {
            assert_eq!(http(text), Ok(Target { port, path: path.to_owned() }), "{text}");
        }
        for text in ["", "health", ":80/x", "0/x", "80/a b", "/a#b", "/a\r\nHost: x", "/ä"] {
            assert!(http(text).is_err(), "{text}");
        }
        let url = http("http://web:8080/ping").unwrap_err();
        assert_eq!(url.remedy, "write its port and path, e.g. `8080/ping`");
    }

    #[test]
    fn a_bind_is_an_address_or_what_the_kernel_takes_for_a_name() {
        assert_eq!(bind("10.0.0.1"), Ok(Bind::Address([10, 0, 0, 1].into())));
        assert_eq!(bind("::1"), Ok(Bind::Address(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST))));
        for name in ["eth0", "bond0.100", "wg-home", "10.0.0.300"] {
            assert_eq!(bind(name), Ok(Bind::Interface(name.to_owned())), "{name}");
        }
        for text in ["", ".", "..", "a/b", "eth0:1", "a b", "sixteen-octets-x", "10.0.0.0/24"] {
            assert!(bind(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_held_within_what_a_timer_and_a_probed_task_bear() {
        assert_eq!(interval("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(drain("0s"), Ok(Duration::ZERO));
        for text in ["999ms", "61m", "10", "", "-1s"] {
            assert!(interval(text).is_err(), "{text}");
        }
        for text in ["99ms", "61s"] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }
}

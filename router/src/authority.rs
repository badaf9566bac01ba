//! Reads what clients write into `Host`: a name or an address, perhaps a port. Pure.
//!
//! Whatever it returns is lower case, without port and trailing dot, and consists of letters,
//! digits, `.`, `-`, `_`, or is an address literal in brackets: safe in a header, a log, a body.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The host of an authority (`uri-host [":" port]`, RFC 9110 section 7.2); `None` when it is not
/// one. Internationalised names come as A-labels; user information is refused, as is a percent
/// sign: no name that can be looked up has one.
pub(crate) fn host(authority: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(authority).ok()?;
    let (host, port) = if text.starts_with('[') { literal(text)? } else { name(text)? };
    let port_is_one = match port.strip_prefix(':') {
        Some(digits) => digits.is_empty() || is_port(digits),
        None => port.is_empty(),
    };
    if !port_is_one {
        return None;
    }
    let has_upper_case = host.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if has_upper_case { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) })
}

/// An IPv6 address in brackets, and what follows it.
fn literal(text: &str) -> Option<(&str, &str)> {
    let (literal, rest) = text.split_at(text.find(']')? + 1);
    let address = literal.strip_prefix('[')?.strip_suffix(']')?;
    address.parse::<Ipv6Addr>().ok().map(|_| (literal, rest))
}

/// A name without its final dot, and what follows it.
fn name(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = (1..=NAME_MAX).contains(&name.len());
    (fits && name.bytes().all(of_a_name)).then_some((name, rest))
}

fn of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn is_port(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
}

/// The longest name that DNS can carry, as text without the final dot (RFC 1035 section 3.1).
const NAME_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(authority: &str, expect: Option<&str>) {
        assert_eq!(host(authority.as_bytes()).as_deref(), expect, "{authority:?}");
    }

    #[test]
    fn port_trailing_dot_and_case_do_not_count() {
        check("Counter.TEST", Some("counter.test"));
        check("counter.test:8080", Some("counter.test"));
        check("counter.test.:8080", Some("counter.test"));
        check("counter.test:", Some("counter.test"));
        check("under_score.test", Some("under_score.test"));
        check("10.0.0.1:80", Some("10.0.0.1"));
    }

    #[test]
    fn address_literals_keep_their_brackets() {
        check("[::1]", Some("[::1]"));
        check("[FE80::1]:443", Some("[fe80::1]"));
        for bad in ["[::1", "[::1]x", "[::g]", "[]", "[::1]:", "[::1]:65536"] {
            let expect = (bad == "[::1]:").then_some("[::1]");
            check(bad, expect);
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "", ".", ":80", "a b", "a/b", "user@a", "a,b", "a:b", "a:80:80", "a:-1", "a:+1",
            "a:65536", "a%2eb", "é.test", "a\t", "a\0", "a?b", "a#b", "a\\b",
        ] {
            check(bad, None);
        }
        check(&"a".repeat(254), None);
        assert_eq!(host(b"\xff\xfe"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_safe_host_or_none(bytes: Vec<u8>) {
            if let Some(host) = host(&bytes) {
                let safe = |byte: u8| of_a_name(byte) && !byte.is_ascii_uppercase();
                prop_assert!(host.starts_with('[') || host.bytes().all(safe));
            }
        }

        #[test]
        fn a_host_is_its_own_host(text in "[A-Za-z0-9._-]{1,40}(:[0-9]{1,4})?") {
            if let Some(once) = host(text.as_bytes()) {
                let dotted = once.ends_with('.');
                prop_assert!(dotted || host(once.as_bytes()) == Some(Cow::Borrowed(&*once)));
            }
        }
    }
}

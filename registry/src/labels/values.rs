//! Label values: from text to type, or what is wrong with the text and what to write instead.

use crate::route_spec::BackendMode;

/// What is wrong with a value. Reads after the value in backticks: `abc` *is not a port number*.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Bad {
    pub(super) text: String,
    pub(super) remedy: String,
}

pub(super) fn bad(text: impl Into<String>, remedy: impl Into<String>) -> Bad {
    Bad { text: text.into(), remedy: remedy.into() }
}

/// A port, 1 to 65535, in decimal digits.
pub(super) fn port(value: &str) -> Result<u16, Bad> {
    let digits = value.trim();
    let all_digits = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    match digits.parse() {
        Ok(port) if port > 0 && all_digits => Ok(port),
        _ => Err(bad(
            "is not a port number",
            "write the port the container listens on, 1 to 65535, e.g. 8080",
        )),
    }
}

/// The set of Go's `strconv.ParseBool`, which is what Docker's own tools accept.
pub(super) fn boolean(value: &str) -> Result<bool, Bad> {
    match value.trim() {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(bad("is neither true nor false", "write `true` or `false`")),
    }
}

/// `task`, `vip`, or `default`, which an old manual has for `task`.
pub(super) fn backend_mode(value: &str) -> Result<BackendMode, Bad> {
    match value.trim() {
        "task" | "default" => Ok(BackendMode::Task),
        "vip" => Ok(BackendMode::Vip),
        _ => Err(bad("is not a backend mode", "write `task` or `vip`")),
    }
}

/// A path prefix with a leading slash; trailing slashes are taken off, so that the root is empty.
pub(super) fn path(value: &str) -> Result<String, Bad> {
    let path = value.trim();
    if !path.is_empty() && !path.starts_with('/') {
        let remedy = match self::path(&format!("/{path}")) {
            Ok(meant) => format!("write `{meant}`"),
            Err(other) => other.remedy,
        };
        return Err(bad("does not begin with a slash", remedy));
    }
    // Requests carry no other characters in a path (RFC 3986 section 3.3), so it could never match.
    let legal = |it: u8| it.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&it);
    if !path.bytes().all(legal) {
        return Err(bad(
            "has characters that no path has",
            "write one path without query, e.g. `/app`, with other characters as %XX",
        ));
    }
    let path = path.trim_end_matches('/');
    if path.contains("//") || path.split('/').any(|it| it == "." || it == "..") {
        return Err(bad("is not a plain path", "write it without `//`, `.` and `..`"));
    }
    Ok(path.to_owned())
}

/// A name that must be there.
pub(super) fn name(value: &str) -> Result<String, Bad> {
    match value.trim() {
        "" => Err(bad("is empty", "write a name or remove the label")),
        name => Ok(name.to_owned()),
    }
}

/// Any text, trimmed.
#[expect(clippy::unnecessary_wraps, reason = "a reader of the key table")]
pub(super) fn text(value: &str) -> Result<String, Bad> {
    Ok(value.trim().to_owned())
}

/// A comma list with at least one entry, still as text.
pub(super) fn list(value: &str) -> Result<String, Bad> {
    if value.split(',').all(|it| it.trim().is_empty()) {
        return Err(bad("names no host", "write host names separated by commas"));
    }
    Ok(value.to_owned())
}

/// One host name in its normal form: lower case, without trailing dot; `*.` in front for all names
/// one or more labels below. Underscores are let through, since compose services have them.
pub(super) fn host(text: &str) -> Result<String, Bad> {
    let host = text.trim().to_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let name = host.strip_prefix("*.").unwrap_or(host);
    if let Some((_, rest)) = name.split_once("://") {
        let end = rest.find(['/', ':', '?', '#']).unwrap_or(rest.len());
        return Err(meant("is a URL, not a host name", rest.get(..end).unwrap_or_default()));
    }
    if let Some((before, _)) = name.split_once('/') {
        let mut bad = meant("has a path", before);
        bad.remedy.push_str(", and the path as `context_root`");
        return Err(bad);
    }
    if let Some((before, _)) = name.split_once(':') {
        return Err(meant("has a port", before));
    }
    if name.contains(char::is_whitespace) {
        return Err(bad("has a space in it", "separate host names by commas"));
    }
    if name.contains('*') {
        return Err(bad(
            "has a `*` that is not its whole first label",
            "write wildcards as `*.example.com`",
        ));
    }
    if !name.is_ascii() {
        return Err(bad(
            "is not in ASCII",
            "write the name as browsers send it, in its `xn--` form (RFC 5891)",
        ));
    }
    let label = |it: &str| {
        let inside = it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        inside && matches!(it.len(), 1..=63) && !it.starts_with('-') && !it.ends_with('-')
    };
    if host.len() > 253 || !name.split('.').all(label) {
        return Err(bad("is not a host name", "write a name like `app.example.com` (RFC 1123)"));
    }
    Ok(host.to_owned())
}

/// Says what to write where what was meant can be read out of what was written.
fn meant(text: &str, name: &str) -> Bad {
    let remedy = match host(name) {
        Ok(name) => format!("write `{name}`"),
        Err(_) => "write a name like `app.example.com`".to_owned(),
    };
    bad(text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_decimal_and_in_range() {
        assert_eq!(port("1"), Ok(1));
        assert_eq!(port(" 65535 "), Ok(65535));
        for text in ["0", "65536", "abc", "", "+80", "-1", "8080/tcp", "80 80", "0x50", "٨٠"] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_those_of_go() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(text), Ok(true));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(text), Ok(false));
        }
        for text in ["yes", "on", "tRUE", "", "2"] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_lose_their_trailing_slashes() {
        for (text, path_) in
            [("/app", "/app"), ("/app/", "/app"), ("/", ""), ("", ""), ("/a/b//", "/a/b")]
        {
            assert_eq!(path(text), Ok(path_.to_owned()), "{text}");
        }
        assert_eq!(path("app/").unwrap_err(), bad("does not begin with a slash", "write `/app`"));
        for text in ["/a b", "/a?b", "/a#b", "/ä", "/a\nb", "/a//b", "/a/../b", "/."] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_are_names_in_normal_form() {
        for (text, name) in [
            ("App.Example.COM.", "app.example.com"),
            (" *.wild.test ", "*.wild.test"),
            ("shop_web.test", "shop_web.test"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host(text), Ok(name.to_owned()), "{text}");
        }
        let long = format!("{}.test", "a".repeat(64));
        for text in ["a..b", ".a", "a.*.b", "*", "*a.test", "-a.test", "ä.test", "a_;b", &long] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_with_too_much_on_it_says_what_to_write() {
        for (text, what, remedy) in [
            ("a.test:8080", "has a port", "write `a.test`"),
            ("http://a.test/x", "is a URL, not a host name", "write `a.test`"),
            ("a.test/x", "has a path", "write `a.test`, and the path as `context_root`"),
            ("a b.test", "has a space in it", "separate host names by commas"),
            ("[::1]:80", "has a port", "write a name like `app.example.com`"),
        ] {
            assert_eq!(host(text), Err(bad(what, remedy)), "{text}");
        }
    }
}

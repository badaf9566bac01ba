//! What an HTTP check sends, and what it reads of the answer (RFC 9112). Pure.
//!
//! Always true here: nothing of the answer is believed but its status, and of that line no more is
//! read than [`LONGEST_LINE`].

use std::net::SocketAddr;

/// Octets of a status line that are waited for; those of real servers are a tenth of it.
pub(super) const LONGEST_LINE: usize = 512;

/// The request: one that no server has a reason to keep the connection after.
pub(super) fn request(path: &str, host: Option<&str>, address: SocketAddr) -> String {
    let host = match host {
        Some(host) => host.to_owned(),
        // The default port is left out, as browsers do.
        None if address.port() == 80 => match address {
            SocketAddr::V4(it) => it.ip().to_string(),
            SocketAddr::V6(it) => format!("[{}]", it.ip()),
        },
        None => address.to_string(),
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portolan\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
}

/// What is known of an answer from its first octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// The line has not ended yet.
    Unfinished,
    /// It is not HTTP/1.
    Strange,
    /// Its status.
    Status(u16),
}

/// Reads `HTTP/1.x NNN ...` (RFC 9112 section 4).
pub(super) fn status(octets: &[u8]) -> Answer {
    const BEGIN: &[u8] = b"HTTP/1.";
    let begun = octets.get(..BEGIN.len()).unwrap_or(octets);
    if !BEGIN.starts_with(begun) {
        return Answer::Strange;
    }
    let Some(end) = octets.iter().position(|it| *it == b'\n') else {
        return if octets.len() < LONGEST_LINE { Answer::Unfinished } else { Answer::Strange };
    };
    let line = octets.get(BEGIN.len()..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line {
        [minor, b' ', code @ ..] if minor.is_ascii_digit() => match code {
            [a, b, c] | [a, b, c, b' ', ..]
                if [a, b, c].iter().all(|it| it.is_ascii_digit()) && (b'1'..=b'5').contains(a) =>
            {
                let digit = |it: &u8| u16::from(it - b'0');
                Answer::Status(digit(a) * 100 + digit(b) * 10 + digit(c))
            }
            _ => Answer::Strange,
        },
        _ => Answer::Strange,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_request_names_the_host_it_is_for() {
        let host = |host: Option<&str>, address: &str| {
            let request = request("/ping?a=1", host, address.parse().unwrap());
            assert!(request.starts_with("GET /ping?a=1 HTTP/1.1\r\nHost: "), "{request}");
            assert!(request.ends_with("\r\nConnection: close\r\n\r\n"), "{request}");
            request.split("\r\n").nth(1).unwrap().to_owned()
        };
        assert_eq!(host(Some("web.test"), "10.0.0.1:8080"), "Host: web.test");
        assert_eq!(host(None, "10.0.0.1:8080"), "Host: 10.0.0.1:8080");
        assert_eq!(host(None, "10.0.0.1:80"), "Host: 10.0.0.1");
        assert_eq!(host(None, "[fd00::1]:80"), "Host: [fd00::1]");
        assert_eq!(host(None, "[fd00::1]:81"), "Host: [fd00::1]:81");
    }

    #[test]
    fn a_status_is_read_once_its_line_is_there() {
        for (text, answer) in [
            ("HTTP/1.1 200 OK\r\nServer: x", Answer::Status(200)),
            ("HTTP/1.0 503\r\n", Answer::Status(503)),
            ("HTTP/1.1 404 \n", Answer::Status(404)),
            ("", Answer::Unfinished),
            ("HTT", Answer::Unfinished),
            ("HTTP/1.1 200 OK", Answer::Unfinished),
            ("HTTP/1.1 2000\r\n", Answer::Strange),
            ("HTTP/1.1 20\r\n", Answer::Strange),
            ("HTTP/1.1 999 x\r\n", Answer::Strange),
            ("HTTP/1.1  200\r\n", Answer::Strange),
            ("HTTP/2 200\r\n", Answer::Strange),
            ("SSH-2.0-OpenSSH\r\n", Answer::Strange),
            ("\r\n", Answer::Strange),
        ] {
            assert_eq!(status(text.as_bytes()), answer, "{text:?}");
        }
        let endless = [b"HTTP/1.1 200 ".as_slice(), &[b'x'; LONGEST_LINE]].concat();
        assert_eq!(status(&endless), Answer::Strange);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_fail(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let answer = status(&octets);
            prop_assert!(!matches!(answer, Answer::Status(code) if !(100..600).contains(&code)));
        }
    }
}

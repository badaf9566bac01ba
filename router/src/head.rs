//! Checks the head of an HTTP/1 request, all of it and before anybody acts on it. Pure.
//!
//! Stricter than HTTP demands (RFC 9112 allows a recipient to be lenient about line ends and about
//! several framing fields), because whoever stands in front of us may have read the same bytes
//! differently: what two readers can read in two ways is refused.

use hyper::StatusCode;

use crate::refusal::Refusal;

/// How long the body after a head is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Length {
    /// This many bytes; 0 where the head names no body.
    Fixed(u64),
    /// As the chunks say.
    Chunked,
}

/// What the head of a request says about its body; `head` is everything up to and including the
/// empty line, all its lines ending in CRLF.
pub(crate) fn check(head: &[u8], target_max: usize) -> Result<Length, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(bad("the head ends too early")),
        Err(error) => return Err(unreadable(head, error)),
    }
    if request.method == Some("CONNECT") {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(Refusal::new(status, "this is no forward proxy: CONNECT is not allowed"));
    }
    if request.path.is_some_and(|target| target.len() > target_max) {
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, "the request target is too long"));
    }
    length(request.headers, request.version == Some(1))
}

/// RFC 9112 section 6.3, with everything ambiguous refused.
fn length(fields: &[httparse::Header<'_>], is_http_11: bool) -> Result<Length, Refusal> {
    let mut chunked = false;
    let mut fixed = None;
    for field in fields {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                let text = "the only transfer coding accepted is `chunked`, once";
                return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text));
            }
            chunked = true;
        } else if field.name.eq_ignore_ascii_case("content-length") {
            let length =
                number(field.value).ok_or_else(|| bad("the Content-Length is not a number"))?;
            if fixed.is_some_and(|before| before != length) {
                return Err(bad("several Content-Lengths that differ"));
            }
            fixed = Some(length);
        }
    }
    match (chunked, fixed) {
        (true, Some(_)) => Err(bad("both Transfer-Encoding and Content-Length")),
        (true, None) if !is_http_11 => Err(bad("Transfer-Encoding in an HTTP/1.0 request")),
        (true, None) => Ok(Length::Chunked),
        (false, length) => Ok(Length::Fixed(length.unwrap_or(0))),
    }
}

/// Digits and nothing else, as `1*DIGIT` says: no sign, no list, no hex.
fn number(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value.trim_ascii()).ok()?;
    let length = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok());
    length.flatten().filter(|length| *length <= LENGTH_MAX)
}

fn unreadable(head: &[u8], error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "more than 100 header fields")
        }
        httparse::Error::Version => Refusal::new(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "only HTTP/1.0 and HTTP/1.1 are spoken here",
        ),
        httparse::Error::Token if head.starts_with(&[0x16, 0x03]) => bad(TLS),
        httparse::Error::HeaderName => bad("a header field's name is malformed"),
        httparse::Error::HeaderValue => bad("a header field's value is malformed"),
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
            bad("the request line is malformed")
        }
    }
}

/// A 400 with that explanation.
pub(crate) fn bad(text: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

/// Said to whoever begins with a TLS handshake.
pub(crate) const TLS: &str = "this port speaks plain HTTP, not TLS: use http:// here";

/// The longest body that hyper counts; it answers greater lengths itself, with a bare 431.
const LENGTH_MAX: u64 = u64::MAX - 2;
/// Header fields of one request, as hyper's own default.
const FIELDS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn says(fields: &str, expect: Result<Length, u16>) {
        let head = format!("POST /x HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n");
        let found = check(head.as_bytes(), 100).map_err(|refusal| refusal.status.as_u16());
        assert_eq!(found, expect, "{fields}");
    }

    #[test]
    fn one_framing_field_is_understood() {
        says("Content-Length: 12", Ok(Length::Fixed(12)));
        says("content-LENGTH:\t0012 ", Ok(Length::Fixed(12)));
        says("Transfer-Encoding: chunked", Ok(Length::Chunked));
        says("Transfer-Encoding: Chunked\t", Ok(Length::Chunked));
        says("Accept: */*", Ok(Length::Fixed(0)));
        says("Content-Length: 2\r\nContent-Length: 2", Ok(Length::Fixed(2)));
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 6\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 6",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 2, 2",
            "Content-Length: +2",
            "Content-Length: -1",
            "Content-Length:",
            "Content-Length: 0x2",
            "Content-Length: 18446744073709551616",
            "Content-Length: 1 2",
            "Transfer-Encoding : chunked",
            "Content-Length : 2",
            "X: a\r\n b",
            " X: a",
            "X: a\u{0}b",
            "X: a\rb",
            ": empty",
            "X\u{0}Y: a",
            "no colon",
        ] {
            says(fields, Err(400));
        }
        for fields in [
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding:",
            "Transfer-Encoding: \"chunked\"",
        ] {
            says(fields, Err(501));
        }
        says("Transfer-Encoding: \u{b}chunked", Err(400));
    }

    #[test]
    fn request_lines_are_strict() {
        for (line, status) in [
            ("GET  / HTTP/1.1", 400),
            ("GET /\tHTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("GET /", 400),
            ("GET / HTTP/2.0", 505),
            ("GET / HTTP/1.2", 505),
            ("GET / FTP/1.1", 505),
            ("PRI * HTTP/2.0", 505),
            ("CONNECT a.test:80 HTTP/1.1", 405),
            ("G(T / HTTP/1.1", 400),
            ("\u{16}\u{3}\u{1}", 400),
        ] {
            let head = format!("{line}\r\nHost: a.test\r\n\r\n");
            let found = check(head.as_bytes(), 100).map_err(|refusal| refusal.status.as_u16());
            assert_eq!(found, Err(status), "{line}");
        }
    }

    #[test]
    fn limits_have_their_own_answers() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100));
        assert_eq!(check(long.as_bytes(), 100).map_err(|it| it.status.as_u16()), Err(414));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(check(many.as_bytes(), 100).map_err(|it| it.status.as_u16()), Err(431));
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(check(old.as_bytes(), 100).map_err(|it| it.status.as_u16()), Err(400));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let answer = check(&bytes, 100);
            prop_assert!(answer.is_err() || bytes.len() > 16);
        }
    }
}

//! Checks and cleans the head of a task's response before it is passed on. Pure.
//!
//! Always true of what passes: its framing can be read in one way only, nothing in it is about the
//! connection to the task, and it is a final response.

use hyper::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::http::response::Parts;
use hyper::{HeaderMap, StatusCode, Version};

use crate::hop;

/// Whether the connection that a response came over can be used again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// It said once how long it is.
    Clean,
    /// It said so in two ways; it is passed on by the safe reading, and the connection is closed.
    Odd,
}

/// Cleans `parts`; the error says why the response cannot be passed on.
pub(crate) fn sanitise(parts: &mut Parts) -> Result<Framing, &'static str> {
    let status = parts.status.as_u16();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err("it switches protocols without being asked");
    }
    if !(200..=599).contains(&status) {
        return Err("its status is not between 200 and 599");
    }
    let chunked = chunked(&parts.headers)?;
    let length = length(&parts.headers)?;
    hop::strip(&mut parts.headers);
    parts.version = Version::HTTP_11; // ours, whatever the task's is (RFC 9110 section 2.5)
    parts.headers.remove(CONTENT_LENGTH);
    let bodyless = parts.status == StatusCode::NO_CONTENT;
    if !chunked
        && !bodyless
        && let Some(length) = &length
    {
        parts.headers.insert(CONTENT_LENGTH, length.clone());
    }
    Ok(if chunked && length.is_some() { Framing::Odd } else { Framing::Clean })
}

/// Whether the body comes in chunks. No other transfer coding was asked for (RFC 9112 section 7).
fn chunked(headers: &HeaderMap) -> Result<bool, &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        (Some(_), _) => Err("its transfer coding is not `chunked`"),
    }
}

/// The one length that all of the `Content-Length` values say (RFC 9110 section 8.6 lets equal
/// ones pass).
fn length(headers: &HeaderMap) -> Result<Option<HeaderValue>, &'static str> {
    let mut found: Option<&[u8]> = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for length in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            if !is_number || found.is_some_and(|found| found != length) {
                return Err("its Content-Length is not one number");
            }
            found = Some(length);
        }
    }
    let value = found.map(HeaderValue::from_bytes).transpose();
    value.or(Err("its Content-Length is not one number"))
}

#[cfg(test)]
mod tests {
    use hyper::Response;

    use super::*;

    type Lines = &'static [(&'static str, &'static str)];
    type Expect<'a> = Result<(Framing, &'a [(&'a str, &'a str)]), &'static str>;

    #[track_caller]
    fn check(status: u16, lines: Lines, expect: Expect<'_>) {
        let mut response = Response::builder().status(status);
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        let (mut parts, ()) = response.body(()).unwrap().into_parts();
        let found = sanitise(&mut parts);
        let left: Vec<(&str, &str)> =
            parts.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(found.map(|framing| (framing, left.as_slice())), expect, "{lines:?}");
    }

    #[test]
    fn one_length_or_chunks_pass_clean() {
        check(200, &[("content-length", "3")], Ok((Framing::Clean, &[("content-length", "3")])));
        check(200, &[("transfer-encoding", "Chunked")], Ok((Framing::Clean, &[])));
        check(200, &[("connection", "close, x-a"), ("x-a", "1")], Ok((Framing::Clean, &[])));
        check(304, &[("content-length", "3")], Ok((Framing::Clean, &[("content-length", "3")])));
    }

    #[test]
    fn equal_lengths_become_one() {
        let one = Ok((Framing::Clean, [("content-length", "2")].as_slice()));
        check(200, &[("content-length", "2, 2")], one);
        check(200, &[("content-length", "2"), ("content-length", "2")], one);
    }

    #[test]
    fn two_framings_are_resolved_and_the_connection_is_not_used_again() {
        let both: Lines = &[("content-length", "3"), ("transfer-encoding", "chunked")];
        check(200, both, Ok((Framing::Odd, &[])));
    }

    #[test]
    fn a_204_has_no_length() {
        check(204, &[("content-length", "2")], Ok((Framing::Clean, &[])));
    }

    #[test]
    fn what_cannot_be_passed_on_is_refused() {
        let length = Err("its Content-Length is not one number");
        check(200, &[("content-length", "2, 3")], length);
        check(200, &[("content-length", "x")], length);
        check(200, &[("content-length", "")], length);
        let coding = Err("its transfer coding is not `chunked`");
        check(200, &[("transfer-encoding", "xchunked")], coding);
        check(200, &[("transfer-encoding", "gzip, chunked")], coding);
        check(200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "x")], coding);
        check(101, &[], Err("it switches protocols without being asked"));
        check(999, &[], Err("its status is not between 200 and 599"));
    }
}

//! Any cutting of the bytes gives the same; nothing unchecked passes.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { target: 200, head: 500 };

/// Shows `bytes` in pieces of these sizes, as a connection would, and returns what was released
/// and how it ended.
fn run(bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, Option<End>) {
    let mut framing = Framing::new(LIMITS);
    let (mut held, mut released) = (Vec::new(), Vec::new());
    let mut sizes = pieces.iter().copied().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let (piece, later) = rest.split_at(size);
        rest = later;
        held.extend_from_slice(piece);
        let look = framing.look(&held);
        released.extend(held.drain(..look.release));
        if look.end.is_some() {
            return (released, look.end);
        }
    }
    (released, None)
}

#[track_caller]
fn passes(bytes: &str) {
    for pieces in [&[usize::MAX][..], &[1], &[2, 3], &[7, 1, 64]] {
        let (released, end) = run(bytes.as_bytes(), pieces);
        assert_eq!(String::from_utf8_lossy(&released), bytes);
        assert_eq!(end, None);
    }
}

#[track_caller]
fn ends(bytes: &str, released: &str, status: Option<u16>) {
    for pieces in [&[usize::MAX][..], &[1], &[2, 3], &[7, 1, 64]] {
        let (passed, end) = run(bytes.as_bytes(), pieces);
        let said = end.map(|end| match end {
            End::Refused(refusal) => Some(refusal.status.as_u16()),
            End::Broken => None,
        });
        assert_eq!(said, Some(status), "{bytes:?}");
        assert_eq!(String::from_utf8_lossy(&passed), released, "{bytes:?}");
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn whole_messages_pass_in_whatever_pieces_they_come() {
    passes(GET);
    passes(&GET.repeat(3));
    passes(&format!("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello{GET}"));
    let chunks = "5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n";
    passes(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}\r\n{GET}"));
    passes(&format!(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}X-Sum: 1\r\nY: 2\r\n\r\n{GET}"
    ));
    passes(&format!("\r\n\r\n{GET}\r\n{GET}"));
}

#[test]
fn a_body_may_contain_anything() {
    passes(&format!("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n\n\r\n\r\n\0\n\n\x16{GET}"));
}

#[test]
fn a_refused_head_is_not_released_and_what_came_before_is() {
    ends("GET / HTTP/1.1\nHost: a\n\n", "", Some(400));
    ends("GET / HTTP/1.1\r\nHost: a\n\r\n", "", Some(400));
    ends("\n", "", Some(400));
    ends("\r\n\r\n\r\nGET", "\r\n\r\n", Some(400));
    ends(&format!("{GET}GET /x HTTP/1.1\r\nA : b\r\n\r\n{GET}"), GET, Some(400));
    ends("\x16\x03\x01\x02\0\x01", "", Some(400));
    let smuggled =
        "POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG";
    ends(smuggled, "", Some(400));
}

#[test]
fn too_much_is_refused_with_its_own_status_however_it_is_cut() {
    ends(&format!("GET /{}", "x".repeat(300)), "", Some(414));
    ends(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(300)), "", Some(414));
    ends(&format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(500)), "", Some(431));
    ends(&format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(500)), "", Some(431));
}

#[test]
fn a_body_whose_chunks_are_malformed_ends_there() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, passed) in [
        ("x", ""),
        ("\r\n", ""),
        ("5\nhello", "5"),
        ("0x5\r\nhello", "0"),
        ("+5\r\nhello", ""),
        ("-1\r\n", ""),
        ("5;\nhello", "5;"),
        ("5;a\0b\r\n", "5;a"),
        ("5\r\nhelloX", "5\r\nhello"),
        ("5\r\nhello\n", "5\r\nhello"),
        ("1234567890abcdef\r\n", "1234567890abcde"),
        ("0\r\nX: y\n", "0\r\nX: y"),
        ("0\r\n\rX", "0\r\n\r"),
    ] {
        ends(&format!("{head}{body}"), &format!("{head}{passed}"), None);
    }
}

#[test]
fn endless_extensions_and_trailers_end() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [format!("5;{}", "x".repeat(300)), format!("0\r\nX: {}", "x".repeat(600))] {
        let (released, end) = run(format!("{head}{body}").as_bytes(), &[3]);
        assert_eq!(end, Some(End::Broken));
        assert!(released.len() < head.len() + body.len());
    }
}

#[test]
fn what_is_waited_for_is_known() {
    let mut framing = Framing::new(LIMITS);
    assert_eq!(framing.waiting(false), Waiting::Request);
    framing.look(b"POST / HTTP/1.1\r\n");
    assert_eq!(framing.waiting(true), Waiting::Head);
    framing.look(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nx");
    assert_eq!(framing.waiting(false), Waiting::Body);
    framing.look(b"x");
    assert_eq!(framing.waiting(false), Waiting::Request);
}

/// Pieces from which requests, whole and broken, are put together.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        Just(GET.as_bytes().to_vec()),
        Just(b"POST / HTTP/1.1\r\n".to_vec()),
        Just(b"Content-Length: 3\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"3\r\nabc\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"abc".to_vec()),
        Just(b"\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    proptest::collection::vec(pieces, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn how_bytes_are_cut_changes_nothing(
        bytes in noise(),
        pieces in proptest::collection::vec(1..50_usize, 1..10),
    ) {
        let whole = run(&bytes, &[usize::MAX]);
        prop_assert!(bytes.starts_with(&whole.0));
        prop_assert_eq!(whole, run(&bytes, &pieces));
    }
}

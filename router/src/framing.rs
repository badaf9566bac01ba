//! Follows the messages on a client connection and lets a head pass only when it is whole and
//! checked. Sans-IO: bytes in, how many of them may go on out.
//!
//! Invariants
//! - *whole*: no byte of a head is released before the head was checked;
//! - *in step*: bodies are counted by the same strict rules by which heads are checked, so that the
//!   next head is looked for where it really begins;
//! - *final*: after a refusal or a broken body nothing more is released.

use hyper::StatusCode;

use crate::head::{self, Length, bad};
use crate::refusal::Refusal;

/// Where in the stream of messages a connection is.
#[derive(Debug)]
pub(crate) struct Framing {
    place: Place,
    limits: HeadLimits,
}

/// How long a head may be, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct HeadLimits {
    /// The request target alone.
    pub(crate) target: usize,
    /// All of it.
    pub(crate) head: usize,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waiting {
    /// The first byte of a request.
    Request,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
}

/// What may be done with bytes that were looked at.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Look {
    /// So many from the front may go on; the others are to be kept and shown again with what
    /// follows them.
    pub(crate) release: usize,
    /// Set when nothing after those may ever go on.
    pub(crate) end: Option<End>,
}

/// Why nothing more may go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The next request is refused, with this answer.
    Refused(Refusal),
    /// A body's framing is broken: whoever reads it sees it end too early.
    Broken,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Before or in a head: lines up to `line` were looked at, bytes up to `seen`; `blank` empty
    /// lines came before it.
    Head { seen: usize, line: usize, blank: u8 },
    /// In a body with so many bytes to come.
    Fixed(u64),
    /// In a chunk's size line.
    Size { size: u64, digits: u8, part: Part },
    /// In a chunk's data, the CRLF behind it counted.
    Chunk(u64),
    /// In the CRLF after a chunk's data, whose first byte is `\r` or, if `half`, was.
    ChunkEnd { half: bool },
    /// In the trailer section: so many bytes of it, so many of its present line; after a `\r`.
    Trailers { bytes: usize, line: usize, half: bool },
    /// Nothing may follow.
    Over,
}

/// The part of a chunk's size line.
#[derive(Clone, Copy, Debug)]
enum Part {
    Digits,
    Extension(usize),
    AfterReturn,
}

impl Framing {
    /// A connection on which nothing came yet.
    pub(crate) fn new(limits: HeadLimits) -> Self {
        Self { place: START, limits }
    }

    /// What is waited for, given whether bytes are being kept.
    pub(crate) fn waiting(&self, keeps: bool) -> Waiting {
        match self.place {
            Place::Head { .. } if keeps => Waiting::Head,
            Place::Head { .. } => Waiting::Request,
            Place::Fixed(_)
            | Place::Size { .. }
            | Place::Chunk(_)
            | Place::ChunkEnd { .. }
            | Place::Trailers { .. }
            | Place::Over => Waiting::Body,
        }
    }

    /// Looks at `bytes`: those kept after the last look, and what came since.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Look {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let step = match self.place {
                Place::Head { seen, line, blank } => self.head(rest, seen, line, blank),
                Place::Over => return Look { release: at, end: Some(End::Broken) },
                Place::Fixed(_)
                | Place::Size { .. }
                | Place::Chunk(_)
                | Place::ChunkEnd { .. }
                | Place::Trailers { .. } => self.body(rest),
            };
            match step {
                Step::On(0) => break, // a head that is not whole yet
                Step::On(count) => at += count,
                Step::End(end) => {
                    self.place = Place::Over;
                    return Look { release: at, end: Some(end) };
                }
            }
        }
        Look { release: at, end: None }
    }

    /// Looks for the end of a head that begins with `rest`.
    fn head(&mut self, rest: &[u8], seen: usize, mut line: usize, blank: u8) -> Step {
        if line == 0 && rest.first() == Some(&TLS_HANDSHAKE) {
            return Step::End(End::Refused(bad(head::TLS)));
        }
        let fresh = rest.get(seen..).unwrap_or_default();
        for at in fresh.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at) {
            let at = seen + at;
            if at.checked_sub(1).and_then(|before| rest.get(before)) != Some(&b'\r') {
                return Step::End(End::Refused(bad("a line ends in a bare line feed")));
            }
            let empty = at == line + 1;
            match (empty, line) {
                (true, 0) if blank < BLANK_MAX => {
                    self.place = Place::Head { seen: 0, line: 0, blank: blank + 1 };
                    return Step::On(2);
                }
                (true, _) => return self.checked(rest.get(..=at).unwrap_or_default()),
                (false, _) => line = at + 1,
            }
        }
        self.place = Place::Head { seen: rest.len(), line, blank };
        match self.too_long(rest.len(), line) {
            Some(refusal) => Step::End(End::Refused(refusal)),
            None => Step::On(0),
        }
    }

    fn checked(&mut self, head: &[u8]) -> Step {
        // However the bytes were cut, an overlong head gets the same answer.
        let line = if head.len() > self.limits.target {
            head.iter().position(|&byte| byte == b'\n').unwrap_or(head.len())
        } else {
            0
        };
        let length = match self.too_long(line, 0).or_else(|| self.too_long(head.len(), 1)) {
            Some(refusal) => Err(refusal),
            None => head::check(head, self.limits.target),
        };
        self.place = match length {
            Ok(Length::Fixed(0)) => START,
            Ok(Length::Fixed(length)) => Place::Fixed(length),
            Ok(Length::Chunked) => SIZE,
            Err(refusal) => return Step::End(End::Refused(refusal)),
        };
        Step::On(head.len())
    }

    /// Refuses a head of so many bytes so far, whose present line begins at `line`.
    fn too_long(&self, bytes: usize, line: usize) -> Option<Refusal> {
        let in_request_line = line == 0 && bytes > self.limits.target + REQUEST_LINE_REST;
        if in_request_line {
            let text = "the request target is too long";
            return Some(Refusal::new(StatusCode::URI_TOO_LONG, text));
        }
        (bytes > self.limits.head).then(|| {
            let text = "the header fields are too large";
            Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text)
        })
    }

    /// Takes as much of a body as it can in one step.
    fn body(&mut self, rest: &[u8]) -> Step {
        let available = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        let (Place::Fixed(left) | Place::Chunk(left)) = self.place else {
            return self.byte(rest.first().copied().unwrap_or_default());
        };
        let taken = left.min(available);
        let left = left - taken;
        let in_chunk = matches!(self.place, Place::Chunk(_));
        self.place = match (in_chunk, left) {
            (true, 0) => Place::ChunkEnd { half: false },
            (true, left) => Place::Chunk(left),
            (false, 0) => START,
            (false, left) => Place::Fixed(left),
        };
        Step::On(usize::try_from(taken).unwrap_or(usize::MAX))
    }

    /// Takes one byte of a chunked body's own framing.
    fn byte(&mut self, byte: u8) -> Step {
        let next = match self.place {
            Place::Size { size, digits, part } => size_line(size, digits, part, byte),
            Place::ChunkEnd { half: false } if byte == b'\r' => {
                Some(Place::ChunkEnd { half: true })
            }
            Place::ChunkEnd { half: true } if byte == b'\n' => Some(SIZE),
            Place::Trailers { bytes, line, half } => {
                trailers(bytes, line, half, byte, self.limits.head)
            }
            Place::ChunkEnd { .. }
            | Place::Head { .. }
            | Place::Fixed(_)
            | Place::Chunk(_)
            | Place::Over => None,
        };
        match next {
            Some(next) => {
                self.place = next;
                Step::On(1)
            }
            None => Step::End(End::Broken),
        }
    }
}

enum Step {
    On(usize),
    End(End),
}

/// `chunk-size [ chunk-ext ] CRLF` (RFC 9112 section 7.1); extensions are bounded, and nothing in
/// them may be a line end of its own.
fn size_line(size: u64, digits: u8, part: Part, byte: u8) -> Option<Place> {
    let (size, digits, part) = match (part, byte) {
        (Part::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < SIZE_DIGITS_MAX => {
            let digit = char::from(byte).to_digit(16)?;
            ((size << 4) | u64::from(digit), digits + 1, Part::Digits)
        }
        (Part::Digits | Part::Extension(_), b'\r') if digits > 0 => {
            (size, digits, Part::AfterReturn)
        }
        (Part::Digits, b';' | b' ' | b'\t') if digits > 0 => (size, digits, Part::Extension(0)),
        (Part::Extension(length), b'\t' | b' '..=b'~' | 0x80..) if length < EXTENSION_MAX => {
            (size, digits, Part::Extension(length + 1))
        }
        (Part::AfterReturn, b'\n') => {
            return Some(match size {
                0 => Place::Trailers { bytes: 0, line: 0, half: false },
                size => Place::Chunk(size),
            });
        }
        _ => return None,
    };
    Some(Place::Size { size, digits, part })
}

/// Field lines until an empty one. What they say is not looked at: trailers of requests are dropped.
fn trailers(bytes: usize, line: usize, half: bool, byte: u8, max: usize) -> Option<Place> {
    match (half, byte) {
        (true, b'\n') if line == 0 => Some(START),
        (true, b'\n') => Some(Place::Trailers { bytes: bytes + 1, line: 0, half: false }),
        (false, b'\r') => Some(Place::Trailers { bytes: bytes + 1, line, half: true }),
        (true, _) | (false, b'\n') => None,
        (false, _) if bytes >= max => None,
        (false, _) => Some(Place::Trailers { bytes: bytes + 1, line: line + 1, half: false }),
    }
}

const START: Place = Place::Head { seen: 0, line: 0, blank: 0 };
const SIZE: Place = Place::Size { size: 0, digits: 0, part: Part::Digits };

/// Empty lines tolerated before a request (RFC 9112 section 2.2 asks for at least one).
const BLANK_MAX: u8 = 2;
/// What a request line may hold besides the target: a method of 32 letters, the version, spaces.
const REQUEST_LINE_REST: usize = 48;
/// Hex digits of a chunk's size; 15 cannot overflow 64 bits and are a chunk of an exabyte.
const SIZE_DIGITS_MAX: u8 = 15;
/// Bytes of a chunk's extensions. Nobody uses them; a flood of them costs the reader (Go's
/// CVE-2023-39326).
const EXTENSION_MAX: usize = 256;
/// First byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

#[cfg(test)]
mod tests;

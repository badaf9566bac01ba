//! The line to the holder, and what is said on it.
//!
//! Always true here: an order is nine octets, what to do and a number that is used once; what
//! cannot be said at once makes the line lost, for good, and a lost line says why.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kernel::passing::End;

use super::Answering;

/// Our end.
#[derive(Debug)]
pub(super) struct Line {
    end: End,
    next: AtomicU64,
    lost: OnceLock<String>,
}

/// What the holder is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    /// Hold the three descriptors that come along, under this number.
    Hold(u64),
    /// Close what you hold under this number.
    LetGo(u64),
}

impl Order {
    pub(super) const OCTETS: usize = 9;

    pub(super) fn octets(self) -> [u8; Self::OCTETS] {
        let (kind, number) = match self {
            Self::Hold(number) => (b'h', number),
            Self::LetGo(number) => (b'l', number),
        };
        let mut octets = [kind; Self::OCTETS];
        for (to, from) in octets.iter_mut().skip(1).zip(number.to_be_bytes()) {
            *to = from;
        }
        octets
    }

    pub(super) fn read(octets: &[u8]) -> Option<Self> {
        let (kind, number) = octets.split_first()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        match kind {
            b'h' => Some(Self::Hold(number)),
            b'l' => Some(Self::LetGo(number)),
            _ => None,
        }
    }
}

impl Line {
    pub(super) fn new(end: End) -> Self {
        Self { end, next: AtomicU64::new(0), lost: OnceLock::new() }
    }

    /// The number under which it is held; `None`: it could not be said.
    pub(super) fn hold(&self, owner: BorrowedFd<'_>, answering: &Answering) -> Option<u64> {
        let number = self.next.fetch_add(1, Relaxed);
        let descriptors = [owner, answering.udp.as_fd(), answering.tcp.as_fd()];
        self.say(Order::Hold(number), &descriptors).then_some(number)
    }

    pub(super) fn let_go(&self, number: u64) {
        self.say(Order::LetGo(number), &[]);
    }

    /// Why nothing can be said any more.
    pub(super) fn lost(&self) -> Option<String> {
        self.lost.get().cloned()
    }

    fn say(&self, order: Order, descriptors: &[BorrowedFd<'_>]) -> bool {
        if self.lost.get().is_some() {
            return false;
        }
        match self.end.send(&order.octets(), descriptors) {
            Ok(()) => true,
            Err(error) => {
                self.lost.get_or_init(|| explained(&error));
                false
            }
        }
    }
}

fn explained(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::TimedOut {
        "it does not read what it is told".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_were_said_and_nothing_else_is() {
        for order in [Order::Hold(0), Order::LetGo(u64::MAX), Order::Hold(1 << 40)] {
            assert_eq!(Order::read(&order.octets()), Some(order));
        }
        for nonsense in [&b""[..], b"h", b"x\0\0\0\0\0\0\0\x01", b"h\0\0\0\0\0\0\0\x01\0"] {
            assert_eq!(Order::read(nonsense), None);
        }
    }
}

//! Whether the answers of a reply belong to its question: each stands on the chain of aliases that
//! begins at the question's name.
//!
//! Invariants
//! - *in bailiwick*: a chain is sound only where the owner of every answer is on it, or is a DNAME
//!   above it (RFC 6672), in whatever order they come;
//! - *ends*: a pointer leads only backwards, a chain has at most [`LONGEST_CHAIN`] aliases, and
//!   no more than [`MOST_OWNERS`] are read, so whatever a server sends costs
//!   time in proportion to its length.

use super::layout::Layout;
use crate::wire::{Class, HEADER, Kind, RawRecord};

/// What the aliases in a reply come to.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one for each reply from upstream, never kept")]
pub(crate) enum Chain {
    /// All answers stand on it; it ends at this name.
    Sound(Plain),
    /// There are answers to what nobody asked.
    Stray,
    /// It loops, or has more than [`LONGEST_CHAIN`] aliases: no client can follow it, and the
    /// answer is SERVFAIL.
    Endless,
    /// The reply did not fit (TC): what is missing might be the chain.
    Cut,
    /// The reply cannot be read, or has more owners than [`MOST_OWNERS`].
    Malformed,
}

/// A name without pointers and without capitals.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct Plain {
    octets: [u8; LONGEST_NAME],
    length: usize,
    /// Where its labels begin: one bit for each of its octets.
    starts: [u64; 4],
}

/// Aliases that a client may be led through: BIND and Unbound stop there, or earlier.
pub(crate) const LONGEST_CHAIN: usize = 16;
/// Owners of answers that are read, but for those that are written as the one before, as all
/// addresses of one name are: who sends more wants us to be busy.
pub(crate) const MOST_OWNERS: usize = 512;
/// An alias for one name (RFC 1035).
pub(crate) const CNAME: Kind = Kind(5);
/// An alias for everything below a name (RFC 6672).
const DNAME: Kind = Kind(39);
/// Octets of a name, the root's included (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;

/// Follows the answers in `octets`, laid out as `layout`, from the name `asked` (in wire form).
pub(crate) fn follow(octets: &[u8], layout: &Layout, asked: &[u8], kind: Kind) -> Chain {
    let Some(first) = Plain::read(asked, 0) else { return Chain::Malformed };
    let mut names = vec![first];
    // Who asks for aliases is not led along them.
    if kind != CNAME && kind != Kind::ANY {
        let Some(aliases) = aliases(octets, layout) else { return Chain::Malformed };
        while let Some(next) = names.last().and_then(|last| target(&aliases, last)) {
            if names.len() > LONGEST_CHAIN || names.contains(&next) {
                return Chain::Endless;
            }
            names.push(next);
        }
    }
    let (mut read, mut on_it) = (0, None);
    for record in layout.answers(octets) {
        let written = octets.get(record.start..record.ttl_at - TYPE_AND_CLASS);
        if written.is_some() && written == on_it {
            continue; // as the one before
        }
        read += 1;
        let Some(owner) = Plain::read(octets, record.start).filter(|_| read <= MOST_OWNERS) else {
            return Chain::Malformed;
        };
        if names.contains(&owner) {
            on_it = written;
        } else if record.kind != DNAME || !names.iter().any(|it| it.is_below(&owner)) {
            return Chain::Stray;
        }
    }
    names.pop().map_or(Chain::Malformed, Chain::Sound)
}

/// Owners and targets of the aliases among the answers. No more are read than make a chain too
/// long and leave room for some that are not on it.
fn aliases(octets: &[u8], layout: &Layout) -> Option<Vec<(Plain, Plain)>> {
    let aliases = layout.answers(octets).filter(|it| it.kind == CNAME && it.class == Class::IN.0);
    let both = |it: RawRecord| {
        Some((Plain::read(octets, it.start)?, Plain::read(octets, it.ttl_at + DATA_AFTER_TTL)?))
    };
    aliases.take(2 * LONGEST_CHAIN).map(both).collect()
}

/// Octets of the type and the class that stand before a record's TTL.
const TYPE_AND_CLASS: usize = 4;
/// Octets of the TTL and of the length that stand before a record's data.
const DATA_AFTER_TTL: usize = 6;

fn target(aliases: &[(Plain, Plain)], owner: &Plain) -> Option<Plain> {
    aliases.iter().find(|it| it.0 == *owner).map(|it| it.1)
}

impl Plain {
    /// The name at `at` in the message `octets`; `None`: it is cut short, too long, or its
    /// pointers do not lead backwards.
    pub(crate) fn read(octets: &[u8], at: usize) -> Option<Self> {
        let mut plain = Self { octets: [0; LONGEST_NAME], length: 0, starts: [0; 4] };
        let (mut at, mut before, mut jumps) = (at, at, 0);
        loop {
            let length = *octets.get(at)?;
            if length >= POINTER {
                let low = *octets.get(at + 1)?;
                at = usize::from(length & !POINTER) << 8 | usize::from(low);
                jumps += 1;
                if at >= before || at < HEADER || jumps > MOST_JUMPS {
                    return None;
                }
                before = at;
                continue;
            }
            if length > LONGEST_LABEL {
                return None;
            }
            let end = at + 1 + usize::from(length);
            let label = octets.get(at..end)?;
            let room = plain.octets.get_mut(plain.length..plain.length + label.len())?;
            room.copy_from_slice(label);
            // The length of a label is below any letter.
            room.make_ascii_lowercase();
            if let Some(bits) = plain.starts.get_mut(plain.length / 64) {
                *bits |= 1 << (plain.length % 64);
            }
            plain.length += label.len();
            if length == 0 {
                return Some(plain);
            }
            at = end;
        }
    }

    /// Its octets, the root's included.
    pub(crate) fn wire(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or_default()
    }

    /// Whether it is `other` or a name below it.
    pub(crate) fn is_in(&self, other: &Self) -> bool {
        *self == *other || self.is_below(other)
    }

    fn is_below(&self, other: &Self) -> bool {
        let above = self.length.checked_sub(other.length).filter(|it| *it > 0);
        above.is_some_and(|at| {
            let bits = self.starts.get(at / 64).copied().unwrap_or_default();
            bits & 1 << (at % 64) != 0 && self.wire().get(at..) == Some(other.wire())
        })
    }
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plain({})", self.wire().escape_ascii())
    }
}

/// The bits that make two octets a pointer (RFC 1035 section 4.1.4).
const POINTER: u8 = 0xc0;
/// Longest label, in octets (RFC 1035 section 2.3.4).
const LONGEST_LABEL: u8 = 63;
/// As many pointers as a name can have labels: more lead from pointer to pointer.
const MOST_JUMPS: usize = 127;

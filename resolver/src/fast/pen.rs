//! Writes a reply into room that is there already.
//!
//! Always true here: nothing is written beyond what the client takes; where the rest does not fit
//! the answer is `None`, and what was written means nothing.

use super::plain::Plain;
use super::table::Records;
use crate::chance::swaps;
use crate::wire::encode::{NOBODY, OUR_UDP, POINTER_TO_QUESTION, SOA_TIMERS};
use crate::wire::{
    AUTHORITATIVE_FLAG, Class, HEADER, Kind, RECURSION_AVAILABLE_FLAG, REPLY_FLAG, Rcode,
};

/// A reply that is being written.
pub(super) struct Pen<'a> {
    out: &'a mut [u8],
    at: usize,
    answers: u16,
    authorities: u16,
}

impl<'a> Pen<'a> {
    /// Begins after the header, with the question as asked.
    pub(super) fn new(asked: &Plain<'_>, out: &'a mut [u8]) -> Option<Self> {
        let room = out.len().min(asked.limit());
        let mut pen = Self { out: out.get_mut(..room)?, at: HEADER, answers: 0, authorities: 0 };
        pen.put(asked.question)?;
        Some(pen)
    }

    /// The answer section, in an order drawn from `seed`.
    pub(super) fn records(&mut self, records: &Records<'_>, seed: u64) -> Option<()> {
        let start = self.at;
        self.put(records.octets)?;
        self.answers = u16::try_from(records.count).ok()?;
        let size = records.octets.len().checked_div(records.count)?;
        let written = self.out.get_mut(start..self.at)?;
        for (one, other) in swaps(records.count, seed) {
            if one != other {
                let (low, high) = (one.min(other) * size, one.max(other) * size);
                let (left, right) = written.split_at_mut_checked(high)?;
                left.get_mut(low..low + size)?.swap_with_slice(right.get_mut(..size)?);
            }
        }
        Some(())
    }

    /// The authority section that makes a negative answer cacheable (RFC 2308 section 3).
    pub(super) fn soa(&mut self, minimum: u32) -> Option<()> {
        let minimum = minimum.to_be_bytes();
        let owner = POINTER_TO_QUESTION.to_be_bytes();
        let [kind, class] = [Kind::SOA.0, Class::IN.0].map(u16::to_be_bytes);
        let timers = SOA_TIMERS.map(u32::to_be_bytes);
        let length = u16::try_from(owner.len() + NOBODY.len() + 20).ok()?.to_be_bytes();
        for part in
            [&owner, &kind, &class, &minimum[..], &length, &owner, NOBODY, timers.as_flattened()]
        {
            self.put(part)?;
        }
        self.put(&minimum)?;
        self.authorities = 1;
        Some(())
    }

    /// OPT for those who sent one, and the header; tells how long the reply is.
    pub(super) fn end(mut self, asked: &Plain<'_>, code: Rcode) -> Option<usize> {
        if let Some(edns) = asked.edns {
            let [kind, size] = [Kind::OPT.0, OUR_UDP].map(u16::to_be_bytes);
            self.put(&[0])?;
            self.put(&kind)?;
            self.put(&size)?;
            self.put(&[0, 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0])?;
        }
        let flags = REPLY_FLAG
            | AUTHORITATIVE_FLAG
            | RECURSION_AVAILABLE_FLAG
            | asked.repeated_flags()
            | code.0;
        let opt = u16::from(asked.edns.is_some());
        let header = [asked.id, flags, 1, self.answers, self.authorities, opt];
        let header = header.map(u16::to_be_bytes);
        self.out.get_mut(..HEADER)?.copy_from_slice(header.as_flattened());
        Some(self.at)
    }

    fn put(&mut self, octets: &[u8]) -> Option<()> {
        let end = self.at + octets.len();
        self.out.get_mut(self.at..end)?.copy_from_slice(octets);
        self.at = end;
        Some(())
    }
}

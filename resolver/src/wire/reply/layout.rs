//! Where the sections of a reply lie.
//!
//! Invariants
//! - *inside*: every place it gives is inside the octets that it was read from;
//! - *OPT aside*: the record of EDNS belongs to one hop, so it and what stands behind it are not
//!   counted; what is left out are additional records, which only help;
//! - *linear*: each record is visited once.

use crate::wire::{HEADER, Header, Kind, RawRecord};

/// The sections of a reply, without EDNS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Layout {
    /// Where the answers begin.
    pub(crate) start: usize,
    /// Where the authority section begins.
    pub(crate) authorities: usize,
    /// Where the additional section begins.
    pub(crate) additionals: usize,
    /// Where it ends.
    pub(crate) end: usize,
    /// Answers, authorities, additionals.
    pub(crate) counts: [u16; 3],
    /// The upper eight bits of the response code (RFC 6891 section 6.1.3).
    pub(crate) extended_code: u8,
}

impl Layout {
    /// Reads it; `None`: a record is cut short, or OPT stands where it may not.
    pub(crate) fn read(octets: &[u8]) -> Option<Self> {
        let header = Header::read(octets)?;
        let start = header.end_of_questions(octets).filter(|it| *it <= octets.len())?;
        let authorities = plain_section(octets, start, header.answers)?;
        let additionals = plain_section(octets, authorities, header.authorities)?;
        let mut counts = [header.answers, header.authorities, 0];
        let (mut end, mut extended_code) = (additionals, 0);
        for kept in 0..header.additionals {
            let record = RawRecord::read(octets, end)?;
            if record.kind == Kind::OPT {
                [extended_code, ..] = record.ttl.to_be_bytes();
                break;
            }
            end = record.end;
            counts[2] = kept + 1;
        }
        Some(Self { start, authorities, additionals, end, counts, extended_code })
    }

    /// All records but EDNS, in the order in which they stand in `octets`.
    pub(crate) fn records<'a>(&self, octets: &'a [u8]) -> impl Iterator<Item = RawRecord> + 'a {
        walk(octets, self.start, self.end)
    }

    /// The answers.
    pub(crate) fn answers<'a>(&self, octets: &'a [u8]) -> impl Iterator<Item = RawRecord> + 'a {
        walk(octets, self.start, self.authorities)
    }

    /// The authority section.
    pub(crate) fn authority<'a>(&self, octets: &'a [u8]) -> impl Iterator<Item = RawRecord> + 'a {
        walk(octets, self.authorities, self.additionals)
    }
}

/// Where a section of `count` records ends; OPT belongs to the additional section alone.
fn plain_section(octets: &[u8], start: usize, count: u16) -> Option<usize> {
    (0..count).try_fold(start, |at, _| {
        let record = RawRecord::read(octets, at)?;
        (record.kind != Kind::OPT).then_some(record.end)
    })
}

fn walk(octets: &[u8], start: usize, end: usize) -> impl Iterator<Item = RawRecord> + '_ {
    let mut at = start.max(HEADER);
    std::iter::from_fn(move || {
        let record = (at < end).then(|| RawRecord::read(octets, at)).flatten()?;
        at = record.end;
        Some(record)
    })
}

//! What a reply of the engine's own resolver says. Pure.
//!
//! Always true here: what the engine fetched from outside is told from what it knows. Of what it
//! knows it gives bare addresses (libnetwork's `createRespMsg`: no OPT, no authority section); a
//! server outside answers our OPT with its own, and denies with a SOA.

use std::net::IpAddr;

use crate::plan::Entry;
use crate::wire::reply::Reply;
use crate::wire::{
    CHECKING_DISABLED_FLAG, HEADER, Header, Kind, Query, RECURSION_DESIRED_FLAG, RawRecord, Rcode,
};

/// What the engine's own resolver says of a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Word {
    /// It means what these addresses of the registry's are.
    Known(Entry),
    /// This, which the registry cannot place.
    Foreign(Reply),
    /// The name exists, without such addresses.
    NoData,
    /// There is no such name.
    NoName,
    /// It does not know the name, and asks somebody who does not answer.
    Elsewhere,
    /// It answered with this code.
    Failed(Rcode),
    /// It did not answer.
    Silent,
    /// Nobody listens there: the engine is away, or has not come yet.
    Nobody,
}

/// A reply, as far as it matters whether the engine knew the name itself.
pub(super) struct Heard {
    /// The addresses in its answer; `None` where other records stand there too.
    pub(super) addresses: Option<Vec<IpAddr>>,
    /// Not the engine but a server outside says so.
    pub(super) is_from_outside: bool,
}

/// Reads `reply`; `None`: a record is cut short.
pub(super) fn hear(reply: &Reply) -> Option<Heard> {
    let octets = &reply.octets;
    let header = Header::read(octets)?;
    let mut at = header.end_of_questions(octets)?;
    let mut addresses = Some(Vec::new());
    for _ in 0..header.answers {
        let record = RawRecord::read(octets, at)?;
        let data = octets.get(record.ttl_at + 6..record.end)?;
        match (address(record.kind, data), &mut addresses) {
            (Some(address), Some(all)) => all.push(address),
            _ => addresses = None,
        }
        at = record.end;
    }
    let is_from_outside = header.authorities > 0 || header.additionals > 0;
    Some(Heard { addresses, is_from_outside })
}

fn address(kind: Kind, data: &[u8]) -> Option<IpAddr> {
    match kind {
        Kind::A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        Kind::AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    }
}

/// `reply`, which was to the same name and type in other letters or from another client, as one to
/// `query`: its own letters and flags. `None`: it is not.
pub(super) fn readdressed(mut reply: Reply, query: &Query) -> Option<Reply> {
    let name = query.name.wire();
    let asked = reply.octets.get_mut(HEADER..HEADER + name.len())?;
    if !asked.eq_ignore_ascii_case(name) {
        return None;
    }
    asked.copy_from_slice(name);
    let flags = Header::read(&reply.octets)?.flags;
    let kept = flags & !(RECURSION_DESIRED_FLAG | CHECKING_DISABLED_FLAG);
    let wanted = |is: bool, flag| if is { flag } else { 0 };
    let flags = kept
        | wanted(query.recursion_desired, RECURSION_DESIRED_FLAG)
        | wanted(query.checking_disabled, CHECKING_DISABLED_FLAG);
    reply.octets.get_mut(2..4)?.copy_from_slice(&flags.to_be_bytes());
    Some(reply)
}

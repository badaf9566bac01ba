//! Names that mean the same everywhere: the special-use names (RFC 6761 and its registry), and the
//! reverse names of addresses that nobody outside can know (RFC 6303).
//!
//! Always true here: what is decided here never leaves this machine, unless the operator named
//! servers for it. Whoever calls his container `db.local` is heard first; only `localhost` and
//! `resolver.arpa` come before everybody's names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::reverse::{Reverse, reverse};
use super::{Answer, Record, addresses};
use crate::name::Name;
use crate::plan::Entry;
use crate::wire::Kind;

/// What no name of anybody's can change: `localhost` and all below it mean the loopback addresses
/// (RFC 6761 section 6.3); `resolver.arpa` is empty, or clients would be led round us (RFC 9462
/// section 6.4).
pub(super) fn fixed(key: &str, kind: Kind, ttl: u32) -> Option<Answer> {
    if is_or_below(key, "localhost") {
        let local = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Some(addresses(&Entry { addresses: local, ttl }, kind, 0));
    }
    is_or_below(key, "resolver.arpa").then(|| Answer::no_data(ttl))
}

/// Whether `key`, which is nobody's here, exists nowhere: names that the DNS does not hold or must
/// not be asked about. `local` belongs to multicast DNS (RFC 6762 section 22), `invalid` to nobody
/// (RFC 6761 section 6.4), `onion` (RFC 7686) and `alt` (RFC 9476) to others; that
/// `use-application-dns.net` is gone tells browsers to ask the resolver that they were given
/// (Mozilla's canary name), without which they would not see the names of their networks.
pub(super) fn is_nowhere(key: &str) -> bool {
    ["local", "invalid", "onion", "alt", "use-application-dns.net"]
        .iter()
        .any(|it| is_or_below(key, it))
}

fn is_or_below(key: &str, name: &str) -> bool {
    key.strip_suffix(name).is_some_and(|it| it.is_empty() || it.ends_with('.'))
}

/// What the reverse name of an address that means something else on every machine gets; `None`:
/// the world may know it. The two loopback addresses are `localhost`.
pub(super) fn reverse_answer(asked: &Reverse, kind: Kind, ttl: u32) -> Option<Answer> {
    let within = |range: &IpNet| ZONES.iter().any(|it| it.contains(range));
    match asked {
        Reverse::Address(address) if is_localhost(*address) => {
            let records = match kind {
                Kind::PTR => Name::from_text("localhost").ok().map(Record::Pointer),
                Kind::ANY => Some(Record::Minimal),
                _ => None,
            };
            Some(Answer { records: records.into_iter().collect(), ..Answer::no_data(ttl) })
        }
        Reverse::Address(address) => {
            ZONES.iter().any(|it| it.contains(address)).then(|| Answer::no_name(ttl))
        }
        Reverse::Range(range) => within(range).then(|| Answer::no_data(ttl)),
        Reverse::Nonsense(range) => within(range).then(|| Answer::no_name(ttl)),
    }
}

/// Which of [`ZONES`] a reverse name is of.
pub(crate) fn place(key: &str) -> Option<IpNet> {
    let range = match reverse(key)? {
        Reverse::Address(address) => IpNet::from(address),
        Reverse::Range(range) | Reverse::Nonsense(range) => range,
    };
    ZONES.into_iter().find(|it| it.contains(&range))
}

fn is_localhost(address: IpAddr) -> bool {
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&address)
}

const fn v4(octets: [u8; 4], length: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(first: u16, second: u16, last: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last), length))
}

/// RFC 6303 sections 4.2 to 4.6, without what is private (section 4.1 and `fc00::/7`): servers of
/// the same site may know that.
const ZONES: [IpNet; 11] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([192, 0, 2, 0], 24),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([255, 255, 255, 255], 32),
    v6(0, 0, 0, 128),
    v6(0, 0, 1, 128),
    v6(0xfe80, 0, 0, 10),
    v6(0x2001, 0xdb8, 0, 32),
];

//! Whether a reply from outside leads a client inside: a public name with a private address, by
//! which a web page of a stranger reaches what stands beside its reader (DNS rebinding).
//!
//! Invariants
//! - *a filter only*: it says what a reply holds, and changes nothing;
//! - *every section, every form*: A, AAAA and the hints of SVCB and HTTPS, also IPv4 addresses
//!   that are written as IPv6;
//! - *private names may*: what is reserved for private use, a single label, and what the operator
//!   allows.
//!
//! What is held back is told as no data, with the Extended DNS Error 15, Blocked (RFC 8914
//! section 4.16), and not as REFUSED: a client that asked for A and AAAA then uses the address that
//! is public, and none tries again, as resolvers do when they are refused.
//!
//! Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::cache::BLOCKED_ANSWER;
use crate::name::Name;
use crate::wire::reply::Reply;
use crate::wire::reply::asked::{Asked, Said};
use crate::wire::reply::chain::Plain;
use crate::wire::reply::layout::Layout;
use crate::wire::{Kind, Query, Transport, be16, encode};

/// Which names may have private addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    allowed: Vec<Plain>,
}

/// Reserved for private use: RFC 8375, RFC 6762, and ICANN's resolution 2024.07.29.06.
const PRIVATE_NAMES: [&[u8]; 3] = [b"\x04home\x04arpa\0", b"\x05local\0", b"\x08internal\0"];

impl Filter {
    /// One that lets the names in and below `allowed` have any address.
    pub(crate) fn new<'a>(allowed: impl IntoIterator<Item = &'a Name>) -> Self {
        Self { allowed: allowed.into_iter().filter_map(|it| Plain::read(it.wire(), 0)).collect() }
    }

    /// Whether `reply` to `query` must be held back from a sandbox on `subnets`.
    pub(crate) fn blocks(&self, query: &Query, reply: &Reply, subnets: &[IpNet]) -> bool {
        let Some(layout) = Layout::read(&reply.octets) else { return false };
        let bad = |address: IpAddr| is_private(address, subnets);
        self.is_public(&query.name)
            && layout.records(&reply.octets).any(|record| {
                let data = reply.octets.get(record.ttl_at + 6..record.end).unwrap_or_default();
                match record.kind {
                    Kind::A => ipv4s(data).any(bad),
                    Kind::AAAA => ipv6s(data).any(bad),
                    Kind::SVCB | Kind::HTTPS => hints(data).any(bad),
                    _ => false,
                }
            })
    }

    fn is_public(&self, name: &Name) -> bool {
        let private = PRIVATE_NAMES.into_iter().filter_map(|it| Plain::read(it, 0));
        let Some(plain) = Plain::read(name.wire(), 0) else { return true };
        name.labels().nth(1).is_some()
            && !private.chain(self.allowed.iter().copied()).any(|it| plain.is_in(&it))
    }
}

/// What the asker of `query` gets in place of `reply`, which is held back from him; `None`: he has no
/// room for it.
pub(crate) fn held_back(reply: &Reply, query: &Query, transport: Transport) -> Option<Vec<u8>> {
    let asked = Asked::of(query, transport);
    let said = Said {
        code: u8::try_from(reply.code.0).ok().filter(|it| *it < 16)?,
        authoritative: false,
        authentic: false,
        counts: [0; 3],
        records: &[],
        additionals: 0,
        error: Some(BLOCKED_ANSWER),
    };
    let mut octets = vec![0; usize::from(encode::PLAIN_UDP)];
    let length = said.write(&asked, &mut octets)?.length;
    octets.truncate(length);
    Some(octets)
}

/// Whether nobody outside can mean this address.
fn is_private(address: IpAddr, subnets: &[IpNet]) -> bool {
    if subnets.iter().any(|it| it.contains(&address)) {
        return true;
    }
    match address {
        IpAddr::V4(it) => is_private_ipv4(it),
        IpAddr::V6(it) => match inner_ipv4(it) {
            Some(inner) => is_private(inner.into(), subnets),
            None => {
                it.is_unspecified()
                    || it.is_loopback()
                    || it.is_unique_local()
                    || it.is_unicast_link_local()
            }
        },
    }
}

fn is_private_ipv4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && second & 0xc0 == 64; // 100.64.0.0/10 (RFC 6598)
    first == 0 || shared || address.is_loopback() || address.is_private() || address.is_link_local()
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291 section 2.5.5.2), or behind
/// the well-known prefix of NAT64 (RFC 6052 section 2.1).
fn inner_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() else {
        return address.to_ipv4_mapped();
    };
    Some((u32::from(high) << 16 | u32::from(low)).into())
}

fn ipv4s(data: &[u8]) -> impl Iterator<Item = IpAddr> + '_ {
    data.as_chunks::<4>().0.iter().map(|it| IpAddr::from(*it))
}

fn ipv6s(data: &[u8]) -> impl Iterator<Item = IpAddr> + '_ {
    data.as_chunks::<16>().0.iter().map(|it| IpAddr::from(*it))
}

/// The addresses in a service binding (RFC 9460 section 7.3): priority, target, parameters.
fn hints(data: &[u8]) -> impl Iterator<Item = IpAddr> + '_ {
    let target = data.get(2..).and_then(|it| Name::from_wire(it).ok());
    let mut rest = target.and_then(|it| data.get(2 + it.wire().len()..)).unwrap_or_default();
    let parameters = std::iter::from_fn(move || {
        let (key, length) = (be16(rest, 0)?, usize::from(be16(rest, 2)?));
        let value = rest.get(4..4 + length)?;
        rest = rest.get(4 + length..)?;
        Some((key, value))
    });
    parameters.flat_map(|(key, value)| {
        let v4 = if key == IPV4_HINT { value } else { &[] };
        let v6 = if key == IPV6_HINT { value } else { &[] };
        ipv4s(v4).chain(ipv6s(v6))
    })
}

/// `ipv4hint` (RFC 9460 section 14.3.2).
const IPV4_HINT: u16 = 4;
/// `ipv6hint` (the same).
const IPV6_HINT: u16 = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::cache::replies::{query, records, reply};

    fn address(text: &str) -> Vec<u8> {
        match text.parse().unwrap() {
            IpAddr::V4(it) => records(&[("", 1, 60, &it.octets())]),
            IpAddr::V6(it) => records(&[("", 28, 60, &it.octets())]),
        }
    }

    fn blocked(filter: &Filter, name: &str, answer: &[u8]) -> bool {
        let query = query(name, Kind::A);
        let reply = reply(&query, 0, [1, 0, 0], answer);
        filter.blocks(&query, &reply, &["203.0.113.0/24".parse().unwrap()])
    }

    #[test]
    fn public_names_with_private_addresses_are_held_back() {
        let private = "127.0.0.1 127.255.0.1 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 \
            192.168.3.4 169.254.169.254 100.64.0.1 100.127.255.255 203.0.113.7 :: ::1 fc00::1 \
            fdff::1 fe80::1 febf::1 ::ffff:10.0.0.1 ::ffff:203.0.113.9 64:ff9b::7f00:1";
        for it in private.split_whitespace() {
            assert!(blocked(&Filter::default(), "evil.example", &address(it)), "{it}");
        }
        let public = "8.8.8.8 128.0.0.1 1.0.0.1 172.15.0.1 172.32.0.1 192.169.0.1 100.63.255.255 \
            100.128.0.1 203.0.114.1 2001:db8::1 fec0::1 ::ffff:8.8.8.8 64:ff9b::808:808";
        for it in public.split_whitespace() {
            assert!(!blocked(&Filter::default(), "good.example", &address(it)), "{it}");
        }
    }

    #[test]
    fn private_names_and_those_that_are_allowed_may_have_any_address() {
        let allowed = Name::from_text("Corp.example").unwrap();
        let filter = Filter::new([&allowed]);
        for name in ["corp.example", "a.b.CORP.example", "router", "nas.home.arpa", "x.internal"] {
            assert!(!blocked(&filter, name, &address("10.0.0.1")), "{name}");
        }
        for name in ["xcorp.example", "example", "internal.example"] {
            let public = name.contains('.');
            assert_eq!(blocked(&filter, name, &address("10.0.0.1")), public, "{name}");
        }
    }

    #[test]
    fn hints_of_service_bindings_are_addresses_too() {
        let binding = |key: u8, value: &[u8]| {
            let length = u8::try_from(value.len()).unwrap();
            let data =
                [&[0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2', 0, key, 0, length][..], value].concat();
            records(&[("", 65, 60, &data)])
        };
        let filter = Filter::default();
        assert!(blocked(&filter, "a.example", &binding(4, &[8, 8, 8, 8, 10, 0, 0, 1])));
        assert!(!blocked(&filter, "a.example", &binding(4, &[8, 8, 8, 8])));
        assert!(blocked(&filter, "a.example", &binding(6, &Ipv6Addr::LOCALHOST.octets())));
        assert!(!blocked(&filter, "a.example", &binding(5, &[10, 0, 0, 1])), "ech, not an address");
    }

    #[test]
    fn addresses_that_come_along_count_as_answers_do() {
        let asked = query("a.example", Kind::MX);
        let both =
            records(&[("", 15, 60, b"\0\x01\xc0\x0c"), ("mx.a.example", 1, 60, &[10, 0, 0, 1])]);
        let reply = reply(&asked, 0, [1, 0, 1], &both);
        assert!(Filter::default().blocks(&asked, &reply, &[]));
    }
}

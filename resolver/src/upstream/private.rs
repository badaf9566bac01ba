//! Names that mean something on private networks only, so that no server of the world is asked
//! about them. Pure.
//!
//! Always true here: a name is held back only from those who cannot know it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::name::Name;
use crate::wire::Kind;

/// Whether only servers on private networks can know `name`: `home.arpa` (RFC 8375 section 4), and
/// the reverse names of private addresses (RFC 6303 section 4). What such a name's parent says of
/// it (DS) is public.
pub(crate) fn is_private(name: &Name, kind: Kind) -> bool {
    let mut labels = name.labels().map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>();
    labels.reverse();
    let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
    match labels.as_slice() {
        [b"arpa", b"home"] => kind != Kind::DS,
        [b"arpa", b"home", ..] => true,
        [b"arpa", b"in-addr", octets @ ..] => ipv4(octets).is_some_and(|it| it.is_private()),
        [b"arpa", b"ip6", nibbles @ ..] => {
            ipv6(nibbles).is_some_and(|it| it.is_unique_local() || it.is_unicast_link_local())
        }
        _ => false,
    }
}

/// The lowest address below a reverse name, where that names at least so much of it that all of
/// them are private or none.
fn ipv4(octets: &[&[u8]]) -> Option<Ipv4Addr> {
    let octet =
        |at: usize| -> Option<u8> { std::str::from_utf8(octets.get(at)?).ok()?.parse().ok() };
    let first = octet(0)?;
    // 10.in-addr.arpa is whole; the other two begin within an octet.
    let second = if first == 10 { octet(1).unwrap_or(0) } else { octet(1)? };
    Some(Ipv4Addr::new(first, second, 0, 0))
}

fn ipv6(nibbles: &[&[u8]]) -> Option<Ipv6Addr> {
    let nibble = |at: usize| -> Option<u16> {
        let digit = std::str::from_utf8(nibbles.get(at)?).ok()?;
        if digit.len() == 1 { u16::from_str_radix(digit, 16).ok() } else { None }
    };
    let (first, second) = (nibble(0)?, nibble(1)?);
    let third = nibble(2).unwrap_or(0);
    Some(Ipv6Addr::new(first << 12 | second << 8 | third << 4, 0, 0, 0, 0, 0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_arpa_and_reverse_names_of_private_addresses_are_for_private_servers() {
        for name in [
            "home.arpa",
            "printer.HOME.arpa",
            "1.2.3.10.in-addr.arpa",
            "10.in-addr.arpa",
            "1.1.168.192.in-addr.arpa",
            "168.192.in-addr.arpa",
            "1.1.31.172.in-addr.arpa",
            "1.0.0.d.f.ip6.arpa",
            "d.f.ip6.arpa",
            "0.8.e.f.ip6.arpa",
        ] {
            assert!(is_private(&Name::from_text(name).unwrap(), Kind::PTR), "{name}");
        }
    }

    #[test]
    fn what_the_world_knows_is_asked_of_the_world() {
        for name in [
            "example.com",
            "arpa",
            "ipv4only.arpa",
            "192.in-addr.arpa",
            "1.1.32.172.in-addr.arpa",
            "8.8.8.8.in-addr.arpa",
            "f.ip6.arpa",
            "1.0.0.2.ip6.arpa",
            "x.in-addr.arpa",
            "",
        ] {
            assert!(!is_private(&Name::from_text(name).unwrap(), Kind::PTR), "{name}");
        }
        assert!(!is_private(&Name::from_text("home.arpa").unwrap(), Kind::DS));
    }
}

//! Reads reverse names: which address, or which range of them, `4.1.20.10.in-addr.arpa` means
//! (RFC 1035 section 3.5, RFC 3596 section 2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What a reverse name means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reverse {
    /// One address.
    Address(IpAddr),
    /// All addresses that begin so: there are names below this one.
    Range(IpNet),
    /// No address; it stands below this range.
    Nonsense(IpNet),
}

/// What `key`, a name in normal form, means; `None`: it is no reverse name.
pub(crate) fn reverse(key: &str) -> Option<Reverse> {
    if let Some(labels) = key.strip_suffix(".in-addr.arpa") {
        let (octets, count, clean) = digits::<4>(labels, decimal);
        let range = Ipv4Net::new(Ipv4Addr::from(octets), u8::try_from(count * 8).ok()?).ok()?;
        return Some(meaning(range.into(), clean));
    }
    let labels = key.strip_suffix(".ip6.arpa")?;
    let (nibbles, count, clean) = digits::<32>(labels, hexadecimal);
    let bits = nibbles.iter().fold(0_u128, |bits, nibble| bits << 4 | u128::from(*nibble));
    let range = Ipv6Net::new(Ipv6Addr::from(bits), u8::try_from(count * 4).ok()?).ok()?;
    Some(meaning(range.into(), clean))
}

/// Whether `key` is a reverse name, or stands above all of them.
pub(crate) fn is_reverse(key: &str) -> bool {
    ["in-addr.arpa", "ip6.arpa"].contains(&key) || reverse(key).is_some()
}

fn meaning(range: IpNet, clean: bool) -> Reverse {
    if !clean {
        Reverse::Nonsense(range)
    } else if range.prefix_len() == range.max_prefix_len() {
        Reverse::Address(range.addr())
    } else {
        Reverse::Range(range)
    }
}

/// Up to `N` digits, the last label first, how many there are, and whether that is all.
fn digits<const N: usize>(
    labels: &str,
    read: impl Fn(&str) -> Option<u8>,
) -> ([u8; N], usize, bool) {
    let mut found = [0; N];
    let mut count = 0;
    for label in labels.rsplit('.') {
        match (found.get_mut(count), read(label)) {
            (Some(place), Some(digit)) => *place = digit,
            (_, None) | (None, _) => return (found, count, false),
        }
        count += 1;
    }
    (found, count, true)
}

fn decimal(label: &str) -> Option<u8> {
    let canonical = label == "0" || !label.starts_with(['0', '+']);
    label.parse().ok().filter(|_| canonical)
}

fn hexadecimal(label: &str) -> Option<u8> {
    (label.len() == 1).then(|| u8::from_str_radix(label, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, expected: Option<Reverse>) {
        assert_eq!(reverse(key), expected, "{key}");
    }

    #[test]
    fn whole_addresses_of_both_families_are_read() {
        let v6: Ipv6Addr = "fd00::1f".parse().unwrap();
        let nibbles = format!("f.1.{}0.0.d.f.ip6.arpa", "0.".repeat(26));
        check("4.1.20.10.in-addr.arpa", Some(Reverse::Address(Ipv4Addr::new(10, 20, 1, 4).into())));
        check(&nibbles, Some(Reverse::Address(v6.into())));
    }

    #[test]
    fn what_is_above_addresses_is_a_range() {
        check("20.10.in-addr.arpa", Some(Reverse::Range("10.20.0.0/16".parse().unwrap())));
        check("d.f.ip6.arpa", Some(Reverse::Range("fd00::/8".parse().unwrap())));
    }

    #[test]
    fn what_is_no_number_is_nonsense_below_its_range() {
        let range = "10.20.1.0/24".parse().unwrap();
        check("x.1.20.10.in-addr.arpa", Some(Reverse::Nonsense(range)));
        check("256.1.20.10.in-addr.arpa", Some(Reverse::Nonsense(range)));
        check("04.1.20.10.in-addr.arpa", Some(Reverse::Nonsense(range)));
        check("+4.1.20.10.in-addr.arpa", Some(Reverse::Nonsense(range)));
        let all = format!("9.{}0.0.d.f.ip6.arpa", "0.".repeat(28));
        check(&all, Some(Reverse::Nonsense("fd00::/128".parse().unwrap())));
        check("gg.d.f.ip6.arpa", Some(Reverse::Nonsense("fd00::/8".parse().unwrap())));
        check("in-addr.arpa", None);
        check("web", None);
    }
}

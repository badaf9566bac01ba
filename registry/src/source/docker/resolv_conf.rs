//! Reads resolv.conf(5) as glibc does, and where glibc is strict more kindly. Pure.
//!
//! Invariants
//! - *total*: any bytes are read; a line that means nothing to us takes no other with it;
//! - *no fewer than glibc*: every server that glibc would ask is found, in its order.

use std::net::{IpAddr, Ipv4Addr};

/// What a resolv.conf says, as far as it matters to a forwarder.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct ResolvConf {
    /// Its `nameserver` lines, in order, none twice.
    pub(crate) servers: Vec<NameServer>,
    /// `options trust-ad`: the servers may be believed when they say that an answer is authentic.
    pub(crate) trusts_ad: bool,
}

/// One name server, at port 53.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NameServer {
    /// Its address.
    pub(crate) address: IpAddr,
    /// The interface that a link-local address belongs to: its name or number (RFC 4007).
    pub(crate) zone: Option<String>,
}

/// Reads it.
pub(crate) fn read(octets: &[u8]) -> ResolvConf {
    let mut conf = ResolvConf::default();
    for line in octets.split(|it| *it == b'\n') {
        // To C a line ends at a NUL.
        let line = line.split(|it| *it == 0).next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                if let Some(server) = words.next().and_then(name_server)
                    && !conf.servers.contains(&server)
                {
                    conf.servers.push(server);
                }
            }
            Some("options") => conf.trusts_ad |= words.any(|it| it == "trust-ad"),
            _ => {}
        }
    }
    conf
}

fn name_server(word: &str) -> Option<NameServer> {
    let word = word.split(['#', ';']).next()?;
    if let Some(address) = inet_aton(word) {
        return Some(NameServer { address: address.into(), zone: None });
    }
    let (address, zone) = match word.split_once('%') {
        Some((address, zone)) => (address, Some(zone.to_owned()).filter(|it| !it.is_empty())),
        None => (word, None),
    };
    let address = IpAddr::V6(address.parse().ok()?);
    Some(NameServer { address, zone })
}

/// An IPv4 address in any of `inet_aton(3)`'s forms: one to four parts, each decimal, octal or
/// hexadecimal, the last filling what is left.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    let octets_left = 4_usize.checked_sub(first.len()).filter(|it| *it > 0)?;
    let mut bits: u64 = 0;
    for part in first {
        bits = bits << 8 | u64::from(u8::try_from(*part).ok()?);
    }
    let room = 8 * octets_left;
    (u64::from(*last) >> room == 0).then_some(())?;
    u32::try_from(bits << room | u64::from(*last)).ok().map(Ipv4Addr::from)
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // `from_str_radix` takes a sign.
    let digits = Some(digits).filter(|it| it.bytes().all(|it| it.is_ascii_alphanumeric()))?;
    u32::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(octets: &[u8]) -> String {
        let shown = |it: &NameServer| match &it.zone {
            Some(zone) => format!("{}%{zone}", it.address),
            None => it.address.to_string(),
        };
        read(octets).servers.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_form_that_glibc_takes_gives_its_servers() {
        for (octets, expected) in [
            (&b"nameserver 10.0.0.1\nnameserver 10.0.0.2\n"[..], "10.0.0.1 10.0.0.2"),
            (b"nameserver 10.0.0.1", "10.0.0.1"),
            (b"nameserver 10.0.0.1 10.0.0.2\n", "10.0.0.1"),
            (b"nameserver\t10.0.0.1\t\n", "10.0.0.1"),
            (b"nameserver   10.0.0.1\r\nnameserver 10.0.0.2\r\n", "10.0.0.1 10.0.0.2"),
            (b"nameserver 10.0.0.1 # the first\nnameserver 10.0.0.2;\n", "10.0.0.1 10.0.0.2"),
            (
                b"nameserver 10.1\nnameserver 0x7f.1\nnameserver 010.0.0.1",
                "10.0.0.1 127.0.0.1 8.0.0.1",
            ),
            (b"nameserver fe80::1%eth0\nnameserver fe80::2%3\n", "fe80::1%eth0 fe80::2%3"),
            (b"nameserver ::1\nnameserver 2001:db8::53\n", "::1 2001:db8::53"),
            (b"options ndots: 2\nnameserver 10.0.0.1\noptions\n", "10.0.0.1"),
            (b"search \xff\xfe\nnameserver 10.0.0.1\n", "10.0.0.1"),
            (b"nameserver 10.0.0.1\0\0\0\nnameserver 10.0.0.2\n", "10.0.0.1 10.0.0.2"),
            (b"nameserver 10.0.0.1\nnameserver 10.0.0.1\n", "10.0.0.1"),
            (b"  nameserver 10.0.0.1\n", "10.0.0.1"),
        ] {
            assert_eq!(servers(octets), expected, "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn what_names_no_server_takes_no_other_line_with_it() {
        let long = [b"search ".to_vec(), vec![b'x'; 1 << 20], b"\nnameserver 10.0.0.9\n".to_vec()];
        assert_eq!(servers(&long.concat()), "10.0.0.9");
        for line in [
            "",
            "#nameserver 10.0.0.1",
            "; nameserver 10.0.0.1",
            "nameserver",
            "nameserver eth0",
            "nameserver 10.0.0.256",
            "nameserver 1.2.3.4.5",
            "nameserver 4294967296",
            "nameserver +1",
            "nameserver 1..2",
            "nameserver 08",
            "nameserver fe80::1::2",
            "nameserver %",
            "nameservers 10.0.0.1",
        ] {
            let text = format!("{line}\nnameserver 10.0.0.9\n{line}\n");
            assert_eq!(servers(text.as_bytes()), "10.0.0.9", "{line}");
        }
        assert_eq!(servers(b"# by hand\n\n"), "");
    }

    #[test]
    fn servers_are_trusted_with_ad_where_the_file_says_so() {
        assert!(read(b"nameserver 127.0.0.53\noptions edns0 trust-ad\n").trusts_ad);
        assert!(!read(b"nameserver 127.0.0.53\noptions edns0\n#options trust-ad\n").trusts_ad);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_and_give_no_more_servers_than_lines(octets: Vec<u8>) {
            let lines = octets.split(|it| *it == b'\n').count();
            proptest::prop_assert!(read(&octets).servers.len() <= lines);
        }
    }
}

//! The PROXY protocol's header, version 2, by which a task learns who its client is. Pure.
//! Source: HAProxy's `doc/proxy-protocol.txt`, section 2.2.
//!
//! Always true here: the header is complete and at most [`LONGEST`] octets, which any new
//! connection takes in one piece; both addresses are of one family.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Octets of a header for IPv6.
pub(super) const LONGEST: usize = 52;

/// What a task is told of a TCP connection: who its client is, and where that wanted to go. IPv4
/// written as IPv6 (`::ffff:a.b.c.d`) is told as IPv4.
pub(super) fn header(client: SocketAddr, wanted: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(LONGEST);
    header.extend(SIGNATURE);
    header.push(VERSION_2_PROXY);
    match (client.ip().to_canonical(), wanted.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([TCP_OVER_IPV4, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([TCP_OVER_IPV6, 0, 36]);
            header.extend(as_ipv6(from).octets());
            header.extend(as_ipv6(to).octets());
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(wanted.port().to_be_bytes());
    header
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_2_PROXY: u8 = 0x21;
/// Family `AF_INET`, transport STREAM.
const TCP_OVER_IPV4: u8 = 0x11;
/// Family `AF_INET6`, transport STREAM.
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Reads a header as the specification says, and nothing that it does not say.
    fn parse(octets: &[u8]) -> (SocketAddr, SocketAddr) {
        let (signature, rest) = octets.split_at(12);
        assert_eq!(
            signature,
            [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]
        );
        assert_eq!(rest[0] >> 4, 2, "version");
        assert_eq!(rest[0] & 15, 1, "command PROXY");
        assert_eq!(rest[1] & 15, 1, "STREAM");
        assert_eq!(usize::from(u16::from_be_bytes([rest[2], rest[3]])), rest.len() - 4);
        let addresses = &rest[4..];
        let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
        match rest[1] >> 4 {
            1 => {
                let at = |it: usize| <[u8; 4]>::try_from(&addresses[it..it + 4]).unwrap();
                let [from, to] = [at(0), at(4)].map(Ipv4Addr::from);
                ((from, port(8)).into(), (to, port(10)).into())
            }
            2 => {
                let at = |it: usize| <[u8; 16]>::try_from(&addresses[it..it + 16]).unwrap();
                let [from, to] = [at(0), at(16)].map(Ipv6Addr::from);
                ((from, port(32)).into(), (to, port(34)).into())
            }
            family => panic!("family {family}"),
        }
    }

    fn check(client: &str, wanted: &str, told: (&str, &str)) {
        let got = header(client.parse().unwrap(), wanted.parse().unwrap());
        assert!(got.len() <= LONGEST);
        assert_eq!(parse(&got), (told.0.parse().unwrap(), told.1.parse().unwrap()));
    }

    #[test]
    fn the_header_tells_both_ends() {
        let (client, wanted) = ("10.1.2.3:4567", "10.9.8.7:80");
        check(client, wanted, (client, wanted));
        let (client, wanted) = ("[2001:db8::1]:4567", "[2001:db8::2]:443");
        check(client, wanted, (client, wanted));
    }

    #[test]
    fn ipv4_written_as_ipv6_is_told_as_ipv4() {
        check("[::ffff:10.1.2.3]:1", "[::ffff:10.9.8.7]:2", ("10.1.2.3:1", "10.9.8.7:2"));
        check("[2001:db8::1]:1", "10.9.8.7:2", ("[2001:db8::1]:1", "[::ffff:10.9.8.7]:2"));
    }
}

//! An ICMP echo request from inside a namespace (RFC 792, RFC 4443 section 4.1), and its reply.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Sends one echo request to `address` from the namespace and waits for its reply.
///
/// # Errors
/// `TimedOut` where none came within `wait`, `ConnectionRefused` or another of the kernel's where
/// an ICMP error came instead, and whatever keeps it from being sent.
pub fn echo(netns: &Netns, address: IpAddr, wait: Duration) -> io::Result<()> {
    netns.run(|| echo_here(address, wait)).map_err(io::Error::other)?
}

fn echo_here(address: IpAddr, wait: Duration) -> io::Result<()> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    // Raw, because whether datagram sockets may do this depends on the namespace's settings.
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    // Connected, so that errors come back to it, and only this peer's packets do.
    socket.connect(&SocketAddr::new(address, 0).into())?;
    let request = request(address, number());
    socket.write_all(&request)?;
    let begun = tokio::time::Instant::now();
    let mut buffer = [0; 512];
    loop {
        let left = wait.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let read = match socket.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            read => read?,
        };
        if is_reply(address, buffer.get(..read).unwrap_or_default(), request) {
            return Ok(());
        }
    }
}

/// What tells this request from others of this process at the same time.
fn number() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Type, code, checksum, identifier, sequence number, and no data.
fn request(address: IpAddr, number: u16) -> [u8; 8] {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let [a, b] = IDENTIFIER.to_be_bytes();
    let [c, d] = number.to_be_bytes();
    let mut packet = [kind, 0, 0, 0, a, b, c, d];
    // That of ICMPv6 covers the addresses too; the kernel fills it in.
    let [high, low] = if address.is_ipv4() { checksum(packet).to_be_bytes() } else { [0; 2] };
    let [_, _, first, second, ..] = &mut packet;
    (*first, *second) = (high, low);
    packet
}

const IDENTIFIER: u16 = 0x706f; // "po"

/// RFC 1071.
fn checksum(packet: [u8; 8]) -> u16 {
    let (words, _) = packet.as_chunks::<2>();
    let sum: u32 = words.iter().map(|it| u32::from(u16::from_be_bytes(*it))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    // Four words carry at most three times, which one fold takes in.
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

fn is_reply(address: IpAddr, packet: &[u8], request: [u8; 8]) -> bool {
    let (kind, packet) = match address {
        // A raw IPv4 socket gets the header too; its length is in 32-bit words (RFC 791).
        IpAddr::V4(_) => {
            let header = packet.first().map_or(0, |it| usize::from(it & 0x0f) * 4);
            (0, packet.get(header..).unwrap_or_default())
        }
        IpAddr::V6(_) => (129, packet),
    };
    let [first, _, _, _, own @ ..] = packet else { return false };
    let [_, _, _, _, wanted @ ..] = request;
    *first == kind && own.starts_with(&wanted)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_request_sums_to_nothing_with_its_checksum() {
        let sent = request(Ipv4Addr::LOCALHOST.into(), 7);
        assert_eq!(sent[0], 8);
        assert_eq!(checksum(sent), 0);
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let sent = request(v4, 7);
        let with_header = |icmp: [u8; 8]| [&[0x45][..], &[0; 19], &icmp].concat();
        let mut reply = sent;
        reply[0] = 0;
        assert!(is_reply(v4, &with_header(reply), sent));
        assert!(!is_reply(v4, &with_header(sent), sent), "a request is none");
        assert!(!is_reply(v4, &with_header(reply), request(v4, 8)), "another's");
        for length in 0..28 {
            assert!(!is_reply(v4, &with_header(reply)[..length], sent), "cut off");
        }
    }

    #[test]
    fn this_machine_answers_itself() {
        let Ok(netns) = Netns::this() else { return };
        for own in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            match echo(&netns, own, Duration::from_secs(5)) {
                // Without the right to raw sockets, or without that family.
                Err(error)
                    if [ErrorKind::PermissionDenied, ErrorKind::AddrNotAvailable]
                        .contains(&error.kind()) => {}
                outcome => outcome.unwrap(),
            }
        }
    }
}

//! Makes far ends of TCP connections show that they are still there, as RFC 5961 section 4 has it.
//!
//! Always true here: what is sent is a SYN that belongs to no sequence. Whoever has the connection
//! answers it with an acknowledgement (a challenge) and changes nothing; whoever has it not,
//! refuses. So it can do no harm, and where the way back leads nowhere any more, what answers the
//! acknowledgement is a reset with the right number.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::{Netns, NetnsError};

/// Why nothing could be sent.
#[derive(Debug, thiserror::Error)]
pub enum ProvokeError {
    /// The namespace could not be entered.
    #[error("cannot tell clients that their connections are gone")]
    Namespace(#[from] NetnsError),
    /// The kernel refused.
    #[error("cannot tell clients that their connections are gone")]
    Refused(#[source] io::Error),
}

/// Sends a SYN for each connection, named by the end that it seems to come from and the end that
/// gets it. Gives how many were sent; one that cannot be routed is skipped.
///
/// The packets carry `mark`, and nobody may track them: conntrack would take them for a connection
/// of their own whose port is in use, and send them from another.
pub fn provoke<End: Copy + Into<SocketAddr> + Sync>(
    netns: &Netns,
    mark: u32,
    connections: &[(End, End)],
) -> Result<usize, ProvokeError> {
    let mut sent = 0;
    for domain in [Domain::IPV4, Domain::IPV6] {
        let ends = connections.iter().map(|it| (it.0.into(), it.1.into()));
        let mut ends = ends.filter(|it| Domain::for_address(it.1) == domain).peekable();
        if ends.peek().is_none() {
            continue;
        }
        let open = || Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW)));
        let socket = netns.run(open)?.map_err(ProvokeError::Refused)?;
        socket.set_mark(mark).map_err(ProvokeError::Refused)?;
        let send = |it: &(SocketAddr, SocketAddr)| {
            let to = SocketAddr::new(it.1.ip(), 0);
            socket.send_to(&syn(it.0, it.1), &to.into()).is_ok()
        };
        sent += ends.filter(send).count();
    }
    Ok(sent)
}

/// An IP packet (RFC 791, RFC 8200) with a TCP header (RFC 9293) and nothing else. The kernel fills
/// in the length, the identification and the checksum of IPv4's header.
fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // Version and length, type of service, total length, identification, fragment, TTL,
            // protocol, checksum.
            let head = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0];
            [head.as_slice(), &from.octets(), &to.octets()].concat()
        }
        (from, to) => {
            // Version, class and label, length of what follows, next header, hop limit.
            let head = [0x60, 0, 0, 0, 0, 20, TCP, 64];
            [head.as_slice(), &octets(from), &octets(to)].concat()
        }
    };
    // Sequence number, acknowledgement, length in words, SYN, window, checksum, urgent pointer.
    let rest = |sum: u16| {
        let [high, low] = sum.to_be_bytes();
        [0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0x04, 0, high, low, 0, 0]
    };
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let unsummed = [ports.as_slice(), &rest(0)].concat();
    packet.extend_from_slice(&ports);
    packet.extend_from_slice(&rest(checksum(from.ip(), to.ip(), &unsummed)));
    packet
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum over the pseudo-header and the segment.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).unwrap_or_default().to_be_bytes();
    let pseudo = [octets(from).as_slice(), &octets(to), &[0, TCP], &length].concat();
    let pairs = pseudo.chunks(2).chain(segment.chunks(2));
    let sum: u32 = pairs
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(u16::from_be_bytes([high, 0])),
            _ => 0,
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}

const TCP: u8 = 6;
/// The packet's own header is given with it.
const IPPROTO_RAW: i32 = 255;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::link;

    #[test]
    fn a_connection_that_is_there_survives() {
        let netns = Netns::fresh().unwrap();
        link::set_up(&netns, "lo").unwrap();
        for here in ["127.0.0.1:0", "[::1]:0"] {
            let (mut client, from, to) = netns
                .run(|| {
                    let listener = TcpListener::bind(here).unwrap();
                    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                    let (server, _) = listener.accept().unwrap();
                    let (from, to) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
                    std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(100));
                        (&server).write_all(b"still here").unwrap();
                    });
                    (client, from, to)
                })
                .unwrap();
            assert_eq!(provoke(&netns, 1, &[(from, to)]).unwrap(), 1);
            let mut said = String::new();
            client.read_to_string(&mut said).unwrap();
            assert_eq!(said, "still here");
        }
    }

    #[test]
    fn the_checksum_over_all_of_a_segment_is_zero() {
        for (from, to, head) in
            [("10.0.0.1:80", "10.0.0.2:1024", 20), ("[fd00::1]:80", "[fd00::2]:1024", 40)]
        {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = syn(from, to);
            assert_eq!(packet.len(), head + 20);
            assert_eq!(checksum(from.ip(), to.ip(), &packet[head..]), 0);
        }
    }
}

//! Makes far ends of TCP connections show that they are still there, as RFC 5961 section 4 has it.
//!
//! Always true here: what is sent is a SYN that belongs to no sequence. Whoever has the connection
//! answers it with an acknowledgement (a challenge) and changes nothing; whoever has it not,
//! refuses. So it can do no harm, and where the way back leads nowhere any more, what answers the
//! acknowledgement is a reset with the right number.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

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
pub fn provoke(
    netns: &Netns,
    mark: u32,
    connections: &[(SocketAddrV4, SocketAddrV4)],
) -> Result<usize, ProvokeError> {
    if connections.is_empty() {
        return Ok(0);
    }
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)));
    let socket = netns.run(open)?.map_err(ProvokeError::Refused)?;
    socket.set_mark(mark).map_err(ProvokeError::Refused)?;
    let send = |it: &&(SocketAddrV4, SocketAddrV4)| {
        let to = SocketAddrV4::new(*it.1.ip(), 0);
        socket.send_to(&syn(it.0, it.1), &to.into()).is_ok()
    };
    Ok(connections.iter().filter(send).count())
}

/// An IPv4 packet (RFC 791) with a TCP header (RFC 9293) and nothing else. The kernel fills in the
/// length, the identification and the checksum of the former.
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    let mut write = |at: usize, bytes: &[u8]| {
        if let Some(place) = packet.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    // Version and length, type of service, total length, identification, fragment, TTL, protocol.
    write(0, &[0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0]);
    write(12, &from.ip().octets());
    write(16, &to.ip().octets());
    write(20, &from.port().to_be_bytes());
    write(22, &to.port().to_be_bytes());
    // Sequence number, acknowledgement, length in words, SYN, window.
    write(24, &[0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0x04, 0]);
    let sum = checksum(*from.ip(), *to.ip(), packet.get(20..).unwrap_or_default());
    if let Some(place) = packet.get_mut(36..38) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The Internet checksum over the pseudo-header and the segment.
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).unwrap_or_default().to_be_bytes();
    let pseudo = [from.octets().as_slice(), &to.octets(), &[0, TCP], &length].concat();
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

const PACKET: usize = 40;
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
        let (mut client, from, to) = netns
            .run(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (server, _) = listener.accept().unwrap();
                let (SocketAddr::V4(from), SocketAddr::V4(to)) =
                    (client.peer_addr().unwrap(), client.local_addr().unwrap())
                else {
                    panic!("IPv4")
                };
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

    #[test]
    fn the_checksum_is_that_of_a_packet_seen_on_a_wire() {
        let from = "10.0.0.1:80".parse().unwrap();
        let to = "10.0.0.2:1024".parse().unwrap();
        let packet = syn(from, to);
        // Over all of it, the checksum included, the sum is zero.
        assert_eq!(checksum(*from.ip(), *to.ip(), &packet[20..]), 0);
    }
}

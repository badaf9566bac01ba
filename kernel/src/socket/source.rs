//! Which address a connection comes from, where its destination is an alias of this namespace.
//!
//! On kernels with IPVS the engine gives its own namespace on an overlay (`lb_`) every VIP as an
//! address. The kernel would then connect to a VIP from the VIP itself, and a task on another node
//! would answer to its own node's alias.
//!
//! Always true here: who connects to the only address of a namespace connects from it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::Socket;

use crate::listening::switch_on;

/// Has the socket connect to `peer` from an address that is not the peer's, if this namespace has
/// one on the peer's network.
pub(super) fn choose(socket: &Socket, peer: SocketAddr) -> io::Result<()> {
    let Some(own) = own_address(peer.ip()) else { return Ok(()) };
    // The port is chosen when it connects: then others may have it for other peers.
    switch_on(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)?;
    socket.bind(&SocketAddr::new(own, 0).into())
}

fn own_address(peer: IpAddr) -> Option<IpAddr> {
    if peer.is_loopback() || source_towards(peer)? != peer {
        return None;
    }
    // Whoever is beside the peer, and not here, is reached from the address that is not an alias.
    (0..NEIGHBOURS).find_map(|bit| {
        let neighbour = turned(peer, bit);
        source_towards(neighbour).filter(|it| *it != neighbour && *it != peer)
    })
}

/// Which address the kernel would choose.
fn source_towards(peer: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match peer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Nothing is sent by this.
    socket.connect((peer, DISCARD)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn turned(address: IpAddr, bit: u32) -> IpAddr {
    match address {
        IpAddr::V4(it) => Ipv4Addr::from(u32::from(it) ^ (1 << bit)).into(),
        IpAddr::V6(it) => Ipv6Addr::from(u128::from(it) ^ (1 << bit)).into(),
    }
}

/// Any port.
const DISCARD: u16 = 9;
/// Bits of an address that are turned to find a neighbour: as many as a large network leaves.
const NEIGHBOURS: u32 = 16;

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;
    use crate::link;
    use crate::netns::Netns;

    #[test]
    fn who_connects_to_an_alias_of_its_own_comes_from_the_networks_address() {
        let [netns, other] = [Netns::fresh().unwrap(), Netns::fresh().unwrap()];
        link::add_veth(&netns, "eth0", "eth0", &other).unwrap();
        link::set_up(&netns, "lo").unwrap();
        link::set_up(&netns, "eth0").unwrap();
        link::set_up(&other, "eth0").unwrap();
        // The neighbours by one bit are aliases too.
        for address in ["10.0.1.4/24", "10.0.1.2/32", "10.0.1.3/32", "10.0.1.0/32", "10.0.1.6/32"] {
            link::add_address(&netns, "eth0", address.parse().unwrap()).unwrap();
        }
        let source = |peer: &str| {
            let peer = SocketAddr::new(peer.parse().unwrap(), 80);
            let bound = || {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                choose(&socket, peer).unwrap();
                socket.local_addr().unwrap().as_socket().unwrap().to_string()
            };
            netns.run(bound).unwrap()
        };
        assert_eq!(source("10.0.1.2"), "10.0.1.4:0", "a VIP");
        for left_alone in ["10.0.1.4", "10.0.1.77", "127.0.0.11", "10.9.9.9"] {
            assert_eq!(source(left_alone), "0.0.0.0:0", "{left_alone}");
        }
    }
}

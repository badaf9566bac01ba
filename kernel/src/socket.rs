//! Sockets made inside a network namespace and used from anywhere.
//!
//! Always true here: what is returned is non-blocking and close-on-exec, ready for tokio's
//! `from_std`. A socket belongs to the namespace it was made in, and keeps it: close it when the
//! namespace's container has died.

mod source;

use std::io::{self, Read};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket as StdUdpSocket,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::{Netns, NetnsError};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The namespace could not be entered.
    #[error("cannot make a {what} socket for {address}")]
    Namespace {
        /// What was to be made, e.g. `UDP`.
        what: &'static str,
        /// Where it should listen, or whom it should speak to.
        address: SocketAddr,
        /// The refusal.
        source: NetnsError,
    },
    /// The kernel refused to make, bind or connect the socket.
    #[error("cannot {what} {address}")]
    Make {
        /// The step that failed, e.g. `bind UDP socket to`.
        what: &'static str,
        /// Where it should listen, or whom it should speak to.
        address: SocketAddr,
        /// The refusal.
        source: io::Error,
    },
    /// The list of sockets could not be read.
    #[error("cannot list the UDP sockets of the network namespace `{}`", path.display())]
    List {
        /// The namespace asked.
        path: std::path::PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The thread that makes sockets for async callers has ended.
    #[error("cannot make a socket for {address}: the thread that enters namespaces has ended")]
    DoorClosed {
        /// Whom the socket should have spoken to.
        address: SocketAddr,
    },
}

impl SocketError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace { source, .. } => source.remedy(),
            Self::Make { source, .. } => remedy_of(source),
            Self::List { .. } => Some("mount /proc"),
            Self::DoorClosed { .. } => Some("restart portolan"),
        }
    }
}

/// A UDP socket bound to `address` inside the namespace; port 0 lets the kernel choose.
pub fn udp_bound(netns: &Netns, address: SocketAddr) -> Result<StdUdpSocket, SocketError> {
    inside(netns, "UDP", address, || bind_udp(address))
}

/// A TCP listener on `address` inside the namespace; port 0 lets the kernel choose.
pub fn tcp_listener(netns: &Netns, address: SocketAddr) -> Result<TcpListener, SocketError> {
    inside(netns, "TCP", address, || listen(address, LISTEN_BACKLOG, Share::No))
}

/// An unconnected TCP socket made inside the namespace, to be connected to `like`;
/// `TCP_NODELAY` is set. Connect it with `tokio::net::TcpSocket::from_std_stream`.
pub fn tcp_socket(netns: &Netns, like: SocketAddr) -> Result<TcpStream, SocketError> {
    inside(netns, "TCP", like, || tcp_socket_here(like))
}

/// A UDP socket made inside the namespace and connected to `peer`, with a fresh source port that
/// the kernel chose at random.
pub fn udp_connected(netns: &Netns, peer: SocketAddr) -> Result<StdUdpSocket, SocketError> {
    inside(netns, "UDP", peer, || udp_connected_here(peer))
}

/// Ports of the UDP sockets in the namespace that are bound to exactly `address`: how the
/// engine's own resolver on 127.0.0.11 is found. At most 4,096 sockets are looked at.
pub fn udp_ports_bound_to(netns: &Netns, address: Ipv4Addr) -> Result<Vec<u16>, SocketError> {
    // The folder of the thread, not of the process: only it names the entered namespace.
    let read = || {
        let mut table = String::new();
        let file = std::fs::File::open("/proc/thread-self/net/udp")?;
        file.take(UDP_TABLE_LIMIT).read_to_string(&mut table)?;
        Ok(table)
    };
    let failed = |source| SocketError::List { path: netns.path().to_owned(), source };
    let table = inside(netns, "UDP", (address, 0).into(), || read().map_err(failed))?;
    Ok(ports_bound_to(&table, address))
}

/// A TCP listener with `SO_REUSEPORT` in the calling thread's own namespace, so that each core
/// can have one on the same address.
pub fn tcp_listener_reuseport(
    address: SocketAddr,
    backlog: i32,
) -> Result<TcpListener, SocketError> {
    listen(address, backlog, Share::Port)
}

/// [`tcp_socket`] in the calling thread's namespace.
pub(crate) fn tcp_socket_here(like: SocketAddr) -> Result<TcpStream, SocketError> {
    let failed =
        |source| SocketError::Make { what: "make a TCP socket for", address: like, source };
    let socket = Socket::new(Domain::for_address(like), Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            Ok(socket)
        })
        .map_err(failed)?;
    // What cannot be chosen the kernel chooses.
    source::choose(&socket, like).ok();
    Ok(socket.into())
}

/// [`udp_connected`] in the calling thread's namespace.
pub(crate) fn udp_connected_here(peer: SocketAddr) -> Result<StdUdpSocket, SocketError> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = bind_udp(SocketAddr::new(any, 0))?;
    match socket.connect(peer) {
        Ok(()) => Ok(socket),
        Err(source) => {
            Err(SocketError::Make { what: "connect a UDP socket to", address: peer, source })
        }
    }
}

/// Whether several listeners may share the address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Share {
    No,
    Port,
}

pub(crate) fn inside<T: Send>(
    netns: &Netns,
    what: &'static str,
    address: SocketAddr,
    make: impl FnOnce() -> Result<T, SocketError> + Send,
) -> Result<T, SocketError> {
    netns.run(make).map_err(|source| SocketError::Namespace { what, address, source })?
}

fn bind_udp(address: SocketAddr) -> Result<StdUdpSocket, SocketError> {
    let failed = |source| SocketError::Make { what: "bind a UDP socket to", address, source };
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
        .and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            Ok(socket)
        })
        .map_err(failed)?;
    Ok(socket.into())
}

fn listen(address: SocketAddr, backlog: i32, share: Share) -> Result<TcpListener, SocketError> {
    let failed = |source| SocketError::Make { what: "listen on TCP", address, source };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| {
            socket.set_nonblocking(true)?;
            // A listener restarted while old connections linger in TIME-WAIT must get its port.
            socket.set_reuse_address(true)?;
            if share == Share::Port {
                socket.set_reuse_port(true)?;
            }
            if address.is_ipv6() {
                // An IPv4 listener on the same port may stand beside it.
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(backlog)?;
            Ok(socket)
        })
        .map_err(failed)?;
    Ok(socket.into())
}

fn remedy_of(source: &io::Error) -> Option<&'static str> {
    match source.raw_os_error()? {
        libc::EADDRINUSE => Some("another program has this port: stop it or configure another"),
        libc::EADDRNOTAVAIL => Some("no interface has this address: configure another"),
        libc::EACCES | libc::EPERM => Some("ports below 1024 need CAP_NET_BIND_SERVICE"),
        libc::EMFILE | libc::ENFILE => Some("raise the limit of open files (ulimit -n)"),
        _ => None,
    }
}

/// Reads the kernel's `/proc/net/udp`: a heading, then `SLOT: ADDRESS:PORT PEER:PORT ...` with
/// hexadecimal numbers, the address being the four network-order bytes read as a host integer.
fn ports_bound_to(table: &str, address: Ipv4Addr) -> Vec<u16> {
    let local = |line: &str| {
        let (host, port) = line.split_whitespace().nth(1)?.split_once(':')?;
        let host = u32::from_str_radix(host, 16).ok()?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (Ipv4Addr::from(host.to_ne_bytes()) == address).then_some(port)
    };
    table.lines().skip(1).filter_map(local).collect()
}

/// Queue of connections not yet accepted; the kernel's default ceiling (`net.core.somaxconn`).
const LISTEN_BACKLOG: i32 = 4096;

/// 4,096 sockets at 128 bytes a line: a container that opens more than that hides its resolver
/// from us, and nothing else.
const UDP_TABLE_LIMIT: u64 = 4096 * 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_ports_bound_to_an_address_are_read_from_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
             \x20 103: 0B00007F:D4B1 00000000:0000 07 00000000:00000000 00:00000000 00000000\n\
             \x20 104: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000\n\
             garbage\n\
             \x20 105: 0B00007F:zz 00000000:0000\n";
        assert_eq!(ports_bound_to(table, Ipv4Addr::new(127, 0, 0, 11)), [0xD4B1]);
    }
}

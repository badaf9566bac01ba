//! Sockets for an address that several threads serve: each thread has one of its own, and the
//! kernel spreads connections and datagrams over them (`SO_REUSEPORT`).
//!
//! Invariants
//! - *ours alone*: the first socket is bound without sharing, so that it fails where anybody else
//!   is, another process of ours included; only then may the others join it;
//! - *one family*: an IPv6 socket takes no IPv4, so that one of that family may stand beside it.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;
use crate::socket::{SocketError, inside};

/// Where somebody is to listen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spot {
    /// The address; port 0 lets the kernel choose one for all of them.
    pub address: SocketAddr,
    /// What is received.
    pub kind: Kind,
    /// How many sockets are to share it, from 1.
    pub count: usize,
}

/// What is received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// TCP connections.
    Connections,
    /// Nothing: TCP connections to it are refused, but nobody else can have its port.
    NoConnections,
    /// Datagrams, each with the address that it was sent to.
    Datagrams,
    /// Nothing: datagrams are answered with "port unreachable", but nobody else can have its port.
    NoDatagrams,
}

/// Sockets on one address.
#[derive(Debug)]
pub enum Listening {
    /// Listeners.
    Connections(Vec<TcpListener>),
    /// Sockets for datagrams.
    Datagrams(Vec<UdpSocket>),
    /// What holds a port.
    Nothing(Reserved),
}

/// A port that is held so that nobody else takes it.
#[derive(Debug)]
pub struct Reserved {
    socket: Socket,
}

impl Listening {
    /// The address that they share, with the port that the kernel chose.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Connections(all) => all.first()?.local_addr().ok(),
            Self::Datagrams(all) => all.first()?.local_addr().ok(),
            Self::Nothing(held) => held.socket.local_addr().ok()?.as_socket(),
        }
    }
}

/// Makes the sockets of every spot inside the namespace, `None` being this process's own. One
/// thread makes them all.
pub fn open(netns: Option<&Netns>, spots: &[Spot]) -> Vec<Result<Listening, SocketError>> {
    let all = || spots.iter().map(make).collect::<Vec<_>>();
    let Some(netns) = netns else { return all() };
    let Some(first) = spots.first() else { return Vec::new() };
    match inside(netns, "listening", first.address, || Ok(all())) {
        Ok(made) => made,
        Err(error) => vec![Err(error)],
    }
}

fn make(spot: &Spot) -> Result<Listening, SocketError> {
    let what = match spot.kind {
        Kind::Connections | Kind::NoConnections => "listen on TCP",
        Kind::Datagrams | Kind::NoDatagrams => "bind a UDP socket to",
    };
    share(spot).map_err(|source| SocketError::Make { what, address: spot.address, source })
}

fn share(spot: &Spot) -> io::Result<Listening> {
    let first = bind(spot, spot.address, false)?;
    if matches!(spot.kind, Kind::NoConnections) {
        return Ok(Listening::Nothing(Reserved { socket: first }));
    }
    let failed = || io::Error::other("the kernel gave an address of no known family");
    let address = first.local_addr()?.as_socket().ok_or_else(failed)?;
    if matches!(spot.kind, Kind::NoDatagrams) {
        // Connected to a port where nobody is: what others send finds no socket.
        let nobody = SocketAddr::new(loopback(address), DISCARD);
        first.connect(&nobody.into())?;
        return Ok(Listening::Nothing(Reserved { socket: first }));
    }
    first.set_reuse_port(true)?;
    let mut all = vec![first];
    for _ in 1..spot.count {
        all.push(bind(spot, address, true)?);
    }
    if spot.kind == Kind::Datagrams {
        let all = all.into_iter().map(|socket| told_destinations(socket, address));
        return all.collect::<io::Result<Vec<UdpSocket>>>().map(Listening::Datagrams);
    }
    // Last, so that no connection comes before all can take it.
    all.iter().try_for_each(|it| it.listen(BACKLOG))?;
    Ok(Listening::Connections(all.into_iter().map(TcpListener::from).collect()))
}

fn bind(spot: &Spot, address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let (kind, protocol) = match spot.kind {
        Kind::Connections | Kind::NoConnections => (Type::STREAM, Protocol::TCP),
        Kind::Datagrams | Kind::NoDatagrams => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        // A listener restarted while old connections linger in TIME-WAIT must get its port.
        socket.set_reuse_address(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A socket on every address is to be told which one each datagram was sent to, because the answer
/// has to come from there.
fn told_destinations(socket: Socket, address: SocketAddr) -> io::Result<UdpSocket> {
    tell_destinations(&socket, address.is_ipv4())?;
    // As much as the administrator allows: a burst waits here for the thread's next turn.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    Ok(socket.into())
}

fn tell_destinations(socket: &Socket, ipv4: bool) -> io::Result<()> {
    let (level, option) = if ipv4 {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    };
    switch_on(socket, level, option)
}

/// Sets an option of a socket that is on or off.
pub(crate) fn switch_on(socket: &Socket, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(4);
    #[expect(unsafe_code, reason = "neither rustix nor socket2 knows these options")]
    // SAFETY: the descriptor is open; the value is a live variable of the length that is passed.
    let status = unsafe {
        let value = std::ptr::from_ref(&on).cast();
        libc::setsockopt(socket.as_raw_fd(), level, option, value, length)
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn loopback(like: SocketAddr) -> std::net::IpAddr {
    match like {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// The kernel's default ceiling (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// A thousand full-sized datagrams, more or less.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The port of the discard protocol (RFC 863), which nobody answers from.
const DISCARD: u16 = 9;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpStream;

    use super::*;

    fn spot(kind: Kind) -> Spot {
        let address = "127.0.0.1:0".parse().unwrap();
        Spot { address, kind, count: 2 }
    }

    fn one(spot: Spot) -> Result<Listening, SocketError> {
        open(None, &[spot]).remove(0)
    }

    #[test]
    fn connections_are_spread_over_listeners_that_share_a_port_with_nobody_else() {
        let opened = one(spot(Kind::Connections)).unwrap();
        let address = opened.address().unwrap();
        let Listening::Connections(listeners) = opened else { panic!("{opened:?}") };
        let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let taken = listeners.iter().map(|it| std::iter::from_fn(|| it.accept().ok()).count());
        let taken: Vec<_> = taken.collect();
        assert_eq!(taken.iter().sum::<usize>(), clients.len());
        assert!(taken.iter().all(|it| *it > 0), "{taken:?}");
        let again = one(Spot { address, ..spot(Kind::Connections) }).unwrap_err();
        assert!(again.remedy().is_some(), "{again}");
    }

    #[test]
    fn datagrams_of_one_client_come_to_one_socket_and_nobody_else_gets_its_port() {
        let opened = one(spot(Kind::Datagrams)).unwrap();
        let address = opened.address().unwrap();
        let Listening::Datagrams(sockets) = opened else { panic!("{opened:?}") };
        assert!(one(Spot { address, ..spot(Kind::Datagrams) }).is_err());
        let mut busy = [false; 2];
        for _ in 0..64 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            (0..3).for_each(|_| assert_eq!(client.send_to(b"?", address).unwrap(), 1));
            let got = |it: &UdpSocket| std::iter::from_fn(|| it.recv(&mut [0; 8]).ok()).count();
            let counts: Vec<_> = sockets.iter().map(got).collect();
            assert!(counts == [3, 0] || counts == [0, 3], "{counts:?}");
            busy = [busy[0] || counts[0] > 0, busy[1] || counts[1] > 0];
        }
        assert_eq!(busy, [true, true]);
    }

    #[test]
    fn a_port_that_is_held_for_nobody_refuses_at_once() {
        let tcp = one(spot(Kind::NoConnections)).unwrap();
        let refused = TcpStream::connect(tcp.address().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let udp = one(spot(Kind::NoDatagrams)).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(udp.address().unwrap()).unwrap();
        client.send(b"?").unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(client.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

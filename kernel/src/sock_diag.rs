//! Destroying the sockets of programs in a namespace, so that a connection to a task that is gone
//! fails at once instead of hanging.
//!
//! Always true here: a socket is looked up by both its ends, and destroyed by its cookie, so that
//! no other is hit, nor one that listens; one that is not there is no error.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::netlink::wire::{Message, Writer};
use crate::netlink::{Channel, SOCK_DIAG};
use crate::netns::{Netns, NetnsError};

/// Why sockets could not be destroyed.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    /// The namespace could not be entered.
    #[error("cannot destroy the sockets of connections to tasks that are gone")]
    Namespace(#[from] NetnsError),
    /// The kernel refused.
    #[error("cannot destroy the socket from {local} to {peer}")]
    Refused {
        /// The socket's own end.
        local: SocketAddr,
        /// Whom it believes to speak to.
        peer: SocketAddr,
        /// The refusal.
        source: io::Error,
    },
    /// There is no such netlink socket.
    #[error("cannot open a socket to destroy other sockets")]
    Open {
        /// The refusal.
        source: io::Error,
    },
}

impl SockDiagError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        let source = match self {
            Self::Namespace(source) => return source.remedy(),
            Self::Refused { source, .. } | Self::Open { source } => source,
        };
        match source.raw_os_error()? {
            libc::EPERM => Some("run portolan as root or with CAP_NET_ADMIN"),
            libc::EOPNOTSUPP => Some("use a kernel with CONFIG_INET_DIAG_DESTROY"),
            libc::ENOENT | libc::EPROTONOSUPPORT => Some("load the module: `modprobe tcp_diag`"),
            _ => None,
        }
    }
}

/// Asks for sockets of one namespace to be destroyed.
#[derive(Debug)]
pub struct SockDiag {
    channel: Channel,
}

impl SockDiag {
    /// Opens a socket inside the namespace; it works from any thread, and keeps the namespace.
    pub fn open(netns: &Netns) -> Result<Self, SockDiagError> {
        let opened = netns.run(|| Channel::open(SOCK_DIAG))?;
        let mut channel = opened.map_err(|source| SockDiagError::Open { source })?;
        // Where the kernel cannot look at sockets of TCP at all, it says of each that there is none.
        let nothing = |it: &mut Writer| write_request(it, NO_STATES, NOBODY, NOBODY, ANY_COOKIE);
        channel
            .dump::<()>(SOCK_DIAG_BY_FAMILY, 1, nothing, |_, _| {})
            .map_err(|source| SockDiagError::Open { source })?;
        Ok(Self { channel })
    }

    /// Destroys the TCP socket with these local and peer addresses (as the program sees them,
    /// before translation): its next read or write fails with `ECONNABORTED`, and its peer gets a
    /// reset. Whether there was one. A socket that speaks IPv4 as `::ffff:a.b.c.d` is found by the
    /// IPv4 addresses. One that listens on that port is not meant.
    pub fn destroy_tcp(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<bool, SockDiagError> {
        let refused = |source| SockDiagError::Refused { local, peer, source };
        let mut found = None;
        let ask = |it: &mut Writer| write_request(it, ALL_STATES, local, peer, ANY_COOKIE);
        let asked = self.channel.ask(SOCK_DIAG_BY_FAMILY, 0, ask, |message| {
            found = Connected::read(message);
        });
        there(asked).map_err(refused)?;
        let Some(socket) = found.filter(|it| it.peer == peer) else { return Ok(false) };
        let this = |it: &mut Writer| write_request(it, ALL_STATES, local, peer, socket.cookie);
        there(self.channel.request(SOCK_DESTROY, 0, this)).map_err(refused)
    }
}

/// A socket that is connected, as `struct inet_diag_msg` tells of it.
pub(crate) struct Connected {
    peer: SocketAddr,
    cookie: [u8; 8],
}

impl Connected {
    /// Reads the answer to a question for one socket. The kernel also answers with who listens on
    /// the port where nobody is connected, and with what is left of a connection that has ended.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let body = message.body;
        let (family, state) = (*body.first()?, *body.get(1)?);
        if message.kind != SOCK_DIAG_BY_FAMILY || [TCP_TIME_WAIT, TCP_LISTEN].contains(&state) {
            return None;
        }
        let port = u16::from_be_bytes(*body.get(6..)?.first_chunk()?);
        let address = if i32::from(family) == libc::AF_INET {
            IpAddr::from(*body.get(24..)?.first_chunk::<4>()?)
        } else {
            IpAddr::from(*body.get(24..)?.first_chunk::<16>()?).to_canonical()
        };
        let cookie = *body.get(44..)?.first_chunk()?;
        Some(Self { peer: SocketAddr::new(address, port), cookie })
    }
}

/// Whether what was asked for was there: it may have gone, or another one be in its place.
fn there(asked: io::Result<()>) -> io::Result<bool> {
    match asked {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Destroys the TCP sockets with these ends, as [`SockDiag::destroy_tcp`] does; gives how many
/// there were.
pub fn destroy_tcp(
    netns: &Netns,
    ends: &[(SocketAddr, SocketAddr)],
) -> Result<usize, SockDiagError> {
    if ends.is_empty() {
        return Ok(0);
    }
    let mut sockets = SockDiag::open(netns)?;
    let mut destroyed = 0;
    for &(local, peer) in ends {
        destroyed += usize::from(sockets.destroy_tcp(local, peer)?);
    }
    Ok(destroyed)
}

/// `struct inet_diag_req_v2`.
fn write_request(
    it: &mut Writer,
    states: u32,
    local: SocketAddr,
    peer: SocketAddr,
    cookie: [u8; 8],
) {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    it.raw(&[u8::try_from(family).unwrap_or_default(), IPPROTO_TCP, 0, 0]);
    it.raw(&states.to_ne_bytes());
    it.raw(&local.port().to_be_bytes());
    it.raw(&peer.port().to_be_bytes());
    it.raw(&padded(local.ip()));
    it.raw(&padded(peer.ip()));
    it.raw(&[0; 4]); // any interface
    it.raw(&cookie);
}

fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

const SOCK_DESTROY: u16 = 21;
const IPPROTO_TCP: u8 = 6;
const ALL_STATES: u32 = u32::MAX;
/// A dump of sockets in none of the states: it looks at none.
const NO_STATES: u32 = 0;
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `INET_DIAG_NOCOOKIE`: whatever the socket's cookie.
const ANY_COOKIE: [u8; 8] = [0xff; 8];
const TCP_TIME_WAIT: u8 = 6;
const TCP_LISTEN: u8 = 10;

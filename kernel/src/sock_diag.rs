//! Destroying the sockets of programs in a namespace, so that a connection to a task that is gone
//! fails at once instead of hanging.
//!
//! Always true here: a socket is named by both its ends, so that no other is hit; one that is not
//! there is no error.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::netlink::wire::Writer;
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
        Ok(Self { channel: opened.map_err(|source| SockDiagError::Open { source })? })
    }

    /// Destroys the TCP socket with these local and peer addresses (as the program sees them,
    /// before translation): its next read or write fails with `ECONNABORTED`, and its peer gets a
    /// reset. Whether there was one. A socket that speaks IPv4 as `::ffff:a.b.c.d` is found by the
    /// IPv4 addresses.
    pub fn destroy_tcp(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<bool, SockDiagError> {
        match self.channel.request(SOCK_DESTROY, 0, |it| write_ends(it, local, peer)) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(SockDiagError::Refused { local, peer, source }),
        }
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
fn write_ends(it: &mut Writer, local: SocketAddr, peer: SocketAddr) {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    it.raw(&[u8::try_from(family).unwrap_or_default(), IPPROTO_TCP, 0, 0]);
    it.raw(&ALL_STATES.to_ne_bytes());
    it.raw(&local.port().to_be_bytes());
    it.raw(&peer.port().to_be_bytes());
    it.raw(&padded(local.ip()));
    it.raw(&padded(peer.ip()));
    it.raw(&[0; 4]); // any interface
    it.raw(&[0xff; 8]); // whatever the socket's cookie
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

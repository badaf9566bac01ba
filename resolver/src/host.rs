//! The host's own listener: where operators ask for `NAME.NETWORK` and for addresses.
//!
//! Always true here: its sockets are made once, before anything else starts, and need no rights.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// Sockets on the host that were bound already.
#[derive(Debug)]
pub struct HostSockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For streams.
    pub tcp: TcpListener,
}

impl HostSockets {
    /// Binds both at `address`.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address)?;
        // Port 0 means the same for both: one that the kernel chooses.
        Ok(Self { udp: UdpSocket::bind(tcp.local_addr()?)?, tcp })
    }

    /// The same sockets once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { udp: self.udp.try_clone()?, tcp: self.tcp.try_clone()? })
    }

    /// As a runtime wants them.
    pub(crate) fn nonblocking(self) -> io::Result<Self> {
        self.udp.set_nonblocking(true)?;
        self.tcp.set_nonblocking(true)?;
        Ok(self)
    }
}

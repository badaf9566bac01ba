//! Connects to a task from the place where its network can be reached.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kernel::socket::SocketError;
use registry::model::Reach;
use tokio::net::{TcpSocket, TcpStream};

use super::Connection;
use crate::live::Endpoint;
use crate::thread::Thread;

/// Why there is no connection to a task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot make a socket for {address}")]
    Socket { address: SocketAddr, source: io::Error },
    #[error("cannot make a socket in the network's namespace")]
    Namespace(#[source] SocketError),
    #[error("cannot connect to {address}")]
    Refused { address: SocketAddr, source: io::Error },
    #[error("cannot connect to {address} within {time:?}")]
    Late { address: SocketAddr, time: Duration },
    #[error("cannot begin HTTP with {address}")]
    Handshake { address: SocketAddr, source: hyper::Error },
    #[error("{address} is on a network that this node is not on")]
    Nowhere { address: SocketAddr },
}

/// A new connection to `endpoint`, within the configured time.
pub(crate) async fn connect(
    thread: &Thread,
    endpoint: &Endpoint,
) -> Result<Connection, ConnectError> {
    let time = thread.config.timeouts.connect;
    let address = endpoint.address;
    let stream = match tokio::time::timeout(time, dial(thread, endpoint)).await {
        Ok(dialled) => dialled?,
        Err(_) => return Err(ConnectError::Late { address, time }),
    };
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Handshake { address, source })?;
    let driver = thread.tasks.spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, %address, "a connection to a task ended");
        }
    });
    Ok(Connection::new(sender, driver.abort_handle()))
}

async fn dial(thread: &Thread, endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
    let address = endpoint.address;
    let socket = match &endpoint.reach {
        Reach::Host => here(address).map_err(|source| ConnectError::Socket { address, source })?,
        Reach::Netns(path) => {
            let made = thread.door.tcp_socket(Some(path.clone()), None, address).await;
            TcpSocket::from_std_stream(made.map_err(ConnectError::Namespace)?)
        }
        Reach::Nowhere => return Err(ConnectError::Nowhere { address }),
    };
    let connected = socket.connect(address).await;
    connected.map_err(|source| ConnectError::Refused { address, source })
}

/// A socket in this process's own namespace, made on this thread: no hop through the door.
fn here(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Bytes that one connection to a task may hold on their way to the client.
const BUFFER: usize = 64 * 1024;

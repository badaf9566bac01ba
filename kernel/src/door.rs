//! Makes sockets inside namespaces for async callers, on one thread of its own.
//!
//! Always true here: the thread is back in its own namespace before it takes the next request;
//! where it cannot come back it ends, and every later request fails with
//! [`SocketError::DoorClosed`] instead of getting a socket in the wrong place. The queue is
//! bounded: callers wait for room. The thread ends with the last [`Door`].

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};

use crate::netns::{Netns, NetnsError};
use crate::socket::{self, SocketError};

/// One long-lived thread that makes sockets inside namespaces for async callers.
#[derive(Clone, Debug)]
pub struct Door {
    requests: mpsc::Sender<Request>,
}

impl Door {
    /// Starts the thread. Its own namespace is the caller's.
    pub fn open() -> Result<Self, NetnsError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let home = Netns::this()?;
        let path = home.path().to_owned();
        std::thread::Builder::new()
            .name("netns-door".to_owned())
            .spawn(move || serve(&home, queue))
            .map_err(|source| NetnsError::Thread { path, source })?;
        Ok(Self { requests })
    }

    /// A non-blocking, unconnected TCP socket, to be connected to `like`, made inside
    /// the namespace at `path`, which must have that cookie where one is given; `None` is this
    /// process's own namespace.
    pub async fn tcp_socket(
        &self,
        path: Option<PathBuf>,
        cookie: Option<u64>,
        like: SocketAddr,
    ) -> Result<TcpStream, SocketError> {
        let (reply, answer) = oneshot::channel();
        let place = Place { path, cookie };
        self.ask(Request { place, address: like, work: Work::Tcp(reply) }, answer).await
    }

    /// A UDP socket connected to `peer`, made inside the namespace at `path`, which must have
    /// that cookie where one is given; `None` is this process's own namespace.
    pub async fn udp_connected(
        &self,
        path: Option<PathBuf>,
        cookie: Option<u64>,
        peer: SocketAddr,
    ) -> Result<UdpSocket, SocketError> {
        let (reply, answer) = oneshot::channel();
        let place = Place { path, cookie };
        self.ask(Request { place, address: peer, work: Work::Udp(reply) }, answer).await
    }

    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, SocketError>>,
    ) -> Result<T, SocketError> {
        let address = request.address;
        if self.requests.send(request).await.is_err() {
            return Err(SocketError::DoorClosed { address });
        }
        answer.await.unwrap_or(Err(SocketError::DoorClosed { address }))
    }
}

/// Sockets asked for and not yet made. Each takes about 30 us: a full queue is 8 ms behind.
const QUEUE: usize = 256;

#[derive(Debug)]
struct Request {
    place: Place,
    address: SocketAddr,
    work: Work,
}

#[derive(Debug)]
struct Place {
    path: Option<PathBuf>,
    cookie: Option<u64>,
}

#[derive(Debug)]
enum Work {
    Tcp(oneshot::Sender<Result<TcpStream, SocketError>>),
    Udp(oneshot::Sender<Result<UdpSocket, SocketError>>),
}

fn serve(home: &Netns, mut queue: mpsc::Receiver<Request>) {
    while let Some(Request { place, address, work }) = queue.blocking_recv() {
        // Whoever asked may have stopped waiting: the socket is then closed here.
        let come_back = match work {
            Work::Tcp(reply) if !reply.is_closed() => {
                let (made, back) =
                    visit(home, &place, "TCP", address, || socket::tcp_socket_here(address));
                drop(reply.send(made));
                back
            }
            Work::Udp(reply) if !reply.is_closed() => {
                let (made, back) =
                    visit(home, &place, "UDP", address, || socket::udp_connected_here(address));
                drop(reply.send(made));
                back
            }
            Work::Tcp(_) | Work::Udp(_) => Ok(()),
        };
        if let Err(error) = come_back {
            tracing::error!(%error, "cannot leave a network namespace; no more sockets are made");
            return;
        }
    }
}

/// Makes something inside a place and comes back; the second value says whether it could.
fn visit<T>(
    home: &Netns,
    place: &Place,
    what: &'static str,
    address: SocketAddr,
    make: impl FnOnce() -> Result<T, SocketError>,
) -> (Result<T, SocketError>, Result<(), NetnsError>) {
    let Some(path) = &place.path else {
        return (make(), Ok(()));
    };
    match enter(path, place.cookie) {
        Ok(()) => (make(), home.enter()),
        // A refusal may come after the entering (a wrong cookie): come back in any case.
        Err(source) => (Err(SocketError::Namespace { what, address, source }), home.enter()),
    }
}

fn enter(path: &Path, cookie: Option<u64>) -> Result<(), NetnsError> {
    let netns = Netns::open(path)?;
    netns.enter()?;
    match cookie {
        Some(expected) => netns.verify_entered(expected),
        None => Ok(()),
    }
}

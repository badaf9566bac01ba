//! One question and one server, in plain DNS; and what over TLS is the same.
//!
//! Invariants
//! - *from the right place*: a server is dialled from the namespace that was meant, and nothing
//!   that a container says makes a dial from the host's;
//! - *unguessable*: each question has an id and a socket of its own, whose port the kernel drew
//!   (RFC 5452), and only a reply to that id and that question counts;
//! - *patient with the network alone*: a datagram that may be lost is sent again; who says no, or
//!   is not there, is believed at once.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kernel::door::Door;
use kernel::socket::SocketError;
use registry::model::{Dial, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until};

use super::tls::Trouble;
use crate::chance;
use crate::wire::encode;
use crate::wire::reply::{self, Reply};
use crate::wire::{Edns, Query};

/// The namespace of a sandbox.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    /// Its path.
    pub(crate) netns: PathBuf,
    /// Its cookie, where known.
    pub(crate) cookie: Option<u64>,
}

/// From where a server is dialled.
#[derive(Clone, Debug)]
pub(crate) enum Dialer {
    /// This process's own namespace.
    Host,
    /// A sandbox's.
    Sandbox(Door, Place),
}

/// Why a server gave no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// No socket in the sandbox's namespace.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The network said no.
    #[error("cannot ask the server: {0}")]
    Io(#[from] io::Error),
    /// A reply over TCP that is none to our question.
    #[error("the server answered another question")]
    Mismatch,
    /// No reply over TLS.
    #[error(transparent)]
    Tls(#[from] Arc<Trouble>),
}

impl Dialer {
    /// The dialer for servers of a sandbox that are dialled from `dial`.
    pub(crate) fn new(dial: Dial, door: &Door, place: &Place) -> Self {
        match dial {
            Dial::Host => Self::Host,
            Dial::Sandbox => Self::Sandbox(door.clone(), place.clone()),
        }
    }

    async fn udp(&self, server: SocketAddr) -> Result<UdpSocket, AskError> {
        Ok(match self {
            Self::Host => {
                let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(server).await?;
                socket
            }
            Self::Sandbox(door, Place { netns, cookie }) => {
                let socket = door.udp_connected(Some(netns.clone()), *cookie, server).await?;
                UdpSocket::from_std(socket)?
            }
        })
    }

    /// A connection to `server`.
    pub(crate) async fn tcp(&self, server: SocketAddr) -> Result<TcpStream, AskError> {
        Ok(match self {
            Self::Host => {
                let stream = TcpStream::connect(server).await?;
                stream.set_nodelay(true)?; // a second question does not wait for an acknowledgement
                stream
            }
            Self::Sandbox(door, Place { netns, cookie }) => {
                let socket = door.tcp_socket(Some(netns.clone()), *cookie, server).await?;
                TcpSocket::from_std_stream(socket).connect(server).await?
            }
        })
    }
}

/// Asks `server` over UDP and waits for the reply that matches, for as long as it is polled.
pub(crate) async fn ask_udp(
    door: &Door,
    place: &Place,
    server: Upstream,
    query: &Query,
    edns: Option<Edns>,
) -> Result<Reply, AskError> {
    let dialer = Dialer::new(server.dial, door, place);
    udp(&dialer, server.address, query, edns).await.map(|(reply, _)| reply)
}

/// The same, with the time that it took; `None`: it was asked more than once.
pub(crate) async fn udp(
    dialer: &Dialer,
    server: SocketAddr,
    query: &Query,
    edns: Option<Edns>,
) -> Result<(Reply, Option<Duration>), AskError> {
    let socket = dialer.udp(server).await?;
    let id = query_id()?;
    let octets = encode::query(query, id, edns);
    let begun = Instant::now();
    socket.send(&octets).await?;
    let mut again = RESEND.into_iter();
    let mut next = again.next();
    loop {
        let due = sleep_until(begun + next.unwrap_or(NEVER));
        tokio::select! {
            // A port where nobody listens makes the socket ready for an error, and for nothing else.
            ready = socket.ready(Interest::READABLE | Interest::ERROR) => {
                if ready?.is_error() && refused(&socket)? {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
                }
                match receive(&socket, query, id) {
                    Ok(Some(reply)) => {
                        let first = next == RESEND.first().copied();
                        return Ok((reply, first.then(|| begun.elapsed())));
                    }
                    // Nobody listens there.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        return Err(error.into());
                    }
                    // Not the reply to this: as if it had not come. Other errors of ICMP can be
                    // anybody's invention.
                    Ok(None) | Err(_) => {}
                }
            }
            () = due => {
                socket.send(&octets).await?;
                next = again.next();
            }
        }
    }
}

/// Asks `server` over a TCP connection for this question alone.
pub(crate) async fn tcp(
    dialer: &Dialer,
    server: SocketAddr,
    query: &Query,
    edns: Option<Edns>,
) -> Result<Reply, AskError> {
    let mut stream = dialer.tcp(server).await?;
    let id = query_id()?;
    stream.write_all(&framed(query, id, edns)).await?;
    let length = stream.read_u16().await?;
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await?;
    reply::matching(octets, query, id).ok_or(AskError::Mismatch)
}

/// A question as it goes over a stream (RFC 1035 section 4.2.2).
pub(crate) fn framed(query: &Query, id: u16, edns: Option<Edns>) -> Vec<u8> {
    with_length(&encode::query(query, id, edns))
}

/// The same as it goes over an encrypted stream: of one of few lengths.
pub(crate) fn framed_padded(query: &Query, id: u16, edns: Option<Edns>) -> Vec<u8> {
    with_length(&encode::padded_query(query, id, edns))
}

fn with_length(question: &[u8]) -> Vec<u8> {
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX); // 384 octets at most
    [&length.to_be_bytes(), question].concat()
}

/// An id that nobody can guess.
pub(crate) fn query_id() -> io::Result<u16> {
    let [high, low, ..] = chance::unpredictable()?.to_be_bytes();
    Ok(u16::from_be_bytes([high, low]))
}

/// Whether the kernel was told that nobody listens there. Other errors of ICMP can be anybody's
/// invention, and are forgotten.
fn refused(socket: &UdpSocket) -> io::Result<bool> {
    let told = socket.try_io(Interest::ERROR, || {
        socket.take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    });
    match told {
        Ok(error) => Ok(error.kind() == io::ErrorKind::ConnectionRefused),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn receive(socket: &UdpSocket, query: &Query, id: u16) -> io::Result<Option<Reply>> {
    let mut buffer = [0; RECEIVE];
    match socket.try_recv(&mut buffer) {
        Ok(length) => {
            Ok(buffer.get(..length).and_then(|octets| reply::matching(octets, query, id)))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// A datagram that got no answer so long is sent again: above any round trip that is worth having.
const RESEND: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(2500)];
/// Beyond every deadline.
const NEVER: Duration = Duration::from_secs(60);
/// What we take in one datagram from servers, who were told less.
const RECEIVE: usize = 4096;

#[cfg(test)]
mod tests {
    use kernel::netns::{Netns, NetnsError};

    use super::*;
    use crate::name::Name;
    use crate::wire::Kind;

    #[tokio::test]
    async fn no_server_is_dialled_from_a_namespace_that_took_the_sandboxs_place() {
        let door = Door::open().unwrap();
        let other = Netns::fresh().unwrap();
        let cookie = Some(other.cookie().unwrap() + 1);
        let place = Place { netns: other.path().to_owned(), cookie };
        let server = "127.0.0.1:53".parse().unwrap();
        let dialer = Dialer::new(Dial::Sandbox, &door, &place);
        let query = Query::plain(Name::from_text("example.com").unwrap(), Kind::A);
        let refused = [
            udp(&dialer, server, &query, None).await.unwrap_err(),
            tcp(&dialer, server, &query, None).await.unwrap_err(),
        ];
        for error in refused {
            let AskError::Socket(SocketError::Namespace { source, .. }) = error else {
                panic!("{error:?}")
            };
            assert!(matches!(source, NetnsError::Replaced { .. }), "{source:?}");
        }
    }
}

//! Asks the servers of a sandbox what the registry does not know.
//!
//! Invariants
//! - *from the right place*: a server is dialled from the namespace that the plan names, and
//!   nothing that a container says makes a dial from the host's;
//! - *unguessable*: each question has an id and a socket of its own, whose port the kernel drew
//!   (RFC 5452), and only a reply to that id and that question counts;
//! - *bounded*: two seconds a server, four and a half in all, so that a client that waits five
//!   gets an answer.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kernel::door::Door;
use kernel::socket::SocketError;
use registry::model::{Dial, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::answer::Reason;
use crate::chance;
use crate::upstream::Server;
use crate::wire::encode::{self, OUR_UDP};
use crate::wire::reply::{self, Reply};
use crate::wire::{Edns, Query, Rcode, Recursion, Transport};

/// The namespace of a sandbox.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Its path.
    pub(crate) netns: PathBuf,
    /// Its cookie, where known.
    pub(crate) cookie: Option<u64>,
}

/// The reply to `query` that the best of `servers` gave; SERVFAIL where none gave any.
pub(crate) async fn forward(
    door: &Door,
    place: &Place,
    servers: &[Server],
    query: &Query,
    transport: Transport,
) -> Vec<u8> {
    let deadline = Instant::now() + BUDGET;
    let mut second_best = None;
    for server in servers.iter().take(MAX_SERVERS) {
        let until = deadline.min(Instant::now() + PER_SERVER);
        let upstream = Upstream { address: server.address, dial: server.dial };
        match timeout_at(until, ask(door, place, upstream, query, transport)).await {
            Ok(Ok(reply)) if reply.code == Rcode::NOERROR || reply.code == Rcode::NXDOMAIN => {
                return reply.for_client(query, transport);
            }
            Ok(Ok(reply)) => second_best = second_best.or(Some(reply)),
            Ok(Err(error)) => {
                tracing::debug!(server = %server.address, %error, "upstream server not asked");
            }
            Err(_) => tracing::debug!(server = %server.address, "upstream server silent"),
        }
    }
    match second_best {
        Some(reply) => reply.for_client(query, transport),
        None => encode::refusal(query, Rcode::SERVFAIL, Reason::Unreachable, Recursion::Offered),
    }
}

/// Sends `octets` to `server` over UDP and waits for the reply that matches.
pub(crate) async fn ask_udp(
    door: &Door,
    place: &Place,
    server: Upstream,
    query: &Query,
    edns: Option<Edns>,
) -> Result<Reply, AskError> {
    let socket = match server.dial {
        Dial::Host => {
            let any = if server.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(server.address).await?;
            socket
        }
        Dial::Sandbox => {
            let path = Some(place.netns.clone());
            UdpSocket::from_std(door.udp_connected(path, place.cookie, server.address).await?)?
        }
    };
    let id = query_id()?;
    socket.send(&encode::query(query, id, edns)).await?;
    loop {
        socket.readable().await?;
        match receive(&socket, query, id) {
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) => {} // not the reply to this: it is as if it had not come
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
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
}

/// One server may take this long: most resolvers retry within it, and glibc waits five in all.
const PER_SERVER: Duration = Duration::from_secs(2);
/// All of it must end before the client's usual five seconds.
const BUDGET: Duration = Duration::from_millis(4500);
/// As resolv.conf has them (MAXNS).
const MAX_SERVERS: usize = 3;
/// What we take in one datagram from servers, who were told [`OUR_UDP`].
const RECEIVE: usize = 4096;

async fn ask(
    door: &Door,
    place: &Place,
    server: Upstream,
    query: &Query,
    transport: Transport,
) -> Result<Reply, AskError> {
    let mut edns = query.edns.map(|it| Edns { size: OUR_UDP, ..it });
    let mut reply = ask_udp(door, place, server, query, edns).await?;
    if reply.code == Rcode::FORMERR && edns.is_some() {
        // A server from before EDNS (RFC 6891 section 7).
        edns = None;
        reply = ask_udp(door, place, server, query, edns).await?;
    }
    if !reply.truncated {
        return Ok(reply);
    }
    let whole = timeout(PER_SERVER, ask_tcp(door, place, server, query, edns)).await;
    match (whole, transport) {
        (Ok(Ok(whole)), _) => Ok(whole),
        // The client may have better luck over TCP; who came by TCP has nothing else to try.
        (Ok(Err(_)) | Err(_), Transport::Udp) => Ok(reply),
        (Ok(Err(error)), Transport::Tcp) => Err(error),
        (Err(elapsed), Transport::Tcp) => Err(io::Error::from(elapsed).into()),
    }
}

fn receive(socket: &UdpSocket, query: &Query, id: u16) -> io::Result<Option<Reply>> {
    let mut buffer = [0; RECEIVE];
    let length = socket.try_recv(&mut buffer)?;
    Ok(buffer.get(..length).and_then(|octets| reply::matching(octets, query, id)))
}

async fn ask_tcp(
    door: &Door,
    place: &Place,
    server: Upstream,
    query: &Query,
    edns: Option<Edns>,
) -> Result<Reply, AskError> {
    let mut stream = connect(door, place, server.dial, server.address).await?;
    let id = query_id()?;
    let question = encode::query(query, id, edns);
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX); // a name and 27 octets
    stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat()).await?;
    let length = stream.read_u16().await?;
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await?;
    reply::matching(&octets, query, id).ok_or(AskError::Mismatch)
}

async fn connect(
    door: &Door,
    place: &Place,
    dial: Dial,
    server: SocketAddr,
) -> Result<TcpStream, AskError> {
    Ok(match dial {
        Dial::Host => TcpStream::connect(server).await?,
        Dial::Sandbox => {
            let socket = door.tcp_socket(Some(place.netns.clone()), place.cookie, server).await?;
            TcpSocket::from_std_stream(socket).connect(server).await?
        }
    })
}

fn query_id() -> io::Result<u16> {
    let [high, low, ..] = chance::unpredictable()?.to_be_bytes();
    Ok(u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use kernel::netns::{Netns, NetnsError};

    use super::*;

    #[tokio::test]
    async fn no_server_is_dialled_from_a_namespace_that_took_the_sandboxs_place() {
        let door = Door::open().unwrap();
        let other = Netns::fresh().unwrap();
        let cookie = Some(other.cookie().unwrap() + 1);
        let place = Place { netns: other.path().to_owned(), cookie };
        let server = Upstream { address: "127.0.0.1:53".parse().unwrap(), dial: Dial::Sandbox };
        let name = crate::name::Name::from_text("example.com").unwrap();
        let query = Query {
            id: 1,
            recursion_desired: true,
            checking_disabled: false,
            authentic_data: false,
            name,
            kind: crate::wire::Kind::A,
            class: crate::wire::Class::IN,
            edns: None,
        };
        let refused = [
            ask_udp(&door, &place, server, &query, None).await.unwrap_err(),
            ask_tcp(&door, &place, server, &query, None).await.unwrap_err(),
        ];
        for error in refused {
            let AskError::Socket(SocketError::Namespace { source, .. }) = error else {
                panic!("{error:?}")
            };
            assert!(matches!(source, NetnsError::Replaced { .. }), "{source:?}");
        }
    }
}

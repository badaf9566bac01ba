//! One probe: a socket in the right namespace, a connection, and for HTTP a request and a status.
//!
//! Invariants
//! - *a limit*: a probe ends within its check's time-out, and [`FOR_A_SOCKET`] for the socket;
//! - *whose fault*: only what the task did or left undone is a failure; a namespace that cannot be
//!   entered, a missing route or a full table of descriptors says nothing about it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use kernel::door::Door;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::http::{self, Answer};
use super::targets::{Place, Target};
use super::verdict::Finding;
use registry::balance_spec::Probe;

/// How long the thread that makes sockets may take; it usually needs a ten-thousandth of this.
const FOR_A_SOCKET: Duration = Duration::from_secs(5);

/// Probes `target` once.
pub(super) async fn probe(door: &Door, target: &Target) -> Finding {
    let path = match &target.place {
        Place::Host => None,
        Place::Netns(path) => Some(path.clone()),
    };
    let made = timeout(FOR_A_SOCKET, door.tcp_socket(path, None, target.address)).await;
    let socket = match made {
        Ok(Ok(stream)) => TcpSocket::from_std_stream(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "no socket for a probe");
            return Finding::Unknown;
        }
        Err(_elapsed) => return Finding::Unknown,
    };
    match timeout(target.check.timeout, ask(socket, target)).await {
        Ok(finding) => finding,
        Err(_elapsed) => Finding::Failed(format!("no answer within {:?}", target.check.timeout)),
    }
}

async fn ask(socket: TcpSocket, target: &Target) -> Finding {
    let address = target.address;
    let mut stream = match socket.connect(address).await {
        Ok(stream) => stream,
        Err(error) => return connecting(&error),
    };
    let Probe::Http { path, host, .. } = &target.check.probe else { return Finding::Passed };
    match exchange(&mut stream, path, host.as_deref(), address).await {
        Ok(Answer::Status(200..=399)) => Finding::Passed,
        Ok(Answer::Status(code)) => Finding::Failed(format!("it answered {code}")),
        Ok(Answer::Strange) => Finding::Failed("what it answered is not HTTP/1".to_owned()),
        Ok(Answer::Unfinished) => Finding::Failed("it hung up before it answered".to_owned()),
        Err(error) => Finding::Failed(said(&error)),
    }
}

async fn exchange(
    stream: &mut TcpStream,
    path: &str,
    host: Option<&str>,
    address: SocketAddr,
) -> io::Result<Answer> {
    stream.write_all(http::request(path, host, address).as_bytes()).await?;
    let mut octets = Vec::with_capacity(http::LONGEST_LINE);
    loop {
        let read = stream.read_buf(&mut octets).await?;
        let answer = http::status(&octets);
        if read == 0 || answer != Answer::Unfinished {
            return Ok(answer);
        }
    }
}

/// What a refused connection says about the task.
fn connecting(error: &io::Error) -> Finding {
    let its_fault = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    );
    if its_fault {
        return Finding::Failed(said(error));
    }
    tracing::debug!(%error, "a probe could not be made");
    Finding::Unknown
}

/// The system's words, without its number.
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

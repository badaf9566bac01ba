//! Asks a running portolan over its admin socket. Bounded in time and size.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no portolan answers on {socket} ({source}); start one with `portolan up`, or name its \
         socket in PORTOLAN_SOCKET"
    )]
    Absent {
        /// The socket's path.
        socket: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// This user may not ask.
    #[error("you may not ask the portolan on {socket}: use sudo, or join the group `portolan`")]
    Denied {
        /// The socket's path.
        socket: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// It did not answer properly.
    #[error("portolan on {socket} does not answer as it should: {reason}")]
    Broken {
        /// The socket's path.
        socket: PathBuf,
        /// What it did.
        reason: String,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

const PATIENCE: Duration = Duration::from_secs(10);
/// Where namespaces are looked into.
const LONG_PATIENCE: Duration = Duration::from_secs(110);
/// A registry of 10,000 services in JSON is a tenth of this.
const MAX_ANSWER: usize = 256 << 20;

/// `GET path` of the portolan behind `socket`, from a program that has no runtime.
pub fn get(socket: &Path, path: &str) -> Result<Value, ClientError> {
    ask(socket, Method::GET, path, PATIENCE)
}

/// `GET path` where working the answer out takes its time.
pub fn get_patiently(socket: &Path, path: &str) -> Result<Value, ClientError> {
    ask(socket, Method::GET, path, LONG_PATIENCE)
}

/// `POST path`, with nothing in it: what changes something.
pub fn post(socket: &Path, path: &str) -> Result<Value, ClientError> {
    ask(socket, Method::POST, path, PATIENCE)
}

fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    patience: Duration,
) -> Result<Value, ClientError> {
    let broken = |reason: String| ClientError::Broken { socket: socket.to_owned(), reason };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken(error.to_string()))?;
    let absent = |source: std::io::Error| {
        let socket = socket.to_owned();
        if source.kind() == ErrorKind::PermissionDenied {
            ClientError::Denied { socket, source }
        } else {
            ClientError::Absent { socket, source }
        }
    };
    let stream = runtime.block_on(UnixStream::connect(socket)).map_err(absent)?;
    let (refused, body) = runtime
        .block_on(async { timeout(patience, exchange(stream, method, path)).await })
        .map_err(|_elapsed| broken(format!("no answer within {} s", patience.as_secs())))?
        .map_err(|error| broken(error.to_string()))?;
    let value: Value = serde_json::from_slice(&body).map_err(|error| broken(error.to_string()))?;
    if refused {
        let said = value.get("error").and_then(Value::as_str).unwrap_or("no reason given");
        return Err(ClientError::Refused(said.to_owned()));
    }
    Ok(value)
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
) -> Result<(bool, Bytes), Failure> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder().method(method).uri(path).header("host", "portolan");
    let request = request.body(Full::<Bytes>::default())?;
    let ask = async {
        let response = sender.send_request(request).await?;
        let refused = !response.status().is_success();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?;
        Ok((refused, body.to_bytes()))
    };
    let (answer, _connection) = futures_util::future::join(ask, connection).await;
    answer
}

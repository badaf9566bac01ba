//! What can go wrong between us and the engine, as one sentence each with what to do about it.

use std::error::Error;
use std::io;

/// Why the engine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The endpoint is not one that this source understands.
    #[error(
        "the engine's endpoint `{endpoint}` is none of unix://PATH, tcp://HOST:PORT, \
         http://HOST:PORT; correct sources.docker.endpoint"
    )]
    Endpoint {
        /// As configured.
        endpoint: String,
    },
    /// Nothing listens there.
    #[error(
        "no Docker engine answers at `{endpoint}`; is dockerd running, and is \
         sources.docker.endpoint right?"
    )]
    Absent {
        /// As configured.
        endpoint: String,
    },
    /// The socket is there, but not for us.
    #[error(
        "no permission to talk to the Docker engine at `{endpoint}`; run as root or as a member \
         of the group that owns the socket"
    )]
    Denied {
        /// As configured.
        endpoint: String,
    },
    /// The engine is older than what we can read.
    #[error(
        "the engine speaks API {found}, older than 1.41 (Docker 20.10), the oldest supported; \
         upgrade it"
    )]
    TooOld {
        /// The engine's newest API version.
        found: String,
    },
    /// A request was not answered in time.
    #[error(
        "the engine did not answer `{request}` within {seconds} s; is it overloaded or hanging? \
         its log may say"
    )]
    Slow {
        /// What was asked.
        request: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The engine answered, but with an error.
    #[error("the engine answered `{request}` with status {status}: {message}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The answer cannot be understood.
    #[error(
        "the engine's answer to `{request}` cannot be understood; please report it with the \
         engine's version"
    )]
    Unreadable {
        /// What was asked.
        request: &'static str,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The connection broke.
    #[error("the connection to the engine broke during `{request}`; it is tried again")]
    Broken {
        /// What was asked.
        request: &'static str,
        /// What happened to it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The engine ended the stream of events: it is stopping or restarting.
    #[error("the engine ended its stream of events; is it restarting? it is tried again")]
    Ended,
}

impl EngineError {
    /// The engine says that the thing asked for does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The engine says that this node is no manager (any more), or cannot act as one.
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Refused { status: 503, .. })
    }

    /// Only this one answer is at fault; asking again gives the same.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable { .. })
    }

    /// What happened to `request`, from whatever the transport reports.
    pub(crate) fn from_transport(
        endpoint: &str,
        request: &'static str,
        source: Box<dyn Error + Send + Sync>,
    ) -> Self {
        match io_kind(&*source) {
            Some(io::ErrorKind::PermissionDenied) => Self::Denied { endpoint: endpoint.to_owned() },
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Self::Absent { endpoint: endpoint.to_owned() }
            }
            Some(_) | None => Self::Broken { request, source },
        }
    }
}

/// The kind of the first I/O error in a chain of causes.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_socket_and_a_forbidden_one_are_told_apart() {
        let endpoint = "unix:///run/docker.sock";
        let of = |kind: io::ErrorKind| {
            EngineError::from_transport(endpoint, "GET /info", Box::new(io::Error::from(kind)))
                .to_string()
        };
        assert!(of(io::ErrorKind::NotFound).starts_with("no Docker engine answers at `unix://"));
        assert!(of(io::ErrorKind::PermissionDenied).contains("run as root"));
        assert!(of(io::ErrorKind::UnexpectedEof).contains("broke during `GET /info`"));
    }
}

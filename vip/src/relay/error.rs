//! What came of applying a plan, and why some of it could not be done.
//!
//! Always true here: an error names what was attempted, and its remedy says what to do.

use std::io;

use kernel::netns::NetnsError;
use kernel::nft::NftError;
use kernel::socket::SocketError;

/// What came of applying a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many things changed.
    pub changes: usize,
    /// What could not be done; the rest was.
    pub failures: Vec<Failure>,
}

/// Something that could not be done.
#[derive(Debug)]
pub struct Failure {
    /// Where: an entrance, or a place.
    pub subject: String,
    /// Why.
    pub error: RelayError,
}

/// Why something is not relayed.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Place(#[from] NetnsError),
    /// Nobody can listen there.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Clients cannot be led to our port.
    #[error("cannot redirect clients to the port where they are served")]
    Redirect(#[from] NftError),
    /// Serving threads do not start, or have ended.
    #[error("cannot run the threads that relay")]
    Thread(#[source] io::Error),
    /// There is no room.
    #[error("there are {most} entrances already")]
    TooMany {
        /// The limit.
        most: usize,
    },
}

impl RelayError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Place(error) => error.remedy(),
            Self::Socket(error) => error.remedy(),
            Self::Redirect(error) => error.remedy(),
            Self::Thread(_) => Some("raise the limit of threads (ulimit -u, pids.max)"),
            Self::TooMany { .. } => Some("name fewer ports with `portolan.vip.ports`"),
        }
    }
}

//! What goes wrong with a server that is asked over TLS, and what the operator can do about it.
//!
//! Always true here: two troubles that call for the same remedy are alike, so that a log can tell
//! each once.

use std::io;
use std::mem::{Discriminant, discriminant};

use rustls::CertificateError;

use crate::upstream::exchange::AskError;

/// Why a server gave no reply over TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// No connection.
    #[error(transparent)]
    Dial(Box<AskError>),
    /// None in time.
    #[error("no connection within the time for one")]
    Slow,
    /// It is not who it should be.
    #[error("its certificate is not accepted: {0}")]
    Certificate(CertificateError),
    /// It does not speak TLS, or not ours.
    #[error("no TLS with it: {0}")]
    Handshake(#[source] io::Error),
    /// The connection ended before the answer.
    #[error("it closed the connection, or fell silent on it")]
    Closed,
    /// A server for which there is no way over TLS.
    #[error("it cannot be asked over TLS")]
    NoWay,
}

impl Trouble {
    /// What a handshake that failed with `error` means.
    pub(crate) fn of_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|it| it.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(refused)) => Self::Certificate(refused.clone()),
            _ => Self::Handshake(error),
        }
    }

    /// What can be done; `None`: nothing, it may pass.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Certificate(CertificateError::UnknownIssuer) => {
                Some("name the file of its authority's certificate in `dns.tls_ca`")
            }
            Self::Certificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Some("write the name that its certificate is for behind `#`"),
            Self::Certificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Some("have its certificate renewed, or set this machine's clock"),
            Self::Certificate(_) => Some("have its certificate replaced"),
            Self::Handshake(_) => Some("see whether it serves DNS over TLS at this port"),
            Self::Dial(_) | Self::Slow | Self::Closed | Self::NoWay => None,
        }
    }

    /// What troubles that are alike have in common.
    pub(crate) fn likeness(&self) -> Likeness {
        let refused = match self {
            Self::Certificate(refused) => Some(discriminant(refused)),
            Self::Dial(_) | Self::Slow | Self::Handshake(_) | Self::Closed | Self::NoWay => None,
        };
        Likeness(discriminant(self), refused)
    }
}

/// What [`Trouble::likeness`] gives: times and numbers in a text differ, these do not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Likeness(Discriminant<Trouble>, Option<Discriminant<CertificateError>>);

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
    #[error("its certificate is not accepted: {}", why(.0))]
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

/// Why it is not, in words where rustls has none.
fn why(refused: &CertificateError) -> String {
    if *refused == CertificateError::UnknownIssuer {
        return "nobody who is trusted here has signed it".to_owned();
    }
    refused.to_string()
}

/// What [`Trouble::likeness`] gives: times and numbers in a text differ, these do not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Likeness(Discriminant<Trouble>, Option<Discriminant<CertificateError>>);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

    use super::*;

    fn expired(after: u64) -> Trouble {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let refused =
            CertificateError::ExpiredContext { time: at(100 + after), not_after: at(100) };
        let refused = rustls::Error::InvalidCertificate(refused);
        Trouble::of_handshake(io::Error::new(io::ErrorKind::InvalidData, refused))
    }

    #[test]
    fn a_certificate_that_expired_is_one_trouble_however_long_ago() {
        assert_eq!(expired(1).likeness(), expired(2).likeness());
        assert_ne!(expired(1).to_string(), expired(2).to_string());
        let stranger = Trouble::Certificate(CertificateError::UnknownIssuer);
        assert_ne!(expired(1).likeness(), stranger.likeness());
        assert_ne!(stranger.likeness(), Trouble::Closed.likeness());
    }

    #[test]
    fn what_somebody_can_mend_comes_with_how_and_what_may_pass_is_not_told() {
        let stranger = Trouble::Certificate(CertificateError::UnknownIssuer);
        let told = "its certificate is not accepted: nobody who is trusted here has signed it";
        assert_eq!(stranger.to_string(), told);
        assert!(expired(1).remedy().is_some_and(|it| it.contains("clock")));
        let reset = Trouble::of_handshake(io::ErrorKind::ConnectionReset.into());
        assert!(reset.remedy().is_some());
        assert_eq!([Trouble::Slow, Trouble::Closed].map(|it| it.remedy()), [None, None]);
    }
}

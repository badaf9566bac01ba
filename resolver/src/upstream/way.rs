//! How one server is asked: in plain DNS from some namespace, or over TLS from the host.
//!
//! Always true here: what is to be asked over TLS is never asked in clear.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::exchange::{AskError, Dialer, tcp, udp};
use super::server::{Protocol, Server};
use super::tls::line::Line;
use super::tls::{Lines, Trouble};
use crate::wire::encode::OUR_UDP;
use crate::wire::reply::Reply;
use crate::wire::{Edns, Query};

/// How one server is asked.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// Over UDP, and TCP for what does not fit.
    Plain(Dialer, SocketAddr),
    /// Over TLS; `None`: there is no way.
    Tls(Option<Arc<Line>>),
}

impl Way {
    /// The way to `server`, which is dialled by `dialer`.
    pub(crate) fn to(server: &Server, dialer: Dialer, lines: &Lines) -> Self {
        match server.protocol {
            Protocol::Plain => Self::Plain(dialer, server.address),
            Protocol::Tls(_) => Self::Tls(lines.to(server).cloned()),
        }
    }

    /// The EDNS with which a question is asked that came with `edns`: over TLS there is always some,
    /// because it carries the padding.
    pub(crate) fn edns(&self, edns: Option<Edns>) -> Option<Edns> {
        let bare = match self {
            Self::Plain(..) => None,
            Self::Tls(_) => Some(Edns { size: OUR_UDP, dnssec_ok: false }),
        };
        edns.map(|it| Edns { size: OUR_UDP, ..it }).or(bare)
    }

    /// Asks, and waits for the reply that matches for as long as it is polled; with the time that it
    /// took, where that is the time of one round trip.
    pub(crate) async fn ask(
        &self,
        query: &Query,
        edns: Option<Edns>,
    ) -> Result<(Reply, Option<Duration>), AskError> {
        match self {
            Self::Plain(dialer, server) => udp(dialer, *server, query, edns).await,
            Self::Tls(Some(line)) => match line.ask(query, edns).await? {
                // No longer way is left (RFC 7766 section 8).
                (cut, _) if cut.truncated => Err(AskError::Mismatch),
                whole => Ok(whole),
            },
            Self::Tls(None) => Err(Arc::new(Trouble::NoWay).into()),
        }
    }

    /// Asks where longer replies fit; the truncated one, where there is no answer from there: that it
    /// was cut is an answer too, by which the client may do better.
    pub(crate) async fn whole(&self, cut: Reply, query: &Query, edns: Option<Edns>) -> Reply {
        let Self::Plain(dialer, server) = self else { return cut };
        match timeout(WHOLE, tcp(dialer, *server, query, edns)).await {
            Ok(Ok(whole)) => whole,
            Ok(Err(_)) | Err(_) => cut,
        }
    }
}

/// What does not fit a datagram comes over TCP within this.
const WHOLE: Duration = Duration::from_secs(2);

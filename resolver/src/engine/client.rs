//! Asks engines' own resolvers on behalf of others: who wants to know what the engine thinks of a
//! service.
//!
//! Invariants
//! - *not portolan's word*: it listens on the same address, and its answers are never taken for the
//!   engine's. Ours are authoritative (AA), the engine's never are;
//! - *all or nothing*: an answer that the engine cut short is none;
//! - *the namespace vouches*: whoever listens there on 127.0.0.11 is taken for the engine. What is
//!   to be believed for others than a container itself is asked in a namespace of the engine's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use kernel::door::Door;
use kernel::netns::NetnsError;
use registry::model::{Dial, Upstream};
use tokio::time::timeout;

use super::ENGINE_UDP;
use super::ports::{ports_in, tcp_ports_in};
use crate::compile::SANDBOX_ADDRESS;
use crate::name::Name;
use crate::upstream::exchange::{Dialer, Place, ask_udp, tcp};
use crate::wire::reply::Reply;
use crate::wire::{Edns, Kind, Query, Rcode};

/// Asks the engine's resolver in any namespace.
#[derive(Clone, Debug)]
pub struct EngineClient {
    door: Door,
}

impl EngineClient {
    /// Starts the thread that makes its sockets.
    pub fn open() -> Result<Self, NetnsError> {
        Ok(Self { door: Door::open()? })
    }

    /// The IPv4 addresses that the engine gives for `name` in the namespace at `path`. `None`: no
    /// engine there, no whole answer within half a second, or an answer other than NOERROR.
    pub async fn addresses(&self, path: &Path, name: &str) -> Option<Vec<Ipv4Addr>> {
        let place = Place { netns: path.to_owned(), cookie: None };
        let query = Query::plain(Name::from_text(name).ok()?, Kind::A); // its number is made when it is sent
        timeout(WAIT, self.ask(&place, &query)).await.ok()?
    }

    async fn ask(&self, place: &Place, query: &Query) -> Option<Vec<Ipv4Addr>> {
        let edns = Some(Edns { size: ENGINE_UDP, dnssec_ok: false });
        let ports = ports_in(place, None).await;
        let each = WAIT / u32::try_from(ports.len().max(1)).ok()?;
        for port in ports {
            let address = SocketAddr::from((SANDBOX_ADDRESS, port));
            let server = Upstream { address, dial: Dial::Sandbox };
            let asking = ask_udp(&self.door, place, server, query, edns);
            match timeout(each, asking).await {
                Ok(Ok(reply)) if reply.authoritative() => {} // ourselves
                Ok(Ok(reply)) if reply.truncated => return self.ask_for_all(place, query).await,
                Ok(Ok(reply)) => return said(&reply),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        None
    }

    /// Over TCP, where the engine listens on another port. It cuts there too, and need not say so.
    async fn ask_for_all(&self, place: &Place, query: &Query) -> Option<Vec<Ipv4Addr>> {
        let dialer = Dialer::new(Dial::Sandbox, &self.door, place);
        for port in tcp_ports_in(place).await {
            match tcp(&dialer, (SANDBOX_ADDRESS, port).into(), query, None).await {
                Ok(reply) if reply.authoritative() => {}
                Ok(reply) if reply.truncated || reply.octets.len() > SURELY_WHOLE => return None,
                Ok(reply) => return said(&reply),
                Err(_) => {}
            }
        }
        None
    }
}

fn said(reply: &Reply) -> Option<Vec<Ipv4Addr>> {
    (reply.code == Rcode::NOERROR).then(|| reply.ipv4_addresses())?
}

/// The engine leaves out what does not fit into 65,534 octets; one record has 400 at most.
const SURELY_WHOLE: usize = 65_000;
/// What the engine knows it says within a millisecond or two.
const WAIT: Duration = Duration::from_millis(450);

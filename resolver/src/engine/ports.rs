//! Finds the engine's own resolver in a namespace: ports on 127.0.0.11 that are not ours.
//!
//! Always true here: however many ask at once, one look is taken, because each reads all sockets
//! of the namespace.

use std::time::Duration;

use kernel::listeners::listeners;
use kernel::netns::{Netns, NetnsError};
use kernel::socket::{SocketError, udp_ports_bound_to};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::compile::SANDBOX_ADDRESS;
use crate::upstream::exchange::Place;

/// The ports of one sandbox, as found last: usually one, the engine's.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Held while looking: whoever waits for it finds what was found.
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    ports: Vec<u16>,
    looked: Option<Instant>,
}

impl Ports {
    /// The ports to ask, `own` left out, looked up anew where none is known.
    pub(super) async fn get(&self, place: &Place, own: u16) -> Vec<u16> {
        let mut found = self.found.lock().await;
        let fresh = found.looked.is_some_and(|it| it.elapsed() < LOOK_AGAIN);
        if found.ports.is_empty() && !fresh {
            let ports = ports_in(place, Some(own)).await;
            *found = Found { ports, looked: Some(Instant::now()) };
        }
        found.ports.clone()
    }

    /// Nobody answers at `ports`: unless others were found meanwhile, they are looked for again.
    pub(super) async fn forget(&self, ports: &[u16]) {
        let mut found = self.found.lock().await;
        if found.ports == ports {
            found.ports.clear();
        }
    }
}

/// The UDP ports of 127.0.0.11 that are taken in a namespace, `own` left out; none where that
/// cannot be told.
pub(super) async fn ports_in(place: &Place, own: Option<u16>) -> Vec<u16> {
    look(place, move |netns| {
        let mut ports = udp_ports_bound_to(netns, SANDBOX_ADDRESS)?;
        ports.retain(|it| Some(*it) != own);
        Ok(ports)
    })
    .await
}

/// The TCP ports on which somebody listens there; none where that cannot be told.
pub(super) async fn tcp_ports_in(place: &Place) -> Vec<u16> {
    look(place, |netns| {
        let all = listeners(netns)?.into_iter();
        let there = all.filter(|it| it.protocol == TCP && it.address == SANDBOX_ADDRESS);
        Ok(there.map(|it| it.port).collect())
    })
    .await
}

async fn look(
    place: &Place,
    find: impl FnOnce(&Netns) -> Result<Vec<u16>, LookError> + Send + 'static,
) -> Vec<u16> {
    let Place { netns, cookie } = place.clone();
    let looking = spawn_blocking(move || find(&Netns::open_checked(&netns, cookie)?));
    match looking.await {
        Ok(Ok(mut ports)) => {
            ports.truncate(MAX_PORTS);
            ports
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "cannot look for the engine's resolver");
            Vec::new()
        }
        Err(error) => {
            tracing::debug!(%error, "the look for the engine's resolver ended early");
            Vec::new()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// Where there was no engine a moment ago, there is none yet.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The number of the protocol (IANA).
const TCP: u8 = 6;
/// A container may bind ports of 127.0.0.11 too; so many are tried, it harms only itself.
const MAX_PORTS: usize = 4;

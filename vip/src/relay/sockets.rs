//! Makes the sockets of entrances, and what leads to them, inside their namespaces.
//!
//! Always true here: namespaces are entered on threads for blocking work, one for each call, and a
//! namespace that is not the one that was meant is not used.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use kernel::listening::{self, Kind, Listening, Spot};
use kernel::netns::{Netns, NetnsError};
use registry::model::Protocol;
use tokio::task::spawn_blocking;

use super::error::RelayError;
use super::plan::{Entrance, Place, Target, Way};
use super::redirect::{Ports, Redirect, forget};

/// What has to stand at an entrance; `None`: nothing.
pub(super) fn spot(entrance: &Entrance, target: &Target, count: usize) -> Option<Spot> {
    let serves = !target.slots.is_empty();
    let address = match entrance.way {
        Way::Bound if !serves => return None,
        Way::Bound => entrance.address,
        Way::Redirected => unspecified(entrance),
    };
    let kind = match (entrance.protocol, serves) {
        (Protocol::Tcp, true) => Kind::Connections,
        (Protocol::Tcp, false) => Kind::NoConnections,
        (Protocol::Udp, true) => Kind::Datagrams,
        (Protocol::Udp, false) => Kind::NoDatagrams,
    };
    Some(Spot { address, kind, count })
}

pub(super) fn is_open(kind: Kind) -> bool {
    matches!(kind, Kind::Connections | Kind::Datagrams)
}

/// Any address of the entrance's family, at a port that the kernel chooses.
fn unspecified(entrance: &Entrance) -> SocketAddr {
    if entrance.address.is_ipv6() {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }
}

pub(super) async fn make(place: Place, spots: Vec<Spot>) -> Vec<Result<Listening, RelayError>> {
    let make = move || match enter(&place) {
        Ok(netns) => {
            let made = listening::open(netns.as_ref(), &spots).into_iter();
            made.map(|it| it.map_err(RelayError::from)).collect()
        }
        Err(error) => vec![Err(error.into())],
    };
    spawn_blocking(make).await.unwrap_or_default()
}

pub(super) async fn redirect(
    place: Place,
    ipv6: bool,
    had: Option<Redirect>,
    ports: Ports,
) -> Result<(Redirect, usize), RelayError> {
    let settle = move || {
        let netns = match enter(&place)? {
            Some(netns) => netns,
            None => Netns::this()?,
        };
        let mut redirect = match had {
            Some(redirect) => redirect,
            None => Redirect::make(&netns, ipv6)?,
        };
        let mut moved = Ports::new();
        let changes = redirect.settle(&ports, &mut moved)?;
        if let Err(error) = forget(&netns, &moved) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, %place, "cannot forget where datagrams went before");
        }
        Ok((redirect, changes))
    };
    let ended = |error| Err(RelayError::Thread(io::Error::other(error)));
    spawn_blocking(settle).await.unwrap_or_else(ended)
}

/// `None`: we are there.
fn enter(place: &Place) -> Result<Option<Netns>, NetnsError> {
    match place {
        Place::Host => Ok(None),
        Place::Netns { path, cookie } => Netns::open_checked(path, *cookie).map(Some),
    }
}

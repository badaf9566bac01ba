//! A namespace's neighbour table, and when it changes: in an overlay network's namespace that is
//! when a task joins or leaves, on whatever node.
//!
//! Always true here: a watch never keeps a namespace much longer than its name: where the path no
//! longer names it, the watch ends within a second. Losing events is no loss: they are hints to
//! look, and a queue that overflowed is one too.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::netlink::wire::{Message, Messages, Writer};
use crate::netlink::{Channel, ROUTE};
use crate::netns::{Netns, NetnsError, still_there};
use crate::route::read_ip;

/// Why a neighbour table cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum NeighbourError {
    /// The namespace could not be entered.
    #[error("cannot watch the neighbours of a network")]
    Namespace(#[from] NetnsError),
    /// The kernel refused to tell.
    #[error("cannot watch the neighbours of the network namespace `{path}`")]
    Refused {
        /// The namespace.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

/// Somebody on a network whose entry was set, not learnt.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Neighbour {
    /// Its address there.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Behind which tunnel's end it is (VXLAN), where that is known.
    pub tunnel: Option<IpAddr>,
}

/// The permanent neighbours in a namespace: in an overlay network's namespace all endpoints of
/// other nodes.
pub fn neighbours(netns: &Netns) -> Result<Vec<Neighbour>, NeighbourError> {
    let refused = |source| NeighbourError::Refused { path: netns.path().to_owned(), source };
    let mut channel = netns.run(|| Channel::open(ROUTE))?.map_err(refused)?;
    let mut list = |family: u8| {
        let request = move |it: &mut Writer| it.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        channel.dump(RTM_GETNEIGH, ENTRIES_MAX, request, |message, found| {
            found.extend(read_entry(message));
        })
    };
    let entries = list(AF_INET).map_err(refused)?;
    let tunnels: BTreeMap<[u8; 6], IpAddr> =
        list(AF_BRIDGE).map_err(refused)?.into_iter().collect();
    let neighbour = |(mac, address): ([u8; 6], IpAddr)| {
        let tunnel = tunnels.get(&mac).copied();
        Neighbour { address, mac, tunnel }
    };
    Ok(entries.into_iter().map(neighbour).collect())
}

/// Reads one message of a dump: a hardware address, and what it belongs to (in a forwarding
/// table: the tunnel's end behind which it is).
pub(crate) fn read_entry(message: &Message<'_>) -> Option<([u8; 6], IpAddr)> {
    let state = message.body.get(NDM_STATE..)?.first_chunk().copied().map(u16::from_ne_bytes)?;
    if message.kind != RTM_NEWNEIGH || state & NUD_PERMANENT == 0 {
        return None;
    }
    let attributes = message.attributes(NDMSG);
    let mac = attributes.get(NDA_LLADDR)?.try_into().ok()?;
    Some((mac, read_ip(attributes.get(NDA_DST)?)?))
}

/// Tells when the neighbour table of a namespace changes (`RTNLGRP_NEIGH`): when an entry that
/// somebody set (permanent) appears or changes, or any entry leaves. What address resolution
/// learns and forgets by itself is not told where the kernel lets it be told apart.
#[derive(Debug)]
pub struct NeighbourWatch {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
    inode: u64,
    look: Interval,
}

impl NeighbourWatch {
    /// Begins to watch; within a tokio runtime.
    pub fn open(path: &Path) -> Result<Self, NeighbourError> {
        let netns = Netns::open(path)?;
        let refused = |source| NeighbourError::Refused { path: path.to_owned(), source };
        let socket = netns.run(subscribe)?.and_then(register).map_err(refused)?;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { socket, path: path.to_owned(), inode: netns.inode(), look })
    }

    /// Waits for the next change; several at once are one. `None`: the namespace is gone, or its
    /// name is, and this watch should be dropped. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Option<()> {
        loop {
            tokio::select! {
                ready = self.socket.readable() => {
                    let Ok(mut ready) = ready else { return None };
                    let changed = drain(self.socket.get_ref());
                    ready.clear_ready();
                    if changed {
                        return Some(());
                    }
                }
                _ = self.look.tick() => {
                    if !still_there(&self.path, self.inode) {
                        return None;
                    }
                }
            }
        }
    }
}

fn subscribe() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, ROUTE)?;
    bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_NEIGH))?;
    Ok(socket)
}

fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "tokio's safe constructor is deprecated as unsound")]
    // SAFETY: the `OwnedFd` owns a valid descriptor, and nothing here replaces or closes it while
    // the `AsyncFd` has it.
    let registered = unsafe { AsyncFd::register(socket) };
    Ok(registered?)
}

/// Reads all that is there, bounded; whether it tells a change.
fn drain(socket: &OwnedFd) -> bool {
    let mut changed = false;
    let mut buffer = Vec::with_capacity(EVENT_BUFFER);
    for _ in 0..EVENTS_AT_ONCE {
        buffer.clear();
        match recv(socket, rustix::buffer::spare_capacity(&mut buffer), RecvFlags::empty()) {
            Ok(_) => changed |= Messages::new(&buffer).any(|message| matters(&message)),
            // Events were lost: something changed.
            Err(rustix::io::Errno::NOBUFS) => changed = true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    changed
}

/// Whether an event tells a change.
pub(crate) fn matters(message: &Message<'_>) -> bool {
    match message.kind {
        RTM_DELNEIGH => true,
        RTM_NEWNEIGH => {
            let state = message.body.get(NDM_STATE..).and_then(|rest| rest.first_chunk());
            state.is_some_and(|it| u16::from_ne_bytes(*it) & NUD_PERMANENT != 0)
        }
        _ => false,
    }
}

/// How long a namespace may be kept after its name is gone.
const LOOK: Duration = Duration::from_secs(1);

/// Bytes of one event; they have about a hundred.
const EVENT_BUFFER: usize = 8 * 1024;

/// Events read before whoever waits is told: more are read the next time.
const EVENTS_AT_ONCE: usize = 256;

/// `RTNLGRP_NEIGH` (3) as a bit.
const RTMGRP_NEIGH: u32 = 1 << 2;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
/// Where `struct ndmsg` has the state.
const NDM_STATE: usize = 8;
const NUD_PERMANENT: u16 = 0x80;
const RTM_GETNEIGH: u16 = 30;
/// Bytes of `struct ndmsg`.
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;

/// More endpoints than an overlay network has.
const ENTRIES_MAX: usize = 65_536;

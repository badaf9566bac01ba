//! Tells when somebody changes how a namespace routes: takes rules or routes of portolan's away,
//! changes its interfaces, or the settings of these.
//!
//! Always true here: losing events is no loss: they are hints to look, and a queue that overflowed
//! is one too. Not all settings are told by the kernel: forwarding and the reverse path filter are.
//! An open watch keeps its namespace.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;

use super::{PROTOCOL, RouteError, refused};
use crate::netlink::ROUTE;
use crate::netlink::wire::{Message, Messages};
use crate::netns::Netns;

/// What is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// Rules and routes of portolan's that go, interfaces, and settings of any of these.
    All,
    /// Settings of all interfaces at once: where there are interfaces and routes by the thousand.
    Settings,
}

/// A subscription to what becomes of a namespace's routing.
#[derive(Debug)]
pub struct RoutingWatch {
    socket: AsyncFd<OwnedFd>,
    told: Told,
}

impl RoutingWatch {
    /// Subscribes; within a tokio runtime.
    pub fn open(netns: &Netns, told: Told) -> Result<Self, RouteError> {
        let failed = refused("watch the routing");
        let socket = netns.run(|| subscribe(told))?.map_err(&failed)?;
        #[expect(unsafe_code, reason = "tokio's safe constructor is deprecated as unsound")]
        // SAFETY: the `OwnedFd` owns a valid descriptor, and nothing here replaces or closes it
        // while the `AsyncFd` has it.
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self { socket: registered.map_err(|it| failed(it.into()))?, told })
    }

    /// Waits for the next change; several at once are one. `None`: the subscription broke, it should
    /// be dropped. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Option<()> {
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            let (changed, empty) = drain(self.socket.get_ref(), self.told)?;
            if empty {
                ready.clear_ready();
            }
            if changed {
                return Some(());
            }
            if !empty {
                // A flood is not read to its end in one go: others share this thread.
                tokio::task::yield_now().await;
            }
        }
    }
}

fn subscribe(told: Told) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, ROUTE)?;
    let groups = match told {
        Told::All => LINK | IPV4_ROUTE | IPV4_RULE | IPV4_NETCONF,
        Told::Settings => IPV4_NETCONF,
    };
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Reads what is there, bounded: whether it tells a change, and whether that was all. `None`: the
/// socket is broken.
fn drain(socket: &OwnedFd, told: Told) -> Option<(bool, bool)> {
    let mut changed = false;
    let mut buffer = Vec::with_capacity(EVENT_BUFFER);
    for _ in 0..EVENTS_AT_ONCE {
        buffer.clear();
        match recv(socket, rustix::buffer::spare_capacity(&mut buffer), RecvFlags::empty()) {
            Ok(_) => changed |= Messages::new(&buffer).any(|it| matters(&it, told)),
            // Events were lost: something changed.
            Err(rustix::io::Errno::NOBUFS) => changed = true,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Some((changed, true)),
            Err(_) => return None,
        }
    }
    Some((changed, false))
}

/// Whether an event tells a change that is asked for.
pub(crate) fn matters(message: &Message<'_>, told: Told) -> bool {
    match message.kind {
        RTM_NEWNETCONF => {
            let attributes = message.attributes(NETCONFMSG);
            let of_all = attributes.ne32(NETCONFA_IFINDEX) == Some(NETCONFA_IFINDEX_ALL);
            message.body.first() == Some(&AF_INET) && (told == Told::All || of_all)
        }
        RTM_NEWLINK | RTM_DELLINK => told == Told::All,
        RTM_DELROUTE => told == Told::All && message.body.get(RTM_PROTOCOL) == Some(&PROTOCOL),
        RTM_DELRULE => {
            let maker = message.attributes(RULE_HEADER).get(FRA_PROTOCOL);
            told == Told::All && maker == Some(&[PROTOCOL])
        }
        _ => false,
    }
}

/// `RTNLGRP_LINK` (1), `RTNLGRP_IPV4_ROUTE` (7), `RTNLGRP_IPV4_RULE` (8) and
/// `RTNLGRP_IPV4_NETCONF` (24) as bits.
const LINK: u32 = 1;
const IPV4_ROUTE: u32 = 1 << 6;
const IPV4_RULE: u32 = 1 << 7;
const IPV4_NETCONF: u32 = 1 << 23;

const AF_INET: u8 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELROUTE: u16 = 25;
const RTM_DELRULE: u16 = 33;
const RTM_NEWNETCONF: u16 = 80;
/// Bytes of `struct netconfmsg`, with what aligns it, and of `struct fib_rule_hdr`.
const NETCONFMSG: usize = 4;
const RULE_HEADER: usize = 12;
/// Where `struct rtmsg` has who made it.
const RTM_PROTOCOL: usize = 5;
const FRA_PROTOCOL: u16 = 21;
const NETCONFA_IFINDEX: u16 = 1;
/// -1.
const NETCONFA_IFINDEX_ALL: u32 = u32::MAX;

/// Bytes of one event; those of interfaces have about two thousand.
const EVENT_BUFFER: usize = 16 * 1024;
/// Datagrams read before others on the thread have their turn.
const EVENTS_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::rule::{self, MarkRule, TableRoute};
    use crate::{link, sysctl};

    async fn is_told(watch: &mut RoutingWatch) -> bool {
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.is_ok()
    }

    /// Nothing waits: what was told comes before what is asked of the same queue now.
    async fn is_silent(watch: &mut RoutingWatch) -> bool {
        tokio::time::timeout(Duration::from_millis(100), watch.changed()).await.is_err()
    }

    #[tokio::test]
    async fn what_somebody_takes_away_or_sets_is_told() {
        let (netns, peer) = (Netns::fresh().unwrap(), Netns::fresh().unwrap());
        link::add_veth(&netns, "eth0", "eth0", &peer).unwrap();
        link::add_address(&netns, "eth0", "10.0.0.7/24".parse().unwrap()).unwrap();
        link::set_up(&netns, "eth0").unwrap();
        link::set_up(&peer, "eth0").unwrap();
        let rule = MarkRule { mark: 0x0030_0000, mask: 0xfff0_0000, table: 70_003, priority: 1000 };
        let device = "eth0".to_owned();
        let route = TableRoute { table: 70_003, gateway: Ipv4Addr::new(10, 0, 0, 3), device };
        rule::add_table_route(&netns, &route).unwrap();
        rule::add_rule(&netns, rule).unwrap();
        let mut all = RoutingWatch::open(&netns, Told::All).unwrap();
        let mut settings = RoutingWatch::open(&netns, Told::Settings).unwrap();
        while !is_silent(&mut all).await {}
        rule::delete_rule(&netns, rule).unwrap();
        assert!(is_told(&mut all).await);
        rule::delete_table_route(&netns, &route).unwrap();
        assert!(is_told(&mut all).await);
        sysctl::write(&netns, "ipv4/conf/eth0/rp_filter", "1").unwrap();
        assert!(is_told(&mut all).await);
        assert!(is_silent(&mut settings).await);
        let forward = sysctl::read(&netns, "ipv4/ip_forward").unwrap().unwrap();
        let other = if forward == "1" { "0" } else { "1" };
        sysctl::write(&netns, "ipv4/ip_forward", other).unwrap();
        assert!(is_told(&mut all).await && is_told(&mut settings).await);
    }
}

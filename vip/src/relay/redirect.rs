//! Sends what comes for a port that somebody else holds to a port of ours, in one namespace and
//! for one family.
//!
//! ```text
//! table ip6 portolan_relay { flags owner
//!   map any-tcp { type inet_service : inet_service; 8000 : 40123 }                # and any-udp
//!   map one-tcp { type ipv6_addr . inet_service : inet_service }                  # and one-udp
//!   set ours-tcp { type inet_service; 40123 }                                     # and ours-udp
//!   chain prerouting { type nat hook prerouting priority -115; fib daddr type local goto entrances }
//!   chain output     { type nat hook output priority -115; fib daddr type local goto entrances }
//!   chain entrances  { redirect to one address's port if there is one, else to any's }
//!   chain guard      { type filter hook input priority 0; what comes to `ours` otherwise: drop }
//! }
//! ```
//!
//! Invariants
//! - *gone with us*: the table is owned by a socket of this process, and so goes with it: ports
//!   are then their holder's again;
//! - *by the front door only*: nobody reaches our port but by the port that it stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kernel::conntrack::{self, ConntrackError, Flow};
use kernel::netns::Netns;
use kernel::nft::{
    Batch, ChainKind, CmpOp, CtKey, Element, ElementValue, Expr, Family, Hook, HookPoint, KeyType,
    MetaKey, NftError, PayloadBase, SetSpec, SetValue, Socket, Table, Verdict, concat,
};
use kernel::route::{self, RouteError};
use registry::model::Protocol;

/// What is redirected: what comes for this address (unspecified: any local one) goes to this port.
pub(super) type Ports = BTreeMap<(SocketAddr, Protocol), u16>;

/// The table of one namespace and one family; dropping it removes it.
#[derive(Debug)]
pub(super) struct Redirect {
    socket: Socket,
    family: Family,
    held: Ports,
}

impl Redirect {
    /// Makes an empty table. One of that name that nobody owns is a leftover, and replaced.
    pub(super) fn make(netns: &Netns, ipv6: bool) -> Result<Self, NftError> {
        let mut socket = Socket::open(netns)?;
        let family = if ipv6 { Family::Ip6 } else { Family::Ip };
        socket.commit(&empty(family))?;
        Ok(Self { socket, family, held: Ports::new() })
    }

    /// Makes it hold exactly `want`, in one transaction; tells how many entries changed.
    /// Datagrams that conntrack remembers another way for are told in `moved`.
    pub(super) fn settle(&mut self, want: &Ports, moved: &mut Ports) -> Result<usize, NftError> {
        let table = table(self.family);
        let mut batch = Batch::new();
        let gone = self.held.iter().filter(|(key, port)| want.get(key) != Some(port));
        let come = want.iter().filter(|(key, port)| self.held.get(key) != Some(port));
        let (gone, come): (Vec<_>, Vec<_>) = (gone.collect(), come.collect());
        for ((address, protocol), port) in &gone {
            batch.delete_elements(table, map_of(address, *protocol), &[key_of(address)]);
            batch.delete_elements(table, ours(*protocol), &[port.to_be_bytes().to_vec()]);
        }
        for ((address, protocol), port) in &come {
            let port = port.to_be_bytes().to_vec();
            let ours_element = element(port.clone(), ElementValue::None);
            batch.add_elements(table, ours(*protocol), &[ours_element]);
            let entry = element(key_of(address), ElementValue::Data(port));
            batch.add_elements(table, map_of(address, *protocol), &[entry]);
        }
        self.socket.commit(&batch)?;
        let changes = gone.len().max(come.len());
        // The new ports come last: they are what is right.
        let datagrams = gone.iter().chain(&come).filter(|((_, it), _)| *it == Protocol::Udp);
        moved.extend(datagrams.map(|(key, port)| (**key, **port)));
        self.held.clone_from(want);
        Ok(changes)
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        // The kernel does it too once the socket is closed, but later.
        let mut batch = Batch::new();
        batch.delete_table(table(self.family));
        if let Err(error) = self.socket.commit(&batch) {
            tracing::debug!(%error, "the kernel removes the table of redirected ports");
        }
    }
}

/// Forgets where datagrams to `moved` went before: conntrack remembers it for as long as a client
/// sends, also where nobody answers.
pub(super) fn forget(netns: &Netns, moved: &Ports) -> Result<usize, ForgetError> {
    if moved.is_empty() {
        return Ok(0);
    }
    let local: BTreeSet<IpAddr> =
        route::addresses(netns)?.into_iter().map(|(_, it)| it.addr()).collect();
    let stale = |flow: &Flow| {
        let to = flow.original_destination;
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let led = |ip| moved.get(&(SocketAddr::new(ip, flow.original_port), Protocol::Udp));
        flow.protocol == UDP
            && (local.contains(&to) || to.is_loopback())
            && led(to).or_else(|| led(any)).is_some_and(|port| *port != flow.reply_source_port)
    };
    Ok(conntrack::delete_matching(netns, stale)?)
}

/// Why old ways of datagrams may be remembered still.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForgetError {
    #[error(transparent)]
    Addresses(#[from] RouteError),
    #[error(transparent)]
    Flows(#[from] ConntrackError),
}

fn table(family: Family) -> Table<'static> {
    Table { family, name: "portolan_relay" }
}

fn empty(family: Family) -> Batch {
    let table = table(family);
    let mut batch = Batch::new();
    batch.replace_table(table, true);
    let port = |name| SetSpec {
        name,
        key: &[KeyType::InetService],
        value: SetValue::Data(KeyType::InetService),
        timeout: false,
        size: None,
    };
    let address: &[KeyType] = match family {
        Family::Ip6 => &[KeyType::Ipv6Addr, KeyType::InetService],
        Family::Ip | Family::Inet => &[KeyType::Ipv4Addr, KeyType::InetService],
    };
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        batch.add_set(table, &port(any(protocol)));
        batch.add_set(table, &SetSpec { key: address, ..port(one(protocol)) });
        batch.add_set(table, &SetSpec { value: SetValue::None, ..port(ours(protocol)) });
    }
    batch.add_chain(table, ENTRANCES, None);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        batch.add_rule(table, ENTRANCES, &to_one(family, protocol), b"");
        batch.add_rule(table, ENTRANCES, &to_any(protocol), b"");
    }
    let nat = |point| Some(Hook { kind: ChainKind::Nat, point, priority: BEFORE_OTHERS });
    let points = [("prerouting", HookPoint::Prerouting), ("output", HookPoint::Output)];
    for (chain, point) in points {
        batch.add_chain(table, chain, nat(point));
        let local = Expr::Cmp { op: CmpOp::Eq, from: 0, data: RTN_LOCAL.to_ne_bytes().to_vec() };
        let goto = Expr::Verdict(Verdict::Goto(ENTRANCES.to_owned()));
        batch.add_rule(table, chain, &[Expr::FibDaddrType { to: 0 }, local, goto], b"");
    }
    let input = Hook { kind: ChainKind::Filter, point: HookPoint::Input, priority: 0 };
    batch.add_chain(table, GUARD, Some(input));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        batch.add_rule(table, GUARD, &unless_redirected(protocol), b"");
    }
    batch
}

/// `meta l4proto tcp redirect to : ip6 daddr . tcp dport map @one-tcp`.
fn to_one(family: Family, protocol: Protocol) -> Vec<Expr> {
    let (offset, len, registers) = match family {
        Family::Ip6 => (24, 16, 4),
        Family::Ip | Family::Inet => (16, 4, 1),
    };
    let address = Expr::Payload { base: PayloadBase::Network, offset, len, to: 0 };
    let mut rule = is(protocol).to_vec();
    rule.extend([address, dport(registers), look_up(one(protocol)), REDIRECT]);
    rule
}

/// `meta l4proto tcp redirect to : tcp dport map @any-tcp`.
fn to_any(protocol: Protocol) -> Vec<Expr> {
    let mut rule = is(protocol).to_vec();
    rule.extend([dport(0), look_up(any(protocol)), REDIRECT]);
    rule
}

/// `tcp dport @ours-tcp ct status & dnat == 0 drop`.
fn unless_redirected(protocol: Protocol) -> Vec<Expr> {
    let mut rule = is(protocol).to_vec();
    let known = Expr::Lookup { set: ours(protocol).to_owned(), from: 0, to: None, invert: false };
    let bits = IPS_DST_NAT.to_ne_bytes().to_vec();
    let translated = Expr::Bitwise { from: 0, to: 0, mask: bits, xor: vec![0; 4] };
    let not = Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![0; 4] };
    let status = Expr::Ct { key: CtKey::Status, to: 0 };
    rule.extend([dport(0), known, status, translated, not, Expr::Verdict(Verdict::Drop)]);
    rule
}

fn is(protocol: Protocol) -> [Expr; 2] {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let same = Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![number] };
    [Expr::Meta { key: MetaKey::L4Proto, to: 0 }, same]
}

fn dport(to: u8) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to }
}

fn look_up(map: &str) -> Expr {
    Expr::Lookup { set: map.to_owned(), from: 0, to: Some(PORT), invert: false }
}

fn element(key: Vec<u8>, value: ElementValue) -> Element {
    Element { key, value, timeout: None }
}

fn map_of(address: &SocketAddr, protocol: Protocol) -> &'static str {
    if address.ip().is_unspecified() { any(protocol) } else { one(protocol) }
}

fn key_of(address: &SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        ip if ip.is_unspecified() => port.to_vec(),
        IpAddr::V4(ip) => concat(&[&ip.octets(), &port]),
        IpAddr::V6(ip) => concat(&[&ip.octets(), &port]),
    }
}

fn any(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "any-tcp",
        Protocol::Udp => "any-udp",
    }
}

fn one(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "one-tcp",
        Protocol::Udp => "one-udp",
    }
}

fn ours(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "ours-tcp",
        Protocol::Udp => "ours-udp",
    }
}

/// The families that `want` needs a table for.
pub(super) fn families(want: &Ports) -> BTreeSet<bool> {
    want.keys().map(|(address, _)| address.is_ipv6()).collect()
}

const ENTRANCES: &str = "entrances";
const GUARD: &str = "guard";
/// Before the engine's NAT (-100), and before that of the mesh and of VIPs (-110).
const BEFORE_OTHERS: i32 = -115;
/// Register of the port found.
const PORT: u8 = 8;
const REDIRECT: Expr = Expr::Redirect { port: PORT };
/// `RTN_LOCAL` (`linux/rtnetlink.h`).
const RTN_LOCAL: u32 = 2;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// `IPS_DST_NAT` (`linux/netfilter/nf_conntrack_common.h`).
const IPS_DST_NAT: u32 = 32;

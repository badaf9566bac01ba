//! How a task's replies find the node that their request came through: that node's number is in
//! the mark of the connection, and each number has a routing table of its own.
//!
//! ```text
//! table ip portolan_mesh {                                     # in the task's namespace
//!   chain prerouting { type filter hook prerouting priority -150
//!                      iifname DEV ct direction original ether saddr vmap @routers
//!                      iifname != DEV goto replies }
//!   chain output     { type route hook output priority -150; goto replies }
//!   chain replies    { ct direction reply; ct mark & MASK vmap @ways }
//!   chain datagrams  { type nat hook prerouting priority -110
//!                      ct mark & MASK != 0 meta l4proto udp ip saddr != INGRESS dnat to OUTER
//!                      ct mark & MASK != 0 udp dport HELD dnat to ip daddr }   # for each
//!   chain from-3     { ct mark set NUMBER 3; meta mark set NUMBER 3 }     # and to-3: meta mark
//! }
//! ip rule: fwmark 0x00300000/0xfff00000 lookup 70003; ip route: default via 10.0.0.3 dev DEV table 70003
//! ```
//!
//! Invariants
//! - *our bits only*: of marks only those of [`MASK`] are read and written;
//! - *late is not lost*: every packet of a client tells the number anew, so a SYN that came before
//!   the table was there is answered the second time;
//! - *datagrams answer from where they were sent*: a UDP server on all addresses answers from the
//!   address of the interface that leads to the client, which is not the ingress network's. So the
//!   flow is led to that address (`OUTER`), and conntrack turns the answer's source back;
//! - *datagrams stay where they were sent*: the engine's own redirection of published ports, behind
//!   ours, would lead on what is for a target that has the number of one;
//! - *right size*: with `tcp_fwmark_accept` the connection's own socket has the mark, so that it is
//!   told the overlay's MTU from its first packet on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use kernel::netns::Netns;
use kernel::nft::{
    ChainKind, CmpOp, CtKey, ElementValue, Expr, Hook, HookPoint, KeyType, MetaKey, NatKind,
    PayloadBase, SetValue, Verdict,
};
use kernel::route::{self, RouteError};
use kernel::rule::{self, MarkRule, TableRoute};

use super::balance::{DADDR, DPORT, mark_connection};
use super::compile::MOST_ROUTERS;
use super::gate::{interface, source_network};
use super::plan::Way;
use super::table::Ruleset;

/// The bits of marks that are ours in a task's namespace: room for the number of a router.
const MASK: u32 = MOST_ROUTERS << SHIFT;
const SHIFT: u32 = 20;
/// The routing tables are this and a router's number.
const TABLES: u32 = 70_000;
/// Before whatever else the namespace's rules say, but for the local table (0).
const PRIORITY: u32 = 703;

/// How a task's namespace is connected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Its interface on the ingress network.
    pub(crate) device: String,
    /// Its network there.
    pub(crate) ingress: Ipv4Net,
    /// The address that it speaks from to the world.
    pub(crate) outer: Option<Ipv4Addr>,
}

/// Looks at the namespace whose address on the ingress network is `own`; `None`: it has none.
pub(crate) fn place(netns: &Netns, own: Ipv4Addr) -> Result<Option<Place>, RouteError> {
    let addresses: Vec<(String, Ipv4Net)> = route::addresses(netns)?
        .into_iter()
        .filter_map(|(device, it)| match it {
            IpNet::V4(net) => Some((device, net)),
            IpNet::V6(_) => None,
        })
        .collect();
    let Some((device, net)) = addresses.iter().find(|it| it.1.addr() == own) else {
        return Ok(None);
    };
    let routes = route::routes(netns)?;
    let default = routes.iter().find(|it| it.destination == IpNet::V4(Ipv4Net::default()));
    let outer = default.and_then(|it| match it.source {
        Some(IpAddr::V4(source)) => Some(source),
        Some(IpAddr::V6(_)) => None,
        None => addresses.iter().find(|(device, _)| *device == it.device).map(|it| it.1.addr()),
    });
    let outer = outer.filter(|it| *it != own);
    Ok(Some(Place { device: device.clone(), ingress: net.trunc(), outer }))
}

/// The table of a task's namespace.
pub(crate) fn ruleset(place: &Place, way: &Way) -> Ruleset {
    let Way { routers, held, .. } = way;
    let device = &place.device;
    let mut ruleset = Ruleset::default();
    ruleset.set(ROUTERS, &[KeyType::EtherAddr], SetValue::Verdict);
    ruleset.set(WAYS, &[KeyType::Mark], SetValue::Verdict);
    let mangle = |kind, point| Hook { kind, point, priority: MANGLE };
    ruleset.base("prerouting", mangle(ChainKind::Filter, HookPoint::Prerouting));
    ruleset.base("output", mangle(ChainKind::Route, HookPoint::Output));
    ruleset
        .rule("prerouting", [by_device(CmpOp::Eq, device), direction(ORIGINAL), sender()].concat());
    let replies = || Expr::Verdict(Verdict::Goto(REPLIES.to_owned()));
    ruleset.rule("prerouting", [by_device(CmpOp::Ne, device), vec![replies()]].concat());
    ruleset.rule("output", vec![replies()]);
    let way = Expr::LookupVerdict { set: WAYS.to_owned(), from: 0 };
    ruleset.rule(REPLIES, [direction(REPLY), number(), vec![way]].concat());
    let kind = ChainKind::Nat;
    let hook = Hook { kind, point: HookPoint::Prerouting, priority: BEFORE_THE_ENGINE };
    ruleset.base("datagrams", hook);
    if let Some(outer) = place.outer {
        ruleset.rule("datagrams", datagrams(place.ingress, outer));
    }
    for port in held {
        ruleset.rule("datagrams", held_datagrams(*port));
    }
    for (&number, &router) in routers {
        let bits = number << SHIFT;
        let goto = |chain: &str| ElementValue::Verdict(Verdict::Goto(chain.to_owned()));
        let (from, to) = (format!("from-{number}"), format!("to-{number}"));
        ruleset.element(ROUTERS, mac(router).to_vec(), goto(&from));
        ruleset.element(WAYS, bits.to_ne_bytes().to_vec(), goto(&to));
        ruleset.rule(&from, [mark_connection(MASK, bits), mark_packet(bits)].concat());
        ruleset.rule(&to, mark_packet(bits));
    }
    ruleset
}

/// The hardware address that the engine gives an endpoint of an overlay network: 02:42 and its
/// IPv4 address (libnetwork's `GenerateMACFromIP`).
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// Makes our policy routes in a namespace exactly those of `routers` over `device`; gives how many
/// things were changed.
pub(crate) fn settle_routes(
    netns: &Netns,
    device: &str,
    routers: &BTreeMap<u32, Ipv4Addr>,
) -> Result<usize, RouteError> {
    let (rules, routes) = routes(device, routers);
    let there_rules: BTreeSet<MarkRule> = rule::rules(netns)?.into_iter().collect();
    let there_routes: BTreeSet<TableRoute> = rule::table_routes(netns)?.into_iter().collect();
    let mut changes = 0;
    // A table is filled before a rule leads to it, and emptied after.
    for route in routes.difference(&there_routes) {
        rule::add_table_route(netns, route)?;
        changes += 1;
    }
    for one in rules.difference(&there_rules) {
        rule::add_rule(netns, *one)?;
        changes += 1;
    }
    for one in there_rules.difference(&rules) {
        rule::delete_rule(netns, *one)?;
        changes += 1;
    }
    let tables: BTreeSet<u32> = routes.iter().map(|it| it.table).collect();
    for route in there_routes.difference(&routes).filter(|it| !tables.contains(&it.table)) {
        rule::delete_table_route(netns, route)?;
        changes += 1;
    }
    Ok(changes)
}

/// The rules and routes of `routers` over `device`.
pub(crate) fn routes(
    device: &str,
    routers: &BTreeMap<u32, Ipv4Addr>,
) -> (BTreeSet<MarkRule>, BTreeSet<TableRoute>) {
    let want_rule = |number: &u32| MarkRule {
        mark: number << SHIFT,
        mask: MASK,
        table: TABLES + number,
        priority: PRIORITY,
    };
    let rules: BTreeSet<MarkRule> = routers.keys().map(want_rule).collect();
    let route = |(number, gateway): (&u32, &Ipv4Addr)| {
        let (table, gateway, device) = (TABLES + number, *gateway, device.to_owned());
        TableRoute { table, gateway, device }
    };
    let routes: BTreeSet<TableRoute> = routers.iter().map(route).collect();
    (rules, routes)
}

fn by_device(op: CmpOp, device: &str) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::IifName, to: 0 },
        Expr::Cmp { op, from: 0, data: interface(device) },
    ]
}

fn direction(which: u8) -> Vec<Expr> {
    vec![
        Expr::Ct { key: CtKey::Direction, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![which] },
    ]
}

/// The connection's number, where it has one, or zero.
fn number() -> Vec<Expr> {
    let (mask, xor) = (MASK.to_ne_bytes().to_vec(), vec![0; 4]);
    vec![Expr::Ct { key: CtKey::Mark, to: 0 }, Expr::Bitwise { from: 0, to: 0, mask, xor }]
}

/// Leads a numbered UDP flow of a client that is not on the ingress network to `outer`.
fn datagrams(ingress: Ipv4Net, outer: Ipv4Addr) -> Vec<Expr> {
    let mut exprs = numbered_datagrams();
    exprs.extend(source_network(CmpOp::Ne, ingress));
    exprs.extend([
        Expr::Immediate { to: 0, data: outer.octets().to_vec() },
        Expr::Nat { kind: NatKind::Dnat, address: 0, port: None },
    ]);
    exprs
}

/// Leaves a numbered UDP flow to this port where it is.
fn held_datagrams(port: u16) -> Vec<Expr> {
    let mut exprs = numbered_datagrams();
    exprs.extend([
        Expr::Payload { base: PayloadBase::Transport, offset: DPORT, len: 2, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: port.to_be_bytes().to_vec() },
        Expr::Payload { base: PayloadBase::Network, offset: DADDR, len: 4, to: 0 },
        Expr::Nat { kind: NatKind::Dnat, address: 0, port: None },
    ]);
    exprs
}

fn numbered_datagrams() -> Vec<Expr> {
    let mut exprs = number();
    exprs.extend([
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: vec![0; 4] },
        Expr::Meta { key: MetaKey::L4Proto, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![UDP] },
    ]);
    exprs
}

/// `ether saddr vmap @routers`.
fn sender() -> Vec<Expr> {
    vec![
        Expr::Payload { base: PayloadBase::Link, offset: SOURCE_MAC, len: 6, to: 0 },
        Expr::LookupVerdict { set: ROUTERS.to_owned(), from: 0 },
    ]
}

fn mark_packet(bits: u32) -> Vec<Expr> {
    let (mask, xor) = ((!MASK).to_ne_bytes().to_vec(), bits.to_ne_bytes().to_vec());
    vec![
        Expr::Meta { key: MetaKey::Mark, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor },
        Expr::MetaSet { key: MetaKey::Mark, from: 0 },
    ]
}

/// Hardware addresses of routers, to the chain that remembers them.
const ROUTERS: &str = "routers";
/// Numbers of routers, to the chain that sends packets their way.
const WAYS: &str = "ways";
const REPLIES: &str = "replies";
/// As other programs' marking: after conntrack and before translation.
const MANGLE: i32 = -150;
/// The engine's own translation of published ports stands at -100.
const BEFORE_THE_ENGINE: i32 = -110;
const UDP: u8 = 17;
/// `IP_CT_DIR_ORIGINAL` and `IP_CT_DIR_REPLY`.
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;
/// Offset of the sender's address in an Ethernet header.
const SOURCE_MAC: u32 = 6;

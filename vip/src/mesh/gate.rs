//! The tables of the namespaces that published ports lead through: the host, and the engine's
//! doorway to the ingress network. Pure.
//!
//! ```text
//! table ip portolan_mesh {                                     # on the host
//!   chain prerouting  { type nat hook prerouting priority -110
//!                       1 != @alive return; fib daddr type != local return; jump gate }
//!   chain output      # the same for what begins here
//!   chain gate        { l4proto . dport . ip daddr @kept goto stay; l4proto . dport @held goto stay
//!                       l4proto . dport @open jump balance
//!                       l4proto . dport . ip daddr @addresses jump balance
//!                       l4proto . dport . iifname @interfaces jump balance
//!                       l4proto . dport @ours goto stay }
//!   chain stay        { dnat to ip daddr }
//!   chain refuse      { type filter hook input priority 0; 1 != @alive return
//!                       ct state established,related return; not opening: return
//!                       l4proto . dport . ip daddr @kept return; l4proto . dport @refused reject }
//!   chain postrouting { type nat hook postrouting priority 90; not through the mesh: return
//!                       ip saddr 127.0.0.0/8 masquerade
//!                       ip saddr INGRESS ip daddr NETWORK masquerade
//!                       ip saddr NETWORK ip daddr NETWORK masquerade }
//!   chain unseen      { type filter hook output priority -300; meta mark PROVOKING notrack }
//!   chain straight    { type filter hook output priority 0; oifname BRIDGE icmp type redirect drop }
//!   chain out         { type nat hook postrouting priority 110; ip saddr BRIDGE'S oifname != BRIDGE masquerade }
//!   chain between     { type filter hook forward priority 0; from BRIDGE to BRIDGE past the mesh: drop }
//!   chain mark        { type filter hook forward priority -10; ct mark & FLAG: meta mark set meta mark | FLAG }
//!   chain guard       { type filter hook prerouting priority -150; iifname BRIDGE ip daddr 127.0.0.0/8 drop }
//! }
//! ```
//!
//! The chains `out`, `between` and `mark` are there where `outbound` asks for them.
//!
//! Invariants
//! - *before the engine*: translation stands at -110, the engine's at -100, so that its own rules
//!   for the same ports may stay;
//! - *the engine's do not lead what we do not*: its translation takes every address of the node. So
//!   a port of ours where it is not to be had, and one that a program has, is translated to where
//!   it goes already; there it is the program's, or refused, also where the engine's own holder of
//!   the port would take it and say nothing;
//! - *the client stays*: its address is replaced only where an answer would miss this namespace:
//!   loopback addresses, clients on the network that the port leads to, and those whose own network
//!   has the addresses of the ingress network. Of those the doorway makes its own address on the
//!   ingress network, which no other node has;
//! - *loopback stays inside*: that local programs may be translated to a bridge (`route_localnet`)
//!   lets nobody on it speak to 127.0.0.0/8.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use kernel::nft::{
    ChainKind, CmpOp, CtKey, ElementValue, Expr, Hook, HookPoint, KeyType, MetaKey, NatKind,
    PayloadBase, RejectWith, SetValue, Verdict, concat,
};
use registry::balance_spec::Bind;

use super::balance::{BALANCE, Balancing, DADDR, FLAG, SADDR, protocol_and_port};
use super::leading::Others;
use super::outbound::{self, Exit};
use super::plan::{Bridge, Port};
use super::table::{ALIVE, ALIVE_KEY, Ruleset};

/// What the host's table depends on besides where ports lead.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Host {
    /// Where each port is to be had.
    pub(crate) binds: Vec<(Port, Vec<Bind>)>,
    /// What programs of the host have of them.
    pub(crate) others: Others,
    /// The networks that ports lead to.
    pub(crate) bridges: BTreeSet<Bridge>,
    /// Clients in the first network are, for who is on the second, on the ingress network.
    pub(crate) mistaken: BTreeSet<(Ipv4Net, Ipv4Net)>,
    /// The interfaces of `bridges`.
    pub(crate) devices: BTreeSet<String>,
    /// Bridges whose containers go out as the host by rules of ours.
    pub(crate) exits: BTreeSet<Exit>,
    /// Whether packets of the mesh are marked for the engine's own rules.
    pub(crate) marks: bool,
}

impl Host {
    /// The host's table.
    pub(crate) fn ruleset(&self, balancing: &Balancing) -> Ruleset {
        let mut ruleset = Ruleset { mortal: true, ..Ruleset::default() };
        for (chain, point) in [("prerouting", HookPoint::Prerouting), ("output", HookPoint::Output)]
        {
            ruleset.base(chain, hook(ChainKind::Nat, point, BEFORE_THE_ENGINE));
            ruleset.rule(chain, unless_alive());
            ruleset.rule(chain, unless_local());
            ruleset.rule(chain, vec![Expr::Verdict(Verdict::Jump(GATE.to_owned()))]);
        }
        self.gate(&mut ruleset);
        refuse(&mut ruleset);
        balancing.write(&mut ruleset);
        self.postrouting(&mut ruleset);
        let unseen = hook(ChainKind::Filter, HookPoint::Output, BEFORE_CONNTRACK);
        ruleset.base("unseen", unseen);
        let mark = Expr::Meta { key: MetaKey::Mark, to: 0 };
        let ours = Expr::Cmp { op: CmpOp::Eq, from: 0, data: PROVOKING.to_ne_bytes().to_vec() };
        ruleset.rule("unseen", vec![mark, ours, Expr::Notrack]);
        ruleset.base(STRAIGHT, hook(ChainKind::Filter, HookPoint::Output, 0));
        ruleset.base("guard", hook(ChainKind::Filter, HookPoint::Prerouting, BEFORE_TRANSLATION));
        for device in &self.devices {
            let mut rule = vec![
                Expr::Meta { key: MetaKey::IifName, to: 0 },
                Expr::Cmp { op: CmpOp::Eq, from: 0, data: interface(device) },
            ];
            rule.extend(within(DADDR, LOOPBACK));
            rule.push(Expr::Verdict(Verdict::Drop));
            ruleset.rule("guard", rule);
            ruleset.rule(STRAIGHT, redirect_to(device));
        }
        outbound::write(&self.exits, &mut ruleset);
        if self.marks {
            outbound::write_marks(&mut ruleset);
        }
        ruleset
    }

    /// Writes who has which port where.
    fn places(&self, ruleset: &mut Ruleset) {
        const PORT: &[KeyType] = &[KeyType::InetProto, KeyType::InetService];
        const AT: &[KeyType] = &[KeyType::InetProto, KeyType::InetService, KeyType::Ipv4Addr];
        const ON: &[KeyType] = &[KeyType::InetProto, KeyType::InetService, KeyType::IfName];
        for (sets, key) in [
            (&[OPEN, HELD, OURS, REFUSED][..], PORT),
            (&[ADDRESSES, KEPT], AT),
            (&[INTERFACES], ON),
        ] {
            for set in sets {
                ruleset.set(set, key, SetValue::None);
            }
        }
        let Others { held, kept, shared } = &self.others;
        for (port, address) in kept {
            let key = concat(&[&port.key(), &address.octets()]);
            ruleset.element(KEPT, key, ElementValue::None);
        }
        for port in held {
            ruleset.element(HELD, port.key(), ElementValue::None);
        }
        for (port, binds) in &self.binds {
            ruleset.element(OURS, port.key(), ElementValue::None);
            if !shared.contains(port) {
                ruleset.element(REFUSED, port.key(), ElementValue::None);
            }
            let any = |it: &Bind| *it == Bind::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            if binds.is_empty() || binds.iter().any(any) {
                ruleset.element(OPEN, port.key(), ElementValue::None);
                continue;
            }
            for bind in binds {
                let (set, end) = match bind {
                    Bind::Address(IpAddr::V4(address)) => (ADDRESSES, address.octets().to_vec()),
                    Bind::Interface(name) => (INTERFACES, interface(name)),
                    Bind::Address(IpAddr::V6(_)) | Bind::Nowhere => continue,
                };
                ruleset.element(set, concat(&[&port.key(), &end]), ElementValue::None);
            }
        }
    }

    fn gate(&self, ruleset: &mut Ruleset) {
        self.places(ruleset);
        let on = || Verdict::Jump(BALANCE.to_owned());
        let stay = || Verdict::Goto(STAY.to_owned());
        let by_device = Expr::Meta { key: MetaKey::IifName, to: 2 };
        for (set, more, verdict) in [
            (KEPT, Some(asked()), stay()),
            (HELD, None, stay()),
            (OPEN, None, on()),
            (ADDRESSES, Some(asked()), on()),
            (INTERFACES, Some(by_device), on()),
            (OURS, None, stay()),
        ] {
            ruleset.rule(GATE, [is_in(set, more), vec![Expr::Verdict(verdict)]].concat());
        }
        let here = Expr::Payload { base: PayloadBase::Network, offset: DADDR, len: 4, to: 0 };
        ruleset.rule(STAY, vec![here, Expr::Nat { kind: NatKind::Dnat, address: 0, port: None }]);
    }

    fn postrouting(&self, ruleset: &mut Ruleset) {
        let chain = "postrouting";
        ruleset.base(chain, hook(ChainKind::Nat, HookPoint::Postrouting, BEFORE_ITS_MASQUERADE));
        let mut rule = flag_is(connection(), CmpOp::Eq);
        rule.push(Expr::Verdict(Verdict::Return));
        ruleset.rule(chain, rule);
        ruleset.rule(chain, [within(SADDR, LOOPBACK), vec![Expr::Masquerade]].concat());
        for (clients, there) in &self.mistaken {
            let rule = [within(SADDR, *clients), within(DADDR, *there), vec![Expr::Masquerade]];
            ruleset.rule(chain, rule.concat());
        }
        for bridge in &self.bridges {
            let mut rule = within(DADDR, bridge.subnet);
            if !bridge.internal {
                rule.extend(within(SADDR, bridge.subnet));
            }
            rule.push(Expr::Masquerade);
            ruleset.rule(chain, rule);
        }
    }
}

/// What is led nowhere, and is not a program's, is refused.
fn refuse(ruleset: &mut Ruleset) {
    let input = hook(ChainKind::Filter, HookPoint::Input, 0);
    ruleset.base(REFUSE, input);
    ruleset.rule(REFUSE, unless_alive());
    // Answers to what began here come to whatever port the kernel chose for it.
    ruleset.rule(REFUSE, if_known());
    ruleset.rule(REFUSE, unless_opening());
    let back = vec![Expr::Verdict(Verdict::Return)];
    ruleset.rule(REFUSE, [is_in(KEPT, Some(asked())), back].concat());
    let tcp = vec![
        Expr::Meta { key: MetaKey::L4Proto, to: 3 },
        Expr::Cmp { op: CmpOp::Eq, from: 3, data: vec![TCP] },
        Expr::Reject(RejectWith::TcpReset),
    ];
    ruleset.rule(REFUSE, [is_in(REFUSED, None), tcp].concat());
    let any = vec![Expr::Reject(RejectWith::PortUnreachable)];
    ruleset.rule(REFUSE, [is_in(REFUSED, None), any].concat());
}

/// Goes on where the set has the packet's port, followed by what `more` loads into register 2.
fn is_in(set: &str, more: Option<Expr>) -> Vec<Expr> {
    let mut exprs = protocol_and_port();
    exprs.extend(more);
    exprs.push(Expr::Lookup { set: set.to_owned(), from: 0, to: None, invert: false });
    exprs
}

/// The address that the packet is for.
fn asked() -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset: DADDR, len: 4, to: 2 }
}

/// The table of the engine's doorway, whose address on the host's bridge is `own`. Clients in
/// `masqueraded` are seen as the doorway: the bridge's own addresses are the same on all nodes, so
/// tasks could not tell two nodes' clients apart.
pub(crate) fn doorway(own: Ipv4Addr, masqueraded: Ipv4Net, balancing: &Balancing) -> Ruleset {
    let mut ruleset = Ruleset { mortal: true, ..Ruleset::default() };
    let chain = "prerouting";
    ruleset.base(chain, hook(ChainKind::Nat, HookPoint::Prerouting, BEFORE_THE_ENGINE));
    ruleset.rule(chain, unless_alive());
    ruleset.rule(chain, unless_opening());
    let mut for_us = within(DADDR, own.into());
    for_us.push(Expr::Verdict(Verdict::Jump(BALANCE.to_owned())));
    ruleset.rule(chain, for_us);
    balancing.write(&mut ruleset);
    let chain = "postrouting";
    ruleset.base(chain, hook(ChainKind::Nat, HookPoint::Postrouting, BEFORE_ITS_MASQUERADE));
    let mut rule = flag_is(connection(), CmpOp::Ne);
    rule.extend(within(SADDR, masqueraded));
    rule.push(Expr::Masquerade);
    ruleset.rule(chain, rule);
    ruleset
}

/// Whoever is led back to its own network is told by no redirect to go there without the host:
/// the answer would come from another address than was asked.
fn redirect_to(device: &str) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::OifName, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: interface(device) },
        Expr::Meta { key: MetaKey::L4Proto, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![ICMP] },
        Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 1, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![ICMP_REDIRECT] },
        Expr::Verdict(Verdict::Drop),
    ]
}

fn hook(kind: ChainKind, point: HookPoint, priority: i32) -> Hook {
    Hook { kind, point, priority }
}

/// An interface's name as the kernel compares it.
pub(crate) fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}

fn unless_alive() -> Vec<Expr> {
    vec![
        Expr::Immediate { to: 0, data: ALIVE_KEY.to_vec() },
        Expr::Lookup { set: ALIVE.to_owned(), from: 0, to: None, invert: true },
        Expr::Verdict(Verdict::Return),
    ]
}

/// What is in the middle of a TCP connection that nobody remembers is no business of another task:
/// it stays here, where it is answered with a reset.
fn unless_opening() -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::L4Proto, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![TCP] },
        Expr::Payload { base: PayloadBase::Transport, offset: TCP_FLAGS, len: 1, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask: vec![SYN], xor: vec![0] },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![0] },
        Expr::Verdict(Verdict::Return),
    ]
}

fn if_known() -> Vec<Expr> {
    let (mask, none) = ((CT_ESTABLISHED | CT_RELATED).to_ne_bytes().to_vec(), vec![0; 4]);
    vec![
        Expr::Ct { key: CtKey::State, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor: none.clone() },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: none },
        Expr::Verdict(Verdict::Return),
    ]
}

fn unless_local() -> Vec<Expr> {
    vec![
        Expr::FibDaddrType { to: 0 },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: RTN_LOCAL.to_ne_bytes().to_vec() },
        Expr::Verdict(Verdict::Return),
    ]
}

fn connection() -> Expr {
    Expr::Ct { key: CtKey::Mark, to: 0 }
}

/// Whether the flag in the mark that `load` puts into register 0 compares so with none.
fn flag_is(load: Expr, op: CmpOp) -> Vec<Expr> {
    let (mask, none) = (FLAG.to_ne_bytes().to_vec(), vec![0; 4]);
    vec![
        load,
        Expr::Bitwise { from: 0, to: 0, mask, xor: none.clone() },
        Expr::Cmp { op, from: 0, data: none },
    ]
}

/// Goes on where the address at this offset of the IPv4 header is in `net`.
fn within(offset: u32, net: Ipv4Net) -> Vec<Expr> {
    network(offset, CmpOp::Eq, net)
}

/// Goes on where the sender is in `net`, or is not.
pub(crate) fn source_network(op: CmpOp, net: Ipv4Net) -> Vec<Expr> {
    network(SADDR, op, net)
}

fn network(offset: u32, op: CmpOp, net: Ipv4Net) -> Vec<Expr> {
    let (mask, xor) = (net.netmask().octets().to_vec(), vec![0; 4]);
    vec![
        Expr::Payload { base: PayloadBase::Network, offset, len: 4, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor },
        Expr::Cmp { op, from: 0, data: net.network().octets().to_vec() },
    ]
}

/// The mark of packets that make clients speak. All of it is compared: single bits are others' too.
pub(crate) const PROVOKING: u32 = FLAG | 0xd7;

const STRAIGHT: &str = "straight";
const GATE: &str = "gate";
const STAY: &str = "stay";
const REFUSE: &str = "refuse";
/// Ports and addresses that programs of the host have.
const KEPT: &str = "kept";
/// Ports that programs of the host have, whatever the address.
const HELD: &str = "held";
/// Ports that lead somewhere.
const OURS: &str = "ours";
/// Those of them that are refused where they are not to be had.
const REFUSED: &str = "refused";
/// Ports that are to be had everywhere.
const OPEN: &str = "open";
/// Ports and the addresses where they are to be had.
const ADDRESSES: &str = "addresses";
/// Ports and the interfaces by which they are to be had.
const INTERFACES: &str = "interfaces";

/// The engine's own translation of published ports stands at -100.
const BEFORE_THE_ENGINE: i32 = -110;
/// The engine's own masquerade stands at 100.
const BEFORE_ITS_MASQUERADE: i32 = 90;
/// What is sent to make clients speak belongs to no connection.
const BEFORE_CONNTRACK: i32 = -300;
/// After conntrack (-200) and before any translation, so that what is for 127.0.0.0/8 here came so.
const BEFORE_TRANSLATION: i32 = -150;

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
/// `NF_CT_STATE_BIT`s, as [`CtKey::State`] loads them.
const CT_ESTABLISHED: u32 = 2;
const CT_RELATED: u32 = 4;
/// `RTN_LOCAL`.
const RTN_LOCAL: u32 = 2;
const IFNAMSIZ: usize = 16;
const TCP: u8 = 6;
/// RFC 792.
const ICMP: u8 = 1;
const ICMP_REDIRECT: u8 = 5;
/// Where a TCP header has its flags, and which of them opens a connection (RFC 9293).
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 2;

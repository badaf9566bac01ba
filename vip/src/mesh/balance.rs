//! How ports are balanced in one table: which chain a port's packets go through, and from which
//! map they take a task. Pure.
//!
//! ```text
//! map ports { type inet_proto . inet_service : verdict; tcp . 8001 : goto random-4-lower, .. }
//! map lower { type inet_proto . inet_service . mark : ipv4_addr . inet_service }
//! map upper # the same
//! chain random-4-lower { dnat to l4proto . dport . numgen random mod 4 map @lower }
//! ```
//!
//! Invariants
//! - *flat*: one chain for each number of slots, way of choosing, and half; what changes with a
//!   port or a task is elements;
//! - *no holes*: a change writes the half that a port does not use and turns the port to it; the
//!   old half goes with the next transaction. A packet between two look-ups meets a full half;
//! - *UDP chooses by its sender*: packets that one socket sends at once take one way, or conntrack
//!   would remember the first and drop the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use kernel::nft::{
    CtKey, ElementValue, Expr, KeyType, MetaKey, NatKind, PayloadBase, SetValue, Verdict, concat,
};
use registry::balance_spec::Affinity;
use registry::model::Protocol;

use super::affinity;
use super::plan::Port;
use super::table::{Ruleset, Seen};

/// Chain that leads a published port's packets on; other packets come back from it.
pub(crate) const BALANCE: &str = "balance";

/// The bit of a connection's mark that says: it came through the mesh. Not among those that
/// Docker's overlays, Kubernetes or Tailscale set; Calico's default mask (0xffff0000, for packets)
/// has it.
pub(crate) const FLAG: u32 = 0x2000_0000;

const PORTS: &str = "ports";

const PORT_KEY: &[KeyType] = &[KeyType::InetProto, KeyType::InetService];
const SLOT_KEY: &[KeyType] = &[KeyType::InetProto, KeyType::InetService, KeyType::Mark];

/// How a port chooses, and among how many.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Class {
    choice: Choice,
    half: Half,
    slots: u32,
}

/// How a task is chosen.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Choice {
    Random,
    /// By the sender's address and port.
    Flow,
    /// By the sender's address, unless it has had a task.
    Client,
}

/// Which map a port's slots are in at the moment.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
enum Half {
    #[default]
    Lower,
    Upper,
}

/// Where the ports of one table lead.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Balancing {
    ports: BTreeMap<Port, Slotted>,
    /// Classes that have a chain: they stay until the table is made anew.
    classes: BTreeSet<Class>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Slotted {
    choice: Option<Choice>,
    half: Half,
    slots: Vec<SocketAddrV4>,
    /// What is still in the other half.
    old: Vec<SocketAddrV4>,
}

/// What a port wants: its slots, and how one is chosen.
pub(crate) type Wanted<'a> = (Port, &'a [SocketAddrV4], Affinity);

impl Balancing {
    /// What follows on this when ports want that.
    #[must_use]
    pub(crate) fn next<'a>(&self, wanted: impl IntoIterator<Item = Wanted<'a>>) -> Self {
        let mut next = Self { ports: BTreeMap::new(), classes: self.classes.clone() };
        for (port, slots, affinity) in wanted.into_iter().filter(|it| !it.1.is_empty()) {
            let choice = Choice::of(port, affinity);
            let slotted = match self.ports.get(&port) {
                Some(last) if last.choice == Some(choice) && last.slots == slots => {
                    Slotted { old: Vec::new(), ..last.clone() }
                }
                Some(last) => Slotted {
                    choice: Some(choice),
                    half: last.half.other(),
                    slots: slots.to_vec(),
                    old: last.slots.clone(),
                },
                None => {
                    let (choice, slots) = (Some(choice), slots.to_vec());
                    Slotted { choice, slots, ..Slotted::default() }
                }
            };
            next.classes.extend(slotted.class());
            next.ports.insert(port, slotted);
        }
        next
    }

    /// Of no port, in a table that has all sets that any has.
    pub(crate) fn of_all_kinds() -> Self {
        let class = Class { choice: Choice::Client, half: Half::Lower, slots: 1 };
        Self { ports: BTreeMap::new(), classes: [class].into() }
    }

    /// What the kernel's table says, as far as it is as ours are.
    pub(crate) fn seen(seen: &Seen) -> Self {
        let none = BTreeMap::new();
        let set = |name| seen.sets.get(name).unwrap_or(&none);
        let classes = seen.chains.keys().filter_map(|it| Class::named(it)).collect();
        let mut found = Self { ports: BTreeMap::new(), classes };
        for (key, value) in set(PORTS) {
            let ElementValue::Verdict(Verdict::Goto(chain)) = value else { continue };
            let Some((port, class)) = Port::read(key).zip(Class::named(chain)) else { continue };
            let slots = |half: Half| {
                let slot = |number: u32| match set(half.map()).get(&slot_key(port, number))? {
                    ElementValue::Data(data) => address(data),
                    ElementValue::None | ElementValue::Verdict(_) => None,
                };
                (0..MOST_READ).map_while(slot).collect()
            };
            let (choice, half) = (Some(class.choice), class.half);
            let (slots, old) = (slots(half), slots(half.other()));
            found.ports.insert(port, Slotted { choice, half, slots, old });
        }
        found
    }

    /// Where each port leads.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (Port, &[SocketAddrV4])> {
        self.ports.iter().map(|(port, it)| (*port, it.slots.as_slice()))
    }

    /// Whether the next transaction has something to clear away.
    pub(crate) fn has_leavings(&self) -> bool {
        self.ports.values().any(|it| !it.old.is_empty())
    }

    /// Writes the maps and chains of it into `ruleset`.
    pub(crate) fn write(&self, ruleset: &mut Ruleset) {
        let address = SetValue::Pair(KeyType::Ipv4Addr, KeyType::InetService);
        ruleset.set(PORTS, PORT_KEY, SetValue::Verdict);
        for half in [Half::Lower, Half::Upper] {
            ruleset.set(half.map(), SLOT_KEY, address);
        }
        for class in &self.classes {
            let chain = class.chain();
            class.rules().into_iter().for_each(|rule| ruleset.rule(&chain, rule));
        }
        let keeps = |it: &Slotted| it.choice == Some(Choice::Client);
        if self.classes.iter().any(|it| it.choice == Choice::Client) {
            let keeping = self.ports.iter().filter(|it| keeps(it.1));
            affinity::write(keeping.map(|(port, it)| (*port, it.slots.as_slice())), ruleset);
        }
        for (port, slotted) in &self.ports {
            let Some(class) = slotted.class() else { continue };
            let goto = ElementValue::Verdict(Verdict::Goto(class.chain()));
            ruleset.element(PORTS, port.key(), goto);
            for (half, slots) in
                [(slotted.half, &slotted.slots), (slotted.half.other(), &slotted.old)]
            {
                for (number, slot) in (0_u32..).zip(slots) {
                    let value = concat(&[&slot.ip().octets(), &slot.port().to_be_bytes()]);
                    let key = slot_key(*port, number);
                    ruleset.element(half.map(), key, ElementValue::Data(value));
                }
            }
        }
        ruleset.rule(BALANCE, balance());
    }
}

/// `meta l4proto . th dport vmap @ports`.
fn balance() -> Vec<Expr> {
    let mut exprs = protocol_and_port();
    exprs.push(Expr::LookupVerdict { set: PORTS.to_owned(), from: 0 });
    exprs
}

/// Loads the key of a port into registers 0 and 1.
pub(crate) fn protocol_and_port() -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::L4Proto, to: 0 },
        Expr::Payload { base: PayloadBase::Transport, offset: DPORT, len: 2, to: 1 },
    ]
}

/// Sets the bits of `mask` in the connection's mark to those of `bits`, and leaves the others.
pub(crate) fn mark_connection(mask: u32, bits: u32) -> Vec<Expr> {
    let (mask, xor) = ((!mask).to_ne_bytes().to_vec(), bits.to_ne_bytes().to_vec());
    vec![
        Expr::Ct { key: CtKey::Mark, to: SCRATCH },
        Expr::Bitwise { from: SCRATCH, to: SCRATCH, mask, xor },
        Expr::CtSet { key: CtKey::Mark, from: SCRATCH },
    ]
}

impl Class {
    fn rules(self) -> Vec<Vec<Expr>> {
        let mark = mark_connection(FLAG, FLAG);
        if self.choice == Choice::Client {
            return vec![mark, affinity::to_last_task(), self.choose()];
        }
        vec![[mark, self.choose()].concat()]
    }

    fn choose(self) -> Vec<Expr> {
        let mut exprs = protocol_and_port();
        exprs.extend(self.choice.exprs(self.slots));
        exprs.extend([
            Expr::Lookup { set: self.half.map().to_owned(), from: 0, to: Some(0), invert: false },
            Expr::Nat { kind: NatKind::Dnat, address: 0, port: Some(1) },
        ]);
        exprs
    }

    fn chain(self) -> String {
        let Self { choice, half, slots } = self;
        format!("{}-{slots}-{}", choice.name(), half.map())
    }

    fn named(chain: &str) -> Option<Self> {
        let (choice, rest) = chain.split_once('-')?;
        let (slots, half) = rest.split_once('-')?;
        let choices = [Choice::Random, Choice::Flow, Choice::Client];
        let choice = choices.into_iter().find(|it| it.name() == choice)?;
        let half = [Half::Lower, Half::Upper].into_iter().find(|it| it.map() == half)?;
        Some(Self { choice, half, slots: slots.parse().ok()? })
    }
}

impl Choice {
    fn of(port: Port, affinity: Affinity) -> Self {
        match (affinity, port.protocol) {
            (Affinity::Client, _) => Self::Client,
            (Affinity::None, Protocol::Udp) => Self::Flow,
            (Affinity::None, Protocol::Tcp) => Self::Random,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Flow => "flow",
            Self::Client => "client",
        }
    }

    /// Loads a slot's number into register 2.
    fn exprs(self, slots: u32) -> Vec<Expr> {
        let source = |offset, base, len, to| Expr::Payload { base, offset, len, to };
        let hash = |len| Expr::Jhash {
            from: HASHED,
            len,
            modulus: slots,
            seed: SEED,
            offset: 0,
            to: NUMBER,
        };
        match self {
            // The kernel refuses to reckon modulo 1.
            _ if slots < 2 => vec![Expr::Immediate { to: NUMBER, data: vec![0; 4] }],
            Self::Random => {
                vec![Expr::Numgen { random: true, modulus: slots, offset: 0, to: NUMBER }]
            }
            Self::Flow => vec![
                source(SADDR, PayloadBase::Network, 4, HASHED),
                source(SPORT, PayloadBase::Transport, 2, HASHED + 1),
                hash(8),
            ],
            Self::Client => vec![source(SADDR, PayloadBase::Network, 4, HASHED), hash(4)],
        }
    }
}

impl Half {
    fn other(self) -> Self {
        match self {
            Self::Lower => Self::Upper,
            Self::Upper => Self::Lower,
        }
    }

    fn map(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Upper => "upper",
        }
    }
}

impl Slotted {
    fn class(&self) -> Option<Class> {
        let slots = u32::try_from(self.slots.len()).ok().filter(|it| *it > 0)?;
        Some(Class { choice: self.choice?, half: self.half, slots })
    }
}

impl Port {
    /// As the key of a map.
    pub(crate) fn key(self) -> Vec<u8> {
        concat(&[&[number(self.protocol)], &self.number.to_be_bytes()])
    }

    fn read(key: &[u8]) -> Option<Self> {
        let &[protocol, 0, 0, 0, high, low, 0, 0] = key else { return None };
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let protocol = protocols.into_iter().find(|it| number(*it) == protocol)?;
        Some(Self { protocol, number: u16::from_be_bytes([high, low]) })
    }
}

/// IP's number of a transport.
pub(crate) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

fn slot_key(port: Port, number: u32) -> Vec<u8> {
    concat(&[&port.key(), &number.to_ne_bytes()])
}

fn address(bytes: &[u8]) -> Option<SocketAddrV4> {
    let &[a, b, c, d, high, low, 0, 0] = bytes else { return None };
    Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

/// Slots read back of one port: more than a service of ours has.
const MOST_READ: u32 = 1 << 20;

/// Register of a slot's number, behind the key of its port.
const NUMBER: u8 = 2;
/// Registers of what is hashed: free beside a slot's key.
const HASHED: u8 = 4;
/// Register for marks.
const SCRATCH: u8 = 6;
/// Offsets in headers: IPv4's source and destination address (RFC 791), source and destination ports of both
/// transports (RFC 9293, RFC 768).
pub(crate) const SADDR: u32 = 12;
pub(crate) const DADDR: u32 = 16;
const SPORT: u32 = 0;
pub(crate) const DPORT: u32 = 2;
/// Any: the same on all nodes, so that a client meets one task wherever it first comes in.
const SEED: u32 = 0x706f_7274;

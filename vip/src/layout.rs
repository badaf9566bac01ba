//! How a table of balances is laid out in nftables, piece by piece. Pure.
//!
//! ```text
//! table ip portolan_vip {
//!   set alive     { type mark; timeout; 1 }            # runs out when portolan never comes back
//!   set vips      { type ipv4_addr; 10.0.1.2, .. }     # every VIP, tasks or not
//!   map services  { type ipv4_addr : verdict; 10.0.1.2 : goto vip-10.0.1.2, .. }
//!   map slots     { type ipv4_addr . mark : ipv4_addr; 10.0.1.2 . 0 : 10.0.1.5, .. }
//!   chain vip-10.0.1.2 { dnat to ip daddr . numgen inc mod 2 map @slots }      # one per service
//!   chain output  { type nat hook output priority -110; 1 != @alive return; ip daddr vmap @services }
//!   chain refuse  { type filter hook output priority 0; ip daddr @vips goto refused }
//!   chain refused { 1 != @alive return; ct state established,related return; ct state invalid drop
//!                   tcp: reset; reject }
//! }
//! ```
//!
//! Invariants
//! - *even*: each service has a counter of its own; one shared by services would correlate with
//!   the order in which a client calls them, and some tasks would get nothing;
//! - *no holes*: the slots of a service are in the lower or the upper half of the numbers. A change
//!   writes the other half and turns the service's rule to it; the old half stays until the next
//!   transaction. A packet that is between rule and map meets a full half on either side;
//! - *first calls spread*: a counter starts at zero when its rule is written, so each sandbox
//!   begins elsewhere in the list; otherwise all would call the same task after every change.

use std::net::Ipv4Addr;
use std::time::Duration;

use kernel::nft::{
    ChainKind, CmpOp, CtKey, Element, ElementValue, Expr, Family, Hook, HookPoint, KeyType,
    MetaKey, NatKind, PayloadBase, RejectWith, SetSpec, SetValue, Table, Verdict, comment,
};

/// Our table in each sandbox.
pub(crate) const TABLE: Table<'static> = Table { family: Family::Ip, name: "portolan_vip" };

/// Verdict map: VIP to the chain of its service.
pub(crate) const SERVICES: &str = "services";
/// Map: VIP and number to a task's address.
pub(crate) const SLOTS: &str = "slots";
/// Set of all VIPs.
pub(crate) const VIPS: &str = "vips";
/// Set that holds [`ALIVE_KEY`] while a portolan looks after the table.
pub(crate) const ALIVE: &str = "alive";

/// How long the table works without a portolan that looks after it. Task addresses are given to
/// other containers in time; a restart or an update of portolan takes seconds.
pub(crate) const ALIVE_FOR: Duration = Duration::from_secs(600);

/// Where the upper half of the slot numbers begins; far more than a service has slots.
pub(crate) const UPPER: u32 = 1 << 24;

/// Which half of the slot numbers a service uses at the moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Half {
    Lower,
    Upper,
}

/// Key of one slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct SlotKey {
    pub(crate) vip: Ipv4Addr,
    pub(crate) number: u32,
}

/// How many elements the table's sets were declared for. Declared sets load four times as fast
/// and look up faster, but cannot grow; a table that is full is replaced by a larger one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Capacity {
    pub(crate) slots: u32,
    pub(crate) vips: u32,
}

/// Where in its list a sandbox begins to count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Seed(u64);

/// The version of this layout: a table of another one is replaced.
const LAYOUT: u32 = 1;

const OUTPUT: &str = "output";
const REFUSE: &str = "refuse";
const REFUSED: &str = "refused";

/// Before the engine's own NAT in the same hook (-100): the engine has no say in VIPs.
const OUTPUT_PRIORITY: i32 = -110;
/// After NAT: what still goes to a VIP then has found no task.
const REFUSE_PRIORITY: i32 = 0;

/// The one element of [`ALIVE`].
const ALIVE_KEY: [u8; 4] = 1_u32.to_ne_bytes();

/// Offset of the destination address in an IPv4 header (RFC 791).
const DADDR: u32 = 16;
const ADDRESS_LEN: u32 = 4;

/// The chains that every table has, with their hooks.
pub(crate) fn chains() -> [(&'static str, Option<Hook>); 3] {
    let hook = |kind, priority| Some(Hook { kind, point: HookPoint::Output, priority });
    [
        (OUTPUT, hook(ChainKind::Nat, OUTPUT_PRIORITY)),
        (REFUSE, hook(ChainKind::Filter, REFUSE_PRIORITY)),
        (REFUSED, None),
    ]
}

/// The sets that every table has.
pub(crate) fn sets(capacity: Capacity) -> [SetSpec<'static>; 4] {
    const VIP: &[KeyType] = &[KeyType::Ipv4Addr];
    const SLOT: &[KeyType] = &[KeyType::Ipv4Addr, KeyType::Mark];
    const MARK: &[KeyType] = &[KeyType::Mark];
    let set = |name, key, value, size| SetSpec { name, key, value, timeout: false, size };
    let Capacity { slots, vips } = capacity;
    [
        SetSpec { timeout: true, ..set(ALIVE, MARK, SetValue::None, None) },
        set(VIPS, VIP, SetValue::None, Some(vips)),
        set(SERVICES, VIP, SetValue::Verdict, Some(vips)),
        set(SLOTS, SLOT, SetValue::Data(KeyType::Ipv4Addr), Some(slots)),
    ]
}

/// The rules that every table has, with their chains, in order.
pub(crate) fn rules() -> [(&'static str, Vec<Expr>); 8] {
    let member = |set: &str| Expr::Lookup { set: set.to_owned(), from: 0, to: None, invert: false };
    let vmap = Expr::LookupVerdict { set: SERVICES.to_owned(), from: 0 };
    let refused = Expr::Verdict(Verdict::Goto(REFUSED.to_owned()));
    let protocol = Expr::Meta { key: MetaKey::L4Proto, to: 0 };
    let tcp = Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![TCP] };
    [
        (OUTPUT, unless_alive()),
        (OUTPUT, vec![daddr(), vmap]),
        (REFUSE, vec![daddr(), member(VIPS), refused]),
        (REFUSED, unless_alive()),
        // Flows that somebody answered before the table was there: the engine's own balancing.
        (REFUSED, in_state(CT_ESTABLISHED | CT_RELATED, Verdict::Return)),
        // NAT does not see what conntrack takes for out of place; a reset would end the flow.
        (REFUSED, in_state(CT_INVALID, Verdict::Drop)),
        (REFUSED, vec![protocol, tcp, Expr::Reject(RejectWith::TcpReset)]),
        (REFUSED, vec![Expr::Reject(RejectWith::PortUnreachable)]),
    ]
}

/// The kernel's names of the expressions of [`rules`], by which a table is known to be ours.
pub(crate) const RULE_NAMES: [(&str, &[&str]); 8] = [
    (OUTPUT, &["immediate", "lookup", "immediate"]),
    (OUTPUT, &["payload", "lookup"]),
    (REFUSE, &["payload", "lookup", "immediate"]),
    (REFUSED, &["immediate", "lookup", "immediate"]),
    (REFUSED, &["ct", "bitwise", "cmp", "immediate"]),
    (REFUSED, &["ct", "bitwise", "cmp", "immediate"]),
    (REFUSED, &["meta", "cmp", "reject"]),
    (REFUSED, &["reject"]),
];

fn daddr() -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset: DADDR, len: ADDRESS_LEN, to: 0 }
}

fn unless_alive() -> Vec<Expr> {
    vec![
        Expr::Immediate { to: 0, data: ALIVE_KEY.to_vec() },
        Expr::Lookup { set: ALIVE.to_owned(), from: 0, to: None, invert: true },
        Expr::Verdict(Verdict::Return),
    ]
}

fn in_state(bits: u32, verdict: Verdict) -> Vec<Expr> {
    let none = 0_u32.to_ne_bytes().to_vec();
    let mask = bits.to_ne_bytes().to_vec();
    vec![
        Expr::Ct { key: CtKey::State, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor: none.clone() },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: none },
        Expr::Verdict(verdict),
    ]
}

/// The rule of a service's chain: how many slots it has, and in which half.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SlotRule {
    pub(crate) slots: u32,
    pub(crate) half: Half,
}

impl SlotRule {
    /// `None` without slots: there is nothing to count to.
    pub(crate) fn of(slots: &[Ipv4Addr], half: Half) -> Option<Self> {
        let slots = u32::try_from(slots.len()).ok()?;
        (slots > 0).then_some(Self { slots, half })
    }

    /// `dnat to ip daddr . numgen inc mod SLOTS offset HALF map @slots`.
    pub(crate) fn exprs(self) -> Vec<Expr> {
        vec![
            daddr(),
            Expr::Numgen { random: false, modulus: self.slots, offset: self.half.first(), to: 1 },
            Expr::Lookup { set: SLOTS.to_owned(), from: 0, to: Some(0), invert: false },
            Expr::Nat { kind: NatKind::Dnat, address: 0, port: None },
        ]
    }

    /// Tells the reader of the table what the expressions say.
    pub(crate) fn userdata(self) -> Vec<u8> {
        comment(&format!("portolan {LAYOUT}: {} slots from {}", self.slots, self.half.first()))
    }

    /// The expressions' names, as the kernel gives them back.
    pub(crate) const NAMES: [&str; 4] = ["payload", "numgen", "lookup", "nat"];

    pub(crate) fn read(userdata: &[u8]) -> Option<Self> {
        let (slots, first) = uncomment(userdata)?
            .strip_prefix(&format!("portolan {LAYOUT}: "))?
            .split_once(" slots from ")?;
        let half = Half::beginning_at(first.parse().ok()?)?;
        Some(Self { slots: slots.parse().ok().filter(|it| *it > 0)?, half })
    }
}

impl Capacity {
    /// What every rule of the frame carries: its layout and the sizes of the sets.
    pub(crate) fn userdata(self) -> Vec<u8> {
        let Self { slots, vips } = self;
        comment(&format!("portolan {LAYOUT}: room for {slots} slots, {vips} vips"))
    }

    pub(crate) fn read(userdata: &[u8]) -> Option<Self> {
        let (slots, vips) = uncomment(userdata)?
            .strip_prefix(&format!("portolan {LAYOUT}: room for "))?
            .strip_suffix(" vips")?
            .split_once(" slots, ")?;
        Some(Self { slots: slots.parse().ok()?, vips: vips.parse().ok()? })
    }
}

impl Half {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Lower => Self::Upper,
            Self::Upper => Self::Lower,
        }
    }

    pub(crate) fn first(self) -> u32 {
        match self {
            Self::Lower => 0,
            Self::Upper => UPPER,
        }
    }

    fn beginning_at(number: u32) -> Option<Self> {
        [Self::Lower, Self::Upper].into_iter().find(|it| it.first() == number)
    }
}

impl SlotKey {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let Self { vip, number } = self;
        // numgen writes its register in the machine's order.
        [vip.octets(), number.to_ne_bytes()].concat()
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (vip, number) = bytes.split_at_checked(4)?;
        let number = u32::from_ne_bytes(number.try_into().ok()?);
        Some(Self { vip: address(vip)?, number })
    }
}

impl Seed {
    /// FNV-1a of the sandbox's id: the same after a restart, another one elsewhere.
    pub(crate) fn of(sandbox: &str) -> Self {
        Self(fnv(0xcbf2_9ce4_8422_2325, sandbox.as_bytes()))
    }

    /// With which of `count` slots of `vip` the sandbox begins.
    pub(crate) fn start(self, vip: Ipv4Addr, count: usize) -> usize {
        let hash = fnv(self.0, &vip.octets());
        let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
        // The low bits of FNV-1a of similar texts are alike; the high ones are not.
        usize::try_from((hash >> 32) % count).unwrap_or(0)
    }
}

fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |it, byte| (it ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The name of a service's chain.
pub(crate) fn chain(vip: Ipv4Addr) -> String {
    format!("{CHAIN_PREFIX}{vip}")
}

/// The VIP whose chain this is.
pub(crate) fn chain_vip(name: &str) -> Option<Ipv4Addr> {
    name.strip_prefix(CHAIN_PREFIX)?.parse().ok().filter(|vip| chain(*vip) == name)
}

const CHAIN_PREFIX: &str = "vip-";

/// The element that makes an address a VIP.
pub(crate) fn member(vip: Ipv4Addr) -> Element {
    Element { key: key(vip), value: ElementValue::None, timeout: None }
}

/// The element that leads from a VIP to its chain.
pub(crate) fn service(vip: Ipv4Addr) -> Element {
    let value = ElementValue::Verdict(Verdict::Goto(chain(vip)));
    Element { key: key(vip), value, timeout: None }
}

pub(crate) fn key(vip: Ipv4Addr) -> Vec<u8> {
    vip.octets().to_vec()
}

/// The address whose bytes these are.
pub(crate) fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// The element of [`ALIVE`].
pub(crate) fn alive() -> Element {
    Element { key: ALIVE_KEY.to_vec(), value: ElementValue::None, timeout: Some(ALIVE_FOR) }
}

/// The text of what [`comment`] made: type, length, text, NUL (libnftnl's
/// `NFTNL_UDATA_RULE_COMMENT`).
fn uncomment(userdata: &[u8]) -> Option<&str> {
    let [COMMENT, length, text @ .., 0] = userdata else { return None };
    let whole = usize::from(*length) == text.len() + 1;
    std::str::from_utf8(text).ok().filter(|_| whole)
}

const COMMENT: u8 = 0;
/// IPPROTO_TCP.
const TCP: u8 = 6;
/// `NF_CT_STATE_BIT`s, as [`CtKey::State`] loads them.
const CT_INVALID: u32 = 1;
const CT_ESTABLISHED: u32 = 2;
const CT_RELATED: u32 = 4;

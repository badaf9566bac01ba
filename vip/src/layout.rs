//! How a table of balances is laid out in nftables, piece by piece. Pure.
//!
//! ```text
//! table ip portolan_vip {
//!   set alive     { type mark; timeout; 1 }            # runs out when portolan never comes back
//!   set vips      { type ipv4_addr; 10.0.1.2, .. }     # every VIP, tasks or not
//!   map services  { type ipv4_addr : verdict; 10.0.1.2 : goto vip-10.0.1.2, .. }
//!   map slots-0   { type ipv4_addr . mark : ipv4_addr; 10.0.1.2 . 0 : 10.0.1.5, .. }    # several
//!   chain vip-10.0.1.2 { dnat to ip daddr . numgen inc mod 2 map @slots-0 }    # one per service
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
//! - *several maps*: adding an element costs the kernel a look at every rule that uses the map, and
//!   every service has such a rule; so a map is shared by few services;
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

/// The sizes that a table was made with. They do not change: a table that is full is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Capacity {
    /// Over how many maps the slots are spread, from 1.
    pub(crate) maps: u32,
    /// How many VIPs the sets were declared for: declared sets look up faster, but cannot grow.
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

/// The sets and maps of a table.
pub(crate) fn sets(capacity: Capacity) -> Vec<SetSpec<'static>> {
    const VIP: &[KeyType] = &[KeyType::Ipv4Addr];
    const MARK: &[KeyType] = &[KeyType::Mark];
    let set = |name, key, value, size| SetSpec { name, key, value, timeout: false, size };
    let vips = Some(capacity.vips);
    vec![
        SetSpec { timeout: true, ..set(ALIVE, MARK, SetValue::None, None) },
        set(VIPS, VIP, SetValue::None, vips),
        set(SERVICES, VIP, SetValue::Verdict, vips),
    ]
}

/// One of the maps of slots.
pub(crate) fn slot_map(name: &str) -> SetSpec<'_> {
    const SLOT: &[KeyType] = &[KeyType::Ipv4Addr, KeyType::Mark];
    let value = SetValue::Data(KeyType::Ipv4Addr);
    SetSpec { name, key: SLOT, value, timeout: false, size: None }
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

    /// `dnat to ip daddr . numgen inc mod SLOTS offset HALF map @MAP`.
    pub(crate) fn exprs(self, map: &str) -> Vec<Expr> {
        vec![
            daddr(),
            Expr::Numgen { random: false, modulus: self.slots, offset: self.half.first(), to: 1 },
            Expr::Lookup { set: map.to_owned(), from: 0, to: Some(0), invert: false },
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
    /// Room for that many VIPs and half as many more.
    pub(crate) fn for_growth_of(vips: usize) -> Self {
        /// A small table grows often at first; its memory does not matter.
        const SPARE: u64 = 64;
        let used = u64::try_from(vips).unwrap_or(u64::MAX).min(u64::from(u32::MAX / 4));
        let room = (used + used / 2 + SPARE).next_power_of_two();
        // To find a map the kernel walks all of them, to change it all of its rules: as many of
        // these as of those is least work.
        let maps = (used.isqrt() * 2).next_power_of_two();
        let small = |it: u64| u32::try_from(it).unwrap_or(u32::MAX);
        Self { maps: small(maps), vips: small(room) }
    }

    /// The map that has the slots of a VIP.
    pub(crate) fn map_of(self, vip: Ipv4Addr) -> String {
        let hash = mixed(u64::from(vip.to_bits()));
        map_name(u32::try_from(hash % u64::from(self.maps.max(1))).unwrap_or(0))
    }

    /// The names of all maps of slots.
    pub(crate) fn map_names(self) -> impl Iterator<Item = String> {
        (0..self.maps).map(map_name)
    }

    /// What every rule of the frame carries: its layout and the sizes.
    pub(crate) fn userdata(self) -> Vec<u8> {
        let Self { maps, vips } = self;
        comment(&format!("portolan {LAYOUT}: {maps} maps, room for {vips} vips"))
    }

    pub(crate) fn read(userdata: &[u8]) -> Option<Self> {
        let (maps, vips) = uncomment(userdata)?
            .strip_prefix(&format!("portolan {LAYOUT}: "))?
            .strip_suffix(" vips")?
            .split_once(" maps, room for ")?;
        let maps = maps.parse().ok().filter(|it| (1..=MOST_MAPS).contains(it))?;
        Some(Self { maps, vips: vips.parse().ok()? })
    }
}

fn map_name(number: u32) -> String {
    format!("slots-{number}")
}

/// A table of ours has fewer: a claim of more is not ours.
const MOST_MAPS: u32 = 1 << 17;

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
        let step = |it: u64, byte: &u8| (it ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(sandbox.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// With which of `count` slots of `vip` the sandbox begins.
    pub(crate) fn start(self, vip: Ipv4Addr, count: usize) -> usize {
        let hash = mixed(self.0 ^ u64::from(vip.to_bits()));
        let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
        usize::try_from(hash % count).unwrap_or(0)
    }
}

/// Spreads numbers that differ in few bits (the finalizer of `MurmurHash3`).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let number = (number ^ (number >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
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
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `NF_CT_STATE_BIT`s, as [`CtKey::State`] loads them.
const CT_INVALID: u32 = 1;
const CT_ESTABLISHED: u32 = 2;
const CT_RELATED: u32 = 4;

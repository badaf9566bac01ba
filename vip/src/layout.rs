//! How a table of balances is laid out in nftables, piece by piece. Pure.
//!
//! ```text
//! table ip portolan_vip {                              # and `ip6`, where there are IPv6 VIPs
//!   set alive   { type mark; timeout; 1 }              # runs out when portolan never comes back
//!   set vips    { type ipv4_addr; 10.0.1.2, .. }       # every VIP, tasks or not
//!   set of-2    { type ipv4_addr; 10.0.1.2, .. }       # VIPs of 2 slots; one set for each number
//!   map slots   { type ipv4_addr . mark : ipv4_addr; 10.0.1.2 . 0 : 10.0.1.5, .. }
//!   chain output  { type nat hook output priority -110; 1 != @alive return; ip daddr @vips goto balance }
//!   chain again   { the same at priority -109 }
//!   chain balance { meta l4proto udp goto balance-udp
//!                   ip daddr @of-2 dnat to ip daddr . numgen random mod 2 map @slots  # for each }
//!   chain balance-udp { ip daddr @of-2 dnat to ip daddr . jhash SOURCE mod 2 map @slots }
//!   chain refuse  { type filter hook output priority 0; ip daddr @vips goto refused }
//!   chain refused { 1 != @alive return; ct state established,related return; ct state invalid drop
//!                   tcp: reset; reject }
//! }
//! ```
//!
//! With services whose clients keep their task also:
//!
//! ```text
//!   map affine { type ipv4_addr . ipv4_addr : ipv4_addr; dynamic; CLIENT . VIP : TASK, .. }
//!   set kept   { type ipv4_addr . ipv4_addr; VIP . TASK, .. }    # whom a client may keep
//!   chain balance: first of all   dnat to ip saddr . ip daddr map @affine
//!   chain learn { type filter hook output priority 0; new flows, translated, in @kept:
//!                 update @affine { ct original saddr . ct original daddr : ip daddr } }
//! ```
//!
//! Invariants
//! - *flat*: rules depend on how many slots services have, not on how many services there are; a
//!   change of a service is a few elements of plain sets and maps. An element of a verdict map would
//!   make the kernel walk all of it, and a rule or chain for each service all of these;
//! - *no holes*: rules and elements of one transaction do not become visible in one moment for a
//!   packet that is between two of them. Who finds no slot begins anew in `again`, which is then
//!   wholly after the transaction;
//! - *one choice for one socket*: datagrams of a socket that are sent at once are flows of their own
//!   until the first is confirmed; by a hash they all go to the same task;
//! - *printable*: `nft list` (1.0.6) gives up where a value that came out of a map is looked up in
//!   another one, so no rule does that.

mod rules;

use std::net::IpAddr;
use std::time::Duration;

use kernel::nft::{
    ChainKind, Element, ElementValue, Hook, HookPoint, KeyType, SetSpec, SetValue, comment,
};

pub(crate) use self::rules::{class_rules, frame_rules};
use crate::family::{IpFamily, octets};

/// Set of all VIPs.
pub(crate) const VIPS: &str = "vips";
/// Map of a VIP and a number to a task.
pub(crate) const SLOTS: &str = "slots";
/// Set that holds [`ALIVE_KEY`] while a portolan looks after the table.
pub(crate) const ALIVE: &str = "alive";
/// Map of a client and a VIP to the task that the client had last.
pub(crate) const AFFINE: &str = "affine";
/// Set of VIPs and tasks: whom a client may keep. What is learned too late, because a packet was on
/// its way when its task lost its slot, would lead the client's next ones there for hours.
pub(crate) const KEPT: &str = "kept";

/// How long the table works without a portolan that looks after it. Task addresses are given to
/// other containers in time; a restart or an update of portolan takes seconds.
pub(crate) const ALIVE_FOR: Duration = Duration::from_secs(600);

/// How long a client that says nothing keeps its task: as kube-proxy has it.
pub(crate) const AFFINE_FOR: Duration = Duration::from_secs(3 * 60 * 60);

/// Key of one slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct SlotKey {
    pub(crate) vip: IpAddr,
    pub(crate) number: u32,
}

/// The sizes that a table was made with: declared sets look up and load faster, but cannot grow. A
/// table that is full is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Capacity {
    /// VIPs.
    pub(crate) vips: u32,
    /// Slots of all VIPs.
    pub(crate) slots: u32,
    /// Clients that keep a task; 0: the table has nothing to do with them.
    pub(crate) clients: u32,
}

/// The version of this layout: a table of another one is replaced.
const LAYOUT: u32 = 2;

pub(crate) const OUTPUT: &str = "output";
pub(crate) const AGAIN: &str = "again";
pub(crate) const BALANCE: &str = "balance";
pub(crate) const BALANCE_UDP: &str = "balance-udp";
pub(crate) const LEARN: &str = "learn";
pub(crate) const REFUSE: &str = "refuse";
pub(crate) const REFUSED: &str = "refused";

/// Before the engine's own NAT in the same hook (-100): the engine has no say in VIPs.
const OUTPUT_PRIORITY: i32 = -110;
const AGAIN_PRIORITY: i32 = OUTPUT_PRIORITY + 1;
/// After NAT: what still goes to a VIP then has found no task.
const REFUSE_PRIORITY: i32 = 0;

/// The one element of [`ALIVE`].
const ALIVE_KEY: [u8; 4] = 1_u32.to_ne_bytes();

/// The chains of a table, with their hooks.
pub(crate) fn chains(capacity: Capacity) -> Vec<(&'static str, Option<Hook>)> {
    let hook = |kind, priority| Some(Hook { kind, point: HookPoint::Output, priority });
    let mut chains = vec![
        (OUTPUT, hook(ChainKind::Nat, OUTPUT_PRIORITY)),
        (AGAIN, hook(ChainKind::Nat, AGAIN_PRIORITY)),
        (BALANCE, None),
        (BALANCE_UDP, None),
        (REFUSE, hook(ChainKind::Filter, REFUSE_PRIORITY)),
        (REFUSED, None),
    ];
    if capacity.clients > 0 {
        chains.push((LEARN, hook(ChainKind::Filter, REFUSE_PRIORITY)));
    }
    chains
}

/// A set of a table.
#[derive(Debug)]
pub(crate) struct TableSet {
    pub(crate) name: &'static str,
    key: Vec<KeyType>,
    value: SetValue,
    timeout: bool,
    size: Option<u32>,
    /// Rules change it.
    pub(crate) dynamic: bool,
}

impl TableSet {
    pub(crate) fn spec(&self) -> SetSpec<'_> {
        let Self { name, ref key, value, timeout, size, dynamic: _ } = *self;
        SetSpec { name, key, value, timeout, size }
    }
}

/// The sets and maps that every table of `capacity` has.
pub(crate) fn sets(family: IpFamily, capacity: Capacity) -> Vec<TableSet> {
    let address = family.key_type();
    let plain = |name, key, value, size| TableSet {
        name,
        key,
        value,
        timeout: false,
        size,
        dynamic: false,
    };
    let task = SetValue::Data(address);
    let slot = vec![address, KeyType::Mark];
    let mut sets = vec![
        TableSet { timeout: true, ..plain(ALIVE, vec![KeyType::Mark], SetValue::None, None) },
        plain(VIPS, vec![address], SetValue::None, Some(capacity.vips)),
        plain(SLOTS, slot, task, Some(capacity.slots)),
    ];
    if capacity.clients > 0 {
        let learned = plain(AFFINE, vec![address, address], task, Some(capacity.clients));
        sets.push(TableSet { timeout: true, dynamic: true, ..learned });
        sets.push(plain(KEPT, vec![address, address], SetValue::None, None));
    }
    sets
}

/// The set of VIPs of one number of slots. It has no size: how many services have how many slots
/// changes all the time.
pub(crate) fn class_set(name: &str, family: IpFamily) -> SetSpec<'_> {
    const V4: &[KeyType] = &[KeyType::Ipv4Addr];
    const V6: &[KeyType] = &[KeyType::Ipv6Addr];
    let key = match family {
        IpFamily::V4 => V4,
        IpFamily::V6 => V6,
    };
    SetSpec { name, key, value: SetValue::None, timeout: false, size: None }
}

/// The name of the set of VIPs of `slots` slots.
pub(crate) fn class_name(slots: u32) -> String {
    format!("of-{slots}")
}

/// What a class's rules carry: the reader of the table knows them by it.
pub(crate) fn class_userdata(slots: u32) -> Vec<u8> {
    comment(&format!("portolan {LAYOUT}: {slots} slots"))
}

/// The number of slots of the class whose rule carries this.
pub(crate) fn read_class(userdata: &[u8]) -> Option<u32> {
    let slots = uncomment(userdata)?
        .strip_prefix(&format!("portolan {LAYOUT}: "))?
        .strip_suffix(" slots")?;
    slots.parse().ok().filter(|it| *it > 0)
}

impl Capacity {
    /// Room for so many and half as many more; `kept` VIPs have clients that keep their task.
    pub(crate) fn for_growth_of(vips: u32, slots: u32, kept: u32) -> Self {
        /// Clients of one VIP in one namespace: its own addresses.
        const CLIENTS: u32 = 8;
        let clients = if kept == 0 { 0 } else { room(kept.saturating_mul(CLIENTS)) };
        Self { vips: room(vips), slots: room(slots), clients }
    }

    /// What every rule of the frame carries: its layout and the sizes.
    pub(crate) fn userdata(self) -> Vec<u8> {
        let Self { vips, slots, clients } = self;
        comment(&format!(
            "portolan {LAYOUT}: room for {vips} vips, {slots} slots, {clients} clients"
        ))
    }

    pub(crate) fn read(userdata: &[u8]) -> Option<Self> {
        let sizes = uncomment(userdata)?
            .strip_prefix(&format!("portolan {LAYOUT}: room for "))?
            .strip_suffix(" clients")?;
        let (vips, rest) = sizes.split_once(" vips, ")?;
        let (slots, clients) = rest.split_once(" slots, ")?;
        Some(Self {
            vips: vips.parse().ok()?,
            slots: slots.parse().ok()?,
            clients: clients.parse().ok()?,
        })
    }
}

/// Room for growth. The kernel's tables of buckets are powers of two anyway.
fn room(used: u32) -> u32 {
    /// A small table grows often at first; its memory does not matter.
    const SPARE: u32 = 64;
    let wanted = used.saturating_add(used / 2).saturating_add(SPARE);
    wanted.checked_next_power_of_two().unwrap_or(u32::MAX)
}

impl SlotKey {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let Self { vip, number } = self;
        // numgen and jhash write their registers in the machine's order.
        [octets(vip), number.to_ne_bytes().to_vec()].concat()
    }

    pub(crate) fn read(family: IpFamily, bytes: &[u8]) -> Option<Self> {
        let (vip, number) = family.split(bytes)?;
        Some(Self { vip, number: u32::from_ne_bytes(number.try_into().ok()?) })
    }

    /// The element that leads from here to a task.
    pub(crate) fn to(self, task: IpAddr) -> Element {
        Element { key: self.bytes(), value: ElementValue::Data(octets(task)), timeout: None }
    }
}

/// The element that puts an address into a set.
pub(crate) fn member(vip: IpAddr) -> Element {
    Element { key: octets(vip), value: ElementValue::None, timeout: None }
}

/// The element of [`KEPT`] that lets clients of a VIP keep a task.
pub(crate) fn keep(vip: IpAddr, task: IpAddr) -> Element {
    Element { key: keep_key(vip, task), value: ElementValue::None, timeout: None }
}

pub(crate) fn keep_key(vip: IpAddr, task: IpAddr) -> Vec<u8> {
    [octets(vip), octets(task)].concat()
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

//! Clients that keep their task (`portolan.vip.affinity=client`): a table remembers where it led
//! whom, and leads him there again. Pure, but for [`forget`].
//!
//! ```text
//! map affine { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; dynamic }
//! set kept   { type inet_proto . inet_service . ipv4_addr . inet_service }  # whom a client may keep
//! chain client-4-lower { dnat to saddr . l4proto . dport map @affine; dnat to .. jhash saddr .. }
//! chain learn { type filter hook postrouting priority 0; new flows, translated, in @kept:
//!               update @affine { ct original saddr . l4proto . dport : daddr . dport } }
//! ```
//!
//! Invariants
//! - *kept while it serves*: whoever else comes or goes does not matter to who has a task;
//! - *known tasks only*: rules learn only what is in `kept`, so that what is forgotten after a
//!   transaction does not come back;
//! - *bounded*: the map has room for [`CLIENTS`]; who comes after them is led by his address alone,
//!   the same on all nodes, as is who comes for the first time.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use kernel::nft::{
    Batch, ChainKind, CmpOp, CtKey, Element, ElementValue, Expr, Hook, HookPoint, KeyType, MetaKey,
    NatKind, NftError, PayloadBase, SetValue, Socket, concat,
};

use super::balance::{DADDR, DPORT, SADDR};
use super::plan::Port;
use super::table::{Ruleset, Set, TABLE};
use crate::layout::AFFINE_FOR;

/// Map of clients and ports to tasks.
const AFFINE: &str = "affine";
/// Set of ports and tasks: whom a client may keep.
const KEPT: &str = "kept-tasks";
const LEARN: &str = "learn";

const CLIENT: &[KeyType] = &[KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService];
const TASK: &[KeyType] =
    &[KeyType::InetProto, KeyType::InetService, KeyType::Ipv4Addr, KeyType::InetService];

/// Clients that are remembered: as many as kube-proxy's map would have. Some 10 MiB of the kernel.
const CLIENTS: u32 = 65_536;

/// What a table needs to remember clients of these ports and tasks.
pub(crate) fn write<'a>(
    ports: impl Iterator<Item = (Port, &'a [SocketAddrV4])>,
    ruleset: &mut Ruleset,
) {
    let address = SetValue::Pair(KeyType::Ipv4Addr, KeyType::InetService);
    ruleset.sets.insert(AFFINE, Set::learned(CLIENT, address, CLIENTS));
    ruleset.set(KEPT, TASK, SetValue::None);
    for (port, slots) in ports {
        for slot in slots {
            ruleset.element(KEPT, kept_key(&port.key(), *slot), ElementValue::None);
        }
    }
    let (kind, point) = (ChainKind::Filter, HookPoint::Postrouting);
    ruleset.base(LEARN, Hook { kind, point, priority: 0 });
    ruleset.rule(LEARN, learn());
}

/// Leads a client to the task that it had last; goes on without one.
pub(crate) fn to_last_task() -> Vec<Expr> {
    vec![
        network(SADDR, 0),
        Expr::Meta { key: MetaKey::L4Proto, to: 1 },
        transport(DPORT, 2),
        Expr::Lookup { set: AFFINE.to_owned(), from: 0, to: Some(0), invert: false },
        Expr::Nat { kind: NatKind::Dnat, address: 0, port: Some(1) },
    ]
}

fn learn() -> Vec<Expr> {
    let port = |to| Expr::Ct { key: CtKey::OriginalPort, to };
    let protocol = |to| Expr::Meta { key: MetaKey::L4Proto, to };
    let mut rule = only(CtKey::State, CT_NEW);
    rule.extend(only(CtKey::Status, IPS_DST_NAT));
    rule.extend([protocol(0), port(1), network(DADDR, 2), transport(DPORT, 3)]);
    rule.push(Expr::Lookup { set: KEPT.to_owned(), from: 0, to: None, invert: false });
    rule.extend([Expr::Ct { key: CtKey::OriginalSource4, to: 0 }, protocol(1), port(2)]);
    rule.extend([network(DADDR, 3), transport(DPORT, 4)]);
    let (set, timeout) = (AFFINE.to_owned(), Some(AFFINE_FOR));
    rule.push(Expr::DynsetUpdate { set, key: 0, value: Some(3), timeout });
    rule
}

/// Whether clients may have to forget a task when `old` becomes `new`.
pub(crate) fn loses(old: &Ruleset, new: &Ruleset) -> bool {
    let kept = |it: &Ruleset| it.sets.get(KEPT).map(|it| it.elements.clone()).unwrap_or_default();
    let new = kept(new);
    kept(old).keys().any(|it| !new.contains_key(it))
}

/// Makes clients forget whom they may not keep by `ruleset`, which the kernel has.
pub(crate) fn forget(socket: &mut Socket, ruleset: &Ruleset) -> Result<(), NftError> {
    /// What is learned may run out between reading and deleting, and then nothing is deleted.
    const ATTEMPTS: u32 = 8;
    let Some(kept) = ruleset.sets.get(KEPT) else { return Ok(()) };
    let kept: BTreeSet<&Vec<u8>> = kept.elements.keys().collect();
    let may_stay = |it: &Element| kept_by(it).is_some_and(|key| kept.contains(&key));
    socket.limit(usize::try_from(CLIENTS).unwrap_or(usize::MAX).saturating_add(1));
    let mut attempts = 0;
    loop {
        let learned = socket.elements(TABLE, AFFINE)?;
        let stale: Vec<_> =
            learned.into_iter().filter(|it| !may_stay(it)).map(|it| it.key).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete_elements(TABLE, AFFINE, &stale);
        attempts += 1;
        match socket.commit(&batch) {
            Err(error) if error.is_absent() && attempts < ATTEMPTS => {}
            done => return done,
        }
    }
}

/// The key under which a learned element's task is kept, as long as it is. `None`: no rule of ours
/// learns such a thing.
fn kept_by(learned: &Element) -> Option<Vec<u8>> {
    let ElementValue::Data(task) = &learned.value else { return None };
    let port = learned.key.get(4..)?;
    Some([port, task.as_slice()].concat())
}

fn kept_key(port: &[u8], task: SocketAddrV4) -> Vec<u8> {
    concat(&[port, &task.ip().octets(), &task.port().to_be_bytes()])
}

/// Goes on where the flow has one of these bits.
fn only(key: CtKey, bits: u32) -> Vec<Expr> {
    let (mask, none) = (bits.to_ne_bytes().to_vec(), vec![0; 4]);
    vec![
        Expr::Ct { key, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor: none.clone() },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: none },
    ]
}

fn network(offset: u32, to: u8) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset, len: 4, to }
}

fn transport(offset: u32, to: u8) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset, len: 2, to }
}

/// `NF_CT_STATE_BIT`, as [`CtKey::State`] loads it.
const CT_NEW: u32 = 8;
/// `IPS_DST_NAT`.
const IPS_DST_NAT: u32 = 1 << 5;

//! Keeps connections that one side has half closed: by default conntrack forgets them after a
//! minute of silence, and what the other side says later finds no client. (Open ones it remembers
//! for five days.)
//!
//! A table of its own, the same in every sandbox, `inet portolan_idle`: flows that are translated
//! get a longer time-out with their first packet, and no later one sees the table.
//!
//! Invariants
//! - *the namespace's settings stay*: they are the container's, and hold for all its other flows;
//! - *not needed*: without it, as on a kernel that cannot do it, VIPs work all the same.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use kernel::nft::{
    Batch, ChainKind, CmpOp, CtKey, Expr, Family, Hook, HookPoint, MetaKey, NftError, Socket, Table,
};

/// Longer than a request takes whose answer nobody waits for any more; a side that never closes
/// costs a few hundred bytes for so long.
const HALF_CLOSED: Duration = Duration::from_secs(60 * 60);

const TABLE: Table<'static> = Table { family: Family::Inet, name: "portolan_idle" };
const CHAIN: &str = "postrouting";
const OBJECT: &str = "half-closed";

/// After the translation of addresses, before the flow is confirmed.
const HOOK: Hook = Hook { kind: ChainKind::Nat, point: HookPoint::Postrouting, priority: 90 };

/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `IPS_DST_NAT`.
const IPS_DST_NAT: u32 = 1 << 5;

/// Makes the table where it is not there. What fails is said once for all namespaces.
pub(crate) fn make(socket: &mut Socket) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if let Err(error) = try_to(socket)
        && !SAID.swap(true, Relaxed)
    {
        tracing::warn!(%error, "half-closed connections that are idle for a minute will be lost");
    }
}

fn try_to(socket: &mut Socket) -> Result<(), NftError> {
    if is_there(socket)? {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.add_table(TABLE, false);
    batch.add_tcp_timeouts(TABLE, OBJECT, HALF_CLOSED);
    batch.add_chain(TABLE, CHAIN, Some(HOOK));
    let mask = IPS_DST_NAT.to_ne_bytes().to_vec();
    let none = 0_u32.to_ne_bytes().to_vec();
    let rule = [
        Expr::Meta { key: MetaKey::L4Proto, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![TCP] },
        Expr::Ct { key: CtKey::Status, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor: none.clone() },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: none },
        Expr::Timeouts(OBJECT.to_owned()),
    ];
    batch.add_rule(TABLE, CHAIN, &rule, b"");
    socket.commit(&batch)
}

/// Removes the table with `batch`, if it is there; whether it is.
pub(crate) fn remove(socket: &mut Socket, batch: &mut Batch) -> Result<bool, NftError> {
    let there = is_there(socket)?;
    if there {
        batch.delete_table(TABLE);
    }
    Ok(there)
}

fn is_there(socket: &mut Socket) -> Result<bool, NftError> {
    let tables = socket.tables()?;
    Ok(tables.iter().any(|it| it.family == TABLE.family && it.name == TABLE.name))
}

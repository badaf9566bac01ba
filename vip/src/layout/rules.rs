//! The rules of a table, as expressions. What they are for is told in [`super`].
//!
//! Always true here: nothing depends on a service. Registers are loaded by each rule for itself.

use kernel::nft::{CmpOp, CtKey, Expr, MetaKey, NatKind, PayloadBase, RejectWith, Verdict};

use super::{
    AFFINE, AFFINE_FOR, AGAIN, ALIVE, ALIVE_KEY, BALANCE, BALANCE_UDP, Capacity, KEPT, LEARN,
    OUTPUT, REFUSE, REFUSED, SLOTS, VIPS, class_name,
};
use crate::family::IpFamily;

/// A rule: its chain and what it does.
pub(crate) type Rule = (&'static str, Vec<Expr>);

/// The rules that every table has, in order; those of a class follow them in its chains.
pub(crate) fn frame_rules(family: IpFamily, capacity: Capacity) -> Vec<Rule> {
    let to_balance = || vec![family.daddr(0), lookup(VIPS, 0), goto(BALANCE)];
    let mut rules = vec![
        (OUTPUT, unless_alive()),
        (OUTPUT, to_balance()),
        (AGAIN, unless_alive()),
        (AGAIN, to_balance()),
    ];
    if capacity.clients > 0 {
        rules.push((BALANCE, to_last_task(family)));
        rules.push((LEARN, learn(family)));
    }
    rules.push((BALANCE, [protocol(UDP), vec![goto(BALANCE_UDP)]].concat()));
    rules.extend([
        (REFUSE, vec![family.daddr(0), lookup(VIPS, 0), goto(REFUSED)]),
        (REFUSED, unless_alive()),
        // Flows that somebody answered before the table was there: the engine's own balancing.
        (REFUSED, in_state(CT_ESTABLISHED | CT_RELATED, Verdict::Return)),
        // NAT does not see what conntrack takes for out of place; a reset would end the flow.
        (REFUSED, in_state(CT_INVALID, Verdict::Drop)),
        (REFUSED, [protocol(TCP), vec![Expr::Reject(RejectWith::TcpReset)]].concat()),
        (REFUSED, vec![Expr::Reject(RejectWith::PortUnreachable)]),
    ]);
    rules
}

/// The rules of the VIPs of `slots` slots.
pub(crate) fn class_rules(family: IpFamily, slots: u32) -> [Rule; 2] {
    let number = family.registers();
    let rule = |choose: Vec<Expr>| {
        let mut rule = vec![family.daddr(0), lookup(&class_name(slots), 0)];
        rule.extend(choose);
        rule.extend([map(SLOTS), DNAT]);
        rule
    };
    let random = || vec![Expr::Numgen { random: true, modulus: slots, offset: 0, to: number }];
    // The kernel refuses to hash into one place.
    let hashed = if slots > 1 { hash(family, slots, number) } else { random() };
    [(BALANCE, rule(random())), (BALANCE_UDP, rule(hashed))]
}

/// `jhash saddr . sport . dport mod SLOTS`.
fn hash(family: IpFamily, slots: u32, to: u8) -> Vec<Expr> {
    /// The first register behind the key.
    const FROM: u8 = 5;
    let port = |offset, to| Expr::Payload { base: PayloadBase::Transport, offset, len: 2, to };
    let ports = FROM + family.registers();
    let len = (u32::from(family.registers()) + 2) * REGISTER;
    vec![
        family.saddr(FROM),
        port(0, ports),
        port(2, ports + 1),
        Expr::Jhash { from: FROM, len, modulus: slots, offset: 0, seed: 0, to },
    ]
}

/// `dnat to saddr . daddr map @affine`.
fn to_last_task(family: IpFamily) -> Vec<Expr> {
    vec![family.saddr(0), family.daddr(family.registers()), map(AFFINE), DNAT]
}

/// Where NAT led the first packet of a flow is where the client's next ones go.
fn learn(family: IpFamily) -> Vec<Expr> {
    let width = family.registers();
    let mut rule = only(CtKey::State, CT_NEW);
    rule.extend(only(CtKey::Status, IPS_DST_NAT));
    rule.extend([family.original_daddr(0), family.daddr(width), lookup(KEPT, 0)]);
    rule.extend([
        family.original_saddr(0),
        family.original_daddr(width),
        family.daddr(2 * width),
        Expr::DynsetUpdate {
            set: AFFINE.to_owned(),
            key: 0,
            value: Some(2 * width),
            timeout: Some(AFFINE_FOR),
        },
    ]);
    rule
}

fn unless_alive() -> Vec<Expr> {
    vec![
        Expr::Immediate { to: 0, data: ALIVE_KEY.to_vec() },
        Expr::Lookup { set: ALIVE.to_owned(), from: 0, to: None, invert: true },
        Expr::Verdict(Verdict::Return),
    ]
}

fn in_state(bits: u32, verdict: Verdict) -> Vec<Expr> {
    let mut rule = only(CtKey::State, bits);
    rule.push(Expr::Verdict(verdict));
    rule
}

/// Goes on where the flow has one of these bits.
fn only(key: CtKey, bits: u32) -> Vec<Expr> {
    let none = 0_u32.to_ne_bytes().to_vec();
    let mask = bits.to_ne_bytes().to_vec();
    vec![
        Expr::Ct { key, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor: none.clone() },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: none },
    ]
}

fn protocol(number: u8) -> Vec<Expr> {
    let load = Expr::Meta { key: MetaKey::L4Proto, to: 0 };
    vec![load, Expr::Cmp { op: CmpOp::Eq, from: 0, data: vec![number] }]
}

fn lookup(set: &str, from: u8) -> Expr {
    Expr::Lookup { set: set.to_owned(), from, to: None, invert: false }
}

/// What `set` has for the key in the first registers, into the first registers.
fn map(set: &str) -> Expr {
    Expr::Lookup { set: set.to_owned(), from: 0, to: Some(0), invert: false }
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

const DNAT: Expr = Expr::Nat { kind: NatKind::Dnat, address: 0, port: None };

/// Bytes of one register.
const REGISTER: u32 = 4;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// `NF_CT_STATE_BIT`s, as [`CtKey::State`] loads them.
const CT_INVALID: u32 = 1;
const CT_ESTABLISHED: u32 = 2;
const CT_RELATED: u32 = 4;
const CT_NEW: u32 = 8;
/// `IPS_DST_NAT`.
const IPS_DST_NAT: u32 = 1 << 5;

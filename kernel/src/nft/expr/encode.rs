//! Expressions in their netlink form.
//!
//! Always true here: nothing is checked; what is wrong is refused by the kernel.

use std::time::Duration;

use super::{Checksum, CtKey, Expr, NatKind, PayloadBase, RejectWith};
use crate::netlink::wire::Writer;
use crate::nft::set::NFTA_DATA_VALUE;
use crate::nft::table::Family;

/// Writes one expression: its name and its data.
pub(in crate::nft) fn write(it: &mut Writer, family: Family, expr: &Expr) {
    it.text(NFTA_EXPR_NAME, name(expr));
    it.nest(NFTA_EXPR_DATA, |it| write_data(it, family, expr));
}

pub(super) fn name(expr: &Expr) -> &'static str {
    match expr {
        Expr::Payload { .. } | Expr::PayloadWrite { .. } => "payload",
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Cmp { .. } => "cmp",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Lookup { .. } | Expr::LookupVerdict { .. } => "lookup",
        Expr::Timeouts(_) => "objref",
        Expr::Numgen { .. } => "numgen",
        Expr::Jhash { .. } => "hash",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade => "masq",
        Expr::Redirect { .. } => "redir",
        Expr::Notrack => "notrack",
        Expr::Counter => "counter",
        Expr::Reject(_) => "reject",
        Expr::Ct { .. } | Expr::CtSet { .. } => "ct",
        Expr::Bitwise { .. } => "bitwise",
        Expr::DynsetUpdate { .. } => "dynset",
        Expr::FibDaddrType { .. } => "fib",
    }
}

/// The numbers are the attributes' (`NFTA_*` of each expression) in `linux/netfilter/nf_tables.h`.
fn write_data(it: &mut Writer, family: Family, expr: &Expr) {
    match expr {
        Expr::Payload { base, offset, len, to } => {
            let base = u32::from(*base as u8);
            numbers(it, &[(1, register(*to)), (2, base), (3, *offset), (4, *len)]);
        }
        Expr::PayloadWrite { base, offset, len, from, checksum } => {
            let number = u32::from(*base as u8);
            numbers(it, &[(5, register(*from)), (2, number), (3, *offset), (4, *len)]);
            checksum.write(it, *base);
        }
        Expr::Meta { key, to } => {
            numbers(it, &[(1, register(*to)), (2, u32::from(*key as u8))]);
        }
        Expr::MetaSet { key, from } => {
            numbers(it, &[(2, u32::from(*key as u8)), (3, register(*from))]);
        }
        Expr::Ct { key, to } => key.write(it, *to),
        Expr::CtSet { key, from } => {
            numbers(it, &[(2, u32::from(*key as u8)), (4, register(*from))]);
        }
        Expr::Cmp { op, from, data } => {
            numbers(it, &[(1, register(*from)), (2, u32::from(*op as u8))]);
            value(it, 3, data);
        }
        Expr::Immediate { to, data } => {
            it.be32(1, register(*to));
            value(it, 2, data);
        }
        Expr::Verdict(verdict) => {
            it.be32(1, NFT_REG_VERDICT);
            it.nest(2, |it| verdict.write(it));
        }
        Expr::Lookup { set, from, to, invert } => {
            lookup(it, set, *from, to.map(register));
            if *invert {
                it.be32(5, NFT_LOOKUP_F_INV);
            }
        }
        Expr::LookupVerdict { set, from } => lookup(it, set, *from, Some(NFT_REG_VERDICT)),
        Expr::Timeouts(name) => {
            it.be32(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_CT_TIMEOUT);
            it.text(NFTA_OBJREF_IMM_NAME, name);
        }
        Expr::Numgen { random, modulus, offset, to } => {
            let kind = u32::from(*random);
            numbers(it, &[(1, register(*to)), (2, *modulus), (3, kind), (4, *offset)]);
        }
        Expr::Jhash { from, len, modulus, offset, seed, to } => {
            numbers(it, &[(1, register(*from)), (2, register(*to)), (3, *len)]);
            numbers(it, &[(4, *modulus), (5, *seed), (6, *offset)]);
        }
        Expr::DynsetUpdate { set, key, value, timeout } => {
            update(it, set, *key, *value, *timeout);
        }
        Expr::Nat { kind, address, port } => nat(it, family, *kind, *address, *port),
        Expr::Bitwise { from, to, mask, xor } => {
            let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
            numbers(it, &[(1, register(*from)), (2, register(*to)), (3, length)]);
            value(it, 4, mask);
            value(it, 5, xor);
        }
        Expr::FibDaddrType { to } => {
            let (result, flags) = (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR);
            numbers(it, &[(1, register(*to)), (2, result), (3, flags)]);
        }
        Expr::Redirect { port } => numbers(it, &[(1, register(*port)), (2, register(*port))]),
        Expr::Reject(with) => with.write(it, family),
        // These have nothing to say beyond their name.
        Expr::Masquerade | Expr::Notrack | Expr::Counter => {}
    }
}

impl Checksum {
    fn write(self, it: &mut Writer, base: PayloadBase) {
        let Self::Inet { offset } = self else { return };
        // TCP's and UDP's checksums cover the network header's addresses.
        let flags = match base {
            PayloadBase::Network => NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
            PayloadBase::Link | PayloadBase::Transport => 0,
        };
        numbers(it, &[(6, NFT_PAYLOAD_CSUM_INET), (7, offset), (8, flags)]);
    }
}

impl CtKey {
    fn write(self, it: &mut Writer, to: u8) {
        numbers(it, &[(1, register(to)), (2, u32::from(self as u8))]);
        if self.has_direction() {
            it.attribute(3, &[IP_CT_DIR_ORIGINAL]);
        }
    }

    /// Whether the kernel wants to know of which direction of the flow.
    fn has_direction(self) -> bool {
        match self {
            Self::State | Self::Direction | Self::Status | Self::Mark => false,
            Self::OriginalPort
            | Self::OriginalSource4
            | Self::OriginalDestination4
            | Self::OriginalSource6
            | Self::OriginalDestination6 => true,
        }
    }
}

impl RejectWith {
    fn write(self, it: &mut Writer, family: Family) {
        let (kind, code) = match (self, family) {
            (Self::TcpReset, _) => (NFT_REJECT_TCP_RST, 0),
            (Self::PortUnreachable, Family::Ip) => (NFT_REJECT_ICMP_UNREACH, ICMP_PORT_UNREACH),
            (Self::PortUnreachable, Family::Ip6) => (NFT_REJECT_ICMP_UNREACH, ICMPV6_PORT_UNREACH),
            (Self::PortUnreachable, Family::Inet) => {
                (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH)
            }
        };
        it.be32(1, kind);
        it.attribute(2, &[code]);
    }
}

fn nat(it: &mut Writer, family: Family, kind: NatKind, address: u8, port: Option<u8>) {
    let family = match family {
        Family::Ip | Family::Inet => Family::Ip,
        Family::Ip6 => Family::Ip6,
    };
    let address = register(address);
    numbers(it, &[(1, u32::from(kind as u8)), (2, u32::from(family as u8))]);
    numbers(it, &[(3, address), (4, address)]);
    if let Some(port) = port {
        numbers(it, &[(5, register(port)), (6, register(port))]);
    }
}

fn lookup(it: &mut Writer, set: &str, from: u8, to: Option<u32>) {
    it.text(1, set);
    it.be32(2, register(from));
    if let Some(to) = to {
        it.be32(3, to);
    }
}

fn update(it: &mut Writer, set: &str, key: u8, value: Option<u8>, timeout: Option<Duration>) {
    it.text(1, set);
    numbers(it, &[(3, NFT_DYNSET_OP_UPDATE), (4, register(key))]);
    if let Some(value) = value {
        it.be32(5, register(value));
    }
    if let Some(timeout) = timeout {
        let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        it.attribute(6, &milliseconds.to_be_bytes());
    }
}

fn value(it: &mut Writer, attribute: u16, data: &[u8]) {
    it.nest(attribute, |it| it.attribute(NFTA_DATA_VALUE, data));
}

fn numbers(it: &mut Writer, pairs: &[(u16, u32)]) {
    for (attribute, number) in pairs {
        it.be32(*attribute, *number);
    }
}

/// `NFT_REG32_00` is 8; the kernel refuses those past `NFT_REG32_15`.
fn register(number: u8) -> u32 {
    u32::from(number) + 8
}

pub(in crate::nft) const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
const IP_CT_DIR_ORIGINAL: u8 = 0;
const NFT_DYNSET_OP_UPDATE: u32 = 1;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFT_PAYLOAD_CSUM_INET: u32 = 1;
const NFT_PAYLOAD_L4CSUM_PSEUDOHDR: u32 = 1;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
const NFT_REJECT_ICMP_UNREACH: u32 = 0;
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFT_REJECT_ICMPX_PORT_UNREACH: u8 = 1;
const ICMP_PORT_UNREACH: u8 = 3;
const ICMPV6_PORT_UNREACH: u8 = 4;
const NFTA_OBJREF_IMM_TYPE: u16 = 1;
const NFTA_OBJREF_IMM_NAME: u16 = 2;
/// The kind of object; also where one is made.
pub(in crate::nft) const NFT_OBJECT_CT_TIMEOUT: u32 = 7;

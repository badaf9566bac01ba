//! Expressions of nftables rules, as data, and their netlink form.
//!
//! Always true here: registers are the kernel's sixteen 4-byte ones, numbered 0 to 15; what is
//! longer than 4 bytes fills the following ones too. Offsets and lengths are in bytes.

use crate::netlink::wire::Writer;
use crate::nft::set::{NFTA_DATA_VALUE, Verdict};
use crate::nft::table::Family;

/// One expression; a rule is a list of them, and ends where one does not match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Expr {
    /// Loads a piece of the packet.
    Payload {
        /// Which header.
        base: PayloadBase,
        /// From its start.
        offset: u32,
        /// How much; 1 and 2 bytes are followed by zeroes in the register.
        len: u32,
        /// Register.
        to: u8,
    },
    /// Overwrites a piece of the packet.
    PayloadWrite {
        /// Which header.
        base: PayloadBase,
        /// From its start.
        offset: u32,
        /// How much.
        len: u32,
        /// Register.
        from: u8,
        /// The checksum to be corrected.
        checksum: Checksum,
    },
    /// Loads a fact about the packet.
    Meta {
        /// Which.
        key: MetaKey,
        /// Register.
        to: u8,
    },
    /// Sets a fact about the packet: its mark.
    MetaSet {
        /// Which.
        key: MetaKey,
        /// Register.
        from: u8,
    },
    /// Goes on only where the register compares so.
    Cmp {
        /// How.
        op: CmpOp,
        /// Register.
        from: u8,
        /// With what.
        data: Vec<u8>,
    },
    /// Loads a constant.
    Immediate {
        /// Register.
        to: u8,
        /// At most 64 bytes.
        data: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Goes on only where the set has the key, or with `invert` where it has not. With `to`, a
    /// map's value is loaded.
    Lookup {
        /// Name of the set or map.
        set: String,
        /// First register of the key.
        from: u8,
        /// First register of the value.
        to: Option<u8>,
        /// Turns the match round.
        invert: bool,
    },
    /// Ends the rule with the verdict that the map has for the key; goes on without one.
    LookupVerdict {
        /// Name of the map.
        set: String,
        /// First register of the key.
        from: u8,
    },
    /// Loads a number that counts up with each packet seen (of the rule, not of a service), or a
    /// random one; 32 bits in the host's order.
    Numgen {
        /// Random instead of counted.
        random: bool,
        /// Below which it stays, not zero.
        modulus: u32,
        /// Is added.
        offset: u32,
        /// Register.
        to: u8,
    },
    /// Loads a hash of registers, modulo `modulus`, 32 bits in the host's order.
    Jhash {
        /// First register hashed.
        from: u8,
        /// How many bytes, from 1.
        len: u32,
        /// Below which it stays, more than 1.
        modulus: u32,
        /// Makes this hash differ from others.
        seed: u32,
        /// Register.
        to: u8,
    },
    /// Translates the flow's address, and its port where one is given; in chains of kind nat.
    /// In a table of family inet the address is IPv4.
    Nat {
        /// Destination or source.
        kind: NatKind,
        /// First register of the address.
        address: u8,
        /// Register of the port, in network order.
        port: Option<u8>,
    },
    /// Translates the flow's source to the address of the interface that it leaves by.
    Masquerade,
    /// Translates the flow's destination to this namespace itself (loopback for what starts here,
    /// the interface's address for what arrives), to the port in the register, network order.
    Redirect {
        /// Register.
        port: u8,
    },
    /// The packet is not tracked; only before conntrack (priority below -200).
    Notrack,
    /// Counts packets and bytes.
    Counter,
    /// Refuses with an answer.
    Reject(RejectWith),
    /// Loads a fact about the packet's flow.
    Ct {
        /// Which.
        key: CtKey,
        /// Register.
        to: u8,
    },
    /// Sets a fact about the packet's flow: its mark.
    CtSet {
        /// Which.
        key: CtKey,
        /// Register.
        from: u8,
    },
    /// Loads `(from & mask) ^ xor`; mask and xor are of the operands' length.
    Bitwise {
        /// First register read.
        from: u8,
        /// First register written.
        to: u8,
        /// Bits kept.
        mask: Vec<u8>,
        /// Bits turned.
        xor: Vec<u8>,
    },
    /// Loads what the destination is here (`RTN_*`: 1 unicast, 2 local, ...), 32 bits in the
    /// host's order.
    FibDaddrType {
        /// Register.
        to: u8,
    },
}

/// Which header a payload expression means. Its number is that of `NFT_PAYLOAD_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum PayloadBase {
    /// Ethernet; not in the output hook.
    Link = 0,
    /// IPv4 or IPv6.
    Network = 1,
    /// TCP, UDP ...
    Transport = 2,
}

/// What is corrected when a packet is overwritten.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checksum {
    /// Nothing.
    None,
    /// The Internet checksum at `offset` in the same header: 10 for IPv4, 6 for UDP, 16 for TCP.
    /// A UDP checksum of zero (none) stays zero. Overwriting the network header also corrects
    /// the transport's checksum, which covers the addresses.
    Inet {
        /// From the header's start.
        offset: u32,
    },
}

/// A fact about a packet. Its number is that of `NFT_META_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum MetaKey {
    /// 32 bits in the host's order; can be set.
    Mark = 3,
    /// Name of the interface it came by, 16 bytes ended with zeroes.
    IifName = 6,
    /// Name of the interface it leaves by, 16 bytes ended with zeroes.
    OifName = 7,
    /// `NFPROTO_*` of the packet, 1 byte: 2 IPv4, 10 IPv6.
    NfProto = 15,
    /// IP protocol number, 1 byte.
    L4Proto = 16,
}

/// How two values compare. Its number is that of `NFT_CMP_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum CmpOp {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Ne = 1,
}

/// Which address is translated. Its number is that of `NFT_NAT_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum NatKind {
    /// The source.
    Snat = 0,
    /// The destination.
    Dnat = 1,
}

/// What is answered to a refused packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RejectWith {
    /// A TCP reset; only for TCP packets.
    TcpReset,
    /// ICMP (for IPv6 its ICMP) "port unreachable".
    PortUnreachable,
}

/// A fact about a packet's flow. Its number is that of `NFT_CT_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum CtKey {
    /// A bit of 32 in the host's order: 1 invalid, 2 established, 4 related, 8 new, 64 untracked.
    State = 0,
    /// 1 byte: 0 original, 1 reply.
    Direction = 1,
    /// `IPS_*` bits, 32 in the host's order: 16 source translated, 32 destination translated.
    Status = 2,
    /// 32 bits in the host's order; can be set.
    Mark = 3,
}

/// Writes one expression: its name and its data.
pub(super) fn write(it: &mut Writer, family: Family, expr: &Expr) {
    it.text(NFTA_EXPR_NAME, name(expr));
    it.nest(NFTA_EXPR_DATA, |it| write_data(it, family, expr));
}

/// The kernel's name of an expression, as [`crate::nft::RuleInfo`] gives it.
fn name(expr: &Expr) -> &'static str {
    match expr {
        Expr::Payload { .. } | Expr::PayloadWrite { .. } => "payload",
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Cmp { .. } => "cmp",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Lookup { .. } | Expr::LookupVerdict { .. } => "lookup",
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
        Expr::Ct { key, to } => numbers(it, &[(1, register(*to)), (2, u32::from(*key as u8))]),
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
        Expr::Numgen { random, modulus, offset, to } => {
            let kind = u32::from(*random);
            numbers(it, &[(1, register(*to)), (2, *modulus), (3, kind), (4, *offset)]);
        }
        Expr::Jhash { from, len, modulus, seed, to } => {
            numbers(it, &[(1, register(*from)), (2, register(*to)), (3, *len)]);
            numbers(it, &[(4, *modulus), (5, *seed)]);
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

pub(super) const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
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

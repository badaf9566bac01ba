//! Expressions of nftables rules, as data.
//!
//! Always true here: registers are the kernel's sixteen 4-byte ones, numbered 0 to 15; what is
//! longer than 4 bytes fills the following ones too. Offsets and lengths are in bytes.

mod encode;

use std::time::Duration;

pub(super) use self::encode::{NFT_OBJECT_CT_TIMEOUT, NFTA_EXPR_NAME, write};
use crate::nft::set::Verdict;

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
    /// Gives a new flow the time-outs of an object that [`Batch::add_tcp_timeouts`] made.
    ///
    /// [`Batch::add_tcp_timeouts`]: crate::nft::Batch::add_tcp_timeouts
    Timeouts(String),
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
        /// Is added.
        offset: u32,
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
    /// Puts a key into a set made with [`Batch::add_dynamic_set`](crate::nft::Batch), or a key
    /// with its value into such a map. One that is there stays as it is, and its time begins anew;
    /// where the set is full the rule ends here.
    DynsetUpdate {
        /// Name of the set or map.
        set: String,
        /// First register of the key.
        key: u8,
        /// First register of the value, for maps.
        value: Option<u8>,
        /// How long it stays; the set's own time without.
        timeout: Option<Duration>,
    },
    /// Loads what the destination is here (`RTN_*`: 1 unicast, 2 local, ...), 32 bits in the
    /// host's order.
    FibDaddrType {
        /// Register.
        to: u8,
    },
}

impl Expr {
    /// The kernel's name of the expression, as [`RuleInfo`](crate::nft::RuleInfo) gives it.
    pub fn kernel_name(&self) -> &'static str {
        encode::name(self)
    }
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
    /// The port to which the flow's first packet was sent, before any translation; 2 bytes in
    /// network order.
    OriginalPort = 12,
    /// Where the flow's first packet came from, before any translation; IPv4 flows only.
    OriginalSource4 = 19,
    /// Where the flow's first packet was sent, before any translation; IPv4 flows only.
    OriginalDestination4 = 20,
    /// As [`CtKey::OriginalSource4`], IPv6 flows only.
    OriginalSource6 = 21,
    /// As [`CtKey::OriginalDestination4`], IPv6 flows only.
    OriginalDestination6 = 22,
}

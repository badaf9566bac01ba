//! The two families of addresses: what differs between them in packets and in nftables.
//!
//! Always true here: an address of one family is never written into the table of the other.

use std::net::IpAddr;

use kernel::nft::{CtKey, Expr, Family, KeyType, PayloadBase, Table};

/// Our tables in each sandbox, one of each family.
pub(crate) const TABLE_NAME: &str = "portolan_vip";

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Our table of this family.
    pub(crate) fn table(self) -> Table<'static> {
        let family = match self {
            Self::V4 => Family::Ip,
            Self::V6 => Family::Ip6,
        };
        Table { family, name: TABLE_NAME }
    }

    pub(crate) fn key_type(self) -> KeyType {
        match self {
            Self::V4 => KeyType::Ipv4Addr,
            Self::V6 => KeyType::Ipv6Addr,
        }
    }

    /// How many registers an address fills.
    pub(crate) fn registers(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    /// Loads the source address of the packet (RFC 791, RFC 8200).
    pub(crate) fn saddr(self, to: u8) -> Expr {
        match self {
            Self::V4 => header(12, 4, to),
            Self::V6 => header(8, 16, to),
        }
    }

    /// Loads the destination address of the packet.
    pub(crate) fn daddr(self, to: u8) -> Expr {
        match self {
            Self::V4 => header(16, 4, to),
            Self::V6 => header(24, 16, to),
        }
    }

    /// Loads where the flow's first packet came from.
    pub(crate) fn original_saddr(self, to: u8) -> Expr {
        let key = match self {
            Self::V4 => CtKey::OriginalSource4,
            Self::V6 => CtKey::OriginalSource6,
        };
        Expr::Ct { key, to }
    }

    /// Loads where the flow's first packet was sent.
    pub(crate) fn original_daddr(self, to: u8) -> Expr {
        let key = match self {
            Self::V4 => CtKey::OriginalDestination4,
            Self::V6 => CtKey::OriginalDestination6,
        };
        Expr::Ct { key, to }
    }

    /// The address with which `bytes` begin, and what follows it.
    pub(crate) fn split(self, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
        match self {
            Self::V4 => {
                let (address, rest) = bytes.split_first_chunk::<4>()?;
                Some((IpAddr::from(*address), rest))
            }
            Self::V6 => {
                let (address, rest) = bytes.split_first_chunk::<16>()?;
                Some((IpAddr::from(*address), rest))
            }
        }
    }

    /// The address whose bytes these are.
    pub(crate) fn read(self, bytes: &[u8]) -> Option<IpAddr> {
        self.split(bytes).filter(|(_, rest)| rest.is_empty()).map(|(address, _)| address)
    }
}

/// An address as it stands in packets.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(it) => it.octets().to_vec(),
        IpAddr::V6(it) => it.octets().to_vec(),
    }
}

fn header(offset: u32, len: u32, to: u8) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset, len, to }
}

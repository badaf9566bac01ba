//! The VIPs of one service on one network.
//!
//! Always true here, by structure: at most one of each family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// At most one VIP of each family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct VipPair {
    /// What A records give.
    pub v4: Option<Ipv4Addr>,
    /// What AAAA records give.
    pub v6: Option<Ipv6Addr>,
}

impl VipPair {
    /// Those there are, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::V4);
        v4.into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// The one that is used where one is enough: IPv4, if there is one.
    pub fn first(self) -> Option<IpAddr> {
        self.iter().next()
    }

    /// Whether `vip` is one of them.
    pub fn contains(self, vip: IpAddr) -> bool {
        self.iter().any(|it| it == vip)
    }

    /// Puts `vip` in the place of its family.
    pub fn set(&mut self, vip: IpAddr) {
        match vip {
            IpAddr::V4(vip) => self.v4 = Some(vip),
            IpAddr::V6(vip) => self.v6 = Some(vip),
        }
    }

    /// These, and those of `others` in the places that are free.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self { v4: self.v4.or(others.v4), v6: self.v6.or(others.v6) }
    }
}

/// `10.0.1.2`, or `10.0.1.2 and fd00::2`.
impl fmt::Display for VipPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, vip) in self.iter().enumerate() {
            let gap = if index == 0 { "" } else { " and " };
            write!(f, "{gap}{vip}")?;
        }
        Ok(())
    }
}

impl From<IpAddr> for VipPair {
    fn from(vip: IpAddr) -> Self {
        let mut pair = Self::default();
        pair.set(vip);
        pair
    }
}

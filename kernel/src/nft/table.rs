//! Tables and base chains: what they are called and where the kernel calls them.
//!
//! Always true here: plain values; their numbers are the kernel's (`linux/netfilter.h`).

/// Which packets a table sees. Its number is that of `NFPROTO_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// A table's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Table<'a> {
    /// Which packets it sees; names are per family.
    pub family: Family,
    /// At most 255 bytes.
    pub name: &'a str,
}

/// Where in the kernel a base chain is called.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hook {
    /// What the chain may do.
    pub kind: ChainKind,
    /// At which point of a packet's way.
    pub point: HookPoint,
    /// Lower is earlier; conntrack looks at -200, the engine's DNAT stands at -100.
    pub priority: i32,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChainKind {
    /// Accept, drop, mark, rewrite without state.
    Filter,
    /// See the first packet of each flow and translate its addresses; priority above -200.
    Nat,
    /// Like filter on output, and the route is looked up again when the mark changed.
    Route,
}

/// A point of a packet's way. Its number is that of `NF_INET_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum HookPoint {
    /// All that arrives, before routing.
    Prerouting = 0,
    /// What is for this namespace.
    Input = 1,
    /// What is passed on.
    Forward = 2,
    /// What begins in this namespace.
    Output = 3,
    /// All that leaves, after routing.
    Postrouting = 4,
}

impl ChainKind {
    /// The kernel's name of the kind.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    /// The kind of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat, Self::Route].into_iter().find(|kind| kind.name() == name)
    }
}

impl HookPoint {
    /// The point with the kernel's number.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting]
            .into_iter()
            .find(|point| u32::from(*point as u8) == number)
    }
}

impl Family {
    /// The family with the kernel's number.
    pub(super) fn numbered(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6].into_iter().find(|family| *family as u8 == number)
    }
}

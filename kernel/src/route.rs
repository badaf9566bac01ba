//! Routes and addresses of a namespace, over rtnetlink.
//!
//! Always true here: only the main table and plain unicast routes over one interface are seen and
//! made. Adding what is there and deleting what is not both succeed. What portolan makes carries
//! [`PROTOCOL`], so that it can be told from anybody else's.

mod local;
mod routing;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::wire::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Writer};
use crate::netlink::{Channel, ROUTE};
use crate::netns::{Netns, NetnsError};
use ipnet::IpNet;

pub use self::local::{local_addresses, settle_local_addresses};
pub use self::routing::{RoutingWatch, Told};

/// `rtm_protocol` of the routes that portolan makes. None of the numbers that routing daemons have
/// (`linux/rtnetlink.h`, `/etc/iproute2/rt_protos`; 186 to 189 are BGP, IS-IS, OSPF and RIP):
/// routes with ours are deleted by cleaning up.
pub const PROTOCOL: u8 = 203;

/// One route of the main table.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Route {
    /// Where it leads; `0.0.0.0/0` is the default route.
    pub destination: IpNet,
    /// Name of the interface that it leaves by.
    pub device: String,
    /// The address that packets sent along it come from, unless the program chose one.
    pub source: Option<IpAddr>,
    /// The next hop; `None` where the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Who made it (`rtm_protocol`): 2 kernel, 3 boot, 4 static, [`PROTOCOL`] portolan.
    pub protocol: u8,
}

/// Why links, addresses or routes could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The namespace could not be entered.
    #[error("cannot open a routing socket")]
    Namespace(#[from] NetnsError),
    /// The kernel refused.
    #[error("cannot {what}")]
    Refused {
        /// What was attempted, e.g. `add route 10.0.0.0/8 over eth0`.
        what: String,
        /// The refusal.
        source: io::Error,
    },
}

impl RouteError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace(source) => source.remedy(),
            Self::Refused { source, .. } => match source.raw_os_error()? {
                libc::EPERM => Some("run portolan as root or with CAP_NET_ADMIN"),
                libc::EOPNOTSUPP => {
                    Some("the kernel lacks this kind of interface: load its module")
                }
                _ => None,
            },
        }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Namespace(_) => None,
        }
    }
}

/// The routes of the namespace's main table, IPv4 and IPv6. Routes over several interfaces are
/// left out.
pub fn routes(netns: &Netns) -> Result<Vec<Route>, RouteError> {
    routes_where(netns, |_| true)
}

/// Those of [`routes`] that `keep` wants; as many others as there may be.
pub fn routes_where(
    netns: &Netns,
    keep: impl Fn(&Route) -> bool,
) -> Result<Vec<Route>, RouteError> {
    let mut channel = open(netns)?;
    let names = device_names(&mut channel)?;
    let request = |it: &mut Writer| it.raw(&[0; RTMSG]);
    channel
        .dump(RTM_GETROUTE, ENTRIES_MAX, request, |message, found| {
            found.extend(read_route(message, &names).filter(&keep));
        })
        .map_err(refused("list routes"))
}

/// Those of [`routes`] that carry [`PROTOCOL`]; the kernel picks them, so that a table with the
/// whole Internet in it costs nothing.
pub fn our_routes(netns: &Netns) -> Result<Vec<Route>, RouteError> {
    let mut channel = open(netns)?;
    let names = device_names(&mut channel)?;
    channel.be_strict();
    let mut ours = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = |it: &mut Writer| {
            it.raw(&[family, 0, 0, 0, RT_TABLE_MAIN, PROTOCOL, 0, RTN_UNICAST, 0, 0, 0, 0]);
        };
        let found = channel.dump(RTM_GETROUTE, ENTRIES_MAX, request, |message, found| {
            // A kernel without that family gives all that it has.
            let same = message.body.first() == Some(&family);
            let route = read_route(message, &names).filter(|_| same);
            found.extend(route.filter(|it| it.protocol == PROTOCOL));
        });
        match found {
            Ok(found) => ours.extend(found),
            // There is no table before its first route.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(refused("list routes")(error)),
        }
    }
    Ok(ours)
}

/// Makes the route; one to the same destination is replaced.
pub fn add_route(netns: &Netns, route: &Route) -> Result<(), RouteError> {
    put_route(netns, route, NLM_F_REPLACE)
}

/// Makes the route unless there is one to the same destination, of the same rank (metric); tells
/// whether it did.
pub fn add_new_route(netns: &Netns, route: &Route) -> Result<bool, RouteError> {
    match put_route(netns, route, NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

fn put_route(netns: &Netns, route: &Route, how: u16) -> Result<(), RouteError> {
    let what = format!("add route {} over {}", route.destination, route.device);
    let mut channel = open(netns)?;
    let index = channel.index_of(&route.device).map_err(refused(&what))?;
    channel
        .request(RTM_NEWROUTE, NLM_F_CREATE | how, |it| write_route(it, route, index))
        .map_err(refused(&what))
}

/// Deletes the route; that it, or its interface, is not there is fine.
pub fn delete_route(netns: &Netns, route: &Route) -> Result<(), RouteError> {
    let what = format!("delete route {} over {}", route.destination, route.device);
    let mut channel = open(netns)?;
    let deleted = channel
        .index_of(&route.device)
        .and_then(|index| channel.request(RTM_DELROUTE, 0, |it| write_route(it, route, index)));
    match deleted.map_err(refused(&what)) {
        Err(error) if matches!(error.errno(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
        outcome => outcome,
    }
}

/// The addresses of the namespace's interfaces, each with the interface's name and the length of
/// its network's prefix.
pub fn addresses(netns: &Netns) -> Result<Vec<(String, IpNet)>, RouteError> {
    let mut channel = open(netns)?;
    let names = device_names(&mut channel)?;
    let request = |it: &mut Writer| it.raw(&[0; IFADDRMSG]);
    channel
        .dump(RTM_GETADDR, ENTRIES_MAX, request, |message, found| {
            found.extend(read_address(message, &names));
        })
        .map_err(refused("list addresses"))
}

/// The number of the namespace's interface `name`; an error where there is none.
pub fn interface_index(netns: &Netns, name: &str) -> Result<u32, RouteError> {
    open(netns)?.index_of(name).map_err(refused(&format!("find interface `{name}`")))
}

/// A routing socket of the namespace.
pub(crate) fn open(netns: &Netns) -> Result<Channel, RouteError> {
    netns.run(|| Channel::open(ROUTE))?.map_err(refused("open a routing socket"))
}

/// Says what was refused.
pub(crate) fn refused(what: &str) -> impl Fn(io::Error) -> RouteError {
    move |source| RouteError::Refused { what: what.to_owned(), source }
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// Writes an address as an attribute.
pub(crate) fn write_ip(it: &mut Writer, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => it.attribute(kind, &address.octets()),
        IpAddr::V6(address) => it.attribute(kind, &address.octets()),
    }
}

/// Four or sixteen bytes as an address.
pub(crate) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

fn write_route(it: &mut Writer, route: &Route, index: u32) {
    let destination = route.destination.trunc();
    let scope = match (route.gateway, route.destination) {
        (None, IpNet::V4(_)) => RT_SCOPE_LINK,
        (Some(_), _) | (None, IpNet::V6(_)) => RT_SCOPE_UNIVERSE,
    };
    let family = family(destination.addr());
    // struct rtmsg: family, prefix lengths, tos, table, protocol, scope, type, flags.
    it.raw(&[family, destination.prefix_len(), 0, 0]);
    it.raw(&[RT_TABLE_MAIN, route.protocol, scope, RTN_UNICAST, 0, 0, 0, 0]);
    if destination.prefix_len() > 0 {
        write_ip(it, RTA_DST, destination.addr());
    }
    it.ne32(RTA_OIF, index);
    if let Some(source) = route.source {
        write_ip(it, RTA_PREFSRC, source);
    }
    if let Some(gateway) = route.gateway {
        write_ip(it, RTA_GATEWAY, gateway);
    }
}

/// Reads one message of a dump or an event.
pub(crate) fn read_route(message: &Message<'_>, names: &BTreeMap<u32, String>) -> Option<Route> {
    let &[family, prefix, _, _, table, protocol, _, kind] = message.body.first_chunk::<8>()?;
    let attributes = message.attributes(RTMSG);
    // Tables past 255 stand in the attribute only.
    let table = attributes.ne32(RTA_TABLE).unwrap_or_else(|| u32::from(table));
    if table != u32::from(RT_TABLE_MAIN) || kind != RTN_UNICAST {
        return None;
    }
    let destination = match attributes.get(RTA_DST) {
        Some(bytes) => read_ip(bytes)?,
        None => unspecified(family)?,
    };
    Some(Route {
        destination: IpNet::new(destination, prefix).ok()?,
        device: names.get(&attributes.ne32(RTA_OIF)?)?.clone(),
        source: attributes.get(RTA_PREFSRC).and_then(read_ip),
        gateway: attributes.get(RTA_GATEWAY).and_then(read_ip),
        protocol,
    })
}

/// Reads one message of a dump or an event.
pub(crate) fn read_address(
    message: &Message<'_>,
    names: &BTreeMap<u32, String>,
) -> Option<(String, IpNet)> {
    // struct ifaddrmsg: family, prefix length, flags, scope, interface.
    let &[_, prefix, _, _, a, b, c, d] = message.body.first_chunk::<8>()?;
    let attributes = message.attributes(IFADDRMSG);
    // On point-to-point links IFA_ADDRESS is the peer; IPv6 has IFA_LOCAL only there.
    let bytes = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?;
    let address = IpNet::new(read_ip(bytes)?, prefix).ok()?;
    Some((names.get(&u32::from_ne_bytes([a, b, c, d]))?.clone(), address))
}

fn unspecified(family: u8) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        AF_INET6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

pub(crate) fn device_names(channel: &mut Channel) -> Result<BTreeMap<u32, String>, RouteError> {
    let request = |it: &mut Writer| it.raw(&[0; IFINFOMSG]);
    let pairs = channel.dump(RTM_GETLINK, ENTRIES_MAX, request, |message, found| {
        found.extend(read_device(message));
    });
    Ok(pairs.map_err(refused("list interfaces"))?.into_iter().collect())
}

/// Reads one message of a dump or an event.
pub(crate) fn read_device(message: &Message<'_>) -> Option<(u32, String)> {
    // struct ifinfomsg: family and type in four bytes, then the interface's number.
    let index = message.body.get(4..)?.first_chunk().copied().map(u32::from_ne_bytes)?;
    Some((index, message.attributes(IFINFOMSG).text(IFLA_IFNAME)?.to_owned()))
}

/// More routes that somebody wants, addresses or interfaces than there are anywhere.
const ENTRIES_MAX: usize = 65_536;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// Bytes of the structures before the attributes.
const RTMSG: usize = 12;
const IFADDRMSG: usize = 8;
/// Bytes of `struct ifinfomsg`.
pub(crate) const IFINFOMSG: usize = 16;

const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
/// The network's end of an address.
pub(crate) const IFA_ADDRESS: u16 = 1;
/// The address itself.
pub(crate) const IFA_LOCAL: u16 = 2;
/// An interface's name.
pub(crate) const IFLA_IFNAME: u16 = 3;

//! Policy routing of IPv4: packets with a mark leave by a table of their own.
//!
//! Always true here: everything made carries [`PROTOCOL`], and only what carries it is listed or
//! deleted. Adding what is there and deleting what is not both succeed.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::netlink::Channel;
use crate::netlink::wire::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Writer};
use crate::netns::Netns;
use crate::route::{PROTOCOL, RouteError, device_names, open, read_ip, refused, write_ip};

/// Packets with this mark look their way up in this table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct MarkRule {
    /// The mark's bits within the mask.
    pub mark: u32,
    /// Which bits of a mark count.
    pub mask: u32,
    /// The table's number.
    pub table: u32,
    /// Rules with lower numbers are asked first; `main` has 32766.
    pub priority: u32,
}

/// The default route of a table other than `main`.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct TableRoute {
    /// The table's number.
    pub table: u32,
    /// The next hop.
    pub gateway: Ipv4Addr,
    /// Name of the interface that it leaves by.
    pub device: String,
}

/// The rules of ours in the namespace.
pub fn rules(netns: &Netns) -> Result<Vec<MarkRule>, RouteError> {
    let request = |it: &mut Writer| it.raw(&header(0));
    open(netns)?
        .dump(RTM_GETRULE, ENTRIES_MAX, request, |message, found| found.extend(read_rule(message)))
        .map_err(refused("list routing rules"))
}

/// Makes a rule.
pub fn add_rule(netns: &Netns, rule: MarkRule) -> Result<(), RouteError> {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let added = open(netns)?.request(RTM_NEWRULE, flags, |it| write_rule(it, rule));
    fine_if(added, libc::EEXIST).map_err(refused(&format!("add {rule}")))
}

/// Deletes a rule.
pub fn delete_rule(netns: &Netns, rule: MarkRule) -> Result<(), RouteError> {
    let deleted = open(netns)?.request(RTM_DELRULE, 0, |it| write_rule(it, rule));
    fine_if(deleted, libc::ENOENT).map_err(refused(&format!("delete {rule}")))
}

/// The default routes of ours in tables other than `main`.
pub fn table_routes(netns: &Netns) -> Result<Vec<TableRoute>, RouteError> {
    let mut channel = open(netns)?;
    let names = device_names(&mut channel)?;
    let request = |it: &mut Writer| it.raw(&header(0));
    channel
        .dump(RTM_GETROUTE, ENTRIES_MAX, request, |message, found| {
            found.extend(read_table_route(message, &names));
        })
        .map_err(refused("list routes of other tables"))
}

/// Makes the default route of a table; another one there is replaced.
pub fn add_table_route(netns: &Netns, route: &TableRoute) -> Result<(), RouteError> {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let mut channel = open(netns)?;
    request_route(&mut channel, RTM_NEWROUTE, flags, route)
        .map_err(refused(&format!("add the route of table {}", route.table)))
}

/// Deletes the default route of a table; that it, or its interface, is not there is fine.
pub fn delete_table_route(netns: &Netns, route: &TableRoute) -> Result<(), RouteError> {
    let mut channel = open(netns)?;
    let deleted = request_route(&mut channel, RTM_DELROUTE, 0, route);
    fine_if(fine_if(deleted, libc::ESRCH), libc::ENODEV)
        .map_err(refused(&format!("delete the route of table {}", route.table)))
}

impl std::fmt::Display for MarkRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mark, mask, table, .. } = self;
        write!(f, "rule fwmark {mark:#x}/{mask:#x} lookup {table}")
    }
}

fn fine_if(outcome: io::Result<()>, errno: i32) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        outcome => outcome,
    }
}

/// `struct fib_rule_hdr` or `struct rtmsg`, which are alike: the family, and what is done with the
/// packet in the eighth byte.
fn header(action: u8) -> [u8; HEADER] {
    [AF_INET, 0, 0, 0, 0, 0, 0, action, 0, 0, 0, 0]
}

fn write_rule(it: &mut Writer, rule: MarkRule) {
    it.raw(&header(FR_ACT_TO_TBL));
    it.ne32(FRA_PRIORITY, rule.priority);
    it.ne32(FRA_FWMARK, rule.mark);
    it.ne32(FRA_FWMASK, rule.mask);
    it.ne32(FRA_TABLE, rule.table);
    it.attribute(FRA_PROTOCOL, &[PROTOCOL]);
}

/// Reads one message of a dump.
pub(crate) fn read_rule(message: &Message<'_>) -> Option<MarkRule> {
    let attributes = message.attributes(HEADER);
    if attributes.get(FRA_PROTOCOL)? != [PROTOCOL] {
        return None;
    }
    Some(MarkRule {
        mark: attributes.ne32(FRA_FWMARK)?,
        mask: attributes.ne32(FRA_FWMASK)?,
        table: attributes.ne32(FRA_TABLE)?,
        priority: attributes.ne32(FRA_PRIORITY)?,
    })
}

fn request_route(
    channel: &mut Channel,
    kind: u16,
    flags: u16,
    route: &TableRoute,
) -> io::Result<()> {
    let index = channel.index_of(&route.device)?;
    channel.request(kind, flags, |it| {
        // struct rtmsg: family, prefix lengths, tos, table, protocol, scope, type, flags.
        it.raw(&[AF_INET, 0, 0, 0, RT_TABLE_UNSPEC, PROTOCOL, 0, RTN_UNICAST, 0, 0, 0, 0]);
        it.ne32(RTA_TABLE, route.table);
        it.ne32(RTA_OIF, index);
        write_ip(it, RTA_GATEWAY, IpAddr::V4(route.gateway));
    })
}

/// Reads one message of a dump.
pub(crate) fn read_table_route(
    message: &Message<'_>,
    names: &BTreeMap<u32, String>,
) -> Option<TableRoute> {
    let &[family, prefix, _, _, _, protocol, _, _] = message.body.first_chunk::<8>()?;
    let attributes = message.attributes(HEADER);
    let table = attributes.ne32(RTA_TABLE)?;
    if (family, prefix, protocol) != (AF_INET, 0, PROTOCOL) || table == RT_TABLE_MAIN {
        return None;
    }
    let IpAddr::V4(gateway) = read_ip(attributes.get(RTA_GATEWAY)?)? else { return None };
    let device = names.get(&attributes.ne32(RTA_OIF)?)?.clone();
    Some(TableRoute { table, gateway, device })
}

/// More rules and routes than a namespace has of ours and all others together.
const ENTRIES_MAX: usize = 65_536;

const HEADER: usize = 12;
const AF_INET: u8 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const FR_ACT_TO_TBL: u8 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const RT_TABLE_UNSPEC: u8 = 0;
const RT_TABLE_MAIN: u32 = 254;
const RTN_UNICAST: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link;

    #[test]
    fn rules_and_their_tables_come_and_go() {
        let (netns, peer) = (Netns::fresh().unwrap(), Netns::fresh().unwrap());
        link::add_veth(&netns, "eth0", "eth0", &peer).unwrap();
        link::add_address(&netns, "eth0", "10.0.0.7/24".parse().unwrap()).unwrap();
        link::set_up(&netns, "eth0").unwrap();
        let rule = MarkRule { mark: 0x0030_0000, mask: 0xfff0_0000, table: 70_003, priority: 1000 };
        let route = TableRoute {
            table: 70_003,
            gateway: Ipv4Addr::new(10, 0, 0, 3),
            device: "eth0".to_owned(),
        };
        for _ in 0..2 {
            add_table_route(&netns, &route).unwrap();
            add_rule(&netns, rule).unwrap();
        }
        assert_eq!(rules(&netns).unwrap(), [rule]);
        assert_eq!(table_routes(&netns).unwrap(), std::slice::from_ref(&route));
        for _ in 0..2 {
            delete_rule(&netns, rule).unwrap();
            delete_table_route(&netns, &route).unwrap();
        }
        assert_eq!((rules(&netns).unwrap().len(), table_routes(&netns).unwrap().len()), (0, 0));
    }
}

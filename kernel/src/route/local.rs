//! Addresses that a namespace takes for its own though no interface has them (local routes over the
//! loopback interface, `ip route add local ADDRESS dev lo`).
//!
//! Always true here: only those that carry portolan's protocol number are seen and removed; nobody
//! outside is told of them, save who asks for the address by ARP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{
    ENTRIES_MAX, PROTOCOL, RT_SCOPE_UNIVERSE, RTA_DST, RTA_OIF, RTM_DELROUTE, RTM_GETROUTE,
    RTM_NEWROUTE, RTMSG, RouteError, family, open, read_ip, refused, write_ip,
};
use crate::netlink::wire::{Message, NLM_F_CREATE, NLM_F_REPLACE, Writer};
use crate::netns::Netns;

/// The addresses that portolan made local in the namespace.
pub fn local_addresses(netns: &Netns) -> Result<BTreeSet<IpAddr>, RouteError> {
    let request = |it: &mut Writer| it.raw(&[0; RTMSG]);
    let found = open(netns)?.dump(RTM_GETROUTE, ENTRIES_MAX, request, |message, found| {
        found.extend(read(message));
    });
    Ok(found.map_err(refused("list local routes"))?.into_iter().collect())
}

/// Makes exactly the addresses of `want` local in the namespace, besides those that are not ours,
/// and tells how many changed. What was done before a refusal stays done.
pub fn settle_local_addresses(netns: &Netns, want: &BTreeSet<IpAddr>) -> Result<usize, RouteError> {
    let there = local_addresses(netns)?;
    let mut channel = open(netns)?;
    let (gone, come): (Vec<_>, Vec<_>) =
        (there.difference(want).collect(), want.difference(&there).collect());
    if gone.is_empty() && come.is_empty() {
        return Ok(0);
    }
    let lo = channel.index_of("lo").map_err(refused("find interface `lo`"))?;
    for &&address in &gone {
        match channel.request(RTM_DELROUTE, 0, |it| write(it, address, lo)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => return Err(refused(&format!("delete local address {address}"))(error)),
        }
    }
    for &&address in &come {
        channel
            .request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, |it| write(it, address, lo))
            .map_err(refused(&format!("make {address} local")))?;
    }
    Ok(gone.len() + come.len())
}

fn write(it: &mut Writer, address: IpAddr, lo: u32) {
    let (bits, scope) = match address {
        IpAddr::V4(_) => (32, RT_SCOPE_HOST),
        IpAddr::V6(_) => (128, RT_SCOPE_UNIVERSE),
    };
    // struct rtmsg: family, prefix lengths, tos, table, protocol, scope, type, flags.
    it.raw(&[family(address), bits, 0, 0]);
    it.raw(&[RT_TABLE_LOCAL, PROTOCOL, scope, RTN_LOCAL, 0, 0, 0, 0]);
    write_ip(it, RTA_DST, address);
    it.ne32(RTA_OIF, lo);
}

fn read(message: &Message<'_>) -> Option<IpAddr> {
    let &[_, prefix, _, _, table, protocol, _, kind] = message.body.first_chunk::<8>()?;
    if (table, protocol, kind) != (RT_TABLE_LOCAL, PROTOCOL, RTN_LOCAL) {
        return None;
    }
    let address = read_ip(message.attributes(RTMSG).get(RTA_DST)?)?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    (prefix == whole).then_some(address)
}

const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;

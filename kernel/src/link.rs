//! Interfaces and named namespaces: what worlds for demos and tests are built of.
//!
//! Always true here: making something that exists is an error, deleting what does not exist is
//! not; nothing here is used on a container's or the host's own interfaces.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use ipnet::IpNet;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::netlink::wire::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Writer};
use crate::netlink::{Channel, ROUTE};
use crate::netns::{Netns, NetnsError};
use crate::route::{
    IFA_ADDRESS, IFA_LOCAL, IFINFOMSG, IFLA_IFNAME, RouteError, family, open, refused, write_ip,
};

/// Makes a bridge, down.
pub fn add_bridge(netns: &Netns, name: &str) -> Result<(), RouteError> {
    add_link(netns, name, "bridge", |_| {})
}

/// Makes a cable: one end in `netns`, the other in `peer_netns`, both down.
pub fn add_veth(
    netns: &Netns,
    name: &str,
    peer_name: &str,
    peer_netns: &Netns,
) -> Result<(), RouteError> {
    add_link(netns, name, "veth", |it| {
        it.nest(IFLA_INFO_DATA, |it| {
            it.nest(VETH_INFO_PEER, |it| {
                it.raw(&[0; IFINFOMSG]);
                it.text(IFLA_IFNAME, peer_name);
                it.attribute(IFLA_NET_NS_FD, &peer_netns.as_fd().as_raw_fd().to_ne_bytes());
            });
        });
    })
}

/// Puts an interface into a bridge.
pub fn set_master(netns: &Netns, name: &str, bridge: &str) -> Result<(), RouteError> {
    let what = format!("put interface {name} into {bridge}");
    let mut channel = open(netns)?;
    let master = channel.index_of(bridge).map_err(refused(&what))?;
    change(&mut channel, name, [0; 8], |it| it.ne32(IFLA_MASTER, master)).map_err(refused(&what))
}

/// Sets an interface up; that it is up is fine.
pub fn set_up(netns: &Netns, name: &str) -> Result<(), RouteError> {
    let what = format!("set interface {name} up");
    let [a, b, c, d] = IFF_UP.to_ne_bytes();
    // The flags, then which of them are meant.
    change(&mut open(netns)?, name, [a, b, c, d, a, b, c, d], |_| {}).map_err(refused(&what))
}

/// Gives an interface a hardware address, before it is set up.
pub fn set_mac(netns: &Netns, name: &str, mac: [u8; 6]) -> Result<(), RouteError> {
    let what = format!("give interface {name} a hardware address");
    let mut channel = open(netns)?;
    let set = change(&mut channel, name, [0; 8], |it| it.attribute(IFLA_ADDRESS, &mac));
    set.map_err(refused(&what))
}

/// Gives an interface an address; that it has it is fine. IPv6 ones are usable at once (no
/// duplicate address detection).
pub fn add_address(netns: &Netns, name: &str, address: IpNet) -> Result<(), RouteError> {
    let what = format!("give interface {name} the address {address}");
    let mut channel = open(netns)?;
    let index = channel.index_of(name).map_err(refused(&what))?;
    let flags = match address {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => IFA_F_NODAD,
    };
    let request = |it: &mut Writer| {
        // struct ifaddrmsg: family, prefix length, flags, scope, interface.
        it.raw(&[family(address.addr()), address.prefix_len(), flags, scope(address.addr())]);
        it.raw(&index.to_ne_bytes());
        write_ip(it, IFA_LOCAL, address.addr());
        write_ip(it, IFA_ADDRESS, address.addr());
    };
    channel.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, request).map_err(refused(&what))
}

/// Deletes an interface; that it is not there is fine.
pub fn delete_link(netns: &Netns, name: &str) -> Result<(), RouteError> {
    let what = format!("delete interface {name}");
    let mut channel = open(netns)?;
    let deleted = channel
        .index_of(name)
        .and_then(|index| channel.request(RTM_DELLINK, 0, |it| write_header(it, index, [0; 8])));
    match deleted {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        outcome => outcome.map_err(refused(&what)),
    }
}

/// Makes a new namespace and gives it a name in the file system, as `ip netns add` does: bound at
/// `path`, its loopback interface up, parent folders made. The name keeps the namespace.
pub fn name_netns(path: &Path) -> Result<Netns, NetnsError> {
    let failed = |what| move |source| NetnsError::Name { what, path: path.to_owned(), source };
    let netns = Netns::fresh()?;
    netns
        .run(|| {
            let mut channel = Channel::open(ROUTE)?;
            let [a, b, c, d] = IFF_UP.to_ne_bytes();
            change(&mut channel, "lo", [a, b, c, d, a, b, c, d], |_| {})
        })?
        .map_err(failed("set the loopback interface up"))?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed("make the folder"))?;
    }
    std::fs::File::create_new(path).map_err(failed("make the file"))?;
    if let Err(errno) = mount_bind(netns.path(), path) {
        std::fs::remove_file(path).map_err(failed("remove the file"))?;
        return Err(failed("make the mount")(errno.into()));
    }
    Netns::open(path)
}

/// Takes the name away; the namespace goes with its last process and socket. That there is no
/// such name is fine.
pub fn unname_netns(path: &Path) -> Result<(), NetnsError> {
    let failed = |what| move |source| NetnsError::Name { what, path: path.to_owned(), source };
    match unmount(path, UnmountFlags::DETACH).map_err(io::Error::from) {
        // EINVAL: a file, but nothing is mounted on it.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
            return Err(failed("remove the mount")(error));
        }
        Ok(()) | Err(_) => {}
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove the file")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn add_link(
    netns: &Netns,
    name: &str,
    kind: &str,
    data: impl FnOnce(&mut Writer),
) -> Result<(), RouteError> {
    let what = format!("add {kind} interface {name}");
    let request = |it: &mut Writer| {
        write_header(it, 0, [0; 8]);
        it.text(IFLA_IFNAME, name);
        it.nest(IFLA_LINKINFO, |it| {
            it.text(IFLA_INFO_KIND, kind);
            data(it);
        });
    };
    open(netns)?.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, request).map_err(refused(&what))
}

fn change(
    channel: &mut Channel,
    name: &str,
    flags: [u8; 8],
    attributes: impl FnOnce(&mut Writer),
) -> io::Result<()> {
    let index = channel.index_of(name)?;
    channel.request(RTM_NEWLINK, 0, |it| {
        write_header(it, index, flags);
        attributes(it);
    })
}

/// `struct ifinfomsg`: family and type, number, flags, which flags change.
fn write_header(it: &mut Writer, index: u32, flags: [u8; 8]) {
    it.raw(&[0; 4]);
    it.raw(&index.to_ne_bytes());
    it.raw(&flags);
}

/// Loopback addresses are the host's own; everything else is global.
fn scope(address: IpAddr) -> u8 {
    if address.is_loopback() { RT_SCOPE_HOST } else { RT_SCOPE_UNIVERSE }
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IFA_F_NODAD: u8 = 2;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;

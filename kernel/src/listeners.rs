//! Who listens on which port of a namespace, from `/proc/net`, and which program that is.
//!
//! Always true here: reading is bounded and total; a line that cannot be understood is left out.
//! What a program calls itself is for people and for telling the engine's own sockets apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netns::{Netns, NetnsError};

/// A socket that waits for clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Listener {
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// Where; the unspecified address for all.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The socket's inode number, by which its program is found.
    pub inode: u64,
}

/// All TCP listeners and unconnected UDP sockets of the namespace.
pub fn listeners(netns: &Netns) -> Result<Vec<Listener>, NetnsError> {
    netns.run(|| {
        let files = [("tcp", TCP, LISTEN), ("tcp6", TCP, LISTEN), ("udp", UDP, UNCONNECTED)];
        let files = files.into_iter().chain([("udp6", UDP, UNCONNECTED)]);
        files.flat_map(|(file, protocol, state)| parse(&read(file), protocol, state)).collect()
    })
}

/// Who has which sockets open.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holders {
    /// What the programs that have a socket open call themselves (`comm`), by its inode number.
    pub names: BTreeMap<u64, BTreeSet<String>>,
    /// All programs whose descriptors this process may see.
    pub seen: BTreeSet<String>,
}

/// Finds who has sockets with these inode numbers open, in one walk.
pub fn holders(inodes: &BTreeSet<u64>) -> Holders {
    let mut holders = Holders::default();
    if inodes.is_empty() {
        return holders;
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|it| it.file_name().into_string().ok());
    for pid in pids.filter(|it| it.bytes().all(|it| it.is_ascii_digit())) {
        let Some(held) = held(&pid, inodes) else { continue };
        let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
        let name = name.trim_end();
        for inode in held {
            holders.names.entry(inode).or_default().insert(name.to_owned());
        }
        holders.seen.insert(name.to_owned());
    }
    holders
}

/// Which of these sockets a process has; `None`: its descriptors may not be seen.
fn held(pid: &str, inodes: &BTreeSet<u64>) -> Option<BTreeSet<u64>> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().take(DESCRIPTORS_MAX) {
        match fs::read_link(entry.path()) {
            Ok(to) => held.extend(to.to_str().and_then(socket).filter(|it| inodes.contains(it))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            // It was closed meanwhile.
            Err(_) => {}
        }
    }
    Some(held)
}

/// `socket:[1234]`.
fn socket(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn read(file: &str) -> String {
    let mut text = String::new();
    // Without IPv6 there is no such file; what was read before an error is of use.
    let opened: io::Result<File> = File::open(format!("/proc/thread-self/net/{file}"));
    if let Ok(file) = opened {
        drop(file.take(BYTES_MAX).read_to_string(&mut text));
    }
    text
}

/// Lines as `0: 00000000:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234`.
fn parse(text: &str, protocol: u8, state: &str) -> Vec<Listener> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        if words.nth(1)? != state {
            return None;
        }
        let inode = words.nth(5)?.parse().ok()?;
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Listener { protocol, address: address_of(address)?, port, inode })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Groups of eight digits, each a number in the machine's order of four bytes in network order.
fn address_of(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = digits.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match digits.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
        }
        _ => None,
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// `TCP_LISTEN`.
const LISTEN: &str = "0A";
/// `TCP_CLOSE`: a UDP socket that is not connected.
const UNCONNECTED: &str = "07";

/// A line has 150 bytes: more sockets than any host has listeners.
const BYTES_MAX: u64 = 64 << 20;

/// Descriptors of one process looked at.
const DESCRIPTORS_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket;

    #[test]
    fn a_listener_is_found_with_its_program() {
        let netns = Netns::fresh().unwrap();
        let any = |address: &str| address.parse().unwrap();
        let tcp = socket::tcp_listener(&netns, any("127.0.0.1:8001")).unwrap();
        let udp = socket::udp_bound(&netns, any("0.0.0.0:8053")).unwrap();
        let found = listeners(&netns).unwrap();
        let ends: Vec<_> = found.iter().map(|it| (it.protocol, it.address, it.port)).collect();
        assert_eq!(ends, [(6, any_ip("127.0.0.1"), 8001), (17, any_ip("0.0.0.0"), 8053)]);
        let inodes: BTreeSet<u64> = found.iter().map(|it| it.inode).collect();
        let holders = holders(&inodes);
        let own = fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned();
        assert!(holders.seen.contains(&own));
        let own = BTreeSet::from([own]);
        assert_eq!(holders.names, inodes.into_iter().map(|it| (it, own.clone())).collect());
        drop((tcp, udp));
    }

    fn any_ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_and_nonsense_are_left_out() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
             0: 00000000:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 12 1\n\
             1: 0100007F:1F41 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 13 1\n\
             2: nonsense\n";
        let found = parse(text, TCP, LISTEN);
        assert_eq!(found.iter().map(|it| (it.port, it.inode)).collect::<Vec<_>>(), [(8001, 12)]);
    }
}

//! What conntrack remembers of flows: reading it, and deleting what leads nowhere.
//!
//! Always true here: an entry is deleted by its own tuple and number, so that a flow that began
//! meanwhile on the same ports stays. Only IPv4 and IPv6 entries are seen.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::netlink::wire::{Attributes, Message, Writer};
use crate::netlink::{Channel, NETFILTER};
use crate::netns::{Netns, NetnsError};
use crate::route::read_ip;

/// Which flows are meant; what is `None` matches all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowFilter {
    /// Whom the client spoke to, before translation.
    pub original_destination: Option<Ipv4Addr>,
    /// The port it spoke to.
    pub original_port: Option<u16>,
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: Option<u8>,
    /// Who answers, after translation: the task.
    pub reply_source: Option<Ipv4Addr>,
}

/// A flow as conntrack knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// The client.
    pub original_source: IpAddr,
    /// Its port; 0 for protocols without.
    pub original_source_port: u16,
    /// Whom the client spoke to, before translation.
    pub original_destination: IpAddr,
    /// The port it spoke to; 0 for protocols without.
    pub original_port: u16,
    /// Who answers, after translation: the task.
    pub reply_source: IpAddr,
    /// The port that it answers from; 0 for protocols without.
    pub reply_source_port: u16,
    /// Whom it answers, after translation: who it believes the client to be.
    pub reply_destination: IpAddr,
    /// The port that it answers to; 0 for protocols without.
    pub reply_port: u16,
    /// Whether an address or port is translated.
    pub nat: bool,
    /// Whether there was an answer yet.
    pub replied: bool,
}

/// Why flows could not be read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The namespace could not be entered.
    #[error("cannot open a conntrack socket")]
    Namespace(#[from] NetnsError),
    /// The kernel refused.
    #[error("cannot {what}")]
    Refused {
        /// What was attempted.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
}

impl ConntrackError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace(source) => source.remedy(),
            Self::Refused { source, .. } => match source.raw_os_error()? {
                libc::EPERM => Some("run portolan as root or with CAP_NET_ADMIN"),
                libc::EOPNOTSUPP | libc::EINVAL | libc::EPROTONOSUPPORT => {
                    Some("load the kernel's module: `modprobe nf_conntrack_netlink`")
                }
                _ => None,
            },
        }
    }
}

impl FlowFilter {
    /// Whether the flow is meant.
    pub fn matches(&self, flow: &Flow) -> bool {
        let is = |wanted: Option<Ipv4Addr>, found| {
            wanted.is_none_or(|wanted| IpAddr::V4(wanted) == found)
        };
        is(self.original_destination, flow.original_destination)
            && is(self.reply_source, flow.reply_source)
            && self.original_port.is_none_or(|port| port == flow.original_port)
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
    }
}

/// Deletes the flows that the filter means; gives how many.
pub fn delete_flows(netns: &Netns, filter: &FlowFilter) -> Result<usize, ConntrackError> {
    delete_matching(netns, |flow| filter.matches(flow))
}

/// Deletes the doomed flows after one look at all of the namespace; gives how many.
pub fn delete_matching(
    netns: &Netns,
    doomed: impl Fn(&Flow) -> bool + Send,
) -> Result<usize, ConntrackError> {
    take_matching(netns, doomed).map(|taken| taken.len())
}

/// Deletes the doomed flows after one look at all of the namespace; gives them, e.g. to have
/// their sockets destroyed ([`crate::sock_diag`]). Looking costs milliseconds, however few there
/// are: the kernel walks one table for all namespaces. Without any flow nothing is walked.
pub fn take_matching(
    netns: &Netns,
    doomed: impl Fn(&Flow) -> bool + Send,
) -> Result<Vec<Flow>, ConntrackError> {
    let mut channel = open(netns)?;
    let doomed = list(&mut channel, |entry| doomed(&entry.flow).then_some(entry))?;
    let mut taken = Vec::with_capacity(doomed.len());
    for entry in doomed {
        match channel.request(KIND | IPCTNL_MSG_CT_DELETE, 0, |it| entry.write(it)) {
            Ok(()) => taken.push(entry.flow),
            // It ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(source) => return Err(ConntrackError::Refused { what: "delete a flow", source }),
        }
    }
    Ok(taken)
}

/// All flows of the namespace.
pub fn flows(netns: &Netns) -> Result<Vec<Flow>, ConntrackError> {
    list(&mut open(netns)?, |entry| Some(entry.flow))
}

fn list<T>(
    channel: &mut Channel,
    pick: impl Fn(Entry) -> Option<T>,
) -> Result<Vec<T>, ConntrackError> {
    let failed = |source| ConntrackError::Refused { what: "list flows", source };
    let mut count = None;
    channel
        .ask(KIND | IPCTNL_MSG_CT_GET_STATS, 0, write_header, |message| {
            count = message.attributes(GENMSG).be32(CTA_STATS_GLOBAL_ENTRIES);
        })
        .map_err(failed)?;
    if count == Some(0) {
        return Ok(Vec::new());
    }
    channel
        .dump(KIND | IPCTNL_MSG_CT_GET, ENTRIES_MAX, write_header, |message, found| {
            found.extend(Entry::read(message).and_then(&pick));
        })
        .map_err(failed)
}

/// A flow, and what names it to the kernel.
pub(crate) struct Entry {
    flow: Flow,
    family: u8,
    tuple: Vec<u8>,
    id: Vec<u8>,
    zone: Option<Vec<u8>>,
}

impl Entry {
    /// Reads one entry of a dump.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let family = *message.body.first()?;
        let attributes = message.attributes(GENMSG);
        let tuple = attributes.get(CTA_TUPLE_ORIG)?;
        let original = Tuple::read(&Attributes::new(tuple))?;
        let reply = Tuple::read(&attributes.nested(CTA_TUPLE_REPLY))?;
        let status = attributes.be32(CTA_STATUS).unwrap_or_default();
        let flow = Flow {
            protocol: original.protocol,
            original_source: original.source,
            original_source_port: original.source_port,
            original_destination: original.destination,
            original_port: original.destination_port,
            reply_source: reply.source,
            reply_source_port: reply.source_port,
            reply_destination: reply.destination,
            reply_port: reply.destination_port,
            nat: status & IPS_NAT_MASK != 0,
            replied: status & IPS_SEEN_REPLY != 0,
        };
        Some(Self {
            flow,
            family,
            tuple: tuple.to_vec(),
            id: attributes.get(CTA_ID)?.to_vec(),
            zone: attributes.get(CTA_ZONE).map(<[u8]>::to_vec),
        })
    }

    fn write(&self, it: &mut Writer) {
        it.raw(&[self.family, 0, 0, 0]);
        it.nest(CTA_TUPLE_ORIG, |it| it.raw(&self.tuple));
        it.attribute(CTA_ID, &self.id);
        if let Some(zone) = &self.zone {
            it.attribute(CTA_ZONE, zone);
        }
    }
}

/// One direction of a flow.
struct Tuple {
    protocol: u8,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
}

impl Tuple {
    fn read(attributes: &Attributes<'_>) -> Option<Self> {
        let ip = attributes.nested(CTA_TUPLE_IP);
        let protocol = attributes.nested(CTA_TUPLE_PROTO);
        let address = |v4, v6| ip.get(v4).or_else(|| ip.get(v6)).and_then(read_ip);
        Some(Self {
            protocol: *protocol.get(CTA_PROTO_NUM)?.first()?,
            source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
            source_port: protocol.be16(CTA_PROTO_SRC_PORT).unwrap_or_default(),
            destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
            destination_port: protocol.be16(CTA_PROTO_DST_PORT).unwrap_or_default(),
        })
    }
}

fn open(netns: &Netns) -> Result<Channel, ConntrackError> {
    netns
        .run(|| Channel::open(NETFILTER))?
        .map_err(|source| ConntrackError::Refused { what: "open a conntrack socket", source })
}

/// `struct nfgenmsg` of any family.
fn write_header(it: &mut Writer) {
    it.raw(&[0; GENMSG]);
}

/// The kernel's own default bound of its table is 262,144 on large hosts.
const ENTRIES_MAX: usize = 2_000_000;

const GENMSG: usize = 4;
/// `NFNL_SUBSYS_CTNETLINK` in the upper byte.
const KIND: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const IPCTNL_MSG_CT_GET_STATS: u16 = 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const IPS_SEEN_REPLY: u32 = 0x2;
/// Source or destination translated.
const IPS_NAT_MASK: u32 = 0x30;

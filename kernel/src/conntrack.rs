//! What conntrack remembers of flows: reading it, and deleting what leads nowhere.
//!
//! Always true here: an entry is deleted by its own tuple and number, so that a flow that began
//! meanwhile on the same ports stays, unless it got the very same place in the kernel's memory, of
//! which the number is made: what has [`Flow::ended`] is better left alone. Only IPv4 and IPv6 entries are seen. To look costs
//! milliseconds, however few there are: the kernel walks one table for all namespaces; where the
//! namespace has none, nothing is walked.

use std::io;
use std::net::IpAddr;

use crate::netlink::wire::{Attributes, Message, Writer};
use crate::netlink::{Channel, NETFILTER};
use crate::netns::{Netns, NetnsError};
use crate::route::read_ip;

/// Which flows are meant; what is `None` matches all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowFilter {
    /// Whom the client spoke to, before translation.
    pub original_destination: Option<IpAddr>,
    /// The port it spoke to.
    pub original_port: Option<u16>,
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: Option<u8>,
    /// Who answers, after translation: the task.
    pub reply_source: Option<IpAddr>,
}

/// A flow as conntrack knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent, as the kernel's bits are")]
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
    /// TCP: opened, and neither side has begun to close. Other protocols: there was an answer.
    pub open: bool,
    /// TCP: both sides have closed, or one has reset it: its ports may be in use anew. Conntrack
    /// remembers it for some minutes.
    pub ended: bool,
}

/// A flow, and what names it to the kernel.
#[derive(Clone, Debug)]
pub struct Entry {
    flow: Flow,
    family: u8,
    tuple: Vec<u8>,
    id: Vec<u8>,
    zone: Option<Vec<u8>>,
}

/// The flows of one namespace.
#[derive(Debug)]
pub struct Conntrack {
    channel: Channel,
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
        let is = |wanted: Option<IpAddr>, found| wanted.is_none_or(|wanted| wanted == found);
        is(self.original_destination, flow.original_destination)
            && is(self.reply_source, flow.reply_source)
            && self.original_port.is_none_or(|port| port == flow.original_port)
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
    }
}

/// Deletes the flows that the filter means; gives how many.
pub fn delete_flows(netns: &Netns, filter: &FlowFilter) -> Result<usize, ConntrackError> {
    take(netns, filter, |_| true).map(|taken| taken.len())
}

/// Deletes the doomed flows after one look at all of the namespace; gives how many.
pub fn delete_matching(
    netns: &Netns,
    doomed: impl Fn(&Flow) -> bool + Send,
) -> Result<usize, ConntrackError> {
    take_matching(netns, doomed).map(|taken| taken.len())
}

/// Deletes the doomed flows after one look at all of the namespace; gives them.
pub fn take_matching(
    netns: &Netns,
    doomed: impl Fn(&Flow) -> bool + Send,
) -> Result<Vec<Flow>, ConntrackError> {
    take(netns, &FlowFilter::default(), doomed)
}

fn take(
    netns: &Netns,
    filter: &FlowFilter,
    doomed: impl Fn(&Flow) -> bool,
) -> Result<Vec<Flow>, ConntrackError> {
    let mut conntrack = Conntrack::open(netns)?;
    let mut taken = Vec::new();
    for entry in conntrack.entries(filter, doomed)? {
        if conntrack.delete(&entry)? {
            taken.push(entry.flow);
        }
    }
    Ok(taken)
}

/// All flows of the namespace.
pub fn flows(netns: &Netns) -> Result<Vec<Flow>, ConntrackError> {
    let entries = Conntrack::open(netns)?.entries(&FlowFilter::default(), |_| true)?;
    Ok(entries.into_iter().map(|it| it.flow).collect())
}

impl Conntrack {
    /// Opens a socket inside the namespace; it works from any thread, and keeps the namespace.
    pub fn open(netns: &Netns) -> Result<Self, ConntrackError> {
        let opened = netns.run(|| Channel::open(NETFILTER))?;
        let refused = |source| ConntrackError::Refused { what: "open a conntrack socket", source };
        Ok(Self { channel: opened.map_err(refused)? })
    }

    /// The flows that the filter means, of those the ones to `pick`. The kernel itself leaves out
    /// others where it can (Linux 5.8), which spares the copying of them, not the walk. Two million
    /// at most: more is an error.
    pub fn entries(
        &mut self,
        filter: &FlowFilter,
        pick: impl Fn(&Flow) -> bool,
    ) -> Result<Vec<Entry>, ConntrackError> {
        let failed = |source| ConntrackError::Refused { what: "list flows", source };
        if self.count().map_err(failed)? == Some(0) {
            return Ok(Vec::new());
        }
        let picked = |message: &Message<'_>, found: &mut Vec<Entry>| {
            let entry = Entry::read(message);
            found.extend(entry.filter(|it| filter.matches(&it.flow) && pick(&it.flow)));
        };
        let kind = KIND | IPCTNL_MSG_CT_GET;
        if let Some(address) = filter.original_destination {
            let to_it = |it: &mut Writer| write_filter(it, address);
            // An older kernel refuses or ignores it: then all are copied.
            if let Ok(found) = self.channel.dump(kind, ENTRIES_MAX, to_it, picked) {
                return Ok(found);
            }
        }
        self.channel.dump(kind, ENTRIES_MAX, write_header, picked).map_err(failed)
    }

    /// What has become of a flow; `None`: it is gone, or another one has its ports now.
    pub fn look_again(&mut self, entry: &Entry) -> Result<Option<Flow>, ConntrackError> {
        let mut now = None;
        let kind = KIND | IPCTNL_MSG_CT_GET;
        let asked = self.channel.ask(
            kind,
            0,
            |it| entry.write(it),
            |message| {
                now = Entry::read(message).filter(|it| it.id == entry.id).map(|it| it.flow);
            },
        );
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(ConntrackError::Refused { what: "read a flow", source }),
            Ok(()) => Ok(now),
        }
    }

    /// Deletes a flow; whether it was still there.
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, ConntrackError> {
        match self.channel.request(KIND | IPCTNL_MSG_CT_DELETE, 0, |it| entry.write(it)) {
            Ok(()) => Ok(true),
            // It ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(ConntrackError::Refused { what: "delete a flow", source }),
        }
    }

    /// How many flows there are, where the kernel tells.
    fn count(&mut self) -> io::Result<Option<u32>> {
        let mut count = None;
        self.channel.ask(KIND | IPCTNL_MSG_CT_GET_STATS, 0, write_header, |message| {
            count = message.attributes(GENMSG).be32(CTA_STATS_GLOBAL_ENTRIES);
        })?;
        Ok(count)
    }
}

/// Asks for the flows to one address only.
fn write_filter(it: &mut Writer, address: IpAddr) {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    it.raw(&[u8::try_from(family).unwrap_or_default(), 0, 0, 0]);
    it.nest(CTA_FILTER, |it| {
        it.ne32(CTA_FILTER_ORIG_FLAGS, CTA_FILTER_F_IP_DST);
        it.ne32(CTA_FILTER_REPLY_FLAGS, 0);
    });
    it.nest(CTA_TUPLE_ORIG, |it| {
        it.nest(CTA_TUPLE_IP, |it| match address {
            IpAddr::V4(address) => it.attribute(CTA_IP_V4_DST, &address.octets()),
            IpAddr::V6(address) => it.attribute(CTA_IP_V6_DST, &address.octets()),
        });
    });
}

impl Entry {
    /// What it says.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Reads one entry of a dump.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let family = *message.body.first()?;
        let attributes = message.attributes(GENMSG);
        let tuple = attributes.get(CTA_TUPLE_ORIG)?;
        let original = Tuple::read(&Attributes::new(tuple))?;
        let reply = Tuple::read(&attributes.nested(CTA_TUPLE_REPLY))?;
        let status = attributes.be32(CTA_STATUS).unwrap_or_default();
        let state = tcp_state(&attributes);
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
            open: match original.protocol {
                IPPROTO_TCP => state == Some(TCP_CONNTRACK_ESTABLISHED),
                _ => status & IPS_SEEN_REPLY != 0,
            },
            ended: state.is_some_and(|it| TCP_CONNTRACK_ENDED.contains(&it)),
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

fn tcp_state(attributes: &Attributes<'_>) -> Option<u8> {
    let info = attributes.nested(CTA_PROTOINFO).get(CTA_PROTOINFO_TCP)?;
    Attributes::new(info).get(CTA_PROTOINFO_TCP_STATE)?.first().copied()
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
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// The bit that stands for the destination's address.
const CTA_FILTER_F_IP_DST: u32 = 1 << 1;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const TCP_CONNTRACK_ESTABLISHED: u8 = 3;
/// `LAST_ACK`, `TIME_WAIT` and `CLOSE`.
const TCP_CONNTRACK_ENDED: std::ops::RangeInclusive<u8> = 6..=8;
const IPPROTO_TCP: u8 = 6;
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

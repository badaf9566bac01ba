//! Takes 127.0.0.11:53 over inside a sandbox, and gives it back whatever becomes of us.
//!
//! One table, `portolan_dns`, in the sandbox's namespace, before conntrack: queries to port 53 are
//! sent to our port, our replies get port 53 back, and neither is tracked, so that the engine's
//! own NAT never sees them and two queries of one socket cannot collide in conntrack.
//!
//! Invariants
//! - *fail-open, dead*: the table is owned by the netlink socket that made it; when the process
//!   dies, however it dies, the kernel drops the table and the engine's resolver answers;
//! - *fail-open, hung*: queries are sent to us only while the set `alive` holds 127.0.0.11, which
//!   expires unless [`Takeover::refresh`] is called within [`DEAD_AFTER`];
//! - *nobody else's*: no other table is touched.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{
    Batch, ChainKind, Checksum, CmpOp, Element, ElementValue, Expr, Family, Hook, HookPoint,
    KeyType, MetaKey, NftError, PayloadBase, SetSpec, SetValue, Socket, Table, Verdict, comment,
};

use crate::compile::SANDBOX_ADDRESS;

/// The table; every trace of the resolver in a namespace has this name.
const TABLE: Table<'static> = Table { family: Family::Ip, name: "portolan_dns" };
/// The set with the dead-man's element.
const ALIVE: &str = "alive";
/// How long queries come to us after the last refresh. A client asks again after five seconds at
/// the latest, and then finds the engine.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(3);
/// Before conntrack (-200) and the engine's NAT (-100): there untracked packets are not seen.
const BEFORE_CONNTRACK: i32 = -300;
/// IP protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where clients ask.
const DNS_PORT: u16 = 53;

/// The taken-over address of one sandbox; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Takeover {
    socket: Socket,
}

/// Our ports on 127.0.0.11.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ports {
    /// Of the UDP socket.
    pub(crate) udp: u16,
    /// Of the TCP listener.
    pub(crate) tcp: u16,
}

impl Takeover {
    /// Makes the table in `netns`. An unowned one of that name is a leftover and is replaced.
    pub(crate) fn make(netns: &Netns, ports: Ports) -> Result<Self, NftError> {
        let mut socket = Socket::open(netns)?;
        match socket.commit(&table(ports)) {
            Ok(()) => {}
            Err(error) => {
                if !remove(&mut socket)? {
                    return Err(error);
                }
                socket.commit(&table(ports))?;
            }
        }
        Ok(Self { socket })
    }

    /// Keeps queries coming for another [`DEAD_AFTER`].
    pub(crate) fn refresh(&mut self) -> Result<(), NftError> {
        let mut batch = Batch::new();
        batch.flush_set(TABLE, ALIVE);
        batch.add_elements(TABLE, ALIVE, &[dead_mans_element()]);
        self.socket.commit(&batch)
    }

    /// Loses the table, as nobody else can make it.
    #[cfg(test)]
    pub(crate) fn lose(&mut self) {
        give_back(&mut self.socket).unwrap();
    }

    /// The socket that owns the table.
    pub(crate) fn owner(&self) -> BorrowedFd<'_> {
        self.socket.descriptor()
    }
}

/// Removes the table that `owner` owns, as its [`Takeover`] would.
pub(crate) fn give_back(owner: &mut Socket) -> Result<(), NftError> {
    owner.commit(&removal())
}

impl Drop for Takeover {
    fn drop(&mut self) {
        // The kernel drops the table with the socket, in some 13 ms; this takes microseconds, and a
        // host with many sandboxes gives them all back before a client asks twice.
        if let Err(error) = self.socket.commit(&removal()) {
            tracing::debug!(%error, "the table goes with its socket");
        }
    }
}

/// Removes what is left of the resolver in a namespace: `true`, if something was. A table that a
/// running portolan owns stays, with [`NftError::Busy`] or [`NftError::Denied`].
pub fn cleanup(netns: &Netns) -> Result<bool, NftError> {
    remove(&mut Socket::open(netns)?)
}

fn remove(socket: &mut Socket) -> Result<bool, NftError> {
    let found = socket.tables()?;
    if !found.iter().any(|it| it.family == TABLE.family && it.name == TABLE.name) {
        return Ok(false);
    }
    match socket.commit(&removal()) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

fn removal() -> Batch {
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    batch
}

/// The whole table, as one transaction.
fn table(ports: Ports) -> Batch {
    let mut batch = Batch::new();
    batch.add_table(TABLE, true);
    let key = &[KeyType::Ipv4Addr];
    let alive = SetSpec { name: ALIVE, key, value: SetValue::None, timeout: true, size: None };
    batch.add_set(TABLE, &alive);
    batch.add_elements(TABLE, ALIVE, &[dead_mans_element()]);
    let hook =
        Hook { kind: ChainKind::Filter, point: HookPoint::Output, priority: BEFORE_CONNTRACK };
    batch.add_chain(TABLE, "output", Some(hook));
    for (protocol, port) in [(UDP, ports.udp), (TCP, ports.tcp)] {
        // Replies first: what they cost is ours, and what queries cost is the container's, once.
        let replies = comment("portolan's replies");
        batch.add_rule(TABLE, "output", &reply_rule(protocol, port), &replies);
        let queries = comment("queries to portolan");
        batch.add_rule(TABLE, "output", &query_rule(protocol, port), &queries);
    }
    batch
}

fn dead_mans_element() -> Element {
    let key = SANDBOX_ADDRESS.octets().to_vec();
    Element { key, value: ElementValue::None, timeout: Some(DEAD_AFTER) }
}

/// `ip daddr @alive PROTOCOL dport 53 notrack PROTOCOL dport set PORT accept`: the look-up says both
/// that the address is 127.0.0.11 and that we are alive.
fn query_rule(protocol: u8, port: u16) -> Vec<Expr> {
    let mut rule = on_port(protocol, DESTINATION_PORT, DNS_PORT);
    rule.push(Expr::Payload {
        base: PayloadBase::Network,
        offset: DESTINATION_ADDRESS,
        len: 4,
        to: REGISTER,
    });
    rule.push(Expr::Lookup { set: ALIVE.to_owned(), from: REGISTER, to: None, invert: false });
    rule.extend(untracked_with(protocol, DESTINATION_PORT, port));
    rule
}

/// `ip saddr 127.0.0.11 PROTOCOL sport PORT notrack PROTOCOL sport set 53 accept`.
fn reply_rule(protocol: u8, port: u16) -> Vec<Expr> {
    let mut rule = on_port(protocol, SOURCE_PORT, port);
    let (base, offset) = (PayloadBase::Network, SOURCE_ADDRESS);
    rule.push(Expr::Payload { base, offset, len: 4, to: REGISTER });
    rule.push(equal(SANDBOX_ADDRESS.octets().to_vec()));
    rule.extend(untracked_with(protocol, SOURCE_PORT, DNS_PORT));
    rule
}

/// Matches packets of a protocol with `port` at `offset` of their transport header.
fn on_port(protocol: u8, offset: u32, port: u16) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::L4Proto, to: REGISTER },
        equal(vec![protocol]),
        Expr::Payload { base: PayloadBase::Transport, offset, len: 2, to: REGISTER },
        equal(port.to_be_bytes().to_vec()),
    ]
}

/// Lets the packet pass untracked, with another port at `offset`; no other rule is of use to it.
fn untracked_with(protocol: u8, offset: u32, port: u16) -> [Expr; 4] {
    let checksum = Checksum::Inet { offset: if protocol == TCP { 16 } else { 6 } };
    let base = PayloadBase::Transport;
    [
        Expr::Notrack,
        Expr::Immediate { to: REGISTER, data: port.to_be_bytes().to_vec() },
        Expr::PayloadWrite { base, offset, len: 2, from: REGISTER, checksum },
        Expr::Verdict(Verdict::Accept),
    ]
}

fn equal(data: Vec<u8>) -> Expr {
    Expr::Cmp { op: CmpOp::Eq, from: REGISTER, data }
}

/// One value at a time is looked at.
const REGISTER: u8 = 0;
/// Of the IPv4 header (RFC 791 section 3.1).
const SOURCE_ADDRESS: u32 = 12;
const DESTINATION_ADDRESS: u32 = 16;
/// Of the UDP and the TCP header (RFC 768, RFC 9293 section 3.1).
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

//! Tells when somebody changes a table of a namespace (`NFNLGRP_NFTABLES`).
//!
//! Always true here: a transaction is told after it holds, and whose it was is known by the netlink
//! port of the socket that made it. Losing events is no loss: a queue that overflowed is an event
//! of its own, after which one has to look. Reading is bounded, whatever a container with
//! `CAP_NET_ADMIN` does to its tables. An open monitor keeps its namespace: hold it no longer than
//! the socket that changes the table.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use socket2::SockFilter;
use tokio::io::unix::AsyncFd;

use crate::netlink::NETFILTER;
use crate::netlink::wire::{Message, Messages};
use crate::netns::Netns;
use crate::nft::NftError;
use crate::nft::batch::{NFNL_SUBSYS_NFTABLES, NFTA_TABLE_NAME};

/// What a monitor saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// Somebody else changed the table.
    Changed,
    /// The queue overflowed: anything may have happened.
    Lost,
}

/// What of the tables is to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Watched<'a> {
    /// The table's name, of whatever family.
    pub table: &'a str,
    /// Only this chain: that it goes, with the table or alone, and changes of its rules.
    pub chain: Option<&'a str>,
}

/// A subscription to the changes of a namespace's tables.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<OwnedFd>,
}

impl Monitor {
    /// Subscribes; within a tokio runtime. Transactions that begin with the table `muted` are not
    /// told, and do not even wake who waits: for one that is changed several times a second.
    pub fn open(netns: &Netns, muted: Option<&str>) -> Result<Self, NftError> {
        let failed = |source| NftError::Io { what: "watch the tables".to_owned(), source };
        let socket = netns.run(|| subscribe(muted))?.map_err(failed)?;
        #[expect(unsafe_code, reason = "tokio's safe constructor is deprecated as unsound")]
        // SAFETY: the `OwnedFd` owns a valid descriptor, and nothing here replaces or closes it
        // while the `AsyncFd` has it.
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self { socket: registered.map_err(|it| failed(it.into()))? })
    }

    /// Waits until a socket other than that with the port `own` changes a table called `table`, of
    /// whatever family. What was missed is [`Event::Lost`]. `None`: the subscription broke, it
    /// should be dropped. Cancelling loses nothing.
    pub async fn changed(&mut self, table: &str, own: u32) -> Option<Event> {
        self.changed_in(&[Watched { table, chain: None }], own).await
    }

    /// As [`Monitor::changed`], for any of these.
    pub async fn changed_in(&mut self, watched: &[Watched<'_>], own: u32) -> Option<Event> {
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            let (event, empty) = drain(self.socket.get_ref(), watched, own)?;
            if empty {
                ready.clear_ready();
            }
            if event.is_some() {
                return event;
            }
            if !empty {
                // A flood is not read to its end in one go: others share this thread.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether there is a change that was not waited for yet; what is asked for is as with
    /// [`Monitor::changed`].
    pub fn has_changed(&mut self, table: &str, own: u32) -> bool {
        let watched = [Watched { table, chain: None }];
        drain(self.socket.get_ref(), &watched, own).is_none_or(|(event, _)| event.is_some())
    }
}

fn subscribe(muted: Option<&str>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, NETFILTER)?;
    if set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    }
    let socket = socket2::Socket::from(socket);
    if let Some(table) = muted {
        socket.attach_filter(&mute(table))?;
    }
    bind(&socket, &SocketAddrNetlink::new(0, NFTABLES_GROUP))?;
    Ok(socket.into())
}

/// Reads what is there, bounded, up to the first change that matters; and whether that was all.
/// `None`: the socket is broken.
fn drain(socket: &OwnedFd, watched: &[Watched<'_>], own: u32) -> Option<(Option<Event>, bool)> {
    let matters = |message: &Message<'_>| watched.iter().any(|it| it.is_about(message, own));
    let mut buffer = Vec::with_capacity(EVENT_BUFFER);
    for _ in 0..EVENTS_AT_ONCE {
        buffer.clear();
        match recv(socket, rustix::buffer::spare_capacity(&mut buffer), RecvFlags::empty()) {
            Ok(_) if Messages::new(&buffer).any(|it| matters(&it)) => {
                return Some((Some(Event::Changed), false));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::NOBUFS) => return Some((Some(Event::Lost), false)),
            Err(rustix::io::Errno::AGAIN) => return Some((None, true)),
            Err(_) => return None,
        }
    }
    Some((None, false))
}

impl Watched<'_> {
    /// Whether an event tells of a change of this by somebody else.
    pub(crate) fn is_about(&self, message: &Message<'_>, own: u32) -> bool {
        let Some(chain) = self.chain else { return is_change_of(message, self.table, own) };
        let name = |attribute| message.attributes(GENMSG).text(attribute);
        let is_it = match message.kind & 0xff {
            DELETE_TABLE => true,
            NEW_CHAIN | DELETE_CHAIN => name(NFTA_CHAIN_NAME) == Some(chain),
            NEW_RULE | DELETE_RULE => name(NFTA_RULE_CHAIN) == Some(chain),
            _ => false,
        };
        is_it && is_change_of(message, self.table, own)
    }
}

/// Whether an event tells of a change of the table by somebody else. All messages but that of the
/// new generation, which says no more than those before it, name the table in the same place.
pub(crate) fn is_change_of(message: &Message<'_>, table: &str, own: u32) -> bool {
    let about = message.attributes(GENMSG).text(NFTA_TABLE_NAME);
    message.kind >> 8 == NFNL_SUBSYS_NFTABLES
        && message.kind != NEW_GENERATION
        && message.port != own
        && about == Some(table)
}

/// A classic BPF program that drops datagrams whose first message is that of a new generation, or
/// is about `table`.
fn mute(table: &str) -> Vec<SockFilter> {
    // Compared with its terminating zero in words, the last of them filled up with what the kernel
    // fills up with.
    let mut name = table.as_bytes().to_vec();
    name.push(0);
    name.resize(name.len().next_multiple_of(4), 0);
    let words = name.as_chunks::<4>().0;
    let count = u8::try_from(words.len()).unwrap_or(u8::MAX);
    let kind = NEW_GENERATION.to_ne_bytes();
    // Jumps are relative to the next instruction: all lead to the last two, which drop and pass.
    let mut program = vec![
        SockFilter::new(LOAD_HALF, 0, 0, KIND_AT),
        SockFilter::new(JUMP_EQUAL, count.saturating_mul(2), 0, u16::from_be_bytes(kind).into()),
    ];
    for (index, (word, at)) in words.iter().zip((NAME_AT..).step_by(4)).enumerate() {
        let left = count.saturating_sub(u8::try_from(index).unwrap_or(u8::MAX)).saturating_sub(1);
        let miss = left.saturating_mul(2).saturating_add(1);
        program.push(SockFilter::new(LOAD_WORD, 0, 0, at));
        program.push(SockFilter::new(JUMP_EQUAL, 0, miss, u32::from_be_bytes(*word)));
    }
    program.extend([SockFilter::new(RETURN, 0, 0, 0), SockFilter::new(RETURN, 0, 0, u32::MAX)]);
    program
}

/// `NFNLGRP_NFTABLES` (7) as a bit.
const NFTABLES_GROUP: u32 = 1 << 6;
/// `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = NFNL_SUBSYS_NFTABLES << 8 | 15;
/// `NFT_MSG_*`.
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_RULE_CHAIN: u16 = 2;
/// Bytes of `struct nfgenmsg` before the attributes.
const GENMSG: usize = 4;

/// Where `struct nlmsghdr` has the message's kind.
const KIND_AT: u32 = 4;
/// Where the table's name begins: behind that header, `struct nfgenmsg`, and the header of the
/// first attribute.
const NAME_AT: u32 = 24;
/// `BPF_LD | BPF_H | BPF_ABS`
const LOAD_HALF: u16 = 0x28;
/// `BPF_LD | BPF_W | BPF_ABS`
const LOAD_WORD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`
const JUMP_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

/// The kernel puts as many messages as fit a page into one datagram.
const EVENT_BUFFER: usize = 16 * 1024;
/// Datagrams read before others on the thread have their turn.
const EVENTS_AT_ONCE: usize = 64;
/// Room for the events of a change of a few thousand elements, our own ones.
const RECEIVE_BUFFER: usize = 1024 * 1024;

//! Speaking netlink: one socket, one request at a time, everything read before the next.
//!
//! Always true here: the kernel answers within the system call that asks (netlink requests run in
//! the sender's context), so that waiting is bounded; two seconds are given anyway. A reply to an
//! older request is never taken for one to this, nor is anything that another program sends. A
//! dump that the kernel calls interrupted is asked for again, a bounded number of times.

pub(crate) mod wire;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force,
    set_socket_send_buffer_size, set_socket_send_buffer_size_force, set_socket_timeout,
    socket_send_buffer_size,
};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType,
    bind, connect, recv, sendmsg, socket_with,
};

use self::wire::{Message, Messages, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, Writer};

/// A netlink socket of the namespace that the calling thread was in when it was opened.
#[derive(Debug)]
pub(crate) struct Channel {
    fd: OwnedFd,
    sequence: u32,
    send_buffer: usize,
}

/// What the kernel answered to one request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    /// Sequence number of the refused message.
    pub(crate) sequence: u32,
    /// Why, never zero.
    pub(crate) errno: i32,
    /// Why in the kernel's words; often empty.
    pub(crate) explanation: String,
}

impl Channel {
    /// Opens a socket for [`ROUTE`], [`NETFILTER`] or [`SOCK_DIAG`] in the calling thread's namespace.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let kind = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, kind, protocol)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&fd, Timeout::Send, Some(PATIENCE))?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // To the kernel, and nobody else: a program with CAP_NET_ADMIN in the same namespace could
        // forge answers otherwise, or keep the queue full so that reading it never ends.
        connect(&fd, &SocketAddrNetlink::new(0, 0))?;
        // Without them the kernel quotes whole requests in its errors, and gives no words.
        set_netlink_option(&fd, libc::NETLINK_CAP_ACK)?;
        set_netlink_option(&fd, libc::NETLINK_EXT_ACK)?;
        let send_buffer = socket_send_buffer_size(&fd)?;
        Ok(Self { fd, sequence: 0, send_buffer })
    }

    /// One that was opened elsewhere by [`Channel::open`].
    pub(crate) fn from_descriptor(fd: OwnedFd) -> io::Result<Self> {
        let send_buffer = socket_send_buffer_size(&fd)?;
        Ok(Self { fd, sequence: 0, send_buffer })
    }

    /// The descriptor, to be passed to another process.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The port that names this socket in its namespace.
    pub(crate) fn port(&self) -> io::Result<u32> {
        let address = rustix::net::getsockname(&self.fd)?;
        Ok(SocketAddrNetlink::try_from(address)?.pid())
    }

    /// Has the kernel heed what a dump is narrowed to. Linux before 4.20 does not know that, and
    /// gives all of it.
    pub(crate) fn be_strict(&self) {
        let _refused = set_netlink_option(&self.fd, libc::NETLINK_GET_STRICT_CHK);
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer),
    ) -> io::Result<()> {
        self.ask(kind, flags, body, |_| {})
    }

    /// Sends one request, reads what is answered, and waits for the acknowledgement.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer),
        mut read: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        let sequence = self.next_sequence();
        let mut writer = Writer::default();
        writer.message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, body);
        if writer.oversized() {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        self.send(&[writer.bytes()])?;
        let mut buffer = Vec::with_capacity(ACK_BUFFER);
        loop {
            let received = self.receive(&mut buffer, RecvFlags::empty())?;
            for message in Messages::new(received).filter(|it| it.sequence == sequence) {
                match message.errno() {
                    None => read(&message),
                    Some(0) => return Ok(()),
                    Some(errno) => return Err(refused(errno, &message)),
                }
            }
        }
    }

    /// Asks for everything of a kind. `read` picks what it wants from each message; at most
    /// `limit` are kept, more is an error.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        limit: usize,
        body: impl Fn(&mut Writer),
        mut read: impl FnMut(&Message<'_>, &mut Vec<T>),
    ) -> io::Result<Vec<T>> {
        self.dump_all(kind, limit, false, (&body, &mut read))
    }

    /// As [`Channel::dump`], for what somebody may have filled to keep us reading: more than `limit`
    /// is an error at once (`FileTooLarge`), and then this channel is of no further use.
    pub(crate) fn dump_at_most<T>(
        &mut self,
        kind: u16,
        limit: usize,
        body: impl Fn(&mut Writer),
        mut read: impl FnMut(&Message<'_>, &mut Vec<T>),
    ) -> io::Result<Vec<T>> {
        self.dump_all(kind, limit, true, (&body, &mut read))
    }

    fn dump_all<T>(
        &mut self,
        kind: u16,
        limit: usize,
        stop: bool,
        (body, read): (&impl Fn(&mut Writer), &mut impl FnMut(&Message<'_>, &mut Vec<T>)),
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(kind, limit, stop, (body, &mut *read))? {
                Dump::Whole(found) => return Ok(found),
                Dump::Interrupted => {}
            }
        }
        Err(changing())
    }

    fn dump_once<T>(
        &mut self,
        kind: u16,
        limit: usize,
        stop: bool,
        (body, read): (&impl Fn(&mut Writer), &mut impl FnMut(&Message<'_>, &mut Vec<T>)),
    ) -> io::Result<Dump<T>> {
        let sequence = self.next_sequence();
        let mut writer = Writer::default();
        writer.message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body);
        self.send(&[writer.bytes()])?;
        let mut found = Vec::new();
        let (mut interrupted, mut too_many) = (false, false);
        let mut buffer = Vec::with_capacity(DUMP_BUFFER);
        loop {
            let received = self.receive(&mut buffer, RecvFlags::empty())?;
            for message in Messages::new(received).filter(|it| it.sequence == sequence) {
                interrupted |= message.interrupted();
                match message.errno() {
                    Some(libc::EINTR) => return Ok(Dump::Interrupted),
                    Some(errno) if errno != 0 => return Err(refused(errno, &message)),
                    // The dump is read to its end in any case: the next one could not begin else.
                    Some(_) | None if message.kind == NLMSG_DONE => {
                        return ended(found, interrupted, too_many.then_some(limit));
                    }
                    Some(_) => {}
                    None if found.len() < limit => read(&message, &mut found),
                    None if stop => return Err(too_long(limit)),
                    None => too_many = true,
                }
            }
        }
    }

    /// Sends a batch whose last message asks for an acknowledgement, `last` being its sequence
    /// number, and reads all answers; gives the first refusal in the order of the batch.
    pub(crate) fn batch(&mut self, parts: &[&[u8]], last: u32) -> io::Result<Result<(), Refusal>> {
        self.make_room(parts.iter().map(|part| part.len()).sum())?;
        self.send(parts)?;
        let mut refusal: Option<Refusal> = None;
        let mut acknowledged = false;
        let mut buffer = Vec::with_capacity(ACK_BUFFER);
        loop {
            let received = match self.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Ok(received) => received,
                // All answers stand in the queue when the sending returns.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // More refusals than the receive buffer holds: the first ones are there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => return Err(error),
            };
            for message in Messages::new(received).filter(|it| it.sequence < SINGLE) {
                let Some(errno) = message.errno() else { continue };
                acknowledged |= errno == 0 && message.sequence == last;
                let earlier = refusal.as_ref().is_some_and(|it| it.sequence <= message.sequence);
                if errno != 0 && !earlier {
                    let explanation = message.explanation().unwrap_or_default().to_owned();
                    refusal = Some(Refusal { sequence: message.sequence, errno, explanation });
                }
            }
        }
        match refusal {
            Some(refusal) => Ok(Err(refusal)),
            None if acknowledged => Ok(Ok(())),
            None => Err(io::Error::other("the kernel did not acknowledge the transaction")),
        }
    }

    /// The number of the interface with this name in the socket's namespace; `ENODEV` where there
    /// is none.
    pub(crate) fn index_of(&self, device: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.fd, device)?)
    }

    /// A batch travels as one datagram: the send buffer must hold it.
    fn make_room(&mut self, length: usize) -> io::Result<()> {
        // The kernel counts its own bookkeeping against the buffer.
        let needed = length.saturating_add(SEND_OVERHEAD);
        if needed <= self.send_buffer {
            return Ok(());
        }
        // FORCE passes the system's ceiling, but wants CAP_NET_ADMIN outside user namespaces.
        if set_socket_send_buffer_size_force(&self.fd, needed).is_err() {
            set_socket_send_buffer_size(&self.fd, needed)?;
        }
        if set_socket_recv_buffer_size_force(&self.fd, RECEIVE_BUFFER).is_err() {
            set_socket_recv_buffer_size(&self.fd, RECEIVE_BUFFER)?;
        }
        self.send_buffer = socket_send_buffer_size(&self.fd)?;
        if needed <= self.send_buffer {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EMSGSIZE))
        }
    }

    fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut control = SendAncillaryBuffer::default();
        rustix::io::retry_on_intr(|| sendmsg(&self.fd, &slices, &mut control, SendFlags::empty()))?;
        Ok(())
    }

    /// One datagram. A longer one than the buffer's capacity is cut; its first message's header
    /// and errno still fit.
    fn receive<'a>(&self, buffer: &'a mut Vec<u8>, flags: RecvFlags) -> io::Result<&'a [u8]> {
        loop {
            buffer.clear();
            let spare = rustix::buffer::spare_capacity(buffer);
            match recv(&self.fd, spare, flags) {
                Ok(_) => return Ok(buffer),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Batches number their messages from zero; single requests stay out of their way.
    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1) & (SINGLE - 1);
        self.sequence | SINGLE
    }
}

fn ended<T>(found: Vec<T>, interrupted: bool, passed: Option<usize>) -> io::Result<Dump<T>> {
    match passed {
        Some(limit) => Err(too_long(limit)),
        None if interrupted => Ok(Dump::Interrupted),
        None => Ok(Dump::Whole(found)),
    }
}

fn too_long(limit: usize) -> io::Error {
    let text = format!("it has more than {limit} entries");
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

enum Dump<T> {
    Whole(Vec<T>),
    Interrupted,
}

/// The number goes to the caller; the kernel's own words, where it gave some, to the log.
fn refused(errno: i32, message: &Message<'_>) -> io::Error {
    if let Some(explanation) = message.explanation() {
        tracing::debug!(errno, explanation, "the kernel refused a netlink request");
    }
    io::Error::from_raw_os_error(errno)
}

/// Something changes all the time while it is read.
pub(crate) fn changing() -> io::Error {
    io::Error::other("it changes too often to be read as a whole")
}

fn set_netlink_option(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(4);
    #[expect(unsafe_code, reason = "neither rustix nor socket2 knows SOL_NETLINK's options")]
    // SAFETY: the descriptor is open; the value pointer is to a live integer of the given length.
    let status = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `NETLINK_ROUTE`: its number is zero, which rustix spells so.
pub(crate) const ROUTE: Option<Protocol> = None;

/// `NETLINK_SOCK_DIAG`: other programs' sockets.
pub(crate) const SOCK_DIAG: Option<Protocol> = Some(rustix::net::netlink::SOCK_DIAG);

/// `NETLINK_NETFILTER`: nftables and conntrack.
pub(crate) const NETFILTER: Option<Protocol> = Some(rustix::net::netlink::NETFILTER);

/// How long a reply may take. The kernel replies before the request's system call returns, except
/// where a dump goes on or another transaction holds the lock for long.
const PATIENCE: Duration = Duration::from_secs(2);

/// A dump interrupted this often is given up: something changes the table all the time.
pub(crate) const DUMP_ATTEMPTS: usize = 16;

/// Holds an acknowledgement with its words.
const ACK_BUFFER: usize = 8 * 1024;

/// The kernel fills dumps' datagrams to at most 32 KiB, if the reader has as much room.
const DUMP_BUFFER: usize = 32 * 1024;

/// Room for about a thousand refusals of one batch.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// `netlink_sendmsg` refuses what is longer than the send buffer less 32 bytes.
const SEND_OVERHEAD: usize = 32;

/// The first sequence number of single requests.
const SINGLE: u32 = 0x8000_0000;

#[cfg(test)]
mod tests {
    use rustix::net::{getsockname, sendto};

    use super::*;
    use crate::netns::Netns;

    #[test]
    fn another_program_cannot_answer_in_the_kernels_name() {
        let netns = Netns::fresh().unwrap();
        let refused = netns
            .run(|| {
                let channel = Channel::open(ROUTE).unwrap();
                let whom = SocketAddrNetlink::try_from(getsockname(&channel.fd).unwrap()).unwrap();
                let kind = SocketType::RAW;
                let forger = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, ROUTE);
                sendto(forger.unwrap(), b"a forged answer", SendFlags::empty(), &whom)
            })
            .unwrap();
        assert_eq!(refused, Err(rustix::io::Errno::CONNREFUSED));
    }
}

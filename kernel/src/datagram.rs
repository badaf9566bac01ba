//! Many datagrams of one socket at a time: received with one system call, answered with one.
//!
//! Invariants
//! - *no waiting*: neither call blocks; what the socket does not take is counted as lost, as
//!   datagrams are;
//! - *no allocation*: everything is allocated once, by [`Datagrams::new`];
//! - *to whom it came from*: an answer goes to the address of the datagram it answers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use socket2::{SockAddr, SockAddrStorage};

/// Room for a batch of datagrams and their answers; one serves any number of sockets in turn.
#[derive(Debug)]
pub struct Datagrams {
    received: Vec<Slot>,
    answers: Vec<Slot>,
    peers: Vec<Peer>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    headers: Headers,
    /// How many were received last.
    count: usize,
    longest: Longest,
}

/// Octets that one datagram may have; longer ones are cut, and say so.
#[derive(Clone, Copy, Debug)]
pub struct Longest {
    /// Coming in.
    pub query: usize,
    /// Going out.
    pub answer: usize,
}

/// A datagram that came.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// What it holds.
    pub octets: &'a [u8],
    /// Whether it was longer than there was room.
    pub cut: bool,
    peer: &'a Peer,
}

/// What became of a batch of answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// Taken by the kernel.
    pub sent: usize,
    /// Not taken.
    pub lost: usize,
}

/// Length of an answer, or of what was received.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    length: usize,
    cut: bool,
}

/// An address as the kernel writes it.
#[derive(Clone, Copy)]
struct Peer {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

/// What the kernel reads and writes. The pointers inside are set before each call, to memory that
/// outlives it, and read by nobody after it.
struct Headers {
    messages: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
}

#[expect(unsafe_code, reason = "raw pointers are not Send by themselves")]
// SAFETY: the pointers are only used within one call of `receive` or `send`, which set them anew
// and hold the whole `Datagrams` exclusively.
unsafe impl Send for Headers {}

impl Datagrams {
    /// Room for `count` datagrams.
    pub fn new(count: usize, longest: Longest) -> Self {
        Self {
            received: vec![Slot::default(); count],
            answers: vec![Slot::default(); count],
            peers: vec![Peer::nobody(); count],
            incoming: vec![0; count * longest.query],
            outgoing: vec![0; count * longest.answer],
            headers: Headers::new(count),
            count: 0,
            longest,
        }
    }

    /// Takes what waits at `socket`, at most as many as there is room for, and tells how many.
    /// Fewer than that: nothing more waited. An error of kind `WouldBlock`: nothing waited.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.count = 0;
        let buffers = self.incoming.chunks_exact_mut(self.longest.query);
        for (((message, vector), peer), buffer) in
            self.headers.places().zip(&mut self.peers).zip(buffers)
        {
            peer.length = Peer::ROOM;
            set(message, vector, peer, buffer);
        }
        let count = self.headers.receive(socket.as_fd().as_raw_fd())?;
        self.count = count;
        let messages = self.headers.messages.iter().take(count);
        for ((slot, message), peer) in self.received.iter_mut().zip(messages).zip(&mut self.peers) {
            let length = usize::try_from(message.msg_len).unwrap_or(usize::MAX);
            let cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            *slot = Slot { length: length.min(self.longest.query), cut };
            peer.length = message.msg_hdr.msg_namelen.min(Peer::ROOM);
        }
        Ok(count)
    }

    /// Hands each datagram received last to `decide`, with room for an answer; it returns the
    /// answer's length, 0 for none.
    pub fn answer(&mut self, mut decide: impl FnMut(Datagram<'_>, &mut [u8]) -> usize) {
        let incoming = self.incoming.chunks_exact(self.longest.query);
        let outgoing = self.outgoing.chunks_exact_mut(self.longest.answer);
        let places = self.received.iter().zip(&mut self.answers).zip(&self.peers);
        for (((slot, answer), peer), (octets, room)) in
            places.zip(incoming.zip(outgoing)).take(self.count)
        {
            let octets = octets.get(..slot.length).unwrap_or_default();
            let length = decide(Datagram { octets, cut: slot.cut, peer }, room);
            answer.length = length.min(self.longest.answer);
        }
    }

    /// Sends the answers of the last [`Self::answer`].
    pub fn send(&mut self, socket: impl AsFd) -> Sent {
        let mut wanted = 0;
        let mut places = self.headers.places();
        let outgoing = self.outgoing.chunks_exact_mut(self.longest.answer);
        for ((answer, peer), room) in
            self.answers.iter().zip(&mut self.peers).zip(outgoing).take(self.count)
        {
            let Some(octets) = room.get_mut(..answer.length).filter(|it| !it.is_empty()) else {
                continue;
            };
            let Some((message, vector)) = places.next() else { break };
            set(message, vector, peer, octets);
            wanted += 1;
        }
        drop(places);
        self.count = 0;
        self.headers.send(socket.as_fd().as_raw_fd(), wanted)
    }
}

impl Datagram<'_> {
    /// Who sent it; `None`: an address of a family that this process does not use.
    pub fn from(&self) -> Option<SocketAddr> {
        let Peer { storage, length } = *self.peer;
        let family = storage.ss_family;
        let ours = [libc::AF_INET, libc::AF_INET6].map(libc::sa_family_t::try_from);
        if !ours.contains(&Ok(family)) {
            return None;
        }
        let pointer = std::ptr::from_ref(&storage).cast::<SockAddrStorage>();
        #[expect(unsafe_code, reason = "the kernel wrote the address")]
        // SAFETY: the two types are one structure of the kernel's, initialised whole: zeroes, then
        // what the kernel wrote.
        let storage = unsafe { pointer.read() };
        #[expect(unsafe_code, reason = "the kernel wrote the address")]
        // SAFETY: `length` is what the kernel said, and at most the structure's size.
        let address = unsafe { SockAddr::new(storage, length) };
        address.as_socket()
    }
}

impl Peer {
    /// Octets that an address may have.
    #[expect(clippy::cast_possible_truncation, reason = "128")]
    const ROOM: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

    fn nobody() -> Self {
        #[expect(unsafe_code, reason = "libc's structures have no constructor")]
        // SAFETY: all zeroes is a value of this plain structure.
        let storage = unsafe { std::mem::zeroed() };
        Self { storage, length: Self::ROOM }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("length", &self.length).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Headers").field("room", &self.messages.len()).finish_non_exhaustive()
    }
}

impl Headers {
    fn new(count: usize) -> Self {
        #[expect(unsafe_code, reason = "libc's structures have no constructor")]
        // SAFETY: all zeroes (null pointers, no octets) is a value of this plain structure.
        let message = unsafe { std::mem::zeroed() };
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self { messages: vec![message; count], vectors: vec![vector; count] }
    }

    fn places(&mut self) -> impl Iterator<Item = (&mut libc::mmsghdr, &mut libc::iovec)> {
        self.messages.iter_mut().zip(&mut self.vectors)
    }

    fn receive(&mut self, socket: i32) -> io::Result<usize> {
        let room = libc::c_uint::try_from(self.messages.len()).unwrap_or(0);
        #[expect(unsafe_code, reason = "no safe wrapper receives many datagrams")]
        // SAFETY: `messages` has `room` headers; each points to a vector, a buffer and an address
        // that `Datagrams::receive` holds exclusively until this returns.
        let count = unsafe {
            libc::recvmmsg(
                socket,
                self.messages.as_mut_ptr(),
                room,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(count).map_err(|_negative| io::Error::last_os_error())
    }

    fn send(&mut self, socket: i32, wanted: usize) -> Sent {
        let mut outcome = Sent::default();
        while let Some(rest) =
            self.messages.get_mut(outcome.sent + outcome.lost..wanted).filter(|it| !it.is_empty())
        {
            let room = libc::c_uint::try_from(rest.len()).unwrap_or(0);
            #[expect(unsafe_code, reason = "no safe wrapper sends many datagrams")]
            // SAFETY: `rest` has `room` headers; each points to a vector, octets and an address
            // that `Datagrams::send` holds exclusively until this returns.
            let count =
                unsafe { libc::sendmmsg(socket, rest.as_mut_ptr(), room, libc::MSG_DONTWAIT) };
            match usize::try_from(count) {
                Ok(0) => break,
                Ok(count) => outcome.sent += count,
                Err(_negative) => match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => {}
                    // No room: the next ones would find none either.
                    Some(libc::EAGAIN) => break,
                    // This one cannot be sent; the others can.
                    Some(_) | None => outcome.lost += 1,
                },
            }
        }
        outcome.lost = wanted - outcome.sent;
        outcome
    }
}

/// Points a header to an address and to octets.
fn set(message: &mut libc::mmsghdr, vector: &mut libc::iovec, peer: &mut Peer, octets: &mut [u8]) {
    vector.iov_base = octets.as_mut_ptr().cast();
    vector.iov_len = octets.len();
    let header = &mut message.msg_hdr;
    header.msg_name = std::ptr::from_mut(&mut peer.storage).cast();
    header.msg_namelen = peer.length;
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    header.msg_flags = 0;
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    fn pair() -> (UdpSocket, Vec<UdpSocket>) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = || {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(server.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client
        };
        let clients = (0..3).map(|_| client()).collect();
        (server, clients)
    }

    #[test]
    fn each_client_gets_the_answer_to_what_it_sent() {
        let (server, clients) = pair();
        let mut room = Datagrams::new(8, Longest { query: 64, answer: 64 });
        assert_eq!(room.receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for round in 0..3_u8 {
            for (number, client) in clients.iter().enumerate() {
                client.send(&[u8::try_from(number).unwrap(), round, 7]).unwrap();
            }
            assert_eq!(room.receive(&server).unwrap(), 3);
            let mut seen = Vec::new();
            room.answer(|datagram, out| {
                seen.push(datagram.from().unwrap());
                assert!(!datagram.cut);
                let [who, round, _] = *datagram.octets else { panic!("{datagram:?}") };
                out[..2].copy_from_slice(&[who, round + 100]);
                if who == 1 { 0 } else { 2 } // the second gets none
            });
            assert_eq!(room.send(&server), Sent { sent: 2, lost: 0 });
            assert_eq!(seen, clients.iter().map(|it| it.local_addr().unwrap()).collect::<Vec<_>>());
            for number in [0, 2] {
                let mut reply = [0; 8];
                assert_eq!(clients[number].recv(&mut reply).unwrap(), 2);
                assert_eq!(reply[..2], [u8::try_from(number).unwrap(), round + 100]);
            }
            clients[1].set_nonblocking(true).unwrap();
            assert!(clients[1].recv(&mut [0; 8]).is_err());
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so_and_no_more_than_there_is_room_for_is_taken() {
        let (server, clients) = pair();
        let mut room = Datagrams::new(2, Longest { query: 4, answer: 4 });
        clients[0].send(b"abcdef").unwrap();
        clients[1].send(b"").unwrap();
        clients[2].send(b"xyz").unwrap();
        assert_eq!(room.receive(&server).unwrap(), 2);
        let mut seen = Vec::new();
        room.answer(|it, _| {
            seen.push((it.octets.to_vec(), it.cut));
            0
        });
        assert_eq!(seen, [(b"abcd".to_vec(), true), (Vec::new(), false)]);
        assert_eq!(room.send(&server), Sent::default());
        assert_eq!(room.receive(&server).unwrap(), 1);
    }

    #[test]
    fn an_answer_that_cannot_be_sent_does_not_stop_the_others() {
        let (server, clients) = pair();
        let mut room = Datagrams::new(4, Longest { query: 64, answer: 65_536 });
        for client in &clients {
            client.send(b"q").unwrap();
        }
        assert_eq!(room.receive(&server).unwrap(), 3);
        let mut number = 0;
        room.answer(|_, _| {
            number += 1;
            if number == 2 { 65_536 } else { 5 } // longer than any datagram
        });
        assert_eq!(room.send(&server), Sent { sent: 2, lost: 1 });
        assert_eq!(clients[2].recv(&mut [0; 8]).unwrap(), 5);
    }
}

//! Many datagrams at a time, received from one socket and handed on to others as they are.
//!
//! Invariants
//! - *no waiting*: no call blocks; what a socket does not take is counted as lost, as datagrams
//!   are;
//! - *no copying*: octets are sent from where they were received;
//! - *no allocation*: everything is allocated once, by [`Burst::new`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use socket2::{SockAddr, SockAddrStorage};

pub use crate::datagram::Sent;

/// Room for datagrams; one serves any number of sockets in turn.
#[derive(Debug)]
pub struct Burst {
    packets: Vec<Packet>,
    octets: Vec<u8>,
    control: Vec<u8>,
    headers: Headers,
    longest: usize,
}

/// Who sent a datagram, to whom, and how long it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Who sent it; `None`: an address of a family that this process does not use.
    pub from: Option<SocketAddr>,
    /// The address that it was sent to, where the socket is told
    /// ([`listening`](crate::listening)).
    pub to: Option<IpAddr>,
    /// Octets, without those that found no room.
    pub length: usize,
    /// Whether there were more.
    pub cut: bool,
}

/// What the kernel reads and writes. The pointers inside are set before each call, to memory that
/// outlives it, and read by nobody after it.
struct Headers {
    messages: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<SockAddrStorage>,
}

#[expect(unsafe_code, reason = "raw pointers are not Send by themselves")]
// SAFETY: the pointers are only used within one call of `receive`, `hand_on` or `answer`, which set
// them anew and hold the whole `Burst` exclusively.
unsafe impl Send for Headers {}

impl Burst {
    /// Room for `count` datagrams of at most `longest` octets each. Memory is taken as it is used.
    pub fn new(count: usize, longest: usize) -> Self {
        let nothing = Packet { from: None, to: None, length: 0, cut: false };
        Self {
            packets: vec![nothing; count],
            octets: vec![0; count * longest],
            control: vec![0; count * CONTROL],
            headers: Headers::new(count),
            longest,
        }
    }

    /// Takes what waits at `socket`, at most as many as there is room for. Fewer than that: nothing
    /// more waited. An error of kind `WouldBlock`: nothing waited.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<&[Packet]> {
        let octets = self.octets.chunks_exact_mut(self.longest);
        let control = self.control.chunks_exact_mut(CONTROL);
        for ((mut place, octets), control) in self.headers.places().zip(octets).zip(control) {
            place.point(octets, control, NAME_ROOM);
        }
        let count = self.headers.receive(socket.as_fd().as_raw_fd())?;
        let control = self.control.chunks_exact(CONTROL);
        let received = self.headers.messages.iter().zip(&self.headers.names).zip(control);
        for (packet, ((message, name), control)) in
            self.packets.iter_mut().zip(received.take(count))
        {
            let length = usize::try_from(message.msg_len).unwrap_or(usize::MAX);
            let header = &message.msg_hdr;
            *packet = Packet {
                from: address_in(name, header.msg_namelen),
                to: destination(control.get(..control_length(header)).unwrap_or_default()),
                length: length.min(self.longest),
                cut: header.msg_flags & libc::MSG_TRUNC != 0,
            };
        }
        Ok(self.packets.get(..count).unwrap_or_default())
    }

    /// The octets of the `nth` datagram of the last [`Self::receive`].
    pub fn octets(&self, nth: usize) -> &[u8] {
        let length = self.packets.get(nth).map_or(0, |it| it.length);
        let octets = self.octets.chunks_exact(self.longest).nth(nth);
        octets.and_then(|it| it.get(..length)).unwrap_or_default()
    }

    /// Sends datagrams of the last [`Self::receive`] to whom `socket` is connected to.
    pub fn hand_on(&mut self, socket: impl AsFd, which: Range<usize>) -> Sent {
        self.send(socket, which, None, &[])
    }

    /// Sends datagrams of the last [`Self::receive`] to `to`, from the address `from`, which has to
    /// be the namespace's own; `None`: the socket's.
    pub fn pass_to(
        &mut self,
        socket: impl AsFd,
        which: Range<usize>,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> Sent {
        let mut control = [0; CONTROL];
        let length = from.map_or(0, |from| write_source(&mut control, from));
        self.send(socket, which, Some(to), control.get(..length).unwrap_or_default())
    }

    fn send(
        &mut self,
        socket: impl AsFd,
        which: Range<usize>,
        to: Option<SocketAddr>,
        source: &[u8],
    ) -> Sent {
        let name = to.map(SockAddr::from);
        let name_length = name.as_ref().map_or(0, SockAddr::len);
        let packets = self.packets.get(which.clone()).unwrap_or_default();
        let skip = which.start;
        let octets = self.octets.chunks_exact_mut(self.longest).skip(skip);
        let control = self.control.chunks_exact_mut(CONTROL);
        let mut wanted = 0;
        for (((mut place, packet), octets), control) in
            self.headers.places().zip(packets).zip(octets).zip(control)
        {
            let Some(octets) = octets.get_mut(..packet.length) else { break };
            let Some(control) = control.get_mut(..source.len()) else { break };
            control.copy_from_slice(source);
            if let Some(name) = &name {
                *place.name = name.clone().as_storage();
            }
            place.point(octets, control, name_length);
            wanted += 1;
        }
        self.headers.send(socket.as_fd().as_raw_fd(), wanted)
    }
}

/// One place in the headers.
struct Slot<'a> {
    message: &'a mut libc::mmsghdr,
    vector: &'a mut libc::iovec,
    name: &'a mut SockAddrStorage,
}

impl Slot<'_> {
    fn point(&mut self, octets: &mut [u8], control: &mut [u8], name_length: libc::socklen_t) {
        self.vector.iov_base = octets.as_mut_ptr().cast();
        self.vector.iov_len = octets.len();
        let header = &mut self.message.msg_hdr;
        header.msg_name = match name_length {
            0 => std::ptr::null_mut(),
            _ => std::ptr::from_mut(self.name).cast(),
        };
        header.msg_namelen = name_length;
        header.msg_iov = self.vector;
        header.msg_iovlen = 1;
        header.msg_control = match control.len() {
            0 => std::ptr::null_mut(),
            _ => control.as_mut_ptr().cast(),
        };
        #[expect(clippy::useless_conversion, reason = "its type differs between C libraries")]
        let length = control.len().try_into().unwrap_or_default();
        header.msg_controllen = length;
        header.msg_flags = 0;
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
        let names = (0..count).map(|_| SockAddrStorage::zeroed()).collect();
        Self { messages: vec![message; count], vectors: vec![vector; count], names }
    }

    fn places(&mut self) -> impl Iterator<Item = Slot<'_>> {
        let places = self.messages.iter_mut().zip(&mut self.vectors).zip(&mut self.names);
        places.map(|((message, vector), name)| Slot { message, vector, name })
    }

    fn receive(&mut self, socket: i32) -> io::Result<usize> {
        let room = libc::c_uint::try_from(self.messages.len()).unwrap_or(0);
        let messages = self.messages.as_mut_ptr();
        #[expect(unsafe_code, reason = "no safe wrapper receives many datagrams")]
        // SAFETY: `messages` has `room` headers; each points to a vector, octets, an address and
        // control data that `Burst::receive` holds exclusively until this returns.
        let count = unsafe {
            libc::recvmmsg(socket, messages, room, libc::MSG_DONTWAIT, std::ptr::null_mut())
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
            // SAFETY: `rest` has `room` headers; each points to a vector, octets, an address and
            // control data that `Burst::send` holds exclusively until this returns.
            let count =
                unsafe { libc::sendmmsg(socket, rest.as_mut_ptr(), room, libc::MSG_DONTWAIT) };
            match usize::try_from(count) {
                Ok(0) => break,
                Ok(count) => outcome.sent += count,
                Err(_negative) => match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => {}
                    // No room: the next ones would find none either.
                    Some(libc::EAGAIN) => break,
                    // This one cannot be sent, or an earlier one was refused; the others can.
                    Some(_) | None => outcome.lost += 1,
                },
            }
        }
        outcome.lost = wanted - outcome.sent;
        outcome
    }
}

fn address_in(name: &SockAddrStorage, length: libc::socklen_t) -> Option<SocketAddr> {
    if length == 0 || length > NAME_ROOM {
        return None;
    }
    let pointer = std::ptr::from_ref(name);
    #[expect(unsafe_code, reason = "the kernel wrote the address")]
    // SAFETY: a plain structure, initialised whole: zeroes, then what the kernel wrote.
    let name = unsafe { pointer.read() };
    #[expect(unsafe_code, reason = "the kernel wrote the address")]
    // SAFETY: `length` is what the kernel said, and at most the structure's size.
    let address = unsafe { SockAddr::new(name, length) };
    address.as_socket()
}

#[expect(clippy::useless_conversion, reason = "its type differs between C libraries")]
fn control_length(header: &libc::msghdr) -> usize {
    header.msg_controllen.try_into().unwrap_or(0)
}

/// Reads `IP_PKTINFO` or `IPV6_PKTINFO` where it is the first control message, as it is on sockets
/// that ask for nothing else: a length, level and type, then (ip(7), ipv6(7)) for IPv4 the
/// interface, the local address and the header's destination; for IPv6 the destination first.
fn destination(control: &[u8]) -> Option<IpAddr> {
    let kind = control.get(size_of::<usize>()..HEADER)?;
    let data = control.get(HEADER..)?;
    if kind == pktinfo(libc::IPPROTO_IP, libc::IP_PKTINFO) {
        let address: [u8; 4] = data.get(4..8)?.try_into().ok()?;
        return Some(Ipv4Addr::from(address).into());
    }
    let address: [u8; 16] = data.get(..16)?.try_into().ok()?;
    let ipv6 = kind == pktinfo(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
    ipv6.then(|| Ipv6Addr::from(address).into())
}

/// Writes the control message by which a datagram gets its source address, and tells its length.
fn write_source(control: &mut [u8; CONTROL], source: IpAddr) -> usize {
    let mut at = 0;
    let mut put = |octets: &[u8]| {
        if let Some(room) = control.get_mut(at..at + octets.len()) {
            room.copy_from_slice(octets);
            at += octets.len();
        }
    };
    match source {
        IpAddr::V4(source) => {
            put(&(HEADER + 12).to_ne_bytes());
            put(&pktinfo(libc::IPPROTO_IP, libc::IP_PKTINFO));
            put(&[0; 4]); // any interface
            put(&source.octets());
            put(&[0; 4]);
        }
        IpAddr::V6(source) => {
            put(&(HEADER + 20).to_ne_bytes());
            put(&pktinfo(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO));
            put(&source.octets());
            put(&[0; 4]); // any interface
        }
    }
    // Control messages are aligned; what follows is zeroes.
    at.next_multiple_of(size_of::<usize>()).min(CONTROL)
}

/// Level and type of a control message as they stand in it.
fn pktinfo(level: libc::c_int, kind: libc::c_int) -> [u8; 8] {
    let mut both = [0; 8];
    let (first, second) = both.split_at_mut(4);
    first.copy_from_slice(&level.to_ne_bytes());
    second.copy_from_slice(&kind.to_ne_bytes());
    both
}

/// Octets before the data of a control message: length (`size_t`), level and type.
const HEADER: usize = size_of::<usize>() + 8;
/// Room for control data: a header and the longer of both structures, aligned.
const CONTROL: usize = 64;
/// Octets that an address may have.
#[expect(clippy::cast_possible_truncation, reason = "128")]
const NAME_ROOM: libc::socklen_t = size_of::<SockAddrStorage>() as libc::socklen_t;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::listening::{self, Kind, Listening, Spot};

    fn entrance(address: &str) -> UdpSocket {
        let address = address.parse().unwrap();
        let spot = Spot { address, kind: Kind::Datagrams, count: 1 };
        match listening::open(None, &[spot]).remove(0).unwrap() {
            Listening::Datagrams(mut sockets) => sockets.remove(0),
            other @ (Listening::Connections(_) | Listening::Nothing(_)) => panic!("{other:?}"),
        }
    }

    fn socket(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    /// A client asks one of many addresses of the entrance, and is answered from there.
    fn round(any: &str, local: &str) {
        let (entrance, client) = (entrance(&format!("{any}:0")), socket(&format!("{local}:0")));
        let task = socket(&format!("{local}:0"));
        let towards = socket(&format!("{local}:0"));
        towards.connect(task.local_addr().unwrap()).unwrap();
        let asked = format!("{local}:{}", entrance.local_addr().unwrap().port());
        for text in [&b"one"[..], b"", b"three"] {
            client.send_to(text, &asked).unwrap();
        }
        let mut burst = Burst::new(2, 1024);
        let packets = burst.receive(&entrance).unwrap().to_vec();
        let lengths: Vec<_> = packets.iter().map(|it| (it.length, it.cut)).collect();
        assert_eq!(lengths, [(3, false), (0, false)]);
        let (from, to) = (packets[0].from.unwrap(), packets[0].to.unwrap());
        assert_eq!((from, to), (client.local_addr().unwrap(), client.local_addr().unwrap().ip()));
        assert_eq!(burst.hand_on(&towards, 0..2), Sent { sent: 2, lost: 0 });
        assert_eq!(burst.receive(&entrance).unwrap().len(), 1);
        assert_eq!(burst.hand_on(&towards, 0..1), Sent { sent: 1, lost: 0 });
        assert_eq!(burst.receive(&entrance).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut got = [0; 16];
        for text in [&b"one"[..], b"", b"three"] {
            let length = task.recv(&mut got).unwrap();
            assert_eq!(&got[..length], text);
        }
        task.send_to(b"answer", towards.local_addr().unwrap()).unwrap();
        assert_eq!(burst.receive(&towards).unwrap()[0].length, 6);
        assert_eq!(burst.pass_to(&entrance, 0..1, from, Some(to)), Sent { sent: 1, lost: 0 });
        let (length, who) = client.recv_from(&mut got).unwrap();
        assert_eq!((&got[..length], who.to_string()), (&b"answer"[..], asked));
    }

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        round("0.0.0.0", "127.0.0.9");
        round("[::]", "[::1]");
    }

    #[test]
    fn a_datagram_in_the_middle_can_be_handed_on_alone() {
        let (entrance, task, towards) =
            (entrance("127.0.0.1:0"), socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        towards.connect(task.local_addr().unwrap()).unwrap();
        for text in [b"a", b"b", b"c"] {
            towards_send(&entrance, text);
        }
        let mut burst = Burst::new(8, 64);
        assert_eq!(burst.receive(&entrance).unwrap().len(), 3);
        assert_eq!(burst.hand_on(&towards, 1..2), Sent { sent: 1, lost: 0 });
        let mut got = [0; 4];
        assert_eq!((task.recv(&mut got).unwrap(), got[0]), (1, b'b'));
    }

    fn towards_send(entrance: &UdpSocket, text: &[u8]) {
        socket("127.0.0.1:0").send_to(text, entrance.local_addr().unwrap()).unwrap();
    }
}

//! The two least things a name server can do, to measure others by: every datagram goes back with
//! its QR bit set.
//!
//! `echo tokio ADDRESS` waits and answers one by one in a runtime of one thread; `echo batch
//! ADDRESS` takes and gives many with one system call (recvmmsg, sendmmsg) and no runtime: the
//! floor. `echo upstream ADDRESS` is `batch` that answers 192.0.2.1 for an hour.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a yardstick that cannot go on panics"
)]

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// As many as portolan takes at once.
const BATCH: usize = 64;
const LONGEST: usize = 512;
/// Of the third octet: this is a response.
const QR: u8 = 0x80;
/// To the question's name: A, IN, an hour, 192.0.2.1.
const RECORD: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [how, address] = words.as_slice() else { panic!("echo tokio|batch|upstream ADDRESS") };
    let socket = UdpSocket::bind(address.parse::<SocketAddr>().unwrap()).unwrap();
    match how.as_str() {
        "tokio" => one_by_one(socket),
        "batch" => batches(&socket, |octets, length| {
            octets[2] |= QR;
            length
        }),
        "upstream" => batches(&socket, address_of),
        _ => panic!("no such echo: {how}"),
    }
}

fn one_by_one(socket: UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let mut buffer = [0; LONGEST];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            buffer[2] |= QR;
            socket.send_to(&buffer[..length], client).await.unwrap();
        }
    });
}

/// Turns a plain question of `length` octets into its answer; what has more than a question (EDNS)
/// is cut to it.
fn address_of(octets: &mut [u8; LONGEST], length: usize) -> usize {
    let name = octets[12..length].iter().position(|it| *it == 0).unwrap_or(0);
    let end = 12 + name + 5;
    octets[2] |= QR;
    octets[3] = 0x80; // recursion is available; no error
    octets[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    octets[end..end + RECORD.len()].copy_from_slice(RECORD);
    end + RECORD.len()
}

#[expect(
    unsafe_code,
    reason = "the kernel's calls for many datagrams, without anything around them"
)]
fn batches(socket: &UdpSocket, answer: impl Fn(&mut [u8; LONGEST], usize) -> usize) -> ! {
    let mut buffers = vec![[0_u8; LONGEST]; BATCH];
    // SAFETY: zero is a valid value of these structures.
    let mut peers: [libc::sockaddr_storage; BATCH] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    loop {
        for at in 0..BATCH {
            vectors[at].iov_base = buffers[at].as_mut_ptr().cast();
            vectors[at].iov_len = LONGEST;
            messages[at].msg_hdr.msg_name = (&raw mut peers[at]).cast();
            messages[at].msg_hdr.msg_namelen =
                u32::try_from(size_of::<libc::sockaddr_storage>()).unwrap();
            messages[at].msg_hdr.msg_iov = &raw mut vectors[at];
            messages[at].msg_hdr.msg_iovlen = 1;
        }
        let (descriptor, room) = (socket.as_raw_fd(), u32::try_from(BATCH).unwrap());
        // SAFETY: every header points at a buffer, a vector and an address that outlive the call.
        let count = unsafe {
            let (to, wait) = (messages.as_mut_ptr(), libc::MSG_WAITFORONE);
            libc::recvmmsg(descriptor, to, room, wait, std::ptr::null_mut())
        };
        let count = usize::try_from(count).unwrap();
        for at in 0..count {
            let length = usize::try_from(messages[at].msg_len).unwrap();
            vectors[at].iov_len =
                if length < 17 { length } else { answer(&mut buffers[at], length) };
        }
        // SAFETY: as above; the first `count` headers were filled by the kernel.
        unsafe {
            libc::sendmmsg(descriptor, messages.as_mut_ptr(), u32::try_from(count).unwrap(), 0);
        }
    }
}

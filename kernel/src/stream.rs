//! What can be asked of an established TCP connection besides reading and writing.
//!
//! Always true here: each call is one or two system calls on a descriptor that the caller holds,
//! and blocks nowhere.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Sends what is written at once, and finds out about a peer that is gone without a word: after
/// `idle` of silence it is asked every `interval`, and given up after `times` unanswered questions
/// (RFC 1122 section 4.2.3.6). Whole seconds.
pub fn attend(stream: impl AsFd, idle: Duration, interval: Duration, times: u32) -> io::Result<()> {
    let stream = SockRef::from(&stream);
    stream.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    stream.set_tcp_keepalive(&keepalive.with_retries(times))
}

/// Says that nothing more will be sent; receiving goes on.
pub fn finish(stream: impl AsFd) -> io::Result<()> {
    SockRef::from(&stream).shutdown(Shutdown::Write)
}

/// From now on closing it resets the connection, and drops what was not sent yet.
pub fn reset_when_closed(stream: impl AsFd) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// What ended the connection, if something did; it is told once.
pub fn error_of(stream: impl AsFd) -> io::Result<Option<io::Error>> {
    SockRef::from(&stream).take_error()
}

/// Where the client of this accepted connection wanted to go, before the namespace's NAT sent it
/// here; `None`: it was not translated, or conntrack does not say.
pub fn original_destination(stream: impl AsFd) -> Option<SocketAddr> {
    let stream = SockRef::from(&stream);
    let here = stream.local_addr().ok()?.as_socket()?;
    let there = if here.is_ipv4() { stream.original_dst_v4() } else { stream.original_dst_v6() };
    there.ok()?.as_socket().filter(|it| *it != here)
}

/// Octets that were written and that the peer has not acknowledged yet.
pub fn unsent(stream: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    let descriptor = stream.as_fd().as_raw_fd();
    #[expect(unsafe_code, reason = "rustix does not know SIOCOUTQ")]
    // SAFETY: the descriptor is open; SIOCOUTQ (which is TIOCOUTQ) writes one int, to a live one.
    let status = unsafe { libc::ioctl(descriptor, libc::TIOCOUTQ, &raw mut count) };
    if status == 0 {
        Ok(usize::try_from(count).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

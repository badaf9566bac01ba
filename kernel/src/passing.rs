//! Open descriptors passed between two processes of ours (`SCM_RIGHTS`, unix(7)).
//!
//! Always true here: a message arrives whole, in order, with all its descriptors, or not at all;
//! sending waits for at most [`PATIENCE`]; what is received is close-on-exec; nothing is shared but
//! what was passed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Octets of the longest message.
pub const MAX_OCTETS: usize = 64;
/// Descriptors that go with a message at most.
pub const MAX_DESCRIPTORS: usize = 4;
/// How long the other end may leave its queue full. It has nothing to do but to empty it.
const PATIENCE: Duration = Duration::from_millis(250);
/// Room for some thousand messages, so that a reader that gets no processor for a moment delays
/// nobody; the system's ceiling may be lower.
const SEND_BUFFER: usize = 4 * 1024 * 1024;

/// One end of a pair; the other may be in another process.
#[derive(Debug)]
pub struct End(OwnedFd);

/// What was received.
#[derive(Debug)]
pub struct Passed {
    /// The message's octets.
    pub octets: Vec<u8>,
    /// Its descriptors, in the order they were sent in.
    pub descriptors: Vec<OwnedFd>,
}

/// Two connected ends.
pub fn pair() -> io::Result<(End, End)> {
    let kind = SocketFlags::CLOEXEC;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, kind, None)?;
    for end in [&one, &other] {
        if set_socket_send_buffer_size_force(end, SEND_BUFFER).is_err() {
            set_socket_send_buffer_size(end, SEND_BUFFER)?;
        }
    }
    Ok((End(one), End(other)))
}

impl End {
    /// Sends at most [`MAX_OCTETS`] octets, at least one, with at most [`MAX_DESCRIPTORS`]
    /// descriptors, of which the other end gets duplicates. `BrokenPipe`: there is no other end;
    /// `TimedOut`: it does not read.
    pub fn send(&self, octets: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let too_long = octets.len() > MAX_OCTETS || descriptors.len() > MAX_DESCRIPTORS;
        if octets.is_empty() || too_long {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let parts = [IoSlice::new(octets)];
        match retry_on_intr(|| sendmsg(&self.0, &parts, &mut control, flags)) {
            Ok(_) => Ok(()),
            // The second: too many descriptors are under way (RLIMIT_NOFILE, without privilege).
            Err(Errno::AGAIN | Errno::TOOMANYREFS) => {
                self.wait_for_room()?;
                retry_on_intr(|| sendmsg(&self.0, &parts, &mut control, flags))?;
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The next message; `None`: there is no other end any more. Waits as long as it takes.
    pub fn receive(&self) -> io::Result<Option<Passed>> {
        let mut octets = [0; MAX_OCTETS];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(&mut octets)];
            recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let length = match received {
            Ok(received) => received.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno.into()),
        };
        if length == 0 {
            return Ok(None);
        }
        let octets = octets.get(..length).unwrap_or_default().to_vec();
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        Ok(Some(Passed { octets, descriptors }))
    }

    fn wait_for_room(&self) -> io::Result<()> {
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
        let mut ends = [PollFd::new(&self.0, PollFlags::OUT)];
        match retry_on_intr(|| poll(&mut ends, Some(&patience)))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

/// An end that another process was started with.
impl From<OwnedFd> for End {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl From<End> for OwnedFd {
    fn from(end: End) -> Self {
        end.0
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_descriptor_is_the_same_open_file_at_the_other_end() {
        let (here, there) = pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        here.send(b"take", &[writer.as_fd()]).unwrap();
        drop(writer);
        let passed = there.receive().unwrap().unwrap();
        assert_eq!(passed.octets, b"take");
        let [writer] = <[OwnedFd; 1]>::try_from(passed.descriptors).unwrap();
        File::from(writer).write_all(b"through").unwrap();
        let mut said = String::new();
        File::from(reader).read_to_string(&mut said).unwrap();
        assert_eq!(said, "through");
    }

    #[test]
    fn what_was_sent_before_an_end_is_gone_still_arrives() {
        let (here, there) = pair().unwrap();
        here.send(b"last", &[]).unwrap();
        drop(here);
        assert_eq!(there.receive().unwrap().unwrap().octets, b"last");
        assert!(there.receive().unwrap().is_none());
        assert_eq!(there.send(b"any", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn an_end_that_does_not_read_is_not_waited_for_for_ever() {
        let (here, _there) = pair().unwrap();
        let refused = (0..1_000_000).find_map(|_| here.send(&[1; MAX_OCTETS], &[]).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_does_not_fit_a_message_is_not_sent() {
        let (here, there) = pair().unwrap();
        let pipe = rustix::pipe::pipe().unwrap();
        let many = [pipe.0.as_fd(); MAX_DESCRIPTORS + 1];
        for (octets, descriptors) in [(&[1][..], &many[..]), (&[], &[]), (&[0; 65], &[])] {
            let kind = here.send(octets, descriptors).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidInput);
        }
        here.send(b"fits", &many[1..]).unwrap();
        assert_eq!(there.receive().unwrap().unwrap().descriptors.len(), MAX_DESCRIPTORS);
    }
}

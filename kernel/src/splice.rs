//! Moving octets from one socket to another without copying them (splice(2)).
//!
//! Always true here: nothing blocks; a [`Pipe`] that holds octets belongs to the stream that they
//! came from, and is not used for another before it is empty.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// A pipe through which octets go from one socket to another.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
    held: usize,
}

impl Pipe {
    /// A pipe with room for `size` octets, rounded up to a power of two of pages. Where so much is
    /// refused (`fs.pipe-max-size`, `fs.pipe-user-pages-soft`), it has the room that pipes have.
    pub fn new(size: usize) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let size = fcntl_setpipe_size(&write, size).unwrap_or(ORDINARY);
        Ok(Self { read, write, size, held: 0 })
    }

    /// Takes what waits at the socket, at most as much as there is room for, and tells how much; 0:
    /// its sender has finished. An error of kind `WouldBlock`: nothing waits, provided that the
    /// pipe is empty; one that is not may be full before `size`, because a short packet takes a
    /// whole page of it.
    pub fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let room = self.size.saturating_sub(self.held);
        let count = splice(from, None, &self.write, None, room, FLAGS)?;
        self.held += count;
        Ok(count)
    }

    /// Gives the socket what it takes, and tells how much. An error of kind `WouldBlock`: it takes
    /// nothing at the moment.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        if self.held == 0 {
            return Ok(0);
        }
        let count = splice(&self.read, None, to, None, self.held, FLAGS)?;
        self.held = self.held.saturating_sub(count);
        Ok(count)
    }

    /// Octets that it can hold.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Octets in it.
    pub fn held(&self) -> usize {
        self.held
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// What a pipe holds unless told otherwise: 16 pages (pipe(7)).
const ORDINARY: usize = 16 * 4096;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        client.set_nonblocking(true).unwrap();
        server.set_nonblocking(true).unwrap();
        (client, server)
    }

    #[test]
    fn octets_come_out_as_they_went_in_and_the_end_is_told() {
        let ((mut from, inlet), (outlet, mut to)) = (pair(), pair());
        let mut pipe = Pipe::new(1 << 20).unwrap();
        assert_eq!(pipe.fill(&inlet).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        from.write_all(b"hello").unwrap();
        assert_eq!((pipe.fill(&inlet).unwrap(), pipe.held()), (5, 5));
        assert_eq!((pipe.drain(&outlet).unwrap(), pipe.held()), (5, 0));
        let mut got = [0; 8];
        assert_eq!(to.read(&mut got).unwrap(), 5);
        assert_eq!(&got[..5], b"hello");
        assert_eq!(pipe.drain(&outlet).unwrap(), 0, "nothing to give");
        drop(from);
        assert_eq!(pipe.fill(&inlet).unwrap(), 0);
    }

    #[test]
    fn who_takes_nothing_stops_the_stream_and_nothing_is_lost() {
        let ((mut from, inlet), (outlet, mut to)) = (pair(), pair());
        let mut pipe = Pipe::new(1 << 16).unwrap();
        let block: Vec<u8> = (0..=255).cycle().take(1 << 14).collect();
        let (mut sent, mut moved) = (0, 0);
        loop {
            sent += from.write(&block[sent % block.len()..]).unwrap_or(0);
            if pipe.held() == 0 {
                pipe.fill(&inlet).ok();
            }
            match pipe.drain(&outlet) {
                Ok(count) => moved += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(pipe.held() > 0 && moved > 0);
        let mut got = Vec::new();
        from.shutdown(std::net::Shutdown::Write).unwrap();
        to.set_nonblocking(true).unwrap();
        let mut room = [0; 1 << 14];
        loop {
            match to.read(&mut room) {
                Ok(0) => break,
                Ok(count) => got.extend_from_slice(&room[..count]),
                Err(_) if pipe.held() > 0 => drop(pipe.drain(&outlet)),
                Err(_) => {
                    if let Ok(0) = pipe.fill(&inlet) {
                        outlet.shutdown(std::net::Shutdown::Write).unwrap();
                    }
                }
            }
        }
        assert_eq!(got.len(), sent);
        assert!(got.iter().zip(block.iter().cycle()).all(|(one, other)| one == other));
    }
}

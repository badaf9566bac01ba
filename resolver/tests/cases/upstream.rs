//! Name servers that do what a case needs: answer, lie, cut, refuse, say nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::client::framed;

/// What a server was asked once.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) octets: Vec<u8>,
    pub(crate) from: SocketAddr,
}

/// A server on this process's loopback.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
}

/// How a script answers over UDP: any number of datagrams, from any socket.
pub(crate) struct Wire<'a> {
    pub(crate) socket: &'a UdpSocket,
    pub(crate) client: SocketAddr,
}

impl Wire<'_> {
    pub(crate) fn send(&self, reply: &[u8]) {
        self.socket.send_to(reply, self.client).ok();
    }
}

impl Upstream {
    /// Gives every question that address.
    pub(crate) fn knowing(address: [u8; 4]) -> Self {
        Self::answering(move |query| Some(addresses(query, &[address])))
    }

    /// Gives every question that reply, over UDP and TCP.
    pub(crate) fn answering(
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static,
    ) -> Self {
        let over_tcp = answer.clone();
        Self::scripted(
            move |query, wire| {
                if let Some(reply) = answer(query) {
                    wire.send(&reply);
                }
            },
            move |query, stream| {
                if let Some(reply) = over_tcp(query) {
                    stream.write_all(&framed(&reply)).ok();
                }
            },
        )
    }

    /// Takes questions and says nothing.
    pub(crate) fn silent() -> Self {
        Self::answering(|_| None)
    }

    /// Does what these say, over UDP and TCP.
    pub(crate) fn scripted(
        udp: impl Fn(&[u8], &Wire<'_>) + Send + 'static,
        tcp: impl Fn(&[u8], &mut TcpStream) + Send + 'static,
    ) -> Self {
        Self::listening(udp, move |mut stream, asked| {
            let client = stream.peer_addr().unwrap();
            while let Some(query) = next(&mut stream) {
                note(asked, &query, client);
                tcp(&query, &mut stream);
            }
        })
    }

    /// Cuts its answers over UDP, and resets who comes by TCP.
    pub(crate) fn resetting() -> Self {
        let cut = |query: &[u8], wire: &Wire<'_>| wire.send(&truncated(query));
        Self::listening(cut, |stream, _| {
            // What is closed with octets unread is reset.
            stream.peek(&mut [0]).ok();
        })
    }

    fn listening(
        udp: impl Fn(&[u8], &Wire<'_>) + Send + 'static,
        tcp: impl Fn(TcpStream, &Mutex<Vec<Asked>>) + Send + 'static,
    ) -> Self {
        // The same port for both; another test may have it for one of them.
        let (listener, socket) = (0..100)
            .find_map(|_| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let socket = UdpSocket::bind(listener.local_addr().unwrap()).ok()?;
                Some((listener, socket))
            })
            .unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (by_udp, by_tcp) = (Arc::clone(&asked), Arc::clone(&asked));
        let (ended, over) = (Arc::clone(&stop), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ended.load(SeqCst) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
                let octets = buffer[..length].to_vec();
                note(&by_udp, &octets, client);
                udp(&octets, &Wire { socket: &socket, client });
            }
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(SeqCst) {
                    return;
                }
                tcp(stream.unwrap(), &by_tcp);
            }
        });
        Self { address, asked, stop }
    }

    /// All that it was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        TcpStream::connect(self.address).ok(); // wakes the listener, which sees that it is over
    }
}

fn note(asked: &Mutex<Vec<Asked>>, octets: &[u8], from: SocketAddr) {
    asked.lock().unwrap().push(Asked { octets: octets.to_vec(), from });
}

fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut query).ok()?;
    Some(query)
}

/// Where the question of a message ends.
pub(crate) fn end_of_question(query: &[u8]) -> usize {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    end + 5
}

/// The type that is asked for.
pub(crate) fn kind(query: &[u8]) -> u16 {
    let end = end_of_question(query);
    u16::from_be_bytes([query[end - 4], query[end - 3]])
}

/// A reply to `query` with that code: records of each section, written out, and how many.
pub(crate) fn reply(query: &[u8], code: u8, sections: [(u8, &[u8]); 3]) -> Vec<u8> {
    let mut reply = query[..end_of_question(query)].to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80 | reply[3] & 0x10 | code;
    let [answers, authorities, additionals] = sections;
    let counts = [0, 1, 0, answers.0, 0, authorities.0, 0, additionals.0];
    reply[4..12].copy_from_slice(&counts);
    for (_, records) in sections {
        reply.extend_from_slice(records);
    }
    reply
}

/// A reply without records.
pub(crate) fn empty(query: &[u8], code: u8) -> Vec<u8> {
    reply(query, code, [(0, b""); 3])
}

/// A reply that says: ask over TCP.
pub(crate) fn truncated(query: &[u8]) -> Vec<u8> {
    let mut reply = empty(query, 0);
    reply[2] |= 2;
    reply
}

/// A reply with these addresses (none, but for type A), TTL 600.
pub(crate) fn addresses(query: &[u8], addresses: &[[u8; 4]]) -> Vec<u8> {
    if kind(query) != 1 {
        return empty(query, 0);
    }
    let records: Vec<u8> =
        addresses.iter().flat_map(|it| record(b"\xc0\x0c", 1, 600, it)).collect();
    reply(query, 0, [(addresses.len() as u8, &records), (0, b""), (0, b"")])
}

/// A record of class IN.
pub(crate) fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [owner, &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length, data].concat()
}

/// The SOA of `owner`.
pub(crate) fn soa(owner: &[u8], ttl: u32, minimum: u32) -> Vec<u8> {
    let timers = [1, 2, 3, 4, minimum].map(u32::to_be_bytes).concat();
    record(owner, 6, ttl, &[b"\0\0", &timers[..]].concat())
}

/// An address of the documentation's range, which upstreams of tests know.
pub(crate) const FOREIGN: [u8; 4] = Ipv4Addr::new(198, 51, 100, 7).octets();

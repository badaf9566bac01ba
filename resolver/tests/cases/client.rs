//! Asks in octets that are made here, so that nothing puts right what a case gets wrong, and reads
//! what comes back with a codec that is not ours.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{RData, Record};

use crate::support::{ADDRESS, Sandbox};

pub(crate) const A: u16 = 1;
pub(crate) const PTR: u16 = 12;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;
pub(crate) const ANY: u16 = 255;

pub(crate) const NOERROR: u16 = 0;
pub(crate) const FORMERR: u16 = 1;
pub(crate) const SERVFAIL: u16 = 2;
pub(crate) const NXDOMAIN: u16 = 3;
pub(crate) const NOTIMP: u16 = 4;
pub(crate) const REFUSED: u16 = 5;

/// Flags of an ordinary question: RD.
pub(crate) const RD: u16 = 0x0100;
/// Flags of its reply.
pub(crate) const QR: u16 = 0x8000;
pub(crate) const AA: u16 = 0x0400;
pub(crate) const TC: u16 = 0x0200;
pub(crate) const RA: u16 = 0x0080;
pub(crate) const AD: u16 = 0x0020;
pub(crate) const CD: u16 = 0x0010;

/// An OPT record: 1232 octets, version 0, no flag, no option.
pub(crate) const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";

/// An OPT record.
pub(crate) fn opt(size: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let length = (options.len() as u16).to_be_bytes();
    let (size, flags) = (size.to_be_bytes(), flags.to_be_bytes());
    [b"\0\0\x29", &size[..], &[0, version], &flags, &length, options].concat()
}

/// A name on the wire.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.').filter(|it| !it.is_empty()) {
        octets.push(label.len() as u8);
        octets.extend_from_slice(label.as_bytes());
    }
    octets.push(0);
    octets
}

/// A query that is well formed until a case changes it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// On the wire.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// Follows the question, and is counted as so many additional records.
    pub(crate) additional: (u16, Vec<u8>),
}

impl Ask {
    pub(crate) fn new(name: &str, kind: u16) -> Self {
        Self::wire(wire(name), kind)
    }

    pub(crate) fn wire(name: Vec<u8>, kind: u16) -> Self {
        Self { id: 0x1d1d, flags: RD, name, kind, class: 1, additional: (0, Vec::new()) }
    }

    pub(crate) fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn class(mut self, class: u16) -> Self {
        self.class = class;
        self
    }

    /// With these additional records.
    pub(crate) fn with(mut self, count: u16, records: &[u8]) -> Self {
        self.additional = (count, records.to_vec());
        self
    }

    /// Its question section.
    pub(crate) fn question(&self) -> Vec<u8> {
        [&self.name[..], &self.kind.to_be_bytes(), &self.class.to_be_bytes()].concat()
    }

    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        for field in [self.id, self.flags, 1, 0, 0, self.additional.0] {
            octets.extend_from_slice(&field.to_be_bytes());
        }
        octets.extend(self.question());
        octets.extend_from_slice(&self.additional.1);
        octets
    }

    /// With the length that goes before it on a stream.
    pub(crate) fn framed(&self) -> Vec<u8> {
        framed(&self.octets())
    }
}

pub(crate) fn framed(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u16).to_be_bytes(), octets].concat()
}

/// A reply.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) octets: Vec<u8>,
    pub(crate) message: Message,
}

impl Said {
    pub(crate) fn read(octets: &[u8]) -> Self {
        let message = Message::from_vec(octets)
            .unwrap_or_else(|error| panic!("{error}: {}", octets.escape_ascii()));
        Self { octets: octets.to_vec(), message }
    }

    fn field(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.octets[at], self.octets[at + 1]])
    }

    pub(crate) fn id(&self) -> u16 {
        self.field(0)
    }

    /// The flags without the response code.
    pub(crate) fn flags(&self) -> u16 {
        self.field(2) & 0xfff0
    }

    /// The response code, its extension included.
    pub(crate) fn code(&self) -> u16 {
        self.message.metadata.response_code.into()
    }

    /// Questions, answers, authorities, additionals as the header counts them.
    pub(crate) fn counts(&self) -> [u16; 4] {
        [4, 6, 8, 10].map(|at| self.field(at))
    }

    /// Types and data of the answers, sorted: `A 10.0.0.1`.
    pub(crate) fn answers(&self) -> Vec<String> {
        data(&self.message.answers)
    }

    pub(crate) fn additionals(&self) -> Vec<String> {
        data(&self.message.additionals)
    }

    /// The TTLs of all answers.
    pub(crate) fn ttls(&self) -> Vec<u32> {
        self.message.answers.iter().map(|it| it.ttl).collect()
    }

    /// How long its SOA lets a negative answer be kept; `None`: it has none.
    pub(crate) fn negative_ttl(&self) -> Option<u32> {
        let [Record { data: RData::SOA(soa), ttl, .. }] = &self.message.authorities[..] else {
            return None;
        };
        Some(soa.minimum.min(*ttl))
    }

    /// Its Extended DNS Error (RFC 8914).
    pub(crate) fn extended_error(&self) -> Option<u16> {
        let option = self.message.edns.as_ref()?.option(EdnsCode::Unknown(15))?;
        let EdnsOption::Unknown(_, data) = option else { return None };
        Some(u16::from_be_bytes([data[0], data[1]]))
    }

    /// No answer, NOERROR, and an SOA that says how long.
    #[track_caller]
    pub(crate) fn is_no_data(&self) {
        let seen = (self.code(), self.answers().len(), self.negative_ttl().is_some());
        assert_eq!(seen, (NOERROR, 0, true), "{}", self.message);
    }

    /// NXDOMAIN and an SOA that says how long.
    #[track_caller]
    pub(crate) fn is_no_name(&self) {
        let seen = (self.code(), self.answers().len(), self.negative_ttl().is_some());
        assert_eq!(seen, (NXDOMAIN, 0, true), "{}", self.message);
    }
}

fn data(records: &[Record]) -> Vec<String> {
    let mut data: Vec<_> = records
        .iter()
        .map(|it| it.to_string().split(' ').skip(3).collect::<Vec<_>>().join(" "))
        .collect();
    data.sort_unstable();
    data
}

/// A UDP socket in a sandbox, connected to 127.0.0.11:53.
pub(crate) struct Client(UdpSocket);

impl Client {
    pub(crate) fn of(sandbox: &Sandbox) -> Self {
        let socket = sandbox.client();
        socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
        Self(socket)
    }

    pub(crate) fn send(&self, octets: &[u8]) {
        self.0.send(octets).unwrap();
    }

    /// The next datagram.
    #[track_caller]
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a reply within six seconds");
        buffer[..length].to_vec()
    }

    /// What is replied to `octets`.
    #[track_caller]
    pub(crate) fn raw(&self, octets: &[u8]) -> Vec<u8> {
        self.send(octets);
        self.receive()
    }

    #[track_caller]
    pub(crate) fn ask(&self, ask: &Ask) -> Said {
        let said = Said::read(&self.raw(&ask.octets()));
        assert_eq!(said.id(), ask.id);
        said
    }

    /// The sorted answers to a plain question.
    #[track_caller]
    pub(crate) fn answers(&self, name: &str, kind: u16) -> Vec<String> {
        let said = self.ask(&Ask::new(name, kind));
        assert_eq!(said.code(), NOERROR, "{name}");
        said.answers()
    }

    /// Fails unless `octets` are answered by nothing before the next question is.
    #[track_caller]
    pub(crate) fn silent(&self, octets: &[u8]) {
        self.send(octets);
        self.lives();
    }

    /// Fails unless the next datagram answers an ordinary question.
    #[track_caller]
    pub(crate) fn lives(&self) {
        let said = self.ask(&Ask::new("web", A).id(0xe11e));
        assert_eq!(said.answers(), ["A 10.20.1.2"]);
    }

    /// Fails unless `octets` get a bare header with that code, which is what they can be told of
    /// safely: nothing of what could not be read.
    #[track_caller]
    pub(crate) fn refused(&self, octets: &[u8], code: u16) {
        let reply = self.raw(octets);
        let flags = [0x80 | octets[2] & 0x79, code as u8];
        let header = [&octets[..2], &flags, &[0; 8]].concat();
        assert_eq!(reply, header, "to {}", octets.escape_ascii());
    }
}

/// A TCP connection from a sandbox to 127.0.0.11:53.
pub(crate) struct Stream(pub(crate) TcpStream);

impl Stream {
    pub(crate) fn of(sandbox: &Sandbox) -> Self {
        let target = SocketAddr::from((ADDRESS, 53));
        let stream = sandbox.netns().run(|| TcpStream::connect(target).unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// One that may still be on its way: it waits for nobody to accept it.
    pub(crate) fn connecting(sandbox: &Sandbox) -> Self {
        let target = SocketAddr::from((ADDRESS, 53));
        let socket = kernel::socket::tcp_socket(&sandbox.netns(), target).unwrap();
        let begun = rustix::net::connect(&socket, &target);
        assert!(matches!(begun, Ok(()) | Err(rustix::io::Errno::INPROGRESS)), "{begun:?}");
        Self(socket)
    }

    pub(crate) fn send(&mut self, octets: &[u8]) {
        self.0.write_all(octets).unwrap();
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).expect("a message");
        let mut message = vec![0; u16::from_be_bytes(length).into()];
        self.0.read_exact(&mut message).expect("a whole message");
        message
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, ask: &Ask) -> Said {
        self.send(&ask.framed());
        let said = Said::read(&self.receive());
        assert_eq!(said.id(), ask.id);
        said
    }

    /// Fails unless the other side closes, with nothing more to say.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{}", rest.escape_ascii()),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

/// An address as an answer shows it.
pub(crate) fn address(last: [u8; 4]) -> String {
    format!("A {}", Ipv4Addr::from(last))
}

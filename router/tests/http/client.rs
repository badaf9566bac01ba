//! Clients: raw TCP, and curl.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

/// A client connection.
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

/// One response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// The status line and the fields, each with its CRLF.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn send(&mut self, bytes: &str) {
        self.stream.get_mut().write_all(bytes.as_bytes()).unwrap();
    }

    /// Reads one response; `None` when the connection ended before its first byte.
    pub(crate) fn reply(&mut self) -> Option<Reply> {
        self.reply_to("GET")
    }

    /// Reads one response to a request of that method.
    pub(crate) fn reply_to(&mut self, method: &str) -> Option<Reply> {
        let head = self.head()?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Some(reply);
        }
        if reply.field("transfer-encoding").is_some() {
            self.chunks(&mut reply.body);
        } else if let Some(length) = reply.field("content-length") {
            let length = length.parse().unwrap();
            self.stream.by_ref().take(length).read_to_end(&mut reply.body).unwrap();
            assert_eq!(reply.body.len() as u64, length, "the body ends too early");
        } else {
            self.stream.read_to_end(&mut reply.body).unwrap();
        }
        Some(reply)
    }

    /// Reads a head; `None` at the connection's end.
    pub(crate) fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).unwrap() == 0 {
                assert_eq!(head, "", "the head ends too early");
                return None;
            }
        }
        Some(head)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            assert!(line.ends_with("\r\n"), "the body ends too early");
            let size = u64::from_str_radix(line.trim_end(), 16).unwrap();
            self.stream.by_ref().take(size).read_to_end(body).unwrap();
            self.stream.read_line(&mut line).unwrap();
            if size == 0 {
                return;
            }
        }
    }

    /// Everything until the connection ends, however it ends.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        drop(self.stream.read_to_end(&mut rest));
        String::from_utf8_lossy(&rest).into_owned()
    }
}

impl Reply {
    /// The value of a header field, `None` if it is not there once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().filter_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        });
        values.next().filter(|_| values.next().is_none())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(address: SocketAddr, request: &str) -> Reply {
    let mut client = Client::connect(address);
    client.send(request);
    client.reply().unwrap()
}

/// A GET for a host and path.
pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> Reply {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
}

/// Runs curl.
#[expect(clippy::disallowed_methods, reason = "the client under test is a program")]
pub(crate) fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments).output().unwrap()
}

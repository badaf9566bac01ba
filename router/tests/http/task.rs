//! Tasks that do exactly what a test tells them to, byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A listening task; its connections are counted.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// One request as a task got it.
pub(crate) struct Asked {
    /// The head, each line with its CRLF.
    pub(crate) head: String,
    /// How many requests came before on this connection.
    pub(crate) nth: usize,
    pub(crate) stream: BufReader<TcpStream>,
}

/// What a task does after an answer.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Then {
    Keep,
    Close,
}

impl Task {
    /// A task on 127.0.0.1 and a port of the kernel's choice.
    pub(crate) fn start(answer: impl Fn(&mut Asked) -> Then + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), answer)
    }

    /// A task that answers each request on `address` by `answer`.
    pub(crate) fn at(
        address: SocketAddr,
        answer: impl Fn(&mut Asked) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::on(TcpListener::bind(address).unwrap(), answer)
    }

    /// A task that answers each request on `listener` by `answer`.
    pub(crate) fn on(
        listener: TcpListener,
        answer: impl Fn(&mut Asked) -> Then + Send + Sync + 'static,
    ) -> Self {
        listener.set_nonblocking(false).unwrap();
        let task = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (running, answer) = (task.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                running.connections.fetch_add(1, Ordering::SeqCst);
                let (requests, answer) = (Arc::clone(&running.requests), Arc::clone(&answer));
                thread::spawn(move || converse(stream.unwrap(), &requests, &*answer));
            }
        });
        task
    }

    /// A task that says its name.
    pub(crate) fn named(address: SocketAddr, name: &'static str) -> Self {
        Self::at(address, move |asked| asked.reply(name))
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many requests it got.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn converse(
    stream: TcpStream,
    requests: &AtomicUsize,
    answer: &(impl Fn(&mut Asked) -> Then + ?Sized),
) {
    let mut asked = Asked { head: String::new(), nth: 0, stream: BufReader::new(stream) };
    loop {
        asked.head.clear();
        while !asked.head.ends_with("\r\n\r\n") {
            match asked.stream.read_line(&mut asked.head) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        if answer(&mut asked) == Then::Close {
            return;
        }
        asked.nth += 1;
    }
}

impl Asked {
    /// Answers 200 with this body.
    pub(crate) fn reply(&mut self, body: &str) -> Then {
        let length = body.len();
        self.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    /// Sends these bytes.
    pub(crate) fn say(&mut self, bytes: &str) -> Then {
        self.send(bytes.as_bytes())
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Then {
        match self.stream.get_mut().write_all(bytes) {
            Ok(()) => Then::Keep,
            Err(_) => Then::Close,
        }
    }

    /// The value of a header field, `None` if it is not there once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().filter_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        });
        values.next().filter(|_| values.next().is_none())
    }

    /// Reads the body that the head announces.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        if let Some(length) = self.field("content-length").map(|it| it.parse().unwrap()) {
            self.stream.by_ref().take(length).read_to_end(&mut body).unwrap();
        } else if self.field("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                // The line is empty where the router broke off.
                self.stream.read_line(&mut line).unwrap();
                let size = u64::from_str_radix(line.trim_end(), 16).unwrap_or(0);
                self.stream.by_ref().take(size).read_to_end(&mut body).unwrap();
                self.stream.read_line(&mut line).unwrap();
                if size == 0 {
                    break;
                }
            }
        }
        body
    }
}

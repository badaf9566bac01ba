//! Name servers that speak TLS, behind certificates of any kind.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use resolver::Authorities;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Somebody who signs servers' certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Who trusts it alone.
    pub(crate) fn alone(&self) -> Authorities {
        Authorities::Only(vec![self.0.der().clone()])
    }

    /// Its certificate, as a file has it.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `names` (or addresses) that is good until that year, and its key.
    pub(crate) fn certify(&self, names: &[&str], until: i32) -> ServerConfig {
        let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }
}

/// A connection to a server, its certificate shown.
pub(crate) struct Talk<'s> {
    stream: StreamOwned<ServerConnection, TcpStream>,
    asked: &'s Mutex<Vec<Vec<u8>>>,
}

impl Talk<'_> {
    /// The next question; `None`: there will be none.
    pub(crate) fn question(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length).ok()?;
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        self.stream.read_exact(&mut question).ok()?;
        self.asked.lock().unwrap().push(question.clone());
        Some(question)
    }

    pub(crate) fn say(&mut self, reply: &[u8]) {
        let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
        self.stream.write_all(&[&length, reply].concat()).ok();
    }

    /// Ends it in order.
    pub(crate) fn close(mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().ok();
    }
}

/// A name server on loopback that is to be asked over TLS, and notices who does not.
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
    connections: Arc<AtomicUsize>,
    clear: UdpSocket,
    stop: Arc<AtomicBool>,
}

impl TlsServer {
    /// Does on each connection what `manner` does with it.
    pub(crate) fn start(
        config: ServerConfig,
        manner: impl Fn(Talk<'_>) + Clone + Send + 'static,
    ) -> Self {
        Self::on("127.0.0.1:0", config, manner)
    }

    /// The same at a given address.
    pub(crate) fn on(
        address: &str,
        config: ServerConfig,
        manner: impl Fn(Talk<'_>) + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let clear = UdpSocket::bind(address).unwrap();
        clear.set_nonblocking(true).unwrap();
        let (asked, connections) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (config, over) = (Arc::new(config), Arc::clone(&stop));
        let (noted, counted) = (Arc::clone(&asked), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming().take_while(|_| !over.load(SeqCst)) {
                counted.fetch_add(1, SeqCst);
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let (noted, manner) = (Arc::clone(&noted), manner.clone());
                std::thread::spawn(move || {
                    let stream = StreamOwned::new(connection, stream);
                    manner(Talk { stream, asked: &noted });
                });
            }
        });
        Self { address, asked, connections, clear, stop }
    }

    /// Answers everything, one by one.
    pub(crate) fn answering(
        config: ServerConfig,
        answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static,
    ) -> Self {
        Self::start(config, move |mut talk| {
            while let Some(question) = talk.question() {
                talk.say(&answer(&question));
            }
        })
    }

    /// How a configuration names it, with `name` for its certificate.
    pub(crate) fn named(&self, name: &str) -> resolver::Server {
        format!("tls://{}{name}", self.address).parse().unwrap()
    }

    /// All that it was asked.
    pub(crate) fn asked(&self) -> Vec<Vec<u8>> {
        self.asked.lock().unwrap().clone()
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Fails if anybody asked it in clear, over UDP.
    #[track_caller]
    pub(crate) fn nobody_asked_in_clear(&self) {
        let seen = self.clear.recv(&mut [0; 512]);
        assert_eq!(seen.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        TcpStream::connect(self.address).ok(); // wakes the listener, which sees that it is over
    }
}

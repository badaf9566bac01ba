//! Many sandboxes at once, each with an "engine" behind it that answers what nobody else does.
//!
//! Always true here: no program is run for a namespace, so that hundreds take a second; all
//! namespaces go with the value; who answered is known by the address that the answer has.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel::link;
use kernel::netns::Netns;
use kernel::nft::{
    Batch, ChainKind, CmpOp, Expr, Family, Hook, HookPoint, MetaKey, NatKind, PayloadBase, Socket,
    Table,
};
use tokio::sync::oneshot;

use super::{ADDRESS, reply};

/// What the engines say `web` is.
pub(crate) const ENGINES: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// What the worlds of [`Crowd::world`] say it is.
pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

/// Namespaces, with somebody to ask in each.
pub(crate) struct Crowd {
    pub(crate) places: Vec<Place>,
    _engines: oneshot::Sender<()>,
}

/// One of them.
pub(crate) struct Place {
    pub(crate) netns: Netns,
    client: UdpSocket,
}

/// Who answered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Census {
    pub(crate) ours: usize,
    pub(crate) engine: usize,
    pub(crate) refused: usize,
    pub(crate) silent: usize,
}

impl Crowd {
    pub(crate) fn new(size: usize) -> Self {
        let mut engines = Vec::new();
        let places = (0..size)
            .map(|_| {
                let netns = Netns::fresh().unwrap();
                link::set_up(&netns, "lo").unwrap();
                engines.push(engine(&netns));
                let client = client(&netns);
                Place { netns, client }
            })
            .collect();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || serve(engines, stopped));
        Self { places, _engines: stop }
    }

    /// A world with all of them on one network, with `web` and so many more services.
    pub(crate) fn world(&self, services: usize) -> String {
        let mut text = format!(
            "[[network]]\nname = \"net\"\nsubnet = \"10.1.0.0/16\"\n\
             [[service]]\nname = \"web\"\nnetworks = [\"net\"]\nvip = {{ net = \"{OURS}\" }}\n"
        );
        for index in 0..services {
            let (high, low) = (1 + index / 250, index % 250);
            write!(
                text,
                "[[service]]\nname = \"s{index}\"\nnetworks = [\"net\"]\n\
                 vip = {{ net = \"10.1.{high}.{low}\" }}\n"
            )
            .unwrap();
        }
        for (index, place) in self.places.iter().enumerate() {
            write!(
                text,
                "[[sandbox]]\nname = \"b{index}\"\nnetns = \"{}\"\nnetworks = [\"net\"]\n",
                place.path().display()
            )
            .unwrap();
        }
        text
    }

    /// Who answers now: each is asked once, and has `patience` in all.
    pub(crate) fn census(&self, patience: Duration) -> Census {
        let mut census = Census::default();
        let mut waiting: Vec<_> = self.places.iter().collect();
        for place in &waiting {
            place.forget();
            place.ask();
        }
        let begun = Instant::now();
        while !waiting.is_empty() && begun.elapsed() < patience {
            waiting.retain(|place| match place.heard() {
                None => true,
                Some(said) => {
                    census.add(said);
                    false
                }
            });
            std::thread::sleep(Duration::from_millis(1));
        }
        census.silent = waiting.len();
        census
    }

    /// Waits until the census is as `wanted`, or fails; how long it took.
    #[track_caller]
    pub(crate) fn eventually(
        &self,
        within: Duration,
        wanted: impl Fn(&Census) -> bool,
    ) -> Duration {
        super::eventually(within, || self.census(Duration::from_millis(300)), wanted)
    }

    /// How long it takes until the engine answers in each, from now on; sorted. Each is asked
    /// every few milliseconds, as if its clients had no patience.
    #[track_caller]
    pub(crate) fn back_with_the_engine(&self, within: Duration) -> Vec<Duration> {
        let begun = Instant::now();
        let mut waiting: Vec<_> = self.places.iter().collect();
        let mut back = Vec::new();
        while !waiting.is_empty() {
            assert!(begun.elapsed() < within, "{} are still not back", waiting.len());
            for place in &waiting {
                place.ask();
            }
            std::thread::sleep(Duration::from_millis(2));
            waiting.retain(|place| {
                let said = std::iter::from_fn(|| place.heard());
                let here = said.into_iter().any(|it| matches!(it, Said::Address(ENGINES)));
                back.extend(here.then(|| begun.elapsed()));
                !here
            });
        }
        back
    }
}

impl Census {
    fn add(&mut self, said: Said) {
        match said {
            Said::Address(OURS) => self.ours += 1,
            Said::Address(_) => self.engine += 1,
            Said::Refused => self.refused += 1,
        }
    }
}

#[derive(Clone, Copy)]
enum Said {
    Address(Ipv4Addr),
    Refused,
}

impl Place {
    /// Where another process finds it.
    pub(crate) fn path(&self) -> PathBuf {
        let descriptor = self.netns.path().file_name().unwrap();
        PathBuf::from(format!("/proc/{}/fd", std::process::id())).join(descriptor)
    }

    fn ask(&self) {
        // A refusal of an earlier question is reported here; it is asked again then.
        let query = b"\0\x15\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
        if self.client.send(query).is_err() {
            self.client.send(query).ok();
        }
    }

    /// Reads away what came late.
    fn forget(&self) {
        while self.heard().is_some() {}
    }

    fn heard(&self) -> Option<Said> {
        let mut buffer = [0; 512];
        match self.client.recv(&mut buffer) {
            Ok(length) => {
                let octets = <[u8; 4]>::try_from(&buffer[length - 4..length]).unwrap();
                Some(Said::Address(octets.into()))
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(Said::Refused),
            Err(_) => None,
        }
    }
}

/// A socket connected to 127.0.0.11:53; it does not block.
fn client(netns: &Netns) -> UdpSocket {
    kernel::socket::udp_connected(netns, SocketAddr::from((ADDRESS, 53))).unwrap()
}

/// The socket of an engine's resolver, and its DNAT, as Docker makes them.
fn engine(netns: &Netns) -> UdpSocket {
    let socket = kernel::socket::udp_bound(netns, (ADDRESS, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let equal = |data: Vec<u8>| Expr::Cmp { op: CmpOp::Eq, from: 0, data };
    let payload = |base, offset, len| Expr::Payload { base, offset, len, to: 0 };
    let table = Table { family: Family::Ip, name: "docker" };
    let mut batch = Batch::new();
    batch.add_table(table, false);
    let hook = Hook { kind: ChainKind::Nat, point: HookPoint::Output, priority: -100 };
    batch.add_chain(table, "output", Some(hook));
    let rule = [
        Expr::Meta { key: MetaKey::L4Proto, to: 0 },
        equal(vec![17]),
        payload(PayloadBase::Transport, 2, 2),
        equal(53_u16.to_be_bytes().to_vec()),
        payload(PayloadBase::Network, 16, 4),
        equal(ADDRESS.octets().to_vec()),
        Expr::Immediate { to: 0, data: ADDRESS.octets().to_vec() },
        Expr::Immediate { to: 1, data: port.to_be_bytes().to_vec() },
        Expr::Nat { kind: NatKind::Dnat, address: 0, port: Some(1) },
    ];
    batch.add_rule(table, "output", &rule, &[]);
    Socket::open(netns).unwrap().commit(&batch).unwrap();
    socket
}

/// Answers for all engines, until the crowd is gone.
fn serve(engines: Vec<UdpSocket>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for socket in engines {
            tasks.spawn(answer(tokio::net::UdpSocket::from_std(socket).unwrap()));
        }
        stopped.await.ok();
    });
}

async fn answer(socket: tokio::net::UdpSocket) {
    let mut buffer = [0; 512];
    loop {
        if let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let reply = reply(&buffer[..length], 0, &[ENGINES]);
            socket.send_to(&reply, client).await.ok();
        }
    }
}

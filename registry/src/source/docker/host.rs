//! What the Docker source needs of this machine's kernel, as a trait: the registry knows no kernel.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::model::Protocol;
use crate::source::docker::host_files::HostFiles;

/// Somebody on an overlay network, on another node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Neighbour {
    /// Its address there.
    pub address: IpAddr,
    /// Its node's address, where the tunnel ends.
    pub node: IpAddr,
}

/// The machine on which the engine runs.
pub trait Host: Send + Sync + 'static {
    /// The cookie (`SO_NETNS_COOKIE`) of the network namespace at `path`. May block for well under
    /// a millisecond; called off the runtime's workers.
    fn netns_cookie(&self, path: &Path) -> io::Result<u64>;

    /// The addresses inside the network namespace at `path`, loopback ones or not; by them it is
    /// found out whose a new namespace is before the engine says so. Without it a container's
    /// sandbox is known when the container has started instead of shortly before.
    fn netns_addresses(&self, path: &Path) -> io::Result<Vec<IpAddr>> {
        let reason = format!("cannot read the addresses in `{}`", path.display());
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// Who is on the overlay network whose namespace is at `path`, on other nodes. Without it
    /// published ports of engines from 26 on do not keep their clients' addresses. May block as
    /// [`Host::netns_cookie`].
    fn neighbours(&self, path: &Path) -> io::Result<Vec<Neighbour>> {
        let reason = format!("cannot read the neighbours in `{}`", path.display());
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// The published ports that the engine's rules in a task's network namespace lead to their
    /// targets: published, target, and the protocol, which nothing else tells on a worker. May run a program of the
    /// host; called off the runtime's workers.
    fn redirected_ports(&self, path: &Path) -> io::Result<Vec<(u16, u16, Protocol)>> {
        let reason = format!("cannot read the firewall in `{}`", path.display());
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// The cookie of the host's own network namespace: containers there are no sandboxes.
    fn host_cookie(&self) -> io::Result<u64>;

    /// The number of the host's interface `name`; `None` where there is none. It tells which link the
    /// name server `fe80::1%eth0` is on; without it such a server is not asked.
    fn interface_index(&self, name: &str) -> Option<u32> {
        let _ = name;
        None
    }

    /// The files of the host that name DNS servers.
    fn files(&self) -> HostFiles {
        HostFiles::default()
    }

    /// Sends into `nudge` whenever the neighbour table of the namespace at `path` changes. A full
    /// `nudge` already says so: never wait for room. Ends when the namespace is gone, or at once
    /// when it cannot be entered.
    fn watch_neighbours(
        &self,
        path: PathBuf,
        nudge: mpsc::Sender<()>,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// One question (A) asked of the engine's own resolver inside the namespace at `path`, bounded
    /// in time by the implementation (under half a second). It is one of the engine's own, where no
    /// container's program can answer instead. `name` has no trailing dot, e.g.
    /// `tasks.web.frontend`. `None`: no such resolver, no answer, or an answer other than NOERROR.
    fn engine_tasks(
        &self,
        path: &Path,
        name: &str,
    ) -> impl Future<Output = Option<Vec<Ipv4Addr>>> + Send;
}

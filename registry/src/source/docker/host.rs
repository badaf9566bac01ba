//! What the Docker source needs of this machine's kernel, as a trait: the registry knows no kernel.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::source::docker::host_files::HostFiles;

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

    /// One question (A) asked of the engine's own resolver inside the sandbox at `path`, bounded
    /// in time by the implementation (under half a second). `name` has no trailing dot, e.g.
    /// `tasks.web.frontend`. `cookie` is the namespace that is meant: another one at that path is
    /// not asked. `None`: no such resolver, no answer, or an answer other than NOERROR.
    fn engine_tasks(
        &self,
        path: &Path,
        cookie: u64,
        name: &str,
    ) -> impl Future<Output = Option<Vec<Ipv4Addr>>> + Send;
}

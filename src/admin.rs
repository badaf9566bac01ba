//! Where portolan is asked: a unix socket for the command line, and a TCP port for monitoring
//! where one is configured.
//!
//! Invariants
//! - *rights*: who may open the socket (mode 0660, group `portolan` where it exists) may ask and
//!   change; who reaches the port may only read;
//! - *apart*: a slow asker holds up nobody, and a crowd at the port nobody at the socket.

pub mod api;
pub mod client;
pub mod events;
mod explain;
mod exposition;
mod metrics;
mod serve;
pub mod views;

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use serve::Rights;
pub use views::{Status, status};

use crate::supervise::Live;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A portolan answers there already.
    #[error(
        "a portolan already runs on this machine (it answers on {socket}); stop it first, or set \
         `admin.socket` to run another"
    )]
    Running {
        /// The socket's path.
        socket: PathBuf,
    },
    /// One that is ending, or that begins at this moment.
    #[error(
        "another portolan has not ended yet (it holds {lock}); wait for it, or set `admin.socket` \
         to run another"
    )]
    Held {
        /// The file that it has locked.
        lock: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {socket}: {source}; set `admin.socket` to a path that you can write")]
    Listen {
        /// The socket's path.
        socket: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// The port cannot be had.
    #[error(
        "cannot listen on {address} for metrics and the API: {source}; stop what listens there, or \
         set `admin.listen` to another address or to \"off\""
    )]
    Port {
        /// Where.
        address: SocketAddr,
        /// The refusal.
        source: std::io::Error,
    },
}

/// The admin socket, listening; its file goes with it.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    lock: Arc<Lock>,
}

/// Says that this process is the machine's portolan, until it is dropped: longer than the socket
/// is served, because the parts end after it.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "open, it holds the lock")] File);

impl Lock {
    /// Takes the lock of whoever has its socket at `socket`, in a folder that exists.
    pub fn take(socket: &Path) -> Result<Self, AdminError> {
        let refused = |source| AdminError::Listen { socket: socket.to_owned(), source };
        let lock = socket.with_extension("lock");
        let file = File::create(&lock).map_err(refused)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(AdminError::Held { lock }),
            Err(TryLockError::Error(source)) => Err(refused(source)),
        }
    }
}

impl AdminSocket {
    /// Serves until `stop`.
    pub fn serve(self, live: Live, tasks: &mut JoinSet<()>, stop: CancellationToken) -> Arc<Lock> {
        let lock = Arc::clone(&self.lock);
        tasks.spawn(async move { serve::serve(&self.listener, Rights::Change, live, &stop).await });
        lock
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

/// The admin port, listening.
#[derive(Debug)]
pub struct AdminPort(TcpListener);

impl AdminPort {
    /// Listens on `address`, which the configuration takes from loopback only.
    pub async fn open(address: SocketAddr) -> Result<Self, AdminError> {
        let listener = TcpListener::bind(address).await;
        listener.map(Self).map_err(|source| AdminError::Port { address, source })
    }

    /// Serves until `stop`.
    pub fn serve(self, live: Live, tasks: &mut JoinSet<()>, stop: CancellationToken) {
        tasks.spawn(async move { serve::serve(&self.0, Rights::Read, live, &stop).await });
    }
}

/// Makes the admin socket at `path`. This comes first at a start, because who holds the socket is
/// this machine's portolan, and nobody else touches the kernel.
pub async fn listen(path: &Path) -> Result<AdminSocket, AdminError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(AdminError::Running { socket: path.to_owned() });
    }
    let refused = |source| AdminError::Listen { socket: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(refused)?;
    }
    let lock = Lock::take(path)?;
    let make = || -> std::io::Result<UnixListener> {
        // What is left of one that was killed; nobody answered there a moment ago.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        if let Some(group) = group_id("portolan") {
            std::os::unix::fs::chown(path, None, Some(group))?;
        }
        Ok(listener)
    };
    match make() {
        Ok(listener) => Ok(AdminSocket { listener, path: path.to_owned(), lock: Arc::new(lock) }),
        Err(source) => Err(refused(source)),
    }
}

fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

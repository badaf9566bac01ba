//! Network namespaces: open one, tell whether it is still the same, run something in it.
//!
//! Always true here: only threads made for it enter a namespace, and they end with their work, so
//! that no runtime's worker ever stays in a foreign one. A [`Netns`] is a descriptor, and an open
//! descriptor keeps a dead container's namespace (about 230 kB of kernel memory): hold it briefly.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// An opened network namespace. Holding it keeps the namespace alive: hold it briefly.
#[derive(Debug)]
pub struct Netns {
    file: File,
    inode: u64,
    path: PathBuf,
}

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing can be opened at this path: usually its container has left.
    #[error("cannot open the network namespace `{path}`")]
    Open {
        /// Where the namespace was expected.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The thread was not let into the namespace, or what was opened is none.
    #[error("cannot enter the network namespace `{path}`")]
    Enter {
        /// Where the namespace was opened.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The path names another namespace than the one meant: inode numbers and names are reused.
    #[error("the network namespace `{path}` is another one now (cookie {found}, not {expected})")]
    Replaced {
        /// The reused path.
        path: PathBuf,
        /// The cookie of the namespace that was meant.
        expected: u64,
        /// The cookie of the namespace that is there.
        found: u64,
    },
    /// The kernel does not tell the namespace's cookie (`SO_NETNS_COOKIE`, Linux 5.14).
    #[error("cannot read the cookie of the network namespace `{path}`")]
    Cookie {
        /// Where the namespace was opened.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// No thread could be started to enter the namespace.
    #[error("cannot start a thread for the network namespace `{path}`")]
    Thread {
        /// The namespace to be entered.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A namespace could not be made and given a name in the file system.
    #[error("cannot {what} for the network namespace `{path}`")]
    Name {
        /// The step that failed.
        what: &'static str,
        /// The name it should have, or had.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

impl NetnsError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Open { source, .. } if denied(source) => {
                Some("let portolan read the engine's netns folder: run it as root")
            }
            Self::Enter { source, .. } | Self::Name { source, .. } if denied(source) => {
                Some("run portolan as root or with CAP_SYS_ADMIN and CAP_NET_ADMIN")
            }
            Self::Cookie { .. } => Some("use Linux 5.14 or newer"),
            Self::Thread { .. } => Some("raise the limit of threads (ulimit -u, pids.max)"),
            Self::Open { .. } | Self::Enter { .. } | Self::Replaced { .. } | Self::Name { .. } => {
                None // it has gone or been replaced; whoever listed it will say so
            }
        }
    }
}

impl Netns {
    /// Opens the namespace that `path` names, e.g. a container's `SandboxKey`.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.ino(), file)));
        match opened {
            Ok((inode, file)) => Ok(Self { file, inode, path: path.to_owned() }),
            Err(source) => Err(NetnsError::Open { path: path.to_owned(), source }),
        }
    }

    /// Opens it and refuses with [`NetnsError::Replaced`] when its cookie is not `cookie`.
    /// Without a cookie it is [`Netns::open`].
    pub fn open_checked(path: &Path, cookie: Option<u64>) -> Result<Self, NetnsError> {
        let netns = Self::open(path)?;
        if let Some(expected) = cookie {
            netns.run(|| netns.verify_entered(expected))??;
        }
        Ok(netns)
    }

    /// The calling thread's own namespace.
    pub fn this() -> Result<Self, NetnsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new namespace, empty but for a loopback interface that is down; it has no name and goes
    /// with this value and the sockets made in it.
    pub fn fresh() -> Result<Self, NetnsError> {
        let path = PathBuf::from("a new namespace");
        let made = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns-new".to_owned())
                .stack_size(STACK_SIZE)
                .spawn_scoped(scope, || unshare_net().map(|()| Self::this()));
            thread.map(std::thread::ScopedJoinHandle::join)
        });
        match made {
            Ok(Ok(Ok(netns))) => netns.map(Self::named_by_descriptor),
            Ok(Ok(Err(source))) => Err(NetnsError::Name { what: "unshare", path, source }),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(source) => Err(NetnsError::Thread { path, source }),
        }
    }

    fn named_by_descriptor(self) -> Self {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        Self { path, ..self }
    }

    /// The namespace's cookie (`SO_NETNS_COOKIE`): unlike an inode number never used twice
    /// between two boots.
    pub fn cookie(&self) -> Result<u64, NetnsError> {
        self.run(|| self.cookie_entered())?
    }

    /// Inode number of the namespace (nsfs), to see with [`still_there`] whether a path still
    /// names the same one. Reused as soon as the namespace is gone: hold a socket in it, or
    /// compare cookies, where that matters.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` on a fresh thread that entered this namespace, and waits for it. The thread ends
    /// with `f`; a panic in `f` goes on in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".to_owned())
                .stack_size(STACK_SIZE)
                .spawn_scoped(scope, || self.enter().map(|()| f()));
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(source) => Err(NetnsError::Thread { path: self.path.clone(), source }),
            }
        })
    }

    /// Moves the calling thread in. Whoever calls this ends the thread, or leaves again.
    pub(crate) fn enter(&self) -> Result<(), NetnsError> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| NetnsError::Enter { path: self.path.clone(), source: errno.into() })
    }

    /// Whether this namespace, which the calling thread has entered, is the one meant.
    pub(crate) fn verify_entered(&self, expected: u64) -> Result<(), NetnsError> {
        let found = self.cookie_entered()?;
        if found == expected {
            Ok(())
        } else {
            Err(NetnsError::Replaced { path: self.path.clone(), expected, found })
        }
    }

    fn cookie_entered(&self) -> Result<u64, NetnsError> {
        cookie_here().map_err(|source| NetnsError::Cookie { path: self.path.clone(), source })
    }

    /// The descriptor, for requests that name a namespace by it (moving a link).
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The cookie of the namespace that `path` names.
pub fn cookie_of(path: &Path) -> Result<u64, NetnsError> {
    Netns::open(path)?.cookie()
}

/// Whether `path` still names a namespace with this inode number; only a `stat`.
pub fn still_there(path: &Path, inode: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.ino() == inode)
}

fn unshare_net() -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix marks unshare unsafe because of CLONE_FILES")]
    // SAFETY: CLONE_FILES, which would leave other threads' descriptors dangling, is not passed.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

fn denied(source: &io::Error) -> bool {
    source.kind() == io::ErrorKind::PermissionDenied
}

/// The cookie of the calling thread's namespace; any socket made there knows it.
fn cookie_here() -> io::Result<u64> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    #[expect(unsafe_code, reason = "neither rustix nor socket2 knows SO_NETNS_COOKIE")]
    // SAFETY: the descriptor is open; value and length point to live variables, and the length
    // says how many bytes of the value may be written.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if status == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// `asm-generic/socket.h`, which all architectures that containers run on share; libc has it not.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// What runs in a namespace makes a few system calls and parses replies on the heap.
const STACK_SIZE: usize = 256 * 1024;

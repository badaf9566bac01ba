//! nftables over netlink: transactions in, an acknowledgement or an errno out, and reading back.
//!
//! Always true here: a [`Batch`] is committed whole or not at all; owner tables live as long as
//! the [`Socket`] that made them; no nft program and no C library is needed. What a table means
//! is the caller's business.

mod batch;
mod expr;
mod monitor;
mod read;
mod set;
mod table;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

pub use self::batch::{Batch, comment};
pub use self::expr::{Checksum, CmpOp, CtKey, Expr, MetaKey, NatKind, PayloadBase, RejectWith};
pub(crate) use self::monitor::is_change_of;
pub use self::monitor::{Event, Monitor, Watched};
pub(crate) use self::read::read_any;
pub use self::read::{ChainInfo, RuleInfo, TableInfo};
pub use self::set::{Element, ElementValue, KeyType, SetSpec, SetValue, Verdict, concat};
pub use self::table::{ChainKind, Family, Hook, HookPoint, Table};

use crate::netlink::{Channel, NETFILTER, Refusal};
use crate::netns::{Netns, NetnsError};

/// Why nftables could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The namespace could not be entered.
    #[error("cannot open an nftables socket")]
    Namespace(#[from] NetnsError),
    /// A table, chain, set or element that was named is not there.
    #[error("cannot {what}: it is not there (message {index} of the transaction)")]
    Absent {
        /// What was attempted, e.g. `delete table portolan_vip`.
        what: String,
        /// Position in the transaction, from 0.
        index: usize,
    },
    /// The process lacks `CAP_NET_ADMIN` in the namespace.
    #[error("cannot {what}: permission denied")]
    Denied {
        /// What was attempted.
        what: String,
    },
    /// The kernel lacks nftables, or this part of it.
    #[error("cannot {what}: this kernel's nftables cannot do it (message {index})")]
    Unsupported {
        /// What was attempted.
        what: String,
        /// Position in the transaction, from 0.
        index: usize,
        /// The refusal.
        source: io::Error,
    },
    /// Another process owns the table, what is to be removed is in use, or what is to be added is
    /// there already and differs.
    #[error(
        "cannot {what}: another process owns it, it is in use, or it is there already and differs \
         (message {index} of the transaction)"
    )]
    Busy {
        /// What was attempted.
        what: String,
        /// Position in the transaction, from 0.
        index: usize,
        /// The refusal.
        source: io::Error,
    },
    /// The kernel found a message wrong; nothing of the transaction took place.
    #[error("cannot {what} (message {index} of the transaction){explanation}")]
    Rejected {
        /// What was attempted.
        what: String,
        /// Position in the transaction, from 0.
        index: usize,
        /// In the kernel's words, after a colon; often empty.
        explanation: String,
        /// The refusal.
        source: io::Error,
    },
    /// Speaking to the kernel failed.
    #[error("cannot {what}")]
    Io {
        /// What was attempted.
        what: String,
        /// The failure.
        source: io::Error,
    },
}

impl NftError {
    /// Whether something that was named is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Whether nftables is not to be had here at all: the kernel lacks it, or the process may not
    /// use it.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Denied { .. } | Self::Unsupported { .. } => true,
            Self::Io { source, .. } => matches!(
                source.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | EOPNOTSUPP | libc::EAFNOSUPPORT | libc::ENOSYS)
            ),
            Self::Namespace(_)
            | Self::Absent { .. }
            | Self::Busy { .. }
            | Self::Rejected { .. } => false,
        }
    }

    /// Whether a listing was longer than [`Socket::limit`] allows.
    pub fn is_too_long(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge)
    }

    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace(source) => source.remedy(),
            Self::Denied { .. } => Some("run portolan as root or with CAP_NET_ADMIN"),
            Self::Unsupported { .. } => Some(
                "kernel has no nftables, or too old ones: `modprobe nf_tables`, or use Linux 5.14",
            ),
            Self::Busy { .. } => {
                Some("see `nft list tables` in that namespace: another program made this table")
            }
            Self::Io { source, .. } if source.raw_os_error() == Some(libc::EMSGSIZE) => {
                Some("the transaction is too long for net.core.wmem_max: raise that sysctl")
            }
            Self::Absent { .. } | Self::Rejected { .. } | Self::Io { .. } => None,
        }
    }
}

/// A netlink socket that lives in a namespace, and keeps it. Owner tables live as long as it does.
#[derive(Debug)]
pub struct Socket {
    channel: Channel,
    /// Most entries of a listing.
    limit: usize,
}

impl Socket {
    /// Opens a socket inside the namespace; it works from any thread.
    pub fn open(netns: &Netns) -> Result<Self, NftError> {
        let opened = netns.run(|| Channel::open(NETFILTER))?;
        let channel = opened.map_err(|source| {
            let what = "open an nftables socket".to_owned();
            if source.raw_os_error() == Some(libc::EPROTONOSUPPORT) {
                NftError::Unsupported { what, index: 0, source }
            } else {
                NftError::Io { what, source }
            }
        })?;
        Ok(Self { channel, limit: read::ENTRIES_MAX })
    }

    /// The descriptor, to be passed to another process, which then owns the tables as well: they
    /// live until the last one who has it closes it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.descriptor()
    }

    /// The netlink port by which the kernel tells whose transaction one was; no other socket of the
    /// namespace has it as long as this one is open.
    pub fn port(&self) -> Result<u32, NftError> {
        self.channel.port().map_err(|source| NftError::Io {
            what: "read the port of an nftables socket".to_owned(),
            source,
        })
    }

    /// A socket that was opened elsewhere. Nobody else may use it at the same time.
    pub fn from_descriptor(descriptor: OwnedFd) -> Result<Self, NftError> {
        let what = || "use an nftables socket that was passed".to_owned();
        let channel = Channel::from_descriptor(descriptor)
            .map_err(|source| NftError::Io { what: what(), source })?;
        Ok(Self { channel, limit: read::ENTRIES_MAX })
    }

    /// Lists no more than `entries` of anything from now on (else two million). A longer listing is
    /// an error ([`NftError::is_too_long`]), after which this socket is of no further use.
    pub fn limit(&mut self, entries: usize) {
        self.limit = entries;
    }

    /// Commits all of the batch or nothing. An empty one is committed at once. Where the kernel
    /// asks for it to be sent again (`ERESTART`), it is, a bounded number of times.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let failed =
            |source| NftError::Io { what: "commit an nftables transaction".to_owned(), source };
        let mut attempts = 0;
        loop {
            let parts = batch.parts().map_err(failed)?;
            let outcome = self.channel.batch(&[&parts.begin, parts.body, &parts.end], parts.last);
            attempts += 1;
            match outcome.map_err(failed)? {
                Ok(()) => return Ok(()),
                Err(it) if it.errno == ERESTART && attempts < COMMIT_ATTEMPTS => {}
                Err(refusal) => return Err(refusal_of(batch, refusal)),
            }
        }
    }
}

fn refusal_of(batch: &Batch, refusal: Refusal) -> NftError {
    let Refusal { sequence, errno, explanation } = refusal;
    let source = io::Error::from_raw_os_error(errno);
    // The batch's begin has number 0, its messages follow.
    let Some((index, what)) = batch.step(sequence) else {
        let what = "commit an nftables transaction".to_owned();
        return match errno {
            libc::EPERM => NftError::Denied { what },
            EOPNOTSUPP | libc::EPROTONOSUPPORT => NftError::Unsupported { what, index: 0, source },
            _ => NftError::Io { what, source },
        };
    };
    match errno {
        libc::ENOENT => NftError::Absent { what, index },
        EOPNOTSUPP => NftError::Unsupported { what, index, source },
        // Whether the process may change anything was asked at the batch's begin.
        libc::EPERM | libc::EBUSY | libc::EEXIST => NftError::Busy { what, index, source },
        _ => {
            let explanation =
                if explanation.is_empty() { explanation } else { format!(": {explanation}") };
            NftError::Rejected { what, index, explanation, source }
        }
    }
}

/// The kernel's own number for "send it again"; not meant for user space, so libc has it not on
/// all platforms.
const ERESTART: i32 = 85;

/// `EOPNOTSUPP`, which Linux also calls `ENOTSUP`.
const EOPNOTSUPP: i32 = libc::EOPNOTSUPP;

/// A transaction that has to be sent again this often meets somebody who writes all the time.
const COMMIT_ATTEMPTS: u32 = 16;

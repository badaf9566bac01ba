//! Whom a sandbox asks about names that the registry does not know, and what is kept of what they
//! said.
//!
//! Invariants
//! - *kept apart*: what was learnt from one place of dialling and one set of servers is told to
//!   nobody who asks from another place or other servers.

mod asking;
pub(crate) mod cache;
mod circle;
pub(crate) mod exchange;
mod flight;
mod health;
pub(crate) mod limits;
mod outlook;
pub(crate) mod policy;
mod private;
mod race;
pub(crate) mod realm;
pub(crate) mod rebinding;
pub(crate) mod register;
mod server;
pub(crate) mod suffix;
pub(crate) mod tls;
mod way;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use circle::{Asker, Told};
pub use outlook::{KeptAnswer, KeptAs, Outlook, ServerOutlook};
pub(crate) use policy::choice;
pub use register::{CacheFigures, Flushed, Standing, UpstreamState};
pub use server::{BadServer, Protocol, Server};
pub(crate) use suffix::is_below;
pub use tls::{Authorities, BadAuthorities};

/// Who is asked, and what is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamConfig {
    /// Asked from the host in place of the servers of the host's resolv.conf; empty: those are
    /// asked (`dns.upstreams`).
    pub servers: Vec<Server>,
    /// Servers for names below a suffix, by its normal form ([`crate::name::key`]); asked from the
    /// host for every sandbox that may ask outside (`dns.suffixes`).
    pub suffixes: BTreeMap<String, Vec<Server>>,
    /// Who may vouch for servers that are asked over TLS (`dns.tls_ca`).
    pub authorities: Authorities,
    /// Octets that all answers kept may take together; 0: none is kept (`dns.cache_bytes`).
    pub cache_bytes: usize,
    /// Whether answers with private addresses for public names are refused
    /// (`dns.rebinding_filter`).
    pub rebinding_filter: bool,
    /// Suffixes below which they are let through, in normal form (`dns.rebinding_allow`).
    pub rebinding_allow: Vec<String>,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            suffixes: BTreeMap::new(),
            authorities: Authorities::default(),
            cache_bytes: 16 << 20,
            rebinding_filter: false,
            rebinding_allow: Vec::new(),
        }
    }
}

/// Only whole values are put behind these locks, so a panic elsewhere leaves nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Makes one namespace's table of the mesh hold what it is to hold.
//!
//! Invariants
//! - *only differences*: what the kernel holds is known from the last time, or read back;
//! - *one socket*: where there is a table, a socket is kept for the next change;
//! - *looked after*: at upkeep, and when somebody else changed it, the table is compared with what
//!   was written, and its life prolonged;
//! - *nothing missed*: changes by others are subscribed to before the table is read.

use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{Batch, NftError, Socket, Watched};
use kernel::route::Told;
use tokio::time::Instant;

use super::affinity;
use super::balance::{Balancing, Wanted};
use super::firewall::USERS_CHAIN;
use super::table::{self, Ruleset, TABLE};
use crate::sandbox::UPKEEP;
use crate::watch::{self, Begun, Watch};

/// A table that is there.
#[derive(Debug)]
pub(crate) struct Laid {
    socket: Socket,
    ruleset: Ruleset,
    balancing: Balancing,
    looked: Instant,
    ear: Ear,
    /// Somebody else may have changed it since.
    doubted: bool,
}

/// How changes by others are heard of.
#[derive(Debug)]
enum Ear {
    /// Not at all: the upkeep looks, and tries again.
    Deaf,
    /// They wait for whoever follows them.
    Begun(Begun),
    Watched(Watch),
}

/// What is to be laid: the ports, and the table around them.
pub(crate) struct Layout<'a> {
    /// Where ports lead; nothing in tables that balance nothing.
    pub(crate) wanted: Vec<Wanted<'a>>,
    /// The table for a balancing; nothing: no table.
    pub(crate) frame: &'a (dyn Fn(&Balancing) -> Ruleset + Sync),
    /// What of it all others may change.
    pub(crate) sphere: Sphere,
}

/// What of ours there is besides the table, and who else may change it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sphere {
    /// Rules, routes and settings of interfaces, few of them.
    Namespace,
    /// Forwarding, and the rule in the engine's firewall.
    Host,
}

impl Laid {
    /// Brings the namespace from `known` to `layout`; gives what is there now and how many changes
    /// that took.
    pub(crate) fn lay(
        netns: &Netns,
        known: Option<Self>,
        layout: &Layout<'_>,
        now: Instant,
    ) -> Result<(Self, usize), NftError> {
        let due = |it: &Self| it.doubted || now.saturating_duration_since(it.looked) >= UPKEEP;
        let (mut socket, ear) = match known {
            Some(mut laid) if !due(&laid) && laid.ear.hears() => match laid.amend(layout) {
                Ok(changes) => return Ok((laid, changes)),
                Err(error) => {
                    tracing::debug!(%error, "reading a table of the mesh back");
                    (laid.socket, laid.ear)
                }
            },
            Some(laid) => (laid.socket, laid.ear),
            None => (Socket::open(netns)?, Ear::Deaf),
        };
        let mut ear = if ear.hears() { ear } else { Ear::open(netns, &socket, layout.sphere) };
        let kinds = Balancing::of_all_kinds().next(layout.wanted.iter().copied());
        let seen = match table::read(&mut socket, &(layout.frame)(&kinds)) {
            Err(error) if error.is_too_long() => {
                tracing::warn!(?netns, "somebody filled the mesh's table; it is made anew");
                socket = Socket::open(netns)?;
                ear = Ear::open(netns, &socket, layout.sphere);
                None
            }
            read => read?,
        };
        let balancing = seen.as_ref().map(Balancing::seen).unwrap_or_default();
        let ruleset = (layout.frame)(&balancing);
        if seen.is_some_and(|it| ruleset.is_seen_in(&it)) {
            let mut laid = Self { socket, ruleset, balancing, looked: now, ear, doubted: false };
            let mut batch = Batch::new();
            laid.ruleset.revive(&mut batch);
            laid.socket.commit(&batch)?;
            let changes = laid.amend(layout)?;
            affinity::forget(&mut laid.socket, &laid.ruleset)?;
            return Ok((laid, changes));
        }
        let balancing = Balancing::default().next(layout.wanted.iter().copied());
        let ruleset = (layout.frame)(&balancing);
        socket.commit(&ruleset.whole())?;
        Ok((Self { socket, ruleset, balancing, looked: now, ear, doubted: false }, 1))
    }

    /// Somebody else may have changed the table: the next time it is read back.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Whether there is something to do whatever is to be laid.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Has `follow` hear of changes by others from here on, if nobody does yet.
    pub(crate) fn be_followed(&mut self, follow: impl FnOnce(Begun) -> Watch) {
        self.ear = match std::mem::replace(&mut self.ear, Ear::Deaf) {
            Ear::Begun(begun) => Ear::Watched(follow(begun)),
            ear @ (Ear::Deaf | Ear::Watched(_)) => ear,
        };
    }

    fn amend(&mut self, layout: &Layout<'_>) -> Result<usize, NftError> {
        let balancing = self.balancing.next(layout.wanted.iter().copied());
        let ruleset = (layout.frame)(&balancing);
        if ruleset == self.ruleset {
            self.balancing = balancing;
            return Ok(0);
        }
        // Clearing the other half away is no change that anybody asked for.
        let changes = usize::from(!self.balancing.has_leavings() || balancing != self.balancing);
        let batch = ruleset.amending(&self.ruleset).unwrap_or_else(|| ruleset.whole());
        self.socket.commit(&batch)?;
        let loses = affinity::loses(&self.ruleset, &ruleset);
        (self.ruleset, self.balancing) = (ruleset, balancing);
        if loses {
            affinity::forget(&mut self.socket, &self.ruleset)?;
        }
        Ok(changes)
    }
}

impl Ear {
    fn open(netns: &Netns, socket: &Socket, sphere: Sphere) -> Self {
        const TABLE_ALONE: Watched<'static> = Watched { table: TABLE.name, chain: None };
        let (watched, told): (&[_], _) = match sphere {
            Sphere::Namespace => (&[TABLE_ALONE], Told::All),
            Sphere::Host => (&[TABLE_ALONE, USERS_CHAIN], Told::Settings),
        };
        let begin = |port| watch::begin_before(netns, watched, told, port);
        let begun = socket.port().and_then(begin);
        match begun {
            Ok(begun) => Self::Begun(begun),
            Err(error) => {
                tracing::warn!(%error, "changes of the mesh's table by others are not heard of");
                Self::Deaf
            }
        }
    }

    fn hears(&self) -> bool {
        match self {
            Self::Deaf => false,
            Self::Begun(_) => true,
            Self::Watched(watch) => watch.hears(),
        }
    }
}

/// Whether a table of our name is in a namespace.
pub(crate) fn is_there(netns: &Netns) -> Result<bool, NftError> {
    table::is_there(&mut Socket::open(netns)?)
}

/// Lets a table of the mesh that is in a namespace work for another while.
pub(crate) fn revive(netns: &Netns) -> Result<(), NftError> {
    let mut socket = Socket::open(netns)?;
    if !table::is_there(&mut socket)? {
        return Ok(());
    }
    let mut batch = Batch::new();
    Ruleset { mortal: true, ..Ruleset::default() }.revive(&mut batch);
    socket.commit(&batch)
}

/// Removes our table from a namespace; gives whether there was one.
pub(crate) fn remove(netns: &Netns) -> Result<bool, NftError> {
    let mut socket = Socket::open(netns)?;
    let there = table::is_there(&mut socket)?;
    if there {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        socket.commit(&batch)?;
    }
    Ok(there)
}

/// How long until what is there is looked at again.
pub(crate) const LOOK: Duration = UPKEEP;

//! Makes one namespace's table of the mesh hold what it is to hold.
//!
//! Invariants
//! - *only differences*: what the kernel holds is known from the last time, or read back;
//! - *one socket*: where there is a table, a socket is kept for the next change;
//! - *looked after*: at upkeep the table is compared with what was written, and its life prolonged.

use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{Batch, NftError, Socket};
use tokio::time::Instant;

use super::balance::{Balancing, Wanted};
use super::table::{self, Ruleset, TABLE};
use crate::sandbox::UPKEEP;

/// A table that is there.
#[derive(Debug)]
pub(crate) struct Laid {
    socket: Socket,
    ruleset: Ruleset,
    balancing: Balancing,
    looked: Instant,
}

/// What is to be laid: the ports, and the table around them.
pub(crate) struct Layout<'a> {
    /// Where ports lead; nothing in tables that balance nothing.
    pub(crate) wanted: Vec<Wanted<'a>>,
    /// The table for a balancing; nothing: no table.
    pub(crate) frame: &'a (dyn Fn(&Balancing) -> Ruleset + Sync),
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
        let due = |it: &Self| now.saturating_duration_since(it.looked) >= UPKEEP;
        let mut socket = match known {
            Some(mut laid) if !due(&laid) => match laid.amend(layout) {
                Ok(changes) => return Ok((laid, changes)),
                Err(error) => {
                    tracing::debug!(%error, "reading a table of the mesh back");
                    laid.socket
                }
            },
            Some(laid) => laid.socket,
            None => Socket::open(netns)?,
        };
        let seen = table::read(&mut socket, &(layout.frame)(&Balancing::default()))?;
        let balancing = seen.as_ref().map(Balancing::seen).unwrap_or_default();
        let ruleset = (layout.frame)(&balancing);
        if seen.is_some_and(|it| ruleset.is_seen_in(&it)) {
            let mut laid = Self { socket, ruleset, balancing, looked: now };
            let mut batch = Batch::new();
            laid.ruleset.revive(&mut batch);
            laid.socket.commit(&batch)?;
            let changes = laid.amend(layout)?;
            return Ok((laid, changes));
        }
        let balancing = Balancing::default().next(layout.wanted.iter().copied());
        let ruleset = (layout.frame)(&balancing);
        socket.commit(&ruleset.whole())?;
        Ok((Self { socket, ruleset, balancing, looked: now }, 1))
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
        (self.ruleset, self.balancing) = (ruleset, balancing);
        Ok(changes)
    }
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

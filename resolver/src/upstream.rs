//! Whom a sandbox asks about names that the registry does not know, and what is kept of what they
//! said.
//!
//! Invariants
//! - *kept apart*: what was learnt from one place of dialling and one set of servers is told to
//!   nobody who asks from another place or other servers.

pub(crate) mod cache;
pub(crate) mod rebinding;

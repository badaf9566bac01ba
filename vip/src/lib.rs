//! Gives every service one address on each of its networks, and spreads what comes to that address
//! over the service's serving tasks, in the kernel of every sandbox.
//!
//! Read in this order: [`plan`], [`mod@compile`], [`allocate`], [`diff`], `layout`, `ruleset`,
//! `sandbox`, [`apply`].
//!
//! Invariants
//! - *compile never fails*: what cannot be done is a note on its service;
//! - *one transaction*: a change of a service is one, and no packet sees half of it;
//! - *established connections stay*: only connections to tasks that are gone are cut;
//! - *a dead portolan leaves VIPs standing*, for ten minutes: after that addresses may be somebody
//!   else's, and the tables switch themselves off.

mod affinity;
mod aftermath;
pub mod allocate;
pub mod apply;
pub mod compile;
mod cut;
pub mod diff;
mod drain;
pub mod explain;
mod family;
pub mod flows;
pub mod health;
mod inquiry;
pub mod inspect;
mod layout;
pub mod lease;
mod lease_file;
mod logbook;
pub mod mesh;
pub mod meter;
mod patience;
pub mod plan;
mod readback;
pub mod relay;
pub mod routes;
mod ruleset;
pub mod sandbox;
mod slots;
mod steps;
mod userspace;
mod watch;

pub use apply::Vip;
pub use compile::{Config, DRAIN, compile};
pub use explain::explain;
pub use health::Health;
pub use inspect::inspect;
pub use mesh::Mesh;
pub use meter::Meter;
pub use plan::{Addresses, Plan};
pub use sandbox::cleanup;
pub use userspace::DataPlane;

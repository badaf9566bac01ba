//! The userspace data plane: takes TCP connections and datagrams at given places and hands them on
//! to tasks, for ports that nftables cannot serve: where it is refused, where clients speak IPv6
//! and tasks do not, and where a service wants the PROXY protocol.
//!
//! Read in this order: [`plan`], [`mod@diff`], [`engine`], `worker`, `gate`, `tcp`, `udp`.
//!
//! Invariants
//! - *established sessions stay*: a change cuts only sessions to tasks that are gone, and those to
//!   tasks that drain once their drain time is over, not those to tasks that get no new ones for
//!   another reason; both ends are then reset;
//! - *nothing is believed to be sent*: another task is tried only while no byte went to the first;
//! - *bounded*: sessions in all and for each client, datagrams that wait, clients remembered;
//! - *nobody there is said at once*: without a serving task nobody listens, and the kernel refuses.

pub mod annex;
mod choice;
pub mod diff;
pub mod engine;
pub mod error;
mod gate;
mod header;
pub mod limits;
pub mod meter;
pub mod plan;
mod recent;
mod redirect;
pub mod sandbox;
mod sockets;
mod tcp;
mod udp;
mod worker;

pub use engine::Relay;
pub use limits::Limits;
pub use meter::{Count, Meter};
pub use plan::{Entrance, Place, Plan, Target, Way};

//! The kernel's door: the only room of portolan that asks the Linux kernel for privileged things.
//!
//! In a network namespace that the caller names, it opens sockets, commits nftables transactions,
//! deletes conntrack entries, changes routes and links, and watches neighbours.
//!
//! Invariants
//! - *knows no model*: no service, task or sandbox; only paths, addresses, tables and errnos;
//! - *no policy*: it decides nothing, and retries only what the kernel itself asks to be retried;
//! - *no programs, no C libraries*: netlink is spoken over sockets, see [`nft`], [`route`],
//!   [`conntrack`];
//! - *bounded*: a synchronous call waits for the kernel for at most two seconds a message; what
//!   the kernel sends back is parsed with bounds checks and never panics;
//! - *no thread is left in a foreign namespace*: threads that enter one end there or come back;
//! - `unsafe` stands in this crate alone, each block with its reason.

pub mod burst;
pub mod conntrack;
pub mod datagram;
pub mod door;
pub mod echo;
pub mod fuzz;
pub mod link;
pub mod listeners;
pub mod listening;
pub mod memory;
pub mod neighbour;
mod netlink;
pub mod netns;
pub mod nft;
pub mod passing;
pub mod privilege;
pub mod process;
pub mod provoke;
pub mod route;
pub mod rule;
pub mod sock_diag;
pub mod socket;
pub mod splice;
pub mod stream;
pub mod sysctl;

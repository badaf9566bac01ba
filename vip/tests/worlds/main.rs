//! The VIP manager in real network namespaces, as root or inside `unshare -Urnm`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on panics, and time is real here"
)]

mod affinity;
mod balancing;
mod changes;
mod dual_stack;
mod flows;
mod foreign;
mod health;
mod host;
mod mesh;
mod mesh_changes;
mod mesh_choice;
mod mesh_gate;
mod mesh_manager;
mod mesh_outbound;
mod mesh_relay;
mod mesh_support;
mod relay;
mod replaced;
mod restart;
mod support;
mod userspace;

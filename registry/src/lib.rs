//! What exists: the model, its immutable [`Snapshot`], the label parser, the sources, and the one
//! loop that drives whoever acts on it. Knows no consumer and no kernel.
//!
//! Read in this order: [`model`], [`snapshot`], [`note`], [`consumer`], [`labels`], [`source`].

pub mod balance_spec;
pub mod consumer;
pub mod document;
pub mod duration;
pub mod event;
pub mod fuzz;
pub mod health;
pub mod id;
pub mod labels;
pub mod model;
pub mod nearest;
pub mod note;
pub mod route_spec;
pub mod snapshot;
pub mod source;
pub mod vips;

pub use consumer::{Consumer, Outcome, Report, drive};
pub use event::Events;
pub use note::{Note, Notes, Severity};
pub use snapshot::{Draft, Snapshot, World};
pub use vips::VipPair;

//! Sends requests to the tasks that the labels name: Snapshot -> route table -> HTTP.
//!
//! Invariants
//! - *no one's mistake is another's*: a bad label is a note on its service;
//! - *never worse after a change*: a new table is swapped in whole, requests in flight keep theirs;
//! - *streaming*: bodies pass through, they are never collected;
//! - *nothing from outside is believed*: heads are checked before they are parsed, framing and
//!   forwarding fields are made here, every wait and every buffer has a bound.
//!
//! Read in this order: [`table`], [`compile`], [`route`], `rewrite`, `balance`, then the way of
//! a request: `thread`, `guard` (with `framing` and `head`), `serve`, `upstream`, `body`, `answer`;
//! last [`diff`], [`apply`] and [`explain`](mod@explain).

mod answer;
pub mod apply;
mod authority;
mod balance;
mod body;
pub mod compile;
pub mod config;
pub mod diff;
pub mod explain;
mod forwarded;
mod framing;
mod guard;
mod head;
mod hop;
mod live;
mod path;
mod refusal;
mod reply;
mod rewrite;
pub mod route;
mod serve;
pub mod stats;
pub mod table;
mod thread;
mod upstream;

pub use apply::{Handle, Router, RouterError};
pub use config::Config;
pub use explain::{Explanation, explain};
pub use table::RouteTable;

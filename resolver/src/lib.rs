//! Names: what every container resolves on 127.0.0.11, and what operators resolve from the host.
//!
//! Read in this order: [`plan`], [`compile`](compile()), [`answer`], [`wire`],
//! [`respond`], then what does I/O: `serve`, `forward`, `engine`, `takeover`, `holder`, `apply`.

pub mod answer;
mod apply;
mod chance;
mod compile;
mod consumer;
pub mod diff;
mod engine;
pub mod explain;
pub mod fast;
pub mod fuzz;
mod holder;
mod host;
mod metrics;
pub mod name;
pub mod plan;
pub mod respond;
mod serve;
pub mod shared_map;
mod takeover;
mod upstream;
pub mod verify;
pub mod wire;

pub use compile::{Compiler, compile};
pub use consumer::{Meter, Resolver, StartError};
pub use engine::EngineClient;
pub use explain::{Explanation, Known, explain};
pub use holder::{HolderProgram, hold};
pub use host::HostSockets;
pub use metrics::{ByCode, Counts, Latencies, NetworkCounts, Source};
pub use plan::{Config, Outside, Plan, VipTable};
pub use takeover::cleanup;
pub use upstream::{
    Authorities, BadAuthorities, BadServer, Protocol as ServerProtocol, Server, UpstreamConfig,
};
pub use upstream::{CacheFigures, Flushed, Standing, UpstreamState};
pub use upstream::{KeptAnswer, KeptAs, Outlook, ServerOutlook};
pub use verify::{Verified, verify};

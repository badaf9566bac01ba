//! Reads a Docker engine, manager or worker of a Swarm or neither, and follows it live.
//!
//! Invariants
//! - *never ends*: an engine that is absent, refuses or breaks off is tried again until `stop`;
//! - *last good stays*: meanwhile the last world is kept and says why it is stale;
//! - *no orders*: nothing here changes anything in the engine or in the kernel.
//!
//! Read in this order: [`run`], `follow` (the loop), `read` (the requests), `events`, then the pure
//! readers `container`, `engine`, `swarm`, `gossip`, and `convert`, which makes a world of them.

mod agenda;
mod chase;
mod command_line;
mod container;
mod convert;
mod draining;
mod engine;
mod error;
mod events;
mod extra_hosts;
mod folder;
mod follow;
mod former;
mod gossip;
pub mod host;
mod host_files;
mod raw;
mod read;
pub(crate) mod resolv_conf;
mod sandbox;
mod swarm;
mod time;
mod upstream;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::snapshot::Snapshot;
use crate::source::Publisher;
use crate::source::docker::follow::Kept;
pub use error::EngineError;
pub use host::Host;
pub use host_files::HostFiles;

/// Which engine, and how often it is read without a reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// `unix:///var/run/docker.sock`, `tcp://HOST:PORT` or `http://HOST:PORT`. Sandboxes, and what
    /// the kernel tells, are only to be had from the engine of this machine.
    pub endpoint: String,
    /// How often everything is read again although nothing said so; at least 30 s.
    pub poll_interval: Duration,
}

/// Publishes the world of the engine at `config.endpoint` into `sender` until `stop`.
pub async fn run<H: Host>(
    config: Config,
    host: H,
    sender: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
) {
    let host = Arc::new(host);
    let publisher = Publisher::new(sender);
    let mut kept = Kept::default();
    let mut pause = FIRST_PAUSE;
    let mut said = None;
    while !stop.is_cancelled() {
        let generation = publisher.current().generation();
        let session = Box::pin(session(&config, &host, &publisher, &mut kept, &stop));
        let Err(error) = session.await else { return };
        if publisher.current().generation() != generation {
            (pause, said) = (FIRST_PAUSE, None); // it worked for a while
        }
        let reason = error.to_string();
        publisher.mark_stale(&reason);
        if said.as_ref() != Some(&reason) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(endpoint = config.endpoint, cause, "{reason}");
            said = Some(reason);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn session<H: Host>(
    config: &Config,
    host: &Arc<H>,
    publisher: &Publisher,
    kept: &mut Kept,
    stop: &CancellationToken,
) -> Result<(), EngineError> {
    let client = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        client = read::Client::connect(&config.endpoint) => client?,
    };
    follow::follow(client, Arc::clone(host), config, publisher, kept, stop).await
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;

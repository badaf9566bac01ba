//! `portolan up`: the main job, until a signal says to end.

use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use super::USAGE;
use super::report::failure;
use crate::config::Config;
use crate::log;
use crate::supervise::{Given, Parts, StartError, Supervisor};

#[derive(Debug, clap::Args)]
pub(super) struct Up {
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    Resolver,
    Vip,
    Router,
}

impl Up {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let config = match Config::load(config) {
            Ok(config) => config,
            Err(errors) => return failure(&errors, USAGE),
        };
        log::init(config.log_format, &config.log_level);
        if let Err(error) = kernel::process::raise_descriptor_limit() {
            tracing::warn!(%error, "many sandboxes or connections may not fit");
        }
        // A heap for each thread that can run is enough; before there is another thread.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        kernel::memory::limit_heaps(processors);
        let runtime = match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime,
            Err(error) => return failure(&format_args!("cannot start: {error}"), 1),
        };
        match runtime.block_on(up(&config, self.parts())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ StartError::World(_)) => failure(&error, USAGE),
            Err(error) => failure(&error, 1),
        }
    }

    fn parts(&self) -> Parts {
        if self.only.is_empty() {
            return Parts::all();
        }
        Parts {
            resolver: self.only.contains(&Part::Resolver),
            vip: self.only.contains(&Part::Vip),
            router: self.only.contains(&Part::Router),
        }
    }
}

async fn up(config: &Config, parts: Parts) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Thread)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Thread)?;
    let supervisor = Supervisor::start(config, parts, Given::default()).await?;
    tracing::info!(?parts, socket = %config.admin_socket.display(), "portolan is up");
    let ending = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    tokio::select! {
        () = ending => {}
        () = announce(&supervisor) => {}
    }
    supervisor.stop().await;
    tracing::info!(
        "portolan has ended; nftables leads on for ten minutes, DNS is the engine's again"
    );
    Ok(())
}

/// Says once that all is ready; never ends by itself.
async fn announce(supervisor: &Supervisor) {
    supervisor.ready().await;
    tracing::info!("ready");
    std::future::pending::<()>().await;
}

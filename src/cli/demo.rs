//! `portolan demo` and the application that it shows.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::report::failure;
use crate::demo::app::App;
use crate::exec::{Place, enter};
use crate::{demo, log};

#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Run this inside once everything is ready, and exit with its status
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Demo {
    pub(super) fn run(self) -> ExitCode {
        log::init(log::Format::Text, "warn");
        match demo::run(&self.command) {
            Ok(status) => status,
            Err(error) => failure(&error, 1),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct DemoApp {
    /// Move into this network namespace first
    #[arg(long)]
    netns: Option<PathBuf>,
    #[command(flatten)]
    app: App,
}

impl DemoApp {
    pub(super) fn run(self) -> ExitCode {
        log::init(log::Format::Text, "warn");
        if let Some(netns) = self.netns {
            let name = self.app.name.clone().unwrap_or_default();
            let place = Place { hostname: name.clone(), name, netns, addresses: Vec::new() };
            if let Err(error) = enter(&place) {
                return failure(&error, 1);
            }
        }
        match self.app.run() {
            Ok(status) => status,
            Err(error) => failure(&error, 1),
        }
    }
}

//! `portolan hold`: the process that gives sandboxes back when the one that started it dies.

use std::process::ExitCode;

use super::report::failure;

#[derive(Debug, clap::Args)]
pub(super) struct Hold {}

impl Hold {
    #[expect(clippy::unused_self, reason = "every verb runs the same way")]
    pub(super) fn run(self) -> ExitCode {
        match resolver::hold() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&format_args!("cannot hold sandboxes: {error}"), 1),
        }
    }
}

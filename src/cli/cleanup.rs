//! `portolan cleanup`

use std::path::Path;
use std::process::ExitCode;

use super::report::{failure, print, remark};
use super::{USAGE, admin_socket};
use crate::admin::client;
use crate::cleanup::clean_host;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Cleanup {}

impl Cleanup {
    #[expect(clippy::unused_self, reason = "every verb runs the same way")]
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let socket = match admin_socket(config) {
            Ok(socket) => socket,
            Err(errors) => return failure(&errors, USAGE),
        };
        if client::get(&socket, "/healthz").is_ok() {
            return failure(&"portolan is running and would put everything back; stop it first", 1);
        }
        if let Err(missing) = kernel::privilege::check() {
            return failure(&missing, 1);
        }
        let state_dir = match Config::load(config) {
            Ok(config) => config.state_dir,
            Err(errors) => return failure(&errors, USAGE),
        };
        let cleaned = clean_host(&state_dir);
        let failed = u8::from(!cleaned.failures.is_empty());
        let text = format!(
            "looked at {} network namespaces, removed portolan's tables and routes from {}\n",
            cleaned.namespaces, cleaned.changed
        );
        let status = print(&text, failed);
        if cleaned.in_use > 0 {
            let in_use = cleaned.in_use;
            remark(&format_args!("left {in_use} alone, which another running portolan serves"));
        }
        for failure in &cleaned.failures {
            remark(failure);
        }
        status
    }
}

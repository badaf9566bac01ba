//! `portolan check [FILE...]`: every diagnostic of the files, beside what runs on this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use super::report::{failure, print, remark};
use super::{USAGE, admin_socket};
use crate::admin::client;
use crate::check::{LiveService, check};

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Compose or stack files, world files, configuration files; none: only the configuration
    files: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let socket = match admin_socket(config) {
            Ok(socket) => socket,
            Err(errors) => return failure(&errors, USAGE),
        };
        let report = check(&self.files, &running(&socket));
        let status = report.status();
        if self.json {
            let json = serde_json::to_value(&report).unwrap_or(Value::Null);
            return print(&format_args!("{json:#}\n"), status);
        }
        if status == 0 {
            remark(&"nothing wrong");
        }
        print(&report, status)
    }
}

/// The services of a portolan that runs here; none when none runs, which is no error.
fn running(socket: &Path) -> Vec<LiveService> {
    let list = client::get(socket, "/api/v1/services?labels=true").ok();
    let rows = list.as_ref().and_then(|it| it.get("rows")).and_then(Value::as_array);
    let service = |row: &Value| serde_json::from_value(row.clone()).ok();
    rows.into_iter().flatten().filter_map(service).collect()
}

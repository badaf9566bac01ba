//! `portolan exec SANDBOX COMMAND...`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use super::report::failure;
use super::{USAGE, admin_socket};
use crate::admin::{api, client};
use crate::exec::{Place, exec};

#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    /// Name of the sandbox (container), as `portolan ls sandboxes` prints it
    sandbox: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let socket = match admin_socket(config) {
            Ok(socket) => socket,
            Err(errors) => return failure(&errors, USAGE),
        };
        let path = format!("/api/v1/sandbox?name={}", api::escape(&self.sandbox));
        match client::get(&socket, &path) {
            Ok(found) => failure(&exec(&place(&found), &self.command), 1),
            Err(error) => failure(&error, 1),
        }
    }
}

fn place(found: &Value) -> Place {
    let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let addresses = found.get("addresses").and_then(Value::as_array);
    let addresses = addresses.into_iter().flatten().filter_map(Value::as_str);
    Place {
        name: text("name"),
        netns: PathBuf::from(text("netns")),
        hostname: text("hostname"),
        addresses: addresses.filter_map(|it| it.parse().ok()).collect(),
    }
}

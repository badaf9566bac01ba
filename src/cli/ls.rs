//! `portolan ls WHAT`: one table, with the diagnostics that concern it below.

use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::Value;

use super::report::{failure, print, remark, table};
use super::{USAGE, admin_socket};
use crate::admin::client;

#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    what: What,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Networks,
    Services,
    Tasks,
    Sandboxes,
    Nodes,
    Vips,
    Routes,
}

impl Ls {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let socket = match admin_socket(config) {
            Ok(socket) => socket,
            Err(errors) => return failure(&errors, USAGE),
        };
        let what = self.what.to_possible_value().map(|it| it.get_name().to_owned());
        let path = format!("/api/v1/{}", what.unwrap_or_default());
        let list = match client::get(&socket, &path) {
            Ok(list) => list,
            Err(error) => return failure(&error, 1),
        };
        if self.json {
            return print(&format_args!("{list:#}\n"), 0);
        }
        let items =
            |key: &str| list.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let status = print(&table(&items("rows")), 0);
        for note in items("notes") {
            remark(&note.as_str().unwrap_or_default());
        }
        status
    }
}

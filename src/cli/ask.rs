//! `portolan explain`, `status`, `verify` and `dns`: one question to the running portolan, one text
//! back.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::report::{failure, print};
use super::{USAGE, admin_socket};
use crate::admin::client::ClientError;
use crate::admin::{api, client};

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Why NAME resolves as it does when asked from a sandbox
    Dns {
        /// The name, e.g. `web` or `tasks.app.backend`
        name: String,
        /// The sandbox that asks
        #[arg(long)]
        from: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Where a connection to ADDRESS goes from a sandbox; sends one probe
    Vip {
        /// The address, with `:PORT` where a TCP connection is meant, e.g. `10.0.1.5:80`
        address: String,
        /// The sandbox that connects
        #[arg(long)]
        from: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusVerb {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Dns {
    #[command(subcommand)]
    what: DnsVerb,
}

#[derive(Debug, Subcommand)]
enum DnsVerb {
    /// Forget what name servers outside said
    Flush {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

impl Dns {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let DnsVerb::Flush { json } = self.what;
        told(config, |socket| client::post(socket, api::FLUSH), json)
    }
}

impl Explain {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        match self.subject {
            Subject::Dns { name, from, json } => {
                let (name, from) = (api::escape(&name), api::escape(&from));
                ask(config, &format!("/api/v1/explain/dns?name={name}&from={from}"), json)
            }
            Subject::Vip { address, from, json } => {
                let (address, from) = (api::escape(&address), api::escape(&from));
                let path = format!("{}?address={address}&from={from}", api::EXPLAIN_VIP);
                told(config, |socket| client::get_patiently(socket, &path), json)
            }
        }
    }
}

impl Verify {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        told(config, |socket| client::get_patiently(socket, api::VERIFY), self.json)
    }
}

impl StatusVerb {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        ask(config, "/api/v1/status", self.json)
    }
}

fn ask(config: Option<&Path>, path: &str, json: bool) -> ExitCode {
    told(config, |socket| client::get(socket, path), json)
}

/// Prints the answer's text; its field `ok` decides the exit status.
fn told(
    config: Option<&Path>,
    ask: impl FnOnce(&Path) -> Result<Value, ClientError>,
    json: bool,
) -> ExitCode {
    let socket = match admin_socket(config) {
        Ok(socket) => socket,
        Err(errors) => return failure(&errors, USAGE),
    };
    let answer = match ask(&socket) {
        Ok(answer) => answer,
        Err(error) => return failure(&error, 1),
    };
    let ok = answer.get("ok").and_then(Value::as_bool).unwrap_or(false);
    let status = u8::from(!ok);
    if json {
        print(&format_args!("{answer:#}\n"), status)
    } else {
        print(&answer.get("text").and_then(Value::as_str).unwrap_or_default(), status)
    }
}

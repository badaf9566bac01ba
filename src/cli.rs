//! The command line: one verb, one module. Data goes to stdout, everything else to stderr; the
//! exit status is 0 for fine, 1 for a negative answer, 2 for wrong usage or configuration.

mod ask;
mod check;
mod cleanup;
mod demo;
mod events;
mod exec;
mod hold;
mod ls;
mod report;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigErrors};

/// Service discovery and load balancing for containers, in one binary.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, max_term_width = 100)]
pub struct Cli {
    /// Configuration file [default: /etc/portolan/portolan.toml, or the text in `PORTOLAN_CONFIG`]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Do the main job on this host: DNS in every container, a VIP for every service, HTTP by label
    Up(up::Up),
    /// Show the main job in namespaces of its own, as any user, without an engine
    Demo(demo::Demo),
    /// Run a program of this machine inside a sandbox's network namespace
    Exec(exec::Exec),
    /// Check configuration, world files and compose files; every diagnostic, exit 1 on errors
    Check(check::Check),
    /// List what portolan knows
    Ls(ls::Ls),
    /// Say why a name resolves, or where a connection goes
    Explain(ask::Explain),
    /// Compare engine, registry, kernel and DNS answers; what differs
    Verify(ask::Verify),
    /// Have the resolver do something
    Dns(ask::Dns),
    /// Say how portolan is
    Status(ask::StatusVerb),
    /// Say what happened lately
    Events(events::Events),
    /// Remove every trace of portolan from this host's kernel
    Cleanup(cleanup::Cleanup),
    /// A part of the demo's application
    #[command(hide = true)]
    DemoApp(demo::DemoApp),
    /// Give sandboxes back when the portolan at standard input dies
    #[command(hide = true)]
    Hold(hold::Hold),
}

/// Runs the verb of the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = cli.config.as_deref();
    match cli.verb {
        Verb::Up(verb) => verb.run(config),
        Verb::Demo(verb) => verb.run(),
        Verb::DemoApp(verb) => verb.run(),
        Verb::Hold(verb) => verb.run(),
        Verb::Exec(verb) => verb.run(config),
        Verb::Check(verb) => verb.run(config),
        Verb::Ls(verb) => verb.run(config),
        Verb::Explain(verb) => verb.run(config),
        Verb::Verify(verb) => verb.run(config),
        Verb::Dns(verb) => verb.run(config),
        Verb::Status(verb) => verb.run(config),
        Verb::Events(verb) => verb.run(config),
        Verb::Cleanup(verb) => verb.run(config),
    }
}

/// Where the portolan of this machine is asked: `PORTOLAN_SOCKET`, else as configured.
fn admin_socket(config: Option<&Path>) -> Result<PathBuf, ConfigErrors> {
    match std::env::var_os("PORTOLAN_SOCKET") {
        Some(socket) => Ok(socket.into()),
        None => Ok(Config::load(config)?.admin_socket),
    }
}

/// The status of a question asked wrongly, or of a configuration that cannot be used.
const USAGE: u8 = 2;

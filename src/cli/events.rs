//! `portolan events`: what happened lately, one line each; with `--follow`, what happens from now
//! on too, also over a restart of the portolan that is asked.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::report::{failure, remark};
use super::{USAGE, admin_socket};
use crate::admin::client::{self, ClientError};
use crate::admin::events::{EVENTS, LONGEST};

#[derive(Debug, clap::Args)]
pub(super) struct Events {
    /// Go on with what happens from now on
    #[arg(long, short)]
    follow: bool,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// How long until a portolan that is away is asked again.
const AWAY: Duration = Duration::from_secs(1);

/// How far the events are known.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    run: u64,
    number: u64,
}

impl Events {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let socket = match admin_socket(config) {
            Ok(socket) => socket,
            Err(errors) => return failure(&errors, USAGE),
        };
        let mut known = Known::default();
        let mut answered = false;
        loop {
            match client::get(&socket, &self.question(known, answered)) {
                Ok(answer) => {
                    if let Err(error) = self.print(&answer, &mut known) {
                        return unwritten(&error);
                    }
                    if !self.follow {
                        return ExitCode::SUCCESS;
                    }
                    answered = true;
                }
                Err(ClientError::Absent { .. } | ClientError::Broken { .. }) if answered => {
                    std::thread::sleep(AWAY);
                }
                Err(error) => return failure(&error, 1),
            }
        }
    }

    fn question(&self, known: Known, answered: bool) -> String {
        let Known { run, number } = known;
        if answered && self.follow {
            format!("{EVENTS}?since={number}&run={run}&wait={}", LONGEST.as_millis())
        } else {
            EVENTS.to_owned()
        }
    }

    fn print(&self, answer: &Value, known: &mut Known) -> std::io::Result<()> {
        let number = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or_default();
        let run = number("run");
        if known.run == run && number("missed") > 0 {
            remark(&format_args!("{} events went by unseen", number("missed")));
        }
        *known = Known { run, number: number("newest") };
        let mut stdout = std::io::stdout().lock();
        for event in answer.get("events").and_then(Value::as_array).into_iter().flatten() {
            if self.json {
                writeln!(stdout, "{event}")?;
            } else {
                writeln!(stdout, "{}", line(event))?;
            }
        }
        stdout.flush()
    }
}

/// That nobody reads any more is no failure.
fn unwritten(error: &std::io::Error) -> ExitCode {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    failure(&format_args!("cannot write to standard output: {error}"), 1)
}

/// When, what about, who and what; on one line, whatever names the world has.
fn line(event: &Value) -> String {
    let field = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let [at, kind, subject, text] = ["at", "kind", "subject", "text"].map(field);
    let line = format!("{at} {kind:<6} {subject}: {text}");
    line.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = serde_json::json!({
            "number": 7, "at": "2026-11-21T09:19:23.800Z", "kind": "health",
            "subject": "task web.1", "text": "was serving,\nis \u{1b}[31mstarting",
        });
        let expected = "2026-11-21T09:19:23.800Z health task web.1: was serving,\u{fffd}is \
                        \u{fffd}[31mstarting";
        assert_eq!(line(&event), expected);
    }
}

//! What the end-to-end tests share: the program under test, and a way to run others.

#![expect(dead_code, reason = "each test file uses its part of this")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// The program under test.
pub(crate) const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");

/// A program of this machine.
pub(crate) fn program(name: &str) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests use portolan as people do, by its programs"
    )]
    Command::new(name)
}

/// Runs a shell script inside a demo and gives what it printed.
pub(crate) fn in_demo(script: &str) -> Output {
    let mut demo = program(PORTOLAN);
    demo.args(["demo", "--", "sh", "-c", script]).output().expect("portolan starts")
}

/// What the script printed inside a demo; it must have succeeded.
#[track_caller]
pub(crate) fn said_in_demo(script: &str) -> String {
    let output = in_demo(script);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{script}: {}\n{out}\n{err}", output.status);
    out
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The root of the project.
pub(crate) fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Lines of `text`, sorted.
pub(crate) fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

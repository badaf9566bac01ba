//! What the tests of this crate share: running a program inside a namespace.

use kernel::netns::Netns;

/// Runs a program inside the namespace; its standard output, or a panic with its error output.
#[track_caller]
pub(crate) fn run(netns: &Netns, line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    #[expect(clippy::disallowed_methods, reason = "the tests compare with what other programs see")]
    let output = netns
        .run(|| std::process::Command::new(program).args(words).output())
        .expect("a thread in the namespace")
        .expect("the program is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}` failed: {error}");
    String::from_utf8(output.stdout).expect("text")
}

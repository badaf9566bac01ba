//! What the command line answers to wrong input: one sentence that says what is wrong, where and
//! what to do, and the exit status that the README promises.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{PORTOLAN, in_demo, program, said_in_demo, text};

/// What `portolan ARGUMENTS` said on stderr, and its exit status.
fn wrong(arguments: &[&str], configuration: &str) -> (String, Option<i32>) {
    let output = portolan(arguments, configuration).output().expect("portolan starts");
    assert_eq!(text(&output.stdout), "", "errors do not go to stdout");
    (text(&output.stderr), output.status.code())
}

fn portolan(arguments: &[&str], configuration: &str) -> Command {
    let mut portolan = program(PORTOLAN);
    portolan.args(arguments).env("PORTOLAN_CONFIG", configuration).env_remove("PORTOLAN_SOCKET");
    portolan
}

/// A folder of this test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portolan-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn a_wrong_key_is_told_with_its_line_and_what_was_meant() {
    let said = wrong(&["up"], "[dns]\ntll = \"3s\"");
    let sentence = "portolan: PORTOLAN_CONFIG:2: `dns.tll`: is not a key here; did you mean `ttl`?";
    assert_eq!(said, (format!("{sentence}\n"), Some(2)));
}

#[test]
fn a_key_of_a_later_version_is_refused_instead_of_ignored() {
    let (said, status) = wrong(&["status"], "[vip]\ndata_plane = \"nftables\"");
    assert!(said.contains("PORTOLAN_CONFIG:2: `vip.data_plane`: is known, but not in"), "{said}");
    assert_eq!(status, Some(2));
}

#[test]
fn a_configuration_that_is_not_there_is_told_by_its_name() {
    let (said, status) = wrong(&["--config", "/nonexistent/p.toml", "up"], "");
    assert!(said.starts_with("portolan: /nonexistent/p.toml: cannot be read: No such"), "{said}");
    assert_eq!(status, Some(2));
}

#[test]
fn unknown_words_are_wrong_usage() {
    for arguments in [&["frob"][..], &["ls", "widgets"], &["up", "--only", "dns"], &["demo", "x"]] {
        assert_eq!(wrong(arguments, "").1, Some(2), "{arguments:?}");
    }
}

#[test]
fn every_question_without_a_portolan_says_how_to_start_one() {
    let folder = Folder::new("absent");
    let socket = folder.file("none.sock");
    let configuration = format!("[admin]\nsocket = \"{socket}\"");
    let questions = [
        &["status"][..],
        &["ls", "vips"],
        &["explain", "dns", "a", "--from", "b"],
        &["exec", "a", "b"],
    ];
    for question in questions {
        let (said, status) = wrong(question, &configuration);
        let begin = format!("portolan: no portolan answers on {socket} (");
        assert!(said.starts_with(&begin) && said.contains("`portolan up`"), "{said}");
        assert_eq!(status, Some(1));
    }
}

#[test]
fn unknown_sandboxes_and_programs_are_told_by_name() {
    let output = in_demo(
        "portolan exec nobody ls; echo $? >&2; portolan exec web.1 /nonexistent; echo $? >&2
         portolan explain dns web --from nobody; echo $? >&2",
    );
    let said = text(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let [sandbox, first, program, second, from, third] = lines.try_into().expect("six lines");
    assert!(sandbox.contains("no sandbox `nobody`") && sandbox.contains("web.1"), "{sandbox}");
    assert!(program.starts_with("portolan: cannot run `/nonexistent`: No such"), "{program}");
    assert!(from.contains("no sandbox `nobody`"), "{from}");
    assert_eq!([first, second, third], ["1", "1", "1"]);
}

#[test]
fn a_second_portolan_says_that_one_runs_before_it_touches_anything() {
    let said = said_in_demo(
        "export PORTOLAN_CONFIG='[admin]
         socket = \"/run/portolan/portolan.sock\"'
         portolan up 2>&1; echo $?; portolan status | head -1",
    );
    let lines: Vec<&str> = said.lines().collect();
    let [refusal, status, first] = lines.try_into().unwrap_or_else(|_| panic!("{said}"));
    assert!(refusal.starts_with("portolan: a portolan already runs on this machine"), "{refusal}");
    assert_eq!(status, "1");
    assert!(first.starts_with("up to date"), "{first}");
}

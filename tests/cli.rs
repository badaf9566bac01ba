//! What the command line answers to wrong input: one sentence that says what is wrong, where and
//! what to do, and the exit status that the README promises.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
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
    let (said, status) = wrong(&["status"], "[router.clusters.c]\nhttps = \":443\"");
    assert!(
        said.contains("PORTOLAN_CONFIG:2: `router.clusters.c.https`: is known, but not in"),
        "{said}"
    );
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
        &["dns", "flush"],
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

#[test]
fn data_that_does_not_arrive_is_a_failure_and_a_closed_pipe_is_none() {
    let output = in_demo(
        "portolan ls services > /dev/full; echo $?
         { portolan ls services; echo $? >&2; } | true",
    );
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(said, "1\n");
    let lines: Vec<&str> = told.lines().collect();
    let [full, closed] = lines.try_into().unwrap_or_else(|_| panic!("{told}"));
    assert!(full.starts_with("portolan: cannot write to standard output: No space"), "{full}");
    assert_eq!(closed, "0");
}

#[test]
fn who_may_not_ask_is_told_so_and_not_that_nobody_is_there() {
    if !rustix::process::getuid().is_root() {
        return; // Only root can become the owner and somebody else in turn.
    }
    let folder = Folder::new("denied");
    let (socket, copy) = (folder.file("p.sock"), folder.file("portolan"));
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o660)).expect("its mode");
    std::fs::copy(PORTOLAN, &copy).expect("a copy that anybody may run");
    let mut status = program(&copy);
    status.arg("status").env("PORTOLAN_SOCKET", &socket).uid(NOBODY).gid(NOBODY);
    let output = status.current_dir("/").output().expect("portolan starts");
    let sentence = "use sudo, or join the group `portolan`";
    let expected = format!("portolan: you may not ask the portolan on {socket}: {sentence}\n");
    assert_eq!(text(&output.stderr), expected);
    assert_eq!(output.status.code(), Some(1));
}

const NOBODY: u32 = 65_534;

#[test]
fn up_uses_as_many_descriptors_as_it_may_have() {
    // A demo is a world of its own to start another portolan in; its limits are its parent's.
    let said = said_in_demo(
        "ulimit -S -n 256; echo > /tmp/empty.$$.toml
         export PORTOLAN_CONFIG=\"
         state_dir = '/run/two'
         sources.world.path = '/tmp/empty.$$.toml'
         dns.host_listen = 'off'
         admin.socket = '/run/two.sock'
         router.clusters.default.http = '127.0.0.1:18080'\"
         portolan up 2>/dev/null & up=$!
         for i in $(seq 50); do [ -S /run/two.sock ] && break; sleep 0.1; done
         awk '/open files/ {print $4, $5}' /proc/$up/limits
         kill $up; wait $up; echo $?; rm /tmp/empty.$$.toml",
    );
    let lines: Vec<&str> = said.lines().collect();
    let [limits, status] = lines.try_into().unwrap_or_else(|_| panic!("{said}"));
    let (soft, hard) = limits.split_once(' ').expect("two limits");
    assert_eq!(soft, hard);
    assert_ne!(soft, "256");
    assert_eq!(status, "0");
}

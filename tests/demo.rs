//! The main job, end to end, in the demo's real namespaces: real dig, real curl, no engine.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use support::{PORTOLAN, in_demo, program, said_in_demo, sorted, text};

#[test]
fn tasks_name_resolves_to_the_address_of_every_task() {
    let said = said_in_demo("portolan exec web.1 dig +short tasks.app");
    let expected: Vec<String> = (21..=25).map(|last| format!("10.20.1.{last}")).collect();
    assert_eq!(sorted(&said), expected);
}

#[test]
fn a_service_in_vip_mode_resolves_to_one_address_outside_the_subnets() {
    let said =
        said_in_demo("portolan exec app.3 dig +short web; portolan exec web.2 dig +short web");
    let [first, second] = sorted(&said).try_into().expect("one address each");
    assert_eq!(first, second);
    assert!(first.starts_with("240.240."), "{first} is from the pool");
}

#[test]
fn a_name_of_another_network_does_not_exist_here() {
    let said = said_in_demo("portolan exec web.1 dig db; portolan exec app.1 dig +short tasks.db");
    assert!(said.contains("status: NXDOMAIN"), "{said}");
    assert!(said.ends_with("10.20.2.31\n"), "{said}");
}

#[test]
fn another_type_of_a_known_name_is_no_data_with_a_soa() {
    let said = said_in_demo("portolan exec web.1 dig AAAA app");
    assert!(said.contains("status: NOERROR"), "{said}");
    assert!(said.contains("ANSWER: 0, AUTHORITY: 1"), "{said}");
    assert!(said.contains("SOA"), "{said}");
}

#[test]
fn addresses_of_tasks_and_vips_have_names() {
    let said = said_in_demo(
        "vip=$(portolan exec web.1 dig +short web)
         portolan exec web.1 dig +short -x $vip
         portolan exec web.1 dig +short -x 10.20.1.23",
    );
    assert_eq!(said, "web.frontend.\napp.3.frontend.\n");
}

#[test]
fn four_calls_through_a_vip_reach_both_tasks_and_the_counter_counts() {
    let said = said_in_demo(
        "portolan exec app.1 sh -c 'for i in 1 2 3 4; do curl -s http://web:8080/; done'",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    for (line, count) in lines.iter().zip(1..) {
        let words: Vec<&str> = line.split(' ').collect();
        let [web, app, counted] = words.try_into().expect("three words");
        assert!(web.starts_with("web.") && app.starts_with("app."), "{line}");
        assert_eq!(counted, format!("count={count}"));
    }
    for web in ["web.1 ", "web.2 "] {
        assert!(said.contains(web), "{web} in {said}");
    }
}

#[test]
fn the_published_port_leads_to_both_tasks_from_the_host_and_from_containers() {
    let said = said_in_demo(
        "for i in 1 2 3 4 5 6 7 8 9 10; do
           curl -s http://127.0.0.1:8000/ http://10.20.1.1:8000/
           portolan exec app.1 curl -s http://10.20.1.1:8000/
           portolan exec web.1 curl -s http://10.20.1.1:8000/
         done",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 40, "{said}");
    for web in ["web.1 ", "web.2 "] {
        // Of 40 calls fewer than 5 to one of two are a matter of one in ten million.
        assert!(lines.iter().filter(|it| it.starts_with(web)).count() >= 5, "{web} in {said}");
    }
}

#[test]
fn services_called_in_turns_share_evenly_each_for_itself() {
    let said = said_in_demo(
        "portolan exec app.1 sh -c 'for i in $(seq 60); do
             curl -s http://web:8080/
             printf \"INCR\\r\\n\" | timeout 2 nc -q0 db 6379 >/dev/null 2>&1 || true
         done'",
    );
    let mut shares = BTreeMap::new();
    for line in said.lines() {
        *shares.entry(line.split(' ').next().unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["web.1", "web.2"]);
    for (task, share) in &shares {
        assert!((20..=40).contains(share), "{task} got {share} of 60");
    }
}

#[test]
fn explain_says_where_a_name_exists_and_what_would_make_it_resolve() {
    let output =
        in_demo("portolan explain dns db --from web.1; portolan explain dns web --from app.1");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains("backend") && said.contains("add the network"), "{said}");
    assert!(said.contains("240.240."), "{said}");
}

#[test]
fn lists_show_what_is_there() {
    let said =
        said_in_demo("portolan ls services; portolan ls routes; portolan ls vips; portolan status");
    for part in ["SERVICE", "counter.test", "2/2", "5/5", "240.240.", "up to date"] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
}

#[test]
fn a_service_without_serving_tasks_is_refused_at_once_and_never_unknown() {
    let said = said_in_demo(
        "sed -i 's/^service = \"web\"$/&\\nstate = \"stopped\"/' /run/portolan/world.toml
         for i in $(seq 50); do portolan ls services | grep -q '^web .*0/2' && break; sleep 0.1; done
         sleep 0.3
         portolan exec app.1 curl -s -m 2 -o /dev/null -w '%{exitcode} %{time_total}\\n' http://web:8080/
         portolan exec app.1 dig web | grep -o 'status: [A-Z]*'
         curl -s -H 'Host: counter.test' http://127.0.0.1:8080/ -w '%{http_code}'; true",
    );
    let lines: Vec<&str> = said.lines().collect();
    let [refused, known, why, status] = lines.try_into().unwrap_or_else(|_| panic!("{said}"));
    assert!(refused.starts_with("7 0.0"), "connection refused at once: {refused}");
    assert_eq!(known, "status: NOERROR");
    assert!(why.contains("no serving task"), "{why}");
    assert_eq!(status, "503");
}

#[test]
fn a_wrong_edit_of_the_world_file_keeps_the_last_good_world_and_says_so() {
    let said = said_in_demo(
        "cp /run/portolan/world.toml /tmp/good.$$
         echo 'netwrok = 1' >> /run/portolan/world.toml
         for i in $(seq 50); do portolan status > /tmp/status.$$ || break; sleep 0.1; done
         cat /tmp/status.$$
         portolan exec web.1 dig +short tasks.app | wc -l
         cp /tmp/good.$$ /run/portolan/world.toml
         for i in $(seq 50); do portolan status > /tmp/status.$$ && break; sleep 0.1; done
         head -1 /tmp/status.$$; rm /tmp/status.$$ /tmp/good.$$",
    );
    assert!(said.contains("world.toml:") && said.contains("netwrok"), "{said}");
    assert!(said.contains("\n5\n"), "{said}");
    assert!(
        said.trim_end().lines().last().is_some_and(|it| it.starts_with("up to date")),
        "{said}"
    );
}

#[test]
fn the_command_decides_the_exit_status_and_owns_stdout() {
    let output = in_demo("echo only this; exit 7");
    assert_eq!(text(&output.stdout), "only this\n");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn what_others_leave_behind_is_reaped() {
    let said = said_in_demo(
        "for i in 1 2 3; do sh -c 'true & exec true'; done; sleep 0.3
         cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true",
    );
    assert_eq!(said, "0\n");
}

#[test]
fn two_demos_run_side_by_side_without_seeing_each_other() {
    let start = || {
        let mut demo = program(PORTOLAN);
        demo.args(["demo", "--", "sh", "-c", "sleep 1; portolan exec web.1 dig +short tasks.app"]);
        demo.stdout(Stdio::piped()).spawn().expect("portolan starts")
    };
    for demo in [start(), start()] {
        let output = demo.wait_with_output().expect("it ends");
        assert_eq!(text(&output.stdout).lines().count(), 5);
    }
}

#[test]
fn any_user_may_run_it() {
    let folder = std::env::temp_dir().join(format!("portolan-any-user-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let copy = folder.join("portolan");
    std::fs::copy(PORTOLAN, &copy).expect("a copy");
    let mut demo = program(copy.to_str().expect("a plain path"));
    demo.args(["demo", "--", "portolan", "exec", "web.1", "curl", "-s", "http://app:8080/"]);
    if rustix::process::getuid().is_root() {
        demo.uid(NOBODY).gid(NOBODY);
    }
    let output = demo.current_dir("/").output().expect("portolan starts");
    std::fs::remove_dir_all(&folder).expect("tidied up");
    let said = text(&output.stdout);
    assert!(
        said.starts_with("app.") && said.ends_with("count=1\n"),
        "{said}{}",
        text(&output.stderr)
    );
}

const NOBODY: u32 = 65_534;

#[test]
fn nothing_is_left_of_a_demo_that_was_killed() {
    let mut demo = program(PORTOLAN);
    demo.args(["demo", "--", "sh", "-c", "echo ready; sleep 1000"]).stdout(Stdio::piped());
    let mut demo = demo.spawn().expect("portolan starts");
    let mut line = String::new();
    let stdout = demo.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("it says so");
    assert_eq!(line, "ready\n");
    let namespace = std::fs::read_link(format!("/proc/{}/ns/user", demo.id())).expect("its own");
    let running = processes_in(&namespace);
    demo.kill().expect("killed");
    demo.wait().expect("ended");
    assert!(running > 9, "the demo's processes share its user namespace: {running}");
    for _ in 0..100 {
        if processes_in(&namespace) == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{} processes are left", processes_in(&namespace));
}

/// How many processes are in that user namespace.
fn processes_in(namespace: &std::path::Path) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let same = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("ns/user")).is_ok_and(|it| it == namespace)
    };
    entries.filter(same).count()
}

#[test]
fn alone_it_listens_outside_with_every_header_and_refuses_unknown_hosts() {
    let demo = Alone::start();
    let curl = |arguments: &[&str]| {
        let mut curl = program("curl");
        text(&curl.args(["-s", "-m", "5"]).args(arguments).output().expect("curl").stdout)
    };
    let count = |line: &str| -> u64 {
        line.trim().rsplit('=').next().and_then(|it| it.parse().ok()).unwrap_or_default()
    };
    let url = "http://127.0.0.1:8080/";
    let first = curl(&["-H", "Host: counter.test", url]);
    let second = curl(&["-H", "Host: COUNTER.test:8080", url]);
    assert_eq!(count(&second), count(&first) + 1, "{first}{second}");
    let answer = curl(&["-i", "-H", "Host: counter.test", url]).to_lowercase();
    let nobody = curl(&["-i", "-H", "Host: nobody.test", url]).to_lowercase();
    let headers = ["x-request-id:", "x-proxy-id:", "x-server-info:"];
    let upstream = ["x-upstream-addr:", "x-upstream-response-time:"];
    for header in headers.iter().chain(&upstream) {
        assert!(answer.contains(header), "{header} in {answer}");
    }
    assert!(nobody.starts_with("http/1.1 404"), "{nobody}");
    for header in headers {
        assert!(nobody.contains(header), "{header} in {nobody}");
    }
    let mut dig = program("dig");
    dig.args(["@127.0.0.1", "-p", "1053", "+short", "tasks.app.frontend"]);
    assert_eq!(text(&dig.output().expect("dig").stdout).lines().count(), 5);
    drop(demo);
}

struct Alone(Child);

impl Alone {
    fn start() -> Self {
        let mut demo = program(PORTOLAN);
        let mut demo = demo.arg("demo").stdout(Stdio::piped()).spawn().expect("portolan starts");
        let mut line = String::new();
        let stdout = demo.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says what to type");
        assert!(line.starts_with("The counter application runs"), "{line}");
        Self(demo)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

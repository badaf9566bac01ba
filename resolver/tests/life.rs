//! The life of hundreds of sandboxes: they come, go, and outlive a resolver that dies.
//!
//! Needs the right to make network namespaces: root, or `unshare -Urnm`.
#![expect(clippy::disallowed_methods, reason = "tests drive real programs, in real time")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use kernel::link;
use kernel::netns::Netns;
use resolver::HolderProgram;
use support::crowd::Crowd;
use support::{Driven, Sandbox, eventually, small_world, world};

/// A resolver in a process of its own, over a world in a file.
struct Alone {
    process: Child,
    world: PathBuf,
}

impl Alone {
    fn start(world: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("portolan-life-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, world).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "serves_a_world_until_killed", "--nocapture"])
            .env("SANDBOX_WORLD", &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, world: path }
    }

    fn signal(&self, name: &str) {
        kill(name, &self.process.id().to_string());
    }

    fn children(&self) -> Vec<String> {
        children_of(&self.process.id().to_string())
    }

    /// The process that gives its sandboxes back.
    fn holder(&self) -> String {
        let [holder] = <[String; 1]>::try_from(self.children()).unwrap();
        holder
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        std::fs::remove_file(&self.world).ok();
    }
}

#[test]
fn the_engine_answers_in_hundreds_of_sandboxes_when_the_resolver_hangs_and_they_come_back() {
    kernel::process::raise_descriptor_limit().unwrap();
    let crowd = Crowd::new(MANY);
    let alone = Alone::start(&crowd.world(0));
    crowd.eventually(Duration::from_secs(20), |it| it.ours == MANY);
    alone.signal("-STOP");
    crowd.eventually(Duration::from_secs(5), |it| it.engine == MANY);
    alone.signal("-CONT");
    crowd.eventually(Duration::from_secs(5), |it| it.ours == MANY);
}

#[test]
#[ignore = "is the process that other tests stop and kill"]
fn serves_a_world_until_killed() {
    kernel::process::raise_descriptor_limit().unwrap();
    let world = std::fs::read_to_string(std::env::var("SANDBOX_WORLD").unwrap()).unwrap();
    let mut driven = Driven::held(holder());
    driven.apply(&world);
    std::thread::sleep(Duration::from_secs(120));
}

#[test]
#[ignore = "is the process that gives sandboxes back"]
fn holds_what_it_is_given() {
    resolver::hold().unwrap();
}

fn holder() -> HolderProgram {
    HolderProgram {
        path: "/proc/self/exe".into(),
        arguments: ["--ignored", "--exact", "holds_what_it_is_given", "--nocapture"]
            .map(Into::into)
            .to_vec(),
    }
}

/// A folder of this test's own.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portolan-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).ok();
    }
}

fn kill(signal: &str, process: &str) {
    assert!(Command::new("kill").args([signal, process]).status().unwrap().success());
}

fn gone(process: &str) -> bool {
    !std::path::Path::new("/proc").join(process).exists()
}

/// The children of all threads of a process.
fn children_of(process: &str) -> Vec<String> {
    let of = |thread: std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("children")).unwrap_or_default()
    };
    std::fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        .flat_map(|it| of(it.unwrap()).split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// As many as one process's sockets take four seconds to be closed of, one after another.
const MANY: usize = 300;

#[test]
fn the_engine_answers_in_hundreds_of_sandboxes_at_once_when_the_resolver_is_killed() {
    kernel::process::raise_descriptor_limit().unwrap();
    let crowd = Crowd::new(MANY);
    let mut alone = Alone::start(&crowd.world(0));
    crowd.eventually(Duration::from_secs(20), |it| it.ours == MANY);
    alone.process.kill().unwrap();
    // Half a second on a machine at rest; here, what is less than the dead-man's time, and than a
    // client's patience.
    crowd.back_with_the_engine(Duration::from_millis(2500));
}

/// Sandboxes of the tests that need only several.
const SOME: usize = 12;

#[test]
fn a_holder_that_is_killed_is_missed_by_nobody_and_replaced() {
    let crowd = Crowd::new(SOME);
    let mut alone = Alone::start(&crowd.world(0));
    crowd.eventually(Duration::from_secs(20), |it| it.ours == SOME);
    let first = alone.holder();
    for asking in ["-TERM", "-INT", "-HUP"] {
        kill(asking, &first);
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(alone.holder(), first, "it ends when its portolan does");
    // It may be started anew only some seconds after the first start.
    kill("-KILL", &first);
    assert_eq!(crowd.census(Duration::from_secs(1)).ours, SOME);
    eventually(Duration::from_secs(10), || alone.children(), |it| it.len() == 1 && *it[0] != first);
    let second = alone.holder();
    // Each sandbox is three descriptors there, besides its own few.
    let held = || std::fs::read_dir(format!("/proc/{second}/fd")).unwrap().count();
    eventually(Duration::from_secs(5), held, |it| *it >= 3 * SOME);
    assert_eq!(crowd.census(Duration::from_secs(1)).ours, SOME);
    alone.process.kill().unwrap();
    crowd.back_with_the_engine(Duration::from_millis(2500));
    eventually(Duration::from_secs(2), || gone(&second), |it| *it);
}

#[test]
fn the_kernel_gives_back_what_nobody_is_left_to_give_back() {
    let crowd = Crowd::new(SOME);
    let mut alone = Alone::start(&crowd.world(0));
    crowd.eventually(Duration::from_secs(20), |it| it.ours == SOME);
    kill("-KILL", &alone.holder());
    alone.process.kill().unwrap();
    crowd.back_with_the_engine(Duration::from_secs(5));
}

#[test]
fn a_sandbox_that_leaves_takes_its_namespace_with_it_though_it_was_held() {
    let host = Netns::fresh().unwrap();
    let folder = Folder::new("leaving");
    let (stays, leaves) = (Crowd::new(1), Crowd::new(1));
    link::add_veth(&host, "outer", "inner", &leaves.places[0].netns).unwrap();
    let path = folder.path.join("leaves");
    std::os::unix::fs::symlink(leaves.places[0].path(), &path).unwrap();
    let world = |with: &str| format!("{}{with}", stays.world(0));
    let guest = format!(
        "[[sandbox]]\nname = \"guest\"\nnetns = \"{}\"\nnetworks = [\"net\"]\n",
        path.display()
    );
    let mut driven = Driven::held(holder());
    driven.apply(&world(&guest));
    assert_eq!(leaves.census(Duration::from_secs(1)).ours, 1);
    drop(leaves); // what is left of the namespace is ours
    let links = || host.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    assert!(links().unwrap().contains("outer"), "something of ours keeps it, or nothing is seen");
    driven.apply(&world(""));
    eventually(Duration::from_secs(1), || links().unwrap(), |it| !it.contains("outer"));
    assert_eq!(stays.census(Duration::from_secs(1)).ours, 1);
}

#[test]
fn a_container_restarted_in_place_is_served_in_its_new_namespace() {
    let folder = Folder::new("restarted");
    let (before, after) = (Crowd::new(1), Crowd::new(1));
    let path = folder.path.join("box");
    let world = before
        .world(0)
        .replace(&before.places[0].path().display().to_string(), &path.display().to_string());
    std::os::unix::fs::symlink(before.places[0].path(), &path).unwrap();
    let mut driven = Driven::held(holder());
    driven.apply(&world);
    assert_eq!(before.census(Duration::from_secs(1)).ours, 1);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(after.places[0].path(), &path).unwrap();
    // No snapshot tells of it: the path is the same. It is seen within a second, and the next
    // upkeep of the loop serves what is there.
    let patience = Duration::from_millis(300);
    let again = || {
        driven.try_apply(&world, false);
        (before.census(patience).engine, after.census(patience).ours)
    };
    eventually(Duration::from_secs(4), again, |it| *it == (1, 1));
}

#[test]
fn a_network_is_connected_and_disconnected_without_touching_sockets_or_the_table() {
    let (front, back) = (Sandbox::new(), Sandbox::new());
    let both = world(&front, &back, &[]);
    let connected = both.replacen(
        "networks = [\"front\"]\n        upstreams",
        "networks = [\"front\", \"back\"]\n        upstreams",
        1,
    );
    assert_ne!(both, connected);
    let mut driven = Driven::held(holder());
    driven.apply(&both);
    let sockets = || front.run("ss -Hlnute; nft -a list table ip portolan_dns | grep -v expires");
    let before = sockets();
    assert!(before.contains("ino:"), "{before}");
    for (world, db) in [(&connected, "10.20.2.31"), (&both, ""), (&connected, "10.20.2.31")] {
        assert_eq!(driven.apply(world), 1);
        assert_eq!(front.dig("db"), db);
        assert_eq!(front.dig("web"), "10.20.1.2");
        assert_eq!(sockets(), before);
    }
}

#[test]
fn root_in_a_sandbox_cannot_flush_the_takeover_and_the_engine_may_come_and_go() {
    let sandbox = Sandbox::new();
    let engine = sandbox.engine(Ipv4Addr::new(203, 0, 113, 9));
    let mut driven = Driven::held(holder());
    driven.apply(&small_world(&sandbox));
    drop(engine);
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    sandbox.run("nft flush ruleset; ! nft delete table ip portolan_dns 2>/dev/null");
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    let _engine = sandbox.engine(Ipv4Addr::new(203, 0, 113, 10)); // restarted, on another port
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    drop(driven);
    eventually(Duration::from_secs(1), || sandbox.dig("web"), |it| it == "203.0.113.10");
}

#[test]
fn hundreds_of_sandboxes_that_come_and_go_leave_nothing_behind() {
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "opens_and_closes_hundreds", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
#[ignore = "counts what its process has: it must have one of its own"]
fn opens_and_closes_hundreds() {
    let crowd = Crowd::new(50);
    let (all, none) = (crowd.world(0), Crowd::new(0).world(0));
    let mut driven = Driven::held(holder());
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let has = || {
        let holder = children_of("self").pop().unwrap();
        (
            count("/proc/self/fd"),
            count("/proc/self/task"),
            count(&format!("/proc/{holder}/fd")),
            children_of("self").len(),
        )
    };
    let round = |driven: &mut Driven| {
        driven.apply(&all);
        assert_eq!(crowd.census(Duration::from_secs(2)).ours, 50);
        driven.apply(&none);
    };
    round(&mut driven);
    let mut before = (0, 0, 0, 0);
    // The server closes sockets, and the holder obeys, a moment after the plan is true.
    eventually(
        Duration::from_secs(2),
        || {
            let same = std::mem::replace(&mut before, has()) == before;
            std::thread::sleep(Duration::from_millis(100));
            same
        },
        |it| *it,
    );
    (0..10).for_each(|_| round(&mut driven));
    eventually(Duration::from_secs(2), has, |it| *it == before);
    drop(driven);
    eventually(Duration::from_secs(1), || children_of("self"), Vec::is_empty);
}

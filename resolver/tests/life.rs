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

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use resolver::HolderProgram;
use support::Driven;
use support::crowd::Crowd;

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
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
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
    let alone = Alone::start(&crowd.world());
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

/// As many as one process's sockets take four seconds to be closed of, one after another.
const MANY: usize = 300;

#[test]
fn the_engine_answers_in_hundreds_of_sandboxes_at_once_when_the_resolver_is_killed() {
    kernel::process::raise_descriptor_limit().unwrap();
    let crowd = Crowd::new(MANY);
    let mut alone = Alone::start(&crowd.world());
    crowd.eventually(Duration::from_secs(20), |it| it.ours == MANY);
    alone.process.kill().unwrap();
    // Half a second, measured on a machine at rest; all that is needed is less than a client's
    // patience and the dead-man's time.
    let back = crowd.eventually(Duration::from_secs(2), |it| it.engine == MANY);
    println!("{MANY} sandboxes back with the engine after {back:?}");
}

//! What 500 sandboxes cost a host, and how long they are without DNS when the resolver is killed:
//! with the process that gives them back, and with the kernel alone. Needs the right to make
//! network namespaces.
//!
//! `cargo bench -p resolver --bench life`
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement that cannot go on panics"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use resolver::HolderProgram;
use support::Driven;
use support::crowd::Crowd;

const SANDBOXES: usize = 500;
/// Each has one name.
const SERVICES: usize = 1000;
/// For how long the idle process is watched.
const IDLE: Duration = Duration::from_secs(10);

fn main() {
    kernel::process::raise_descriptor_limit().unwrap();
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("hold") => resolver::hold().unwrap(),
        Some(serve @ ("serve" | "serve-held")) => serve_until_killed(serve == "serve-held"),
        _ => measure(),
    }
}

fn measure() {
    let crowd = Crowd::new(SANDBOXES);
    let world = std::env::temp_dir().join(format!("portolan-life-{}", std::process::id()));
    std::fs::write(&world, crowd.world(SERVICES)).unwrap();
    for (way, what) in [("serve-held", "with the holder"), ("serve", "by the kernel alone")] {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(way)
            .env("SANDBOX_WORLD", &world)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        lines.map(Result::unwrap).take_while(|it| it != "ready").for_each(|it| println!("{it}"));
        crowd.eventually(Duration::from_secs(5), |it| it.ours == SANDBOXES);
        process.kill().unwrap();
        let back = crowd.back_with_the_engine(Duration::from_secs(20));
        process.wait().unwrap();
        let (half, last) = (back[back.len() / 2], back[back.len() - 1]);
        println!("kill -9: {SANDBOXES} back with the engine {what}: half {half:?}, last {last:?}");
        std::thread::sleep(Duration::from_secs(8)); // the kernel is done with the dead process
    }
    std::fs::remove_file(world).unwrap();
}

fn serve_until_killed(held: bool) {
    let world = std::fs::read_to_string(std::env::var("SANDBOX_WORLD").unwrap()).unwrap();
    let holder = HolderProgram::itself(&["hold"]);
    let mut driven = if held { Driven::held(holder) } else { Driven::new(None) };
    driven.apply("");
    let empty = memory("self");
    let mut seen = Vec::new();
    driven.observed(&world, || seen.push((Instant::now(), cpu())));
    drop(world);
    let ((begun, before), (ended, after)) = (seen[1], seen[2]);
    let each = |it: Duration| it / u32::try_from(SANDBOXES).unwrap();
    println!(
        "set up: {:?} a sandbox, {:?} of CPU",
        each(ended.duration_since(begun)),
        each(after.saturating_sub(before))
    );
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let (descriptors, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
    println!("memory: empty {empty}; {SANDBOXES} sandboxes, {SERVICES} names {}", memory("self"));
    println!("descriptors {descriptors}, threads {threads}");
    for child in children() {
        println!(
            "the holder: {}, descriptors {}",
            memory(&child),
            count(&format!("/proc/{child}/fd"))
        );
    }
    let before = cpu();
    std::thread::sleep(IDLE);
    let spent = cpu().saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64();
    println!("idle: {:.2} % of a core", spent * 100.0);
    println!("ready");
    std::thread::sleep(Duration::from_secs(60));
}

/// The resident memory of a process, and the part of it that is its own.
fn memory(process: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|it| it.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    format!("{} resident, {} anonymous", field("VmRSS"), field("RssAnon"))
}

/// CPU time that this process has had so far, ended threads included.
fn cpu() -> Duration {
    let times = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(times.tv_sec.try_into().unwrap(), times.tv_nsec.try_into().unwrap())
}

/// Of all threads of this process.
fn children() -> Vec<String> {
    let of = |thread: std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("children")).unwrap_or_default()
    };
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flat_map(|it| of(it.unwrap()).split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

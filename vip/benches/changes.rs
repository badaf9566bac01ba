//! What first loads, changes and restarts cost, in real namespaces (as root, or inside
//! `unshare -Urnm`). Targets: one task changed at 1,000 services of 5 tasks in less than 1 ms
//! (median; p99 5 ms), within twice that at 10,000; a first load of 1,000 services in less than
//! 50 ms a sandbox; 100 sandboxes of 1,000 services in 64 MiB of the process and 150 MiB of the
//! kernel's slabs.
//!
//! Times are wall clock: machines are shared. A change is one of all sandboxes; `CPU` is what it
//! takes of processors in one of them, user space and kernel. Memory is what the
//! first load added (`Slab` of /proc/meminfo, which others change too), and what the process has
//! resident after all, the world file's own values included.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures, prints, and may die"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::model::ServingState;
use registry::{Consumer, Draft, Snapshot};
use tokio::sync::watch;
use vip::{Config, Plan, Vip};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!(
        "{:>8} {:>9} {:>10} {:>11} {:>10} {:>10} {:>10} {:>9} {:>8}",
        "services",
        "sandboxes",
        "compile",
        "first load",
        "one task",
        "p99",
        "restart",
        "slab MiB",
        "RSS MiB"
    );
    for (services, sandboxes) in [(10, 1), (100, 1), (1_000, 1), (1_000, 100), (10_000, 1)] {
        runtime.block_on(measure(services, sandboxes));
    }
}

async fn measure(services: usize, sandboxes: usize) {
    let world = World::new(services, sandboxes);
    let mut vip = world.manager();
    let (full, fewer) =
        (world.snapshot(ServingState::Serving, 1), world.snapshot(ServingState::Draining, 2));
    let mut compiling = Vec::new();
    let mut compile = |vip: &mut Vip, snapshot: &Arc<Snapshot>| -> Arc<Plan> {
        let begun = Instant::now();
        let (plan, _notes) = vip.compile(snapshot);
        compiling.push(begun.elapsed());
        Arc::new(plan)
    };
    let plan = compile(&mut vip, &full);
    let before = kibibytes("/proc/meminfo", "Slab:");
    let first = apply(&mut vip, &plan).await;
    let slab = kibibytes("/proc/meminfo", "Slab:") - before;
    let less = compile(&mut vip, &fewer);
    let (mut changing, mut cpu) = (Vec::new(), Duration::ZERO);
    for round in 0..(ROUNDS / sandboxes).max(LEAST_ROUNDS) {
        let before = processor();
        changing.push(apply(&mut vip, if round % 2 == 0 { &less } else { &plan }).await);
        cpu += processor().saturating_sub(before);
    }
    let cpu = cpu / u32::try_from(changing.len() * sandboxes).unwrap();
    let mut restarting = Vec::new();
    for _ in 0..3 {
        let mut vip = world.manager();
        let plan = compile(&mut vip, &full);
        restarting.push(apply(&mut vip, &plan).await);
    }
    changing.sort();
    println!(
        "{services:>8} {sandboxes:>9} {:>10} {:>11} {:>10} {:>10} {:>10} {:>10} {:>9.1} {:>8.1}",
        shown(&mut compiling),
        shown(&mut [first]),
        shown(&mut changing),
        millis(changing.get(changing.len() * 99 / 100)),
        millis(Some(&cpu)),
        shown(&mut restarting),
        slab / 1024.0,
        kibibytes("/proc/self/status", "VmRSS:") / 1024.0,
    );
}

const ROUNDS: usize = 1_000;
const LEAST_ROUNDS: usize = 50;

/// Processor time of all threads of this process.
fn processor() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|it| std::fs::read_to_string(it.path().join("schedstat")).ok());
    Duration::from_nanos(stats.filter_map(|it| it.split(' ').next()?.parse::<u64>().ok()).sum())
}

/// A line of one of the kernel's tables.
fn kibibytes(file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

async fn apply(vip: &mut Vip, plan: &Arc<Plan>) -> Duration {
    let begun = Instant::now();
    let outcome = vip.apply(plan).await;
    let took = begun.elapsed();
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    took
}

/// The median.
fn shown(times: &mut [Duration]) -> String {
    times.sort();
    millis(times.get(times.len() / 2))
}

fn millis(time: Option<&Duration>) -> String {
    format!("{:.2} ms", time.map_or(0.0, Duration::as_secs_f64) * 1e3)
}

/// Empty namespaces, and a world file that puts many services into them.
struct World {
    dir: PathBuf,
    draft: Draft,
    sandboxes: Vec<PathBuf>,
}

impl World {
    fn new(services: usize, sandboxes: usize) -> Self {
        let dir = std::env::temp_dir().join(format!("vip-bench-{}", std::process::id()));
        let sandboxes: Vec<_> = (0..sandboxes).map(|it| dir.join(format!("s{it}"))).collect();
        for path in &sandboxes {
            kernel::link::name_netns(path).unwrap();
        }
        let text = text(services, &sandboxes);
        let draft = registry::source::world::parse(&text, "bench.toml").unwrap();
        Self { dir, draft, sandboxes }
    }

    /// The world, with the first task in `state`.
    fn snapshot(&self, state: ServingState, generation: u64) -> Arc<Snapshot> {
        let mut draft = self.draft.clone();
        draft.tasks.first_mut().unwrap().state = state;
        Arc::new(Snapshot::build(draft, generation))
    }

    fn manager(&self) -> Vip {
        let pool = "240.240.0.0/16".parse().unwrap();
        Vip::new(
            Config { pool, state_dir: self.dir.join("state"), ..Config::default() },
            watch::channel(Arc::default()).0,
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for path in &self.sandboxes {
            kernel::link::unname_netns(path).unwrap();
        }
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// Five tasks each, in 10.0.0.0/8.
fn text(services: usize, sandboxes: &[PathBuf]) -> String {
    let mut text = "[[network]]\nname = \"blue\"\nsubnet = \"10.0.0.0/8\"\n".to_owned();
    let address =
        |number: usize| std::net::Ipv4Addr::from_bits(0x0a00_0100 + u32::try_from(number).unwrap());
    for service in 0..services {
        let vip = address(service);
        write!(
            text,
            "[[service]]\nname = \"s{service}\"\nnetworks = [\"blue\"]\nvip = {{ blue = \"{vip}\" }}\n"
        )
        .unwrap();
        for task in 0..5 {
            let own = address(services + service * 5 + task);
            write!(
                text,
                "[[task]]\nname = \"s{service}.{task}\"\nservice = \"s{service}\"\n\
                 addresses = {{ blue = \"{own}\" }}\n"
            )
            .unwrap();
        }
    }
    for path in sandboxes {
        write_sandbox(&mut text, path);
    }
    text
}

fn write_sandbox(text: &mut String, path: &Path) {
    let name = path.file_name().unwrap().display();
    let path = path.display();
    write!(text, "[[sandbox]]\nname = \"{name}\"\nnetns = \"{path}\"\nnetworks = [\"blue\"]\n")
        .unwrap();
}

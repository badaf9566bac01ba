//! What first loads, changes and restarts cost, in real namespaces (as root, or inside
//! `unshare -Urnm`). Targets: one task changed at 1,000 services of 5 tasks in less than 1 ms
//! (median; p99 5 ms), within twice that at 10,000; a first load of 1,000 services in less than
//! 50 ms a sandbox; 100 sandboxes of 1,000 services in 64 MiB of the process and 150 MiB of the
//! kernel's slabs.
//!
//! A change is one of all sandboxes. `CPU` is what a thing takes of processors, user space and
//! kernel; of a first load and of a change, in one sandbox. What else is wall clock: `p99 alone` is
//! without the time in which threads of this process wanted a processor that others had. Memory is
//! what the first load added (`Slab` of /proc/meminfo, which others change too), and what the process
//! has resident after all, the world file's own values included.
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
        "{:>8} {:>9} | {:>10} | {:>10} {:>9} | {:>9} {:>9} {:>9} {:>8} | {:>10} | {:>8} {:>7}",
        "services",
        "sandboxes",
        "compile: CPU",
        "first load",
        "CPU",
        "one task",
        "p99",
        "p99 alone",
        "CPU",
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
        let meter = Meter::start();
        let (plan, _notes) = vip.compile(snapshot);
        compiling.push(meter.stop().cpu);
        Arc::new(plan)
    };
    let plan = compile(&mut vip, &full);
    let before = mebibytes("/proc/meminfo", "Slab:");
    let first = apply(&mut vip, &plan).await;
    let slab = mebibytes("/proc/meminfo", "Slab:") - before;
    let mut changing = Vec::new();
    let most = if services < 10_000 { ROUNDS } else { ROUNDS / 5 };
    for round in 0..(most / sandboxes).max(LEAST_ROUNDS) {
        let plan = compile(&mut vip, if round % 2 == 0 { &fewer } else { &full });
        changing.push(apply(&mut vip, &plan).await);
    }
    let mut restarting = Vec::new();
    for _ in 0..3 {
        let mut vip = world.manager();
        let plan = compile(&mut vip, &full);
        restarting.push(apply(&mut vip, &plan).await.wall);
    }
    let each = u32::try_from(sandboxes).unwrap();
    let every = |of: fn(&Cost) -> Duration| changing.iter().map(of).collect::<Vec<_>>();
    let (walls, alone) = (every(|it| it.wall), every(|it| it.wall.saturating_sub(it.waited)));
    let cpu: Duration = changing.iter().map(|it| it.cpu).sum();
    println!(
        "{services:>8} {sandboxes:>9} | {:>12} | {:>10} {:>9} | {:>9} {:>9} {:>9} {:>8} | {:>10} | {slab:>8.1} {:>7.1}",
        millis(at(compiling, 50)),
        millis(first.wall),
        millis(first.cpu / each),
        millis(at(walls.clone(), 50)),
        millis(at(walls, 99)),
        millis(at(alone, 99)),
        millis(cpu / u32::try_from(changing.len()).unwrap() / each),
        millis(at(restarting, 50)),
        mebibytes("/proc/self/status", "VmRSS:"),
    );
}

const ROUNDS: usize = 1_000;
const LEAST_ROUNDS: usize = 50;

/// What something took.
struct Cost {
    wall: Duration,
    cpu: Duration,
    /// In which threads wanted a processor and had none.
    waited: Duration,
}

/// Measures what this process does.
struct Meter {
    begun: Instant,
    so_far: [Duration; 2],
}

impl Meter {
    fn start() -> Self {
        Self { so_far: processors(), begun: Instant::now() }
    }

    fn stop(self) -> Cost {
        let wall = self.begun.elapsed();
        let [cpu, waited] = processors();
        let [cpu_before, waited_before] = self.so_far;
        let (cpu, waited) = (cpu.saturating_sub(cpu_before), waited.saturating_sub(waited_before));
        Cost { wall, cpu, waited }
    }
}

/// Processor time of all threads of this process, and for how long they waited for a processor.
fn processors() -> [Duration; 2] {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut sums = [0_u64; 2];
    for text in tasks.filter_map(|it| std::fs::read_to_string(it.path().join("schedstat")).ok()) {
        for (sum, one) in sums.iter_mut().zip(text.split(' ')) {
            *sum += one.parse::<u64>().unwrap();
        }
    }
    sums.map(Duration::from_nanos)
}

/// A line of one of the kernel's tables, in MiB.
fn mebibytes(file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

async fn apply(vip: &mut Vip, plan: &Arc<Plan>) -> Cost {
    let meter = Meter::start();
    let outcome = vip.apply(plan).await;
    let cost = meter.stop();
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    cost
}

/// The value below which so many of a hundred are.
fn at(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort();
    times.get(times.len() * percent / 100).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
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

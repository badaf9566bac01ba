//! What first loads, changes and restarts cost, in real namespaces (as root, or inside
//! `unshare -Urnm`): the target is less than 1 ms a sandbox for one task changed at 1,000 services
//! of 5 tasks.
//!
//! Times are wall clock; the median of the rounds is shown, and the best in parentheses: machines
//! are shared.
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
    println!("services sandboxes       compile      first load      one task       restart");
    for (services, sandboxes) in [(10, 1), (100, 1), (1_000, 1), (5_000, 1), (1_000, 100)] {
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
    let first = apply(&mut vip, &plan).await;
    let mut changing = Vec::new();
    for round in 0..ROUNDS {
        let plan = compile(&mut vip, if round % 2 == 0 { &fewer } else { &full });
        changing.push(apply(&mut vip, &plan).await);
    }
    let mut restarting = Vec::new();
    for _ in 0..5 {
        let mut vip = world.manager();
        let plan = compile(&mut vip, &full);
        restarting.push(apply(&mut vip, &plan).await);
    }
    println!(
        "{services:>8} {sandboxes:>9} {:>13} {:>15} {:>13} {:>13}",
        shown(&mut compiling),
        shown(&mut [first]),
        shown(&mut changing),
        shown(&mut restarting),
    );
}

const ROUNDS: usize = 50;

async fn apply(vip: &mut Vip, plan: &Arc<Plan>) -> Duration {
    let begun = Instant::now();
    let outcome = vip.apply(plan).await;
    let took = begun.elapsed();
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    took
}

fn shown(times: &mut [Duration]) -> String {
    times.sort();
    let millis = |it: Option<&Duration>| it.map_or(0.0, Duration::as_secs_f64) * 1e3;
    format!("{:.2} ({:.2})", millis(times.get(times.len() / 2)), millis(times.first()))
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

//! What a new snapshot costs before anything is told to the kernel: compile and diff by the real
//! consumer, 1,000 services of 5 tasks and 100 sandboxes. Targets: 50 ms whole, 5 ms for one change.
//!
//! Always true: snapshots are built anew each time, as sources build them, so nothing is shared
//! with the one before; building them is not timed. Times are wall clock, milliseconds: the median
//! of the rounds, and the best in parentheses, because machines are shared.
//!
//! `cargo bench -p resolver --bench compile`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures, prints, and may die"
)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::model::ServingState;
use registry::{Consumer, Draft, Snapshot};
use resolver::diff::diff;
use resolver::{Config, Plan, Resolver};
use tokio::sync::watch;

const SERVICES: usize = 1_000;
const TASKS: usize = 5;
const SANDBOXES: usize = 100;
const ROUNDS: usize = 20;

fn main() {
    println!("{SERVICES} services x {TASKS}, {SANDBOXES} sandboxes; ms, median (best) of {ROUNDS}");
    println!("{:<44} {:>17} {:>17} {:>17}", "", "compile", "diff", "free the old");
    for networks in [1, 20] {
        let world = registry::source::world::parse(&text(networks), "bench.toml").unwrap();
        measure(&format!("whole, {networks} network(s)"), &world, None);
        measure(&format!("nothing new, {networks}"), &world, Some(&|_, _| ()));
        measure(&format!("one task drains or serves, {networks}"), &world, Some(&drained));
        measure(&format!("one address changes, {networks}"), &world, Some(&moved));
        measure(&format!("one sandbox comes or goes, {networks}"), &world, Some(&left));
    }
}

/// Makes the world of a round of the first one.
type Change<'a> = &'a dyn Fn(&mut Draft, usize);

fn drained(draft: &mut Draft, round: usize) {
    let state =
        if round.is_multiple_of(2) { ServingState::Draining } else { ServingState::Serving };
    draft.tasks.first_mut().unwrap().state = state;
}

fn moved(draft: &mut Draft, round: usize) {
    let task = draft.tasks.first_mut().unwrap();
    let address = std::net::Ipv4Addr::new(10, 250, 0, u8::try_from(round).unwrap());
    for endpoint in task.networks.values_mut() {
        endpoint.addresses = vec![address.into()];
    }
}

fn left(draft: &mut Draft, round: usize) {
    if round.is_multiple_of(2) {
        draft.sandboxes.pop();
    }
}

/// `None`: a resolver that starts anew each time.
fn measure(what: &str, world: &Draft, change: Option<Change<'_>>) {
    let mut resolver = start();
    let mut held = Plan::default();
    if change.is_some() {
        held = resolver.compile(&Arc::new(Snapshot::build(world.clone(), 1))).0;
    }
    let mut spent: [Vec<Duration>; 3] = Default::default();
    for round in 0..ROUNDS {
        let mut draft = world.clone();
        if let Some(change) = change {
            change(&mut draft, round);
        } else {
            (resolver, held) = (start(), Plan::default());
        }
        let snapshot = Arc::new(Snapshot::build(draft, 2 + u64::try_from(round).unwrap()));
        let begun = Instant::now();
        let (plan, _notes) = resolver.compile(&snapshot);
        let compiled = Instant::now();
        let changes = diff(&held.views, &plan).len();
        let compared = Instant::now();
        assert!(changes <= plan.views.len() + 1, "more changes than sandboxes");
        held = plan; // frees the old one
        let freed = Instant::now();
        for (times, (from, to)) in
            spent.iter_mut().zip([(begun, compiled), (compiled, compared), (compared, freed)])
        {
            times.push(to - from);
        }
    }
    let [compile, diff, free] = spent.each_mut().map(|it| shown(it));
    println!("{what:<44} {compile:>17} {diff:>17} {free:>17}");
}

fn start() -> Resolver {
    let config = Config {
        ttl: Duration::from_secs(5),
        vip_ttl: Duration::from_secs(30),
        forward_single_label: false,
        host_listen: None,
        upstream: resolver::UpstreamConfig::default(),
    };
    Resolver::new(config, watch::channel(Arc::default()).1, None).unwrap()
}

fn shown(times: &mut [Duration]) -> String {
    times.sort();
    let millis = |it: Option<&Duration>| it.map_or(0.0, Duration::as_secs_f64) * 1e3;
    format!("{:.2} ({:.2})", millis(times.get(times.len() / 2)), millis(times.first()))
}

/// A world as a Swarm has it: ids, an alias and a published port for each service, short names
/// for each task. With more than one network, every service and sandbox is on two of them.
fn text(networks: usize) -> String {
    let mut text = String::new();
    for network in 0..networks {
        write!(text, "[[network]]\nname = \"net{network}\"\nsubnet = \"10.{network}.0.0/16\"\n")
            .unwrap();
    }
    // The lowest 16 bits of an address say who; one octet above says on which network.
    let on = |number: usize, what: &dyn Fn(usize) -> String| {
        let mut on = vec![number % networks, (number / networks) % networks];
        on.dedup();
        on.into_iter().map(what).collect::<Vec<_>>().join(", ")
    };
    let address = |network: usize, number: usize| {
        format!("net{network} = \"10.{network}.{}.{}\"", number >> 8, number & 255)
    };
    for service in 0..SERVICES {
        let names = on(service, &|it| format!("\"net{it}\""));
        write!(
            text,
            "[[service]]\nname = \"stack{}_s{service}\"\nmode = \"{}\"\nnetworks = [{names}]\n\
             aliases = [\"s{service}\"]\nports = [{{ published = {}, target = 80 }}]\n",
            service % 50,
            if service.is_multiple_of(2) { "vip" } else { "dnsrr" },
            10_000 + service,
        )
        .unwrap();
        if service.is_multiple_of(2) {
            let vips = on(service, &|it| address(it, 256 + service));
            writeln!(text, "vip = {{ {vips} }}").unwrap();
        }
        for task in 0..TASKS {
            let number = 8192 + service * TASKS + task;
            let addresses = on(service, &|it| address(it, number));
            write!(
                text,
                "[[task]]\nname = \"stack{}_s{service}.{task}.x{number:024x}\"\n\
                 service = \"stack{}_s{service}\"\nnames = [\"{number:012x}\"]\n\
                 addresses = {{ {addresses} }}\n",
                service % 50,
                service % 50,
            )
            .unwrap();
        }
    }
    for sandbox in 0..SANDBOXES {
        let names = on(sandbox, &|it| format!("\"net{it}\""));
        write!(
            text,
            "[[sandbox]]\nname = \"b{sandbox}\"\nnetns = \"/run/netns/b{sandbox}\"\n\
             networks = [{names}]\nupstreams = [\"192.0.2.53\"]\n"
        )
        .unwrap();
    }
    text
}

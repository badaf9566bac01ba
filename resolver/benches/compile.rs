//! What a new snapshot costs the resolver, from the world as a source found it to views that are
//! ready to be swapped in: compile and diff by the real consumer, and a seat for each view that is
//! another one, 1,000 services of 5 tasks and 100 sandboxes. Targets: 50 ms whole, 5 ms for one
//! change, in all three together.
//!
//! Always true: worlds are found anew each time, and snapshots made of them as sources make them,
//! sharing with the one before what says the same; that is timed apart, because all consumers have
//! it together. Times are wall clock, milliseconds: the median of the rounds, and the best in
//! parentheses, because machines are shared.
//!
//! `cargo bench -p resolver --bench compile`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures, prints, and may die"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::id::SandboxId;
use registry::model::{Attachment, Endpoint, ServingState};
use registry::{Consumer, Draft, Snapshot};
use resolver::diff::{Change as Step, diff};
use resolver::fast::{Plain, Quick, Seat};
use resolver::name::Name;
use resolver::plan::View;
use resolver::{Config, Plan, Resolver};
use tokio::sync::watch;

const SERVICES: usize = 1_000;
const TASKS: usize = 5;
const SANDBOXES: usize = 100;
const ROUNDS: usize = 20;

fn main() {
    println!("{SERVICES} services x {TASKS}, {SANDBOXES} sandboxes; ms, median (best) of {ROUNDS}");
    let columns = ["snapshot", "compile", "diff", "seats", "last three", "free the old"];
    let columns = columns.map(|it| format!(" {it:>15}")).concat();
    println!("{:<40}{columns}", "");
    for networks in [1, 20] {
        let world = registry::source::world::parse(&text(networks), "bench.toml").unwrap();
        let measure = |what: &str, change: Option<Change<'_>>| {
            measure(&format!("{what}, {networks} network(s)"), &world, change);
        };
        measure("whole", None);
        measure("nothing new", Some(&|_, _| ()));
        measure("one task drains or serves", Some(&drained));
        measure("one address changes", Some(&moved));
        measure("one service comes or goes", Some(&added));
        measure("one sandbox joins or leaves", Some(&joined));
        measure("one sandbox comes or goes", Some(&left));
        answer(&world);
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

/// A service with a task, on the first network.
fn added(draft: &mut Draft, round: usize) {
    if round.is_multiple_of(2) {
        let (service, task) = (draft.services.last().unwrap(), draft.tasks.last().unwrap());
        let (mut service, mut task) = (service.clone(), task.clone());
        (service.id, service.name) = ("new".into(), "new".to_owned());
        for attachment in service.networks.values_mut() {
            attachment.aliases = ["fresh".to_owned()].into();
        }
        (task.id, task.name, task.service) =
            ("new.1".into(), "new.1".to_owned(), Some("new".into()));
        draft.services.push(service);
        draft.tasks.push(task);
    }
}

/// A network is connected to a sandbox that runs, and its container's task has an address there.
fn joined(draft: &mut Draft, round: usize) {
    if round.is_multiple_of(2) {
        let joined = draft.networks.last().unwrap().id.clone();
        let sandbox = draft.sandboxes.first_mut().unwrap();
        sandbox.networks.push(Attachment { network: joined.clone(), addresses: Vec::new() });
        let addresses = vec![[10, 250, 250, 250].into()];
        let endpoint = Endpoint { addresses, names: ["joined".to_owned()].into() };
        draft.tasks.first_mut().unwrap().networks.insert(joined, endpoint);
    }
}

/// `None`: a resolver that starts anew each time.
fn measure(what: &str, world: &Draft, change: Option<Change<'_>>) {
    let mut resolver = start();
    let (mut held, mut seats) = (Plan::default(), BTreeMap::new());
    let mut last = Arc::new(Snapshot::build(world.clone(), 1));
    if change.is_some() {
        held = resolver.compile(&last).0;
        seats = held.views.iter().map(seat).collect();
    }
    let mut spent: [Vec<Duration>; 6] = Default::default();
    for round in 0..ROUNDS {
        let mut draft = world.clone();
        if let Some(change) = change {
            change(&mut draft, round);
        } else {
            (resolver, held, seats) = (start(), Plan::default(), BTreeMap::new());
            last = Arc::new(Snapshot::default());
        }
        let found = Instant::now();
        let snapshot = Arc::new(last.followed_by(draft));
        let begun = Instant::now();
        let (plan, _notes) = resolver.compile(&snapshot);
        let compiled = Instant::now();
        let changes = diff(&held.views, &plan);
        let compared = Instant::now();
        let fresh: Vec<_> = changes
            .iter()
            .filter_map(|it| match it {
                Step::Rezone(view) | Step::Open(view) => Some(seat((&view.sandbox, view))),
                Step::Close(_) => None,
            })
            .collect();
        let ready = Instant::now();
        (held, last) = (plan, snapshot); // what follows frees the old ones
        seats.extend(fresh);
        seats.retain(|id, _| held.views.contains_key(id));
        let freed = Instant::now();
        let times = [(found, begun), (begun, compiled), (compiled, compared), (compared, ready)];
        let times = times.into_iter().chain([(begun, ready), (ready, freed)]);
        for (spent, (from, to)) in spent.iter_mut().zip(times) {
            spent.push(to - from);
        }
    }
    println!("{what:<40}{}", spent.each_mut().map(|it| format!(" {:>15}", shown(it))).concat());
}

fn seat((id, view): (&SandboxId, &Arc<View>)) -> (SandboxId, Seat) {
    (id.clone(), Seat::new(Arc::clone(view)))
}

/// What an answer for each name of the first sandbox costs the fast path, from octets to octets.
fn answer(world: &Draft) {
    let plan = start().compile(&Arc::new(Snapshot::build(world.clone(), 1))).0;
    let view = plan.views.values().next().unwrap();
    let (seat, names) = (Seat::new(Arc::clone(view)), questions(view));
    let mut out = [0; 1232];
    let mut times: Vec<_> = (0..ROUNDS * 10)
        .map(|seed| {
            let begun = Instant::now();
            for octets in &names {
                let plain = Plain::read(octets).unwrap();
                let quick = seat.quick(&plain, u64::try_from(seed).unwrap(), &mut out);
                assert!(matches!(std::hint::black_box(quick), Quick::Reply { .. }));
            }
            begun.elapsed() * 1_000_000 / u32::try_from(names.len()).unwrap() // shown as ms
        })
        .collect();
    println!("{:<40} {:>15} ns", format!("an answer, of {} names", names.len()), shown(&mut times));
}

/// A question for the address of each service, and of each container, one after another as
/// clients might ask.
fn questions(view: &View) -> Vec<Vec<u8>> {
    let question = |name: Name| {
        let mut octets = b"\0\x09\x01\0\0\x01\0\0\0\0\0\0".to_vec();
        octets.extend(name.wire());
        octets.extend([0, 1, 0, 1]);
        octets
    };
    let zones = view.zones.iter();
    let names = zones.flat_map(|it| it.names.keys()).filter_map(|it| Name::from_text(it).ok());
    let mut questions: Vec<_> = names.map(question).collect();
    let length = questions.len();
    for at in 0..length {
        questions.swap(at, at * 7919 % length);
    }
    questions
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

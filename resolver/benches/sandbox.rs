//! What a sandbox costs: the time to open one, and CPU per answer beside a bare UDP echo that is
//! measured in the same run. Needs the right to make network namespaces.
//!
//! `cargo bench -p resolver --bench sandbox`
#![expect(
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement that cannot go on panics"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use support::{Driven, Sandbox};

/// Sandboxes opened at once.
const SANDBOXES: usize = 100;
/// Services of each of their networks, each with five tasks.
const SERVICES: usize = 1000;
/// Changes of an address.
const CHANGES: usize = 100;
/// How long each side answers in each round.
const ROUND: Duration = Duration::from_secs(2);
/// Questions that a client keeps in flight.
const WINDOW: usize = 32;

fn main() {
    let sandboxes: Vec<_> = (0..SANDBOXES).map(|_| Sandbox::new()).collect();
    let mut driven = Driven::new(None);
    driven.apply("");
    let worlds =
        [("the first sandbox", world(&sandboxes[..1])), ("99 more sandboxes", world(&sandboxes))];
    for (what, text) in worlds {
        let mut seen = Vec::new();
        driven.observed(&text, || seen.push((Instant::now(), process_cpu())));
        let spent = |from: usize| {
            let ((begun, before), (ended, after)) = (seen[from], seen[from + 1]);
            format!("{:?} ({:?} of CPU)", ended.duration_since(begun), after.saturating_sub(before))
        };
        println!("{SERVICES} services x 5, {what}: compile {}, apply {}", spent(0), spent(1));
    }
    change(&mut driven, &world(&sandboxes));
    let before = cpu("dns-keep");
    std::thread::sleep(Duration::from_secs(5));
    let spent = cpu("dns-keep").saturating_sub(before);
    println!("refreshing {SANDBOXES} takeovers: {:?} of CPU a second", spent / 5);

    echo(&sandboxes[0]);
    for round in 0..3 {
        let echo = answers("bare-echo", &sandboxes[0], 5300);
        let ours = answers("dns-local", &sandboxes[0], 53);
        let us = |it: Duration| it.as_nanos() as f64 / 1000.0;
        println!(
            "round {round}: echo {:.2} us, resolver {:.2} us of CPU an answer, ratio {:.2}",
            us(echo),
            us(ours),
            us(echo) / us(ours)
        );
    }
}

/// How long it takes until an address that changes is answered in all sandboxes, from its snapshot
/// on. The threads that answer, and that refresh takeovers, run as they always do.
fn change(driven: &mut Driven, world: &str) {
    let mut spent: [Vec<Duration>; 4] = Default::default();
    for round in 0..CHANGES {
        let text = world.replacen("\"10.0.0.1\"", &format!("\"10.200.0.{}\"", round % 200), 1);
        let mut seen = Vec::new();
        driven.observed(&text, || seen.push((Instant::now(), process_cpu())));
        let [(from, before), (compiled, _), (applied, after)] = seen[..] else {
            panic!("seen {} times", seen.len())
        };
        let times = [compiled - from, applied - compiled, applied - from];
        let cpu = after.saturating_sub(before);
        for (spent, time) in spent.iter_mut().zip(times.into_iter().chain([cpu])) {
            spent.push(time);
        }
    }
    let [compile, apply, both, cpu] = spent.each_mut().map(|times| {
        times.sort();
        format!("{:.2?} ({:.2?})", times[CHANGES / 2], times[CHANGES - 1])
    });
    println!(
        "one address changed, median (worst) of {CHANGES}: compile {compile}, apply {apply}, \
         both {both}, CPU {cpu}"
    );
}

fn world(sandboxes: &[Sandbox]) -> String {
    let mut text = "[[network]]\nname = \"net\"\nsubnet = \"10.0.0.0/8\"\n".to_owned();
    for service in 0..SERVICES {
        let mode = if service % 2 == 0 { "vip" } else { "dnsrr" };
        let (high, low) = (service / 250, service % 250);
        write!(
            text,
            "[[service]]\nname = \"s{service}\"\nmode = \"{mode}\"\nnetworks = [\"net\"]\n"
        )
        .unwrap();
        if mode == "vip" {
            writeln!(text, "vip = {{ net = \"10.1{high}.0.{low}\" }}").unwrap();
        }
        for task in 0..5 {
            write!(
                text,
                "[[task]]\nname = \"s{service}.{task}\"\nservice = \"s{service}\"\n\
                 addresses = {{ net = \"10.{task}.{high}.{low}\" }}\n"
            )
            .unwrap();
        }
    }
    for (index, sandbox) in sandboxes.iter().enumerate() {
        let path = sandbox.path();
        write!(
            text,
            "[[sandbox]]\nname = \"b{index}\"\nnetns = \"{}\"\nnetworks = [\"net\"]\n",
            path.display()
        )
        .unwrap();
    }
    text
}

/// An echo as bare as tokio allows, on the sandbox's loopback.
fn echo(sandbox: &Sandbox) {
    let address = SocketAddr::from((support::ADDRESS, 5300));
    let socket = kernel::socket::udp_bound(&sandbox.netns(), address).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let body = async move {
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let mut buffer = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..length], client).await.unwrap();
        }
    };
    let run = move || runtime.block_on(body);
    std::thread::Builder::new().name("bare-echo".to_owned()).spawn(run).unwrap();
}

/// CPU time of the thread `server` for each answer to a client that keeps it busy.
fn answers(server: &str, sandbox: &Sandbox, port: u16) -> Duration {
    let to = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 11), port));
    let client = kernel::socket::udp_connected(&sandbox.netns(), to).unwrap();
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let (before, begun) = (cpu(server), Instant::now());
    let mut count = 0;
    let mut next = 0;
    while begun.elapsed() < ROUND {
        for _ in 0..WINDOW {
            ask(&client, next % SERVICES);
            next += 1;
        }
        let mut buffer = [0; 1500];
        for _ in 0..WINDOW {
            match client.recv(&mut buffer) {
                Ok(_) => count += 1,
                Err(_) => break,
            }
        }
    }
    cpu(server).saturating_sub(before) / count
}

fn ask(client: &UdpSocket, service: usize) {
    let name = format!("s{service}");
    let mut query = b"\0\0\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    query.push(u8::try_from(name.len()).unwrap());
    query.extend_from_slice(name.as_bytes());
    query.extend_from_slice(b"\0\0\x01\0\x01");
    client.send(&query).unwrap();
}

/// CPU time that the threads of that name have had so far.
fn cpu(name: &str) -> Duration {
    let mut sum = 0;
    for thread in std::fs::read_dir("/proc/self/task").unwrap() {
        let thread = thread.unwrap().path();
        if std::fs::read_to_string(thread.join("comm")).is_ok_and(|it| it.trim() == name) {
            let times = std::fs::read_to_string(thread.join("schedstat")).unwrap();
            sum += times.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    Duration::from_nanos(sum)
}

/// CPU time that this process has had so far, ended threads included.
fn process_cpu() -> Duration {
    let times = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(times.tv_sec.try_into().unwrap(), times.tv_nsec.try_into().unwrap())
}

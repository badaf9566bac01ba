//! Checks of tasks in namespaces of their own, from a namespace on their network.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kernel::socket;
use registry::health::{Verdict, Verdicts};
use registry::{Events, Snapshot, drive};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vip::Health;

use crate::support::{Host, PORT, World};

/// Far longer than any verdict here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whoever probes, over worlds that a test writes.
struct Prober {
    worlds: watch::Sender<Arc<Snapshot>>,
    verdicts: watch::Receiver<Arc<Verdicts>>,
    probes: vip::health::Probes,
    generation: u64,
    /// The host in whose namespace the network is reached.
    from: &'static str,
    _part: JoinSet<()>,
}

impl Prober {
    fn new() -> Self {
        let (worlds, world) = watch::channel(Arc::new(Snapshot::default()));
        let (found, verdicts) = watch::channel(Arc::default());
        let probes = vip::health::Probes::default();
        let health = Health::new(found, probes.clone(), Events::default()).unwrap();
        let mut part = JoinSet::new();
        part.spawn(drive(health, world, watch::channel(None).0, CancellationToken::new()));
        Self { worlds, verdicts, probes, generation: 0, from: "prober", _part: part }
    }

    /// A world of tasks `web.N` at 10.20.1.`10 + N`, reached from the namespace of `from`.
    fn world(&mut self, world: &World, labels: &str, tasks: u8) {
        let mut text = "[[network]]\nname = \"frontend\"\nsubnet = \"10.20.1.0/24\"\n".to_owned();
        let path = world.path(self.from);
        text.extend(["reach = \"", path.to_str().unwrap(), "\"\n"]);
        text.push_str("[[service]]\nname = \"web\"\nnetworks = [\"frontend\"]\n");
        text.extend(["labels = { ", labels, " }\n"]);
        for nth in 1..=tasks {
            let (name, last) = (nth.to_string(), (10 + nth).to_string());
            text.extend(["[[task]]\nname = \"web.", &name, "\"\nservice = \"web\"\n"]);
            text.extend(["addresses = { frontend = \"10.20.1.", &last, "\" }\n"]);
        }
        let draft = registry::source::world::parse(&text, "world.toml").unwrap();
        self.generation += 1;
        self.worlds.send_replace(Arc::new(Snapshot::build(draft, self.generation)));
    }

    /// Waits until the verdicts are these: `U`p, `N`ew, `D`own, by task.
    async fn until(&mut self, expected: &str) -> BTreeMap<String, String> {
        let letters = |verdicts: &Verdicts| -> String {
            let letter = |it: &Verdict| match it {
                Verdict::Up => 'U',
                Verdict::Unproven => 'N',
                Verdict::Down(_) => 'D',
            };
            verdicts.tasks.values().map(letter).collect()
        };
        let reached = self.verdicts.wait_for(|it| letters(it) == expected);
        let found = tokio::time::timeout(PATIENCE, reached).await.map(|it| it.unwrap().clone());
        assert!(found.is_ok(), "not {expected}: {:?}", *self.verdicts.borrow());
        let found = found.unwrap();
        let reason = |(id, verdict): (&registry::id::TaskId, &Verdict)| match verdict {
            Verdict::Down(reason) => Some((id.to_string(), reason.clone())),
            Verdict::Up | Verdict::Unproven => None,
        };
        found.tasks.iter().filter_map(reason).collect()
    }
}

/// Listens on [`PORT`] of a host and answers each connection with `answer`, until dropped.
struct Server(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Server {
    fn new(host: &Host, answer: &'static str) -> Self {
        let listener: TcpListener =
            socket::tcp_listener(&host.netns, (Ipv4Addr::UNSPECIFIED, PORT).into()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let mut open = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // One that says nothing keeps its clients waiting.
                    Ok((stream, _)) if answer.is_empty() => open.push(stream),
                    Ok((mut stream, _)) => {
                        drop(stream.read(&mut [0; 1024]));
                        drop(stream.write_all(answer.as_bytes()));
                    }
                    Err(_) => {}
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        Self(stop, Some(std::thread::spawn(serve)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

const TCP: &str = r#""portolan.health.tcp" = "8080", "portolan.health.interval" = "1s",
    "portolan.health.fall" = "2", "portolan.health.timeout" = "500ms""#;

const HTTP: &str = r#""portolan.health.http" = "8080/", "portolan.health.interval" = "1s",
    "portolan.health.fall" = "1", "portolan.health.timeout" = "500ms""#;

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn hosts(world: &mut World, count: u8) -> Vec<Host> {
    world.host("prober", 100);
    (1..=count).map(|nth| world.host(&format!("web.{nth}"), 10 + nth)).collect()
}

#[tokio::test]
async fn a_task_that_stops_listening_falls_and_comes_back() {
    let mut world = World::new();
    let hosts = hosts(&mut world, 2);
    let mut servers: Vec<_> = hosts.iter().map(|host| Server::new(host, "")).collect();
    let mut prober = Prober::new();
    prober.world(&world, TCP, 2);
    prober.until("UU").await;
    servers.pop();
    let reasons = prober.until("UD").await;
    let reason = "tcp check of 10.20.1.12:8080 failed 2 times: connection refused";
    assert_eq!(reasons["web.2"], reason);
    assert!(prober.probes.counts().failed >= 2);
    servers.push(Server::new(&hosts[1], ""));
    prober.until("UU").await;
}

#[tokio::test]
async fn a_task_that_answers_nothing_or_a_failure_fails_a_check_by_http() {
    let mut world = World::new();
    let hosts = hosts(&mut world, 4);
    let failing = "HTTP/1.1 503 Service Unavailable\r\n\r\n";
    let answers = [OK, "", failing, OK];
    let mut servers: Vec<_> =
        hosts.iter().zip(answers).map(|(host, answer)| Server::new(host, answer)).collect();
    let mut prober = Prober::new();
    prober.world(&world, HTTP, 4);
    let reasons = prober.until("UDDU").await;
    let silent = "http check of 10.20.1.12:8080 failed once: no answer within 500ms";
    assert_eq!(reasons["web.2"], silent);
    assert_eq!(reasons["web.3"], "http check of 10.20.1.13:8080 failed once: it answered 503");
    servers.truncate(1);
    servers.extend(hosts[1..].iter().map(|host| Server::new(host, OK)));
    prober.until("UUUU").await;
}

#[tokio::test]
async fn a_task_that_is_cut_off_fails_its_check() {
    let mut world = World::new();
    let hosts = hosts(&mut world, 2);
    let _servers: Vec<_> = hosts.iter().map(|host| Server::new(host, "")).collect();
    let mut prober = Prober::new();
    prober.world(&world, TCP, 2);
    prober.until("UU").await;
    kernel::link::delete_link(&hosts[1].netns, "eth0").unwrap();
    let reasons = prober.until("UD").await;
    let begin = "tcp check of 10.20.1.12:8080 failed 2 times: no ";
    assert!(reasons["web.2"].starts_with(begin), "{reasons:?}");
}

#[tokio::test]
async fn a_new_task_is_proven_by_its_first_success_and_most_failing_are_kept() {
    let mut world = World::new();
    let hosts = hosts(&mut world, 3);
    let mut servers: Vec<_> = hosts.iter().take(2).map(|host| Server::new(host, "")).collect();
    let mut prober = Prober::new();
    prober.world(&world, TCP, 2);
    prober.until("UU").await;
    prober.world(&world, TCP, 3);
    prober.until("UUN").await;
    servers.push(Server::new(&hosts[2], ""));
    prober.until("UUU").await;
    servers.remove(0);
    prober.until("DUU").await;
    servers.clear();
    // Two of three fail, then all of them: that is not believed.
    prober.until("UUU").await;
}

#[tokio::test]
async fn a_namespace_that_cannot_be_entered_is_held_against_nobody() {
    let mut world = World::new();
    hosts(&mut world, 2);
    let mut prober = Prober { from: "nowhere", ..Prober::new() };
    prober.world(&world, TCP, 2);
    let begun = tokio::time::Instant::now();
    while prober.probes.counts().unknown < 6 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", prober.probes.counts());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    prober.until("UU").await;
    assert_eq!(prober.probes.counts().failed, 0);
}

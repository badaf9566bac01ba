//! What others do to our tables while somebody looks after them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use kernel::nft::{Batch, Family, Socket, Table};
use registry::{Report, Snapshot, drive};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::{Host, Text, World, echo, wait_until};

const TABLE: Table<'static> = Table { family: Family::Ip, name: "portolan_vip" };
const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);

/// A VIP manager that runs as the program runs it.
struct Running {
    worlds: watch::Sender<Arc<Snapshot>>,
    reports: watch::Receiver<Option<Arc<Report<vip::Plan>>>>,
    stop: CancellationToken,
    parts: tokio::task::JoinSet<()>,
}

impl Running {
    async fn begin(vip: vip::Vip, text: &str) -> Self {
        let (worlds, world) = watch::channel(Arc::default());
        let (report, reports) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut parts = tokio::task::JoinSet::new();
        parts.spawn(drive(vip, world, report, stop.clone()));
        let mut running = Self { worlds, reports, stop, parts };
        running.make(text, 1).await;
        running
    }

    async fn make(&mut self, text: &str, generation: u64) {
        let draft = registry::source::world::parse(text, "world.toml").unwrap();
        self.worlds.send_replace(Arc::new(Snapshot::build(draft, generation)));
        let done =
            |it: &Option<Arc<Report<_>>>| it.as_ref().is_some_and(|it| it.generation == generation);
        let report = self.reports.wait_for(done).await.unwrap().clone().unwrap();
        assert!(report.outcome.failures.is_empty(), "{:?}", report.outcome.failures);
    }

    async fn end(mut self) {
        self.stop.cancel();
        while self.parts.join_next().await.is_some() {}
    }
}

fn has_table(host: &Host) -> bool {
    let tables = Socket::open(&host.netns).unwrap().tables().unwrap();
    tables.iter().any(|it| it.name == TABLE.name)
}

#[tokio::test]
async fn a_flushed_ruleset_is_back_within_a_second_and_only_there() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let (client, other) = (world.host("client", 100), world.host("other", 101));
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 2, 11);
    let text = text.sandbox(&client, &world.path("client"));
    let text = text.sandbox(&other, &world.path("other")).0;
    let running = Running::begin(world.manager().vip, &text).await;
    let mut stream = client.connect(WEB);
    let answered = echo(&mut stream).unwrap();
    let before = Socket::open(&other.netns).unwrap().generation().unwrap();
    for round in 0..3 {
        // As `nft flush ruleset` does.
        client.nft(|batch| batch.delete_table(TABLE));
        let begun = tokio::time::Instant::now();
        wait_until(|| has_table(&client), |there| *there).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{round}: {:?}", begun.elapsed());
        assert!(client.call(WEB).is_ok(), "{round}");
        assert_eq!(echo(&mut stream).unwrap(), answered, "connections go on");
    }
    let after = Socket::open(&other.netns).unwrap().generation().unwrap();
    assert_eq!(before, after, "nobody else's table was touched");
    running.end().await;
}

#[tokio::test]
async fn a_change_inside_the_table_is_put_right_too() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 1, 11);
    let text = text.sandbox(&client, &world.path("client")).0;
    let running = Running::begin(world.manager().vip, &text).await;
    client.nft(|batch| batch.flush_set(TABLE, "vips"));
    client.nft(|batch| batch.flush_chain(TABLE, "output"));
    wait_until(|| client.netns.run(|| crate::support::call(WEB)).unwrap().ok(), Option::is_some)
        .await;
    running.end().await;
}

#[tokio::test]
async fn a_stranger_who_changes_the_table_all_the_time_stops_no_change() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let (client, other) = (world.host("client", 100), world.host("other", 101));
    let (one, two) = (world.path("client"), world.path("other"));
    let service = || Text::new().service("web", Some("10.20.1.2"));
    let both = |text: Text| text.sandbox(&client, &one).sandbox(&other, &two).0;
    let texts = [both(service().tasks("web", 1, 11)), both(service().tasks("web", 2, 11))];
    let mut running = Running::begin(world.manager().vip, &texts[0]).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, netns) = (Arc::clone(&stop), world.path("client"));
    let stranger = std::thread::spawn(move || {
        let mut socket = Socket::open(&kernel::netns::Netns::open(&netns).unwrap()).unwrap();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let mut batch = Batch::new();
            batch.replace_table(TABLE, false);
            batch.add_chain(TABLE, "theirs", None);
            socket.commit(&batch).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    for generation in 2..30 {
        running.make(&texts[generation % 2], u64::try_from(generation).unwrap()).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    stranger.join().unwrap();
    assert_eq!(other.calls(WEB, 2).len(), 2);
    wait_until(|| client.netns.run(|| crate::support::call(WEB)).unwrap().ok(), Option::is_some)
        .await;
    running.end().await;
}

#[tokio::test]
async fn a_namespace_that_is_watched_goes_when_its_container_does() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let text = |text: Text| text.service("web", Some("10.20.1.2")).tasks("web", 1, 11);
    let with = text(Text::new()).sandbox(&client, &world.path("client")).0;
    let mut running = Running::begin(world.manager().vip, &with).await;
    assert!(world.has_port(100));
    kernel::link::unname_netns(&world.path("client")).unwrap();
    drop(client);
    running.make(&text(Text::new()).0, 2).await;
    // With the namespace goes its end of the veth pair, and with that the other.
    wait_until(|| world.has_port(100), |there| !there).await;
    running.end().await;
}

#[tokio::test]
async fn a_namespace_in_the_place_of_another_is_watched_and_the_other_goes() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let text = |host: &Host, tasks| {
        let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", tasks, 11);
        text.sandbox(host, &path).0
    };
    let mut running = Running::begin(world.manager().vip, &text(&client, 1)).await;
    kernel::link::unname_netns(&path).unwrap();
    drop(client);
    let client = world.host("client", 101);
    running.make(&text(&client, 2), 2).await;
    wait_until(|| world.has_port(100), |there| !there).await;
    client.nft(|batch| batch.delete_table(TABLE));
    wait_until(|| has_table(&client), |there| *there).await;
    running.end().await;
}

#[tokio::test]
async fn after_more_changes_than_can_be_told_the_next_is_still_heard_of() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 1, 11);
    let text = text.sandbox(&client, &world.path("client")).0;
    let meter = vip::Meter::default();
    let running = Running::begin(world.manager().vip.counting_on(&meter), &text).await;
    let theirs = Table { family: Family::Ip, name: "theirs" };
    client.nft(|batch| {
        batch.add_table(theirs, false);
        for number in 0..50_000 {
            batch.add_chain(theirs, &format!("chain{number}"), None);
        }
    });
    wait_until(|| meter.read().foreign_changes, |it| *it > 0).await;
    client.nft(|batch| {
        batch.delete_table(theirs);
        batch.delete_table(TABLE);
    });
    wait_until(|| has_table(&client), |there| *there).await;
    assert!(client.call(WEB).is_ok());
    running.end().await;
}

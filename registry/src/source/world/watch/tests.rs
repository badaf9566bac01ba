//! Real files in a real folder: each way of changing one is seen, and a bad one changes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::snapshot::{Snapshot, World};

/// A folder that is gone when the test is.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portolan-world-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

struct Running {
    world: World,
    stop: CancellationToken,
    parts: JoinSet<()>,
}

/// Follows `path`, whose first world is there when this returns.
fn follow(path: &Path) -> Running {
    let (sender, world) = watch::channel(Arc::new(Snapshot::default()));
    let publisher = Publisher::new(sender);
    let follower = open(path, &publisher).unwrap();
    assert_eq!(world.borrow().generation(), 1);
    let stop = CancellationToken::new();
    let mut parts = JoinSet::new();
    parts.spawn(follower.follow(publisher, stop.clone()));
    Running { world, stop, parts }
}

impl Running {
    /// Waits until the world has just the network `name`, stale or not as told.
    async fn until(&mut self, name: &str, stale: bool) {
        let right = |it: &Arc<Snapshot>| {
            let names: Vec<&str> = it.networks().map(|it| it.name.as_str()).collect();
            names == [name] && it.stale().is_some() == stale
        };
        let seen = timeout(PATIENCE, self.world.wait_for(right)).await.is_ok();
        assert!(seen, "wanted {name}, stale {stale}; have {:?}", self.world.borrow());
    }

    async fn end(mut self) {
        self.stop.cancel();
        timeout(PATIENCE, self.parts.join_next()).await.unwrap().unwrap().unwrap();
    }
}

fn network(name: &str) -> String {
    format!("[[network]]\nname = \"{name}\"\n")
}

/// Longer than the slowest way, the poll.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_file_written_in_place_is_followed() {
    let folder = Folder::new();
    let path = folder.write("world.toml", &network("a"));
    let mut running = follow(&path);
    running.until("a", false).await;
    folder.write("world.toml", &network("b"));
    running.until("b", false).await;
    running.end().await;
}

#[tokio::test]
async fn a_file_renamed_over_is_followed_again_and_again() {
    let folder = Folder::new();
    let path = folder.write("world.toml", &network("a"));
    let mut running = follow(&path);
    for name in ["b", "c", "d"] {
        let new = folder.write("world.toml.new", &network(name));
        fs::rename(new, &path).unwrap();
        running.until(name, false).await;
    }
    running.end().await;
}

#[tokio::test]
async fn a_switched_link_on_the_way_is_followed() {
    let folder = Folder::new();
    for name in ["one", "two"] {
        fs::create_dir(folder.0.join(name)).unwrap();
        folder.write(&format!("{name}/world.toml"), &network(name));
    }
    symlink("one", folder.0.join("data")).unwrap();
    let path = folder.0.join("world.toml");
    symlink("data/world.toml", &path).unwrap();
    let mut running = follow(&path);
    running.until("one", false).await;
    symlink("two", folder.0.join("data.new")).unwrap();
    fs::rename(folder.0.join("data.new"), folder.0.join("data")).unwrap();
    running.until("two", false).await;
    running.end().await;
}

#[tokio::test]
async fn what_inotify_cannot_see_is_polled() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let target = elsewhere.write("real.toml", &network("a"));
    let path = folder.0.join("world.toml");
    symlink(&target, &path).unwrap();
    let mut running = follow(&path);
    elsewhere.write("real.toml", &network("b"));
    running.until("b", false).await;
    running.end().await;
}

#[tokio::test]
async fn a_bad_file_keeps_the_last_good_world_and_says_so() {
    let folder = Folder::new();
    let path = folder.write("world.toml", &network("a"));
    let mut running = follow(&path);
    folder.write("world.toml", "[[netwrok]]\nname = \"b\"\n");
    running.until("a", true).await;
    let reason = running.world.borrow().stale().unwrap().to_owned();
    let expected =
        format!("{}:1: `netwrok`: is not a key here; did you mean `network`?", path.display());
    assert_eq!(reason, expected);
    folder.write("world.toml", &network("a"));
    running.until("a", false).await;
    running.end().await;
}

#[tokio::test]
async fn a_file_that_is_taken_away_keeps_its_world_until_it_is_back() {
    let folder = Folder::new();
    let path = folder.write("world.toml", &network("a"));
    let mut running = follow(&path);
    fs::remove_file(&path).unwrap();
    running.until("a", true).await;
    folder.write("world.toml", &network("b"));
    running.until("b", false).await;
    running.end().await;
}

#[test]
fn a_first_reading_that_fails_is_told_at_once() {
    let folder = Folder::new();
    let path = folder.write("world.toml", "x = 1\ny = 2\n");
    let publisher = Publisher::new(watch::Sender::new(Arc::new(Snapshot::default())));
    let errors = open(&path, &publisher).unwrap_err();
    assert_eq!(errors.iter().map(|it| it.line).collect::<Vec<_>>(), [1, 2]);
    let errors = open(&folder.0.join("none"), &publisher).unwrap_err();
    assert!(errors[0].text.starts_with("cannot be read: "), "{errors:?}");
    assert_eq!(publisher.current().generation(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_writer_is_waited_for_until_it_closes_or_rests_but_not_for_ever() {
    let (sender, mut hints) = mpsc::channel(4);
    let begun = Instant::now();
    sender.try_send(Hint::Partly).unwrap();
    sender.try_send(Hint::Whole).unwrap();
    settle(&mut hints).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);

    settle(&mut hints).await;
    assert_eq!(begun.elapsed(), QUIET);

    let begun = Instant::now();
    let write = async {
        loop {
            sender.send(Hint::Partly).await.unwrap();
            sleep(QUIET / 2).await;
        }
    };
    tokio::select! { () = write => {}, () = settle(&mut hints) => {} }
    assert_eq!(begun.elapsed(), LONGEST);
}

//! What the next portolan has to know of this one: which namespaces were touched, and since when
//! tasks drain. Otherwise what left meanwhile would keep its table and routes, and each restart
//! would give tasks that drain all their time again.
//!
//! Invariants
//! - *whole*: a reader finds the old file or the new one (temporary file, rename);
//! - *of this boot*: cookies of namespaces are numbered anew with each, and so is all that they
//!   hold;
//! - *nobody waits for it*: it is written beside, the newest last; what cannot be read or written
//!   is as if it were not there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use registry::id::SandboxId;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::drain::Drain;

/// The file's name in the state directory.
const NAME: &str = "vip-logbook.json";
/// The form of the file that this version writes and reads.
const VERSION: u32 = 1;
/// Entries of each kind that are kept: a node has some hundred sandboxes.
const MOST: usize = 16_384;
/// More than so many entries take; a larger file is not ours.
const MOST_BYTES: u64 = 16 << 20;

/// What is kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Log {
    /// Where there may be something of ours: the namespace's path and cookie.
    pub(crate) places: BTreeMap<SandboxId, (PathBuf, u64)>,
    /// When drains began, in milliseconds since the epoch.
    pub(crate) drains: BTreeMap<Drain, u64>,
}

/// The file, and who writes it.
#[derive(Debug)]
pub(crate) struct Logbook {
    path: PathBuf,
    boot: String,
    /// As it was written last, or is being written.
    last: Arc<Log>,
    /// At most one.
    writer: JoinSet<io::Result<()>>,
    /// The last writing came to nothing.
    failed: bool,
    said: bool,
}

impl Logbook {
    /// The logbook of one state directory, and what the last portolan of this boot wrote.
    pub(crate) fn in_dir(state_dir: &Path) -> (Self, Log) {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::of_boot(state_dir, boot.trim())
    }

    fn of_boot(state_dir: &Path, boot: &str) -> (Self, Log) {
        let (path, boot) = (state_dir.join(NAME), boot.to_owned());
        let log = match read(&path, &boot) {
            Ok(log) => log,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %path.display(), "cannot read the VIP logbook");
                }
                Log::default()
            }
        };
        let last = Arc::new(log.clone());
        (Self { path, boot, last, writer: JoinSet::new(), failed: false, said: false }, log)
    }

    /// What is written, or is being written.
    pub(crate) fn last(&self) -> &Log {
        &self.last
    }

    /// Has `log` written, soon. Whether all of it is: otherwise it is to be called again, soon. What
    /// could not be written is tried again the next time.
    pub(crate) fn keep(&mut self, log: Log) -> bool {
        if let Some(ended) = self.writer.try_join_next() {
            let failure = match ended {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(error) => Some(io::Error::other(error)),
            };
            // What the file says now is what it said before that.
            self.failed = failure.is_some();
            match failure {
                None => self.said = false,
                Some(error) if !self.said => {
                    self.said = true;
                    let path = self.path.display();
                    tracing::warn!(%error, %path, "the next start will not know of this one");
                }
                Some(_) => {}
            }
        }
        if *self.last == log && !self.failed {
            return true;
        }
        if !self.writer.is_empty() {
            return false;
        }
        (self.last, self.failed) = (Arc::new(log), false);
        let (path, boot, log) = (self.path.clone(), self.boot.clone(), Arc::clone(&self.last));
        self.writer.spawn_blocking(move || write(&path, &boot, &log));
        true
    }
}

fn read(path: &Path, boot: &str) -> io::Result<Log> {
    let mut text = String::new();
    File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
    let form: Form = serde_json::from_str(&text)?;
    if form.version != VERSION || form.boot != boot {
        return Ok(Log::default());
    }
    let place = |it: PlaceForm| (SandboxId::from(it.id), (it.netns, it.cookie));
    let drain =
        |it: DrainForm| (Drain { network: it.network, vip: it.vip, task: it.task }, it.since);
    let places = form.places.into_iter().map(place).collect();
    Ok(Log { places, drains: form.drains.into_iter().map(drain).collect() })
}

fn write(path: &Path, boot: &str, log: &Log) -> io::Result<()> {
    let place = |(id, (netns, cookie)): (&SandboxId, &(PathBuf, u64))| PlaceForm {
        id: id.as_str().to_owned(),
        netns: netns.clone(),
        cookie: *cookie,
    };
    let drain = |(it, since): (&Drain, &u64)| DrainForm {
        network: it.network.clone(),
        vip: it.vip,
        task: it.task,
        since: *since,
    };
    let form = Form {
        version: VERSION,
        boot: boot.to_owned(),
        places: log.places.iter().take(MOST).map(place).collect(),
        drains: log.drains.iter().take(MOST).map(drain).collect(),
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Nothing is synced: what a crash of the machine takes, no later boot wants.
    let new = path.with_extension("json.new");
    fs::write(&new, serde_json::to_vec_pretty(&form)?)?;
    fs::rename(&new, path)
}

/// The file's form.
#[derive(Deserialize, Serialize)]
struct Form {
    version: u32,
    boot: String,
    places: Vec<PlaceForm>,
    drains: Vec<DrainForm>,
}

#[derive(Deserialize, Serialize)]
struct PlaceForm {
    id: String,
    netns: PathBuf,
    cookie: u64,
}

#[derive(Deserialize, Serialize)]
struct DrainForm {
    network: String,
    vip: IpAddr,
    task: IpAddr,
    since: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        let [vip, task] = [2, 11].map(|last| IpAddr::from([10, 0, 1, last]));
        let drain = Drain { network: "front".to_owned(), vip, task };
        let place = (PathBuf::from("/run/netns/web"), 77);
        Log { places: [("cookie:77".into(), place)].into(), drains: [(drain, 1_000)].into() }
    }

    #[test]
    fn what_was_written_is_read_in_the_same_boot_and_in_no_other() {
        let dir = std::env::temp_dir().join(format!("logbook-{}", std::process::id()));
        write(&dir.join(NAME), "this", &log()).unwrap();
        assert_eq!(Logbook::of_boot(&dir, "this").1, log());
        assert_eq!(Logbook::of_boot(&dir, "next").1, Log::default());
        fs::write(dir.join(NAME), "{ half of").unwrap();
        assert_eq!(Logbook::of_boot(&dir, "this").1, Log::default());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(Logbook::of_boot(&dir, "this").1, Log::default());
    }

    #[tokio::test]
    async fn the_newest_is_written_and_what_did_not_change_is_not() {
        let dir = std::env::temp_dir().join(format!("logbook-new-{}", std::process::id()));
        let (mut logbook, _) = Logbook::of_boot(&dir, "this");
        assert!(logbook.keep(Log::default()), "there is nothing to write");
        assert!(!dir.exists());
        assert!(logbook.keep(log()));
        let newer = Log { drains: BTreeMap::new(), ..log() };
        // It waits for the one that is being written.
        while !logbook.keep(newer.clone()) {
            tokio::task::yield_now().await;
        }
        logbook.writer.join_next().await;
        assert_eq!(Logbook::of_boot(&dir, "this").1, newer);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_the_next_time() {
        let dir = std::env::temp_dir().join(format!("logbook-full-{}", std::process::id()));
        let (mut logbook, _) = Logbook::of_boot(&dir, "this");
        // Where the file is to be there is a folder.
        fs::create_dir_all(dir.join(NAME)).unwrap();
        logbook.keep(log());
        while !logbook.said {
            logbook.keep(log());
            tokio::task::yield_now().await;
        }
        fs::remove_dir(dir.join(NAME)).unwrap();
        while !dir.join(NAME).exists() {
            logbook.keep(log());
            tokio::task::yield_now().await;
        }
        assert_eq!(Logbook::of_boot(&dir, "this").1, log());
        fs::remove_dir_all(&dir).unwrap();
    }
}

//! Follows a world file: reads it when it changes, keeps the last good world when it is bad.
//!
//! Invariants
//! - *whole*: a file being written is not read before its writer closed it, or stopped for a while;
//! - *any way of writing*: in place, renamed over, or by switching a symbolic link anywhere on the
//!   path; what inotify cannot tell, a slow poll finds;
//! - *said once*: the same mistakes are logged once, however often they are read.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::document::FileError;
use crate::snapshot::Draft;
use crate::source::Publisher;

/// Publishes the world of the file at `path`. When that cannot be read there is no world to keep:
/// all its mistakes are returned.
pub fn open(path: &Path, publisher: &Publisher) -> Result<Follower, Vec<FileError>> {
    let (sender, hints) = mpsc::channel(HINTS);
    // Watched before it is read, so that no change falls in between.
    let watcher = watch(path, &sender);
    let stamp = Stamp::of(path);
    publisher.publish(super::load(path)?);
    Ok(Follower { path: path.to_owned(), sender, hints, watcher, stamp, said: Vec::new() })
}

/// A world file that was read, to be followed.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// Kept for the next watch, and so that `hints` never ends.
    sender: mpsc::Sender<Hint>,
    hints: mpsc::Receiver<Hint>,
    watcher: Option<RecommendedWatcher>,
    stamp: Stamp,
    /// The mistakes that were logged last.
    said: Vec<FileError>,
}

impl Follower {
    /// Publishes every change of the file until `stop`.
    pub async fn follow(mut self, publisher: Publisher, stop: CancellationToken) {
        while let Some(()) = stop.run_until_cancelled(self.changed()).await {
            self.stamp = Stamp::of(&self.path);
            let read = stop.run_until_cancelled(read(&self.path)).await;
            match read {
                None => return,
                Some(Ok(draft)) => {
                    self.said.clear();
                    if publisher.publish(draft) {
                        tracing::info!(file = %self.path.display(), "world file read");
                    }
                }
                Some(Err(errors)) => self.complain(errors, &publisher),
            }
        }
    }

    /// Resolves when the file is likely another than it was, and written.
    async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(hint) = self.hints.recv() => match hint {
                    Hint::Elsewhere if Stamp::of(&self.path) == self.stamp => {}
                    Hint::Elsewhere | Hint::Whole => return,
                    Hint::Partly => return settle(&mut self.hints).await,
                },
                () = sleep(POLL) => if Stamp::of(&self.path) != self.stamp {
                    // The folder itself may have been replaced, and the watch with it.
                    drop(self.watcher.take());
                    self.watcher = watch(&self.path, &self.sender);
                    return;
                },
            }
        }
    }

    fn complain(&mut self, errors: Vec<FileError>, publisher: &Publisher) {
        if self.said != errors {
            for error in &errors {
                tracing::error!("{error}");
            }
        }
        if let Some(first) = errors.first() {
            publisher.mark_stale(&first.to_string());
        }
        self.said = errors;
    }
}

/// Reads and parses away from the loop: files may be large and on slow disks.
async fn read(path: &Path) -> Result<Draft, Vec<FileError>> {
    let owned = path.to_owned();
    tokio::task::spawn_blocking(move || super::load(&owned)).await.unwrap_or_else(|error| {
        let file = path.display().to_string();
        Err(vec![FileError::unreadable(&file, format!("reading it failed: {error}"), "try again")])
    })
}

/// What a change in the folder says about the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hint {
    /// It is written: closed, or renamed into place.
    Whole,
    /// Its writer may not be done.
    Partly,
    /// Something beside it changed, perhaps a link that leads to it.
    Elsewhere,
}

/// Watches the folder of `path`, since a file that is renamed over is another file. `None` where
/// the kernel gives no watch; then the poll is all there is.
fn watch(path: &Path, sender: &mpsc::Sender<Hint>) -> Option<RecommendedWatcher> {
    let name = path.file_name()?.to_owned();
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let sender = sender.clone();
    let on_event = move |event: notify::Result<Event>| {
        let Some(hint) = event.map_or(Some(Hint::Elsewhere), |it| hint(&it, &name)) else { return };
        // A full queue holds a hint that will be acted on after this change.
        if sender.try_send(hint).is_err() {
            tracing::trace!(?hint, "hints are waiting already");
        }
    };
    let watched = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watched
        .inspect_err(|error| {
            let folder = folder.display();
            tracing::warn!(%folder, %error, "no inotify here; the world file is polled");
        })
        .ok()
}

fn hint(event: &Event, name: &std::ffi::OsStr) -> Option<Hint> {
    let ours = event.paths.iter().any(|it| it.file_name() == Some(name));
    match event.kind {
        // Reading it, as we do ourselves, is no change.
        EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => None,
        _ if !ours => Some(Hint::Elsewhere),
        EventKind::Access(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
            Some(Hint::Whole)
        }
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => {
            Some(Hint::Partly)
        }
    }
}

/// Waits until the writer is done, or was quiet for a while.
async fn settle(hints: &mut mpsc::Receiver<Hint>) {
    let limit = Instant::now() + LONGEST;
    loop {
        let quiet = (Instant::now() + QUIET).min(limit);
        match timeout_at(quiet, hints.recv()).await {
            Ok(Some(Hint::Partly | Hint::Elsewhere)) if Instant::now() < limit => {}
            _ => return,
        }
    }
}

/// Which file it is and when it was written last; `None` where there is none.
#[derive(Debug, Eq, PartialEq)]
struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let meta = std::fs::metadata(path).ok();
        Self(meta.map(|it| (it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec())))
    }
}

/// Hints that wait; one is enough to act, a few keep the order of "partly" and "whole".
const HINTS: usize = 16;
/// How often the file is looked at without a hint: a link switched in a folder far up its path.
const POLL: Duration = Duration::from_secs(2);
/// A writer that pauses longer than this between two writes is taken to be done.
const QUIET: Duration = Duration::from_millis(200);
/// A writer that never pauses is not waited for longer than this.
const LONGEST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;

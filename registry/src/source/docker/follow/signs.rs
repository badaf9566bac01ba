//! Listens to the kernel for signs of change: neighbours of overlay networks, the engine's folder
//! of network namespaces, and the host's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::id::NetworkId;
use crate::source::docker::follow::{SIGNS, Sign, SignSender};
use crate::source::docker::host::Host;
use crate::source::docker::host_files::HostFiles;

/// All watches. They end with it.
pub(super) struct Signs {
    sender: SignSender,
    receiver: Option<mpsc::Receiver<Sign>>,
    tasks: JoinSet<()>,
    overlays: BTreeMap<NetworkId, Watch>,
    folder: Option<(PathBuf, RecommendedWatcher)>,
    files: Option<RecommendedWatcher>,
}

struct Watch {
    path: PathBuf,
    handle: AbortHandle,
    /// How often it ended in a row.
    ends: u32,
}

impl Signs {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(SIGNS);
        Self {
            sender,
            receiver: Some(receiver),
            tasks: JoinSet::new(),
            overlays: BTreeMap::new(),
            folder: None,
            files: None,
        }
    }

    /// Where the signs come out; once.
    pub(super) fn take_receiver(&mut self) -> mpsc::Receiver<Sign> {
        self.receiver.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Watches exactly `folder`, and the neighbours in these overlay networks' namespaces.
    pub(super) fn watch<H: Host>(
        &mut self,
        host: &H,
        folder: &Path,
        overlays: BTreeMap<NetworkId, PathBuf>,
    ) {
        while self.tasks.try_join_next().is_some() {}
        if self.folder.as_ref().is_none_or(|(path, _)| path != folder) {
            self.folder = self.watch_folder(folder).map(|it| (folder.to_owned(), it));
        }
        self.overlays.retain(|network, watch| {
            let stays = overlays.get(network) == Some(&watch.path);
            if !stays {
                watch.handle.abort();
            }
            stays
        });
        for (network, path) in overlays {
            let ends = match self.overlays.get(&network) {
                Some(watch) if !watch.handle.is_finished() => continue,
                Some(watch) => watch.ends,
                None => 0,
            };
            let handle = self.watch_overlay(host, network.clone(), path.clone());
            self.overlays.insert(network, Watch { path, handle, ends });
        }
    }

    /// Watches the host's files, anew each time: links lead elsewhere, folders come and go.
    pub(super) fn watch_files(&mut self, files: &HostFiles) {
        let signs = self.sender.clone();
        // A full queue: the files are read again at the latest with the next poll.
        let changed = move || drop(signs.try_send(Sign::Files));
        self.files = files
            .watch(changed)
            .inspect_err(|error| tracing::debug!(%error, "the host's files are polled"))
            .ok();
    }

    /// A watch ended by itself: how long to wait before looking whether its namespace is still
    /// there. A namespace that cannot be watched is tried ever more seldom.
    pub(super) fn ended(&mut self, network: &NetworkId) -> Duration {
        let ends = self.overlays.get_mut(network).map_or(0, |watch| {
            watch.ends = watch.ends.saturating_add(1);
            watch.ends
        });
        (FIRST_PAUSE * (1 << ends.min(10))).min(LONGEST_PAUSE)
    }

    fn watch_overlay<H: Host>(
        &mut self,
        host: &H,
        network: NetworkId,
        path: PathBuf,
    ) -> AbortHandle {
        let (nudge, mut nudged) = mpsc::channel(1);
        let watching = host.watch_neighbours(path, nudge);
        let signs = self.sender.clone();
        self.tasks.spawn(async move {
            // What happened before the watch began is not lost.
            let sign = Sign::Neighbours(network.clone());
            let forward = async {
                while signs.send(sign.clone()).await.is_ok() && nudged.recv().await.is_some() {}
            };
            tokio::select! {
                () = watching => {}
                () = forward => {}
            }
            // The follower may be gone, and then nobody is left to be told.
            signs.send(Sign::WatchEnded(network)).await.ok();
        })
    }

    fn watch_folder(&self, folder: &Path) -> Option<RecommendedWatcher> {
        let signs = self.sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|it| it.kind.is_create() || it.kind.is_remove()) {
                // A full queue: the folder is listed again at the latest with the next poll.
                signs.try_send(Sign::Folder).ok();
            }
        });
        let mut watcher = watcher.ok()?;
        watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
        Some(watcher)
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

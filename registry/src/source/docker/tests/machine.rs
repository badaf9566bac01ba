//! A machine for the source in tests; nothing of it is the kernel's.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::source::docker::host::Host;
use crate::source::docker::host_files::HostFiles;

/// A machine whose namespaces are files: a cookie for each name, the host's for `default`.
#[derive(Clone, Default)]
pub(super) struct Machine(Arc<Mutex<Inside>>);

#[derive(Default)]
pub(super) struct Inside {
    pub(super) addresses: BTreeMap<PathBuf, Vec<IpAddr>>,
    pub(super) tasks: BTreeMap<String, Vec<Ipv4Addr>>,
    pub(super) watches: Vec<(PathBuf, mpsc::Sender<()>)>,
    pub(super) files: Option<HostFiles>,
}

impl Machine {
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Inside) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }
}

impl Host for Machine {
    fn netns_cookie(&self, path: &Path) -> io::Result<u64> {
        let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
        match name {
            _ if !path.exists() => Err(io::ErrorKind::NotFound.into()),
            "default" => Ok(1),
            name => u64::from_str_radix(name, 16).map_err(io::Error::other),
        }
    }

    fn netns_addresses(&self, path: &Path) -> io::Result<Vec<IpAddr>> {
        Ok(self.with(|it| it.addresses.get(path).cloned()).unwrap_or_default())
    }

    fn host_cookie(&self) -> io::Result<u64> {
        Ok(1)
    }

    fn files(&self) -> HostFiles {
        self.with(|it| it.files.clone()).unwrap_or_default()
    }

    fn watch_neighbours(
        &self,
        path: PathBuf,
        nudge: mpsc::Sender<()>,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.with(|it| it.watches.push((path, nudge)));
        std::future::pending()
    }

    async fn engine_tasks(&self, _: &Path, name: &str) -> Option<Vec<Ipv4Addr>> {
        self.with(|it| it.tasks.get(name).cloned())
    }
}

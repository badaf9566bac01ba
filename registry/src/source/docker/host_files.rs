//! The files of this host that name DNS servers: reads them, and watches them.
//!
//! Invariants
//! - *any way of writing*: a file may be written in place, renamed over, or be a symbolic link that
//!   is switched, through any number of links: the folder of every one of them is watched;
//! - *last good stays*: a file that is missing while it is switched says nothing new.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Component, Path, PathBuf};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::source::docker::command_line::CommandLine;
use crate::source::docker::extra_hosts;
use crate::source::docker::resolv_conf::{self, NameServer};
use crate::source::docker::upstream::{self, HostServers};

/// Where they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostFiles {
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// The engine's own configuration.
    pub daemon: PathBuf,
}

impl Default for HostFiles {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), daemon: "/etc/docker/daemon.json".into() }
    }
}

impl HostFiles {
    /// The same, with the engine's configuration at `path`, where that is known to be elsewhere.
    pub(crate) fn with_config(self, path: Option<&Path>) -> Self {
        Self { daemon: path.map_or(self.daemon, Path::to_owned), ..self }
    }

    /// What they say, and what the engine's command line says; where one cannot be read now, what
    /// `last` has of it. `index` is the number of an interface by its name. Blocks as files do.
    pub(crate) fn read(
        self,
        command: CommandLine,
        last: HostServers,
        index: impl Fn(&str) -> Option<u32>,
    ) -> HostServers {
        let files = self.with_config(command.config_file.as_deref());
        let mut servers = files.read_files(last, index);
        // No engine starts with both.
        if !command.dns.is_empty() {
            servers.daemon = command.dns;
        }
        if !command.gateways.is_empty() {
            servers.gateways = command.gateways;
        }
        servers.config_file = command.config_file;
        servers
    }

    fn read_files(&self, last: HostServers, index: impl Fn(&str) -> Option<u32>) -> HostServers {
        let mut servers = last;
        if let Ok(resolv_conf) = read(&self.resolv_conf) {
            // Nor does the engine ask the servers behind systemd-resolved's stub: that chooses among
            // them by name (moby pull request 41022).
            let conf = resolv_conf::read(&resolv_conf);
            servers.host = conf.servers.iter().filter_map(|it| address(it, &index)).collect();
            servers.trusts_ad = conf.trusts_ad;
        }
        match read(&self.daemon) {
            Ok(json) => {
                if let Some(daemon) = upstream::daemon_servers(&json) {
                    servers.daemon = daemon;
                    let text = String::from_utf8_lossy(&json);
                    servers.gateways = extra_hosts::configured_gateways(&text);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                servers.daemon.clear();
                servers.gateways.clear();
            }
            Err(_) => {}
        }
        servers
    }

    /// Calls `changed` whenever one of them may have changed, as long as the value lives. `None`
    /// where the kernel gives no watch.
    pub(crate) fn watch(
        &self,
        changed: impl Fn() + Send + 'static,
    ) -> notify::Result<RecommendedWatcher> {
        let hops: Vec<PathBuf> =
            [&self.resolv_conf, &self.daemon].into_iter().flat_map(|it| hops(it)).collect();
        // A folder that is not there yet is seen to come by one of its own names.
        let names: BTreeSet<OsString> = hops
            .iter()
            .flat_map(|it| it.components())
            .filter_map(|it| match it {
                Component::Normal(name) => Some(name.to_owned()),
                Component::Prefix(_)
                | Component::RootDir
                | Component::CurDir
                | Component::ParentDir => None,
            })
            .collect();
        let folders: BTreeSet<&Path> =
            hops.iter().filter_map(|it| existing(it.parent()?)).collect();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|it| concerns(&it, &names)) {
                changed();
            }
        })?;
        for folder in folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

/// A server's address as it is dialled; `None`: it is of an interface that is not there.
fn address(server: &NameServer, index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    Some(match (server.address, &server.zone) {
        (IpAddr::V6(address), Some(zone)) => {
            let scope = zone.parse().ok().or_else(|| index(zone))?;
            SocketAddrV6::new(address, upstream::DNS_PORT, 0, scope).into()
        }
        (address, _) => SocketAddr::new(address, upstream::DNS_PORT),
    })
}

/// At most [`LONGEST`] octets of a file; what follows is not of any use.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_end(&mut octets)?;
    Ok(octets)
}

/// `path` and every link's target on the way to the file.
fn hops(path: &Path) -> Vec<PathBuf> {
    let mut hops = vec![path.to_owned()];
    while hops.len() < MOST_LINKS
        && let Some(last) = hops.last()
        && let Ok(target) = std::fs::read_link(last)
    {
        let folder = last.parent().unwrap_or_else(|| Path::new("/"));
        let target = folder.join(target);
        hops.push(target);
    }
    hops
}

/// `folder`, or the nearest one above it that exists.
fn existing(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|it| it.is_dir())
}

fn concerns(event: &Event, names: &BTreeSet<OsString>) -> bool {
    // Reading, as we do ourselves, is no change.
    !matches!(event.kind, EventKind::Access(_))
        && event.paths.iter().filter_map(|it| it.file_name()).any(|it| names.contains(it))
}

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;
/// A thousand times what these files are.
const LONGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests;

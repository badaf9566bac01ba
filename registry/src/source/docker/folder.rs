//! The engine's folder of network namespaces, `EXEC-ROOT/netns`: what its names tell. Pure.
//!
//! `lb_` and the first 9 characters of a network's id: Docker's own load balancer there, from
//! which the network's tasks are reached. `EPOCH-` and the first 10: the overlay itself; the epoch
//! grows when the engine makes it again. Other names are containers' (12 digits) or `default`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::id::NetworkId;

/// The folder as last listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Folder {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The names in it that are not containers'.
    names: BTreeSet<String>,
    /// Those that may be: containers' namespaces, and those of what the engine has just begun.
    sandboxes: BTreeSet<String>,
}

impl Default for Folder {
    fn default() -> Self {
        Self { path: PathBuf::from(DEFAULT), names: BTreeSet::new(), sandboxes: BTreeSet::new() }
    }
}

impl Folder {
    /// A folder with these names in it.
    pub(crate) fn new(path: PathBuf, names: impl IntoIterator<Item = String>) -> Self {
        let (sandboxes, names): (BTreeSet<String>, _) =
            names.into_iter().partition(|it| it.chars().all(|it| it.is_ascii_hexdigit()));
        Self { path, names, sandboxes }
    }

    /// The namespace from which tasks on this overlay network are reached.
    pub(crate) fn load_balancer(&self, network: &NetworkId) -> Option<PathBuf> {
        let name = format!("lb_{}", prefix(network, 9));
        self.names.contains(&name).then(|| self.path.join(name))
    }

    /// The namespaces that may be containers'.
    pub(crate) fn sandboxes(&self) -> impl Iterator<Item = PathBuf> {
        self.sandboxes.iter().map(|it| self.path.join(it))
    }

    /// The engine's namespace for the routing mesh, which is on the ingress network.
    pub(crate) fn ingress(&self) -> Option<PathBuf> {
        self.names.contains(INGRESS).then(|| self.path.join(INGRESS))
    }

    /// The namespace of the overlay itself, the newest when there are several.
    pub(crate) fn overlay(&self, network: &NetworkId) -> Option<PathBuf> {
        let newest = self.overlays().filter(|(_, id)| *id == prefix(network, 10)).max()?;
        Some(self.path.join(format!("{}-{}", newest.0, newest.1)))
    }

    /// Whether this node is on the overlay network.
    pub(crate) fn has_overlay(&self, network: &NetworkId) -> bool {
        self.overlay(network).is_some()
    }

    fn overlays(&self) -> impl Iterator<Item = (u64, &str)> {
        let split = self.names.iter().filter_map(|it| it.split_once('-'));
        split.filter_map(|(epoch, id)| Some((epoch.parse().ok()?, id)))
    }
}

/// The folder that a container's namespace lies in, e.g. `/var/run/docker/netns/0123456789ab`.
pub(crate) fn of_sandbox(key: &Path) -> Option<PathBuf> {
    let folder = key.parent()?;
    (folder.file_name()? == "netns").then(|| folder.to_owned())
}

fn prefix(network: &NetworkId, length: usize) -> &str {
    network.as_str().get(..length).unwrap_or(network.as_str())
}

const INGRESS: &str = "ingress_sbox";
/// Where an engine keeps it unless told otherwise.
const DEFAULT: &str = "/var/run/docker/netns";

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> Folder {
        let names =
            ["1-ksy9diz39q", "10-ksy9diz39q", "9-ksy9diz39q", "lb_ksy9diz39", "22cd26ce294f"];
        Folder::new(PathBuf::from("/x/netns"), names.map(str::to_owned))
    }

    #[test]
    fn an_overlay_is_found_by_its_newest_epoch() {
        let network = NetworkId::from("ksy9diz39q4c7lros15ciafv1");
        assert_eq!(folder().overlay(&network), Some(PathBuf::from("/x/netns/10-ksy9diz39q")));
        assert_eq!(folder().overlay(&NetworkId::from("other")), None);
    }

    #[test]
    fn the_load_balancers_namespace_is_found_by_its_shorter_prefix() {
        let network = NetworkId::from("ksy9diz39q4c7lros15ciafv1");
        assert_eq!(folder().load_balancer(&network), Some(PathBuf::from("/x/netns/lb_ksy9diz39")));
        assert_eq!(folder().load_balancer(&NetworkId::from("ksy9diz3x")), None);
    }

    #[test]
    fn the_exec_root_shows_in_a_containers_namespace() {
        assert_eq!(of_sandbox(Path::new("/x/netns/0123")), Some(PathBuf::from("/x/netns")));
        assert_eq!(of_sandbox(Path::new("/proc/1/ns/net")), None);
    }
}

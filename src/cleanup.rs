//! Removes every trace of portolan from this host's kernel, also those of a portolan that died:
//! needs no plan, tries every network namespace that it can find, lists what failed.
//!
//! A namespace whose DNS a living process holds (a demo, another portolan) is left as it is: the
//! kernel protects that table, and the VIPs beside it are in use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernel::netns::Netns;
use kernel::nft::NftError;

/// What was found and what was not possible.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// Namespaces looked at.
    pub namespaces: usize,
    /// Of which something was removed.
    pub changed: usize,
    /// Left alone, because a running portolan serves them.
    pub in_use: usize,
    /// What could not be removed, one sentence each.
    pub failures: Vec<String>,
}

/// Cleans all network namespaces of this host. In `state_dir` it is written down what sysctls were.
pub fn clean_host(state_dir: &Path) -> Cleaned {
    let mut cleaned = Cleaned::default();
    if let Err(error) = vip::mesh::cleanup_firewall() {
        cleaned.failures.push(error.to_string());
    }
    for (path, netns) in namespaces() {
        cleaned.namespaces += 1;
        let dns = match resolver::cleanup(&netns) {
            Err(NftError::Busy { .. }) => {
                cleaned.in_use += 1;
                continue;
            }
            outcome => outcome.map_err(|error| error.to_string()),
        };
        let vip = vip::cleanup(&netns).map_err(|error| error.to_string());
        let mesh = vip::mesh::cleanup(&netns, state_dir).map_err(|error| error.to_string());
        let mut found = false;
        for outcome in [dns, vip, mesh] {
            match outcome {
                Ok(something) => found |= something,
                Err(error) => cleaned.failures.push(format!("{}: {error}", path.display())),
            }
        }
        cleaned.changed += usize::from(found);
    }
    cleaned
}

/// Every network namespace that has a process or a name, once.
fn namespaces() -> Vec<(PathBuf, Netns)> {
    let processes = entries(Path::new("/proc"))
        .filter(|path| {
            path.file_name().is_some_and(|it| it.as_encoded_bytes().iter().all(u8::is_ascii_digit))
        })
        .map(|path| path.join("ns/net"));
    let named = ["/run/netns", "/run/docker/netns", "/var/run/docker/netns"];
    let named = named.iter().flat_map(|folder| entries(Path::new(folder)));
    // Engines with an exec root of their own mount their namespaces elsewhere.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounts
        .lines()
        .filter(|line| line.contains(" - nsfs "))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    let mut found = BTreeMap::new();
    for path in named.chain(mounted).chain(processes) {
        // Other kinds of namespaces are mounted too, a name may outlive its namespace, and
        // processes end: what is none is skipped.
        if let Ok(netns) = Netns::open(&path)
            && netns.cookie().is_ok()
        {
            found.entry(netns.inode()).or_insert((path, netns));
        }
    }
    found.into_values().collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

//! Sysctls that the mesh sets, and what they were before.
//!
//! Invariants
//! - *written down first*: what a sysctl was is on disk before it changes, so that it can be put
//!   back by whoever comes after a portolan that died;
//! - *ours only*: a value is put back only where it still is what we made it;
//! - *right place*: a namespace is named by its cookie, which no other has until the next boot; the
//!   file names the boot as well.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kernel::netns::Netns;
use kernel::sysctl::{self, SysctlError};
use serde::{Deserialize, Serialize};

/// What was changed, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Sysctls {
    path: PathBuf,
    changed: Mutex<BTreeMap<Place, Change>>,
}

/// Why a sysctl is not as it has to be.
#[derive(Debug, thiserror::Error)]
pub enum SysctlsError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] SysctlError),
    /// What it was could not be written down, so it was left.
    #[error("cannot write down what sysctls were to `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

/// A sysctl of a namespace: the cookie, and the name below `net/`.
type Place = (u64, String);

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Change {
    was: String,
    now: String,
}

/// A sysctl that has to have a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Need {
    /// This value.
    Value(String, &'static str),
    /// The reverse path filter of this interface must not be strict: 2 where it, or the one for
    /// all interfaces, is 1. The kernel takes the greater of the two.
    Loose(String),
}

impl Sysctls {
    /// With what the last portolan of this boot wrote down. A file that cannot be understood is
    /// taken for none: it would be of an unknown boot.
    pub(crate) fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(NAME);
        let changed = Mutex::new(read(&path).unwrap_or_default());
        Self { path, changed }
    }

    /// Makes them so; gives how many were changed.
    pub(crate) fn hold(
        &self,
        netns: &Netns,
        cookie: u64,
        needs: &[Need],
    ) -> Result<usize, SysctlsError> {
        let mut count = 0;
        for need in needs {
            let Some((name, was, now)) = need.missing(netns)? else { continue };
            self.remember((cookie, name.clone()), was, now)?;
            sysctl::write(netns, &name, now)?;
            count += 1;
        }
        Ok(count)
    }

    /// Puts back all that was changed in this namespace; gives how many were.
    pub(crate) fn release(&self, netns: &Netns, cookie: u64) -> Result<usize, SysctlsError> {
        let mut count = 0;
        let mut changed = self.lock();
        let here: Vec<_> = changed.keys().filter(|it| it.0 == cookie).cloned().collect();
        for place in here {
            let Some(change) = changed.get(&place).cloned() else { continue };
            if sysctl::read(netns, &place.1)?.as_ref() == Some(&change.now) {
                sysctl::write(netns, &place.1, &change.was)?;
                count += 1;
            }
            changed.remove(&place);
            if let Err(error) = self.store(&changed) {
                // It is still written down, and the next time it is seen to again.
                changed.insert(place, change);
                return Err(error);
            }
        }
        Ok(count)
    }

    /// Forgets a namespace that is gone.
    pub(crate) fn forget(&self, cookie: u64) -> Result<(), SysctlsError> {
        let mut changed = self.lock();
        let before = changed.len();
        changed.retain(|place, _| place.0 != cookie);
        if changed.len() == before { Ok(()) } else { self.store(&changed) }
    }

    fn remember(&self, place: Place, was: String, now: &str) -> Result<(), SysctlsError> {
        let mut changed = self.lock();
        let now = now.to_owned();
        match changed.get_mut(&place) {
            // Somebody turned it back; what it was before us stays what it was.
            Some(known) if known.now == now => return Ok(()),
            Some(known) => known.now = now,
            None => drop(changed.insert(place, Change { was, now })),
        }
        self.store(&changed)
    }

    fn store(&self, changed: &BTreeMap<Place, Change>) -> Result<(), SysctlsError> {
        let path = &self.path;
        write(path, changed).map_err(|source| SysctlsError::File { path: path.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Change>> {
        // What it guards is whole between any two statements.
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Need {
    /// Its name, what it is, and what it has to be, where that differs. A sysctl that is not there
    /// (an interface that has just gone, an old kernel) is not missed.
    fn missing(
        &self,
        netns: &Netns,
    ) -> Result<Option<(String, String, &'static str)>, SysctlError> {
        match self {
            Self::Value(name, value) => Ok(sysctl::read(netns, name)?
                .filter(|it| it != value)
                .map(|was| (name.clone(), was, *value))),
            Self::Loose(device) => {
                let name = format!("ipv4/conf/{device}/rp_filter");
                let Some(was) = sysctl::read(netns, &name)? else { return Ok(None) };
                let all = sysctl::read(netns, "ipv4/conf/all/rp_filter")?.unwrap_or_default();
                let strict = was != "2" && all != "2" && (was == "1" || all == "1");
                Ok(strict.then_some((name, was, "2")))
            }
        }
    }
}

#[derive(Deserialize, Serialize)]
struct Form {
    version: u32,
    boot: String,
    changed: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    cookie: u64,
    name: String,
    #[serde(flatten)]
    change: Change,
}

fn read(path: &Path) -> Option<BTreeMap<Place, Change>> {
    let mut text = String::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    let form: Form = serde_json::from_str(&text).ok()?;
    let known = form.version == VERSION && form.boot == boot();
    let entries = form.changed.into_iter().map(|it| ((it.cookie, it.name), it.change));
    known.then(|| entries.collect())
}

fn write(path: &Path, changed: &BTreeMap<Place, Change>) -> io::Result<()> {
    let entries = changed.iter().map(|((cookie, name), change)| {
        let (name, change) = (name.clone(), change.clone());
        Entry { cookie: *cookie, name, change }
    });
    let form = Form { version: VERSION, boot: boot(), changed: entries.collect() };
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory)?;
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    serde_json::to_writer_pretty(&mut file, &form)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// After another boot sysctls are what the host makes them, and cookies are given anew.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim_end().to_owned()
}

const NAME: &str = "mesh-sysctls.json";
const VERSION: u32 = 1;
/// Two sysctls for each of a hundred thousand tasks.
const MOST_BYTES: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn loose() -> Vec<Need> {
        vec![Need::Loose("lo".to_owned()), Need::Value("ipv4/ip_forward".to_owned(), "1")]
    }

    #[test]
    fn what_a_dead_portolan_changed_is_put_back_by_the_next() {
        let dir = std::env::temp_dir().join(format!("mesh-sysctls-{}", std::process::id()));
        let netns = Netns::fresh().unwrap();
        let cookie = netns.cookie().unwrap();
        let read = |name: &str| sysctl::read(&netns, name).unwrap().unwrap();
        for (name, value) in [("ipv4/conf/all/rp_filter", "1"), ("ipv4/ip_forward", "0")] {
            sysctl::write(&netns, name, value).unwrap();
        }
        let before = read("ipv4/conf/lo/rp_filter");
        assert_eq!(Sysctls::load(&dir).hold(&netns, cookie, &loose()).unwrap(), 2);
        assert_eq!((&*read("ipv4/conf/lo/rp_filter"), &*read("ipv4/ip_forward")), ("2", "1"));
        let next = Sysctls::load(&dir);
        assert_eq!(next.hold(&netns, cookie, &loose()).unwrap(), 0);
        // Somebody else has an opinion of his own meanwhile: it stays.
        sysctl::write(&netns, "ipv4/ip_forward", "0").unwrap();
        assert_eq!(next.release(&netns, cookie).unwrap(), 1);
        assert_eq!((read("ipv4/conf/lo/rp_filter"), &*read("ipv4/ip_forward")), (before, "0"));
        fs::remove_dir_all(&dir).unwrap();
    }
}

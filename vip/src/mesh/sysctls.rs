//! Sysctls that the mesh sets, and what they were before.
//!
//! Invariants
//! - *written down first*: what a sysctl was is on disk before it changes, so that it can be put
//!   back by whoever comes after a portolan that died;
//! - *ours only*: a value is put back only where it still is what we made it, and forwarding on the
//!   host never: whoever else relies on it by now did not say so;
//! - *right place*: a namespace is named by its cookie, which no other has until the next boot; the
//!   file names the boot as well.

use std::collections::{BTreeMap, BTreeSet};
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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    changed: BTreeMap<Place, Change>,
    /// Namespaces that this process has had to do with.
    met: BTreeSet<u64>,
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
    /// This value, and for good.
    Kept(&'static str, &'static str),
    /// The reverse path filter of this interface must not be strict: 2 where it, or the one for
    /// all interfaces, is 1. The kernel takes the greater of the two.
    Loose(String),
}

impl Sysctls {
    /// With what the last portolan of this boot wrote down. A file that cannot be understood is
    /// taken for none: it would be of an unknown boot.
    pub(crate) fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(NAME);
        let changed = read(&path).unwrap_or_default();
        Self { path, state: Mutex::new(State { changed, ..State::default() }) }
    }

    /// Makes them so; gives how many were changed.
    pub(crate) fn hold(
        &self,
        netns: &Netns,
        cookie: u64,
        needs: &[Need],
    ) -> Result<usize, SysctlsError> {
        let missing = needs.iter().filter_map(|it| it.missing(netns).transpose());
        let missing: Vec<Missing> = missing.collect::<Result<_, _>>()?;
        self.remember(cookie, missing.iter().filter(|it| !it.for_good))?;
        for Missing { name, now, .. } in &missing {
            sysctl::write(netns, name, now)?;
        }
        Ok(missing.len())
    }

    /// Puts back all that was changed in this namespace; gives how many were.
    pub(crate) fn release(&self, netns: &Netns, cookie: u64) -> Result<usize, SysctlsError> {
        let mut count = 0;
        let mut state = self.lock();
        state.met.insert(cookie);
        let here = state.changed.iter().filter(|it| it.0.0 == cookie);
        for ((_, name), change) in here {
            if sysctl::read(netns, name)?.as_ref() == Some(&change.now) {
                sysctl::write(netns, name, &change.was)?;
                count += 1;
            }
        }
        // Until it is no longer written down, it is seen to again.
        self.retain(&mut state, |it| it != cookie)?;
        Ok(count)
    }

    /// Forgets a namespace that is gone.
    pub(crate) fn forget(&self, cookie: u64) -> Result<(), SysctlsError> {
        self.retain(&mut self.lock(), |it| it != cookie)
    }

    /// Forgets the namespaces that a portolan before this one changed, and that this one has not met:
    /// they are gone.
    pub(crate) fn forget_strangers(&self) -> Result<(), SysctlsError> {
        let mut state = self.lock();
        let met = state.met.clone();
        self.retain(&mut state, |it| met.contains(&it))
    }

    fn retain(&self, state: &mut State, keep: impl Fn(u64) -> bool) -> Result<(), SysctlsError> {
        if state.changed.keys().all(|it| keep(it.0)) {
            return Ok(());
        }
        let mut changed = state.changed.clone();
        changed.retain(|place, _| keep(place.0));
        self.store(&changed)?;
        state.changed = changed;
        Ok(())
    }

    fn remember<'a>(
        &self,
        cookie: u64,
        missing: impl Iterator<Item = &'a Missing>,
    ) -> Result<(), SysctlsError> {
        let mut state = self.lock();
        state.met.insert(cookie);
        let mut changed = state.changed.clone();
        for Missing { name, was, now, .. } in missing {
            let (was, now) = (was.clone(), (*now).to_owned());
            // Somebody turned it back; what it was before us stays what it was.
            let change = Change { was, now: now.clone() };
            changed.entry((cookie, name.clone())).or_insert(change).now = now;
        }
        if changed != state.changed {
            self.store(&changed)?;
            state.changed = changed;
        }
        Ok(())
    }

    fn store(&self, changed: &BTreeMap<Place, Change>) -> Result<(), SysctlsError> {
        let path = &self.path;
        write(path, changed).map_err(|source| SysctlsError::File { path: path.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What it guards is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sysctl that is not what it has to be.
struct Missing {
    name: String,
    was: String,
    now: &'static str,
    for_good: bool,
}

impl Need {
    /// What is not as it has to be, if anything is.
    pub(crate) fn in_words(&self, netns: &Netns) -> Result<Option<String>, SysctlError> {
        let missing = self.missing(netns)?;
        let line = |Missing { name, was, now, .. }| format!("{name} is {was}, and {now} is needed");
        Ok(missing.map(line))
    }

    /// What there is to be done. A sysctl that is not there (an interface that has just gone, an old
    /// kernel) is not missed.
    fn missing(&self, netns: &Netns) -> Result<Option<Missing>, SysctlError> {
        let to = |name: &str, value: &'static str, for_good| {
            let was = sysctl::read(netns, name)?.filter(|it| it != value);
            Ok(was.map(|was| Missing { name: name.to_owned(), was, now: value, for_good }))
        };
        match self {
            Self::Value(name, value) => to(name, value, false),
            Self::Kept(name, value) => to(name, value, true),
            Self::Loose(device) => {
                let name = format!("ipv4/conf/{device}/rp_filter");
                let Some(was) = sysctl::read(netns, &name)? else { return Ok(None) };
                let all = sysctl::read(netns, "ipv4/conf/all/rp_filter")?.unwrap_or_default();
                let strict = was != "2" && all != "2" && (was == "1" || all == "1");
                Ok(strict.then_some(Missing { name, was, now: "2", for_good: false }))
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

    #[test]
    fn a_namespace_that_went_while_nobody_looked_is_forgotten_and_one_that_is_there_is_not() {
        let dir = std::env::temp_dir().join(format!("mesh-strangers-{}", std::process::id()));
        let [here, gone] = [(); 2].map(|()| Netns::fresh().unwrap());
        let need = [Need::Value("ipv4/tcp_fwmark_accept".to_owned(), "1")];
        let first = Sysctls::load(&dir);
        for netns in [&here, &gone] {
            assert_eq!(first.hold(netns, netns.cookie().unwrap(), &need).unwrap(), 1);
        }
        let next = Sysctls::load(&dir);
        assert_eq!(next.hold(&here, here.cookie().unwrap(), &need).unwrap(), 0);
        next.forget_strangers().unwrap();
        let last = Sysctls::load(&dir);
        for (netns, put_back) in [(&here, 1), (&gone, 0)] {
            assert_eq!(last.release(netns, netns.cookie().unwrap()).unwrap(), put_back);
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_set_for_good_is_not_put_back() {
        let dir = std::env::temp_dir().join(format!("mesh-good-{}", std::process::id()));
        let netns = Netns::fresh().unwrap();
        let cookie = netns.cookie().unwrap();
        sysctl::write(&netns, "ipv4/ip_forward", "0").unwrap();
        let sysctls = Sysctls::load(&dir);
        let need = [Need::Kept("ipv4/ip_forward", "1")];
        assert_eq!(sysctls.hold(&netns, cookie, &need).unwrap(), 1);
        assert_eq!(sysctls.release(&netns, cookie).unwrap(), 0);
        assert_eq!(&*sysctl::read(&netns, "ipv4/ip_forward").unwrap().unwrap(), "1");
    }
}

//! Sysctls of a network namespace: reading and writing what stands below `/proc/sys/net`.
//!
//! Always true here: the file is opened by a thread inside the namespace, because the kernel shows
//! everybody the sysctls of the namespace they are in. A name is relative, e.g.
//! `ipv4/conf/eth0/rp_filter`, and cannot lead elsewhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use crate::netns::{Netns, NetnsError};

/// Why a sysctl could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The namespace could not be entered.
    #[error("cannot change how a network namespace behaves")]
    Namespace(#[from] NetnsError),
    /// The kernel refused.
    #[error("cannot {verb} the sysctl `net/{name}`")]
    Refused {
        /// `read` or `write`.
        verb: &'static str,
        /// Which.
        name: String,
        /// The refusal.
        source: io::Error,
    },
}

impl SysctlError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace(source) => source.remedy(),
            Self::Refused { source, .. } => match source.raw_os_error()? {
                libc::EACCES | libc::EPERM => Some("run portolan as root or with CAP_NET_ADMIN"),
                libc::EROFS => Some("let portolan write /proc/sys: it is mounted read-only here"),
                _ => None,
            },
        }
    }
}

/// The value, without the line's end; `None`: there is no such sysctl here (an interface has gone,
/// or the kernel lacks the feature).
pub fn read(netns: &Netns, name: &str) -> Result<Option<String>, SysctlError> {
    let refused = |source| SysctlError::Refused { verb: "read", name: name.to_owned(), source };
    let path = path_of(name).map_err(refused)?;
    match netns.run(|| read_here(&path))? {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refused(error)),
    }
}

/// Sets the value; where there is no such sysctl that is an error.
pub fn write(netns: &Netns, name: &str, value: &str) -> Result<(), SysctlError> {
    let refused = |source| SysctlError::Refused { verb: "write", name: name.to_owned(), source };
    let path = path_of(name).map_err(refused)?;
    let write = || File::options().write(true).open(&path)?.write_all(value.as_bytes());
    netns.run(write)?.map_err(refused)
}

fn read_here(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

fn path_of(name: &str) -> io::Result<PathBuf> {
    let relative = Path::new(name);
    let plain = relative.components().all(|it| matches!(it, Component::Normal(_)));
    if plain && !name.is_empty() {
        Ok(Path::new(ROOT).join(relative))
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

const ROOT: &str = "/proc/sys/net";

/// Values of network sysctls are a few numbers.
const LONGEST: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_has_values_of_its_own() {
        let (one, other) = (Netns::fresh().unwrap(), Netns::fresh().unwrap());
        let name = "ipv4/conf/lo/rp_filter";
        write(&one, name, "2").unwrap();
        write(&other, name, "1").unwrap();
        assert_eq!(read(&one, name).unwrap().as_deref(), Some("2"));
        assert_eq!(read(&other, name).unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn what_is_not_there_reads_as_nothing_and_names_lead_nowhere_else() {
        let netns = Netns::fresh().unwrap();
        assert_eq!(read(&netns, "ipv4/conf/eth7/rp_filter").unwrap(), None);
        for name in ["../kernel/hostname", "/etc/passwd", ""] {
            assert!(read(&netns, name).is_err(), "{name}");
        }
    }
}

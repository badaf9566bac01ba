//! Runs a program of this machine inside a sandbox's network namespace, with the sandbox's name
//! look-up: a private mount namespace in which resolv.conf, hosts and nsswitch.conf are the
//! sandbox's and no caching daemon can be asked instead.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use kernel::process::{ProcessError, join_netns, overlay_files};

/// Where a program is to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The sandbox's name.
    pub name: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Its host name.
    pub hostname: String,
    /// Its own addresses, for the hosts file.
    pub addresses: Vec<std::net::IpAddr>,
}

/// What went wrong before the program ran.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The namespaces could not be entered.
    #[error("cannot enter sandbox {sandbox}: {source}; run portolan exec as root")]
    Enter {
        /// The sandbox.
        sandbox: String,
        /// The refusal.
        source: ProcessError,
    },
    /// The program could not be started.
    #[error("cannot run `{program}`: {source}")]
    Run {
        /// Its name.
        program: String,
        /// The refusal.
        source: std::io::Error,
    },
}

/// Moves this (single-threaded) process into the sandbox for good.
pub fn enter(place: &Place) -> Result<(), ProcessError> {
    join_netns(&place.netns)?;
    let files: [(&Path, String); 3] = [
        (Path::new("/etc/resolv.conf"), "nameserver 127.0.0.11\noptions ndots:0\n".to_owned()),
        (Path::new("/etc/hosts"), hosts(place)),
        (Path::new("/etc/nsswitch.conf"), NSSWITCH.to_owned()),
    ];
    // nscd and systemd-resolved would answer with the host's names.
    overlay_files(&files, &[Path::new("/run/nscd"), Path::new("/run/systemd/resolve")])
}

/// Becomes `command` inside the sandbox; returns only if that failed.
pub fn exec(place: &Place, command: &[OsString]) -> ExecError {
    if let Err(source) = enter(place) {
        return ExecError::Enter { sandbox: place.name.clone(), source };
    }
    let Some((program, arguments)) = command.split_first() else {
        let source = std::io::ErrorKind::InvalidInput.into();
        return ExecError::Run { program: String::new(), source };
    };
    #[expect(clippy::disallowed_methods, reason = "running the user's program is what exec is for")]
    let source = std::process::Command::new(program).args(arguments).exec();
    ExecError::Run { program: program.to_string_lossy().into_owned(), source }
}

fn hosts(place: &Place) -> String {
    let local = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    let own = place.addresses.iter().map(|address| format!("{address} {}\n", place.hostname));
    std::iter::once(local).chain(own).collect()
}

const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n\
                        networks: files\nprotocols: files\nservices: files\n";

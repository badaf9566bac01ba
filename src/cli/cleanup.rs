//! `portolan cleanup`
//!
//! Always true here: nothing is removed unless it is certain that the portolan of the admin socket
//! does not run, nor while it ends or another begins; one that answers late or oddly runs.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use super::report::{failure, print, remark};
use super::{USAGE, admin_socket};
use crate::admin::Lock;
use crate::admin::client::{self, ClientError};
use crate::cleanup::clean_host;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Cleanup {}

impl Cleanup {
    #[expect(clippy::unused_self, reason = "every verb runs the same way")]
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let socket = match admin_socket(config) {
            Ok(socket) => socket,
            Err(errors) => return failure(&errors, USAGE),
        };
        if let Some(running) = running(client::get(&socket, "/healthz").map(drop)) {
            return failure(&running, 1);
        }
        if let Err(missing) = kernel::privilege::check() {
            return failure(&missing, 1);
        }
        // Held to the end, so that none begins meanwhile. Without a folder none ever ran here.
        let folder = socket.parent().is_some_and(Path::is_dir);
        let _lock = match folder.then(|| Lock::take(&socket)).transpose() {
            Ok(lock) => lock,
            Err(error) => return failure(&error, 1),
        };
        let state_dir = match Config::load(config) {
            Ok(config) => config.state_dir,
            Err(errors) => return failure(&errors, USAGE),
        };
        let cleaned = clean_host(&state_dir);
        let failed = u8::from(!cleaned.failures.is_empty());
        let text = format!(
            "looked at {} network namespaces, removed portolan's tables and routes from {}\n",
            cleaned.namespaces, cleaned.changed
        );
        let status = print(&text, failed);
        if cleaned.in_use > 0 {
            let in_use = cleaned.in_use;
            remark(&format_args!("left {in_use} alone, which another running portolan serves"));
        }
        for failure in &cleaned.failures {
            remark(failure);
        }
        status
    }
}

/// Why nothing may be removed, by what the portolan behind the admin socket said; `None` where
/// nobody is there.
fn running(answer: Result<(), ClientError>) -> Option<String> {
    match answer {
        Ok(()) => {
            Some("portolan is running and would put everything back; stop it first".to_owned())
        }
        // A name that leads nowhere, or one that was left by a portolan that was killed. A full
        // queue of a living one is refused otherwise.
        Err(ClientError::Absent { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            None
        }
        Err(error) => Some(format!(
            "{error}; nothing was removed, because portolan may be running: stop it first"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn only_where_nobody_listens_is_anything_removed() {
        let folder = std::env::temp_dir().join(format!("portolan-cleanup-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("p.sock");
        let asked = || running(client::get(&socket, "/healthz").map(drop));
        assert_eq!(asked(), None, "there is no socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let odd = std::thread::spawn(move || {
            drop(listener.accept());
            listener
        });
        let said = asked().unwrap();
        assert!(
            said.ends_with("nothing was removed, because portolan may be running: stop it first")
        );
        drop(odd.join().unwrap());
        assert_eq!(asked(), None, "what a killed one left leads nowhere");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_portolan_that_answers_late_is_crowded_or_may_not_be_asked_is_one_that_runs() {
        let socket = || std::path::PathBuf::from("/run/p.sock");
        let source = || io::Error::from(ErrorKind::WouldBlock);
        let answers = [
            Ok(()),
            Err(ClientError::Broken { socket: socket(), reason: "no answer within 10 s".into() }),
            Err(ClientError::Absent { socket: socket(), source: source() }),
            Err(ClientError::Denied { socket: socket(), source: source() }),
            Err(ClientError::Refused("busy".into())),
        ];
        for answer in answers {
            assert!(running(answer).is_some());
        }
    }
}

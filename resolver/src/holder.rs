//! Gives all sandboxes back at once when this process dies, by a process that lives on.
//!
//! The kernel drops the tables of a dead process one socket after another, some 13 ms each: with
//! hundreds of sandboxes the last ones would wait for seconds. So a small process, the *holder*,
//! has duplicates of the sockets that own the tables. When its line to us ends, however we ended,
//! it deletes every table by a transaction of its own, which takes microseconds, and ends too. It
//! has duplicates of the sockets that answer as well, so that until then a query waits in a queue
//! (its client asks again) instead of being refused (its client may give up).
//!
//! Invariants
//! - *on top*: without a holder, all is as the kernel does it: the owner flag, one after another;
//! - *prompt*: what is let go here is let go there, or the holder is ended: it keeps no namespace;
//! - *never waited for*: a holder that does not read is replaced.

mod line;
mod process;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kernel::passing;
use tokio::time::Instant;

use self::line::Line;
pub use self::process::hold;
use crate::takeover::Takeover;

/// How the holder is started: a program that calls [`hold`] at once, usually this one.
#[derive(Clone, Debug)]
pub struct HolderProgram {
    /// What to run.
    pub path: PathBuf,
    /// With what.
    pub arguments: Vec<OsString>,
}

impl HolderProgram {
    /// The running program itself, even where its file was replaced meanwhile.
    pub fn itself(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(OsString::from).collect();
        Self { path: PathBuf::from("/proc/self/exe"), arguments }
    }
}

/// The holder as the process that it watches sees it. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    program: Option<HolderProgram>,
    running: Option<Running>,
    /// When it was started last, and may not be again for [`PAUSE`].
    started: Option<Instant>,
}

/// Dropped from the top: it ends by itself when the line does.
#[derive(Debug)]
struct Running {
    line: Arc<Line>,
    process: Process,
}

/// A child that is ended, and reaped, when this is dropped.
#[derive(Debug)]
struct Process(Child);

/// One sandbox in the holder's hands; dropping it lets it go.
#[derive(Debug)]
pub(crate) struct Hold {
    line: Arc<Line>,
    number: u64,
}

/// Duplicates of the sockets that answer in a sandbox.
#[derive(Debug)]
pub(crate) struct Answering {
    /// For datagrams.
    pub(crate) udp: OwnedFd,
    /// For streams.
    pub(crate) tcp: OwnedFd,
}

/// Between two starts of a holder that does not stay: it costs a process each time.
const PAUSE: Duration = Duration::from_secs(5);
/// How long an end in order may take; it has nothing left to do.
const FAREWELL: Duration = Duration::from_millis(200);

impl Holder {
    /// Starts it; without a program there is none, and nothing is said about it.
    pub(crate) fn start(program: Option<HolderProgram>) -> Self {
        let mut holder = Self { program, running: None, started: None };
        holder.watch();
        holder
    }

    /// Replaces a holder that is no more, or does not read. To be called from time to time.
    pub(crate) fn watch(&mut self) {
        let Some(program) = &self.program else { return };
        if let Some(running) = &mut self.running {
            let Some(why) = running.trouble() else { return };
            tracing::warn!(
                why,
                "the process that gives sandboxes back when this one dies is no more; starting it \
                 anew"
            );
            self.running = None;
        }
        if self.started.is_some_and(|it| it.elapsed() < PAUSE) {
            return;
        }
        self.started = Some(Instant::now());
        match Running::start(program) {
            Ok(running) => self.running = Some(running),
            Err(error) => tracing::warn!(
                %error,
                "cannot start the process that gives sandboxes back when this one dies; the \
                 kernel does it alone, one after another"
            ),
        }
    }

    /// Whether it should run, and does not.
    pub(crate) fn missing(&self) -> bool {
        self.program.is_some() && self.running.is_none()
    }

    /// Whether `hold` is in the hands of the holder that runs now, or there is none.
    pub(crate) fn has(&self, hold: Option<&Hold>) -> bool {
        match (&self.running, hold) {
            (Some(running), Some(hold)) => Arc::ptr_eq(&running.line, &hold.line),
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// Hands a sandbox over. `None`: there is no holder, or it was lost in this moment.
    pub(crate) fn hold(&self, takeover: &Takeover, answering: &Answering) -> Option<Hold> {
        let line = &self.running.as_ref()?.line;
        let number = line.hold(takeover.owner(), answering)?;
        Some(Hold { line: Arc::clone(line), number })
    }
}

impl Running {
    fn start(program: &HolderProgram) -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let (here, there) = passing::pair()?;
        #[expect(clippy::disallowed_methods, reason = "it is portolan itself that is run")]
        let child = Command::new(&program.path)
            .arg0("portolan") // not the path, which says nothing
            .args(&program.arguments)
            .stdin(Stdio::from(OwnedFd::from(there)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/") // so that it keeps no mount
            .process_group(0) // what is sent to the group of a terminal is not for it
            .spawn()?;
        Ok(Self { line: Arc::new(Line::new(here)), process: Process(child) })
    }

    /// Why it is of no use any more.
    fn trouble(&mut self) -> Option<String> {
        match self.process.0.try_wait() {
            Ok(Some(status)) => Some(status.to_string()),
            Ok(None) => self.line.lost(),
            Err(error) => Some(error.to_string()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let begun = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if begun.elapsed() < FAREWELL {
                std::thread::sleep(Duration::from_millis(1));
            } else if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
                // What it held are duplicates: the tables are ours as long as we live.
                tracing::debug!(%error, "cannot end the holder");
                return;
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.line.let_go(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_does_not_read_is_ended_and_missed() {
        let program = HolderProgram { path: "sleep".into(), arguments: vec!["60".into()] };
        let mut holder = Holder::start(Some(program));
        let line = Arc::clone(&holder.running.as_ref().unwrap().line);
        assert!(!holder.missing());
        (0..100_000).take_while(|_| line.lost().is_none()).for_each(|it| line.let_go(it));
        assert_eq!(line.lost().unwrap(), "it does not read what it is told");
        holder.watch();
        assert!(holder.missing(), "and another is not started at once");
        assert!(holder.has(None), "nobody waits for it meanwhile");
    }

    #[test]
    fn a_holder_that_cannot_be_started_is_missed() {
        let program = HolderProgram { path: "/nonexistent".into(), arguments: Vec::new() };
        assert!(Holder::start(Some(program)).missing());
        assert!(!Holder::start(None).missing());
    }
}

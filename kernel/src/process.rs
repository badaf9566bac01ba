//! A process that leaves the namespaces it was born in: `exec` for one program, `demo` for a whole
//! world of its own.
//!
//! Always true here: the caller is single-threaded (namespaces belong to threads, and a fork copies
//! only one), and nothing outside the caller's own process is changed.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getrlimit, setrlimit, waitpid,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// What could not be done, and why.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The kernel, or its configuration, does not let this user have namespaces.
    #[error(
        "this machine does not let you make user namespaces ({source}); allow them with `sysctl \
         kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000` (and, on Ubuntu, \
         `kernel.apparmor_restrict_unprivileged_userns=0`), or run as root"
    )]
    UserNamespace {
        /// The refusal.
        source: io::Error,
    },
    /// A step of moving into a namespace failed.
    #[error("cannot {what}: {source}")]
    Step {
        /// What was attempted.
        what: String,
        /// The refusal.
        source: io::Error,
    },
}

/// Leaves the user, mount, PID and network namespaces for new ones, in which the caller is root;
/// the next child is PID 1 there.
pub fn unshare_world() -> Result<(), ProcessError> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC;
    unshare(flags).map_err(|source| ProcessError::UserNamespace { source })?;
    let write = |path: &str, text: String| {
        std::fs::write(path, text).map_err(step(format!("write {path}")))
    };
    // Without CAP_SETGID outside, a group map is only accepted once setgroups is given up.
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1\n"))
}

/// Raises the soft limit of open descriptors to the hard one, and gives it; `None`: no limit. Every
/// sandbox holds a few, and the usual soft limit of 1,024 is meant for programs that use `select`.
pub fn raise_descriptor_limit() -> Result<Option<u64>, ProcessError> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)
        .map_err(|errno| step("raise the limit of open descriptors".to_owned())(errno.into()))?;
    Ok(limit.maximum)
}

/// Which of the two processes this is after [`fork`].
#[derive(Debug)]
pub enum Fork {
    /// The one that forked.
    Parent(Child),
    /// The new one; it should end when its [`Lifeline`] says so.
    Child(Lifeline),
}

/// The child as its parent sees it. Dropping it, or dying, cuts the child's lifeline.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    _lifeline: OwnedFd,
}

/// The child's end of a pipe that its parent holds open.
#[derive(Debug)]
pub struct Lifeline(OwnedFd);

/// Forks. The caller must be single-threaded.
pub fn fork() -> Result<Fork, ProcessError> {
    let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| step("make a pipe".to_owned())(errno.into()))?;
    #[expect(unsafe_code, reason = "libc has no safe fork")]
    // SAFETY: the caller is single-threaded (module invariant), so that the child's copy of the
    // process is consistent and may go on as any process does.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        None => {
            drop(ours);
            // Belt and braces: the lifeline is read by a thread, which takes a moment to start.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(|errno| step("ask to die with the parent".to_owned())(errno.into()))?;
            Ok(Fork::Child(Lifeline(theirs)))
        }
        Some(pid) if pid.as_raw_pid() > 0 => Ok(Fork::Parent(Child { pid, _lifeline: ours })),
        Some(_) => Err(step("start a process".to_owned())(io::Error::last_os_error())),
    }
}

impl Lifeline {
    /// Waits until the parent is gone.
    pub fn wait(self) {
        let mut pipe = std::fs::File::from(self.0);
        let mut byte = [0];
        // Nobody ever writes: both an end of file and an error mean that the parent is gone.
        while matches!(pipe.read(&mut byte), Ok(1..)) {}
    }
}

impl Child {
    /// Waits for its end; a signal `n` counts as status 128 + n, as in shells. Other children that
    /// end meanwhile are reaped, as the first process of a PID namespace must: it inherits orphans.
    pub fn wait(&self) -> Result<ExitCode, ProcessError> {
        loop {
            match waitpid(None, WaitOptions::empty()) {
                Ok(Some((pid, status)))
                    if pid == self.pid && (status.exited() || status.signaled()) =>
                {
                    return Ok(exit_code(status));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(step("wait for the child".to_owned())(errno.into())),
            }
        }
    }
}

fn exit_code(status: WaitStatus) -> ExitCode {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or(signal).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Makes the mounts of a demo's own PID 1: a `/proc` of its PID namespace and an empty `/run`.
pub fn mount_world() -> Result<(), ProcessError> {
    make_mounts_private()?;
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV, None)
        .map_err(|errno| step("mount /proc".to_owned())(errno.into()))?;
    mount_tmpfs(Path::new("/run"))
}

/// Moves the calling thread into the network namespace at `path` for good.
pub fn join_netns(path: &Path) -> Result<(), ProcessError> {
    let what = || format!("enter the network namespace {}", path.display());
    let file = std::fs::File::open(path).map_err(step(what()))?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
        .map_err(|errno| step(what())(errno.into()))
}

/// Gives the process a mount namespace of its own in which each path reads as the given text.
/// Paths that do not exist are left out; a symbolic link is followed.
pub fn overlay_files(files: &[(&Path, String)], hidden: &[&Path]) -> Result<(), ProcessError> {
    unshare(UnshareFlags::NEWNS).map_err(step("make a mount namespace".to_owned()))?;
    make_mounts_private()?;
    for path in hidden.iter().filter(|path| path.is_dir()) {
        mount_tmpfs(path)?;
    }
    for (path, text) in files {
        if let Ok(target) = path.canonicalize() {
            overlay(&target, text)?;
        }
    }
    Ok(())
}

fn overlay(target: &Path, text: &str) -> Result<(), ProcessError> {
    let what = || format!("replace {}", target.display());
    let source = scratch_file(text).map_err(step(what()))?;
    let bound = mount_bind(&source, target).map_err(|errno| step(what())(errno.into()));
    // The mount keeps the file; its name is not needed any more.
    std::fs::remove_file(&source).map_err(step(what()))?;
    bound
}

fn scratch_file(text: &str) -> io::Result<PathBuf> {
    let name = format!("portolan-{}-{}", std::process::id(), text.len());
    let mut refusal = io::Error::from(io::ErrorKind::NotFound);
    for folder in ["/run", "/tmp", "/dev/shm"] {
        let path = Path::new(folder).join(&name);
        // Create-new, so that nobody's file or link planted in /tmp is written through.
        let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
        match file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes())) {
            Ok(()) => return Ok(path),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

fn make_mounts_private() -> Result<(), ProcessError> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags)
        .map_err(|errno| step("make the mounts private".to_owned())(errno.into()))
}

fn mount_tmpfs(path: &Path) -> Result<(), ProcessError> {
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)
        .map_err(|errno| step(format!("mount a tmpfs on {}", path.display()))(errno.into()))
}

/// Lets this process outlive a Ctrl-C that is meant for the program it runs. A handler, because it
/// is gone after an exec: to ignore the signal would be inherited by that program.
pub fn outlive_interrupts() {
    extern "C" fn nothing(_signal: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    #[expect(unsafe_code, reason = "no safe wrapper sets a handler that does nothing")]
    // SAFETY: the handler touches nothing, so it may run at any moment.
    unsafe {
        libc::signal(libc::SIGINT, handler as libc::sighandler_t);
    }
}

/// Gives the calling thread a name, the process's where it is the first; at most 15 octets.
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    Ok(rustix::thread::set_name(name)?)
}

/// Ignores the signals that ask a program to end, for one that ends by itself when another does.
/// `KILL` still ends it. A program started by this one would ignore them too.
pub fn ignore_endings() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        #[expect(unsafe_code, reason = "no safe wrapper sets a signal's disposition")]
        // SAFETY: to ignore a signal runs no code of ours.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix marks unshare unsafe because of CLONE_FILES")]
    // SAFETY: CLONE_FILES, which would leave other threads' descriptors dangling, is never passed.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

fn step(what: String) -> impl FnOnce(io::Error) -> ProcessError {
    move |source| ProcessError::Step { what, source }
}

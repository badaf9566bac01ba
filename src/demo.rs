//! The main job on a bare machine: the counter application in namespaces of its own, run by the
//! real thing over a world file. No root, no engine, no configuration.
//!
//! Always true: everything lives in user, mount, PID and network namespaces of one process tree,
//! whose first process dies with this one, so that nothing is left however it ends; and with a
//! command to run, nothing is printed on stdout but what the command prints.

pub mod app;
pub mod build;

use std::ffi::OsString;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use kernel::process::{
    Fork, Lifeline, ProcessError, fork, mount_world, outlive_interrupts, unshare_world,
};
use registry::Draft;
use registry::model::Task;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::supervise::{Given, Parts, StartError, Supervisor};

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A port that people outside would use is taken.
    #[error(
        "port {address} is in use ({source}); end what holds it, or run `portolan demo -- \
         COMMAND`, which listens inside only"
    )]
    Busy {
        /// The address.
        address: SocketAddr,
        /// The refusal.
        source: std::io::Error,
    },
    /// The namespaces were refused.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The world could not be built.
    #[error(transparent)]
    Build(#[from] build::BuildError),
    /// Portolan could not start in it.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A process of the demo could not be started.
    #[error("cannot start {what}: {source}")]
    Spawn {
        /// Which.
        what: String,
        /// The refusal.
        source: std::io::Error,
    },
    /// Something was not ready in time.
    #[error("{what} was not ready after {} s", READY_WITHIN.as_secs())]
    NotReady {
        /// What was waited for.
        what: String,
    },
    /// The world described by this binary cannot be read; a defect.
    #[error("the demo's own world is wrong: {0}")]
    World(#[from] crate::config::ConfigErrors),
}

/// Runs the demo: alone, listening outside as well, or around `command`.
pub fn run(command: &[OsString]) -> Result<ExitCode, DemoError> {
    // Made before the namespaces are left, so that they listen where the user is.
    let given = if command.is_empty() { outside()? } else { Given::default() };
    unshare_world()?;
    match fork()? {
        Fork::Parent(child) => {
            drop(given); // the child's listeners are the only ones
            if !command.is_empty() {
                outlive_interrupts();
            }
            Ok(child.wait()?)
        }
        Fork::Child(lifeline) => {
            mount_world()?;
            first_process(lifeline, given, command)
        }
    }
}

/// PID 1 of the demo: reaps what others leave, and ends, which ends all, when its parent is gone
/// or the demo is over.
fn first_process(
    lifeline: Lifeline,
    given: Given,
    command: &[OsString],
) -> Result<ExitCode, DemoError> {
    match fork()? {
        Fork::Parent(child) => {
            drop(given);
            std::thread::spawn(move || {
                lifeline.wait();
                #[expect(clippy::exit, reason = "the first process of a PID namespace ends all")]
                std::process::exit(1);
            });
            Ok(child.wait()?)
        }
        // Without a lifeline of its own: it ends with its PID namespace.
        Fork::Child(_) => {
            let runtime = tokio::runtime::Runtime::new().map_err(spawning("the runtime"))?;
            runtime.block_on(inside(given, command))
        }
    }
}

fn outside() -> Result<Given, DemoError> {
    fn busy(address: SocketAddr) -> impl FnOnce(std::io::Error) -> DemoError {
        move |source| DemoError::Busy { address, source }
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let http = TcpListener::bind(address).map_err(busy(address))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1053));
    let udp = UdpSocket::bind(address).map_err(busy(address))?;
    let tcp = TcpListener::bind(address).map_err(busy(address))?;
    Ok(Given { http: Some(http), dns: Some(resolver::HostSockets { udp, tcp }) })
}

/// The demo's own folder, on the private `/run`.
const RUN: &str = "/run/portolan";
const READY_WITHIN: Duration = Duration::from_secs(20);

async fn inside(given: Given, command: &[OsString]) -> Result<ExitCode, DemoError> {
    let world = registry::source::world::parse(COUNTER, "counter.toml")
        .map_err(crate::config::ConfigErrors::from_world)?;
    build::build(&world)?;
    let file = Path::new(RUN).join("world.toml");
    std::fs::create_dir_all(RUN)
        .and_then(|()| std::fs::write(&file, COUNTER))
        .map_err(spawning("the world file"))?;
    let config = Config::for_world(Path::new(RUN), &file, given.http.is_some());
    let supervisor = Supervisor::start(&config, Parts::all(), given).await?;
    let mut application = start_application(&world)?;
    let ready = async {
        supervisor.ready().await;
        for task in &world.tasks {
            answering(task).await;
        }
    };
    timeout(READY_WITHIN, ready)
        .await
        .map_err(|_elapsed| DemoError::NotReady { what: supervisor.unready() })?;
    let status = if command.is_empty() { alone().await? } else { around(command).await? };
    for child in &mut application {
        child.start_kill().ok();
    }
    supervisor.stop().await;
    Ok(status)
}

fn start_application(world: &Draft) -> Result<Vec<Child>, DemoError> {
    let binary = std::env::current_exe().map_err(spawning("the application"))?;
    let start = |sandbox: &registry::model::Sandbox| {
        let role = sandbox.name.split('.').next().unwrap_or(&sandbox.name);
        #[expect(clippy::disallowed_methods, reason = "the application is this binary again")]
        let child = std::process::Command::new(&binary);
        Command::from(child)
            .arg("demo-app")
            .args(["--name", &sandbox.name, "--netns"])
            .arg(&sandbox.netns)
            .arg(role)
            .kill_on_drop(true)
            .process_group(0) // a Ctrl-C is meant for the command, not for the application
            .spawn()
            .map_err(spawning(&sandbox.name))
    };
    world.sandboxes.iter().map(start).collect()
}

async fn answering(task: &Task) {
    let port = if task.name.starts_with("db") { 6379 } else { 8080 };
    let addresses = task.networks.values().flat_map(|endpoint| &endpoint.addresses);
    for address in addresses {
        while TcpStream::connect((*address, port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn alone() -> Result<ExitCode, DemoError> {
    write!(std::io::stdout().lock(), "{NEXT}").ok();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(spawning("the signal handler"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(spawning("the signal handler"))?;
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    Ok(ExitCode::SUCCESS)
}

async fn around(command: &[OsString]) -> Result<ExitCode, DemoError> {
    let Some((program, arguments)) = command.split_first() else { return Ok(ExitCode::SUCCESS) };
    #[expect(clippy::disallowed_methods, reason = "running the user's command is what this is for")]
    let child = std::process::Command::new(program);
    let mut child = Command::from(child);
    child.args(arguments).env("PORTOLAN_SOCKET", format!("{RUN}/portolan.sock"));
    if let Some(path) = path_with_own_folder() {
        child.env("PATH", path);
    }
    // Heard, so that it does not end this process; the command gets it from the terminal itself.
    let _interrupts = signal(SignalKind::interrupt()).map_err(spawning("the signal handler"))?;
    let status = child.status().await.map_err(spawning(&program.to_string_lossy()))?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    let code = status.code().or(signal).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn path_with_own_folder() -> Option<OsString> {
    let binary = std::env::current_exe().ok()?;
    let own = binary.parent()?.to_path_buf();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(own).chain(std::env::split_paths(&others));
    std::env::join_paths(folders.collect::<Vec<PathBuf>>()).ok()
}

fn spawning(what: &str) -> impl FnOnce(std::io::Error) -> DemoError {
    let what = what.to_owned();
    move |source| DemoError::Spawn { what, source }
}

const COUNTER: &str = include_str!("demo/counter.toml");

const NEXT: &str = "\
The counter application runs: web x2 (VIP), app x5 (DNS round robin), db x1.
Try from another shell:
  curl -H 'Host: counter.test' http://127.0.0.1:8080/      one line: which web, which app, the count
  dig @127.0.0.1 -p 1053 +short web.frontend               web's virtual address
  dig @127.0.0.1 -p 1053 +short tasks.app.frontend         the five tasks of app
Or inside, as a container sees it:
  portolan demo -- portolan exec web.1 dig tasks.app
  portolan demo -- portolan exec app.1 curl -s http://web:8080/
  portolan demo -- sh                                      a shell; then portolan ls services, explain, ...
Ctrl-C ends it and leaves nothing behind.
";

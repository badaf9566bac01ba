//! The configuration: read once, from one place, and handed out in pieces.
//!
//! Invariants
//! - *complete*: every key has a default, so no configuration at all is a good one;
//! - *closed*: a key without meaning is an error, and so is one that this version does not act on;
//! - *all at once*: every mistake is told, with its line and what was meant.
//!
//! The one place that reads the environment. `keys` is the table of all keys.

mod keys;
mod read;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry::document::{self, Document, FileError};
use registry::source::docker;

pub use keys::{Key, keys};

use crate::log::Format;

/// All that can be configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Where the world is read from.
    pub source: Source,
    /// Where VIP leases and owner marks live.
    pub state_dir: PathBuf,
    /// DNS.
    pub resolver: resolver::Config,
    /// VIPs.
    pub vip: vip::Config,
    /// Published ports.
    pub mesh: vip::mesh::Config,
    /// HTTP.
    pub router: router::config::Config,
    /// Where the command line asks.
    pub admin_socket: PathBuf,
    /// Where monitoring asks, on loopback; `None`: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: Format,
    /// What is logged: a `tracing` filter.
    pub log_level: String,
}

/// Where the world is read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A Docker engine.
    Docker(docker::Config),
    /// A world file at this path.
    World(PathBuf),
}

impl Config {
    /// The configuration of this process: the file that the command line names, else the text in
    /// `PORTOLAN_CONFIG`, else `/etc/portolan/portolan.toml`, else the defaults.
    pub fn load(flag: Option<&Path>) -> Result<Self, ConfigErrors> {
        if let Some(path) = flag {
            return Self::file(path);
        }
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        match std::env::var(VARIABLE) {
            Ok(text) if !text.trim().is_empty() => return Self::parse(&text, VARIABLE),
            Ok(_) | Err(std::env::VarError::NotPresent) => {}
            Err(std::env::VarError::NotUnicode(_)) => {
                let remedy = "put the text of a configuration file into it";
                return Err(FileError::unreadable(VARIABLE, "is not UTF-8", remedy).into());
            }
        }
        let path = Path::new(FILE);
        match path.try_exists() {
            Ok(false) => Self::parse("", FILE),
            Ok(true) | Err(_) => Self::file(path),
        }
    }

    /// Reads a configuration. `file` is how its mistakes name it.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigErrors> {
        let document = Document::parse(text, file).map_err(ConfigErrors)?;
        let config = read::read(&document);
        document.finish(config).map_err(ConfigErrors)
    }

    /// For a process that has everything below `run`, its own state and admin socket included, and
    /// takes the world from `world`. One that is not `talkative` logs only what goes wrong.
    pub fn for_world(run: &Path, world: &Path, talkative: bool) -> Self {
        let defaults = Self::default();
        let state_dir = run.join("state");
        Self {
            source: Source::World(world.to_owned()),
            admin_socket: run.join("portolan.sock"),
            vip: vip::Config { state_dir: state_dir.clone(), ..defaults.vip },
            mesh: vip::mesh::Config { state_dir: state_dir.clone(), ..defaults.mesh },
            state_dir,
            router: router::config::Config {
                http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
                ..defaults.router
            },
            log_level: if talkative { "info" } else { "warn" }.to_owned(),
            ..defaults
        }
    }

    fn file(path: &Path) -> Result<Self, ConfigErrors> {
        if path.to_str().is_some_and(|it| it.starts_with("etcd:")) {
            let file = path.display().to_string();
            let text = "a configuration in etcd is not in this version";
            return Err(FileError::unreadable(&file, text, "name a file").into());
        }
        let text = document::read(path).map_err(ConfigErrors)?;
        Self::parse(&text, &path.display().to_string())
    }
}

/// What holds where nothing is configured.
impl Default for Config {
    fn default() -> Self {
        let state_dir = PathBuf::from("/var/lib/portolan");
        Self {
            source: Source::Docker(engine()),
            resolver: resolver::Config {
                ttl: Duration::from_secs(5),
                vip_ttl: Duration::from_secs(30),
                forward_single_label: false,
                host_listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1053))),
                upstream: resolver::UpstreamConfig::default(),
            },
            vip: vip::Config { state_dir: state_dir.clone(), ..vip::Config::default() },
            mesh: vip::mesh::Config {
                enabled: vip::mesh::Enabled::Auto,
                client_ip: vip::mesh::ClientIp::Keep,
                state_dir: state_dir.clone(),
                drain: vip::Config::default().drain,
                outbound: true,
            },
            state_dir,
            router: router::config::Config {
                http: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
                cluster: String::new(),
                threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
                proxy_id: None,
                unknown_host: router::config::UnknownHost::default(),
                trusted: Vec::new(),
                limits: router::config::Limits::default(),
                timeouts: router::config::Timeouts::default(),
            },
            admin_socket: PathBuf::from("/run/portolan/portolan.sock"),
            admin_listen: None,
            log_format: Format::Text,
            log_level: "info".to_owned(),
        }
    }
}

/// The engine of this machine.
fn engine() -> docker::Config {
    docker::Config {
        endpoint: "unix:///var/run/docker.sock".to_owned(),
        poll_interval: Duration::from_secs(30),
    }
}

/// Everything that is wrong with a file, one line each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors(Vec<FileError>);

impl ConfigErrors {
    /// The mistakes of a world file, which stop a start as those of a configuration do.
    pub fn from_world(errors: Vec<FileError>) -> Self {
        Self(errors)
    }

    /// The mistakes, in the order of their lines.
    pub fn iter(&self) -> std::slice::Iter<'_, FileError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a FileError;
    type IntoIter = std::slice::Iter<'a, FileError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<FileError> for ConfigErrors {
    fn from(error: FileError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Where the configuration is looked for unless told otherwise.
const FILE: &str = "/etc/portolan/portolan.toml";
/// The environment variable that may hold the whole text.
const VARIABLE: &str = "PORTOLAN_CONFIG";

#[cfg(test)]
mod tests;

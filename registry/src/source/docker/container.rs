//! A container of this node, as far as it matters here, from `GET /containers/ID/json`. Pure.
//!
//! Fields that engines leave out or send as `null` become empty: every engine since API 1.41
//! leaves out some.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, EndpointSettings, HealthStatusEnum,
    PortBinding,
};

use crate::id::NetworkId;
use crate::model::{Labels, Protocol, PublishMode, PublishedPort};
use crate::source::docker::extra_hosts::ExtraHost;
use crate::source::docker::time;

/// One container.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Container {
    /// Full id.
    pub(crate) id: String,
    /// Name without the leading slash.
    pub(crate) name: String,
    /// What it was called before, since it was first heard of: links made then still mean it.
    pub(crate) former_names: BTreeSet<String>,
    /// Host name inside.
    pub(crate) hostname: String,
    /// Labels, the image's included.
    pub(crate) labels: Labels,
    /// Milliseconds since the epoch.
    pub(crate) created: u64,
    /// Whether a process of it exists (paused ones included).
    pub(crate) running: bool,
    /// Its health check's verdict.
    pub(crate) health: Health,
    /// The signal that stops it, as its image says; empty: SIGTERM.
    pub(crate) stop_signal: String,
    /// Its own network namespace.
    pub(crate) netns: Option<PathBuf>,
    /// The cookie of that namespace, asked of the kernel; the engine does not know it.
    pub(crate) cookie: Option<u64>,
    /// The container (id or name) whose network namespace it shares.
    pub(crate) shares: Option<String>,
    /// `--dns`.
    pub(crate) dns: Vec<IpAddr>,
    /// `--add-host`.
    pub(crate) extra_hosts: Vec<ExtraHost>,
    /// `--link` on the default bridge: the other container and the name that it gets.
    pub(crate) bridge_links: Vec<(String, String)>,
    /// The networks that it is connected to; without an address while it is stopped.
    pub(crate) attachments: Vec<Attached>,
    /// Ports that the engine publishes for it on this host.
    pub(crate) ports: Vec<PublishedPort>,
}

/// A container's place on one network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attached {
    /// The network.
    pub(crate) network: String,
    /// The endpoint's id: gossip calls it the same.
    pub(crate) endpoint: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Aliases and, from API 1.44 on, all DNS names.
    pub(crate) names: BTreeSet<String>,
    /// `--link`: the other container and the name that it gets.
    pub(crate) links: Vec<(String, String)>,
    /// `gw-priority` (API 1.48); 0 where not given.
    pub(crate) gateway_priority: i64,
    /// For how many address families it has a gateway there.
    pub(crate) gateways: u8,
}

/// A health check's verdict.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Health {
    /// It has none.
    #[default]
    None,
    /// No verdict yet.
    Starting,
    /// Healthy.
    Healthy,
    /// Unhealthy.
    Unhealthy,
}

/// The label with which Swarm names the service.
pub(crate) const SWARM_SERVICE: &str = "com.docker.swarm.service.name";
/// How many names of old a container keeps: nobody renames one more often while others link to it.
const FORMER_NAMES: usize = 8;

impl Container {
    /// From what the engine says of it; `None` without an id or a name.
    pub(crate) fn from_inspect(answer: ContainerInspectResponse) -> Option<Self> {
        let id = answer.id?;
        let name = answer.name?.trim_start_matches('/').to_owned();
        let config = answer.config.unwrap_or_default();
        let host = answer.host_config.unwrap_or_default();
        let settings = answer.network_settings.unwrap_or_default();
        let state = answer.state.unwrap_or_default();
        let mut attachments: Vec<Attached> =
            settings.networks.into_iter().flatten().filter_map(|(_, it)| attached(it)).collect();
        attachments.sort_by(|a, b| a.network.cmp(&b.network));
        let mut ports: Vec<PublishedPort> = settings
            .ports
            .into_iter()
            .flatten()
            .flat_map(|(key, it)| published(&key, it))
            .collect();
        ports.sort();
        ports.dedup();
        Some(Self {
            id,
            name,
            former_names: BTreeSet::new(),
            hostname: config.hostname.unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            created: answer.created.as_deref().and_then(time::millis).unwrap_or_default(),
            running: is_running(state.status),
            health: health(state.health.and_then(|it| it.status)),
            stop_signal: config.stop_signal.unwrap_or_default(),
            netns: settings.sandbox_key.filter(|it| !it.is_empty()).map(PathBuf::from),
            cookie: None,
            shares: host
                .network_mode
                .and_then(|it| it.strip_prefix("container:").map(str::to_owned)),
            dns: host.dns.into_iter().flatten().filter_map(|it| it.parse().ok()).collect(),
            extra_hosts: host
                .extra_hosts
                .iter()
                .flatten()
                .filter_map(|it| ExtraHost::parse(it))
                .collect(),
            bridge_links: host.links.iter().flatten().filter_map(|it| bridge_link(it)).collect(),
            attachments,
            ports,
        })
    }

    /// The first 12 digits of its id, which are a name of it.
    pub(crate) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// A label's value.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str).filter(|it| !it.is_empty())
    }

    /// Its Swarm task, when its labels and its name say that Swarm made it. Labels alone may be its
    /// image's; nobody but who makes a container names it, and Swarm does so after the service,
    /// the slot or node, and the task.
    pub(crate) fn swarm_task(&self) -> Option<&str> {
        let (service, task) = (self.label(SWARM_SERVICE)?, self.label("com.docker.swarm.task.id")?);
        let rest = self.name.strip_prefix(service)?.strip_prefix('.')?;
        let place = rest.strip_suffix(task)?.strip_suffix('.')?;
        (!place.is_empty() && !place.contains('.')).then_some(task)
    }

    /// Whether it is there for others: it has a process, or was given its namespace and networks
    /// and is about to have one.
    pub(crate) fn is_present(&self) -> bool {
        let has_address = || self.attachments.iter().any(|it| !it.addresses.is_empty());
        self.running || (self.cookie.is_some() && has_address())
    }

    /// This reading of it, knowing what the last one, `known`, called it. A process that is started
    /// anew has no former names: the engine looks links up again.
    #[must_use]
    pub(crate) fn after(mut self, known: Option<&Self>) -> Self {
        let Some(known) = known.filter(|it| it.cookie.is_some() && it.cookie == self.cookie) else {
            return self;
        };
        self.former_names.clone_from(&known.former_names);
        if known.name != self.name && self.former_names.len() < FORMER_NAMES {
            self.former_names.insert(known.name.clone());
        }
        self.former_names.remove(&self.name);
        self
    }

    /// Its process ended: what goes with the process goes at once, before the engine says so.
    pub(crate) fn has_died(&mut self) {
        self.running = false;
        (self.netns, self.cookie) = (None, None);
        self.ports.clear();
        self.attachments.iter_mut().for_each(|it| it.addresses.clear());
    }
}

fn attached(settings: EndpointSettings) -> Option<Attached> {
    let address = |text: Option<String>| text.and_then(|it| it.parse::<IpAddr>().ok());
    let has = |text: Option<String>| u8::from(text.is_some_and(|it| !it.is_empty()));
    let addresses: Vec<IpAddr> =
        [address(settings.ip_address), address(settings.global_ipv6_address)]
            .into_iter()
            .flatten()
            .collect();
    let network = settings.network_id.filter(|it| !it.is_empty())?;
    let links = settings.links.into_iter().flatten();
    Some(Attached {
        network,
        endpoint: settings.endpoint_id.unwrap_or_default(),
        addresses,
        names: settings
            .aliases
            .into_iter()
            .chain(settings.dns_names)
            .flatten()
            .filter(|it| !it.is_empty())
            .collect(),
        links: links.map(link).collect(),
        gateway_priority: settings.gw_priority.unwrap_or_default(),
        gateways: has(settings.gateway) + has(settings.ipv6_gateway),
    })
}

/// `CONTAINER:ALIAS`, or `CONTAINER` alone for both.
fn link(text: String) -> (String, String) {
    match text.split_once(':') {
        Some((container, alias)) => (container.to_owned(), alias.to_owned()),
        None => (text.clone(), text),
    }
}

/// `/CONTAINER:/SELF/ALIAS`.
fn bridge_link(text: &str) -> Option<(String, String)> {
    let (container, alias) = text.split_once(':')?;
    let (_, alias) = alias.rsplit_once('/')?;
    Some((container.trim_start_matches('/').to_owned(), alias.to_owned()))
}

/// The bindings of `PORT/PROTOCOL`; SCTP is none of ours.
fn published(key: &str, bindings: Option<Vec<PortBinding>>) -> Vec<PublishedPort> {
    let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Vec::new(),
    };
    let Ok(target) = port.parse() else { return Vec::new() };
    let hosts = bindings.into_iter().flatten().filter_map(|it| it.host_port?.parse().ok());
    hosts
        .map(|published| PublishedPort {
            published,
            target,
            protocol,
            mode: PublishMode::Host,
            name: None,
        })
        .collect()
}

fn is_running(status: Option<ContainerStateStatusEnum>) -> bool {
    use ContainerStateStatusEnum as Status;
    match status {
        Some(Status::RUNNING | Status::PAUSED | Status::STOPPING) => true,
        Some(
            Status::EMPTY
            | Status::CREATED
            | Status::RESTARTING
            | Status::REMOVING
            | Status::EXITED
            | Status::DEAD,
        )
        | None => false,
    }
}

fn health(status: Option<HealthStatusEnum>) -> Health {
    match status {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
        Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) | None => Health::None,
    }
}

impl Attached {
    /// The network's id.
    pub(crate) fn network_id(&self) -> NetworkId {
        NetworkId::from(self.network.as_str())
    }
}

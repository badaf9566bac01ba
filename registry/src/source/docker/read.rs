//! Which requests are made of the engine, each bounded in time.
//!
//! bollard does the talking; its types go no further than this file and the pure readers beside
//! it. The one exception is `/tasks` ([`raw`]), which bollard models without addresses.
//!
//! [`raw`]: crate::source::docker::raw

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum, EventMessage, NetworkInspect};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, InspectNetworkOptions,
    InspectNetworkOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptions,
    ListNodesOptions, ListServicesOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt, stream, try_join};
use tokio::time::timeout;

use crate::id::NetworkId;
use crate::source::docker::container::Container;
use crate::source::docker::convert;
use crate::source::docker::engine::{Engine, EngineNetwork};
use crate::source::docker::error::EngineError;
use crate::source::docker::events::{ACTIONS, Event, KINDS};
use crate::source::docker::gossip::{self, Gossip};
use crate::source::docker::host::Host;
use crate::source::docker::raw;
use crate::source::docker::swarm::{Swarm, SwarmNode, SwarmService, SwarmTask};
use crate::source::docker::time;

/// A request about one thing.
const SINGLE: Duration = Duration::from_secs(5);
/// A container's inspection among many: the engine answers only after a start that is under way,
/// and one slow start is no reason to wait with all others.
const PATIENCE: Duration = Duration::from_secs(2);
/// A container's inspection for its own sake.
const START: Duration = Duration::from_secs(60);
/// A request about all things of a kind.
const BULK: Duration = Duration::from_secs(20);
/// How many containers are inspected at a time.
const INSPECTIONS: usize = 8;
/// How many stopped containers are remembered for their services; a host with more of them is
/// not tidied up, and theirs are services that have not run for long.
const MAX_STOPPED: usize = 1000;
/// How many tasks are asked for by id in one request: 30 bytes each, well within a request line.
const IDS: usize = 100;
/// The oldest API, major and minor, that has all that is read here (Docker 20.10).
const OLDEST_API: (u32, u32) = (1, 41);
const INSPECT: &str = "GET /containers/ID/json";

/// One engine.
#[derive(Debug)]
pub(crate) struct Client {
    docker: Docker,
    endpoint: String,
}

/// A container's place on a network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// The endpoint's id.
    pub(crate) endpoint: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// All containers, and those that could not be understood.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    /// Those that were inspected, by id.
    pub(crate) inspected: BTreeMap<String, Container>,
    /// Those that exist and were not inspected: stopped, and known already or of no service.
    pub(crate) stopped: BTreeSet<String>,
    /// Those that did not answer in time: to be asked again by themselves.
    pub(crate) slow: BTreeSet<String>,
    /// Subject and what is wrong.
    pub(crate) unreadable: BTreeMap<String, String>,
}

impl Client {
    /// The socket on which the engine of this machine is asked; `None`: it is asked elsewhere.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.endpoint.strip_prefix("unix://").map(PathBuf::from)
    }

    /// Connects to the engine and checks that its API is not too old.
    pub(crate) async fn connect(endpoint: &str) -> Result<Self, EngineError> {
        let unknown = || EngineError::Endpoint { endpoint: endpoint.to_owned() };
        let (scheme, _) = endpoint.split_once("://").ok_or_else(unknown)?;
        let seconds = BULK.as_secs();
        let docker = match scheme {
            "unix" => Docker::connect_with_unix(endpoint, seconds, API_DEFAULT_VERSION),
            "tcp" | "http" => Docker::connect_with_http(endpoint, seconds, API_DEFAULT_VERSION),
            _ => return Err(unknown()),
        };
        let docker = docker.map_err(|it| failed(endpoint, "connect", it))?;
        let client = Self { docker, endpoint: endpoint.to_owned() };
        let version = client.ask("GET /version", SINGLE, client.docker.version()).await?;
        let found = version.api_version.unwrap_or_default();
        let number = |it: Option<&str>| it.and_then(|it| it.parse().ok()).unwrap_or(0_u32);
        let mut parts = found.split('.');
        if (number(parts.next()), number(parts.next())) < OLDEST_API {
            return Err(EngineError::TooOld { found });
        }
        Ok(client)
    }

    /// What the engine says of itself, and its clock, as [`Client::events`] wants it.
    pub(crate) async fn info(&self) -> Result<(Engine, Option<String>), EngineError> {
        let info = self.ask("GET /info", SINGLE, self.docker.info()).await?;
        let clock = info.system_time.as_deref().and_then(time::millis);
        let since = clock.map(|it| format!("{}.{:03}000000", it / 1000, it % 1000));
        Ok((Engine::from_info(info), since))
    }

    /// The events from `since` on, for as long as the engine sends them.
    pub(crate) fn events(
        &self,
        since: Option<&str>,
    ) -> impl Stream<Item = Result<Event, EngineError>> + Send + use<> {
        let list = |values: &[&str]| values.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let filters = [("type", list(&KINDS)), ("event", list(&ACTIONS))].into_iter().collect();
        let mut options = EventsOptionsBuilder::default().filters(&filters);
        if let Some(since) = since {
            options = options.since(since);
        }
        let endpoint = self.endpoint.clone();
        let events = self.docker.events(Some(options.build()));
        events.map(move |it| it.map(event).map_err(|it| failed(&endpoint, "GET /events", it)))
    }

    /// All networks of the engine (a worker lists only those that it is on).
    pub(crate) async fn networks(&self) -> Result<Vec<EngineNetwork>, EngineError> {
        let answer = self.docker.list_networks(None::<ListNetworksOptions>);
        let networks = self.ask("GET /networks", BULK, answer).await?;
        Ok(networks.into_iter().filter_map(EngineNetwork::from_list).collect())
    }

    /// All containers that are present, and stopped ones of services, except those stopped ones
    /// that are `known` already.
    pub(crate) async fn containers<H: Host>(
        &self,
        host: &Arc<H>,
        known: &BTreeSet<String>,
    ) -> Result<Containers, EngineError> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let answer = self.docker.list_containers(Some(options));
        let mut listed = self.ask("GET /containers/json", BULK, answer).await?;
        listed.sort_by_key(|it| std::cmp::Reverse(it.created));
        let (present, stopped): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_present);
        let wanted = |it: &ContainerSummary| {
            has_service(it) && it.id.as_ref().is_none_or(|id| !known.contains(id))
        };
        let (wanted, stopped): (Vec<_>, Vec<_>) = stopped.into_iter().partition(wanted);
        let wanted = wanted.into_iter().take(MAX_STOPPED);
        let ids: Vec<String> = present.into_iter().chain(wanted).filter_map(|it| it.id).collect();
        let inspections = stream::iter(ids).map(|id| async move {
            let inspected = timeout(PATIENCE, self.container(&id, host)).await;
            (inspected.unwrap_or_else(|_| Err(slow(INSPECT, PATIENCE))), id)
        });
        let inspected = inspections.buffer_unordered(INSPECTIONS).collect::<Vec<_>>().await;
        let stopped = stopped.into_iter().filter_map(|it| it.id).collect();
        let mut all = Containers { stopped, ..Containers::default() };
        for (answer, id) in inspected {
            match answer {
                Ok(Some(container)) => drop(all.inspected.insert(id, container)),
                Ok(None) => {}
                Err(EngineError::Slow { .. }) => drop(all.slow.insert(id)),
                Err(error) if error.is_unreadable() => {
                    all.unreadable.insert(format!("container {id}"), error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// One container with its namespace's cookie; `None`: it does not exist.
    pub(crate) async fn container<H: Host>(
        &self,
        id: &str,
        host: &Arc<H>,
    ) -> Result<Option<Container>, EngineError> {
        let answer = self.docker.inspect_container(id, None::<InspectContainerOptions>);
        let answer = match self.ask(INSPECT, START, answer).await {
            Err(error) if error.is_not_found() => return Ok(None),
            answer => answer?,
        };
        let Some(mut container) = Container::from_inspect(answer) else { return Ok(None) };
        if let Some(netns) = container.netns.clone() {
            let host = Arc::clone(host);
            let asked = tokio::task::spawn_blocking(move || host.netns_cookie(&netns)).await;
            // An error is normal: the key of a stopped container names no namespace any more.
            container.cookie = asked.ok().and_then(Result::ok);
        }
        if !container.is_present() {
            container.has_died();
        }
        Ok(Some(container))
    }

    /// Where a network has put a container: the engine tells this even while the container is
    /// starting. `None`: nowhere (any more).
    pub(crate) async fn place(
        &self,
        network: &NetworkId,
        container: &str,
    ) -> Result<Option<Place>, EngineError> {
        let answer = self.docker.inspect_network(network.as_str(), None::<InspectNetworkOptions>);
        let answer = match self.ask("GET /networks/ID", SINGLE, answer).await {
            Err(error) if error.is_not_found() => return Ok(None),
            answer => answer?,
        };
        let place = answer.containers.unwrap_or_default().remove(container);
        Ok(place.map(|it| {
            let addresses = [it.ipv4_address, it.ipv6_address].map(bare_address);
            Place {
                endpoint: it.endpoint_id.unwrap_or_default(),
                addresses: addresses.into_iter().flatten().collect(),
            }
        }))
    }

    /// Gossip about one network, and the names of services that could not be understood; `None`:
    /// the network does not exist.
    pub(crate) async fn gossip(
        &self,
        network: &NetworkId,
    ) -> Result<Option<(Gossip, Vec<String>)>, EngineError> {
        let options = InspectNetworkOptionsBuilder::default().verbose(true).build();
        let answer = self.docker.inspect_network(network.as_str(), Some(options));
        match self.ask("GET /networks/ID?verbose=true", SINGLE, answer).await {
            Ok(answer) => Ok(Some(gossip_of(answer))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a manager knows. `known` are the tasks that were alive at the last reading: those that
    /// are not wanted any more are asked for by id, so that the history of dead tasks, which may
    /// be several times as long, is never read.
    pub(crate) async fn swarm(&self, known: BTreeSet<String>) -> Result<Swarm, EngineError> {
        let services = self.docker.list_services(None::<ListServicesOptions>);
        let nodes = self.docker.list_nodes(None::<ListNodesOptions>);
        let wanted = ["accepted", "ready", "running", "complete"].map(str::to_owned);
        let (services, nodes, mut tasks) = try_join!(
            self.ask("GET /services", BULK, services),
            self.ask("GET /nodes", BULK, nodes),
            self.tasks("desired-state", &wanted),
        )?;
        let listed: BTreeSet<&str> = tasks.iter().map(|it| it.id.as_str()).collect();
        let missing: Vec<String> =
            known.into_iter().filter(|it| !listed.contains(it.as_str())).collect();
        for ids in missing.chunks(IDS) {
            tasks.extend(self.tasks("id", ids).await?);
        }
        let alive = tasks.into_iter().filter(SwarmTask::is_alive);
        Ok(Swarm {
            services: services.into_iter().filter_map(SwarmService::from_list).collect(),
            tasks: alive.map(|it| (it.id.clone(), it)).collect(),
            nodes: nodes.into_iter().filter_map(SwarmNode::from_list).collect(),
        })
    }

    async fn tasks(&self, filter: &str, values: &[String]) -> Result<Vec<SwarmTask>, EngineError> {
        const REQUEST: &str = "GET /tasks";
        let answer = raw::get_list(&self.endpoint, REQUEST, "/tasks", filter, values);
        timeout(BULK, answer).await.unwrap_or_else(|_| Err(slow(REQUEST, BULK)))
    }

    async fn ask<T>(
        &self,
        request: &'static str,
        limit: Duration,
        answer: impl Future<Output = Result<T, BollardError>>,
    ) -> Result<T, EngineError> {
        match timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|it| failed(&self.endpoint, request, it)),
            Err(_) => Err(slow(request, limit)),
        }
    }
}

/// What an inspection of an overlay network tells, and the services that could not be understood.
pub(crate) fn gossip_of(answer: NetworkInspect) -> (Gossip, Vec<String>) {
    let (mut gossip, unreadable) = gossip::parse(answer.services.unwrap_or_default());
    let own = answer.containers.and_then(|mut it| it.remove("ingress-sbox"));
    gossip.own_ingress = own.and_then(|it| bare_address(it.ipv4_address));
    (gossip, unreadable)
}

/// The address of `ADDRESS/PREFIX`.
fn bare_address(text: Option<String>) -> Option<IpAddr> {
    text?.split('/').next()?.parse().ok()
}

fn slow(request: &'static str, limit: Duration) -> EngineError {
    EngineError::Slow { request, seconds: limit.as_secs() }
}

fn failed(endpoint: &str, request: &'static str, error: BollardError) -> EngineError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are the transport's")]
    match error {
        BollardError::DockerResponseServerError { status_code, message } => {
            EngineError::Refused { request, status: status_code, message }
        }
        BollardError::RequestTimeoutError => slow(request, BULK),
        BollardError::SocketNotFoundError(_) => {
            EngineError::Absent { endpoint: endpoint.to_owned() }
        }
        error @ (BollardError::JsonDataError { .. } | BollardError::JsonSerdeError { .. }) => {
            EngineError::Unreadable { request, source: Box::new(error) }
        }
        error => EngineError::from_transport(endpoint, request, Box::new(error)),
    }
}

fn event(message: EventMessage) -> Event {
    let actor = message.actor.unwrap_or_default();
    Event {
        kind: message.typ.map(|it| it.to_string()).unwrap_or_default(),
        action: message.action.unwrap_or_default(),
        subject: actor.id.unwrap_or_default(),
        attributes: actor.attributes.into_iter().flatten().collect(),
    }
}

/// Whether a listed container runs, or has an address and so is about to.
fn is_present(listed: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum as State;
    let runs = matches!(listed.state, Some(State::RUNNING | State::PAUSED | State::RESTARTING));
    let networks = listed.network_settings.as_ref().and_then(|it| it.networks.as_ref());
    let has_address = |it: &Option<String>| it.as_deref().is_some_and(|it| !it.is_empty());
    runs || networks.is_some_and(|it| {
        it.values().any(|it| has_address(&it.ip_address) || has_address(&it.global_ipv6_address))
    })
}

fn has_service(listed: &ContainerSummary) -> bool {
    let container = Container {
        labels: listed.labels.iter().flatten().map(|(key, it)| (key.clone(), it.clone())).collect(),
        ..Container::default()
    };
    convert::belongs(&container)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::docker::events::{Effect, effects};

    /// The life of one container as engine 20.10 told it: run, connected to a second network,
    /// restarted, renamed, sent a SIGHUP, disconnected from the second network, stopped, removed.
    #[test]
    fn the_events_of_a_containers_life_say_where_to_look() {
        let recorded = include_str!("../../../../fixtures/engine/20.10-events.jsonl");
        let id = "24cdf4647187fdcd0e258383df22dcc25068d278266d1ac2d6b4b2a41799283e";
        let events = recorded.lines().map(|it| event(serde_json::from_str(it).unwrap()));
        let told: Vec<String> = events
            .flat_map(|it| effects(&it))
            .filter_map(|it| match it {
                Effect::Container(it) if it == id => Some("inspect".to_owned()),
                Effect::Connected(network, it) if it == id => Some(format!("on {network:.4}")),
                Effect::Signalled(it, signal) if it == id => Some(format!("signal {signal}")),
                Effect::Died(it) if it == id => Some("died".to_owned()),
                Effect::Destroyed(it) if it == id => Some("destroyed".to_owned()),
                Effect::Container(_)
                | Effect::Connected(..)
                | Effect::Signalled(..)
                | Effect::Died(_)
                | Effect::Destroyed(_)
                | Effect::Networks
                | Effect::Endpoints(_)
                | Effect::Swarm
                | Effect::Info => None,
            })
            .collect();
        let restart =
            "signal 15, signal 9, died, inspect, inspect, inspect, on ed31, inspect, on f470";
        let expected = format!(
            "inspect, inspect, on ed31, inspect, inspect, on f470, {restart}, inspect, inspect, \
             inspect, signal 1, inspect, inspect, signal 15, signal 9, died, inspect, destroyed"
        );
        assert_eq!(told.join(", "), expected);
    }
}

//! What a manager says: services, tasks and nodes, as far as it matters here. Pure.
//!
//! Tasks are read with our own structs: bollard's has no `NetworksAttachments`, which is where
//! their addresses stand, and a large Swarm has many of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bollard::models::{
    EndpointPortConfigProtocolEnum, EndpointPortConfigPublishModeEnum, EndpointSpecModeEnum,
    NetworkAttachmentConfig, ServiceUpdateStatusStateEnum,
};
use ipnet::IpNet;
use serde::Deserialize;

use crate::id::{NodeId, ServiceId};
use crate::model::{Labels, Mode, Protocol, PublishMode, PublishedPort};
use crate::source::docker::time;

/// The answers of `/services`, `/tasks` and `/nodes`, read one after the other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Swarm {
    /// Services, by id.
    pub(crate) services: BTreeMap<ServiceId, SwarmService>,
    /// Tasks that run, will run, or ran when they were last heard of, by id.
    pub(crate) tasks: BTreeMap<String, SwarmTask>,
    /// Nodes, by id.
    pub(crate) nodes: BTreeMap<NodeId, SwarmNode>,
}

/// A service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SwarmService {
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: Labels,
    /// Those that its containers get.
    pub(crate) container_labels: Labels,
    /// Milliseconds since the epoch.
    pub(crate) created: u64,
    /// dnsrr when its endpoint says so.
    pub(crate) dnsrr: bool,
    /// Its VIP on each network, by network id.
    pub(crate) vips: BTreeMap<String, IpAddr>,
    /// Its aliases on each network that its tasks join, by network id (or name, as specified).
    pub(crate) networks: BTreeMap<String, BTreeSet<String>>,
    /// Its ports.
    pub(crate) ports: Vec<PublishedPort>,
    /// How many tasks it wants (replicated services).
    pub(crate) replicas: Option<u64>,
    /// Its tasks are being replaced, one after another; no event tells when the next one's turn is.
    pub(crate) is_updating: bool,
}

/// A task.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct SwarmTask {
    /// Its id.
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// Its service.
    #[serde(rename = "ServiceID")]
    pub(crate) service: String,
    /// Its place in the service; 0 in global ones.
    pub(crate) slot: u64,
    /// Its node, once it has one.
    #[serde(rename = "NodeID")]
    pub(crate) node: String,
    /// What it is.
    pub(crate) status: TaskStatus,
    /// What it is to be.
    pub(crate) desired_state: String,
    /// Where it is on each network; addresses are reserved before it runs.
    #[serde(deserialize_with = "or_default")]
    pub(crate) networks_attachments: Vec<TaskAttachment>,
    /// What it was made from.
    pub(crate) spec: TaskSpec,
}

/// What a task is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskStatus {
    /// `running`, `starting`, ...
    pub(crate) state: String,
    /// Its container, once there is one.
    #[serde(deserialize_with = "or_default")]
    pub(crate) container_status: ContainerStatus,
}

/// A task's container.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct ContainerStatus {
    /// Its id.
    #[serde(rename = "ContainerID")]
    pub(crate) id: String,
}

/// A task's place on one network.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskAttachment {
    /// The network.
    pub(crate) network: TaskNetwork,
    /// Its addresses, with prefix lengths.
    #[serde(deserialize_with = "or_default")]
    pub(crate) addresses: Vec<String>,
}

/// The network of a task's attachment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct TaskNetwork {
    /// Its id.
    #[serde(rename = "ID")]
    pub(crate) id: String,
}

/// What a task was made from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskSpec {
    /// The container's part.
    #[serde(deserialize_with = "or_default")]
    pub(crate) container_spec: ContainerSpec,
}

/// The container's part of what a task was made from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ContainerSpec {
    /// Its host name; may be a template.
    pub(crate) hostname: String,
}

/// A node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SwarmNode {
    /// Its host name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: Option<IpAddr>,
    /// `ready`, `down`, ...
    pub(crate) state: String,
    /// Whether it is a manager, whose engine tells everything.
    pub(crate) manager: bool,
}

impl SwarmTask {
    /// Whether a process of it may exist or come to exist.
    pub(crate) fn is_alive(&self) -> bool {
        !["complete", "shutdown", "failed", "rejected", "remove", "orphaned"]
            .contains(&self.status.state.as_str())
    }

    /// Whether it is wanted: `false` while it is being stopped.
    pub(crate) fn is_wanted(&self) -> bool {
        !["shutdown", "remove"].contains(&self.desired_state.as_str())
    }

    /// Whether it is on its way somewhere, so that it is worth looking again soon.
    pub(crate) fn is_moving(&self) -> bool {
        self.is_alive() && (!self.is_wanted() || self.status.state != "running")
    }

    /// Its addresses on one of its networks.
    pub(crate) fn addresses(attachment: &TaskAttachment) -> Vec<IpAddr> {
        attachment.addresses.iter().filter_map(|it| address(it)).collect()
    }
}

impl Swarm {
    /// Keeps the running tasks of `last` that are not in this reading although gossip still lists
    /// them: a service scaled down during an update loses its tasks in the managers' store at once,
    /// but they run on for the 2 s and the grace period of every stop.
    #[must_use]
    pub(crate) fn keeping(mut self, last: &Self, gossiped: &BTreeSet<&str>) -> Self {
        for (id, task) in &last.tasks {
            let runs_on = task.status.state == "running" && gossiped.contains(id.as_str());
            if runs_on && !self.tasks.contains_key(id) {
                let stopping = SwarmTask { desired_state: "remove".to_owned(), ..task.clone() };
                self.tasks.insert(id.clone(), stopping);
            }
        }
        self
    }

    /// Whether a service is being updated: between two of its tasks nothing moves, and then the next
    /// one is taken out two seconds before it is stopped.
    pub(crate) fn is_updating(&self) -> bool {
        self.services.values().any(|it| it.is_updating)
    }

    /// Whether a task or a service is on its way somewhere.
    pub(crate) fn is_moving(&self) -> bool {
        let mut running: BTreeMap<&str, u64> = BTreeMap::new();
        for task in self.tasks.values() {
            if task.is_moving() {
                return true;
            }
            *running.entry(&task.service).or_default() += u64::from(task.is_alive());
        }
        self.services.iter().any(|(id, service)| {
            let running = running.get(id.as_str()).copied().unwrap_or_default();
            service.replicas.is_some_and(|wanted| wanted != running)
        })
    }
}

/// Also while it is rolled back. What is paused goes on only after somebody's command.
fn is_updating(state: ServiceUpdateStatusStateEnum) -> bool {
    use ServiceUpdateStatusStateEnum::{ROLLBACK_STARTED, UPDATING};
    matches!(state, UPDATING | ROLLBACK_STARTED)
}

impl SwarmService {
    /// From an entry of `/services`; `None` without an id or a name.
    pub(crate) fn from_list(answer: bollard::models::Service) -> Option<(ServiceId, Self)> {
        let spec = answer.spec?;
        let endpoint = answer.endpoint.unwrap_or_default();
        let template = spec.task_template.unwrap_or_default();
        let on_containers = template.container_spec.and_then(|it| it.labels);
        let mode = [endpoint.spec, spec.endpoint_spec].into_iter().flatten().find_map(|it| it.mode);
        let vips = endpoint.virtual_ips.into_iter().flatten();
        let targets = template.networks.into_iter().chain(spec.networks).flatten();
        let replicated = spec.mode.and_then(|it| it.replicated);
        let mut ports: Vec<PublishedPort> =
            endpoint.ports.into_iter().flatten().filter_map(port).collect();
        ports.sort();
        let service = Self {
            name: spec.name?,
            labels: spec.labels.unwrap_or_default().into_iter().collect(),
            container_labels: on_containers.into_iter().flatten().collect(),
            created: answer.created_at.as_deref().and_then(time::millis).unwrap_or_default(),
            dnsrr: mode == Some(EndpointSpecModeEnum::DNSRR),
            vips: vips.filter_map(|it| Some((it.network_id?, address(&it.addr?)?))).collect(),
            networks: targets.filter_map(target).collect(),
            ports,
            replicas: replicated.and_then(|it| it.replicas?.try_into().ok()),
            is_updating: answer.update_status.and_then(|it| it.state).is_some_and(is_updating),
        };
        Some((ServiceId::from(answer.id?), service))
    }

    /// How its name is answered.
    pub(crate) fn mode(&self) -> Mode {
        if self.dnsrr { Mode::DnsRr } else { Mode::Vip }
    }
}

impl SwarmNode {
    /// From an entry of `/nodes`; `None` without an id.
    pub(crate) fn from_list(answer: bollard::models::Node) -> Option<(NodeId, Self)> {
        let status = answer.status.unwrap_or_default();
        let is_manager = answer.manager_status.is_some();
        let manager = answer.manager_status.and_then(|it| it.addr);
        let address = |text: String| text.parse().ok().filter(|it: &IpAddr| !it.is_unspecified());
        let of_manager = || manager?.rsplit_once(':').and_then(|(host, _)| host.parse().ok());
        let node = Self {
            name: answer.description.and_then(|it| it.hostname).unwrap_or_default(),
            address: status.addr.and_then(address).or_else(of_manager),
            state: status.state.map(|it| it.to_string()).unwrap_or_default(),
            manager: is_manager,
        };
        Some((NodeId::from(answer.id?), node))
    }
}

fn target(config: NetworkAttachmentConfig) -> Option<(String, BTreeSet<String>)> {
    Some((config.target?, config.aliases.into_iter().flatten().collect()))
}

fn port(config: bollard::models::EndpointPortConfig) -> Option<PublishedPort> {
    use EndpointPortConfigProtocolEnum as Wire;
    Some(PublishedPort {
        published: config.published_port.and_then(|it| it.try_into().ok()).unwrap_or_default(),
        target: config.target_port?.try_into().ok()?,
        protocol: match config.protocol {
            Some(Wire::TCP | Wire::EMPTY) | None => Protocol::Tcp,
            Some(Wire::UDP) => Protocol::Udp,
            Some(Wire::SCTP) => return None,
        },
        mode: match config.publish_mode {
            Some(EndpointPortConfigPublishModeEnum::HOST) => PublishMode::Host,
            Some(
                EndpointPortConfigPublishModeEnum::INGRESS
                | EndpointPortConfigPublishModeEnum::EMPTY,
            )
            | None => PublishMode::Ingress,
        },
        name: config.name.filter(|it| !it.is_empty()),
    })
}

/// The address of `ADDRESS/PREFIX`, or a bare one.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpNet>().map(|it| it.addr()).or_else(|_| text.parse()).ok()
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(state: &str, desired: &str) -> SwarmTask {
        serde_json::from_value(serde_json::json!({
            "ID": format!("{state}-{desired}"), "ServiceID": "s", "DesiredState": desired,
            "Status": {"State": state, "ContainerStatus": null}, "NetworksAttachments": null,
        }))
        .unwrap()
    }

    fn swarm(replicas: u64, tasks: &[(&str, &str)]) -> Swarm {
        let service = SwarmService { replicas: Some(replicas), ..SwarmService::default() };
        Swarm {
            services: [(ServiceId::from("s"), service)].into(),
            tasks: tasks.iter().map(|it| task(it.0, it.1)).map(|it| (it.id.clone(), it)).collect(),
            nodes: BTreeMap::new(),
        }
    }

    #[test]
    fn a_swarm_at_rest_has_as_many_running_tasks_as_it_wants() {
        assert!(!swarm(1, &[("running", "running")]).is_moving());
        assert!(!swarm(1, &[("running", "running"), ("failed", "shutdown")]).is_moving());
        assert!(swarm(2, &[("running", "running")]).is_moving());
        assert!(swarm(1, &[("starting", "running")]).is_moving());
        assert!(swarm(1, &[("running", "running"), ("running", "shutdown")]).is_moving());
    }

    #[test]
    fn a_service_is_updated_until_it_is_done_paused_or_rolled_back() {
        let updating = |state: &str| {
            let service = serde_json::from_value(serde_json::json!({
                "ID": "s", "Spec": {"Name": "s"}, "UpdateStatus": {"State": state},
            }));
            SwarmService::from_list(service.unwrap()).unwrap().1.is_updating
        };
        let states = ["updating", "rollback_started"];
        let rests = ["", "paused", "completed", "rollback_paused", "rollback_completed"];
        assert!(states.into_iter().all(updating));
        assert!(!rests.into_iter().any(updating));
        let mut swarm = swarm(1, &[("running", "running")]);
        assert!(!swarm.is_updating());
        swarm.services.values_mut().for_each(|it| it.is_updating = true);
        assert!(swarm.is_updating(), "though no task moves");
    }

    #[test]
    fn a_task_that_the_store_forgot_drains_while_gossip_lists_it() {
        let last = swarm(1, &[("running", "running"), ("starting", "running")]);
        let kept = swarm(0, &[]).keeping(&last, &["running-running", "starting-running"].into());
        let left: Vec<_> = kept.tasks.values().map(|it| (&*it.id, it.is_wanted())).collect();
        assert_eq!(left, [("running-running", false)]);
        let gone = swarm(0, &[]).keeping(&kept, &BTreeSet::new());
        assert_eq!(gone.tasks.len(), 0);
    }

    #[test]
    fn addresses_lose_their_prefix_length() {
        assert_eq!(address("10.0.1.5/24"), "10.0.1.5".parse().ok());
        assert_eq!(address("fd00::5"), "fd00::5".parse().ok());
        assert_eq!(address("nonsense"), None);
    }
}

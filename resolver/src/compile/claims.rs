//! What a service and its tasks, or a container alone, say of the names and addresses of one
//! network.
//!
//! Invariants
//! - *the service speaks*: a task never answers for the name or an alias of its own service, so a
//!   VIP is never mixed with the tasks behind it;
//! - *gone is gone*: a stopped task has no name; a Swarm task's own name is known while there is
//!   the task, and has an address while it serves;
//! - *its own*: what a [`Group`] claims follows from it alone, whoever else is on the network;
//! - *owned*: an address of a task that must not get connections still tells whose it is, so that
//!   what the engine's own resolver says can be read as what the registry knows, and never stands
//!   among those that are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use registry::id::{ServiceId, TaskId};
use registry::model::{
    Completeness, Endpoint, Mode, Network, Service, ServiceAttachment, ServiceKind, ServingState,
    Task,
};
use registry::{Notes, Snapshot, VipPair};

use super::seconds;
use crate::name::{self, Name};
use crate::plan::{
    Config, Entry, Owner, Pointer, ServicePort, ServiceRecord, ServiceTask, VipTable,
};

/// A network of a snapshot, and all else that its names follow from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) network: &'a Network,
    pub(super) vips: &'a VipTable,
    pub(super) config: &'a Config,
}

/// Tasks whose names follow from one another: a service with its tasks, or one without a service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Group {
    Service(ServiceId),
    Alone(TaskId),
}

/// Who claims a name, in the order in which claims count.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Claimant {
    Service(ServiceId),
    Task(TaskId),
}

/// What one claimant says.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Claims {
    pub(super) names: Vec<(String, Claim)>,
    pub(super) reverse: Vec<(IpAddr, Pointer)>,
    /// `None` where every name of the network is known: then nobody else is asked about it.
    pub(super) owned: Option<Owned>,
    /// What is wrong with it, whatever others claim.
    pub(super) notes: Notes,
}

/// What one claimant has of addresses, and what it says of itself: once, because that lists as many
/// addresses again.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Owned {
    pub(super) owner: Arc<Owner>,
    pub(super) addresses: Vec<IpAddr>,
}

/// Who is meant by a name, as one claimant has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Claim {
    /// In order, none twice.
    pub(super) addresses: Arc<[IpAddr]>,
    pub(super) ttl: u32,
    /// For SRV: of a service and its `tasks.`, one; of others, none.
    pub(super) record: Option<Arc<[ServiceRecord]>>,
    /// It is a service's own name, or one by which a container is really called: two of these are
    /// told of.
    pub(super) is_called: bool,
}

impl Claims {
    /// Whose those addresses are that are its own.
    pub(super) fn owners(&self) -> impl Iterator<Item = (IpAddr, Arc<Owner>)> {
        let owned = self.owned.iter();
        owned.flat_map(|it| it.addresses.iter().map(|at| (*at, Arc::clone(&it.owner))))
    }
}

impl Group {
    /// The group that `task` is in.
    pub(super) fn of(task: &Task) -> Self {
        match &task.service {
            Some(service) => Self::Service(service.clone()),
            None => Self::Alone(task.id.clone()),
        }
    }

    /// All groups of a network.
    pub(super) fn all_on(ground: Ground<'_>) -> BTreeSet<Self> {
        let network = &ground.network.id;
        let services = ground.snapshot.services_on(network).map(|it| Self::Service(it.id.clone()));
        services.chain(ground.snapshot.tasks_on(network).map(Self::of)).collect()
    }
}

impl<'a> Ground<'a> {
    /// Whether the names on the two differ only by what [`Group`]s claim there.
    pub(super) fn is_like(self, other: Self) -> bool {
        // Its scope, driver, labels, and who reaches it or is reached from it, name nobody.
        let said = |it: &'a Network| (&it.id, &it.name, it.ingress, &it.subnets, it.names);
        said(self.network) == said(other.network) && self.config == other.config
    }

    /// What those of `group` say, by who says it.
    pub(super) fn claims(self, group: &Group) -> BTreeMap<Claimant, Claims> {
        let mut claims = BTreeMap::new();
        let (service, tasks): (_, Vec<&Task>) = match group {
            Group::Service(id) => (self.snapshot.service(id), self.snapshot.tasks_of(id).collect()),
            Group::Alone(id) => {
                let task = self.snapshot.task(id).filter(|it| it.service.is_none());
                (None, task.into_iter().collect())
            }
        };
        let here = |task: &'a Task| Some((task, task.networks.get(&self.network.id)?));
        let tasks: Vec<_> = tasks
            .into_iter()
            .filter(|it| it.state != ServingState::Stopped)
            .filter_map(here)
            .collect();
        let attached = service.and_then(|it| Some((it, it.networks.get(&self.network.id)?)));
        let own_names = attached.map(|(it, on)| service_names(it, on)).unwrap_or_default();
        if let Some((service, attachment)) = attached {
            let said = self.of_service(service, attachment, &own_names, &tasks);
            claims.insert(Claimant::Service(service.id.clone()), said);
        }
        for (task, endpoint) in tasks {
            let said = self.of_task(service, task, endpoint, &own_names);
            claims.insert(Claimant::Task(task.id.clone()), said);
        }
        claims
    }

    fn of_service(
        self,
        service: &Service,
        attachment: &ServiceAttachment,
        names: &BTreeSet<String>,
        tasks: &[(&Task, &Endpoint)],
    ) -> Claims {
        let mut claims = Claims::default();
        let (ttl, vip_ttl) = (seconds(self.config.ttl), seconds(self.config.vip_ttl));
        let vips = self.vips_of(service, attachment);
        let vip = vips.first();
        let serving: Vec<_> = tasks.iter().filter(|(task, _)| task.serves()).copied().collect();
        let addresses = in_order(serving.iter().flat_map(|(_, it)| &it.addresses));
        let record = Arc::new([self.record(service, &serving, &mut claims.notes)]);
        let all = Claim { addresses, ttl, record: Some(record), is_called: false };
        let front = match vip {
            Some(_) => Claim { addresses: vips.iter().collect(), ttl: vip_ttl, ..all.clone() },
            None => all.clone(),
        };
        for key in names {
            claims.names.push((key.clone(), Claim { is_called: true, ..front.clone() }));
            claims.names.push((format!("tasks.{key}"), all.clone()));
        }
        if vip.is_some()
            && let Some(name) = self.full_name("service", &service.name, &mut claims.notes)
        {
            let pointer = |vip| (vip, Pointer { name: name.clone(), ttl: vip_ttl });
            claims.reverse.extend(vips.iter().map(pointer));
        }
        if self.network.names == Completeness::Gossip {
            let owner = Arc::new(Owner {
                name: service.name.clone(),
                vip,
                front: entry(&front),
                tasks: entry(&all),
            });
            let held = tasks.iter().flat_map(|(_, it)| it.addresses.iter().copied());
            let addresses = vips.iter().chain(held).collect();
            claims.owned = Some(Owned { owner, addresses });
        }
        claims
    }

    /// What the source fixed, and beside it what the VIP manager has.
    fn vips_of(self, service: &Service, attachment: &ServiceAttachment) -> VipPair {
        let key = || (service.id.clone(), self.network.id.clone());
        match service.mode {
            Mode::Vip => {
                let fixed = attachment.vip.map(VipPair::from).unwrap_or_default();
                fixed.or(self.vips.get(&key()).copied().unwrap_or_default())
            }
            Mode::DnsRr => VipPair::default(),
        }
    }

    fn record(
        self,
        service: &Service,
        serving: &[(&Task, &Endpoint)],
        notes: &mut Notes,
    ) -> ServiceRecord {
        let port = |it: &registry::model::PublishedPort| ServicePort {
            name: it.name.as_deref().map(name::key),
            published: it.published,
            target: it.target,
            protocol: it.protocol,
        };
        let ttl = seconds(self.config.ttl);
        let ports: Vec<_> = service.ports.iter().map(port).collect();
        if ports.is_empty() {
            return ServiceRecord { ttl, ..ServiceRecord::default() };
        }
        let task = |(task, endpoint): &(&Task, &Endpoint)| {
            let name = self.full_name("task", &task.name, notes)?;
            let addresses = endpoint.addresses.clone();
            Some(ServiceTask { name, weight: task.weight, addresses })
        };
        ServiceRecord { ports, tasks: serving.iter().filter_map(task).collect(), ttl }
    }

    /// What `task`, which is not stopped, says; the names of its service are `spoken_for`.
    fn of_task(
        self,
        service: Option<&Service>,
        task: &Task,
        endpoint: &Endpoint,
        spoken_for: &BTreeSet<String>,
    ) -> Claims {
        let mut claims = Claims::default();
        let ttl = seconds(self.config.ttl);
        if let Some(name) = self.full_name("task", &task.name, &mut claims.notes) {
            let pointer = |it: &IpAddr| (*it, Pointer { name: name.clone(), ttl });
            claims.reverse.extend(endpoint.addresses.iter().map(pointer));
        }
        let own =
            Claim { addresses: in_order(&endpoint.addresses), ttl, record: None, is_called: true };
        if self.network.names == Completeness::Gossip {
            let (front, tasks) = (entry(&own), entry(&own));
            let owner = Arc::new(Owner { name: task.name.clone(), vip: None, front, tasks });
            claims.owned = Some(Owned { owner, addresses: endpoint.addresses.clone() });
        }
        let primary = name::key(&task.name);
        let is_free = |key: &String| !key.is_empty() && !spoken_for.contains(key);
        if are_answered(service, task) {
            let others = endpoint.names.iter().map(|it| name::key(it));
            let names: BTreeSet<String> = others.chain([primary]).collect();
            claims.names.extend(names.into_iter().filter(is_free).map(|it| (it, own.clone())));
        } else if is_free(&primary) {
            // Known all the same: it is not asked for elsewhere.
            let none = Claim { addresses: Arc::default(), is_called: false, ..own };
            claims.names.push((primary, none));
        }
        claims
    }

    /// `NAME.NETWORK` as a DNS name; a note where it cannot be one.
    fn full_name(self, kind: &str, name: &str, notes: &mut Notes) -> Option<Name> {
        match Name::from_text(&format!("{name}.{}", self.network.name)) {
            Ok(full) => Some(full),
            Err(error) => {
                notes.warning(
                    format!("{kind} {name}"),
                    "",
                    format!("cannot be asked for as `{name}.{}`: {error}", self.network.name),
                    "give it a shorter name, without empty parts",
                );
                None
            }
        }
    }
}

/// Whether the names of `task` itself are answered.
pub(crate) fn has_names(snapshot: &Snapshot, task: &Task) -> bool {
    are_answered(task.service.as_ref().and_then(|id| snapshot.service(id)), task)
}

/// The engine drops a Swarm task's names when it disables the task, and gives them when it is
/// healthy; a container's are there while it runs.
fn are_answered(service: Option<&Service>, task: &Task) -> bool {
    match service.map(|it| it.kind) {
        Some(ServiceKind::Swarm | ServiceKind::World) => task.state == ServingState::Serving,
        Some(ServiceKind::Compose) | None => task.state != ServingState::Stopped,
    }
}

/// The normal forms of the names that `service` answers for on one network.
pub(crate) fn service_names(service: &Service, attachment: &ServiceAttachment) -> BTreeSet<String> {
    let aliases = attachment.aliases.iter().map(|it| name::key(it));
    aliases.chain([name::key(&service.name)]).filter(|it| !it.is_empty()).collect()
}

fn entry(claim: &Claim) -> Entry {
    Entry { addresses: claim.addresses.to_vec(), ttl: claim.ttl }
}

fn in_order<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Arc<[IpAddr]> {
    let mut addresses: Vec<_> = addresses.into_iter().copied().collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}

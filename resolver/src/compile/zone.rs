//! Makes the names of one network: who is meant by each, and what each address is called.
//!
//! Invariants
//! - *the service speaks*: a task never answers for the name or an alias of its own service, so a
//!   VIP is never mixed with the tasks behind it;
//! - *merged*: different holders of a name are answered together, as the engine does, and where
//!   one of them is a service that is told;
//! - *gone is gone*: a stopped task has no name; a Swarm task's own name is known while there is
//!   the task, and has an address while it serves.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use registry::model::{
    Endpoint, Mode, Network, Service, ServiceAttachment, ServiceKind, ServingState, Task,
};
use registry::{Notes, Snapshot};

use super::{owner, seconds};
use crate::fast::Prepared;
use crate::name::{self, Name};
use crate::plan::{
    Config, Entry, Pointer, ServicePort, ServiceRecord, ServiceTask, VipTable, Zone,
};

/// The names of `network`.
pub(super) fn zone(
    snapshot: &Snapshot,
    network: &Network,
    vips: &VipTable,
    config: &Config,
    notes: &mut Notes,
) -> Zone {
    let zone = Zone {
        network: network.id.clone(),
        name: network.name.clone(),
        key: name::key(&network.name),
        completeness: network.names,
        subnets: network.subnets.clone(),
        names: BTreeMap::new(),
        services: BTreeMap::new(),
        reverse: BTreeMap::new(),
        owners: owner::owners(snapshot, network, vips, config),
        table: Prepared::default(),
    };
    let (ttl, vip_ttl) = (seconds(config.ttl), seconds(config.vip_ttl));
    let speakers = BTreeMap::new();
    let mut maker = Maker { network, zone, speakers, shared: BTreeMap::new(), ttl, vip_ttl, notes };
    for service in snapshot.services_on(&network.id) {
        if let Some(attachment) = service.networks.get(&network.id) {
            maker.service(snapshot, service, attachment, vips);
        }
    }
    maker.tell_shared();
    for task in snapshot.tasks_on(&network.id) {
        if let Some(endpoint) = task.networks.get(&network.id) {
            maker.task(snapshot, task, endpoint);
        }
    }
    for entry in maker.zone.names.values_mut() {
        entry.addresses.sort_unstable();
        entry.addresses.dedup();
    }
    maker.zone
}

/// Whether the names of `task` itself are answered. The engine drops a Swarm task's names when it
/// disables the task, and gives them when it is healthy; a container's are there while it runs.
pub(crate) fn has_names(snapshot: &Snapshot, task: &Task) -> bool {
    let kind = task.service.as_ref().and_then(|id| snapshot.service(id)).map(|it| it.kind);
    match kind {
        Some(ServiceKind::Swarm | ServiceKind::World) => task.state == ServingState::Serving,
        Some(ServiceKind::Compose) | None => task.state != ServingState::Stopped,
    }
}

/// The normal forms of the names that `service` answers for on one network.
pub(crate) fn service_names(service: &Service, attachment: &ServiceAttachment) -> BTreeSet<String> {
    let aliases = attachment.aliases.iter().map(|it| name::key(it));
    aliases.chain([name::key(&service.name)]).filter(|it| !it.is_empty()).collect()
}

/// What users tell `service` from others by: compose services of two projects may be called the
/// same.
fn title(service: &Service) -> String {
    match (service.kind, &service.stack) {
        (ServiceKind::Compose, Some(project)) => format!("{project}/{}", service.name),
        (ServiceKind::Swarm | ServiceKind::Compose | ServiceKind::World, _) => service.name.clone(),
    }
}

struct Maker<'a> {
    network: &'a Network,
    zone: Zone,
    /// The first service to answer for each name.
    speakers: BTreeMap<String, &'a Service>,
    /// Names that two services answer for, by the titles of the two.
    shared: BTreeMap<(String, String), Vec<String>>,
    ttl: u32,
    vip_ttl: u32,
    notes: &'a mut Notes,
}

impl<'a> Maker<'a> {
    fn service(
        &mut self,
        snapshot: &Snapshot,
        service: &'a Service,
        attachment: &ServiceAttachment,
        vips: &VipTable,
    ) {
        let allocated = || vips.get(&(service.id.clone(), self.network.id.clone())).copied();
        let vip = match service.mode {
            Mode::Vip => attachment.vip.or_else(allocated),
            Mode::DnsRr => None,
        };
        let serving: Vec<(&Task, &Endpoint)> = snapshot
            .tasks_of(&service.id)
            .filter(|task| task.serves())
            .filter_map(|task| Some((task, task.networks.get(&self.network.id)?)))
            .collect();
        let tasks: Vec<IpAddr> =
            serving.iter().flat_map(|(_, it)| it.addresses.iter().copied()).collect();
        let record = Arc::new(self.record(service, &serving));
        for key in service_names(service, attachment) {
            match self.speakers.entry(key.clone()) {
                Slot::Vacant(slot) => drop(slot.insert(service)),
                Slot::Occupied(slot) => {
                    let both = (title(slot.get()), title(service));
                    self.shared.entry(both).or_default().push(key.clone());
                }
            }
            match vip {
                Some(vip) => self.hold(key.clone(), &[vip], self.vip_ttl),
                None => self.hold(key.clone(), &tasks, self.ttl),
            }
            let all = format!("tasks.{key}");
            self.hold(all.clone(), &tasks, self.ttl);
            for name in [key, all] {
                let known = self.zone.services.entry(name).or_insert_with(|| Arc::clone(&record));
                if known.ports.is_empty() {
                    *known = Arc::clone(&record); // of namesakes, one that has ports to tell of
                }
            }
        }
        if let Some(vip) = vip
            && let Some(name) = self.full_name("service", &service.name)
        {
            self.zone.reverse.entry(vip).or_insert(Pointer { name, ttl: self.vip_ttl });
        }
    }

    fn record(&mut self, service: &Service, serving: &[(&Task, &Endpoint)]) -> ServiceRecord {
        let port = |it: &registry::model::PublishedPort| ServicePort {
            name: it.name.as_deref().map(name::key),
            published: it.published,
            target: it.target,
            protocol: it.protocol,
        };
        let ports: Vec<_> = service.ports.iter().map(port).collect();
        if ports.is_empty() {
            return ServiceRecord { ttl: self.ttl, ..ServiceRecord::default() };
        }
        let tasks = serving
            .iter()
            .filter_map(|(task, endpoint)| {
                let name = self.full_name("task", &task.name)?;
                let addresses = endpoint.addresses.clone();
                Some(ServiceTask { name, weight: task.weight, addresses })
            })
            .collect();
        ServiceRecord { ports, tasks, ttl: self.ttl }
    }

    fn task(&mut self, snapshot: &Snapshot, task: &Task, endpoint: &Endpoint) {
        if task.state == ServingState::Stopped {
            return;
        }
        if let Some(name) = self.full_name("task", &task.name) {
            for address in &endpoint.addresses {
                let pointer = || Pointer { name: name.clone(), ttl: self.ttl };
                self.zone.reverse.entry(*address).or_insert_with(pointer);
            }
        }
        let own = task.service.as_ref().and_then(|id| snapshot.service(id));
        let spoken_for = own
            .and_then(|it| Some(service_names(it, it.networks.get(&self.network.id)?)))
            .unwrap_or_default();
        let primary = name::key(&task.name);
        if !has_names(snapshot, task) {
            // Known all the same: it is not asked for elsewhere.
            if !primary.is_empty() && !spoken_for.contains(&primary) {
                self.hold(primary, &[], self.ttl);
            }
            return;
        }
        let others = endpoint.names.iter().map(|it| name::key(it));
        let names: BTreeSet<String> = others.chain([primary]).collect();
        for key in names {
            if !key.is_empty() && !spoken_for.contains(&key) {
                self.tell_namesake(task, &key);
                self.hold(key, &endpoint.addresses, self.ttl);
            }
        }
    }

    /// Tells of a container that is called what a service that it does not work for is called.
    fn tell_namesake(&mut self, task: &Task, key: &str) {
        let Some(service) = self.speakers.get(key) else { return };
        self.notes.warning(
            format!("container {}", task.name),
            "",
            format!(
                "is called `{key}` on network {}, as is service {}; both are answered",
                self.network.name,
                title(service)
            ),
            "rename the container or take that alias from it, or keep it off that network",
        );
    }

    /// Tells of services that answer for the same names: two stacks on one network, say.
    fn tell_shared(&mut self) {
        for ((one, other), names) in &self.shared {
            let names: Vec<_> = names.iter().map(|it| format!("`{it}`")).collect();
            self.notes.warning(
                format!("service {other}"),
                "",
                format!(
                    "is called {} on network {}, as is service {one}; both are answered",
                    names.join(", "),
                    self.network.name
                ),
                "ask for either by a name of its own, take that alias from one of them, or keep \
                 them on different networks",
            );
        }
    }

    /// Adds a holder of a name.
    fn hold(&mut self, key: String, addresses: &[IpAddr], ttl: u32) {
        let entry = self.zone.names.entry(key).or_insert_with(|| Entry { ttl, ..Entry::default() });
        entry.addresses.extend_from_slice(addresses);
        entry.ttl = entry.ttl.min(ttl);
    }

    /// `NAME.NETWORK` as a DNS name; a note where it cannot be one.
    fn full_name(&mut self, kind: &str, name: &str) -> Option<Name> {
        match Name::from_text(&format!("{name}.{}", self.network.name)) {
            Ok(full) => Some(full),
            Err(error) => {
                self.notes.warning(
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

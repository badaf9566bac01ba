//! Which VIPs are fixed, by a source or a label, and who needs one of the pool.
//!
//! Always true here: what is fixed and cannot be is a note on the service that asked for it, and
//! then it has no VIP of that family on that network, or one of the pool where nothing is at stake.

use std::collections::BTreeMap;
use std::net::IpAddr;

use registry::balance_spec::BalanceSpec;
use registry::id::{NetworkId, ServiceId};
use registry::model::{Mode, Network, Service, ServingState, Task};
use registry::{Notes, Snapshot, VipPair};

use super::{Config, addresses_of, subnets_of};
use crate::allocate::Claims;
use crate::family::IpFamily;
use crate::lease::Holder;

/// What services ask of their VIPs by labels; those that ask nothing are left out.
pub(super) type Specs = BTreeMap<ServiceId, BalanceSpec>;

/// The VIPs that are fixed, and who needs one of ours.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) fixed: BTreeMap<(ServiceId, NetworkId), VipPair>,
    pub(super) claims: BTreeMap<IpFamily, Claims>,
}

impl Wanted {
    pub(super) fn of(
        snapshot: &Snapshot,
        specs: &Specs,
        config: &Config,
        notes: &mut Notes,
    ) -> Self {
        let mut wanted = Self::default();
        let given = given(snapshot);
        // Swarm's ingress network has no names and no clients; the mesh serves it.
        for network in snapshot.networks().filter(|it| !it.ingress) {
            let living = living_addresses(snapshot, network);
            let holders = BTreeMap::new();
            let mut place = Place { snapshot, network, config, living, holders, given: &given };
            let mut services: Vec<_> = snapshot
                .services_on(&network.id)
                .filter(|it| it.mode == Mode::Vip)
                .map(|it| (it, place.choice(it, specs.get(&it.id), notes)))
                .collect();
            // No label takes what a source gave.
            services.sort_by_key(|(it, choice)| {
                (choice.is_some_and(|it| it.by_label), it.created, &it.id)
            });
            for (service, choice) in services {
                for family in IpFamily::ALL {
                    wanted.add(&mut place, service, family, choice, notes);
                }
            }
        }
        wanted
    }

    fn add<'a>(
        &mut self,
        place: &mut Place<'a>,
        service: &'a Service,
        family: IpFamily,
        choice: Option<Choice>,
        notes: &mut Notes,
    ) {
        let chosen = choice.filter(|it| IpFamily::of(it.vip) == family);
        let network = place.network;
        let fixed = chosen.map(|it| place.check(service, it, notes));
        match fixed {
            Some(Fixed::At(vip)) => {
                let key = (service.id.clone(), network.id.clone());
                self.fixed.entry(key).or_default().set(vip);
            }
            Some(Fixed::Refused) => {}
            None | Some(Fixed::Free) => {
                if place.has(family) && place.can_use(service, family) {
                    let claims = self.claims.entry(family).or_default();
                    let claims = claims.entry(Holder::network(network)).or_default();
                    claims.insert(Holder::service(service));
                }
            }
        }
    }
}

/// A VIP that somebody chose.
#[derive(Clone, Copy)]
struct Choice {
    vip: IpAddr,
    /// By a label, not by a source, which knows what it does with its addresses.
    by_label: bool,
}

/// What a choice of a VIP comes to.
enum Fixed {
    At(IpAddr),
    /// It cannot be used, and nobody is hurt if one is allocated.
    Free,
    /// It would break others.
    Refused,
}

/// One network.
struct Place<'a> {
    snapshot: &'a Snapshot,
    network: &'a Network,
    config: &'a Config,
    /// The addresses on it of tasks that are not gone.
    living: BTreeMap<IpAddr, &'a Task>,
    /// The services that have a fixed VIP so far.
    holders: BTreeMap<IpAddr, &'a Service>,
    /// The VIPs that sources gave, on all networks.
    given: &'a BTreeMap<IpAddr, &'a Service>,
}

impl<'a> Place<'a> {
    /// What the source chose, else a label of the service.
    fn choice(
        &self,
        service: &Service,
        spec: Option<&BalanceSpec>,
        notes: &mut Notes,
    ) -> Option<Choice> {
        let fixed = service.networks.get(&self.network.id).and_then(|it| it.vip);
        let address = |it: &BalanceSpec| {
            it.address.get(&self.network.name).or_else(|| it.address.get("")).copied()
        };
        let label = spec.and_then(address);
        if let (Some(fixed), Some(label)) = (fixed, label)
            && fixed != label
        {
            let text = format!("{label} of the label is not used: the engine gave {fixed}");
            let remedy = "leave the label out, or create the service with --endpoint-mode dnsrr and portolan.mode=vip";
            notes.warning(subject(service), self.title(), text, remedy);
        }
        let by_source = fixed.map(|vip| Choice { vip, by_label: false });
        by_source.or_else(|| label.map(|vip| Choice { vip, by_label: true }))
    }

    fn title(&self) -> String {
        format!("vip on {}", self.network.name)
    }

    fn check(&mut self, service: &'a Service, choice: Choice, notes: &mut Notes) -> Fixed {
        let vip = choice.vip;
        if let IpAddr::V6(_) = vip
            && !self.has(IpFamily::V6)
        {
            let text = format!(
                "{vip} is not used, because the network has no IPv6 subnet; an IPv4 VIP is used instead"
            );
            notes.warning(
                subject(service),
                self.title(),
                text,
                "give an IPv4 VIP, or leave it out",
            );
            return Fixed::Free;
        }
        let unusable = match vip {
            IpAddr::V4(it) => it.is_broadcast() || it.is_link_local(),
            IpAddr::V6(it) => it.is_unicast_link_local(),
        };
        if unusable || vip.is_unspecified() || vip.is_loopback() || vip.is_multicast() {
            let text = format!("{vip} cannot be a VIP; the service has none on this network");
            let remedy = "choose a unicast address, or leave it out";
            notes.error(subject(service), self.title(), text, remedy);
            return Fixed::Refused;
        }
        if let Some(task) = self.living.get(&vip) {
            let text = format!("{vip} is the address of task {}; the VIP is not used", task.name);
            notes.error(subject(service), self.title(), text, "choose an address that no task has");
            return Fixed::Refused;
        }
        if let Some(holder) = self.holders.get(&vip) {
            let by_source = self.given.contains_key(&vip) && choice.by_label;
            let why = if by_source { "which was given it" } else { "which is older" };
            let text = format!("{vip} is also the VIP of service {}, {why}", holder.name);
            let remedy = "choose another address, or leave it out";
            notes.error(subject(service), self.title(), text, remedy);
            return Fixed::Refused;
        }
        if choice.by_label
            && let Some(why) = self.forbids(vip)
        {
            let text = format!("{vip} {why}; the VIP is not used");
            let remedy = "choose a free address of this network or of the pool, or leave it out";
            notes.error(subject(service), self.title(), text, remedy);
            return Fixed::Refused;
        }
        self.holders.insert(vip, service);
        Fixed::At(vip)
    }

    /// Why a label must not have this address. Anybody who starts a container writes labels, and all
    /// on the network would be led to its tasks: only what is free for VIPs can be asked for.
    fn forbids(&self, vip: IpAddr) -> Option<String> {
        let mut subnets = subnets_of(self.network, IpFamily::of(vip));
        if let Some(subnet) = subnets.find(|it| it.contains(&vip)) {
            if self.network.gateways.contains(&vip) {
                return Some("is the network's gateway".to_owned());
            }
            let is_end = [subnet.network(), subnet.broadcast()].contains(&vip);
            return is_end.then(|| format!("is an end of {subnet}"));
        }
        let pool = self.config.pool_of(IpFamily::of(vip));
        if !pool.contains(&vip) {
            return Some(format!("is neither in a subnet of this network nor in {pool}"));
        }
        self.whose(vip).map(|whose| format!("belongs to {whose}"))
    }

    /// What an address outside of this network belongs to, where that is known.
    fn whose(&self, vip: IpAddr) -> Option<String> {
        let mut networks = self.snapshot.networks();
        let other = networks.find(|it| it.subnets.iter().any(|it| it.contains(&vip)));
        let service = || self.given.get(&vip);
        let route = || self.config.routes_of(IpFamily::of(vip)).find(|it| it.contains(&vip));
        other
            .map(|it| format!("network {}", it.name))
            .or_else(|| service().map(|it| format!("service {}", it.name)))
            .or_else(|| route().map(|it| format!("the host's route {it}")))
    }

    /// Whether the network has addresses of the family; where nothing is known it is IPv4.
    fn has(&self, family: IpFamily) -> bool {
        let subnets = &self.network.subnets;
        let unknown = subnets.is_empty() && family == IpFamily::V4;
        unknown || subnets_of(self.network, family).next().is_some()
    }

    /// Whether a VIP of the family leads anywhere. Gossip tells only IPv4 addresses of tasks: who
    /// looked up a VIP there that refuses everybody would be worse off than without.
    fn can_use(&self, service: &Service, family: IpFamily) -> bool {
        let tasks =
            || self.snapshot.tasks_of(&service.id).filter(|it| it.state != ServingState::Stopped);
        let network = &self.network.id;
        family == IpFamily::V4
            || tasks().next().is_none()
            || tasks().any(|it| addresses_of(it, network, family).next().is_some())
    }
}

/// The VIPs that sources gave, and to whom.
fn given(snapshot: &Snapshot) -> BTreeMap<IpAddr, &Service> {
    let services = snapshot.services().filter(|it| it.mode == Mode::Vip);
    let vips = |it: &'_ Service| it.networks.values().filter_map(|on| on.vip).collect::<Vec<_>>();
    services.flat_map(|it| vips(it).into_iter().map(move |vip| (vip, it))).collect()
}

fn subject(service: &Service) -> String {
    format!("service {}", service.name)
}

/// The addresses on `network` of tasks that are not gone.
fn living_addresses<'a>(snapshot: &'a Snapshot, network: &Network) -> BTreeMap<IpAddr, &'a Task> {
    let living = snapshot.tasks_on(&network.id).filter(|it| it.state != ServingState::Stopped);
    let addresses = living.filter_map(|task| Some((task, task.networks.get(&network.id)?)));
    addresses.flat_map(|(task, on)| on.addresses.iter().map(move |it| (*it, task))).collect()
}

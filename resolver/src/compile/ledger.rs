//! Makes the zone of one network out of what everybody there claims, and keeps who claims what, so
//! that a change makes only those names anew that it is about.
//!
//! Invariants
//! - *merged*: different holders of a name are answered together, as the engine does, and where
//!   one of them is a service that is told;
//! - *as if anew*: [`Ledger::follow`] leaves what [`Ledger::new`] would have made;
//! - *shared*: a zone in which nothing is said otherwise stays the same piece of memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use registry::model::{Network, Service, ServiceKind};
use registry::{Notes, Snapshot};

use super::claims::{Claim, Claimant, Claims, Ground, Group};
use crate::fast::Prepared;
use crate::name;
use crate::plan::{Entry, Owner, Pointer, ServiceRecord, Zone};
use crate::shared_map::SharedMap;

/// Who claims what on one network, and what follows.
#[derive(Debug)]
pub(super) struct Ledger {
    names: Claimed<String, Claim>,
    reverse: Claimed<IpAddr, Pointer>,
    owners: Claimed<IpAddr, Arc<Owner>>,
    /// What is wrong with somebody, whatever others claim.
    wrong: BTreeMap<Claimant, Notes>,
    /// Names of services that others are called too.
    contested: BTreeSet<String>,
    zone: Arc<Zone>,
    notes: Notes,
}

/// What is claimed, with who claims it, in the order in which claims count.
#[derive(Debug)]
struct Claimed<K, V>(BTreeMap<K, Vec<(Claimant, V)>>);

/// What claims were made or taken back for.
#[derive(Debug, Default)]
struct Touched {
    names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Ledger {
    /// The ledger of a network.
    pub(super) fn new(ground: Ground<'_>) -> Self {
        let mut ledger = Self {
            names: Claimed::default(),
            reverse: Claimed::default(),
            owners: Claimed::default(),
            wrong: BTreeMap::new(),
            contested: BTreeSet::new(),
            zone: Arc::new(nameless(ground.network)),
            notes: Notes::default(),
        };
        for group in Group::all_on(ground) {
            for (claimant, claims) in ground.claims(&group) {
                ledger.enter(&claimant, claims);
            }
        }
        let names = &ledger.names.0;
        ledger.contested = names
            .iter()
            .filter(|(_, claims)| is_contested(claims))
            .map(|(key, _)| key.clone())
            .collect();
        ledger.zone = Arc::new(Zone {
            names: made(&ledger.names, entry),
            services: made(&ledger.names, record),
            reverse: made(&ledger.reverse, first),
            owners: made(&ledger.owners, first),
            ..nameless(ground.network)
        });
        ledger.notes = ledger.told(ground.snapshot);
        ledger
    }

    /// The same network's ledger, once the claims of `groups`, and of nobody else, are no more
    /// as they were `before`.
    pub(super) fn follow(&mut self, before: Ground<'_>, now: Ground<'_>, groups: &BTreeSet<Group>) {
        let mut touched = Touched::default();
        // All together, because a task may have gone from one group to another.
        let mut claimed: BTreeMap<_, _> = groups.iter().flat_map(|it| before.claims(it)).collect();
        let claims: BTreeMap<_, _> = groups.iter().flat_map(|it| now.claims(it)).collect();
        for (claimant, claims) in claims {
            match claimed.remove(&claimant) {
                Some(old) if old == claims => {}
                old => {
                    self.retract(&claimant, &old.unwrap_or_default(), &mut touched);
                    touched.note(&claims);
                    self.enter(&claimant, claims);
                }
            }
        }
        for (claimant, gone) in claimed {
            self.retract(&claimant, &gone, &mut touched);
        }
        if let Some(zone) = self.changed(&touched) {
            self.zone = Arc::new(zone);
        }
        for key in touched.names {
            if is_contested(self.names.of(&key)) {
                self.contested.insert(key);
            } else {
                self.contested.remove(&key);
            }
        }
        self.notes = self.told(now.snapshot);
    }

    /// What everybody can resolve on this network.
    pub(super) fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }

    /// What there is to say about it.
    pub(super) fn notes(&self) -> &Notes {
        &self.notes
    }

    fn enter(&mut self, claimant: &Claimant, claims: Claims) {
        self.owners.enter(claimant, claims.owners());
        let Claims { names, reverse, owned: _, notes } = claims;
        self.names.enter(claimant, names);
        self.reverse.enter(claimant, reverse);
        if !notes.is_empty() {
            self.wrong.insert(claimant.clone(), notes);
        }
    }

    fn retract(&mut self, claimant: &Claimant, claims: &Claims, touched: &mut Touched) {
        touched.note(claims);
        let Claims { names, reverse, owned, notes: _ } = claims;
        self.names.retract(claimant, names.iter().map(|(key, _)| key));
        self.reverse.retract(claimant, reverse.iter().map(|(address, _)| address));
        self.owners.retract(claimant, owned.iter().flat_map(|it| &it.addresses));
        self.wrong.remove(claimant);
    }

    /// The zone with what was touched made anew; `None`: it says what it said.
    fn changed(&self, touched: &Touched) -> Option<Zone> {
        let mut zone = Zone::clone(&self.zone);
        let (mut names, mut addresses, mut others) = (BTreeSet::new(), BTreeSet::new(), false);
        for key in &touched.names {
            let claims = self.names.of(key);
            if replace(&mut zone.names, key, entry(claims)) {
                names.insert(key.clone());
            }
            others |= replace(&mut zone.services, key, record(claims));
        }
        for address in &touched.addresses {
            if replace(&mut zone.reverse, address, first(self.reverse.of(address))) {
                addresses.insert(*address);
            }
            // Equal or not: all addresses of one owner must lead to the very same one.
            let owner = first(self.owners.of(address));
            others |= owner.is_some() || zone.owners.contains_key(address);
            zone.owners.set(address, owner);
        }
        zone.table = self.zone.table.patched(&zone, &names, &addresses);
        (others || !names.is_empty() || !addresses.is_empty()).then_some(zone)
    }

    /// All that there is to say.
    fn told(&self, snapshot: &Snapshot) -> Notes {
        let mut notes = Notes::default();
        for wrong in self.wrong.values() {
            notes.extend(wrong.clone());
        }
        let mut shared: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
        let mut namesakes = BTreeMap::new();
        for key in &self.contested {
            let called = self.names.of(key).iter().filter(|(_, it)| it.is_called);
            let mut first = None;
            for (claimant, _) in called {
                match (claimant, &first) {
                    (Claimant::Service(id), None) => first = snapshot.service(id).map(title),
                    (Claimant::Service(id), Some(first)) => {
                        let other = snapshot.service(id).map(title).unwrap_or_default();
                        shared.entry((first.clone(), other)).or_default().push(key);
                    }
                    (Claimant::Task(id), first) => {
                        namesakes.insert((id, key), first.clone().unwrap_or_default());
                    }
                }
            }
        }
        for ((one, other), names) in &shared {
            tell_shared(&mut notes, &self.zone.name, [one, other], names);
        }
        for ((task, key), service) in namesakes {
            let task = snapshot.task(task).map_or_else(String::new, |it| it.name.clone());
            tell_namesake(&mut notes, &self.zone.name, &task, key, &service);
        }
        notes
    }
}

impl Touched {
    fn note(&mut self, claims: &Claims) {
        self.names.extend(claims.names.iter().map(|(key, _)| key.clone()));
        self.addresses.extend(claims.reverse.iter().map(|(address, _)| *address));
        self.addresses.extend(claims.owned.iter().flat_map(|it| &it.addresses));
    }
}

impl<K: Ord, V> Claimed<K, V> {
    fn enter(&mut self, claimant: &Claimant, claims: impl IntoIterator<Item = (K, V)>) {
        for (key, claim) in claims {
            // Nearly all names have one claimant, and there are thousands of them.
            let claimed = self.0.entry(key).or_insert_with(|| Vec::with_capacity(1));
            let at = claimed.partition_point(|(it, _)| it <= claimant);
            claimed.insert(at, (claimant.clone(), claim));
        }
    }

    fn retract<'a>(&mut self, claimant: &Claimant, keys: impl Iterator<Item = &'a K>)
    where
        K: 'a,
    {
        for key in keys {
            if let Some(claimed) = self.0.get_mut(key) {
                claimed.retain(|(it, _)| it != claimant);
                if claimed.is_empty() {
                    self.0.remove(key);
                }
            }
        }
    }

    fn of(&self, key: &K) -> &[(Claimant, V)] {
        self.0.get(key).map_or(&[], |it| it)
    }
}

impl<K, V> Default for Claimed<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// A network's zone without its names.
fn nameless(network: &Network) -> Zone {
    Zone {
        network: network.id.clone(),
        name: network.name.clone(),
        key: name::key(&network.name),
        completeness: network.names,
        subnets: network.subnets.clone(),
        names: SharedMap::default(),
        services: SharedMap::default(),
        reverse: SharedMap::default(),
        owners: SharedMap::default(),
        table: Prepared::default(),
    }
}

/// What `make` makes of each claimed thing.
fn made<K: Clone + Ord, V, T>(
    claimed: &Claimed<K, V>,
    make: impl Fn(&[(Claimant, V)]) -> Option<T>,
) -> SharedMap<K, T> {
    claimed.0.iter().filter_map(|(key, claims)| Some((key.clone(), make(claims)?))).collect()
}

/// Puts `value` at `key`; whether it is another one.
fn replace<K: Clone + Ord, V: Clone + Eq>(
    map: &mut SharedMap<K, V>,
    key: &K,
    value: Option<V>,
) -> bool {
    let differs = map.get(key) != value.as_ref();
    if differs {
        map.set(key, value);
    }
    differs
}

/// Who is meant by a name: all who claim it.
fn entry(claims: &[(Claimant, Claim)]) -> Option<Entry> {
    let ttl = claims.iter().map(|(_, it)| it.ttl).min()?;
    let mut addresses = Vec::with_capacity(claims.iter().map(|(_, it)| it.addresses.len()).sum());
    for (_, claim) in claims {
        addresses.extend_from_slice(&claim.addresses);
    }
    addresses.sort_unstable();
    addresses.dedup();
    Some(Entry { addresses, ttl })
}

/// What SRV tells of a name: the services of all who claim it. The one of a single service is the
/// same for all its names.
fn record(claims: &[(Claimant, Claim)]) -> Option<Arc<[ServiceRecord]>> {
    let mut records = claims.iter().filter_map(|(_, it)| it.record.as_ref());
    let first = records.next()?;
    let others: Vec<&ServiceRecord> = records.flat_map(|it| it.iter()).collect();
    if others.is_empty() {
        return Some(Arc::clone(first));
    }
    Some(first.iter().chain(others).cloned().collect())
}

fn first<V: Clone>(claims: &[(Claimant, V)]) -> Option<V> {
    claims.first().map(|(_, it)| it.clone())
}

/// Whether a service and somebody else are called the same.
fn is_contested(claims: &[(Claimant, Claim)]) -> bool {
    let mut called = claims.iter().filter(|(_, it)| it.is_called);
    matches!(called.next(), Some((Claimant::Service(_), _))) && called.next().is_some()
}

/// What users tell `service` from others by: compose services of two projects may be called the
/// same.
fn title(service: &Service) -> String {
    match (service.kind, &service.stack) {
        (ServiceKind::Compose, Some(project)) => format!("{project}/{}", service.name),
        (ServiceKind::Swarm | ServiceKind::Compose | ServiceKind::World, _) => service.name.clone(),
    }
}

/// Tells of a container that is called what a service that it does not work for is called.
fn tell_namesake(notes: &mut Notes, network: &str, task: &str, key: &str, service: &str) {
    notes.warning(
        format!("container {task}"),
        "",
        format!(
            "is called `{key}` on network {network}, as is service {service}; both are answered"
        ),
        "rename the container or take that alias from it, or keep it off that network",
    );
}

/// Tells of services that answer for the same names: two stacks on one network, say.
fn tell_shared(notes: &mut Notes, network: &str, [one, other]: [&str; 2], names: &[&str]) {
    let names: Vec<_> = names.iter().map(|it| format!("`{it}`")).collect();
    notes.warning(
        format!("service {other}"),
        "",
        format!(
            "is called {} on network {network}, as is service {one}; both are answered",
            names.join(", ")
        ),
        "ask for either by a name of its own, take that alias from one of them, or keep them on \
         different networks",
    );
}

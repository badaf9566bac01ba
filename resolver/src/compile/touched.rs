//! Whose claims on which network a new snapshot, or new VIPs, may have changed.
//!
//! Always true here: what is not listed claims what it claimed. What is listed may do so too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use registry::Snapshot;
use registry::id::NetworkId;
use registry::model::Network;
use registry::snapshot::changes::Change;

use super::claims::{Ground, Group};
use crate::plan::{Config, VipTable};

/// What zones follow from, besides the configuration.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) vips: Arc<VipTable>,
}

/// Groups by the network on which they may claim something else.
pub(super) type Touched = BTreeMap<NetworkId, BTreeSet<Group>>;

impl Inputs {
    /// One of the networks in the snapshot, with all that its names follow from.
    pub(super) fn ground<'a>(&'a self, network: &'a Network, config: &'a Config) -> Ground<'a> {
        Ground { snapshot: &self.snapshot, network, vips: &self.vips, config }
    }

    /// The groups whose claims may not be as they were `before`.
    pub(super) fn touched_since(&self, before: &Self) -> Touched {
        let mut touched = Touched::new();
        if !Arc::ptr_eq(&self.snapshot, &before.snapshot) {
            self.touched_by_world(before, &mut touched);
        }
        if !Arc::ptr_eq(&self.vips, &before.vips) {
            for (one, other) in [(before, self), (self, before)] {
                let differ = one.vips.iter().filter(|(it, vip)| other.vips.get(*it) != Some(*vip));
                for ((service, network), _) in differ {
                    let group = Group::Service(service.clone());
                    touched.entry(network.clone()).or_default().insert(group);
                }
            }
        }
        touched
    }

    fn touched_by_world(&self, before: &Self, touched: &mut Touched) {
        let mut touch = |network: &NetworkId, group: &Group| {
            touched.entry(network.clone()).or_default().insert(group.clone());
        };
        let services = self.snapshot.services_since(&before.snapshot);
        for service in services.into_iter().flat_map(Change::sides) {
            let group = Group::Service(service.id.clone());
            service.networks.keys().for_each(|it| touch(it, &group));
            // Its tasks may be on networks that it is not on.
            for snapshot in [&before.snapshot, &self.snapshot] {
                let tasks = snapshot.tasks_of(&service.id);
                tasks.flat_map(|it| it.networks.keys()).for_each(|it| touch(it, &group));
            }
        }
        let tasks = self.snapshot.tasks_since(&before.snapshot);
        for task in tasks.into_iter().flat_map(Change::sides) {
            let group = Group::of(task);
            task.networks.keys().for_each(|it| touch(it, &group));
        }
    }
}

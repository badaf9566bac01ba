//! Labels that containers tell for their Swarm service. Pure.
//!
//! A worker's engine tells the labels of the containers it runs, and no service's. What is asked of
//! every node (balancing, the mesh, health checks) is therefore read of containers too, on managers
//! as on workers, so that all who can know it act alike; a label of the service comes first.

use crate::labels::is_for_every_node;
use crate::model::Labels;
use crate::note::{Notes, shown};
use crate::source::docker::swarm::{Swarm, SwarmService};
use crate::source::docker::view::View;

/// What the containers here tell for the service of that name. The newest one says what the user
/// wants now.
pub(super) fn by_containers(view: &View, service: &str) -> Labels {
    let newest = view.containers_of(service).max_by_key(|it| (it.created, &it.id));
    let labels = newest.into_iter().flat_map(|it| &it.labels);
    labels
        .filter(|(key, _)| is_for_every_node(key))
        .map(|(key, it)| (key.clone(), it.clone()))
        .collect()
}

/// The labels of a manager's service, with those that its containers tell for it.
pub(super) fn by_managers(service: &SwarmService) -> Labels {
    let mut labels = service.container_labels.clone();
    labels.retain(|key, _| is_for_every_node(key));
    labels.extend(service.labels.clone());
    labels
}

/// Says of labels that workers cannot see.
pub(super) fn tell_of_unseen(swarm: &Swarm, notes: &mut Notes) {
    if swarm.nodes.values().all(|it| it.manager) {
        return;
    }
    for service in swarm.services.values() {
        let seen = |key: &String| service.container_labels.contains_key(key);
        for label in service.labels.keys().filter(|it| is_for_every_node(it) && !seen(it)) {
            notes.warning(
                format!("service {}", service.name),
                shown(label),
                "is a label of the service alone, which the engines of workers do not tell; it has \
                 no effect there",
                "set it on the service's containers, with `labels` instead of `deploy.labels` or \
                 with `--container-label-add`",
            );
        }
    }
}

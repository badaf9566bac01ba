//! Services that are made anew under the same name: while tasks of the old one end, gossip takes
//! ports and VIP now from the one, now from the other, because it lists both under their name and
//! answers with those of whichever task it meets first. Pure.
//!
//! Invariants
//! - *forwards*: what was told before does not come back while a task that was listed then is
//!   there, so that ports do not change with each reading;
//! - *not for ever*: what gossip says [`IN_A_ROW`] times is believed: an update may be rolled back,
//!   and who begins to listen in the middle may have taken the old one for the new;
//! - *bounded*: [`MOST`] are remembered.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gossip, GossipService};
use crate::id::NetworkId;

/// Of two services with as many tasks each comes first in every second reading, by chance. After a
/// change gossip is read as often as this at once.
const IN_A_ROW: u32 = 6;

/// More services are not made anew at a time.
const MOST: usize = 1000;

/// The services that were made anew.
#[derive(Debug, Default)]
pub(crate) struct Renewed {
    old: BTreeMap<(NetworkId, String), Old>,
}

/// What a service was.
#[derive(Debug)]
struct Old {
    service: GossipService,
    /// How many readings in a row said so again.
    again: u32,
}

impl Renewed {
    /// Puts right what gossip says of `network` now, after `last` was told of it.
    pub(crate) fn settle(&mut self, gossip: &mut Gossip, network: &NetworkId, last: &Gossip) {
        self.old.retain(|(it, name), old| {
            let listed = gossip.services.get(name);
            it != network || listed.is_some_and(|it| shares_a_task(it, &old.service))
        });
        for (name, service) in &mut gossip.services {
            let Some(before) = last.services.get(name) else { continue };
            let key = (network.clone(), name.clone());
            let old = self.old.get_mut(&key);
            if is_same(before, service) {
                if let Some(old) = old {
                    old.again = 0;
                }
                continue;
            }
            if let Some(old) = old.filter(|it| is_same(&it.service, service)) {
                old.again += 1;
                if old.again < IN_A_ROW {
                    (service.vip, service.ports) = (before.vip, before.ports.clone());
                    continue;
                }
            }
            if self.old.len() < MOST && shares_a_task(service, before) {
                self.old.insert(key, Old { service: before.clone(), again: 0 });
            } else {
                self.old.remove(&key);
            }
        }
    }

    /// This node is not on the network any more.
    pub(crate) fn forget(&mut self, network: &NetworkId) {
        self.old.retain(|(it, _), _| it != network);
    }
}

fn is_same(one: &GossipService, other: &GossipService) -> bool {
    (one.vip, &one.ports) == (other.vip, &other.ports)
}

fn shares_a_task(one: &GossipService, other: &GossipService) -> bool {
    let endpoints: BTreeSet<&str> = one.tasks.iter().map(|it| it.endpoint.as_str()).collect();
    other.tasks.iter().any(|it| endpoints.contains(it.endpoint.as_str()))
}

#[cfg(test)]
mod tests {
    use super::super::GossipTask;
    use super::*;

    /// `web` with this published port and these tasks.
    fn web(port: u16, tasks: &[&str]) -> Gossip {
        let task = |it: &&str| GossipTask {
            name: format!("web.1.{it}"),
            endpoint: (*it).to_owned(),
            address: [10, 0, 0, 9].into(),
            host: None,
        };
        let tasks = tasks.iter().map(task).collect();
        let service = GossipService { vip: None, ports: vec![(port, 80)], tasks };
        Gossip { services: [("web".to_owned(), service)].into(), ..Gossip::default() }
    }

    /// The ports told after each of these readings.
    fn told(readings: &[Gossip]) -> Vec<u16> {
        let (mut renewed, mut last, mut all) = (Renewed::default(), Gossip::default(), vec![]);
        for reading in readings {
            let mut gossip = reading.clone();
            renewed.settle(&mut gossip, &NetworkId::from("n"), &last);
            all.extend(gossip.published());
            last = gossip;
        }
        all
    }

    const BOTH: &[&str] = &["old", "new"];

    #[test]
    fn ports_of_the_old_service_do_not_come_back_while_its_tasks_end() {
        let mut readings = vec![web(1, &["old"])];
        readings.extend([1, 2, 1, 1, 1, 1, 2, 1, 1].map(|port| web(port, BOTH)));
        readings.push(web(2, &["new"]));
        assert_eq!(told(&readings), [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    }

    #[test]
    fn a_service_whose_first_tasks_are_gone_may_have_its_first_ports_again() {
        let readings = [web(1, &["old"]), web(2, BOTH), web(1, &["new", "third"])];
        assert_eq!(told(&readings), [1, 2, 1]);
    }

    #[test]
    fn what_gossip_says_many_times_in_a_row_is_believed() {
        let mut readings = vec![web(2, BOTH), web(1, BOTH)];
        readings.extend(std::iter::repeat_n(web(2, &["new"]), 6));
        assert_eq!(told(&readings), [2, 1, 1, 1, 1, 1, 1, 2]);
    }
}

//! Services that gossip no longer tells of: it forgets one with its last task, so that on a worker
//! a service that was scaled to 0 looks as if it were removed. Pure; the time is an argument.
//!
//! Invariants
//! - *refused, not lost*: for [`REMEMBERED`] such a service stays, without tasks, so that who calls
//!   it is refused at once and its name is not asked outside;
//! - *no ghosts*: one whose VIP is somebody else's now is forgotten at once, and nothing is remembered
//!   of the ingress network: a port that is not published there any more may be anybody's, and where
//!   nobody has it the host itself refuses;
//! - *bounded*: [`MOST`] are remembered; of more, those that came first in this order stay.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Gossip, GossipService};
use crate::id::NetworkId;

/// How long one is remembered: as long as the VIP manager lets a released address rest, and far
/// longer than anybody keeps an answer.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(600);

/// As many are remembered; a worker sees the services of its own networks only.
const MOST: usize = 1000;

/// The services that are absent.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    gone: BTreeMap<(NetworkId, String), Gone>,
}

#[derive(Debug)]
struct Gone {
    since: Instant,
    /// What gossip told of it, without its tasks.
    service: GossipService,
}

impl Absent {
    /// Adds to what gossip says of `network` now the services that it told of in `last`, or before
    /// that, without their tasks. `last` is `None` where nothing was read yet since the engine was
    /// connected to.
    pub(crate) fn add_to(
        &mut self,
        gossip: &mut Gossip,
        network: &NetworkId,
        last: Option<&Gossip>,
        now: Instant,
    ) {
        for (name, service) in last.into_iter().flat_map(|it| &it.services) {
            // One without tasks is remembered already, or its time is over.
            let is_listed = gossip.services.contains_key(name);
            if !is_listed && !service.tasks.is_empty() && self.gone.len() < MOST {
                let service = GossipService { tasks: Vec::new(), ..service.clone() };
                let key = (network.clone(), name.clone());
                self.gone.entry(key).or_insert(Gone { since: now, service });
            }
        }
        self.gone.retain(|(it, name), gone| {
            let is_back = it == network && gossip.services.contains_key(name);
            let is_over = now.saturating_duration_since(gone.since) >= REMEMBERED;
            let is_another_s = it == network && is_replaced(&gone.service, gossip);
            !is_back && !is_over && !is_another_s
        });
        for ((_, name), gone) in self.gone.iter().filter(|((it, _), _)| it == network) {
            gossip.services.insert(name.clone(), gone.service.clone());
        }
    }

    /// This node is not on the network any more: what happens there it does not hear.
    pub(crate) fn forget(&mut self, network: &NetworkId) {
        self.gone.retain(|(it, _), _| it != network);
    }
}

/// Whether somebody else has its VIP now.
fn is_replaced(service: &GossipService, gossip: &Gossip) -> bool {
    service.vip.is_some() && gossip.services.values().any(|it| it.vip == service.vip)
}

#[cfg(test)]
mod tests {
    use super::super::GossipTask;
    use super::*;

    fn service(vip: u8, tasks: usize) -> GossipService {
        let task = |number: usize| GossipTask {
            name: format!("t.{number}"),
            endpoint: number.to_string(),
            address: [10, 0, 1, 100].into(),
            host: None,
        };
        let vip = Some([10, 0, 1, vip].into());
        GossipService { vip, ports: Vec::new(), tasks: (0..tasks).map(task).collect() }
    }

    fn gossip(services: &[(&str, GossipService)]) -> Gossip {
        let services = services.iter().map(|(name, it)| ((*name).to_owned(), it.clone()));
        Gossip { services: services.collect(), ..Gossip::default() }
    }

    /// What is told after each of these readings, a minute after the one before.
    fn told(readings: &[Gossip]) -> Vec<Gossip> {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let begin = Instant::now();
        let network = NetworkId::from("n");
        let (mut absent, mut last, mut all) = (Absent::default(), Gossip::default(), vec![]);
        for (minute, reading) in (0..).zip(readings) {
            let mut now = reading.clone();
            absent.add_to(
                &mut now,
                &network,
                Some(&last),
                begin + Duration::from_secs(60 * minute),
            );
            all.push(now.clone());
            last = now;
        }
        assert!(absent.gone.len() <= MOST);
        all
    }

    #[test]
    fn a_service_scaled_to_nothing_stays_without_tasks_for_ten_minutes() {
        let none = gossip(&[]);
        let mut readings = vec![gossip(&[("web", service(2, 3))])];
        readings.extend(std::iter::repeat_n(none.clone(), 12));
        let told = told(&readings);
        let idle = gossip(&[("web", service(2, 0))]);
        assert!(told[1..=10].iter().all(|it| *it == idle), "{told:?}");
        assert_eq!(told[11..], [none.clone(), none]);
    }

    #[test]
    fn one_that_comes_back_is_as_gossip_says_and_may_go_again() {
        let (web, none) = (gossip(&[("web", service(2, 1))]), gossip(&[]));
        let idle = gossip(&[("web", service(2, 0))]);
        let told = told(&[web.clone(), none.clone(), web.clone(), none]);
        assert_eq!(told, [web.clone(), idle.clone(), web, idle]);
    }

    #[test]
    fn one_whose_vip_is_another_s_now_is_forgotten() {
        let (old, new) = (gossip(&[("web", service(2, 1))]), gossip(&[("api", service(2, 1))]));
        assert_eq!(told(&[old, new.clone()])[1], new);
    }
}

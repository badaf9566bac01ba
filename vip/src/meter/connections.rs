//! How many connections go through VIPs now, by service and task: what conntrack remembers.
//!
//! Invariants
//! - *bounded*: a look ends at its deadline, between two namespaces, and says what it missed; of
//!   more tasks than it may tell of, the rest is one number, and so is what goes to addresses that
//!   are no task's: a container may lead its own flows wherever it likes;
//! - *passing by is not counted*: only flows that portolan's rules translated, of which neither side
//!   has begun to close.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kernel::conntrack::{Conntrack, Flow, FlowFilter};
use tokio::time::Instant;

use crate::flows;
use crate::plan::Balances;
use crate::sandbox::{self, SandboxError};

/// A namespace with a table.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) netns: PathBuf,
    pub(crate) cookie: u64,
    pub(crate) balances: Arc<Balances>,
}

/// The connections of one task, from all sandboxes of this node.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct TaskConnections {
    /// The service's name.
    pub service: String,
    /// The network's name.
    pub network: String,
    /// The task's address there.
    pub task: IpAddr,
    /// TCP connections.
    pub tcp: u64,
    /// Flows of UDP that were answered.
    pub udp: u64,
}

/// What a look came to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Connections {
    /// By service, network and task.
    pub tasks: Vec<TaskConnections>,
    /// Those of tasks beyond the bound, and of addresses that are no task's, or no longer.
    pub others: u64,
    /// Namespaces that were not looked at: there was no time, or they could not be entered.
    pub missed: usize,
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Tally<'a> {
    /// TCP and UDP, by service, network and task.
    tasks: BTreeMap<(&'a str, &'a str, IpAddr), [u64; 2]>,
    /// To nobody's addresses.
    strays: u64,
}

/// Under what a flow counts.
#[derive(Debug, Eq, PartialEq)]
enum Key<'a> {
    /// A task's, and which of TCP and UDP it is.
    Task((&'a str, &'a str, IpAddr), usize),
    /// Nobody's.
    Stray,
}

/// Looks at all of them until `deadline`.
pub(crate) fn look(places: &[Place], deadline: Instant, most: usize) -> Connections {
    let tally = RefCell::new(Tally::default());
    let mut missed = 0;
    for (nth, place) in places.iter().enumerate() {
        if Instant::now() >= deadline {
            missed += places.len() - nth;
            break;
        }
        missed += usize::from(place.count(&tally).is_err());
    }
    told(tally.into_inner(), most, missed)
}

fn told(tally: Tally<'_>, most: usize, missed: usize) -> Connections {
    let beyond = tally.tasks.values().skip(most);
    let others = beyond.map(|[tcp, udp]| tcp + udp).sum::<u64>() + tally.strays;
    let one = |((service, network, task), [tcp, udp]): ((&str, &str, IpAddr), [u64; 2])| {
        let (service, network) = (service.to_owned(), network.to_owned());
        TaskConnections { service, network, task, tcp, udp }
    };
    Connections { tasks: tally.tasks.into_iter().take(most).map(one).collect(), others, missed }
}

impl Place {
    fn count<'a>(&'a self, tally: &RefCell<Tally<'a>>) -> Result<(), SandboxError> {
        let Some(netns) = sandbox::open(&self.netns, Some(self.cookie))? else { return Ok(()) };
        // Counted as they come, so that no list of them is kept.
        let count = |flow: &Flow| {
            let mut tally = tally.borrow_mut();
            match self.key(flow) {
                Some(Key::Task(key, protocol)) => {
                    let counts = tally.tasks.entry(key).or_default();
                    if let Some(count) = counts.get_mut(protocol) {
                        *count += 1;
                    }
                }
                Some(Key::Stray) => tally.strays += 1,
                None => {}
            }
            false
        };
        Conntrack::open(&netns)?.entries(&FlowFilter::default(), count)?;
        Ok(())
    }

    /// Under what a flow counts, if it does.
    fn key(&self, flow: &Flow) -> Option<Key<'_>> {
        let protocol = match flow.protocol {
            6 => 0,
            17 => 1,
            _ => return None,
        };
        let balance = self.balances.get(&flow.original_destination)?;
        let task = flow.reply_source;
        (flows::is_led(flow) && flow.open).then(|| {
            let known = balance.alive.contains(&task);
            let key = || Key::Task((&balance.service, &balance.network, task), protocol);
            if known { key() } else { Key::Stray }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Balance;

    #[test]
    fn tasks_beyond_the_bound_are_one_number() {
        let task = |last: u8| IpAddr::from([10, 0, 1, last]);
        let tasks = [
            (("a", "front", task(1)), [3, 0]),
            (("a", "front", task(2)), [1, 1]),
            (("b", "front", task(3)), [4, 2]),
            (("c", "front", task(4)), [5, 0]),
        ]
        .into();
        let told = told(Tally { tasks, strays: 5 }, 2, 1);
        assert_eq!(told.tasks.len(), 2);
        assert_eq!((told.others, told.missed), (16, 1));
    }

    #[test]
    fn a_flow_to_an_address_that_is_no_tasks_has_no_series_of_its_own() {
        let at = |last: u8| IpAddr::from([10, 0, 1, last]);
        let balance = Balance {
            service: "web".to_owned(),
            network: "front".to_owned(),
            alive: [at(3)].into(),
            ..Balance::default()
        };
        let balances = Arc::new([(at(2), Arc::new(balance))].into());
        let place = Place { netns: PathBuf::new(), cookie: 1, balances };
        let to = |last| Flow {
            protocol: 6,
            original_source: at(100),
            original_source_port: 40_000,
            original_destination: at(2),
            original_port: 80,
            reply_source: at(last),
            reply_source_port: 80,
            reply_destination: at(100),
            reply_port: 40_000,
            nat: true,
            replied: true,
            open: true,
            ended: false,
        };
        assert_eq!(place.key(&to(3)), Some(Key::Task(("web", "front", at(3)), 0)));
        assert_eq!(place.key(&to(66)), Some(Key::Stray));
        assert_eq!(place.key(&to(2)), None, "not led by us");
    }
}

//! How many connections go through VIPs now, by service and task: what conntrack remembers.
//!
//! Invariants
//! - *bounded*: a look ends at its deadline, between two namespaces, and says what it missed; of
//!   more tasks than it may tell of, the rest is one number;
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
    /// Those of tasks beyond the bound.
    pub others: u64,
    /// Namespaces that were not looked at: there was no time, or they could not be entered.
    pub missed: usize,
}

/// TCP and UDP, by service, network and task.
type Tally<'a> = BTreeMap<(&'a str, &'a str, IpAddr), [u64; 2]>;

/// Looks at all of them until `deadline`.
pub(crate) fn look(places: &[Place], deadline: Instant, most: usize) -> Connections {
    let tally = RefCell::new(Tally::new());
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
    let beyond = tally.values().skip(most);
    let others = beyond.map(|[tcp, udp]| tcp + udp).sum();
    let one = |((service, network, task), [tcp, udp]): ((&str, &str, IpAddr), [u64; 2])| {
        let (service, network) = (service.to_owned(), network.to_owned());
        TaskConnections { service, network, task, tcp, udp }
    };
    Connections { tasks: tally.into_iter().take(most).map(one).collect(), others, missed }
}

impl Place {
    fn count<'a>(&'a self, tally: &RefCell<Tally<'a>>) -> Result<(), SandboxError> {
        let Some(netns) = sandbox::open(&self.netns, Some(self.cookie))? else { return Ok(()) };
        // Counted as they come, so that no list of them is kept.
        let count = |flow: &Flow| {
            if let Some((key, protocol)) = self.key(flow)
                && let Some(count) = tally.borrow_mut().entry(key).or_default().get_mut(protocol)
            {
                *count += 1;
            }
            false
        };
        Conntrack::open(&netns)?.entries(&FlowFilter::default(), count)?;
        Ok(())
    }

    /// Under what a flow counts, if it does.
    fn key(&self, flow: &Flow) -> Option<((&str, &str, IpAddr), usize)> {
        let protocol = match flow.protocol {
            6 => 0,
            17 => 1,
            _ => return None,
        };
        let balance = self.balances.get(&flow.original_destination)?;
        let counts = flows::is_led(flow) && flow.open;
        counts.then_some(((&balance.service, &balance.network, flow.reply_source), protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_beyond_the_bound_are_one_number() {
        let task = |last: u8| IpAddr::from([10, 0, 1, last]);
        let tally: Tally<'_> = [
            (("a", "front", task(1)), [3, 0]),
            (("a", "front", task(2)), [1, 1]),
            (("b", "front", task(3)), [4, 2]),
            (("c", "front", task(4)), [5, 0]),
        ]
        .into();
        let told = told(tally, 2, 1);
        assert_eq!(told.tasks.len(), 2);
        assert_eq!((told.others, told.missed), (11, 1));
    }
}

//! What the kernel holds in one namespace, looked at anew and compared with the plan.
//!
//! Invariants
//! - *read only*: nothing is changed, and nothing is believed that was known before;
//! - *bounded*: of many differences the first [`MOST`] are told, and the rest are counted.

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::conntrack::{self, Flow};
use kernel::netns::Netns;
use kernel::nft::Socket;

use crate::diff::diff_balances;
use crate::plan::{Balances, SandboxPlan};
use crate::readback;
use crate::relay::annex;
use crate::routes;
use crate::sandbox::{self, SandboxError};

/// As many differences of one namespace are told.
pub const MOST: usize = 20;
/// As many flows that lead nowhere are told.
const MOST_FLOWS: usize = 1000;

/// What is in one namespace.
#[derive(Debug)]
pub struct Inspection {
    /// The table that spreads connections.
    pub table: TableFound,
    /// What the plan asks for and the namespace does not hold, or the other way round; a line each.
    pub differences: Vec<String>,
    /// Flows through VIPs to addresses that no task has any more.
    pub astray: Vec<Flow>,
}

/// The table as it was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TableFound {
    /// There is none.
    Nothing,
    /// One that a portolan made.
    Ours {
        /// Where it sends connections.
        balances: Arc<Balances>,
        /// Whether it works: it switches itself off when no portolan looks after it.
        alive: bool,
    },
    /// One of our name that is not as portolan makes it, and what is strange about it.
    Strange(String),
    /// None is needed: VIPs are led to the relay.
    Relayed,
}

/// Looks into the namespace of `plan`; `None`: it is not there any more.
pub fn inspect(plan: &SandboxPlan) -> Result<Option<Inspection>, SandboxError> {
    let Some(netns) = sandbox::open(&plan.netns, plan.cookie)? else { return Ok(None) };
    if annex::is_beside(&netns) {
        let (table, astray) = (TableFound::Relayed, Vec::new());
        let mut differences = annex::differences(&netns, plan.balances.keys())?;
        shorten(&mut differences);
        return Ok(Some(Inspection { table, differences, astray }));
    }
    let table = table(&netns, &plan.balances)?;
    let mut differences = table.differences(&plan.balances);
    let there = routes::there(&netns)?;
    let missing = plan.routes.difference(&there).map(|it| format!("route {it} is missing"));
    differences.extend(missing);
    let odd = there.difference(&plan.routes).map(|it| format!("route {it} is not in the plan"));
    differences.extend(odd);
    let astray = astray(&netns, &plan.balances)?;
    shorten(&mut differences);
    Ok(Some(Inspection { table, differences, astray }))
}

fn table(netns: &Netns, planned: &Balances) -> Result<TableFound, SandboxError> {
    let found = readback::read_back(&mut Socket::open(netns)?, netns, planned)?;
    Ok(match found.strange.into_values().next() {
        Some(what) => TableFound::Strange(what.to_owned()),
        None if found.held.tables.is_empty() => TableFound::Nothing,
        None => TableFound::Ours { balances: found.held.balances, alive: found.alive },
    })
}

impl TableFound {
    /// What is between this table and what `want` asks for.
    fn differences(&self, want: &Balances) -> Vec<String> {
        match self {
            Self::Nothing if want.is_empty() => Vec::new(),
            Self::Relayed => Vec::new(),
            Self::Nothing => vec!["its VIP table is missing".to_owned()],
            Self::Strange(what) => vec![format!("its VIP table is not portolan's: {what}")],
            Self::Ours { balances, alive } => {
                let off = "its VIP table has switched itself off".to_owned();
                let off = (!alive).then_some(off);
                // Who may keep connections is not in the table.
                let changes = diff_balances(balances, want);
                let changes = changes.iter().filter(|it| it.is_of_the_table());
                off.into_iter().chain(changes.map(|it| format!("to be done: {it}"))).collect()
            }
        }
    }
}

/// Flows that portolan's rules led to a task that is gone. What began before and was answered by
/// others is not ours to judge.
fn astray(netns: &Netns, balances: &Balances) -> Result<Vec<Flow>, SandboxError> {
    if balances.is_empty() {
        return Ok(Vec::new());
    }
    let mut flows = conntrack::flows(netns)?;
    flows.retain(|flow| {
        let balance = balances.get(&flow.original_destination);
        let led = crate::flows::is_led(flow) && !flow.ended;
        led && balance.is_some_and(|it| !it.alive.contains(&flow.reply_source))
    });
    // In an order of their own, so that two looks tell of the same ones.
    flows.sort_unstable_by_key(|it| (it.original_source, it.original_source_port));
    flows.truncate(MOST_FLOWS);
    Ok(flows)
}

fn shorten(lines: &mut Vec<String>) {
    let more = lines.len().saturating_sub(MOST);
    if more > 0 {
        lines.truncate(MOST);
        lines.push(format!("and {more} more"));
    }
    // The same may be missing for many VIPs.
    let mut seen = BTreeSet::new();
    lines.retain(|it| seen.insert(it.clone()));
}

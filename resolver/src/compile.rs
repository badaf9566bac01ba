//! Decides what every sandbox can resolve: `Snapshot -> Plan`. Total: a bad name becomes a note on
//! its owner, and everything else goes on.
//!
//! Invariants
//! - *scoped*: a view holds zones of its sandbox's networks only, and none of an ingress network;
//! - *stable*: the same world gives an equal plan, in whatever order its parts came, and whatever
//!   was compiled before it;
//! - *never to ourselves*: no server in a plan is this resolver.
//!
//! Pure. What somebody has to say on one network stands in [`claims`]; what becomes of all that is
//! said there in [`ledger`]; what need not be asked again in [`touched`]; and what one sandbox
//! sees of it in [`view`].

mod claims;
mod ledger;
mod touched;
mod view;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use registry::id::NetworkId;
use registry::{Notes, Snapshot};

pub(crate) use claims::{has_names, service_names};

use crate::plan::{Config, Plan, VipTable, Zone};
use ledger::Ledger;
use touched::Inputs;

/// Where every sandbox asks.
pub(crate) const SANDBOX_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// What everybody can resolve, as of `snapshot`; `vips` are those that no source fixed. A service
/// in mode vip that has none yet is answered by its tasks.
pub fn compile(snapshot: &Snapshot, vips: &VipTable, config: &Config) -> (Plan, Notes) {
    let inputs = Inputs { snapshot: Arc::new(snapshot.clone()), vips: Arc::new(vips.clone()) };
    Compiler::new(config.clone()).follow(inputs)
}

/// Compiles one snapshot after another, and makes anew only what follows from what changed.
#[derive(Debug)]
pub struct Compiler {
    config: Config,
    /// What the ledgers are of; `None`: there are none.
    last: Option<Inputs>,
    ledgers: BTreeMap<NetworkId, Ledger>,
}

impl Compiler {
    /// One that has seen nothing yet.
    pub fn new(config: Config) -> Self {
        Self { config, last: None, ledgers: BTreeMap::new() }
    }

    /// How names are answered.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What [`compile`] says, with the zones of the last plan wherever they say the same.
    pub fn compile(&mut self, snapshot: &Arc<Snapshot>, vips: &Arc<VipTable>) -> (Plan, Notes) {
        self.follow(Inputs { snapshot: Arc::clone(snapshot), vips: Arc::clone(vips) })
    }

    fn follow(&mut self, now: Inputs) -> (Plan, Notes) {
        self.bring_up(&now);
        let mut notes = Notes::default();
        for ledger in self.ledgers.values() {
            notes.extend(ledger.notes().clone());
        }
        let plan = plan(&now.snapshot, self.zones(), &self.config, &mut notes);
        self.last = Some(now);
        (plan, notes)
    }

    /// Makes the ledgers those of `now`.
    fn bring_up(&mut self, now: &Inputs) {
        let last = self.last.take();
        let mut known = std::mem::take(&mut self.ledgers);
        let touched = last.as_ref().map(|it| now.touched_since(it)).unwrap_or_default();
        for network in now.snapshot.networks().filter(|it| !it.ingress) {
            let ground = now.ground(network, &self.config);
            let before = last.as_ref().and_then(|it| {
                let network = it.snapshot.network(&network.id)?;
                Some(it.ground(network, &self.config)).filter(|it| it.is_like(ground))
            });
            let ledger = match (known.remove(&network.id), before) {
                (Some(mut ledger), Some(before)) => {
                    if let Some(groups) = touched.get(&network.id) {
                        ledger.follow(before, ground, groups);
                    }
                    ledger
                }
                (_, _) => Ledger::new(ground),
            };
            self.ledgers.insert(network.id.clone(), ledger);
        }
    }

    fn zones(&self) -> BTreeMap<NetworkId, Arc<Zone>> {
        self.ledgers.iter().map(|(id, it)| (id.clone(), Arc::clone(it.zone()))).collect()
    }
}

fn plan(
    snapshot: &Snapshot,
    zones: BTreeMap<NetworkId, Arc<Zone>>,
    config: &Config,
    notes: &mut Notes,
) -> Plan {
    let suffixes = config.upstream.suffixes.keys().cloned().collect();
    let mut views = BTreeMap::new();
    let mut places: BTreeMap<(&Path, Option<u64>), &str> = BTreeMap::new();
    for sandbox in snapshot.sandboxes() {
        let place = (sandbox.netns.as_path(), sandbox.cookie);
        if let Some(first) = places.get(&place) {
            notes.error(
                format!("sandbox {}", sandbox.name),
                "netns",
                format!("is the network namespace of sandbox {first} too; only that one is served"),
                "list a namespace once, with all its networks",
            );
            continue;
        }
        places.insert(place, &sandbox.name);
        let view = view::view(snapshot, sandbox, &zones, (config, &suffixes), notes);
        views.insert(sandbox.id.clone(), Arc::new(view));
    }
    let host = Arc::new(view::host_view(snapshot, &zones, config));
    Plan { views, host, zones }
}

/// A TTL as DNS carries it: whole seconds, at most 2^31 - 1 (RFC 2181 section 8).
pub(crate) fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests;

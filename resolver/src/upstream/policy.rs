//! What the operator wants of all sandboxes' questions.
//!
//! Always true here: a name that only private networks can know is asked of no server of the world.

use std::sync::Arc;

use super::UpstreamConfig;
use super::cache::Budget;
use super::private::is_private;
use super::rebinding::Filter;
use super::register::Register;
use super::server::Server;
use super::suffix::longest;
use super::tls::Lines;
use crate::name::Name;
use crate::wire::Query;

/// What the operator wants, and what all share for it.
#[derive(Debug)]
pub(crate) struct Policy {
    suffixes: Vec<(String, Vec<Server>)>,
    /// What may not be told, if anything.
    pub(super) filter: Option<Filter>,
    /// For all caches together.
    pub(super) budget: Arc<Budget>,
    /// Ways to servers over TLS.
    pub(super) lines: Lines,
    /// Where all who ask are listed.
    pub(super) register: Arc<Register>,
}

impl Policy {
    /// As configured; who asks is listed in `register`.
    pub(crate) fn new(config: &UpstreamConfig, register: &Arc<Register>) -> Self {
        let suffixes = config.suffixes.iter().map(|(key, it)| (key.clone(), it.clone())).collect();
        let names = config.rebinding_allow.iter().chain(config.suffixes.keys());
        let allowed: Vec<Name> = names.filter_map(|it| Name::from_text(it).ok()).collect();
        let filter = config.rebinding_filter.then(|| Filter::new(&allowed));
        let budget = Arc::new(Budget::new(config.cache_bytes));
        let (lines, register) = (Lines::new(config), Arc::clone(register));
        Self { suffixes, filter, budget, lines, register }
    }

    /// Which servers are asked about the name of `query` by one who has `given` ones. `None`: only
    /// private networks know such names, and there is no server on one.
    pub(super) fn servers(&self, given: &[Server], query: &Query) -> Option<Vec<Server>> {
        let servers = longest(&self.suffixes, &query.name.key()).map_or(given, Vec::as_slice);
        let private = is_private(&query.name, query.kind);
        let asked = servers.iter().filter(|it| !private || it.is_private()).take(Server::MAX);
        let asked: Vec<_> = asked.cloned().collect();
        (!private || !asked.is_empty()).then_some(asked)
    }
}

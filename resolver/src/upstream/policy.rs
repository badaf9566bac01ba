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
        let Choice { asked, private, .. } = choice(&self.suffixes, given, query);
        (!private || !asked.is_empty()).then(|| asked.into_iter().cloned().collect())
    }
}

/// Which servers a question goes to, and which not.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    /// The suffix by which they were chosen, if by one.
    pub(crate) suffix: Option<&'a str>,
    /// Those that are asked, in the order in which they were named.
    pub(crate) asked: Vec<&'a Server>,
    /// Those of the world, which cannot know such a name.
    pub(crate) passed_over: Vec<&'a Server>,
    /// Those beyond [`Server::MAX`].
    pub(crate) beyond: Vec<&'a Server>,
    /// Whether only private networks know such names.
    private: bool,
}

/// Which servers are asked `query` by one who has `given` ones, where others know names below
/// `suffixes`.
pub(crate) fn choice<'a>(
    suffixes: &'a [(String, Vec<Server>)],
    given: &'a [Server],
    query: &Query,
) -> Choice<'a> {
    let rule = longest(suffixes, &query.name.key());
    let servers = rule.map_or(given, |(_, servers)| servers.as_slice());
    let private = is_private(&query.name, query.kind);
    let (mut asked, passed_over): (Vec<_>, Vec<_>) =
        servers.iter().partition(|it| !private || it.is_private());
    let beyond = asked.split_off(asked.len().min(Server::MAX));
    let suffix = rule.map(|(suffix, _)| suffix.as_str());
    Choice { suffix, asked, passed_over, beyond, private }
}

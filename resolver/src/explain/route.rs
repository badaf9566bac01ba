//! Whom a question goes to that nobody here can answer.

use std::fmt;

use registry::model::{Dial, Origin};

use super::{Question, listed};
use crate::name::Name;
use crate::plan::Outside;
use crate::upstream::{Server, UpstreamConfig, is_private, longest};
use crate::wire::Kind;

/// The servers that a question goes to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Route {
    /// The suffix by which they were chosen (`dns.suffixes`).
    pub suffix: Option<String>,
    /// Where they stand written, as in `of the host's resolv.conf`.
    pub origin: &'static str,
    /// In the order in which they were named; none: nobody is asked.
    pub servers: Vec<Server>,
    /// Those that are not asked about it, because it means something on private networks only
    /// and they are not there.
    pub passed_over: Vec<Server>,
    /// Those beyond the number that is ever asked.
    pub beyond: Vec<Server>,
}

/// Whom the question goes to.
pub(super) fn route(question: &Question<'_>, config: &UpstreamConfig, asked: &Name) -> Route {
    let kind = question.form.kinds().first().copied().unwrap_or(Kind::A);
    let suffixes: Vec<_> =
        config.suffixes.iter().map(|(key, it)| (key.clone(), (key, it))).collect();
    let (suffix, servers) = match longest(&suffixes, question.key) {
        Some((suffix, servers)) => (Some((*suffix).clone()), servers.as_slice()),
        None => match &question.view.outside {
            Outside::Servers(servers) => (None, servers.as_slice()),
            Outside::Internal | Outside::NoServers => (None, &[][..]),
        },
    };
    let origin = match (&suffix, origin(question)) {
        (Some(_), _) => "of `dns.suffixes`",
        (None, Some(Origin::Sandbox)) => "given to this container",
        (None, Some(Origin::Engine)) => "of the engine's configuration",
        (None, _) if !config.servers.is_empty() => "of `dns.upstreams`",
        (None, _) => "of the host's resolv.conf",
    };
    let private = is_private(asked, kind);
    let (servers, passed_over): (Vec<Server>, Vec<Server>) =
        servers.iter().cloned().partition(|it| !private || it.is_private());
    let (mut servers, mut beyond) = (servers, Vec::new());
    beyond.extend(servers.drain(Server::MAX.min(servers.len())..));
    Route { suffix, origin, servers, passed_over, beyond }
}

fn origin(question: &Question<'_>) -> Option<Origin> {
    question.snapshot.sandbox(&question.view.sandbox).map(|it| it.upstreams_from)
}

impl Route {
    /// Who is asked, in words.
    pub(super) fn in_words(&self) -> String {
        match (self.servers.as_slice(), self.passed_over.as_slice()) {
            ([], []) => "refused: no name server is asked about it (SERVFAIL)".to_owned(),
            ([], _) => "no such name (NXDOMAIN)".to_owned(),
            (some, _) => {
                format!("not ours; asked of {}", listed(some.iter().map(ToString::to_string), ", "))
            }
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { suffix, origin, servers, passed_over, beyond } = self;
        if let Some(suffix) = suffix {
            writeln!(f, "  names below `{suffix}` are asked of servers of their own")?;
        }
        for server in servers {
            let place = match server.dial {
                Dial::Host => "from the host",
                Dial::Sandbox => "from inside this container",
            };
            writeln!(f, "  {server} ({origin}, asked {place})")?;
        }
        if !passed_over.is_empty() {
            let passed = listed(passed_over.iter().map(ToString::to_string), ", ");
            writeln!(
                f,
                "  {passed}: not asked, because only servers on private networks can know such \
                 names; `dns.suffixes` can name one"
            )?;
        }
        if !beyond.is_empty() {
            let beyond = listed(beyond.iter().map(ToString::to_string), ", ");
            writeln!(f, "  {beyond}: not asked, because no more than {} are", Server::MAX)?;
        }
        Ok(())
    }
}

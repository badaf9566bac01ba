//! Whom a question goes to that nobody here can answer.

use std::fmt;

use registry::model::{Dial, Origin};

use super::{Question, listed};
use crate::plan::Outside;
use crate::upstream::{KeptAnswer, KeptAs, Outlook, Server, ServerOutlook, Standing, choice};
use crate::wire::{Kind, Query};

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
    /// What is known of them, and of what was asked before.
    pub outlook: Outlook,
}

/// Whom the question goes to, which is `query`.
pub(super) fn route(question: &Question<'_>, query: &Query, outlook: Outlook) -> Route {
    let config = question.config;
    let suffixes: Vec<_> =
        config.suffixes.iter().map(|(key, it)| (key.clone(), it.clone())).collect();
    let given = match &question.view.outside {
        Outside::Servers(servers) => servers.as_slice(),
        Outside::Internal | Outside::NoServers => &[],
    };
    let choice = choice(&suffixes, given, query);
    let origin = match (choice.suffix, origin(question)) {
        (Some(_), _) => "of `dns.suffixes`",
        (None, Some(Origin::Sandbox)) => "given to this container",
        (None, Some(Origin::Engine)) => "of the engine's configuration",
        (None, _) if !config.servers.is_empty() => "of `dns.upstreams`",
        (None, _) => "of the host's resolv.conf",
    };
    let own = |servers: Vec<&Server>| servers.into_iter().cloned().collect();
    Route {
        suffix: choice.suffix.map(str::to_owned),
        origin,
        servers: own(choice.asked),
        passed_over: own(choice.passed_over),
        beyond: own(choice.beyond),
        outlook,
    }
}

/// Who named the servers of the sandbox.
pub(super) fn origin(question: &Question<'_>) -> Option<Origin> {
    question.snapshot.sandbox(&question.view.sandbox).map(|it| it.upstreams_from)
}

impl Route {
    /// Whether it is certain that a question about so many types gets no records.
    pub(super) fn is_negative(&self, types: usize) -> bool {
        let fresh = || self.outlook.kept.iter().filter(|it| !it.stale);
        let none = |it: &&KeptAnswer| matches!(it.says, KeptAs::NoData | KeptAs::Blocked);
        let says = |says| fresh().any(|it| it.says == says);
        self.servers.is_empty()
            || says(KeptAs::NoName)
            || says(KeptAs::Failure) && !self.has_records()
            || fresh().filter(none).count() == types
    }

    /// Whether such records are kept.
    pub(super) fn has_records(&self) -> bool {
        self.outlook.kept.iter().any(|it| matches!(it.says, KeptAs::Records(_)))
    }

    /// Whether none of its servers answers, as far as is known.
    pub(super) fn is_dead(&self) -> bool {
        let down = |it: &Server| self.known(it).is_some_and(|it| it.standing == Standing::Down);
        !self.servers.is_empty() && self.servers.iter().all(down)
    }

    fn known(&self, server: &Server) -> Option<&ServerOutlook> {
        self.outlook.servers.iter().find(|it| it.server == *server)
    }

    /// How `server` is.
    fn how(&self, server: &Server) -> String {
        let Some(ServerOutlook { standing, rtt, .. }) = self.known(server) else {
            return "not asked yet".to_owned();
        };
        let pace = rtt.map(|it| format!(" in {:.1} ms", it.as_secs_f64() * 1e3));
        match standing {
            Standing::Unknown => "not asked yet".to_owned(),
            Standing::Up => format!("answers{}", pace.unwrap_or_default()),
            Standing::Failing => "did not answer the last time".to_owned(),
            Standing::Down => {
                "does not answer, and is asked now and then to see whether it is back".to_owned()
            }
        }
    }

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
        let Self { suffix, origin, servers, passed_over, beyond, outlook } = self;
        if let Some(suffix) = suffix {
            writeln!(f, "  names below `{suffix}` are asked of servers of their own")?;
        }
        for server in servers {
            let place = match server.dial {
                Dial::Host => "from the host",
                Dial::Sandbox => "from inside this container",
            };
            let how = self.how(server);
            writeln!(f, "  {server} ({origin}, asked {place}): {how}")?;
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
        let kept: Vec<String> = outlook.kept.iter().map(kept).collect();
        if !kept.is_empty() {
            writeln!(f, "  kept from before: {}", kept.join("; "))?;
        }
        Ok(())
    }
}

/// A kept answer, in words.
fn kept(answer: &KeptAnswer) -> String {
    let KeptAnswer { kind, says, stale, seconds } = answer;
    let kind = match *kind {
        Kind::A => "A".to_owned(),
        Kind::AAAA => "AAAA".to_owned(),
        Kind::PTR => "PTR".to_owned(),
        Kind::SRV => "SRV".to_owned(),
        Kind(other) => format!("TYPE{other}"),
    };
    let what = match says {
        KeptAs::Records(_) => format!("its {kind} records"),
        KeptAs::NoData => format!("that it has no {kind} records"),
        KeptAs::NoName => format!("that there is no such name ({kind})"),
        KeptAs::Failure => format!("that no server could say ({kind})"),
        KeptAs::Blocked => format!("{kind} records that the filter against rebinding holds back"),
    };
    if *stale {
        format!("{what}, over for {seconds} s and told while no server answers")
    } else {
        format!("{what}, for {seconds} s more")
    }
}

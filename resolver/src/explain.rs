//! Says why a name resolves in a sandbox the way it does, or why not and what would make it.
//!
//! Invariants
//! - *the answer told is the one given*: it comes from [`decide`], with what decided; this only
//!   adds where was looked, who holds the name, and what would change it;
//! - *nobody is asked*: neither servers outside nor the engine;
//! - *bounded*: of many holders, tasks and networks some are named and the others counted.
//!
//! Pure. Read in this order: `place` (where was looked), `holder` (who is there), `route` (whom
//! else is asked), `words` (the answer, and what decided), `advice` (what to do), with `elsewhere` and `similar`.

mod advice;
mod elsewhere;
mod holder;
mod place;
mod route;
mod similar;
mod words;

use std::fmt;
use std::net::IpAddr;

use registry::Snapshot;
use registry::id::SandboxId;

pub use self::route::Route;
use crate::answer::{Verdict, decide, is_reverse};
use crate::name::Name;
use crate::plan::{Plan, View};
use crate::upstream::{Outlook, UpstreamConfig};
use crate::wire::{Kind, Query};

/// Why a name resolves as it does. Its [`fmt::Display`] is what `portolan explain dns` prints.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Explanation {
    /// Who asks.
    pub sandbox: String,
    /// What is asked, as it was written.
    pub name: String,
    /// What is answered, in words.
    pub answer: String,
    /// Where was looked, in order.
    pub steps: Vec<Step>,
    /// Whom else the question goes to, where it does.
    pub route: Option<Route>,
    /// What would make it work, or what is peculiar about it.
    pub advice: Vec<String>,
    negative: bool,
}

/// One place where a name was looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// The network's name, `links` or `extra hosts`.
    pub place: String,
    /// What was looked for there: a part of the name asked, where its end named the network.
    pub name: String,
    /// Who holds it there; empty: nobody.
    pub holders: Vec<String>,
}

impl Explanation {
    /// Whether it is certain that there is no answer with records. What somebody else decides is
    /// not certain.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// The places where somebody has the name.
    fn found(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|it| !it.is_empty())
    }
}

impl Step {
    fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sandbox, name, answer, steps, route, advice, negative: _ } = self;
        writeln!(f, "{name} from {sandbox}: {answer}")?;
        // Places in a row where nobody has the name are one line.
        for run in steps.chunk_by(|a, b| a.name == b.name && a.is_empty() && b.is_empty()) {
            let places: Vec<&str> = run.iter().map(|it| it.place.as_str()).collect();
            let place = places.join(", ");
            for Step { name, holders, .. } in run.iter().take(1) {
                match (holders.as_slice(), name.parse::<IpAddr>()) {
                    ([], Ok(_)) => writeln!(f, "  {place}: nobody has {name}")?,
                    ([], Err(_)) => writeln!(f, "  {place}: nobody is called `{name}`")?,
                    (some, _) => writeln!(f, "  {place}: `{name}` is {}", some.join(" and "))?,
                }
            }
        }
        if let Some(route) = route {
            route.fmt(f)?;
        }
        advice.iter().try_for_each(|it| writeln!(f, "{it}"))
    }
}

/// What names are explained from.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// What exists.
    pub snapshot: &'a Snapshot,
    /// What was made of it, with `config`.
    pub plan: &'a Plan,
    /// Whom sandboxes may ask outside.
    pub config: &'a UpstreamConfig,
    /// What a sandbox knows of servers outside and of what they said about questions.
    pub outlook: &'a dyn Fn(&View, &[Query]) -> Outlook,
}

impl fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("generation", &self.snapshot.generation()).finish()
    }
}

/// Why `name` resolves in `sandbox` as it does. An address is explained as its reverse name.
pub fn explain(known: &Known<'_>, sandbox: &SandboxId, name: &str) -> Explanation {
    let Known { snapshot, plan, config, outlook } = *known;
    let asker = snapshot.sandbox(sandbox).map_or(sandbox.as_str(), |it| &it.name);
    let mut told = Explanation {
        sandbox: asker.to_owned(),
        name: name.to_owned(),
        negative: true,
        ..Explanation::default()
    };
    let Some(view) = plan.views.get(sandbox) else {
        "nothing: this sandbox is not served; see `portolan status`".clone_into(&mut told.answer);
        return told;
    };
    let reverse = name.parse().ok().map(words::reverse_name);
    let asked = match Name::from_text(reverse.as_deref().unwrap_or(name)) {
        Ok(asked) => asked,
        Err(error) => {
            told.answer = format!("nothing: {error}");
            return told;
        }
    };
    let key = asked.key();
    let form = Form::of(&key);
    let whom = form.whom(&key);
    let question = Question { snapshot, plan, config, view, form, key: &key, whom };
    let queries: Vec<_> =
        form.kinds().iter().map(|kind| Query::plain(asked.clone(), *kind)).collect();
    let verdicts: Vec<_> = queries.iter().map(|it| decide(view, it, 0)).collect();
    let Some((first, ground)) = verdicts.first() else { return told };
    told.steps = place::steps(&question, *ground);
    if *first == Verdict::Forward
        && let Some(query) = queries.first()
    {
        let outlook = outlook(view, &queries);
        told.route = Some(route::route(&question, query, outlook));
    }
    told.answer = words::answer(&question, &verdicts, told.route.as_ref());
    let records = |it: &Verdict| matches!(it, Verdict::Answer(it) if !it.records.is_empty());
    let resolves = verdicts.iter().any(|(it, _)| records(it));
    told.negative = match first {
        Verdict::Answer(_) => !resolves,
        Verdict::Forward => told.route.as_ref().is_some_and(|it| it.is_negative(queries.len())),
        Verdict::AskEngine => false,
        Verdict::Refuse(..) => true,
    };
    told.advice = advice::advice(&question, (first, *ground), &told, resolves);
    told.advice.extend(place::others(&question, &told));
    told
}

/// What is explained.
#[derive(Clone, Copy)]
struct Question<'a> {
    snapshot: &'a Snapshot,
    plan: &'a Plan,
    config: &'a UpstreamConfig,
    view: &'a View,
    form: Form,
    /// The name asked, in normal form.
    key: &'a str,
    /// The part of it that says whom is meant.
    whom: &'a str,
}

impl Question<'_> {
    /// The port that is asked for; `None`: none is, or the name is not of that form.
    fn port(&self) -> Option<&str> {
        let (first, rest) = self.key.split_once('.')?;
        let second = rest.split('.').next().unwrap_or_default();
        let port = first.strip_prefix('_')?;
        (self.form == Form::Service && ["_tcp", "_udp"].contains(&second)).then_some(port)
    }
}

/// What sort of name it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// Somebody's name.
    Host,
    /// A reverse name.
    Reverse,
    /// `_PORT._tcp.SERVICE`.
    Service,
}

impl Form {
    fn of(key: &str) -> Self {
        if is_reverse(key) {
            return Self::Reverse;
        }
        let mut labels = key.split('.');
        let protocol = |it: Option<&str>| matches!(it, Some("_tcp" | "_udp"));
        match labels.next() {
            Some(first) if first.starts_with('_') => {
                let service = protocol(Some(first)) || protocol(labels.next());
                if service { Self::Service } else { Self::Host }
            }
            Some(_) | None => Self::Host,
        }
    }

    /// The types that a question about such a name is about.
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Host => &[Kind::A, Kind::AAAA],
            Self::Reverse => &[Kind::PTR],
            Self::Service => &[Kind::SRV],
        }
    }

    fn whom(self, key: &str) -> &str {
        let behind = |it: &'_ str| it.find('.').map_or(it.len(), |dot| dot + 1);
        match self {
            Self::Host | Self::Reverse => key,
            Self::Service => {
                let mut rest = key;
                while rest.starts_with('_') {
                    rest = rest.get(behind(rest)..).unwrap_or_default();
                }
                rest
            }
        }
    }
}

/// `items` as a sentence lists them: all of a few, else the first ones and how many more.
fn listed(items: impl IntoIterator<Item = String>, with: &str) -> String {
    listed_up_to(LISTED, items, with)
}

/// The same, with so many as a few.
fn listed_up_to(most: usize, items: impl IntoIterator<Item = String>, with: &str) -> String {
    let mut items = items.into_iter();
    let mut some: Vec<String> = items.by_ref().take(most).collect();
    let more = items.count();
    if more > 0 {
        some.push(format!("{more} more"));
    }
    some.join(with)
}

/// More than that nobody reads.
const LISTED: usize = 8;

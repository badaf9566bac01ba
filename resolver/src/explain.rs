//! Says why a name resolves in a sandbox the way it does, or why not and what would make it.
//!
//! Always true here: the answer told is the one that [`answer`] gives; this
//! only adds where it looked and who holds the name. Pure.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use registry::Snapshot;
use registry::id::SandboxId;
use registry::model::{Network, Service, ServingState, Task};
use registry::nearest::nearest;

use crate::answer::{Answer, Record, Verdict, answer, candidates};
use crate::compile::{has_names, service_names};
use crate::name::{self, Name};
use crate::plan::{Outside, Plan, View};
use crate::wire::{Class, Kind, Query};

/// Why a name resolves as it does. Its [`fmt::Display`] is what `portolan explain dns` prints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// Who asks.
    pub sandbox: String,
    /// What is asked.
    pub name: String,
    /// What is answered, in words.
    pub answer: String,
    /// Where was looked, in order.
    pub steps: Vec<Step>,
    /// What would make it work, or what is peculiar about it.
    pub advice: Vec<String>,
    resolves: bool,
}

/// One place where a name was looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// The network's name, or `links`.
    pub place: String,
    /// The name looked for there: a part of the one asked, where its end named the network.
    pub name: String,
    /// Who holds it there; empty: nobody.
    pub holders: Vec<String>,
}

impl Explanation {
    /// Whether there is an answer with records.
    pub fn resolves(&self) -> bool {
        self.resolves
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sandbox, name, answer, steps, advice, resolves: _ } = self;
        writeln!(f, "{name} from {sandbox}: {answer}")?;
        for Step { place, name, holders } in steps {
            match holders.as_slice() {
                [] => writeln!(f, "  {place}: nobody is called `{name}`")?,
                some => writeln!(f, "  {place}: `{name}` is {}", some.join(" and "))?,
            }
        }
        advice.iter().try_for_each(|it| writeln!(f, "{it}"))
    }
}

/// Why `name` resolves in `sandbox` as it does, as of `snapshot` and the plan made of it. An
/// address is explained as its reverse name.
pub fn explain(snapshot: &Snapshot, plan: &Plan, sandbox: &SandboxId, name: &str) -> Explanation {
    let asker = snapshot.sandbox(sandbox).map_or(sandbox.as_str(), |it| &it.name);
    let mut told = Explanation {
        sandbox: asker.to_owned(),
        name: name.to_owned(),
        answer: String::new(),
        steps: Vec::new(),
        advice: Vec::new(),
        resolves: false,
    };
    let Some(view) = plan.views.get(sandbox) else {
        let answer = "nothing: this sandbox is not served; see `portolan status`".to_owned();
        return Explanation { answer, ..told };
    };
    let reverse = name.parse().ok().map(|address: IpAddr| reverse_name(address));
    let asked = match Name::from_text(reverse.as_deref().unwrap_or(name)) {
        Ok(asked) => asked,
        Err(error) => {
            told.answer = format!("nothing: {error}");
            return told;
        }
    };
    let key = asked.key();
    if Form::of(&key) == Form::Host {
        told.steps = steps(snapshot, view, &key);
    }
    let verdicts: Vec<_> =
        Form::of(&key).kinds().iter().map(|kind| ask(view, &asked, *kind)).collect();
    told.resolves =
        verdicts.iter().any(|it| matches!(it, Verdict::Answer(it) if !it.records.is_empty()));
    told.answer = in_words(view, &verdicts);
    told.advice = advice(snapshot, plan, view, &key, told.resolves);
    if let [first, others @ ..] = told.found().as_slice()
        && !others.is_empty()
    {
        let text = format!("`{first}` comes first; the others are asked for as NAME.NETWORK");
        told.advice.push(text);
    }
    told
}

impl Explanation {
    /// The places where somebody has the name.
    fn found(&self) -> Vec<String> {
        self.steps.iter().filter(|it| !it.holders.is_empty()).map(|it| it.place.clone()).collect()
    }
}

/// What sort of name it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Host,
    Reverse,
    Service,
}

impl Form {
    fn of(key: &str) -> Self {
        if key.rsplit('.').next() == Some("arpa") {
            Self::Reverse
        } else if key.starts_with('_') {
            Self::Service
        } else {
            Self::Host
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
}

fn ask(view: &View, name: &Name, kind: Kind) -> Verdict {
    let query = Query {
        id: 0,
        recursion_desired: true,
        checking_disabled: false,
        authentic_data: false,
        name: name.clone(),
        kind,
        class: Class::IN,
        edns: None,
    };
    answer(view, &query, 0)
}

fn reverse_name(address: IpAddr) -> String {
    let (labels, suffix): (Vec<String>, _) = match address {
        IpAddr::V4(it) => (it.octets().iter().rev().map(u8::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(it) => {
            let nibbles = it.octets().into_iter().rev().flat_map(|it| [it & 15, it >> 4]);
            (nibbles.map(|it| format!("{it:x}")).collect(), "ip6.arpa")
        }
    };
    format!("{}.{suffix}", labels.join("."))
}

fn in_words(view: &View, verdicts: &[Verdict]) -> String {
    let answers: Vec<&Answer> = verdicts
        .iter()
        .filter_map(|it| match it {
            Verdict::Answer(answer) => Some(answer),
            Verdict::Forward | Verdict::AskEngine | Verdict::Refuse(..) => None,
        })
        .collect();
    let mut records: Vec<_> = answers.iter().flat_map(|it| it.records.iter().map(record)).collect();
    records.sort();
    match (records.as_slice(), answers.first(), verdicts.first()) {
        ([], Some(answer), _) if answer.exists => {
            "known, but without an address (NODATA)".to_owned()
        }
        ([], Some(_), _) => "no such name (NXDOMAIN)".to_owned(),
        (some, Some(answer), _) => format!("{} (for {} s)", some.join(", "), answer.ttl),
        (_, None, Some(Verdict::AskEngine)) => "asked of the engine's own resolver".to_owned(),
        (_, None, Some(Verdict::Forward)) => match &view.outside {
            Outside::Servers(servers) => {
                let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
                format!("not ours; asked of {}", servers.join(", "))
            }
            Outside::Internal | Outside::NoServers => "not ours".to_owned(),
        },
        (_, None, Some(Verdict::Refuse(_, reason))) => {
            let why = reason.extended().map_or("questions of this kind are refused", |it| it.1);
            format!("refused: {why}")
        }
        (_, None, Some(Verdict::Answer(_)) | None) => "nothing".to_owned(),
    }
}

fn record(record: &Record) -> String {
    match record {
        Record::Address(address) => address.to_string(),
        Record::Pointer(name) => name.to_string(),
        Record::Service { weight, port, target } => {
            format!("{target} port {port} weight {weight}")
        }
        Record::Minimal => "HINFO".to_owned(),
    }
}

/// Where `view` looks for `key`, in order.
fn steps(snapshot: &Snapshot, view: &View, key: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, network) in candidates(key) {
        if view.links.contains_key(name) {
            let holders = vec!["a link of this container".to_owned()];
            steps.push(Step { place: "links".to_owned(), name: name.to_owned(), holders });
        }
        for zone in view.zones.iter().filter(|zone| network.is_none_or(|it| zone.key == it)) {
            let holders = snapshot
                .network(&zone.network)
                .map(|network| holders(snapshot, network, name))
                .unwrap_or_default();
            steps.push(Step { place: zone.name.clone(), name: name.to_owned(), holders });
        }
    }
    steps
}

/// Who answers for `key` on `network`.
fn holders(snapshot: &Snapshot, network: &Network, key: &str) -> Vec<String> {
    let bare = key.strip_prefix("tasks.");
    let mut found = Vec::new();
    for service in snapshot.services_on(&network.id) {
        let Some(attachment) = service.networks.get(&network.id) else { continue };
        let names = service_names(service, attachment);
        if names.contains(key) {
            found.push(format!("service {} ({})", service.name, serving(snapshot, service)));
        } else if bare.is_some_and(|it| names.contains(it)) {
            let serving = serving(snapshot, service);
            found.push(format!("the tasks of service {} ({serving})", service.name));
        }
    }
    let named = tasks_named(snapshot, network, key);
    found.extend(
        named.filter(|it| has_names(snapshot, it)).map(|it| format!("container {}", it.name)),
    );
    found
}

fn serving(snapshot: &Snapshot, service: &Service) -> String {
    let all = snapshot.tasks_of(&service.id).count();
    let serving = snapshot.tasks_of(&service.id).filter(|it| it.serves()).count();
    format!("mode {}, {serving} of {all} tasks serve", service.mode)
}

/// Tasks on `network` that have the name `key` for themselves, whatever their state.
fn tasks_named<'a>(
    snapshot: &'a Snapshot,
    network: &'a Network,
    key: &'a str,
) -> impl Iterator<Item = &'a Task> {
    snapshot.tasks_on(&network.id).filter(move |task| {
        let own = task.service.as_ref().and_then(|id| snapshot.service(id));
        let attachment = own.and_then(|it| Some((it, it.networks.get(&network.id)?)));
        let is_the_services =
            attachment.is_some_and(|(it, at)| service_names(it, at).contains(key));
        let other_names = task.networks.get(&network.id).map(|it| &it.names);
        !is_the_services
            && (name::key(&task.name) == key
                || other_names.is_some_and(|it| it.iter().any(|it| name::key(it) == key)))
    })
}

/// What would make `key` resolve for `view`; where it does, who is missing all the same.
fn advice(snapshot: &Snapshot, plan: &Plan, view: &View, key: &str, resolves: bool) -> Vec<String> {
    let mut advice = Vec::new();
    let mine = |network: &Network| view.zones.iter().any(|it| it.network == network.id);
    for (name, wanted) in candidates(key) {
        let bare = name.strip_prefix("tasks.").unwrap_or(name);
        for network in snapshot.networks().filter(|it| !it.ingress) {
            if wanted.is_some_and(|it| name::key(&network.name) != it) {
                continue;
            }
            if mine(network) {
                advice.extend(idle(snapshot, network, bare));
            } else if !resolves
                && plan.zones.get(&network.id).is_some_and(|it| it.names.contains_key(name))
            {
                advice.push(format!(
                    "`{name}` exists on `{}`; `{}` is on {} only: add the network to one of them",
                    network.name,
                    view.name,
                    networks_of(view),
                ));
            }
        }
    }
    if resolves {
        return advice;
    }
    if let Some(address) = address_of(key)
        && let Some(network) = snapshot
            .networks()
            .find(|it| !mine(it) && it.subnets.iter().any(|it: &IpNet| it.contains(&address)))
    {
        let on = networks_of(view);
        advice.push(format!("{address} is of `{}`; `{}` is on {on} only", network.name, view.name));
    }
    if advice.is_empty() && view.outside == Outside::Internal && key.contains('.') {
        let text = "every network of this container is internal, so nobody outside is asked: add one that is not";
        advice.push(text.to_owned());
    }
    let names = view.zones.iter().flat_map(|it| it.names.keys()).map(String::as_str);
    if advice.is_empty()
        && !key.contains('.')
        && let Some(similar) = nearest(key, names.chain(view.links.keys().map(String::as_str)))
    {
        advice.push(format!("did you mean `{similar}`?"));
    }
    advice
}

/// The name is known here, and nobody can answer for it: who could, and why not.
fn idle(snapshot: &Snapshot, network: &Network, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    for service in snapshot.services_on(&network.id) {
        let named = service
            .networks
            .get(&network.id)
            .is_some_and(|it| service_names(service, it).contains(key));
        if !named || snapshot.tasks_of(&service.id).any(Task::serves) {
            continue;
        }
        let tasks: Vec<_> = snapshot.tasks_of(&service.id).map(state).collect();
        let tasks = if tasks.is_empty() { "it has no task".to_owned() } else { tasks.join(", ") };
        found.push(format!("service {} has no serving task: {tasks}", service.name));
    }
    let resting = tasks_named(snapshot, network, key).filter(|it| !has_names(snapshot, it));
    found.extend(resting.map(|it| format!("{}; its names come with its service", state(it))));
    found
}

fn state(task: &Task) -> String {
    let because =
        if task.reason.is_empty() { String::new() } else { format!(" ({})", task.reason) };
    let weightless = task.state == ServingState::Serving && task.weight == 0;
    let out = if weightless { ", with weight 0" } else { "" };
    format!("{} is {}{because}{out}", task.name, task.state)
}

fn networks_of(view: &View) -> String {
    match view.zones.as_slice() {
        [] => "no network".to_owned(),
        some => some.iter().map(|it| format!("`{}`", it.name)).collect::<Vec<_>>().join(", "),
    }
}

/// The address that a reverse name means.
fn address_of(key: &str) -> Option<IpAddr> {
    let labels = key.strip_suffix(".in-addr.arpa")?;
    labels.rsplit('.').collect::<Vec<_>>().join(".").parse().ok()
}

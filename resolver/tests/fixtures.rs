//! The cases of `fixtures/resolver`: given a world file, who asks what is answered how.
//!
//! A case is a world file, a line `---`, then one statement a line:
//!
//! ```text
//! allocated SERVICE NETWORK ADDRESS     a VIP that portolan allocated
//! gossip NETWORK                        its names are known from gossip only
//! compose SERVICE                       it comes from compose
//! option forward_single_label
//! option upstreams SERVER...            `dns.upstreams`; as if the host's resolv.conf named them
//! option suffix SUFFIX SERVER...        `dns.suffixes`
//! adrift TASK NETWORK                   it has no address there
//! default_bridge NETWORK                it is the engine's `bridge`
//! origin SANDBOX container|engine       who named its servers
//! server SERVER STANDING [MILLISECONDS] how sandboxes find that server
//! kept TYPE SAYS SECONDS [stale]        what is kept about every question outside
//! ask SANDBOX NAME TYPE -> ANSWER       ANSWER may end with `ttl SECONDS`
//! host NAME TYPE -> ANSWER
//! note SUBJECT: ...                     compiling says this; all notes are listed
//! negative SANDBOX NAME -> BOOL         whether explaining it ends with a negative answer
//! explain SANDBOX NAME                  says all of the lines that follow and begin with `|`
//! ```
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use registry::model::{Completeness, Origin, ServiceKind};
use registry::{Draft, Note, Snapshot};
use resolver::answer::{Answer, Reason, Record, Verdict, answer, answer_host};
use resolver::name::Name;
use resolver::wire::{Kind, Query, Rcode};
use resolver::{Config, Known, Plan, Server, VipTable, compile, explain};
use resolver::{KeptAnswer, KeptAs, Outlook, ServerOutlook, Standing};

#[test]
fn every_case_is_answered_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/resolver");
    let mut cases: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut wrong = String::new();
    let mut count = 0;
    for path in cases.iter().filter(|it| it.extension().is_some_and(|it| it == "txt")) {
        let case = Case::read(path);
        for (line, said, expected) in case.run() {
            count += 1;
            if said != expected {
                let name = path.file_name().unwrap().display();
                writeln!(wrong, "{name}:{line}: `{said}`, not `{expected}`").unwrap();
            }
        }
    }
    assert!(count > 100, "only {count} statements were found");
    assert!(wrong.is_empty(), "{wrong}");
}

struct Case {
    draft: Draft,
    vips: VipTable,
    config: Config,
    asked: Vec<(usize, String)>,
    outlook: Outlook,
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let (world, statements) = text.split_once("\n---\n").expect("a line `---`");
        let draft = registry::source::world::parse(world, &path.display().to_string())
            .unwrap_or_else(|faults| panic!("{faults:#?}"));
        let config = Config {
            ttl: Duration::from_secs(5),
            vip_ttl: Duration::from_secs(30),
            forward_single_label: false,
            host_listen: None,
            upstream: resolver::UpstreamConfig::default(),
        };
        let mut case = Self {
            draft,
            vips: VipTable::new(),
            config,
            asked: Vec::new(),
            outlook: Outlook::default(),
        };
        let first = world.matches('\n').count() + 3;
        for (at, line) in statements.lines().enumerate() {
            case.statement(first + at, line.trim());
        }
        case
    }

    fn statement(&mut self, number: usize, line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["allocated", service, network, address] => {
                let place = (service.into(), network.into());
                let address: std::net::IpAddr = address.parse().unwrap();
                let pair = self.vips.entry(place).or_default();
                assert!(pair.iter().all(|it| it.is_ipv4() != address.is_ipv4()));
                pair.set(address);
            }
            ["option", "forward_single_label"] => self.config.forward_single_label = true,
            ["option", "upstreams", ref servers @ ..] => {
                self.config.upstream.servers = parsed(servers);
                for sandbox in &mut self.draft.sandboxes {
                    sandbox.upstreams_from = Origin::Host;
                }
            }
            ["option", "suffix", suffix, ref servers @ ..] => {
                let rule = (suffix.to_owned(), parsed(servers));
                self.config.upstream.suffixes.extend([rule]);
            }
            ["server", server, standing, ref rtt @ ..] => {
                let standing = match standing {
                    "up" => Standing::Up,
                    "failing" => Standing::Failing,
                    "down" => Standing::Down,
                    other => panic!("line {number}: {other}"),
                };
                let rtt = rtt.first().map(|it| Duration::from_millis(it.parse().unwrap()));
                let server = server.parse().unwrap();
                self.outlook.servers.push(ServerOutlook { server, standing, rtt });
            }
            ["kept", kind, says, seconds, ref stale @ ..] => {
                let says = match says {
                    "records" => KeptAs::Records(1),
                    "nodata" => KeptAs::NoData,
                    "noname" => KeptAs::NoName,
                    "failure" => KeptAs::Failure,
                    "blocked" => KeptAs::Blocked,
                    other => panic!("line {number}: {other}"),
                };
                let (kind, seconds) = (query(".", kind).kind, seconds.parse().unwrap());
                let kept = KeptAnswer { kind, says, stale: !stale.is_empty(), seconds };
                self.outlook.kept.push(kept);
            }
            ["|", ..] => {
                let (_, explanation) = self.asked.last_mut().unwrap();
                explanation.push_str(line.strip_prefix("| ").unwrap());
                explanation.push('\n');
            }
            ["explain", ..] => self.asked.push((number, format!("{line} -> \n"))),
            ["ask" | "host" | "negative" | "note", ..] => {
                self.asked.push((number, line.to_owned()));
            }
            _ => self.beyond_a_world_file(number, &words),
        }
    }

    /// What a world file cannot say of those in it.
    fn beyond_a_world_file(&mut self, number: usize, words: &[&str]) {
        match *words {
            ["gossip", name] => {
                let network = self.draft.networks.iter_mut().find(|it| it.name == name);
                network.expect("such a network").names = Completeness::Gossip;
            }
            ["compose", name] => {
                let service = self.draft.services.iter_mut().find(|it| it.name == name);
                service.expect("such a service").kind = ServiceKind::Compose;
            }
            ["adrift", name, network] => {
                let task = self.draft.tasks.iter_mut().find(|it| it.name == name);
                let task = task.expect("such a task");
                task.networks.get_mut(&network.into()).expect("its place").addresses.clear();
            }
            ["default_bridge", name] => {
                let network = self.draft.networks.iter_mut().find(|it| it.name == name);
                "bridge".clone_into(&mut network.expect("such a network").driver);
            }
            ["origin", name, origin] => {
                let sandbox = self.draft.sandboxes.iter_mut().find(|it| it.name == name);
                sandbox.expect("such a sandbox").upstreams_from = match origin {
                    "container" => Origin::Sandbox,
                    "engine" => Origin::Engine,
                    other => panic!("line {number}: {other}"),
                };
            }
            _ => panic!("line {number}: what does `{}` mean?", words.join(" ")),
        }
    }

    /// What was said and what should have been, by line.
    fn run(self) -> Vec<(usize, String, String)> {
        let snapshot = Snapshot::build(self.draft, 1);
        let (plan, notes) = compile(&snapshot, &self.vips, &self.config);
        let mut said: Vec<String> = notes.iter().map(note).collect();
        let mut lines = Vec::new();
        let known = Known {
            snapshot: &snapshot,
            plan: &plan,
            config: &self.config.upstream,
            outlook: &|_, questions| {
                let of_it = |it: &&KeptAnswer| questions.iter().any(|one| one.kind == it.kind);
                let kept = self.outlook.kept.iter().filter(of_it).copied().collect();
                Outlook { servers: self.outlook.servers.clone(), kept }
            },
        };
        for (number, line) in self.asked {
            if let Some(expected) = line.strip_prefix("note ") {
                let found = said.iter().position(|it| it == expected);
                let found =
                    found.map_or_else(|| "nothing of the kind".to_owned(), |at| said.remove(at));
                lines.push((number, found, expected.to_owned()));
                continue;
            }
            if let Some(line) = line.strip_prefix("explain ") {
                let (question, expected) = line.split_once(" -> ").unwrap();
                let (sandbox, name) = question.split_once(' ').unwrap();
                let sandbox = &snapshot.sandbox_named(sandbox).unwrap().id;
                let text = explain(&known, sandbox, name).to_string();
                lines.push((number, format!("\n{text}"), expected.to_owned()));
                continue;
            }
            let (question, expected) = line.split_once(" -> ").expect("an arrow");
            if let ["negative", sandbox, name] = question.split(' ').collect::<Vec<_>>()[..] {
                let sandbox = &snapshot.sandbox_named(sandbox).unwrap().id;
                let negative = explain(&known, sandbox, name).is_negative();
                lines.push((number, negative.to_string(), expected.to_owned()));
                continue;
            }
            let answer = ask(&plan, question, expected.contains(" ttl "));
            lines.push((number, answer, expected.to_owned()));
        }
        lines.extend(said.into_iter().map(|it| (0, it, "no such note".to_owned())));
        lines
    }
}

fn parsed(servers: &[&str]) -> Vec<Server> {
    servers.iter().map(|it| it.parse().unwrap()).collect()
}

fn note(note: &Note) -> String {
    let text = note.to_string();
    let (_severity, rest) = text.split_once(": ").unwrap();
    let (what, _remedy) = rest.split_once("; ").map_or((rest, ""), |_| {
        rest.strip_suffix(&format!("; {}", note.remedy)).map_or((rest, ""), |it| (it, ""))
    });
    what.to_owned()
}

fn ask(plan: &Plan, question: &str, with_ttl: bool) -> String {
    let words: Vec<_> = question.split_whitespace().collect();
    let verdict = match words[..] {
        ["host", name, kind] => answer_host(&plan.host, &query(name, kind), 1),
        ["ask", sandbox, name, kind] => match plan.views.values().find(|it| it.name == sandbox) {
            Some(view) => answer(view, &query(name, kind), 1),
            None => return "no such sandbox".to_owned(),
        },
        _ => panic!("what does `{question}` ask?"),
    };
    match verdict {
        Verdict::Answer(answer) => {
            let mut text = records(&answer);
            if with_ttl {
                write!(text, " ttl {}", answer.ttl).unwrap();
            }
            text
        }
        Verdict::Forward => "FORWARD".to_owned(),
        Verdict::AskEngine => "ENGINE".to_owned(),
        Verdict::Refuse(code, reason) => refusal(code, reason),
    }
}

fn refusal(code: Rcode, reason: Reason) -> String {
    let code = match code {
        Rcode::FORMERR => "FORMERR",
        Rcode::SERVFAIL => "SERVFAIL",
        Rcode::NOTIMP => "NOTIMP",
        Rcode::REFUSED => "REFUSED",
        other => panic!("{other:?}"),
    };
    match reason {
        Reason::Plain => code.to_owned(),
        Reason::Internal => format!("{code} internal"),
        Reason::NoServers => format!("{code} no servers"),
        Reason::Unreachable | Reason::Busy | Reason::EngineSilent => panic!("{reason:?}"),
    }
}

fn records(answer: &Answer) -> String {
    if !answer.exists {
        assert!(answer.records.is_empty(), "{answer:?}");
        return "NXDOMAIN".to_owned();
    }
    let mut all: Vec<_> = answer.records.iter().map(record).collect();
    all.sort();
    match all.as_slice() {
        [] => "NODATA".to_owned(),
        _ if matches!(answer.records[0], Record::Service { .. }) => all.join(" | "),
        _ => all.join(" "),
    }
}

fn record(record: &Record) -> String {
    match record {
        Record::Address(address) => address.to_string(),
        Record::Pointer(name) => name.to_string(),
        Record::Service { weight, port, target } => format!("0 {weight} {port} {target}"),
        Record::Minimal => "HINFO".to_owned(),
    }
}

fn query(name: &str, kind: &str) -> Query {
    let kind = match kind {
        "A" => Kind::A,
        "AAAA" => Kind::AAAA,
        "ANY" => Kind::ANY,
        "AXFR" => Kind::AXFR,
        "DS" => Kind::DS,
        "HTTPS" => Kind::HTTPS,
        "IXFR" => Kind::IXFR,
        "MX" => Kind::MX,
        "NS" => Kind::NS,
        "OPT" => Kind::OPT,
        "PTR" => Kind::PTR,
        "SOA" => Kind::SOA,
        "SRV" => Kind::SRV,
        "SVCB" => Kind::SVCB,
        "TSIG" => Kind::TSIG,
        "TXT" => Kind::TXT,
        other => Kind(other.strip_prefix("TYPE").unwrap().parse().unwrap()),
    };
    Query { id: 7, ..Query::plain(Name::from_text(name).unwrap(), kind) }
}

//! The cases of `fixtures/vip`: given a world file, what every sandbox is to hold.
//!
//! A case is one or more steps, parted by lines `===`. A step is a world file, a line `---`, then
//! statements, each followed by what it says, one line each after `| `:
//!
//! ```text
//! at MINUTES              when this step is; first, and without lines of its own
//! pool RANGE              `vip.pool` from here on; without lines of its own
//! route RANGE             the host has a route there from here on; without lines of its own
//! created SERVICE TIME    when it was made; without lines of its own
//! vip SERVICE NET ADDRESS its VIP as a source might say that checks less; without lines of its own
//! gateway NET ADDRESS     a gateway of the network; without lines of its own
//! plan SANDBOX            what it is to hold
//! changes SANDBOX         what leads there from the step before
//! addresses               what is published to the resolver
//! leases                  who has which address of the pool
//! notes                   what compiling says; nothing, unless this stands there
//! ```
//!
//! With `UPDATE=1` in the environment what is said is written into the files.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

use std::fmt::{Display, Write as _};
use std::path::Path;
use std::sync::Arc;

use registry::id::SandboxId;
use registry::{Notes, Snapshot};
use vip::diff::diff;
use vip::lease::Leases;
use vip::plan::SandboxPlan;
use vip::{Config, Plan, compile};

#[test]
fn every_case_compiles_to_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/vip");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> =
        entries.filter(|it| it.extension().is_some_and(|it| it == "txt")).collect();
    cases.sort();
    assert!(cases.len() >= 8, "only {} cases were found", cases.len());
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = String::new();
    for path in cases {
        let text = std::fs::read_to_string(&path).unwrap();
        let said = run(&text, &path.file_name().unwrap().display().to_string());
        if said != text && update {
            std::fs::write(&path, &said).unwrap();
        } else if said != text {
            let differing = said.lines().zip(text.lines()).enumerate().find(|(_, (a, b))| a != b);
            writeln!(wrong, "{}: {differing:?}\n{said}", path.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The case with what is really said in place of what it expects.
fn run(text: &str, name: &str) -> String {
    let mut case = Case::new(name);
    let steps: Vec<_> = text.split("===\n").map(|step| case.step(step)).collect();
    steps.join("===\n")
}

struct Case<'a> {
    name: &'a str,
    generation: u64,
    now: u64,
    config: Config,
    leases: Arc<Leases>,
    last: Plan,
}

impl<'a> Case<'a> {
    fn new(name: &'a str) -> Self {
        let config = Config { pool: "240.240.0.0/16".parse().unwrap(), ..Config::default() };
        let (leases, last) = (Arc::default(), Plan::default());
        Self { name, generation: 0, now: 0, config, leases, last }
    }

    fn step(&mut self, text: &str) -> String {
        let (world, statements) = text.split_once("---\n").expect("a line `---`");
        let mut draft = registry::source::world::parse(world, self.name)
            .unwrap_or_else(|faults| panic!("{}: {faults:#?}", self.name));
        let asked: Vec<_> = statements.lines().filter(|it| !it.starts_with('|')).collect();
        for line in &asked {
            let words: Vec<_> = line.split(' ').collect();
            match *words {
                ["at", minutes] => self.now = minutes.parse::<u64>().unwrap() * 60_000,
                ["pool", range] => self.config.pool = range.parse().unwrap(),
                ["route", range] => {
                    self.config.host_routes.insert(range.parse().unwrap());
                }
                ["created", service, time] => {
                    let found = draft.services.iter_mut().find(|it| it.name == service);
                    found.expect("such a service").created = time.parse().unwrap();
                }
                ["gateway", network, address] => {
                    let found = draft.networks.iter_mut().find(|it| it.name == network);
                    let found = found.expect("such a network");
                    found.gateways.push(address.parse().unwrap());
                }
                ["vip", service, network, address] => {
                    let found = draft.services.iter_mut().find(|it| it.name == service);
                    let networks = &mut found.expect("such a service").networks;
                    let place = networks.get_mut(&network.into()).expect("such a network");
                    place.vip = Some(address.parse().unwrap());
                }
                _ => {}
            }
        }
        self.generation += 1;
        let snapshot = Snapshot::build(draft, self.generation);
        let (plan, notes) = compile(&snapshot, &self.leases, self.now, &self.config);
        assert!(notes.is_empty() || asked.contains(&"notes"), "{}: {notes:#?}", self.name);
        let mut said = format!("{world}---\n");
        for line in asked {
            writeln!(said, "{line}").unwrap();
            for answer in self.answer(line, &snapshot, &plan, &notes).lines() {
                writeln!(said, "| {answer}").unwrap();
            }
        }
        self.leases = Arc::clone(&plan.leases);
        self.last = plan;
        said
    }

    fn answer(&self, line: &str, snapshot: &Snapshot, plan: &Plan, notes: &Notes) -> String {
        // What is no sandbox of the world is meant by its id: `network:blue`, the way into blue.
        let id = |name: &str| {
            snapshot.sandbox_named(name).map_or_else(|| SandboxId::from(name), |it| it.id.clone())
        };
        let words: Vec<_> = line.split(' ').collect();
        match *words {
            [""]
            | ["at" | "pool" | "route", _]
            | ["created" | "gateway", _, _]
            | ["vip", _, _, _] => String::new(),
            ["plan", name] => plan
                .sandboxes
                .get(&id(name))
                .map_or_else(|| "nothing".to_owned(), ToString::to_string),
            ["changes", name] => {
                let new = &plan.sandboxes[&id(name)];
                let nothing =
                    SandboxPlan { balances: Arc::default(), routes: [].into(), ..new.clone() };
                let old = self.last.sandboxes.get(&id(name)).unwrap_or(&nothing);
                lines(diff(old, new))
            }
            ["addresses"] => {
                let all = plan.addresses.iter();
                lines(all.map(|((service, network), vips)| format!("{service} {network} {vips}")))
            }
            ["leases"] => plan.leases.to_string(),
            ["notes"] => lines(notes),
            _ => panic!("{}: what does `{line}` mean?", self.name),
        }
    }
}

fn lines(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().fold(String::new(), |mut text, item| {
        writeln!(text, "{item}").unwrap();
        text
    })
}

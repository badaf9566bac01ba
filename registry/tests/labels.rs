//! `fixtures/labels/*.txt`: given these labels, exactly these routes, this balancing and these
//! diagnostics.
//!
//! A file is a list of cases, with a blank line between them: `#` a sentence about the behaviour,
//! the service (kind, name, `stack=NAME`, published ports `80:8080`, `53:53/udp`), its labels, `->`, and what
//! comes out. `UPDATE=1 cargo test` writes what comes out now; the reviewer reads the difference.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a fixture that cannot be read fails the test"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use registry::balance_spec::{BalanceSpec, Bind, Probe};
use registry::labels::{self, Effect};
use registry::model::{Labels, Mode, Protocol, PublishMode, PublishedPort, Service, ServiceKind};

#[test]
fn labels_give_what_the_fixtures_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/labels");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "the fixtures are there");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let now: Vec<String> = text.trim_end().split("\n\n").map(replay).collect();
        let now = now.join("\n");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, now).unwrap();
        } else {
            assert_eq!(text, now, "{}", file.display());
        }
    }
}

/// The case with its outcome as it is now.
fn replay(case: &str) -> String {
    let (given, _) = case.split_once("\n->").unwrap_or_else(|| panic!("no `->` in {case}"));
    let lines = given.lines().filter(|it| !it.starts_with('#'));
    let mut service = None;
    for line in lines {
        match line.strip_prefix("  ") {
            None => service = Some(read_service(line)),
            Some(label) => {
                let (key, value) = label
                    .split_once(" = ")
                    .or_else(|| Some((label.strip_suffix(" =")?, "")))
                    .unwrap();
                let service = service.as_mut().unwrap();
                service.labels.insert(key.to_owned(), value.replace("\\n", "\n"));
            }
        }
    }
    format!("{given}\n->\n{}", outcome(&service.unwrap()))
}

fn outcome(service: &Service) -> String {
    let mut text = String::new();
    let (routes, mut notes) = labels::routes(service);
    let (spec, said) = labels::balance(service);
    notes.extend(said);
    for it in routes {
        write!(text, "  route {:?} {} port {}", it.group, it.hosts.join(" "), it.port).unwrap();
        write!(text, " root {:?}", it.context_root).unwrap();
        if let Some(network) = it.network {
            write!(text, " network {network}").unwrap();
        }
        if it.rewrite {
            text.push_str(" rewrite");
        }
        write!(text, " {:?}", it.backend_mode).unwrap();
        if !it.cluster.is_empty() {
            write!(text, " cluster {}", it.cluster).unwrap();
        }
        text.push('\n');
    }
    if spec != BalanceSpec::default() {
        writeln!(text, "  balance {}", changed(&spec)).unwrap();
    }
    for note in &notes {
        writeln!(text, "  {note}").unwrap();
    }
    if text.is_empty() { "  nothing\n".to_owned() } else { text }
}

/// The fields that are not as by default, as `Debug` writes them.
fn changed(spec: &BalanceSpec) -> String {
    let fields = |spec: &BalanceSpec| {
        let BalanceSpec { affinity, prefer, address, health, bind, proxy_protocol, ports, drain } =
            spec;
        [
            format!("affinity {affinity:?}"),
            format!("prefer {prefer:?}"),
            format!("address {address:?}"),
            format!("health {health:?}"),
            format!("bind {bind:?}"),
            format!("proxy_protocol {proxy_protocol}"),
            format!("ports {ports:?}"),
            format!("drain {drain:?}"),
        ]
    };
    let pairs = fields(spec).into_iter().zip(fields(&BalanceSpec::default()));
    let changed: Vec<_> = pairs.filter(|(now, usual)| now != usual).map(|(now, _)| now).collect();
    changed.join(" ")
}

fn read_service(line: &str) -> Service {
    let mut words = line.split(' ');
    let kind = match words.next().unwrap() {
        "swarm" => ServiceKind::Swarm,
        "compose" => ServiceKind::Compose,
        "world" => ServiceKind::World,
        other => panic!("no kind {other}"),
    };
    let mut service = service(kind, words.next().unwrap(), Labels::new());
    for word in words {
        if let Some(stack) = word.strip_prefix("stack=") {
            service.stack = Some(stack.to_owned());
        } else {
            let (published, target) = word.split_once(':').unwrap();
            let (target, protocol) = target.split_once('/').unwrap_or((target, "tcp"));
            service.ports.push(PublishedPort {
                published: published.parse().unwrap(),
                target: target.parse().unwrap(),
                protocol: if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp },
                mode: PublishMode::Host,
                name: None,
            });
        }
    }
    service
}

fn service(kind: ServiceKind, name: &str, labels: Labels) -> Service {
    Service {
        id: name.into(),
        name: name.to_owned(),
        kind,
        stack: None,
        mode: Mode::Vip,
        networks: BTreeMap::new(),
        ports: Vec::new(),
        labels,
        created: 0,
    }
}

#[test]
fn every_known_label_is_accepted_or_said_to_do_nothing() {
    for known in labels::known() {
        let v1 = known.label().starts_with("interlock.");
        let kind = if v1 { ServiceKind::Compose } else { ServiceKind::Swarm };
        let labels = Labels::from([(known.label(), "1".to_owned())]);
        let (_, notes) = labels::routes(&service(kind, "web", labels));
        let idle = notes.iter().filter(|it| it.text.contains("has no effect")).count();
        assert_eq!(idle, usize::from(known.effect == Effect::NotYet), "{}", known.label());
        assert!(notes.iter().all(|it| it.text != "no such label"), "{}", known.label());
    }
}

proptest! {
    #[test]
    fn no_text_in_labels_makes_the_parser_fail_or_a_note_span_lines(
        keys in prop::collection::vec(
            "(com\\.docker\\.lb|interlock|portolan)\\.(hosts|port|context_root|hostname|alias_domain|vip\\.address|vip\\.ports|mesh\\.bind|health\\.http|health\\.rise|\\PC{0,9})(\\.\\PC{0,4})?",
            0..6,
        ),
        values in prop::collection::vec("(?s).{0,90}|([a-zA-Z0-9*._:/-]{0,12},?){0,4}", 6),
        compose: bool,
    ) {
        let kind = if compose { ServiceKind::Compose } else { ServiceKind::Swarm };
        let labels: Labels = keys.into_iter().zip(values).collect();
        let (routes, mut notes) = labels::routes(&service(kind, "web", labels.clone()));
        let (spec, said) = labels::balance(&service(kind, "web", labels));
        notes.extend(said);
        for bind in &spec.bind {
            let legal = |it: &str| matches!(it.len(), 1..=15) && !it.contains(['/', ' ', '\n', '\0']);
            prop_assert!(!matches!(bind, Bind::Interface(name) if !legal(name)), "{bind:?}");
        }
        if let Some(Probe::Http { path, .. }) = spec.health.map(|it| it.probe) {
            prop_assert!(path.starts_with('/') && path.bytes().all(|it| it.is_ascii_graphic()));
        }
        for route in &routes {
            prop_assert!(!route.hosts.is_empty() && route.port > 0);
            prop_assert!(route.hosts.iter().all(|it| it.to_lowercase() == *it && !it.ends_with('.')));
            prop_assert!(route.context_root.is_empty() || route.context_root.starts_with('/'));
            prop_assert!(!route.context_root.ends_with('/'));
        }
        for note in &notes {
            prop_assert!(!note.to_string().contains(char::is_control), "{note}");
            prop_assert!(note.subject == "service web" && !note.place.is_empty());
            prop_assert!(!note.text.is_empty() && !note.remedy.is_empty());
        }
    }
}

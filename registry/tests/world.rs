//! `fixtures/world/*.toml`: a file with `# expect: LINE: TEXT` lines has exactly these mistakes; one
//! without any gives the world that stands in the `.txt` file beside it.
//!
//! `UPDATE=1 cargo test` writes what comes out now; the reviewer reads the difference.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be read fails the test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use registry::model::{Network, PublishedPort, Sandbox, Service, Task};
use registry::source::world;
use registry::{Draft, Snapshot};

#[test]
fn world_files_give_what_the_fixtures_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/world");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.retain(|it| it.extension().is_some_and(|it| it == "toml"));
    files.sort();
    assert!(files.len() >= 9, "the fixtures are there");
    let bad = files.iter().filter(|it| check(it)).count();
    assert!(bad >= 6, "the bad ones are there");
}

/// Compares one file; whether it was a bad one.
fn check(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap();
    match world::parse(&text, "w") {
        Err(errors) => {
            let mut now: String = text.lines().filter(|it| !it.starts_with("# expect: ")).fold(
                String::new(),
                |mut all, line| {
                    writeln!(all, "{line}").unwrap();
                    all
                },
            );
            for error in errors {
                writeln!(now, "# expect: {}", error.to_string().strip_prefix("w:").unwrap())
                    .unwrap();
            }
            compare(file, &text, &now);
            true
        }
        Ok(draft) => {
            assert!(!text.contains("# expect: "), "{} has no mistakes", file.display());
            let rendered = file.with_extension("txt");
            let now = render(&draft);
            compare(&rendered, &std::fs::read_to_string(&rendered).unwrap_or_default(), &now);
            // Nothing is left for the snapshot to find.
            let snapshot = Snapshot::build(draft, 1);
            assert!(snapshot.notes().is_empty(), "{}: {:?}", file.display(), snapshot.notes());
            false
        }
    }
}

fn compare(file: &Path, before: &str, now: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, now).unwrap();
    } else {
        assert_eq!(before, now, "{}", file.display());
    }
}

fn render(draft: &Draft) -> String {
    let mut text = String::new();
    draft.networks.iter().for_each(|it| network(&mut text, it));
    draft.services.iter().for_each(|it| service(&mut text, it));
    draft.tasks.iter().for_each(|it| task(&mut text, it));
    draft.sandboxes.iter().for_each(|it| sandbox(&mut text, it));
    for it in &draft.nodes {
        writeln!(text, "node {} {:?} {} {:?}", it.id, it.address, it.state, it.ingress).unwrap();
    }
    if let Some(node) = &draft.this_node {
        writeln!(text, "this node {node}").unwrap();
    }
    if text.is_empty() { "nothing\n".to_owned() } else { text }
}

fn network(text: &mut String, it: &Network) {
    let subnets: Vec<String> = it.subnets.iter().map(ToString::to_string).collect();
    let kind = (it.scope, &it.driver, it.names, &it.reach);
    writeln!(text, "network {} {} {kind:?} {:?}", it.id, subnets.join(" "), it.labels).unwrap();
    writeln!(text, "  internal {} ingress {}", it.internal, it.ingress).unwrap();
}

fn service(text: &mut String, it: &Service) {
    let kind = (it.kind, &it.stack, it.created);
    writeln!(text, "service {} {} {kind:?}", it.id, it.mode).unwrap();
    for (network, at) in &it.networks {
        writeln!(text, "  on {network} vip {:?} aliases {:?}", at.vip, at.aliases).unwrap();
    }
    for port in &it.ports {
        let PublishedPort { published, target, protocol, mode, name } = port;
        writeln!(text, "  port {published} -> {target}/{protocol} {mode:?} {name:?}").unwrap();
    }
    for (key, value) in &it.labels {
        writeln!(text, "  label {key} = {value}").unwrap();
    }
}

fn task(text: &mut String, it: &Task) {
    let service = it.service.as_ref().map_or("-", |it| it.as_str());
    let node = it.node.as_ref().map_or("-", |it| it.as_str());
    write!(text, "task {} of {service} at {node} weight {} ", it.id, it.weight).unwrap();
    writeln!(text, "{} {:?}", it.state, it.reason).unwrap();
    for (network, at) in &it.networks {
        writeln!(text, "  on {network} {:?} names {:?}", at.addresses, at.names).unwrap();
    }
}

fn sandbox(text: &mut String, it: &Sandbox) {
    write!(text, "sandbox {} {} {:?} ", it.id, it.netns.display(), it.cookie).unwrap();
    writeln!(text, "hostname {} tasks {:?}", it.hostname, it.tasks).unwrap();
    for at in &it.networks {
        writeln!(text, "  on {} {:?}", at.network, at.addresses).unwrap();
    }
    for (name, addresses) in &it.links {
        writeln!(text, "  link {name} {addresses:?}").unwrap();
    }
    for (name, addresses) in &it.hosts {
        writeln!(text, "  host {name} {addresses:?}").unwrap();
    }
    for upstream in &it.upstreams {
        writeln!(text, "  upstream {} {:?}", upstream.address, upstream.dial).unwrap();
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,300}") {
        if let Err(errors) = world::parse(&text, "w") {
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn no_world_with_strange_values_makes_it_panic_or_pass_what_the_snapshot_would_drop(
        lines in prop::collection::vec(
            prop::sample::select(vec![
                "[[network]]", "[[service]]", "[[task]]", "[[sandbox]]", "[[node]]",
                "name = 'a'", "name = 'b'", "name = 'é'", "name = 1", "subnet = '10.0.0.0/8'",
                "subnets = ['::/0', 5]", "networks = ['a', 'b']", "networks = {}", "vip.a = '10.0.0.1'",
                "addresses.a = ['10.0.0.1', '::1']", "addresses = 3", "service = 'a'", "node = 'b'",
                "state = 'serving'", "weight = 99999999999999999999", "tasks = ['a']", "netns = '/x'",
                "labels.a.b.c = 1", "labels = 'x'", "ports = [{target = 1}]", "links.x = '1.1.1.1'",
            ]),
            0..40,
        ),
    ) {
        match world::parse(&lines.join("\n"), "w") {
            Ok(draft) => prop_assert!(Snapshot::build(draft, 1).notes().is_empty()),
            Err(errors) => {
                let numbers: Vec<usize> = errors.iter().map(|it| it.line).collect();
                prop_assert!(numbers.is_sorted() && numbers.iter().all(|it| *it <= lines.len()));
            }
        }
    }
}

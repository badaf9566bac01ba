//! The cases of `fixtures/router`: given a world file, this is the route table.
//!
//! A case is a world file, a line `---`, then one statement a line:
//!
//! ```text
//! cluster NAME                      the service cluster that is served
//! vip SERVICE NETWORK ADDRESS       a VIP that portolan allocated
//! route ROUTE                       a route of the table; all are listed, in order
//! note NOTE                         compiling says this; all notes are listed, in order
//! explain URL                       says all of the lines that follow and begin with `|`
//! ```
//!
//! With `UPDATE=1` in the environment the routes, notes and explanations are written anew.
#![cfg(test)]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use registry::Snapshot;
use registry::source::world;
use router::compile::{Vips, compile};
use router::config::{Config, Limits, Timeouts, UnknownHost};
use router::explain;

#[test]
fn every_case_compiles_to_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/router");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 5, "only {} cases were found", cases.len());
    #[expect(
        clippy::disallowed_methods,
        reason = "how a person asks the test for new expectations"
    )]
    let update = std::env::var("UPDATE").is_ok();
    for path in cases {
        let text = std::fs::read_to_string(&path).unwrap();
        let found = retold(&path, &text);
        if update {
            std::fs::write(&path, found).unwrap();
        } else {
            let name = path.file_name().unwrap().display();
            for (number, (found, expected)) in found.lines().zip(text.lines()).enumerate() {
                assert_eq!(found, expected, "{name}:{}", number + 1);
            }
            assert_eq!(found.lines().count(), text.lines().count(), "{name}: {found}");
        }
    }
}

/// The case as it should read.
fn retold(path: &Path, text: &str) -> String {
    let (file, said) = text.split_once("\n---\n").expect("a line ---");
    let draft = world::parse(file, &path.display().to_string()).unwrap();
    let snapshot = Snapshot::build(draft, 1);
    let (mut vips, mut config, mut given, mut urls) =
        (Vips::new(), config(), Vec::new(), Vec::new());
    for line in said.lines() {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["cluster", name] => {
                config.cluster = (*name).to_owned();
                given.push(line);
            }
            ["vip", service, network, address] => {
                let address: IpAddr = address.parse().unwrap();
                vips.insert(((*service).into(), (*network).into()), address.into());
                given.push(line);
            }
            ["explain", ..] => urls.push(line.strip_prefix("explain ").unwrap()),
            ["route" | "note" | "|", ..] | [""] => {}
            _ => panic!("{}: what is `{line}`?", path.display()),
        }
    }
    let (table, notes) = compile(&snapshot, &vips, &config);
    let mut out = format!("{file}\n---\n");
    for line in given {
        writeln!(out, "{line}").unwrap();
    }
    for route in table.routes() {
        writeln!(out, "route {route}").unwrap();
    }
    for note in &notes {
        writeln!(out, "note {note}").unwrap();
    }
    for url in urls {
        writeln!(out, "explain {url}").unwrap();
        for line in explain(&snapshot, &table, &config, url, None).to_string().lines() {
            writeln!(out, "| {line}").unwrap();
        }
    }
    out
}

fn config() -> Config {
    Config {
        http: "127.0.0.1:0".parse().unwrap(),
        cluster: String::new(),
        threads: NonZeroUsize::MIN,
        proxy_id: None,
        unknown_host: UnknownHost::NotFound,
        trusted: Vec::new(),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
    }
}

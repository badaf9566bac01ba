//! Rules of the house that no compiler checks: where code may stand, and how it opens.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::{Path, PathBuf};

use support::project;

const CRATES: [&str; 6] = [".", "kernel", "registry", "resolver", "router", "vip"];

/// A file of ours: its path from the project's root, and its text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for room in CRATES {
        for part in ["src", "tests", "examples", "benches"] {
            collect(&project().join(room).join(part), &mut found);
        }
    }
    let relative = |path: &PathBuf| {
        let path = path.strip_prefix(project()).expect("inside the project");
        path.display().to_string().trim_start_matches("./").to_owned()
    };
    found
        .iter()
        .map(|path| (relative(path), std::fs::read_to_string(path).expect("text")))
        .collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

#[track_caller]
fn none(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn every_file_opens_with_what_is_true_there() {
    let bare = sources().into_iter().filter(|(_, text)| !text.starts_with("//!"));
    none("open the file with //!", &bare.map(|(path, _)| path).collect::<Vec<_>>());
}

#[test]
fn no_file_grows_beyond_what_one_can_read() {
    let body =
        |text: &str| text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text).lines().count();
    let long =
        sources().into_iter().map(|(path, text)| (path, body(&text))).filter(|it| it.1 > 500);
    none(
        "split the file (500 lines before its tests)",
        &long.map(|(path, lines)| format!("{path}: {lines}")).collect::<Vec<_>>(),
    );
}

#[test]
fn every_crate_obeys_the_workspace_s_lints() {
    let lax = CRATES.iter().filter(|room| {
        let manifest = project().join(room).join("Cargo.toml");
        !std::fs::read_to_string(manifest)
            .expect("a manifest")
            .contains("[lints]\nworkspace = true")
    });
    none("add [lints] workspace = true", &lax.map(ToString::to_string).collect::<Vec<_>>());
}

#[test]
fn deciding_does_no_io() {
    // Rooms whose code is a function of its arguments: no sockets, files, clocks or tasks.
    let pure = [
        "registry/src/model.rs",
        "registry/src/snapshot.rs",
        "registry/src/note.rs",
        "registry/src/event/changes.rs",
        "registry/src/health.rs",
        "registry/src/labels",
        "registry/src/source/docker/convert",
        "registry/src/source/docker/events.rs",
        "resolver/src/plan.rs",
        "resolver/src/compile",
        "resolver/src/answer",
        "resolver/src/diff.rs",
        "resolver/src/explain",
        "vip/src/plan.rs",
        "vip/src/compile.rs",
        "vip/src/allocate.rs",
        "vip/src/diff.rs",
        "vip/src/health/targets.rs",
        "vip/src/health/verdict.rs",
        "vip/src/health/board.rs",
        "vip/src/health/http.rs",
        "vip/src/ruleset.rs",
        "router/src/table.rs",
        "router/src/compile",
        "router/src/route.rs",
        "router/src/rewrite.rs",
        "router/src/balance.rs",
        "router/src/diff.rs",
    ];
    let impure = [
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "TcpStream",
        "UdpSocket",
        "TcpListener",
        "Instant::now",
        "SystemTime::now",
        "kernel::netns",
        "kernel::socket",
        "tokio::time",
        "tokio::net",
    ];
    let mut offenders = Vec::new();
    for (path, text) in sources() {
        if !pure.iter().any(|room| path.starts_with(room)) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in lines.filter(|line| impure.iter().any(|it| line.contains(it))) {
            offenders.push(format!("{path}: {}", line.trim()));
        }
    }
    none("a room that decides does no I/O", &offenders);
}

#[test]
fn unsafe_code_stands_in_the_kernel_crate_alone() {
    let offenders = sources().into_iter().filter(|(path, text)| {
        !path.starts_with("kernel/") && path != "tests/tidy.rs" && text.contains("unsafe {")
    });
    none("move it behind kernel/'s calls", &offenders.map(|it| it.0).collect::<Vec<_>>());
}

#[test]
fn the_architecture_names_every_room() {
    let chart =
        std::fs::read_to_string(project().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let unnamed = sources().into_iter().map(|(path, _)| path).filter(|path| {
        let inner = path.split("/src/").nth(1).or_else(|| path.strip_prefix("src/"));
        // A room's inner files are named with it: `answer/` stands for all below it.
        let top =
            inner.map(|it| it.split('/').next().unwrap_or(it).trim_end_matches(".rs").to_owned());
        top.is_some_and(|room| {
            !["lib", "main"].contains(&room.as_str()) && !chart.contains(&format!("`{room}`"))
        })
    });
    none("name the room in ARCHITECTURE.md's code map", &unnamed.collect::<Vec<_>>());
}

#[test]
fn what_waits_for_somebody_names_its_condition() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let mut offenders = Vec::new();
    for (path, text) in sources() {
        for line in
            text.lines().filter(|line| marks.iter().any(|mark| line.contains(mark.as_str())))
        {
            offenders.push(format!("{path}: {}", line.trim()));
        }
    }
    none("say in a note when it is to be done, or do it", &offenders);
}

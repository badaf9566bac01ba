//! One table, many questions.

use std::sync::Arc;

use proptest::prelude::*;
use registry::id::ServiceId;

use super::*;
use crate::table::{Claim, Host, Route};
use crate::{authority, path};

/// A table from lines `HOST[/ROOT] SERVICE`.
fn table(lines: &[&str]) -> RouteTable {
    let route = |line: &&str| {
        let (place, service) = line.split_once(' ').unwrap();
        let (host, root) = place.split_at(place.find('/').unwrap_or(place.len()));
        Route {
            host: Host::of(host),
            context_root: root.into(),
            rewrite: false,
            claims: vec![Claim {
                service: ServiceId::from(service),
                name: service.into(),
                group: "".into(),
            }],
            backends: Arc::from([]),
            unavailable: Some("nobody".into()),
        }
    };
    RouteTable::new(lines.iter().map(route).collect())
}

#[track_caller]
fn check(table: &RouteTable, host: &str, path: &str, expect: &str) {
    let found = match find(table, host, path) {
        Found::Route(place, route) => {
            assert_eq!(table.routes().get(place), Some(route));
            route.service().to_owned()
        }
        Found::NoHost => "no host".to_owned(),
        Found::NoPath => "no path".to_owned(),
    };
    assert_eq!(found, expect, "{host}{path}");
}

#[test]
fn the_longest_host_wins_then_the_longest_path() {
    let table = table(&[
        "a.test root",
        "a.test/app app",
        "a.test/app/admin admin",
        "*.test wild",
        "*.b.test wilder",
        "*.b.test/app wilder-app",
    ]);
    check(&table, "a.test", "/", "root");
    check(&table, "a.test", "/app", "app");
    check(&table, "a.test", "/app/", "app");
    check(&table, "a.test", "/app/x", "app");
    check(&table, "a.test", "/app/admin/x", "admin");
    check(&table, "x.b.test", "/", "wilder");
    check(&table, "x.b.test", "/app/1", "wilder-app");
    check(&table, "x.y.b.test", "/", "wilder");
    check(&table, "b.test", "/", "wild");
    check(&table, "test", "/", "no host");
    check(&table, "", "/", "no host");
}

#[test]
fn a_context_root_ends_at_a_segment() {
    let table = table(&["a.test/app app"]);
    for path in ["/apple", "/ap", "/", "", "/App", "/app.js", "//app"] {
        check(&table, "a.test", path, "no path");
    }
}

#[test]
fn a_wildcard_answers_where_the_exact_host_has_no_such_path() {
    let table = table(&["a.test/app app", "*.test rest"]);
    check(&table, "a.test", "/app", "app");
    check(&table, "a.test", "/other", "rest");
}

#[test]
fn a_wildcard_stands_for_at_least_one_label() {
    let table = table(&["*.wild.test w"]);
    check(&table, "x.wild.test", "/", "w");
    check(&table, "x.y.wild.test", "/", "w");
    check(&table, "wild.test", "/", "no host");
    check(&table, "xwild.test", "/", "no host");
}

/// The definition, without index and without order: every route that matches, the best of them.
fn slow<'t>(table: &'t RouteTable, host: &str, path: &str) -> Option<&'t Route> {
    let matches = |route: &&Route| match &route.host {
        Host::Exact(name) => **name == *host,
        Host::Wildcard(suffix) => host.ends_with(&format!(".{suffix}")),
    };
    let in_root = |route: &&Route| {
        path == &*route.context_root || path.starts_with(&format!("{}/", route.context_root))
    };
    table.routes().iter().filter(matches).filter(in_root).max_by_key(|route| match &route.host {
        Host::Exact(_) => (usize::MAX, route.context_root.len()),
        Host::Wildcard(suffix) => (suffix.len(), route.context_root.len()),
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_the_definition_finds(
        lines in proptest::collection::vec(r"(\*\.)?[ab](\.[ab]){0,2}(/[ab]){0,2} [xyz]", 0..20),
        host in r"[ab](\.[ab]){0,4}",
        path in "(/[ab]{0,2}){1,3}",
    ) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let table = table(&lines);
        let found = match find(&table, &host, &path) {
            Found::Route(_, route) => Some(route),
            Found::NoHost | Found::NoPath => None,
        };
        prop_assert_eq!(found, slow(&table, &host, &path));
    }

    #[test]
    fn any_bytes_are_survived(host: Vec<u8>, path: String) {
        let table = table(&["a.test/app app", "*.test rest"]);
        if let Some(host) = authority::host(&host) {
            find(&table, &host, &path::resolve(&path));
        }
        find(&table, &String::from_utf8_lossy(&host), &path);
    }
}

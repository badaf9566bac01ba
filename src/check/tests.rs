//! `fixtures/compose/*.txt`: these files together, beside these running services, give exactly this.
//!
//! `files` and `live` say what is given; below `->` stands what `portolan check` prints, and its
//! status. `UPDATE=1 cargo test` writes what comes out now; the reviewer reads the difference.

use proptest::prelude::*;

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/compose")
}

#[test]
fn files_give_what_the_fixtures_say() {
    let mut scenarios: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().map(|it| it.unwrap().path()).collect();
    scenarios.retain(|it| it.extension().is_some_and(|it| it == "txt"));
    assert!(scenarios.len() >= 10, "the fixtures are there");
    for scenario in scenarios {
        let text = std::fs::read_to_string(&scenario).unwrap();
        let (given, _) = text.split_once("->\n").unwrap();
        let now = format!("{given}->\n{}", outcome(given));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&scenario, now).unwrap();
        } else {
            assert_eq!(text, now, "{}", scenario.display());
        }
    }
}

fn outcome(given: &str) -> String {
    let mut files = Vec::new();
    let mut live = Vec::new();
    for line in given.lines().filter(|it| !it.starts_with('#')) {
        let mut words = line.split(' ');
        match words.next() {
            Some("files") => files.extend(words.map(|it| folder().join(it))),
            Some("live") => live.push(running(words)),
            other => panic!("no line begins with {other:?}"),
        }
    }
    let report = check(&files, &live);
    let printed = report.to_string().replace(&format!("{}/", folder().display()), "");
    format!("{printed}status {}\n", report.status())
}

fn running<'a>(mut words: impl Iterator<Item = &'a str>) -> LiveService {
    let name = words.next().unwrap().to_owned();
    let mut service = LiveService { id: name.clone(), name, ..LiveService::default() };
    let mut labels = Labels::new();
    for word in words {
        match word.split_once('=').unwrap() {
            ("stack", stack) => service.stack = Some(stack.to_owned()),
            ("networks", names) => service.networks = names.split(',').map(str::to_owned).collect(),
            (label, value) => drop(labels.insert(label.to_owned(), value.to_owned())),
        }
    }
    service.labels = Some(labels);
    service
}

#[test]
fn three_mistakes_are_three_diagnostics_with_service_label_reason_and_remedy() {
    let files = ["other-stack.yml", "bad-labels.yml"].map(|it| folder().join(it));
    let report = check(&files, &[]);
    let bad = folder().join("bad-labels.yml").display().to_string();
    let error = |line, subject: &str, place: &str, text: &str, remedy: &str| Diagnostic {
        file: bad.clone(),
        line,
        severity: Severity::Error,
        subject: subject.to_owned(),
        place: place.to_owned(),
        text: text.to_owned(),
        remedy: remedy.to_owned(),
        unreadable: false,
    };
    let expected = [
        error(
            9,
            "service shop_web",
            "com.docker.lb.host",
            "no such label",
            "did you mean `com.docker.lb.hosts`?",
        ),
        error(
            17,
            "service shop_api",
            "com.docker.lb.port",
            "`abc` is not a port number",
            "write the port the container listens on, 1 to 65535, e.g. 8080",
        ),
        error(
            23,
            "service shop_counter",
            "com.docker.lb.hosts",
            "`counter.test` already belongs to service other_web, which came first",
            "choose another host or context root, or set `portolan.lb.share` to the same key on both",
        ),
    ];
    assert_eq!(report.diagnostics, expected);
    assert_eq!(report.status(), 1);
}

#[test]
fn a_diagnostic_is_json_for_programs() {
    let report = check(&[folder().join("wrong-place.yml")], &[]);
    let mut json = serde_json::to_value(&report).unwrap();
    json["diagnostics"][0]["file"] = "f".into();
    let expected = serde_json::json!({
        "file": "f",
        "line": 5,
        "severity": "warning",
        "subject": "service wrong-place_web",
        "place": "com.docker.lb.hosts",
        "text": "is a label of the containers here; in a Swarm the service's labels count",
        "remedy": "move it below `deploy.labels`",
    });
    assert_eq!(json["diagnostics"][0], expected);
}

#[test]
fn a_file_says_which_stack_it_makes() {
    for (path, stack) in [
        ("/srv/shop.yml", "shop"),
        ("/srv/shop/compose.yml", "shop"),
        ("/srv/shop/docker-compose.prod.yaml", "shop"),
        ("/srv/shop/stack.yml", "shop"),
        ("/srv/shop/docker-stack.json", "shop"),
        ("/compose.yml", "compose"),
    ] {
        assert_eq!(stack_of(Path::new(path)), stack, "{path}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
        if let Ok(root) = yaml::parse(&text) {
            compose::services(&root, "s");
        }
    }

    #[test]
    fn no_shape_of_a_compose_file_makes_it_panic_or_give_a_note_without_a_remedy(
        lines in prop::collection::vec(
            prop::sample::select(vec![
                "services:", "  web:", "  api: 1", "  - x", "    labels:", "    labels: 5", "    labels: [a, b=c]",
                "      com.docker.lb.hosts: a", "      com.docker.lb.hosts.x: ${A", "      - com.docker.lb.port=$",
                "    deploy:", "      labels: {com.docker.lb.port: [1]}", "      endpoint_mode: 1", "    networks:",
                "    networks: [a, [b]]", "      a:", "        aliases: 1", "    ports: [\"1:2:3:4/x\", {}, -1, '1-']",
                "networks:", "  a: {external: {name: 5}}", "  a: 1", "name: [1]", "name: '-'", "x: *a", "y: &a 1",
            ]),
            0..30,
        ),
    ) {
        let Ok(root) = yaml::parse(&lines.join("\n")) else { return Ok(()) };
        let declared = compose::services(&root, "s").into_iter().map(|it| ("f".to_owned(), it));
        let mut report = CheckReport::default();
        routes::judge(&declared.collect::<Vec<_>>(), &[], &mut report);
        for it in report.diagnostics {
            prop_assert!(it.subject.starts_with("service s") && !it.place.is_empty(), "{it}");
            prop_assert!(!it.text.is_empty() && !it.remedy.is_empty(), "{it}");
        }
    }
}

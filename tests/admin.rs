//! The admin port of a running portolan, asked over TCP by curl, and its metrics read as strictly
//! as Prometheus reads them.
//!
//! Needs the right to make network namespaces: root, or `unshare -Urnm`.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::said_in_demo;

/// What `script` says beside a second portolan, which has a port, inside a demo.
fn said_with_port(script: &str) -> String {
    said_in_demo(&format!(
        "mkdir -p /run/two; cat > /run/two/world.toml <<END
[[network]]
name = 'x'
subnet = '10.99.0.0/24'
[[service]]
name = 'one'
mode = 'dnsrr'
networks = ['x']
END
         export PORTOLAN_CONFIG=\"
         state_dir = '/run/two'
         sources.world.path = '/run/two/world.toml'
         dns.host_listen = '127.0.0.1:1099'
         admin.socket = '/run/two.sock'
         admin.listen = '127.0.0.1:9127'
         router.clusters.default.http = '127.0.0.1:18080'\"
         unset PORTOLAN_SOCKET
         portolan up 2>/run/two/log & up=$!
         for i in $(seq 100); do
             curl -sf http://127.0.0.1:9127/readyz >/dev/null && break; sleep 0.1
         done
         cat /run/two/log >&2
         {script}
         kill $up; wait $up"
    ))
}

#[test]
fn monitoring_reads_health_lists_and_nothing_else_over_tcp() {
    let said = said_with_port(
        "ask() { curl -s -o /run/two/body -w '%{http_code} %{content_type}\\n' \"$@\"; }
         at=http://127.0.0.1:9127
         ask $at/healthz; ask $at/readyz; ask -I $at/metrics; ask $at/api/v1/nothing
         ask $at/api/v1/services; portolan ls services --json | diff - /run/two/body >&2
         ask -X POST $at/api/v1/status; cat /run/two/body; echo
         curl -s -X DELETE -D - -o /dev/null $at/metrics | grep -i ^allow",
    );
    let json = "application/json";
    let expected = [
        format!("200 {json}"),
        format!("200 {json}"),
        "200 text/plain; version=0.0.4; charset=utf-8".to_owned(),
        format!("404 {json}"),
        format!("200 {json}"),
        format!("405 {json}"),
        "{\"error\":\"only GET and HEAD are understood\"}".to_owned(),
        "allow: GET, HEAD".to_owned(),
    ];
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    assert_eq!(lines, expected);
}

#[test]
fn metrics_parse_strictly_and_count_what_was_asked() {
    let said = said_with_port(
        "for name in one.x two.x; do dig @127.0.0.1 -p 1099 $name >/dev/null; done
         dig +tcp @127.0.0.1 -p 1099 one.x >/dev/null
         curl -s http://127.0.0.1:9127/metrics",
    );
    let families = parse(&said);
    let of = |family: &str, labels: &[(&str, &str)]| -> f64 {
        let labels: Labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let samples = families.get(family).unwrap_or_else(|| panic!("no {family} in {said}"));
        *samples.get(&labels).unwrap_or_else(|| panic!("no {family}{labels:?} in {said}"))
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(of("portolan_build_info", &[("version", version)]).to_bits(), 1f64.to_bits());
    let queries = |code| of("portolan_dns_queries_total", &[("source", "local"), ("rcode", code)]);
    let asked = queries("NOERROR") + queries("NXDOMAIN");
    assert!((asked - 3.0).abs() < 0.1, "{said}");
    let tcp = of("portolan_dns_messages_total", &[("transport", "tcp")]);
    assert!((tcp - 1.0).abs() < 0.1, "{said}");
}

#[test]
fn status_and_metrics_tell_of_every_part() {
    let said = said_in_demo(
        "portolan status | grep generation
         curl -s --unix-socket $PORTOLAN_SOCKET http://portolan/metrics | grep ^portolan_part_failures",
    );
    for part in ["vip", "mesh", "resolver", "router", "health"] {
        assert!(said.contains(&format!("\n{part}: fine, generation ")), "{part} in {said}");
        let sample = format!("portolan_part_failures{{part=\"{part}\"}} 0\n");
        assert!(said.contains(&sample), "{sample} in {said}");
    }
}

#[test]
fn a_second_portolan_waits_for_none_and_touches_nothing_while_the_first_has_not_ended() {
    let said = said_in_demo(
        "rm $PORTOLAN_SOCKET
         cat > /run/second.toml <<END
sources.world.path = '/run/portolan/world.toml'
state_dir = '/run/second'
admin.socket = '$PORTOLAN_SOCKET'
END
         portolan up --config /run/second.toml 2>&1; echo \"status $?\"",
    );
    assert!(said.contains("another portolan has not ended yet"), "{said}");
    assert!(!said.contains("status 0"), "{said}");
}

#[test]
fn metrics_count_the_connections_of_each_task_through_its_vip() {
    let said = said_in_demo(
        "vip=$(portolan exec app.1 dig +short db)
         portolan exec app.1 sh -c \"sleep 30 | nc $vip 6379\" >/dev/null 2>&1 & held=$!
         ask() { curl -s --unix-socket $PORTOLAN_SOCKET http://portolan/metrics > /run/metrics; }
         is='portolan_vip_connections.*db.*tcp.* 1$'
         for i in $(seq 40); do ask; grep -q \"$is\" /run/metrics && break; sleep 0.5; done
         kill $held; cat /run/metrics",
    );
    let families = parse(&said);
    let of = |family: &str, labels: &[(&str, &str)]| -> f64 {
        let labels: Labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let samples = families.get(family).unwrap_or_else(|| panic!("no {family} in {said}"));
        *samples.get(&labels).unwrap_or_else(|| panic!("no {family}{labels:?} in {said}"))
    };
    let task = [("service", "db"), ("network", "backend"), ("task", "10.20.2.31")];
    let held = of("portolan_vip_connections", &[&task[..], &[("protocol", "tcp")]].concat());
    assert!((held - 1.0).abs() < 0.1, "{said}");
    assert!(of("portolan_vip_tables", &[]) > 0.5, "{said}");
    assert!(of("portolan_vip_takeovers_total", &[("how", "made")]) > 0.5, "{said}");
    assert!(of("portolan_vip_transaction_seconds_count", &[]) > 0.5, "{said}");
    for name in ["portolan_mesh_resets_total", "portolan_relay_sessions"] {
        assert!(of(name, &[]) < 0.5, "{said}");
    }
}

#[test]
fn what_changes_something_is_done_for_the_socket_and_for_nobody_at_the_port() {
    let said = said_with_port(
        "ask() { curl -s -o /run/two/body -w '%{http_code}\\n' \"$@\"; cat /run/two/body; echo; }
         ask -X POST http://127.0.0.1:9127/api/v1/dns/flush
         ask http://127.0.0.1:9127/api/v1/dns/flush
         ask -H 'Host: evil.test:9127' http://127.0.0.1:9127/api/v1/services | head -c 3; echo
         ask --unix-socket /run/two.sock -X POST http://portolan/api/v1/dns/flush
         ask --unix-socket /run/two.sock -X POST http://portolan/api/v1/status
         PORTOLAN_SOCKET=/run/two.sock portolan dns flush",
    );
    let expected = [
        "405",
        r#"{"error":"only GET and HEAD are understood"}"#,
        "405",
        r#"{"error":"only POST, on the admin socket, is understood"}"#,
        "421",
        "200",
        r#"{"ok":true,"text":"forgot 0 answers and failures from outside, 0 octets\n","entries":0,"bytes":0}"#,
        "405",
        r#"{"error":"only GET and HEAD are understood"}"#,
        "forgot 0 answers and failures from outside, 0 octets",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn lists_and_status_tell_of_names_that_only_one_sandbox_has_and_whom_it_asks() {
    let said = said_in_demo(
        r#"at='\|netns/web.1|a'
         sed -i -e "$at upstreams = ['192.0.2.53', '192.0.2.54']" \
             -e "$at hosts = { 'api.example' = ['192.0.2.9', '2001:db8::9'] }" \
             -e "$at links = { db = '10.20.2.31', old = [] }" /run/portolan/world.toml
         for i in $(seq 50); do portolan ls sandboxes | grep -q api.example && break; sleep 0.1; done
         portolan ls sandboxes | grep -E '^(NAME|web.1) '
         portolan ls sandboxes --json | tr -d ' \n' | grep -o '"upstreams":."192[^}]*},"links":[^}]*}'
         portolan status | grep '^dns'"#,
    );
    let lines: Vec<&str> = said.lines().collect();
    let [head, row, json, dns, cache] = lines.try_into().unwrap_or_else(|_| panic!("{said}"));
    assert!(head.contains("UPSTREAMS") && head.contains("EXTRA HOSTS"), "{head}");
    let cells = [
        "192.0.2.53:53,192.0.2.54:53  host,host",
        "api.example=192.0.2.9,api.example=2001:db8::9",
        "db=10.20.2.31,old=-",
    ];
    for cell in cells {
        assert!(row.contains(cell), "{cell} in {row}");
    }
    let fields = r#""upstreams":["192.0.2.53:53","192.0.2.54:53"],"dial":["host","host"],"extra_hosts":{"api.example":["192.0.2.9","2001:db8::9"]},"links":{"db":["10.20.2.31"],"old":[]}"#;
    assert_eq!(json, fields);
    assert_eq!(dns, "dns: answers in 8 sandboxes");
    assert!(
        cache.starts_with("dns cache: 0 answers and failures from outside in 0 octets;"),
        "{cache}"
    );
}

#[test]
fn servers_outside_and_what_they_said_are_explained_counted_and_forgotten() {
    let said = said_in_demo(
        r#"cat > /run/server.py <<END
import socket
at = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); at.bind(('127.0.0.1', 5300))
while True:
    asked, who = at.recvfrom(512)
    end = asked.index(0, 12) + 5
    record = b'\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xcb\0\x72\5'
    at.sendto(asked[:2] + b'\x81\x80\0\1\0\1\0\0\0\0' + asked[12:end] + record, who)
END
         python3 /run/server.py & server=$!
         sed -i "\|netns/web.1|a upstreams = ['127.0.0.1:5301', '127.0.0.1:5300']" /run/portolan/world.toml
         for i in $(seq 50); do portolan ls sandboxes | grep -q 5301 && break; sleep 0.1; done
         say() { portolan explain dns "$@" --from web.1 | sed 's/ in [0-9.]* ms/ in N ms/; s/[0-9]* s more/N s more/'; }
         say db.example
         for i in $(seq 50); do
             dig +short +tries=1 +time=1 @127.0.0.1 -p 5300 x | grep -q 203.0.114.5 && break; sleep 0.1
         done
         for twice in 1 2; do portolan exec web.1 dig +short db.example A; done | uniq
         say db.example
         curl -s --unix-socket $PORTOLAN_SOCKET http://portolan/metrics > /run/metrics
         portolan dns flush | sed 's/[0-9]* octets/N octets/'; say db.example | tail -1
         kill $server; echo ---; cat /run/metrics"#,
    );
    let (said, metrics) = said.split_once("---\n").unwrap_or_else(|| panic!("{said}"));
    let place = "(given to this container, asked from the host)";
    let asked = "db.example from web.1: not ours; asked of 127.0.0.1:5301, 127.0.0.1:5300";
    let expected = [
        asked,
        "  frontend: nobody is called `db.example`",
        &format!("  127.0.0.1:5301 {place}: not asked yet"),
        &format!("  127.0.0.1:5300 {place}: not asked yet"),
        "203.0.114.5",
        asked,
        "  frontend: nobody is called `db.example`",
        &format!("  127.0.0.1:5301 {place}: did not answer the last time"),
        &format!("  127.0.0.1:5300 {place}: answers in N ms"),
        "  kept from before: its A records, for N s more",
        "forgot 1 answers and failures from outside, N octets",
        &format!("  127.0.0.1:5300 {place}: answers in N ms"),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{said}");
    let families = parse(metrics);
    let up: Vec<_> = families["portolan_dns_upstream_up"]
        .iter()
        .map(|(it, up)| (it["server"].as_str(), it["protocol"].as_str(), it["dial"].as_str(), *up))
        .collect();
    let server = |name, up| (name, "plain", "host", up);
    assert_eq!(up, [server("127.0.0.1:5300", 1.0), server("127.0.0.1:5301", 1.0)]);
    assert_eq!(families["portolan_dns_upstream_rtt_seconds"].len(), 1, "{metrics}");
    for (family, least) in [
        ("portolan_dns_cache_entries", 1.0),
        ("portolan_dns_cache_hits_total", 1.0),
        ("portolan_dns_cache_misses_total", 1.0),
        ("portolan_dns_cache_bytes", 100.0),
    ] {
        let value: f64 = families[family].values().sum();
        assert!(value >= least, "{family} is {value}");
    }
    let served: Vec<_> = families["portolan_dns_sandboxes"].values().collect();
    assert_eq!(served, [&8.0, &0.0], "served and not");
}

type Labels = BTreeMap<String, String>;
/// Samples by name and labels.
type Samples = BTreeMap<String, BTreeMap<Labels, f64>>;

/// Reads the text format 0.0.4 and refuses what any scraper may refuse: samples outside their
/// family, families twice, series twice, unknown types, wrong escapes, buckets that shrink.
fn parse(text: &str) -> Samples {
    assert!(text.ends_with('\n'), "the last line ends, too");
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let (mut family, mut kind) = ("", "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').expect("a help text").0;
            assert!(families.insert(family), "{family} stands twice");
            kind = "";
        } else if let Some(said) = line.strip_prefix("# TYPE ") {
            let (of, is) = said.split_once(' ').expect("a type");
            assert_eq!((of, kind), (family, ""), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&is), "{line}");
            assert!(is != "counter" || of.ends_with("_total"), "{line}");
            kind = is;
        } else {
            let (name, labels, value) = sample(line);
            let suffixes: &[&str] = match kind {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let belongs = suffixes.iter().any(|it| format!("{family}{it}") == name);
            assert!(belongs, "{line} in the family {family}");
            let before = samples.entry(name).or_default().insert(labels, value);
            assert_eq!(before, None, "{line} stands twice");
        }
    }
    for (name, buckets) in samples.iter().filter(|(name, _)| name.ends_with("_bucket")) {
        let bound = |labels: &Labels| labels["le"].replace("+Inf", "inf").parse::<f64>();
        let mut all: Vec<(f64, f64)> =
            buckets.iter().map(|(it, n)| (bound(it).expect("a bound"), *n)).collect();
        all.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(all.is_sorted_by(|one, other| one.1 <= other.1), "{name} shrinks");
        assert!(all.last().is_some_and(|it| it.0.is_infinite()), "{name} has no end");
    }
    samples
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).expect("a name");
    let (name, mut rest) = line.split_at(end);
    let mut word = name.chars();
    let first = word.next().is_some_and(|it| it.is_ascii_alphabetic() || it == '_');
    assert!(first && word.all(|it| it.is_ascii_alphanumeric() || it == '_'), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect("a label");
            let (value, after) = unquote(after);
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            rest = after.strip_prefix(',').unwrap_or(after);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

/// The value up to its quote, and what stands behind that.
fn unquote(text: &str) -> (String, &str) {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, text.get(at + 1..).expect("a border of letters")),
            '\\' => value.push(match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, same @ ('\\' | '"'))) => same,
                other => panic!("a wrong escape {other:?} in {text}"),
            }),
            other => value.push(other),
        }
    }
    panic!("no quote ends {text}")
}

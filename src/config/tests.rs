//! What a configuration gives, to the last field; what a wrong one says, to the last letter.

use expect::{errors, parsed};

use super::*;

/// What both kinds of test read.
mod expect {
    use super::*;

    pub(super) fn parsed(text: &str) -> Config {
        Config::parse(text, "c").unwrap_or_else(|errors| panic!("{errors}"))
    }

    pub(super) fn errors(text: &str) -> String {
        let errors = Config::parse(text, "c").expect_err("the text is wrong");
        errors.to_string()
    }
}

#[test]
fn nothing_configured_is_the_default() {
    assert_eq!(parsed(""), Config::default());
}

#[test]
fn the_defaults_that_the_table_documents_are_those_that_hold() {
    let mut sections: Vec<&str> = keys().map(|it| it.section).collect();
    sections.dedup();
    let mut lines: Vec<String> = Vec::new();
    for section in sections {
        let documented = keys().filter(|it| it.section == section && !it.default.is_empty());
        if !section.is_empty() {
            lines.push(format!("[{}]", section.replace("NAME", "default")));
        }
        lines.extend(documented.map(|it| format!("{} = {}", it.name, it.default)));
    }
    let text = lines.join("\n");
    // A world file in place of an engine has no default, and its table asks for one.
    let text = text.replace("[sources.world]\n", "");
    assert!(text.contains("[router.clusters.default.limits]\nconnections = 16384\n"), "{text}");
    assert_eq!(parsed(&text), Config::default(), "{text}");
}

#[test]
fn every_key_of_later_is_refused_by_name() {
    for key in keys().filter(|it| !it.built) {
        let section = key.section.replace("NAME", "default");
        let text = match section.as_str() {
            "" => format!("{} = 1\n", key.name),
            section => format!("[{section}]\n{} = 1\n", key.name),
        };
        let said = errors(&text);
        let told = format!("{}`: is known, but not in this version; leave it out", key.name);
        assert!(said.ends_with(&told) && said.lines().count() == 1, "{said}");
    }
}

const EVERYTHING: &str = r#"
        state_dir = "/var/tmp/p"
        [sources.docker]
        endpoint = "tcp://127.0.0.1:2375"
        poll_interval = "1m30s"
        [dns]
        host_listen = "off"
        ttl = "1s"
        vip_ttl = "0s"
        forward_single_label = true
        upstreams = ["10.0.0.53", "[fd00::53]:5353"]
        cache_bytes = 1000000
        rebinding_filter = true
        rebinding_allow = ["Corp.Example."]
        [dns.suffixes]
        "corp.example" = ["10.1.1.1"]
        [vip]
        pool = "10.99.0.0/20"
        pool6 = "fd01::/64"
        drain = "30s"
        data_plane = "userspace"
        [mesh]
        enabled = "on"
        client_ip = "masquerade"
        outbound = false
        [router.clusters.prod]
        http = ":80"
        threads = 3
        unknown_host = 503
        [router.clusters.prod.limits]
        connections = 7
        uri_bytes = 100
        header_bytes = 1000
        body_bytes = 0
        [router.clusters.prod.timeouts]
        header = "1s"
        keep_alive = "2s"
        body = "3s"
        stall = "4s"
        connect = "50ms"
        response = "6s"
        response_body = "7s"
        idle = "8s"
        drain = "9s"
        [router.clusters.prod.trust]
        forwarded = ["10.0.0.1", "fd00::1/8"]
        [admin]
        socket = "/tmp/p.sock"
        listen = "[::1]:9127"
        [log]
        format = "json"
        level = "warn,resolver=debug"
        "#;

#[test]
fn everything_can_be_set() {
    let seconds = Duration::from_secs;
    let expected = Config {
        source: Source::Docker(docker::Config {
            endpoint: "tcp://127.0.0.1:2375".to_owned(),
            poll_interval: seconds(90),
        }),
        state_dir: "/var/tmp/p".into(),
        resolver: resolver::Config {
            ttl: seconds(1),
            vip_ttl: Duration::ZERO,
            forward_single_label: true,
            host_listen: None,
            upstream: resolver::UpstreamConfig {
                servers: ["10.0.0.53:53", "[fd00::53]:5353"].map(|it| it.parse().unwrap()).to_vec(),
                suffixes: [("corp.example".to_owned(), vec!["10.1.1.1:53".parse().unwrap()])]
                    .into(),
                authorities: resolver::Authorities::System,
                cache_bytes: 1_000_000,
                rebinding_filter: true,
                rebinding_allow: vec!["corp.example".to_owned()],
            },
        },
        vip: vip::Config {
            pool: "10.99.0.0/20".parse().unwrap(),
            pool6: "fd01::/64".parse().unwrap(),
            state_dir: "/var/tmp/p".into(),
            data_plane: vip::DataPlane::Userspace,
            drain: seconds(30),
            ..vip::Config::default()
        },
        mesh: vip::mesh::Config {
            enabled: vip::mesh::Enabled::On,
            client_ip: vip::mesh::ClientIp::Masquerade,
            state_dir: "/var/tmp/p".into(),
            drain: seconds(30),
            outbound: false,
        },
        router: router::config::Config {
            http: "0.0.0.0:80".parse().unwrap(),
            cluster: "prod".to_owned(),
            threads: NonZeroUsize::new(3).unwrap(),
            proxy_id: None,
            unknown_host: router::config::UnknownHost::Unavailable,
            trusted: vec!["10.0.0.1/32".parse().unwrap(), "fd00::/8".parse().unwrap()],
            limits: router::config::Limits {
                connections: 7,
                target: 100,
                head: 1000,
                body: Some(0),
                ..router::config::Limits::default()
            },
            timeouts: router::config::Timeouts {
                head: seconds(1),
                keep_alive: seconds(2),
                body: seconds(3),
                stall: seconds(4),
                connect: Duration::from_millis(50),
                response: seconds(6),
                response_body: seconds(7),
                idle: seconds(8),
                drain: seconds(9),
            },
        },
        admin_socket: "/tmp/p.sock".into(),
        admin_listen: Some("[::1]:9127".parse().unwrap()),
        log_format: Format::Json,
        log_level: "warn,resolver=debug".to_owned(),
    };
    assert_eq!(parsed(EVERYTHING), expected);
}

#[test]
fn a_world_file_takes_the_engine_s_place() {
    let config = parsed("[sources.world]\npath = \"/w.toml\"\n");
    assert_eq!(config.source, Source::World("/w.toml".into()));
    assert_eq!(config.router.cluster, "");
    assert_eq!(parsed("[router.clusters.default]").router.cluster, "");
}

#[test]
fn all_mistakes_are_told_at_once_with_their_lines_and_what_was_meant() {
    let said = errors(
        r#"state_dri = "/x"
[source.docker]
endpoint = "x"
[sources.docker]
endpoint = "ssh://h"
poll_interval = 5
[sources.world]
[dns]
host_listn = "127.0.0.1:53"
host_listen = "localhost:53"
ttl = "1500ms"
vip_ttl = "5"
cache_bytes = "1 MiB"
[vip]
pool = "240.240.0.0/30"
[router.clusters.a]
http = "8080"
unknown_host = 418
threads = 0
timeouts.connect = "0s"
trust = { forwarded = "10.0.0.0/8" }
https = ":443"
[router.clusters.b]
[router]
http = ":80"
[mesh]
enabled = "yes"
[admin]
listen = ":9127"
[log]
format = "jsn"
level = "a=b=c"
"#,
    );
    let expected = "\
c:1: `state_dri`: is not a key here; did you mean `state_dir`?
c:2: `source`: is not a key here; did you mean `sources`?
c:5: `sources.docker.endpoint`: `ssh://h` is not an engine's address; write `unix:///var/run/docker.sock` or `tcp://HOST:PORT`
c:6: `sources.docker.poll_interval`: is a number and should be a string; put it in quotes
c:7: `sources.world`: the world is read from one source, and `sources.docker` is here too; leave one of them out
c:7: `sources.world.path`: is missing; set it to the path of a world file
c:9: `dns.host_listn`: is not a key here; did you mean `host_listen`?
c:10: `dns.host_listen`: `localhost:53` is not an address to listen on; write e.g. `127.0.0.1:8080`
c:11: `dns.ttl`: 1.5s is not whole seconds; write e.g. `5s`
c:12: `dns.vip_ttl`: `5` is not a time; write e.g. `250ms`, `5s` or `1m30s`
c:13: `dns.cache_bytes`: is a string and should be a number; write a whole number from 0 to 1073741824
c:15: `vip.pool`: `240.240.0.0/30` has the wrong size; write a range from /8 to /28
c:17: `router.clusters.a.http`: `8080` is not an address to listen on; write e.g. `127.0.0.1:8080`
c:18: `router.clusters.a.unknown_host`: 418 does not mean that nobody is there; write 404 or 503
c:19: `router.clusters.a.threads`: `0` is out of range; write a whole number from 1 to 1024
c:20: `router.clusters.a.timeouts.connect`: `0s` is out of range; write a time from 10ms to 86400s
c:21: `router.clusters.a.trust.forwarded`: is a string and should be a list; put it in brackets: `[..]`
c:22: `router.clusters.a.https`: is known, but not in this version; leave it out
c:23: `router.clusters.b`: is a second cluster, and this version serves one; leave it out, or run a second portolan for it
c:25: `router.http`: is not a key here; known here are clusters
c:27: `mesh.enabled`: `yes` is none of `auto`, `on`, `off`; write `auto` or `on` or `off`
c:29: `admin.listen`: `0.0.0.0:9127` is open to other machines, and who reaches it may read all; write `127.0.0.1:9127`
c:31: `log.format`: `jsn` is none of `text`, `json`; did you mean `json`?
c:32: `log.level`: `a=b=c` is not a log filter; write e.g. `info,resolver=debug`";
    assert_eq!(said, expected);
}

#[test]
fn a_mistyped_level_is_not_taken_for_a_module() {
    let said = errors("[log]\nlevel = \"inof\"\n");
    assert_eq!(said, "c:2: `log.level`: `inof` is not a log level; did you mean `info`?");
    assert_eq!(parsed("[log]\nlevel = \"WARN,vip=trace\"\n").log_level, "WARN,vip=trace");
}

#[test]
fn servers_that_cannot_be_asked_are_refused_with_what_to_write() {
    for (key, told) in [
        ("upstreams = [\"dns.example\"]", "`dns.example` is not the address of a name server"),
        ("upstreams = [\"127.0.0.11\"]", "`127.0.0.11` is portolan's own address in every"),
        ("upstreams = [\"0.0.0.0\"]", "`0.0.0.0` is no server's address"),
        ("upstreams = [\"1.2.3.4#x\"]", "`1.2.3.4#x` has a name for a certificate, but does not"),
        ("upstreams = [\"1.2.3.4:0\"]", "`1.2.3.4:0` has port 0, where nobody listens"),
        ("upstreams = [\"tls://dns.example\"]", "`tls://dns.example` is not the address of a name"),
        (
            "upstreams = [\"tls:1.2.3.4\"]",
            "`tls:1.2.3.4` is not the address of a name server; write",
        ),
        ("upstreams = [\"tls://1.2.3.4#\"]", "`tls://1.2.3.4#` has behind `#` what cannot be a"),
        ("upstreams = [\"tls://1.2.3.4:0#a\"]", "`tls://1.2.3.4:0#a` has port 0, where nobody"),
        ("upstreams = [\"tls://fd00::53:\"]", "`tls://fd00::53:` is not the address of a name"),
        ("tls_ca = \"/nowhere/ca.pem\"", "`/nowhere/ca.pem` cannot be read: No such file"),
        ("tls_ca = \"/dev/null\"", "`/dev/null` holds no certificate; name a PEM file"),
        ("tls_ca = 1", "is a number and should be a string"),
        ("upstreams = \"1.2.3.4\"", "is a string and should be a list"),
        ("upstreams = [\"1.1.1.1\", \"1.1.1.2\", \"1.1.1.3\", \"1.1.1.4\"]", "has 4 servers"),
        ("suffixes = { \"a..b\" = [\"1.2.3.4\"] }", "is not a domain; write `corp"),
        ("suffixes = { \"a.b\" = [\"x\"] }", "`x` is not the address of a name server"),
        ("rebinding_allow = [\"\"]", "`` is not a domain"),
    ] {
        let said = errors(&format!("[dns]\n{key}\n"));
        let (_, text) = said.split_once("`: ").unwrap();
        assert!(said.starts_with("c:2: `dns.") && text.starts_with(told), "{said}");
    }
}

#[test]
fn servers_over_tls_are_named_with_what_their_certificate_is_for() {
    let text =
        r#"upstreams = ["tls://9.9.9.9#dns.quad9.net", "tls://[fd00::53]:8853", "tls://::1"]"#;
    let config = parsed(&format!("[dns]\n{text}\n")).resolver.upstream;
    let shown: Vec<_> = config.servers.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["tls://9.9.9.9:853#dns.quad9.net", "tls://[fd00::53]:8853", "tls://[::1]:853"]
    );
    assert_eq!(config.authorities, resolver::Authorities::System);
}

#[test]
fn pools_that_no_connection_can_reach_are_refused() {
    for (pool, told) in [
        ("127.0.0.0/16", "no connection can be made to addresses of `127.0.0.0/16`"),
        ("224.0.0.0/8", "no connection can be made to addresses of `224.0.0.0/8`"),
        ("0.0.0.0/8", "no connection can be made to addresses of `0.0.0.0/8`"),
        ("10.0.0.1/16", "`10.0.0.1/16` has bits behind its prefix length"),
        ("fd00::/8", "`fd00::/8` is not an IPv4 address range"),
    ] {
        let said = errors(&format!("[vip]\npool = \"{pool}\"\n"));
        assert!(said.starts_with(&format!("c:2: `vip.pool`: {told}; ")), "{said}");
    }
    for (pool, told) in [
        ("2001:db8::/64", "`2001:db8::/64` is not unique local (fc00::/7)"),
        ("fd00::/128", "`fd00::/128` has the wrong size"),
        ("fd00::1/64", "`fd00::1/64` has bits behind its prefix length"),
    ] {
        let said = errors(&format!("[vip]\npool6 = \"{pool}\"\n"));
        assert!(said.starts_with(&format!("c:2: `vip.pool6`: {told}; ")), "{said}");
    }
}

#[test]
fn what_is_not_there_or_not_toml_is_said_by_name() {
    let said = Config::load(Some(Path::new("/nowhere/p.toml"))).unwrap_err().to_string();
    assert!(said.starts_with("/nowhere/p.toml: cannot be read: No such file"), "{said}");
    let said = Config::load(Some(Path::new("etcd://h:1/k"))).unwrap_err().to_string();
    assert!(said.starts_with("etcd://h:1/k: a configuration in etcd is not in this"), "{said}");
    assert_eq!(errors("[dns\nttl = 5s"), "c:1: not TOML: unclosed table, expected `]`");
}

#[test]
fn a_process_on_a_world_file_keeps_to_its_own_folder() {
    let config = Config::for_world(Path::new("/run/p"), Path::new("/run/p/w.toml"), false);
    assert_eq!(config.source, Source::World("/run/p/w.toml".into()));
    assert_eq!(config.admin_socket, Path::new("/run/p/portolan.sock"));
    assert_eq!(config.vip.state_dir, Path::new("/run/p/state"));
    assert_eq!(config.router.http, "127.0.0.1:8080".parse().unwrap());
}

mod laws {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
            Config::parse(&text, "c").ok();
        }

        #[test]
        fn no_value_of_any_key_makes_it_panic(
            chosen in prop::collection::vec(0..keys().count(), 1..6),
            values in prop::collection::vec(
                prop::sample::select(vec![
                    "\"\"", "\"5s\"", "0", "-1", "[]", "{}", "true", "\":99999\"", "\"/\"", "1e9",
                    "\"255.255.255.255/32\"", "[[]]", "\"\\u0000\"", "99999999999999999999",
                ]),
                6,
            ),
        ) {
            let all: Vec<&Key> = keys().collect();
            for (index, value) in chosen.into_iter().zip(values) {
                let section = all[index].section.replace("NAME", "x");
                let head = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
                Config::parse(&format!("{head}{} = {value}\n", all[index].name), "c").ok();
            }
        }
    }
}

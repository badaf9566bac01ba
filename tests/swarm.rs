//! The main job on a real two-node Swarm: one lab, one portolan a node, the worker's with the
//! worker's socket only. Needs root, an engine (Debian's docker.io), dig, curl, dnsmasq, python3.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

#[path = "swarm/life.rs"]
mod life;
#[path = "swarm/published.rs"]
mod published;
mod support;
#[path = "support/swarm.rs"]
mod swarm;

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use support::{program, project, sorted, text};
use swarm::{Lab, eventually};

/// One test, because the steps share a Swarm that takes its time to start; each step is a function
/// named after what it shows.
#[test]
#[ignore = "needs root and an engine: cargo test --test swarm -- --ignored"]
fn a_two_node_swarm_is_served_by_a_portolan_on_each_node() {
    let mut lab = Lab::up();
    lab.start_portolan("node1");
    lab.start_portolan("node2");
    let stack = project().join("fixtures/stack/counter.yml");
    lab.docker("node1", &format!("stack deploy -c {} counter", stack.display()));
    assert!(
        eventually(Duration::from_secs(60), || deployed(&lab)),
        "{}",
        lab.docker("node1", "service ls")
    );
    let places = places(&lab);

    names_resolve_in_containers_of_both_nodes(&lab, &places);
    names_are_scoped_to_the_container_s_networks(&lab);
    calls_through_the_vip_reach_tasks_of_both_nodes(&lab, &places);
    a_container_s_own_name_server_lives_beside_ours(&lab);
    the_host_sees_nothing_of_portolan(&lab);
    the_router_on_the_manager_reaches_tasks_of_both_nodes(&lab);
    scaling_shows_on_the_other_node(&lab, &places);
    life::a_stopping_task_is_in_no_name_while_it_still_runs(&lab, &places);
    life::containers_of_one_namespace_have_the_same_names(&lab);
    life::a_network_brings_its_names_and_takes_them_away(&lab);
    life::nothing_is_left_of_slow(&lab);
    published::a_published_port_leads_from_each_node_to_tasks_of_both_who_see_the_client(&lab);
    a_kill_leaves_dns_to_the_engine_and_connections_alone(&mut lab, &places);
    a_removed_stack_is_gone_the_first_time(&lab);
    nothing_is_left_after_cleanup(&mut lab);
}

fn deployed(lab: &Lab) -> bool {
    let services = lab.docker("node1", "service ls --format {{.Name}}={{.Replicas}}");
    let wanted = ["counter_app=5/5", "counter_db=1/1", "counter_web=2/2"];
    sorted(&services).iter().map(|line| line.split(' ').next().unwrap_or_default()).eq(wanted)
}

/// A container of app on each node: (node, container).
fn places(lab: &Lab) -> Vec<(&'static str, String)> {
    let on = |node| lab.containers(node, "counter_app").into_iter().next().map(|it| (node, it));
    let places: Vec<_> = ["node1", "node2"].into_iter().filter_map(on).collect();
    assert_eq!(places.len(), 2, "app runs on both nodes");
    places
}

/// What dig prints in a container, asked of the address that the container has in resolv.conf.
fn dig(lab: &Lab, (node, container): &(&str, String), question: &str) -> String {
    lab.sh(&format!("{node}/{container}"), &format!("dig @127.0.0.11 +time=4 +tries=1 {question}"))
}

#[track_caller]
fn until(lab: &Lab, what: &str, condition: impl FnMut() -> bool) {
    let fine = eventually(Duration::from_secs(10), condition);
    assert!(fine, "{what}\n--- node1\n{}\n--- node2\n{}", lab.log("node1"), lab.log("node2"));
}

fn names_resolve_in_containers_of_both_nodes(lab: &Lab, places: &[(&'static str, String)]) {
    let vip = lab.docker("node1", "service inspect counter_web -f '{{json .Endpoint.VirtualIPs}}'");
    for place in places {
        // Each network's gossip comes in its own time.
        until(lab, &format!("all tasks of app on {}", place.0), || {
            ["tasks.app", "tasks.app.frontend", "tasks.app.backend"].iter().all(|name| {
                let said = dig(lab, place, &format!("+noall +answer {name}"));
                said.lines().count() == 5 && !said.contains(" timed out") && !said.contains("600")
            })
        });
        let web = dig(lab, place, "+short web");
        assert!(
            vip.contains(&format!("\"{web}/")),
            "{web} on {} is Swarm's own VIP: {vip}",
            place.0
        );
        assert_eq!(dig(lab, place, "+short counter_web"), web);
        assert_eq!(
            sorted(&dig(lab, place, "+short app")),
            sorted(&dig(lab, place, "+short tasks.app"))
        );
        let backend = sorted(&dig(lab, place, "+short app.backend"));
        assert_eq!(backend.len(), 5, "{backend:?}");
        assert_ne!(backend, sorted(&dig(lab, place, "+short app.frontend")), "by network");
        let name = dig(lab, place, &format!("+short -x {}", backend[0]));
        assert!(name.starts_with("counter_app.") && name.ends_with(".backend."), "{name}");
        assert_eq!(dig(lab, place, &format!("+short -x {web}")), "counter_web.frontend.");
        let ttl = dig(lab, place, "+noall +answer tasks.counter_app");
        assert!(!ttl.contains("600"), "answered by us, not by the engine: {ttl}");
    }
}

fn names_are_scoped_to_the_container_s_networks(lab: &Lab) {
    for node in ["node1", "node2"] {
        let web = (node, lab.containers(node, "counter_web").remove(0));
        let unknown = dig(lab, &web, "db");
        assert!(unknown.contains("NXDOMAIN") || unknown.contains("SERVFAIL"), "{unknown}");
        assert_eq!(dig(lab, &web, "+short tasks.db"), "");
        let none = dig(lab, &web, "AAAA counter_app");
        assert!(
            none.contains("NOERROR") && none.contains("ANSWER: 0") && none.contains("SOA"),
            "{none}"
        );
    }
}

fn calls_through_the_vip_reach_tasks_of_both_nodes(lab: &Lab, places: &[(&'static str, String)]) {
    for (node, container) in places {
        let said =
            lab.exec(node, container, "for i in $(seq 40); do curl -s -m 5 http://web:8080/; done");
        let answered: BTreeSet<&str> = said.lines().filter_map(|it| it.split(' ').next()).collect();
        assert_eq!(said.lines().count(), 40, "{said}");
        assert_eq!(
            answered.into_iter().collect::<Vec<_>>(),
            ["counter_web.1", "counter_web.2"],
            "{said}"
        );
    }
}

fn a_container_s_own_name_server_lives_beside_ours(lab: &Lab) {
    lab.docker("node2", "run -d --name own-dns --network frontend counter:latest sleep 1000");
    let pid = lab.docker("node2", "inspect -f {{.State.Pid}} own-dns");
    let mut server = program("nsenter");
    server.arg(format!("--net=/proc/{pid}/ns/net"));
    server.args([
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
    ]);
    server.args([
        "--pid-file=",
        "--user=root",
        "--address=/own.test/192.0.2.7",
        "--bind-interfaces",
    ]);
    server.args(["--listen-address=0.0.0.0"]);
    let mut server = server.spawn().expect("dnsmasq starts");
    let place = ("node2", "own-dns".to_owned());
    let own = eventually(Duration::from_secs(5), || {
        lab.sh("node2/own-dns", "dig @127.0.0.1 +short +time=1 +tries=1 own.test") == "192.0.2.7"
    });
    let ours = eventually(Duration::from_secs(5), || {
        dig(lab, &place, "+short tasks.app").lines().count() == 5
    });
    server.kill().expect("killed");
    server.wait().expect("ended");
    assert!(own, "the container's own server answers on port 53");
    assert!(ours, "and 127.0.0.11 still resolves");
    lab.docker("node2", "rm -f own-dns");
}

fn the_host_sees_nothing_of_portolan(lab: &Lab) {
    lab.docker("node1", "run -d --name on-host --network host counter:latest sleep 1000");
    for node in ["node1", "node2"] {
        let tables = lab.sh(node, "nft list tables");
        assert!(!tables.contains("portolan"), "{node}: {tables}");
        assert!(lab.sh(node, "ss -lnu").lines().all(|line| !line.contains("127.0.0.11")), "{node}");
    }
    let sandboxes = text(&lab.portolan("node1", &["ls", "sandboxes"]).stdout);
    assert!(!sandboxes.contains("on-host"), "{sandboxes}");
    lab.docker("node1", "rm -f on-host");
}

fn the_router_on_the_manager_reaches_tasks_of_both_nodes(lab: &Lab) {
    for host in ["counter.test", "vip.counter.test"] {
        let request = format!("curl -s -m 5 -H 'Host: {host}' http://10.214.0.1:8080/");
        let said = lab.sh("client", &format!("for i in $(seq 20); do {request}; done"));
        let answered: BTreeSet<&str> = said.lines().filter_map(|it| it.split(' ').next()).collect();
        assert_eq!(said.lines().count(), 20, "{host}: {said}\n{}", lab.log("node1"));
        if host == "counter.test" {
            assert_eq!(answered.len(), 2, "{said}");
        }
    }
    let other = "curl -s -o /dev/null -w '%{http_code}' -H 'Host: x.test' http://10.214.0.1:8080/";
    assert_eq!(lab.sh("client", other), "404");
}

fn scaling_shows_on_the_other_node(lab: &Lab, places: &[(&'static str, String)]) {
    for replicas in [8, 5] {
        lab.docker("node1", &format!("service scale -d counter_app={replicas}"));
        for place in places {
            let shown = eventually(Duration::from_secs(30), || {
                dig(lab, place, "+short tasks.app").lines().count() == replicas
            });
            assert!(
                shown,
                "{replicas} tasks on {}: {}",
                place.0,
                dig(lab, place, "+short tasks.app")
            );
        }
    }
}

fn a_kill_leaves_dns_to_the_engine_and_connections_alone(
    lab: &mut Lab,
    places: &[(&'static str, String)],
) {
    let (node, container) = places.last().expect("a place").clone();
    let file = lab.folder().join("large");
    std::fs::write(&file, vec![b'x'; 12 << 20]).expect("a large file");
    let mut servers = Vec::new();
    for web in ["node1", "node2"] {
        let name = lab.containers(web, "counter_web").remove(0);
        let pid = lab.docker(web, &format!("inspect -f {{{{.State.Pid}}}} {name}"));
        let mut server = program("nsenter");
        server.arg(format!("--net=/proc/{pid}/ns/net")).current_dir(lab.folder());
        server.args(["python3", "-m", "http.server", "9000"]).stderr(std::process::Stdio::null());
        servers.push(server.stdout(std::process::Stdio::null()).spawn().expect("a server"));
    }
    std::thread::sleep(Duration::from_secs(1));
    let vip = dig(lab, &(node, container.clone()), "+short web");
    let pid = lab.docker(node, &format!("inspect -f {{{{.State.Pid}}}} {container}"));
    let mut download = program("nsenter");
    download.arg(format!("--net=/proc/{pid}/ns/net"));
    download.args([
        "curl",
        "-s",
        "--limit-rate",
        "3M",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
    ]);
    download.arg(format!("http://{vip}:9000/large"));
    let download = download.stdout(std::process::Stdio::piped()).spawn().expect("curl starts");
    std::thread::sleep(Duration::from_millis(500));

    lab.signal_portolan(node, Signal::KILL);
    let engine = eventually(Duration::from_secs(1), || {
        !dig(lab, &(node, container.clone()), "+short web").is_empty()
    });
    assert!(engine, "the engine's own DNS answers within a second");
    let ttl = dig(lab, &(node, container.clone()), "+noall +answer web");
    assert!(ttl.contains("600"), "and it is the engine's: {ttl}");
    let size = text(&download.wait_with_output().expect("it ends").stdout);
    for server in &mut servers {
        server.kill().expect("killed");
        server.wait().expect("ended");
    }
    assert_eq!(size, (12 << 20).to_string(), "the download through the VIP finished");

    let place = format!("{node}/{container}");
    let (held, said) = (held(lab, node, &place), lab.log(node).len());
    lab.start_portolan(node);
    let status = text(&lab.portolan(node, &["status"]).stdout);
    let log = lab.log(node);
    assert!(status.contains("vip: fine") && vip_changes(&log[said..]) == 0, "{status}\n{log}");
    assert_eq!(
        self::held(lab, node, &place),
        held,
        "VIP tables, routes and leases are as they were"
    );
    let tables = lab.sh(&place, "nft list tables");
    for table in ["portolan_dns", "portolan_vip"] {
        assert_eq!(tables.matches(table).count(), 1, "{tables}");
    }
    assert_eq!(dig(lab, &(node, container), "+short web"), vip);
}

/// What portolan left behind for a sandbox: its VIP table with the kernel's own numbers, which a
/// table that is written anew does not keep; the routes; the leases on disk.
fn held(lab: &Lab, node: &str, place: &str) -> String {
    let kernel = lab.sh(place, "nft -a list table ip portolan_vip | grep handle; ip route");
    assert!(kernel.contains("handle"), "there is a VIP table: {kernel}");
    let leases = lab.folder().join(node).join("portolan/vip-leases.json");
    kernel + &std::fs::read_to_string(leases).unwrap_or_default()
}

/// How many times the VIP manager changed something, by the log.
fn vip_changes(log: &str) -> usize {
    let applied = |line: &&str| line.contains("applied") && line.contains("consumer=\"vip\"");
    log.lines().filter(applied).count()
}

fn a_removed_stack_is_gone_the_first_time(lab: &Lab) {
    let output = lab.docker("node1", "stack rm counter");
    assert!(!output.to_lowercase().contains("fail"), "{output}");
    let gone = eventually(Duration::from_secs(40), || {
        ["node1", "node2"].iter().all(|node| {
            let networks = lab.docker(node, "network ls --format {{.Name}}");
            !networks.contains("frontend") && !networks.contains("backend")
        })
    });
    assert!(gone, "{}\n{}", lab.docker("node1", "network ls"), lab.docker("node2", "network ls"));
}

fn nothing_is_left_after_cleanup(lab: &mut Lab) {
    // A service with an address of our pool, so that there are tables and a route to remove.
    lab.docker("node2", "network create side");
    lab.docker(
        "node2",
        "run -d --name kept --network side -l portolan.service=kept -l portolan.mode=vip counter:latest",
    );
    until(lab, "a table for VIPs and a route to their block", || {
        let held = lab.sh("node2/kept", "nft list tables; ip route");
        held.contains("portolan_dns") && held.contains("portolan_vip") && held.contains("240.240.")
    });
    for node in ["node1", "node2"] {
        lab.signal_portolan(node, Signal::TERM);
        let cleaned = lab.portolan(node, &["cleanup"]);
        assert!(cleaned.status.success(), "{}", text(&cleaned.stderr));
    }
    for place in ["node1", "node2", "node2/kept"] {
        let held = lab.sh(place, "nft list tables; ip route; ip rule");
        assert!(!held.contains("portolan") && !held.contains("240.240."), "{place}: {held}");
    }
}

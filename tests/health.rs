//! Health checks and events, end to end: a portolan over a world file, tasks that are real servers,
//! the verdicts where people look for them.
//!
//! Needs the right to make network namespaces (root, or `unshare -Urnm`), dig, curl and python3;
//! the one in a Swarm (`-- --ignored`) root and an engine.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;
#[expect(dead_code, reason = "each test file uses its part of this")]
#[path = "support/swarm.rs"]
mod swarm;

use std::time::Duration;

use support::said_in_demo;
use swarm::{Lab, eventually};

/// What `script` says beside a second portolan whose service `web` has three tasks, which are
/// servers at 10.99.0.1 to .3 on port 8080: `serve N` starts one, `stop N` ends it. `sees LINE
/// COMMAND` waits until COMMAND prints LINE.
fn said_with_tasks(labels: &str, script: &str) -> String {
    said_in_demo(&format!(
        "mkdir -p /run/two; cd /run/two
         task() {{ echo '[[task]]'; echo \"name = 'web.$1'\"; echo \"service = 'web'\"
             echo \"addresses = {{ x = '10.99.0.$1' }}\"; }}
         {{ echo '[[network]]'; echo \"name = 'x'\"; echo \"subnet = '10.99.0.0/24'\"
            echo '[[service]]'; echo \"name = 'web'\"; echo \"mode = 'dnsrr'\"
            echo \"networks = ['x']\"; echo \"labels = {{ {labels} }}\"
            task 1; task 2; task 3; }} > world.toml
         serve() {{ ip address replace 10.99.0.$1/32 dev lo
             python3 -m http.server --bind 10.99.0.$1 8080 >/dev/null 2>&1 & eval pid$1=$!
             for i in $(seq 100); do
                 curl -s http://10.99.0.$1:8080/ >/dev/null && return; sleep 0.1; done; }}
         stop() {{ eval kill \\$pid$1; }}
         sees() {{ want=$1; shift; for i in $(seq 300); do
             \"$@\" 2>/dev/null | grep -qx -- \"$want\" && return; sleep 0.1; done
             echo \"no $want:\"; \"$@\"; cat log; }}
         answered() {{ dig +short @127.0.0.1 -p 1099 tasks.web.x | sort | cut -d. -f4 | tr -d '\\n'; echo; }}
         task_line() {{ portolan ls tasks | grep \"^web.$1 \" | tr -s ' '; }}
         serve 1; serve 2; serve 3
         export PORTOLAN_CONFIG=\"
         state_dir = '/run/two'
         sources.world.path = '/run/two/world.toml'
         dns.host_listen = '127.0.0.1:1099'
         admin.socket = '/run/two.sock'
         router.clusters.default.http = '127.0.0.1:18080'\"
         export PORTOLAN_SOCKET=/run/two.sock
         portolan up 2>log & up=$!
         for i in $(seq 100); do portolan status >/dev/null 2>&1 && break; sleep 0.1; done
         {script}
         kill $up $pid1 $pid2 $pid3 2>/dev/null; wait $up"
    ))
}

const TCP: &str = "'portolan.health.tcp' = '8080', 'portolan.health.interval' = '1s', 'portolan.health.fall' = '2'";

#[test]
fn a_task_that_stops_listening_gets_nothing_until_it_listens_again() {
    let said = said_with_tasks(
        TCP,
        "stop 2
         sees 'web.2 web starting x=10.99.0.2 - tcp check of 10.99.0.2:8080 failed 2 times: connection refused' task_line 2
         sees 13 answered
         serve 2
         sees 'web.2 web serving x=10.99.0.2 - -' task_line 2
         sees 123 answered
         portolan events | cut -d' ' -f2- | grep web.2",
    );
    let expected = [
        "health task web.2: was serving, is starting (tcp check of 10.99.0.2:8080 failed 2 times: \
         connection refused)",
        "health task web.2: was starting, is serving",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

const HTTP: &str = "'portolan.health.http' = '8080/', 'portolan.health.interval' = '1s', \
                    'portolan.health.fall' = '2', 'portolan.health.rise' = '1'";

#[test]
fn where_most_of_a_service_fail_all_are_kept_and_that_is_said() {
    let said = said_with_tasks(
        HTTP,
        "stop 1; stop 2
         told() { portolan events | cut -d' ' -f3- | grep too.many | sed 's/; e.g.*//'; }
         sees 'service web: 2 of 3 tasks fail their check, too many to be believed, so all are kept' told
         sees 123 answered
         portolan ls services 2>&1 >/dev/null | grep -c 'too many to be believed'
         serve 1
         again() { portolan events | cut -d' ' -f3- | grep again; }
         sees 'service web: its checks are acted on again: no more than half of them fail' again
         sees 13 answered",
    );
    assert_eq!(said.lines().collect::<Vec<_>>(), ["1"]);
}

#[test]
fn a_new_task_waits_for_its_first_success() {
    let said = said_with_tasks(
        HTTP,
        "task 4 >> world.toml
         sees 'web.4 web starting x=10.99.0.4 - waiting for its first health check to succeed' task_line 4
         sees 123 answered
         serve 4
         sees 'web.4 web serving x=10.99.0.4 - -' task_line 4
         sees 1234 answered
         kill $pid4",
    );
    assert_eq!(said, "");
}

#[test]
fn who_follows_events_hears_of_them_also_from_the_portolan_after_this_one() {
    let said = said_with_tasks(
        TCP,
        "portolan events --follow --json > followed & follower=$!
         first() { grep -c 'tasks are known' followed; }
         sees 1 first
         kill $up; wait $up; portolan up 2>>log & up=$!
         sees 2 first
         sed -i s/web.3/other.3/ world.toml
         renamed() { grep -o '\"subject\":\"task other.3\"' followed; }
         sees '\"subject\":\"task other.3\"' renamed
         kill $follower
         grep -vc '^{\"number\":[0-9]*,\"at\":\"[0-9T:.-]*Z\",\"kind\":\"[a-z]*\",\"subject\":' followed",
    );
    assert_eq!(said.lines().collect::<Vec<_>>(), ["0"]);
}

#[test]
#[ignore = "needs root and an engine: cargo test --test health -- --ignored"]
fn in_a_swarm_a_task_that_hangs_is_called_from_no_node() {
    let mut lab = Lab::up();
    lab.start_portolan("node1");
    lab.start_portolan("node2");
    lab.docker("node1", "network create -d overlay --attachable front");
    lab.docker(
        "node1",
        "service create --detach --name web --replicas 4 --network front --no-resolve-image \
         --container-label portolan.health.http=8080/ --container-label portolan.health.fall=2 \
         --container-label portolan.health.timeout=500ms \
         --container-label portolan.health.interval=1s counter:latest",
    );
    let places = || -> Vec<String> {
        let on = |node| {
            let all = lab.containers(node, "web").into_iter();
            all.map(move |it| format!("{node}/{it}"))
        };
        on("node1").chain(on("node2")).collect()
    };
    assert!(eventually(Duration::from_secs(60), || places().len() == 4), "{:?}", places());
    let serve = |place: &String| {
        let server = "setsid python3 -m http.server 8080 >/dev/null 2>&1 </dev/null & echo $!";
        (place.clone(), lab.sh(place, server))
    };
    let servers: Vec<_> = places().iter().map(serve).collect();
    for node in ["node1", "node2"] {
        let client = format!("run -d --name client-{node} --network front counter:latest");
        lab.docker(node, &client);
    }
    let inspected = lab.docker("node1", "service inspect web -f '{{json .Endpoint.VirtualIPs}}'");
    let vip = inspected.split("\"Addr\":\"").nth(1).and_then(|it| it.split('/').next());
    let call = format!(
        "for i in $(seq 40); do curl -s -o /dev/null -m 2 -w '%{{http_code}} ' http://{}:8080/; done",
        vip.expect("a VIP")
    );
    let fine = |node: &str| lab.sh(&format!("{node}/client-{node}"), &call);
    let state = |node: &str, task: &str| {
        let tasks = support::text(&lab.portolan(node, &["ls", "tasks"]).stdout);
        let line = tasks.lines().find(|it| it.starts_with(task)).unwrap_or_default().to_owned();
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    };
    let all_are = |task: &str, wanted: &str| {
        let there = || ["node1", "node2"].iter().all(|node| state(node, task) == wanted);
        assert!(
            eventually(Duration::from_secs(20), there),
            "{task} is {wanted}: {}",
            lab.log("node2")
        );
    };
    let ok = "200 ".repeat(40);
    for (place, server) in [servers.first(), servers.last()].into_iter().flatten() {
        let task = place.split('/').nth(1).expect("a container's name");
        all_are(task, "serving");
        lab.sh("node1", &format!("kill -STOP {server}"));
        all_are(task, "starting");
        assert_eq!((fine("node1"), fine("node2")), (ok.trim().into(), ok.trim().into()), "{task}");
        lab.sh("node1", &format!("kill -CONT {server}"));
        all_are(task, "serving");
    }
    for (_, server) in servers {
        lab.sh("node1", &format!("kill -9 {server}"));
    }
}

//! `verify` and `explain vip` in the demo's real namespaces, whole and damaged.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use support::said_in_demo;

#[test]
fn verify_finds_nothing_where_nothing_was_touched() {
    let said = said_in_demo("portolan verify; echo \"status $?\"");
    for section in [
        "world file and registry: the same (2 networks, 3 services, 8 tasks, 8 sandboxes)\n",
        "plan and kernel: the same (2 VIPs, tables and routes of 8 namespaces)\n",
        "tasks and conntrack: the same (flows in 8 namespaces)\n",
        "published ports and kernel: the same (",
        "plan and DNS answers: the same (",
    ] {
        assert!(said.contains(section), "{section} in {said}");
    }
    assert!(said.ends_with("status 0\n"), "{said}");
}

#[test]
fn verify_tells_what_somebody_took_out_of_a_sandbox() {
    let said = said_in_demo(
        "block=$(portolan exec web.1 ip route show 240.240.1.0/24 | cut -d' ' -f1)
         portolan exec web.1 ip route del $block
         portolan verify; echo \"status $?\"",
    );
    let missing = "  sandbox web.1: route 240.240.1.0/24 from 10.20.1.11 is missing\n";
    assert!(said.contains("plan and kernel: 1 difference"), "{said}");
    assert!(said.contains(missing), "{said}");
    assert!(said.ends_with("status 1\n"), "{said}");
}

#[test]
fn a_table_of_published_ports_that_somebody_deletes_is_back_before_verify_looks_twice() {
    let said = said_in_demo(
        "ask() { curl -s -m 5 -H 'Host: counter.test' http://10.20.1.1:8000/; }
         for i in $(seq 50); do ask && break; sleep 0.2; done
         nft delete table ip portolan_mesh
         portolan verify | grep ports
         ask",
    );
    let lines: Vec<&str> = said.lines().collect();
    let [called, fine, again] = lines.try_into().unwrap_or_else(|_| panic!("{said}"));
    assert!(called.starts_with("web.") && again.starts_with("web."), "{said}");
    assert_eq!(fine, "published ports and kernel: the same (1 ports)");
}

#[test]
fn a_connection_through_a_vip_is_explained_with_its_tasks_and_a_probe() {
    let said = said_in_demo(
        "vip=$(portolan exec app.1 dig +short web)
         portolan explain vip $vip:8080 --from app.1; echo \"status $?\"",
    );
    assert!(said.contains("the VIP of web.frontend, 2 of 2 tasks serving\n"), "{said}");
    assert!(said.contains("  web.1 10.20.1.11: serving\n"), "{said}");
    assert!(said.contains("  nft: new connections go to 10.20.1.11, 10.20.1.12"), "{said}");
    let probe = said.lines().find(|it| it.starts_with("  probe: ")).expect("a probe");
    assert!(probe.contains("answered by web."), "{said}");
    assert!(said.ends_with("status 0\n"), "{said}");
}

#[test]
fn an_echo_request_is_the_probe_where_no_port_is_named() {
    let said = said_in_demo(
        "vip=$(portolan exec app.1 dig +short web)
         portolan explain vip $vip --from app.1; echo \"status $?\"",
    );
    assert!(said.contains("  probe: answered after "), "{said}");
    assert!(said.ends_with("status 0\n"), "{said}");
}

#[test]
fn a_port_where_nobody_listens_is_told_from_a_service_without_tasks() {
    let said = said_in_demo(
        "vip=$(portolan exec app.1 dig +short web)
         portolan explain vip $vip:81 --from app.1; echo \"status $?\"",
    );
    assert!(said.contains("  probe: refused after "), "{said}");
    assert!(said.contains("nothing listens on port 81/tcp there"), "{said}");
    assert!(said.ends_with("status 1\n"), "{said}");
}

#[test]
fn a_vip_of_a_network_that_the_sandbox_is_not_on_is_named_with_the_remedy() {
    let said = said_in_demo(
        "vip=$(portolan exec app.1 dig +short db)
         portolan explain vip $vip:6379 --from web.1; echo \"status $?\"",
    );
    let what = "the VIP of db.backend, and this sandbox is not on backend\n";
    assert!(said.contains(what), "{said}");
    assert!(said.contains("docker network connect backend CONTAINER"), "{said}");
    assert!(said.ends_with("status 1\n"), "{said}");
}

#[test]
fn what_is_no_address_is_refused_with_what_is_expected() {
    let said = said_in_demo("portolan explain vip web:80 --from app.1 2>&1; echo \"status $?\"");
    assert!(said.contains("`web:80` is no ADDRESS, no ADDRESS:PORT and"), "{said}");
    assert!(said.ends_with("status 1\n"), "{said}");
}

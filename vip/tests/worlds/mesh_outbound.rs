//! Nodes whose engine keeps no rules: who gets out, and what is said of rules of others.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use kernel::nft::{Batch, Socket};
use vip::mesh::ClientIp;

use crate::mesh_support::{ENGINES, Manager, Place, Swarm, TARGET, Text};

const PORT: u16 = 8001;
/// The engine's bridge on the node, as a network.
const BRIDGE: &str = "[[network]]\nname = \"docker_gwbridge\"\nsubnet = \"172.31.1.0/24\"\n";
const PORTS: &str = "{ published = 8001, target = 80 }";

/// A Swarm whose first node's engine has no rules; a task there, and what the node is told.
fn bare() -> (Swarm, Place, String) {
    let mut swarm = Swarm::new("0");
    let mut batch = Batch::new();
    batch.delete_table(ENGINES);
    Socket::open(&swarm.nodes[0].host.netns).unwrap().commit(&batch).unwrap();
    let task = swarm.task(0, "web.1", 21, "0");
    swarm.client.serve("outside", TARGET);
    let text = Text::new(&swarm, 0, PORTS, "").task("web.1", 0, 21, "serving");
    let text = text.sandbox("web.1", &task).0 + BRIDGE;
    (swarm, task, text)
}

/// Whom somebody outside sees when a container comes to it.
fn seen_outside(swarm: &Swarm, from: &Place) -> std::io::Result<String> {
    let to = SocketAddr::from((swarm.client.address, TARGET));
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(500));
    let mut stream = from.netns.run(connect).unwrap()?;
    crate::mesh_support::listen(&mut stream)
}

fn nft(place: &Place, commands: &str) {
    #[expect(clippy::disallowed_methods, reason = "what users write, they write with it")]
    let mut nft = Command::new("nft");
    nft.arg(commands);
    assert!(place.netns.run(|| nft.status()).unwrap().unwrap().success(), "{commands}");
}

#[test]
fn containers_get_out_where_the_engine_keeps_no_rules_and_the_mesh_works_there() {
    let (swarm, task, text) = bare();
    let mut manager = Manager::new(&swarm, 0, ClientIp::Keep);
    assert!(seen_outside(&swarm, &task).is_err(), "without a masquerade no answer comes back");
    let (outcome, _) = manager.try_make(&text);
    let said: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(said.len() == 1 && said[0].contains("portolan masquerades"), "{said:?}");
    let node = swarm.nodes[0].host.address;
    assert_eq!(seen_outside(&swarm, &task).unwrap(), format!("outside sees {node}"));
    let answers = swarm.client.calls((node, PORT), 4);
    assert_eq!(answers, ["web.1 sees 10.213.0.100"]);
    assert_eq!(task.calls((Ipv4Addr::new(172, 31, 1, 1), PORT), 2).len(), 1, "by its own bridge");
    assert_eq!(manager.try_make(&text).0.changes, 0);
    assert_eq!(manager.inspect(&text), [""; 0]);
}

#[test]
fn the_way_out_stays_without_ports_and_goes_when_the_engine_keeps_rules_itself() {
    let (swarm, task, text) = bare();
    let mut manager = Manager::new(&swarm, 0, ClientIp::Keep);
    let unpublished = text.replace(PORTS, "");
    let (outcome, _) = manager.try_make(&unpublished);
    assert_eq!(outcome.failures.iter().len(), 1, "only that it stands in");
    assert!(seen_outside(&swarm, &task).is_ok(), "no port is published, and containers get out");
    nft(
        &swarm.nodes[0].host,
        "table ip docker-bridges { chain filter-forward-in__docker_gwbridge { }; }",
    );
    drop(manager);
    let mut manager = Manager::new(&swarm, 0, ClientIp::Keep);
    manager.make(&unpublished);
    let tables = Socket::open(&swarm.nodes[0].host.netns).unwrap().tables().unwrap();
    assert!(tables.iter().all(|it| it.name != "portolan_mesh"), "{tables:?}");
}

/// As engines from 29 on have it with `firewall-backend=nftables`.
const ENGINE_29: &str = "table ip docker-bridges {
    chain filter-FORWARD { type filter hook forward priority 0; oifname docker_gwbridge jump filter-forward-in__docker_gwbridge; }
    chain filter-forward-in__docker_gwbridge { ct state established,related accept; MARKS drop; }
}";

#[test]
fn the_engines_nftables_rules_let_the_mesh_pass_by_its_mark_or_are_told_of() {
    let (swarm, _task, text) = bare();
    let node = &swarm.nodes[0].host;
    nft(node, &ENGINE_29.replace("MARKS", ""));
    let mut manager = Manager::new(&swarm, 0, ClientIp::Keep);
    let (outcome, _) = manager.try_make(&text);
    let said: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(said.len() == 1 && said[0].contains("bridge-accept-fwmark"), "{said:?}");
    nft(node, "delete table ip docker-bridges");
    let accepting = "meta mark & 0x20000000 == 0x20000000 accept comment \"ALLOW FW MARK\";";
    nft(node, &ENGINE_29.replace("MARKS", accepting));
    drop(manager);
    let mut manager = Manager::new(&swarm, 0, ClientIp::Keep);
    manager.make(&text);
    assert_eq!(swarm.client.calls((node.address, PORT), 4), ["web.1 sees 10.213.0.100"]);
}

#[test]
fn a_chain_of_somebody_else_that_drops_is_told_of_until_a_rule_there_names_portolan() {
    let (swarm, task, text) = bare();
    let node = &swarm.nodes[0].host;
    nft(
        node,
        "table inet site { chain pass { type filter hook forward priority 0; policy drop; }; }",
    );
    let mut manager = Manager::new(&swarm, 0, ClientIp::Keep);
    let said = |manager: &mut Manager| -> Vec<_> {
        let (outcome, _) = manager.try_make(&text);
        let said = outcome.failures.iter().map(ToString::to_string);
        said.filter(|it| it.contains("chain pass of table inet site")).collect()
    };
    assert_eq!(said(&mut manager).len(), 1);
    assert!(seen_outside(&swarm, &task).is_err(), "no other table can accept it");
    nft(node, "add rule inet site pass iifname docker_gwbridge accept comment \"portolan: out\"");
    nft(node, "add rule inet site pass ct state established,related accept");
    nft(node, "add rule inet site pass ct mark & 0x20000000 != 0 accept");
    drop(manager);
    let mut manager = Manager::new(&swarm, 0, ClientIp::Keep);
    assert_eq!(said(&mut manager), [""; 0]);
    assert!(seen_outside(&swarm, &task).is_ok());
    assert_eq!(swarm.client.calls((node.address, PORT), 2), ["web.1 sees 10.213.0.100"]);
}

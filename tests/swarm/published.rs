//! Steps of the Swarm's test about published ports. They leave the lab as they found it.

use std::process::{Child, Stdio};
use std::time::Duration;

use super::support::{program, text};
use super::swarm::Lab;
use super::{eventually, until};

/// A task: tells by TCP and UDP whose it is and whom it sees.
const SERVE: &str = r#"
import socket, sys, threading
def tcp():
    server = socket.create_server(("", 9000))
    while True:
        client, peer = server.accept()
        client.sendall(f"{sys.argv[1]} {peer[0]}".encode())
        client.close()
threading.Thread(target=tcp, daemon=True).start()
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 9000))
while True:
    _, peer = server.recvfrom(512)
    server.sendto(f"{sys.argv[1]} {peer[0]}".encode(), peer)
"#;

/// Prints what many sockets were told.
const ASK: &str = r#"
import socket, sys
kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[sys.argv[1]]
family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
for _ in range(24):
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        try:
            sock.connect((sys.argv[2], 9100))
            if sys.argv[1] == "udp":
                sock.send(b"who")
            print(sock.recv(512).decode())
        except OSError as error:
            print(error)
"#;

const CLIENT: &str = "10.214.0.100";

pub(crate) fn a_published_port_leads_from_each_node_to_tasks_of_both_who_see_the_client(lab: &Lab) {
    let ask = lab.folder().join("ask.py");
    std::fs::write(&ask, ASK).expect("a script");
    let publish = "--publish 9100:9000 --publish 9100:9000/udp";
    let create = "service create -d --no-resolve-image --name open --replicas 2";
    lab.docker(
        "node1",
        &format!("{create} --replicas-max-per-node 1 {publish} counter:latest sleep 1000"),
    );
    let mut servers: Vec<Child> = ["node1", "node2"].iter().map(|node| server(lab, node)).collect();
    let told = |place: &str, kind: &str, address: &str| {
        let said = lab.sh(place, &format!("python3 {} {kind} {address}", ask.display()));
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines
    };
    let seen = |peer: &str| vec![format!("node1 {peer}"), format!("node2 {peer}")];
    for (node, address) in [("node1", "10.214.0.1"), ("node2", "10.214.0.2")] {
        for kind in ["tcp", "udp"] {
            let what = format!("{kind} from outside through {node}");
            until(lab, &what, || told("client", kind, address) == seen(CLIENT));
            // Whom a task sees there is the node's end of the ingress network.
            let hosts = || {
                let lines = told(node, kind, "::1");
                lines.iter().filter_map(|it| it.split(' ').next()).map(str::to_owned).collect()
            };
            until(lab, &format!("{kind} to ::1 of {node}"), || {
                let hosts: Vec<String> = hosts();
                hosts == ["node1", "node2"]
            });
        }
    }
    for server in &mut servers {
        server.kill().expect("killed");
        server.wait().expect("ended");
    }
    lab.docker("node1", "service rm open");
    let gone = || {
        ["node1", "node2"].iter().all(|node| {
            let known = text(&lab.portolan(node, &["ls", "tasks"]).stdout);
            lab.containers(node, "open").is_empty() && !known.contains("open")
        })
    };
    assert!(eventually(Duration::from_secs(30), gone), "{}", lab.log("node1"));
}

/// What a node's task runs: its container alone only waits.
fn server(lab: &Lab, node: &str) -> Child {
    let script = lab.folder().join("serve.py");
    std::fs::write(&script, SERVE).expect("a script");
    let started = eventually(Duration::from_secs(60), || !lab.containers(node, "open").is_empty());
    assert!(started, "a task on {node}: {}", lab.docker("node1", "service ps open"));
    let name = lab.containers(node, "open").remove(0);
    let pid = lab.docker(node, &format!("inspect -f {{{{.State.Pid}}}} {name}"));
    let mut server = program("nsenter");
    server.arg(format!("--net=/proc/{pid}/ns/net")).arg("python3").arg(script).arg(node);
    server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server")
}

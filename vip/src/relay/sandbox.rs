//! The entrances of one sandbox whose VIPs are relayed. Pure.
//!
//! Always true here: a sandbox reaches every known port of every VIP that it has; ports that are not known are refused by the annex's kernel.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use registry::model::Protocol;

use super::plan::{Entrance, Place, Plan, Target, Way};
use crate::plan::{Balance, SandboxPlan};

/// What is relayed for a sandbox whose namespace has that cookie, and beside which there is that
/// annex. `drain`: how long sessions may go on
/// whose entrance is gone.
pub(crate) fn entrances(
    sandbox: &SandboxPlan,
    cookie: u64,
    annex: &Place,
    drain: Duration,
) -> Plan {
    let inside = Place::Netns { path: sandbox.netns.clone(), cookie: Some(cookie) };
    let mut plan = Plan::new();
    for (vip, balance) in &*sandbox.balances {
        for &(port, protocol) in &balance.ports {
            let address = SocketAddr::new(*vip, port);
            let (way, place) = (Way::Bound, annex.clone());
            let target = target(balance, port, inside.clone(), drain);
            plan.insert(Entrance { place, address, protocol, way }, Arc::new(target));
        }
    }
    plan
}

/// Tasks are reached from the sandbox itself: they see its own address, as through nftables.
fn target(balance: &Balance, port: u16, dial: Place, drain: Duration) -> Target {
    let at = |task: &IpAddr| SocketAddr::new(*task, port);
    Target {
        service: balance.service.clone(),
        network: balance.network.clone(),
        slots: balance.slots.iter().map(at).collect(),
        alive: balance.alive.iter().map(at).collect(),
        resting: balance.resting.iter().map(|(task, limit)| (at(task), *limit)).collect(),
        dial,
        proxy_protocol: false,
        affinity: balance.affine,
        drain,
    }
}

/// What becomes of a connection to a port of a VIP where VIPs are relayed, in words.
pub fn in_words(balance: &Balance, port: Option<(u16, Protocol)>) -> String {
    let known = Ports(balance).to_string();
    match port {
        None => format!("relayed by portolan itself; the VIP answers pings; ports: {known}"),
        Some(port) if balance.ports.contains(&port) => {
            format!("relayed by portolan itself, as are {known}")
        }
        Some((port, protocol)) => format!(
            "refused: {port}/{protocol} is no port of the service that portolan knows ({known}); publish \
             it, or name it with the label `portolan.vip.ports`"
        ),
    }
}

/// The ports that are relayed, for people.
struct Ports<'a>(&'a Balance);

impl fmt::Display for Ports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.ports.is_empty() {
            return f.write_str("none");
        }
        for (nth, (port, protocol)) in self.0.ports.iter().enumerate() {
            let gap = if nth == 0 { "" } else { ", " };
            write!(f, "{gap}{port}/{protocol}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox() -> SandboxPlan {
        let [one, other] = [11, 12].map(|last| IpAddr::from([10, 0, 0, last]));
        let balance = Balance {
            service: "web".to_owned(),
            network: "front".to_owned(),
            slots: vec![one],
            alive: [one, other].into(),
            ports: [(80, Protocol::Tcp), (53, Protocol::Udp)].into(),
            affine: true,
            resting: [(other, Some(Duration::from_secs(7)))].into(),
        };
        SandboxPlan {
            name: "client".to_owned(),
            netns: "/run/netns/client".into(),
            cookie: None,
            balances: Arc::new([(IpAddr::from([10, 0, 0, 2]), Arc::new(balance))].into()),
            routes: [].into(),
        }
    }

    #[test]
    fn every_known_port_of_a_vip_is_an_entrance_and_tasks_are_dialled_from_the_sandbox() {
        let plan = entrances(&sandbox(), 7, &Place::Host, Duration::from_secs(600));
        let lines: Vec<_> = plan.iter().map(|(key, to)| format!("{key}: {to}")).collect();
        let from = "from /run/netns/client with affinity";
        assert_eq!(
            lines,
            [
                format!(
                    "udp 10.0.0.2:53 in host: web.front -> 10.0.0.11:53, idle 10.0.0.12:53 {from}"
                ),
                format!(
                    "tcp 10.0.0.2:80 in host: web.front -> 10.0.0.11:80, idle 10.0.0.12:80 {from}"
                ),
            ]
        );
        let drains = |it: &Arc<Target>| it.resting.values().eq([&Some(Duration::from_secs(7))]);
        assert!(plan.values().all(drains));
    }

    #[test]
    fn a_port_that_is_not_known_is_told_with_what_to_do() {
        let sandbox = sandbox();
        let balance = sandbox.balances.values().next().unwrap();
        let told = in_words(balance, Some((8080, Protocol::Tcp)));
        assert!(told.starts_with("refused: 8080/tcp is no port of the service"), "{told}");
        assert!(told.contains("(53/udp, 80/tcp)") && told.contains("portolan.vip.ports"), "{told}");
        assert!(in_words(balance, Some((80, Protocol::Tcp))).starts_with("relayed"));
    }
}

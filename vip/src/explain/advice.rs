//! What to do about it. Pure.

use registry::Snapshot;
use registry::model::{Mode, Protocol, Service, ServingState};

use super::Target;
use super::probe::{Outcome, Probe};
use super::subject::Subject;

/// What would make it work, or what is peculiar about it.
pub(super) fn advice(
    snapshot: &Snapshot,
    subject: &Subject<'_>,
    probe: &Probe,
    target: Target,
) -> Vec<String> {
    let mut advice = Vec::new();
    match subject {
        Subject::Vip { service, .. } => {
            advice.extend(serving(snapshot, service));
            advice.extend(port(service, target).filter(|_| probe.outcome != Outcome::Answered));
        }
        Subject::Foreign { service, network } => advice.push(format!(
            "connect the container to a network of {}: `docker network connect {} CONTAINER`, or \
             add the network to its service",
            service.name, network.name
        )),
        Subject::Task { foreign: true, network, .. } => {
            advice.push(format!("only who is on {} reaches it", network.name));
        }
        Subject::Task { task, foreign: false, .. } if !task.serves() => advice.push(format!(
            "the task is {}: through its service's VIP it would get no new connection",
            task.state
        )),
        Subject::Task { .. } => {}
        Subject::Published { published, .. } => {
            let name = &published.service;
            let none = published.slots.is_empty() && !published.proxy_protocol;
            advice.extend(none.then(|| format!("no task of {name} serves, so it is refused")));
            let bound =
                (!published.bind.is_empty() && probe.outcome != Outcome::Answered).then(|| {
                    format!("{name} wants the port on some addresses only (`portolan.mesh.bind`)")
                });
            advice.extend(bound);
        }
        Subject::Resting { .. } => advice
            .push("who still uses it has kept an old answer: look the name up again".to_owned()),
        Subject::Nobody => advice.push(
            "`portolan ls vips` lists the VIPs, `portolan ls tasks` the tasks' addresses"
                .to_owned(),
        ),
    }
    advice.extend(outcome(subject, probe, target));
    advice
}

/// Why nobody serves.
fn serving(snapshot: &Snapshot, service: &Service) -> Option<String> {
    let mut tasks = snapshot.tasks_of(&service.id).peekable();
    let name = &service.name;
    if tasks.peek().is_none() {
        return Some(format!("{name} has no task: scale it up, or see why it does not start"));
    }
    let (mut states, mut serving) = (std::collections::BTreeMap::<_, usize>::new(), false);
    for task in tasks {
        serving |= task.serves();
        // A task of weight 0 serves, and is given nothing.
        let idle = task.state == ServingState::Serving && task.weight == 0;
        let state = if idle { "of weight 0".to_owned() } else { task.state.to_string() };
        *states.entry(state).or_default() += 1;
    }
    let states: Vec<_> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let why = || format!("no task of {name} serves ({}), so it is refused", states.join(", "));
    (!serving).then(why)
}

/// Mistakes with ports that people make.
fn port(service: &Service, target: Target) -> Option<String> {
    let (asked, protocol) = target.service_port()?;
    let inside =
        |protocol| service.ports.iter().any(|it| (it.target, it.protocol) == (asked, protocol));
    let other = match protocol {
        Protocol::Tcp => Protocol::Udp,
        Protocol::Udp => Protocol::Tcp,
    };
    if inside(other) && !inside(protocol) {
        let name = &service.name;
        return Some(format!(
            "{asked} is a port of {name} for {other}, and the probe is {protocol}"
        ));
    }
    let published = service.ports.iter().find(|it| it.published == asked && it.target != asked)?;
    let known = service.ports.iter().any(|it| it.target == asked);
    let inside = published.target;
    (!known).then(|| {
        format!(
            "{asked} is the port that {} publishes on the nodes; on its networks it listens on \
             {inside}",
            service.name
        )
    })
}

/// What the way it ended says.
fn outcome(subject: &Subject<'_>, probe: &Probe, target: Target) -> Option<String> {
    let Subject::Vip { service, balance, .. } = subject else { return None };
    if balance.slots.is_empty() {
        return None;
    }
    match (&probe.outcome, target.service_port()) {
        (Outcome::Refused, Some((port, protocol))) => Some(format!(
            "a task was reached and nothing listens on port {port}/{protocol} there: see on which address \
             and port {} listens (0.0.0.0, not 127.0.0.1)",
            service.name
        )),
        (Outcome::Silent, Some((_, Protocol::Udp))) => Some(
            "nobody refused the datagram, and nobody answered it: most servers answer only what \
             they understand"
                .to_owned(),
        ),
        (Outcome::Silent, _) => Some(
            "nothing came back: the task's own firewall drops it, or its node is not reached; \
             `portolan explain vip` with the task's own address tells which"
                .to_owned(),
        ),
        (Outcome::Answered, _) if service.mode == Mode::DnsRr => {
            Some(format!("{} is in mode dnsrr and has a VIP all the same", service.name))
        }
        (Outcome::Answered | Outcome::Refused | Outcome::Failed(_), _) => None,
    }
}

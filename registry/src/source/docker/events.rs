//! What an event of the engine makes untrue, and so has to be read again. Pure.
//!
//! Events are hints, never facts about the world: except for a container's death and its being
//! told to stop, they only say where to look.

use std::collections::BTreeMap;

/// One event, as far as it matters here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Event {
    /// `container`, `network`, `service`, `node`, `daemon`.
    pub(crate) kind: String,
    /// `start`, `die`, `connect`, `health_status: healthy`, ...
    pub(crate) action: String,
    /// The id of whom it is about.
    pub(crate) subject: String,
    /// What else the engine says of it.
    pub(crate) attributes: BTreeMap<String, String>,
}

/// What to do about an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    /// Inspect this container.
    Container(String),
    /// This container has no process any more.
    Died(String),
    /// This container does not exist any more.
    Destroyed(String),
    /// This container has a place on that network: network, container.
    Connected(String, String),
    /// This container was sent that signal (its number, in decimal).
    Signalled(String, String),
    /// The list of networks is different.
    Networks,
    /// This network lost or got an endpoint on this node.
    Endpoints(String),
    /// Services, tasks or nodes are different (managers).
    Swarm,
    /// What `/info` says may be different.
    Info,
}

/// The kinds of event worth being sent.
pub(crate) const KINDS: [&str; 5] = ["container", "daemon", "network", "node", "service"];

/// The actions worth being sent. Naming them keeps away the three `exec_*` events of every health
/// check; `health_status` is matched by the engine as a prefix.
pub(crate) const ACTIONS: [&str; 13] = [
    "connect",
    "create",
    "destroy",
    "die",
    "disconnect",
    "health_status",
    "kill",
    "reload",
    "remove",
    "rename",
    "start",
    "unpause",
    "update",
];

/// What to do about `event`.
pub(crate) fn effects(event: &Event) -> Vec<Effect> {
    let subject = || event.subject.clone();
    let action = event.action.split(':').next().unwrap_or_default();
    match (event.kind.as_str(), action) {
        ("container", "create") => vec![Effect::Container(subject())],
        ("container", "start" | "rename" | "health_status" | "unpause") => {
            vec![Effect::Container(subject()), Effect::Swarm]
        }
        ("container", "die") => vec![Effect::Died(subject()), Effect::Swarm],
        ("container", "destroy") => vec![Effect::Destroyed(subject()), Effect::Swarm],
        ("container", "kill") => {
            let signal = event.attributes.get("signal").cloned().unwrap_or_default();
            vec![Effect::Signalled(subject(), signal), Effect::Swarm]
        }
        ("network", "connect" | "disconnect") => {
            let container = event.attributes.get("container").cloned().unwrap_or_default();
            let mut effects = vec![Effect::Container(container.clone())];
            if action == "connect" {
                effects.push(Effect::Connected(subject(), container));
            }
            effects.push(Effect::Endpoints(subject()));
            effects
        }
        ("network", "create" | "destroy" | "remove" | "update") => vec![Effect::Networks],
        ("service" | "node", _) => vec![Effect::Swarm, Effect::Info],
        ("daemon", _) => vec![Effect::Info],
        _ => Vec::new(),
    }
}

/// Whether being sent `signal` (a number) means that a container is to end: SIGKILL, or the
/// signal that its image says stops it. `docker kill --signal HUP` does not.
pub(crate) fn is_farewell(signal: &str, stop_signal: &str) -> bool {
    const NAMES: [(&str, &str); 8] = [
        ("HUP", "1"),
        ("INT", "2"),
        ("QUIT", "3"),
        ("KILL", "9"),
        ("USR1", "10"),
        ("USR2", "12"),
        ("TERM", "15"),
        ("WINCH", "28"),
    ];
    let name = stop_signal.strip_prefix("SIG").unwrap_or(stop_signal);
    let number =
        NAMES.iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, number)| *number);
    let stops = if name.is_empty() { "15" } else { number.unwrap_or(name) };
    // Docker's own `stop` uses the image's signal, then SIGKILL; SIGTERM by hand means the same.
    ["9", "15", stops].contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, action: &str, attributes: &[(&str, &str)]) -> Event {
        Event {
            kind: kind.to_owned(),
            action: action.to_owned(),
            subject: "subject".to_owned(),
            attributes: attributes
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn connecting_a_network_has_the_container_inspected() {
        assert_eq!(
            effects(&event("network", "connect", &[("container", "c1"), ("type", "bridge")])),
            [
                Effect::Container("c1".to_owned()),
                Effect::Connected("subject".to_owned(), "c1".to_owned()),
                Effect::Endpoints("subject".to_owned())
            ]
        );
    }

    #[test]
    fn a_health_report_is_understood_with_its_verdict_attached() {
        assert_eq!(
            effects(&event("container", "health_status: healthy", &[])),
            [Effect::Container("subject".to_owned()), Effect::Swarm]
        );
    }

    #[test]
    fn the_probes_of_a_health_check_are_ignored() {
        assert_eq!(effects(&event("container", "exec_create: /bin/sh -c true", &[])), []);
        assert_eq!(effects(&event("container", "exec_die", &[])), []);
    }

    #[test]
    fn a_stop_is_a_farewell_and_a_reload_is_not() {
        assert!(is_farewell("15", ""));
        assert!(is_farewell("9", "SIGQUIT"));
        assert!(is_farewell("3", "SIGQUIT"));
        assert!(is_farewell("37", "37"));
        assert!(is_farewell("28", "winch"));
        assert!(!is_farewell("1", ""));
        assert!(!is_farewell("3", ""));
        assert!(!is_farewell("", ""));
    }
}

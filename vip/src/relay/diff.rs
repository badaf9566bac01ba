//! What leads from one plan to another, as values that print as people read them.
//!
//! Law: the changes from one plan to another, done in order to what the first one asks for, give
//! what the second one asks for; from a plan to itself there are none.

use std::fmt;
use std::sync::Arc;

use super::plan::{Entrance, Plan, Target};

/// One change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change<'a> {
    /// An entrance goes; its sessions drain.
    Close(&'a Entrance),
    /// An entrance comes.
    Open {
        /// Where.
        entrance: &'a Entrance,
        /// Where its sessions go.
        target: &'a Arc<Target>,
    },
    /// New sessions go elsewhere, and those to tasks that are gone are cut.
    Retarget {
        /// Where.
        entrance: &'a Entrance,
        /// Where its sessions go from now on.
        target: &'a Arc<Target>,
    },
}

/// What leads from `old` to `new`: what goes comes first, so that an address that moves from one
/// way or place to another is free.
pub fn diff<'a>(old: &'a Plan, new: &'a Plan) -> Vec<Change<'a>> {
    let gone = old.keys().filter(|it| !new.contains_key(it)).map(Change::Close);
    let wanted = new.iter().filter_map(|(entrance, target)| match old.get(entrance) {
        None => Some(Change::Open { entrance, target }),
        Some(had) if Arc::ptr_eq(had, target) || had == target => None,
        Some(_) => Some(Change::Retarget { entrance, target }),
    });
    gone.chain(wanted).collect()
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(entrance) => write!(f, "close {entrance}"),
            Self::Open { entrance, target } => write!(f, "open {entrance}: {target}"),
            Self::Retarget { entrance, target } => write!(f, "retarget {entrance}: {target}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use registry::model::Protocol;

    use super::*;
    use crate::relay::plan::{Place, Way};

    fn plan(text: &str) -> Plan {
        let line = |line: &str| {
            let (port, slots) = line.split_once(' ').unwrap();
            let entrance = Entrance {
                place: Place::Host,
                address: format!("[::]:{port}").parse().unwrap(),
                protocol: Protocol::Tcp,
                way: Way::Redirected,
            };
            let slots: Vec<_> = slots.split(' ').map(|it| it.parse().unwrap()).collect();
            let target = Target {
                service: "web".to_owned(),
                network: "front".to_owned(),
                alive: slots.iter().copied().collect(),
                resting: [].into(),
                slots,
                dial: Place::Host,
                proxy_protocol: false,
                affinity: false,
                drain: Duration::from_secs(1),
            };
            (entrance, Arc::new(target))
        };
        text.lines().map(line).collect()
    }

    fn told(old: &str, new: &str) -> Vec<String> {
        diff(&plan(old), &plan(new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_the_same_does_not_change() {
        assert!(told("80 10.0.0.1:80", "80 10.0.0.1:80").is_empty());
    }

    #[test]
    fn entrances_go_before_others_come() {
        assert_eq!(
            told("90 10.0.0.1:80\n91 10.0.0.1:81", "80 10.0.0.1:80\n91 10.0.0.2:81"),
            [
                "close tcp [::]:90 in host (redirected)",
                "open tcp [::]:80 in host (redirected): web.front -> 10.0.0.1:80 from host",
                "retarget tcp [::]:91 in host (redirected): web.front -> 10.0.0.2:81 from host",
            ]
        );
    }
}

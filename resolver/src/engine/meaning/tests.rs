//! What the engine's addresses mean, in a world known from gossip.

use std::time::Duration;

use registry::Snapshot;
use registry::model::Completeness;

use super::*;
use crate::compile::compile;
use crate::plan::{Config, VipTable};

const WORLD: &str = r#"
[[network]]
name = "front"
subnet = "10.1.0.0/24"

[[network]]
name = "back"
subnet = "10.2.0.0/24"

[[service]]
name = "web"
networks = ["front"]
vip = { front = "10.1.0.2" }

[[service]]
name = "app"
mode = "dnsrr"
networks = ["front", "back"]

[[service]]
name = "idle"
mode = "dnsrr"
networks = ["back"]

[[task]]
name = "web.1"
service = "web"
addresses = { front = "10.1.0.11" }

[[task]]
name = "web.2"
service = "web"
addresses = { front = "10.1.0.12" }
state = "draining"

[[task]]
name = "app.1"
service = "app"
addresses = { front = "10.1.0.21", back = "10.2.0.21" }

[[task]]
name = "app.2"
service = "app"
addresses = { front = "10.1.0.22", back = "10.2.0.22" }

[[task]]
name = "app.3"
service = "app"
addresses = { front = "10.1.0.23", back = "10.2.0.23" }
state = "draining"

[[task]]
name = "idle.1"
service = "idle"
addresses = { back = "10.2.0.31" }
state = "draining"

[[task]]
name = "box"
addresses = { front = "10.1.0.41", back = "10.2.0.41" }
"#;

/// What the registry makes of the engine's `addresses` for `name`: addresses and TTL, or `-`.
fn meant(name: &str, addresses: &[&str]) -> String {
    let mut draft = registry::source::world::parse(WORLD, "world").unwrap();
    for network in &mut draft.networks {
        network.names = Completeness::Gossip;
    }
    let config = Config {
        ttl: Duration::from_secs(5),
        vip_ttl: Duration::from_secs(30),
        forward_single_label: false,
        host_listen: None,
        upstream: crate::UpstreamConfig::default(),
    };
    let (plan, _) = compile(&Snapshot::build(draft, 1), &VipTable::new(), &config);
    let zones: Vec<_> = plan.zones.into_values().collect();
    let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
    meaning(&zones, name, &addresses).map_or_else(
        || "-".to_owned(),
        |Entry { addresses, ttl }| {
            let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            format!("{} ttl {ttl}", shown.join(" "))
        },
    )
}

#[test]
fn an_alias_of_a_service_with_a_vip_is_its_vip() {
    assert_eq!(meant("www", &["10.1.0.2"]), "10.1.0.2 ttl 30");
}

#[test]
fn an_alias_of_a_service_without_a_vip_is_its_serving_tasks() {
    // With a draining one, and without one that the registry has.
    assert_eq!(meant("api", &["10.1.0.21", "10.1.0.23"]), "10.1.0.21 10.1.0.22 ttl 5");
    assert_eq!(meant("api.back", &["10.2.0.21", "10.2.0.22"]), "10.2.0.21 10.2.0.22 ttl 5");
}

#[test]
fn all_tasks_of_an_alias_are_those_that_serve() {
    assert_eq!(meant("tasks.www", &["10.1.0.11", "10.1.0.12"]), "10.1.0.11 ttl 5");
    assert_eq!(meant("tasks.api", &["10.1.0.23"]), "10.1.0.21 10.1.0.22 ttl 5");
}

#[test]
fn a_tasks_own_name_is_not_its_services() {
    assert_eq!(meant("c0ffee000001", &["10.1.0.21"]), "10.1.0.21 ttl 5");
    assert_eq!(meant("c0ffee000002", &["10.1.0.11"]), "10.1.0.11 ttl 5");
    assert_eq!(meant("c0ffee000003", &["10.1.0.12"]), " ttl 5", "it drains");
}

#[test]
fn an_alias_of_which_the_engine_knows_only_a_draining_task_is_what_serves_instead() {
    assert_eq!(meant("api", &["10.1.0.23"]), "10.1.0.21 10.1.0.22 ttl 5");
    assert_eq!(meant("rest", &["10.2.0.31"]), " ttl 5", "nothing serves, and it is known");
}

#[test]
fn an_alias_of_several_owners_is_all_of_them() {
    assert_eq!(meant("any", &["10.1.0.2", "10.1.0.41"]), "10.1.0.2 10.1.0.41 ttl 5");
}

#[test]
fn an_alias_of_a_container_is_its_address_on_that_network() {
    assert_eq!(meant("crate", &["10.2.0.41"]), "10.2.0.41 ttl 5");
}

#[test]
fn what_the_registry_does_not_know_is_left_to_the_engine() {
    assert_eq!(meant("new", &["10.1.0.99"]), "-");
    assert_eq!(meant("new", &["10.1.0.2", "10.1.0.99"]), "-");
    assert_eq!(meant("new", &[]), "-");
    assert_eq!(meant("new", &["10.1.0.2", "10.2.0.21"]), "-", "of two networks");
}

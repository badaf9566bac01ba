//! Reads the labels of a service into typed specs, with a note for each thing it cannot read.
//!
//! Invariants
//! - *total*: no label makes it fail; what cannot be understood is said, the rest still counts;
//! - *once*: one cause gives one note, on the service, with the label, its value and the remedy;
//! - *never more than asked*: what decides which requests come (hosts, port, context root) must be
//!   readable, or there is no route; what decides how they are served falls back to the default.
//!
//! `keys` is the one table of all labels; help texts, suggestions and this parser come from it.

mod balance;
mod interlock_v1;
mod keys;
mod lb;
mod probe;
mod values;

pub use keys::{Effect, Known, known};

use crate::balance_spec::BalanceSpec;
use crate::model::{Service, ServiceKind};
use crate::note::Notes;
use crate::route_spec::RouteSpec;

/// The routes that `service` asks for, one for each label group, by group name. A service without
/// labels of ours asks for none and gets no note.
///
/// v1 labels (`interlock.*`) count on containers only, as they did, and only where the service has
/// no `com.docker.lb.*` labels.
pub fn routes(service: &Service) -> (Vec<RouteSpec>, Notes) {
    let mut notes = Notes::default();
    let (mut routes, claimed) = lb::read(service, &mut notes);
    keys::check_own(service, &mut notes);
    if service.labels.keys().any(|key| key.starts_with(keys::V1)) {
        let container = service.kind == ServiceKind::Compose;
        if container && !claimed {
            routes.extend(interlock_v1::read(service, &mut notes));
        } else {
            interlock_v1::ignored(service, container, &mut notes);
        }
    }
    (routes, notes)
}

/// How `service` wants its VIP, its published ports and its health checks. A service without such
/// labels gets the default and no note.
pub fn balance(service: &Service) -> (BalanceSpec, Notes) {
    let mut notes = Notes::default();
    if !service.labels.keys().any(|key| key.starts_with(keys::OWN)) {
        return (BalanceSpec::default(), notes);
    }
    let spec = balance::read(service, &mut notes);
    (spec, notes)
}

/// Whether a label asks something of every node, so that every node must know it.
pub fn is_for_every_node(label: &str) -> bool {
    ["portolan.vip.", "portolan.mesh.", "portolan.health."].iter().any(|it| label.starts_with(it))
}

/// How notes name a service.
fn subject(service: &Service) -> String {
    format!("service {}", service.name)
}

/// Host names read of one route. Users list a handful; nobody may fill the route table alone.
const MAX_HOSTS: usize = 256;

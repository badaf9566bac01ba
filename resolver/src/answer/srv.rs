//! Answers SRV (RFC 2782) of services: names that begin with a port and a protocol.
//!
//! Always true here: every target is a name that this resolver answers, and its addresses come with
//! it.

use std::sync::Arc;

use registry::model::Protocol;

use super::{Answer, Record, find, shuffle};
use crate::plan::{ServicePort, ServiceRecord, ServiceTask, Zone};
use crate::wire::Kind;

/// `_PORT._tcp.SERVICE` and `_NAME._tcp.SERVICE`: one record for each serving task of all services
/// that are called so and have that port. `None`: the name is not of that form, or no such service
/// is known.
pub(super) fn service_record(
    zones: &[Arc<Zone>],
    key: &str,
    kind: Kind,
    seed: u64,
    ttl: u32,
) -> Option<Answer> {
    let (first, rest) = key.split_once('.')?;
    let (port, protocol, service) = if let Some(protocol) = protocol_of(first) {
        (None, protocol, rest)
    } else {
        let (second, service) = rest.split_once('.')?;
        (Some(first.strip_prefix('_')?), protocol_of(second)?, service)
    };
    let records = find::in_zones(zones, service, |zone, name| zone.services.get(name))?;
    let Some(port) = port else {
        // `_tcp.web` exists: names are below it.
        return Some(Answer::no_data(least_ttl(records.iter(), ttl)));
    };
    let of_it = records.iter().filter_map(|it| Some((it, target(it, protocol, port)?)));
    let found: Vec<(&ServiceRecord, u16)> = of_it.collect();
    if found.is_empty() {
        return Some(Answer::no_name(ttl));
    }
    let ttl = least_ttl(found.iter().map(|(it, _)| *it), ttl);
    Some(match kind {
        Kind::SRV => targets(&found, ttl, seed),
        Kind::ANY => Answer { records: vec![Record::Minimal], ..Answer::no_data(ttl) },
        _ => Answer::no_data(ttl),
    })
}

/// In the tasks of `record`, the port that is called `port` or has that number outside or inside.
fn target(record: &ServiceRecord, protocol: Protocol, port: &str) -> Option<u16> {
    let of_it = |it: &&ServicePort| {
        it.protocol == protocol
            && (it.name.as_deref() == Some(port)
                || it.target.to_string() == port
                || it.published != 0 && it.published.to_string() == port)
    };
    record.ports.iter().find(of_it).map(|it| it.target)
}

/// What is told of several may be kept as long as what is told of each.
fn least_ttl<'a>(records: impl Iterator<Item = &'a ServiceRecord>, otherwise: u32) -> u32 {
    records.map(|it| it.ttl).min().unwrap_or(otherwise)
}

fn targets(found: &[(&ServiceRecord, u16)], ttl: u32, seed: u64) -> Answer {
    let tasks =
        || found.iter().flat_map(|(record, port)| record.tasks.iter().map(|it| (it, *port)));
    let one = |(it, port): (&ServiceTask, u16)| Record::Service {
        weight: it.weight,
        port,
        target: it.name.clone(),
    };
    let mut records: Vec<Record> = tasks().map(one).collect();
    shuffle(&mut records, seed);
    let additional = tasks()
        .flat_map(|(it, _)| it.addresses.iter().map(|address| (it.name.clone(), *address)))
        .collect();
    Answer { exists: true, records, additional, ttl }
}

fn protocol_of(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

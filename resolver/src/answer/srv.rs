//! Answers SRV (RFC 2782) of services: names that begin with a port and a protocol.
//!
//! Always true here: every target is a name that this resolver answers, and its addresses come with
//! it.

use std::sync::Arc;

use registry::model::Protocol;

use super::{Answer, Record, find, shuffle};
use crate::plan::{ServiceRecord, ServiceTask, Zone};
use crate::wire::Kind;

/// `_PORT._tcp.SERVICE` and `_NAME._tcp.SERVICE`: one record for each serving task. `None`: the
/// name is not of that form, or the service is not known.
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
    let record = find::in_zones(zones, service, |zone, name| zone.services.get(name))?;
    let Some(port) = port else {
        return Some(Answer::no_data(record.ttl)); // `_tcp.web` exists: names are below it
    };
    let matches = record.ports.iter().find(|it| {
        it.protocol == protocol
            && (it.name.as_deref() == Some(port)
                || it.target.to_string() == port
                || it.published != 0 && it.published.to_string() == port)
    });
    let Some(target) = matches.map(|it| it.target) else {
        return Some(Answer::no_name(ttl));
    };
    Some(match kind {
        Kind::SRV => targets(record, target, seed),
        Kind::ANY => Answer { records: vec![Record::Minimal], ..Answer::no_data(record.ttl) },
        _ => Answer::no_data(record.ttl),
    })
}

fn targets(record: &ServiceRecord, port: u16, seed: u64) -> Answer {
    let one =
        |it: &ServiceTask| Record::Service { weight: it.weight, port, target: it.name.clone() };
    let mut records: Vec<Record> = record.tasks.iter().map(one).collect();
    shuffle(&mut records, seed);
    let additional = record
        .tasks
        .iter()
        .flat_map(|it| it.addresses.iter().map(|address| (it.name.clone(), *address)))
        .collect();
    Answer { exists: true, records, additional, ttl: record.ttl }
}

fn protocol_of(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

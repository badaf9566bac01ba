//! What `/metrics` tells, from what the parts count and last said.
//!
//! Always true here: the number of series depends on the number of networks and upstream servers,
//! never on names, clients or hosts.

use registry::Report;
use resolver::Counts;

use super::exposition::Exposition;
use crate::supervise::Live;

/// Everything, in Prometheus' text format.
pub(super) fn text(live: &Live) -> String {
    let mut text = Exposition::default();
    let build = "Always 1; the labels say which version runs.";
    text.gauge("portolan_build_info", build).sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    world(&mut text, live);
    parts(&mut text, live);
    if live.parts.resolver {
        let counts = live.dns.counts();
        dns(&mut text, &counts);
    }
    text.finish()
}

fn world(text: &mut Exposition, live: &Live) {
    let snapshot = live.world.borrow().clone();
    text.gauge("portolan_generation", "Number of the newest snapshot of the world.")
        .sample(&[], snapshot.generation());
    text.gauge("portolan_stale", "1 while what was last known is served, because reading fails.")
        .sample(&[], u8::from(snapshot.stale().is_some()));
    text.gauge("portolan_objects", "What is known, by kind.")
        .sample(&[("kind", "network")], snapshot.networks().len())
        .sample(&[("kind", "service")], snapshot.services().len())
        .sample(&[("kind", "task")], snapshot.tasks().len())
        .sample(&[("kind", "sandbox")], snapshot.sandboxes().len());
    if let Some(report) = live.vip.borrow().as_ref() {
        text.gauge("portolan_vips", "VIPs that are balanced.")
            .sample(&[], report.plan.addresses.len());
    }
}

/// What a part last said.
struct Part {
    name: &'static str,
    generation: u64,
    changes: usize,
    took: f64,
    failures: usize,
}

fn parts(text: &mut Exposition, live: &Live) {
    let parts = [
        part("vip", live.vip.borrow().as_deref()),
        part("resolver", live.resolver.borrow().as_deref()),
        part("router", live.router.borrow().as_deref()),
    ];
    let mut family = |name, help, value: fn(&Part) -> f64| {
        let mut family = text.gauge(name, help);
        for part in parts.iter().flatten() {
            family.sample(&[("part", part.name)], value(part));
        }
    };
    let name = "portolan_part_generation";
    family(name, "Number of the snapshot that a part made true last.", |it| wide(it.generation));
    let name = "portolan_part_changes";
    family(name, "What a part changed last.", |it| wide(it.changes as u64));
    let name = "portolan_part_apply_seconds";
    family(name, "How long a part took last to make a snapshot true.", |it| it.took);
    let name = "portolan_part_failures";
    family(name, "What a part could not make true.", |it| wide(it.failures as u64));
}

#[expect(clippy::cast_precision_loss, reason = "2^53 changes of the world do not happen")]
fn wide(number: u64) -> f64 {
    number as f64
}

fn part<P>(name: &'static str, report: Option<&Report<P>>) -> Option<Part> {
    let report = report?;
    let (outcome, took) = (&report.outcome, report.took.as_secs_f64());
    let failures = outcome.failures.iter().count();
    Some(Part { name, generation: report.generation, changes: outcome.changes, took, failures })
}

/// Codes that have a series before they come up, so that their first increase is seen.
const USUAL: [&str; 4] = ["NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED"];

fn dns(text: &mut Exposition, counts: &Counts) {
    let mut queries =
        text.counter("portolan_dns_queries_total", "Replies to DNS queries, by who gave them.");
    for (source, codes) in &counts.queries {
        for (code, count) in codes.clone().filter(|it| it.1 > 0 || USUAL.contains(&it.0)) {
            queries.sample(&[("source", source.as_str()), ("rcode", code)], count);
        }
    }
    let help = "Answers from a network's own names; networks beyond the first 1,024 are `other`.";
    let mut networks = text.counter("portolan_dns_network_queries_total", help);
    for (network, codes) in &counts.networks {
        for (code, count) in codes.clone().filter(|it| it.1 > 0 || it.0 == "NOERROR") {
            networks.sample(&[("network", network), ("rcode", code)], count);
        }
    }
    let help = "From a query's arrival to its reply's leaving.";
    let latency = &counts.latency;
    let all = (latency.count, latency.sum);
    text.histogram("portolan_dns_answer_seconds", help, &latency.buckets, all);
    text.counter("portolan_dns_refused_total", "Queries refused here, by why.")
        .sample(&[("reason", "malformed")], counts.malformed)
        .sample(&[("reason", "policy")], counts.refused)
        .sample(&[("reason", "in_flight")], counts.busy);
    text.counter("portolan_dns_messages_total", "DNS messages received, by transport.")
        .sample(&[("transport", "udp")], counts.udp_queries)
        .sample(&[("transport", "tcp")], counts.tcp_queries);
    text.counter("portolan_dns_silenced_total", "Messages that no reply may be made to.")
        .sample(&[], counts.silenced);
    text.counter("portolan_dns_unsent_total", "Replies that the client's socket did not take.")
        .sample(&[], counts.unsent);
    text.counter("portolan_dns_connections_total", "DNS connections over TCP.")
        .sample(&[], counts.connections);
}

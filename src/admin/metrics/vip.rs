//! What `/metrics` tells of VIPs and health checks.
//!
//! Always true here: services and tasks have series of their own up to the meter's bound, and are
//! one beyond it.

use vip::Meter;
use vip::health::Probes;
use vip::meter::{Connections, Counts};

use super::super::exposition::Exposition;

/// Everything that `meter` counts. Looks at the namespaces' connections, for half a second at most.
pub(super) fn vip(text: &mut Exposition, meter: &Meter) {
    let counts = meter.read();
    connections(text, &meter.connections());
    draining(text, &counts);
    tables(text, &counts);
}

fn connections(text: &mut Exposition, seen: &Connections) {
    let help = "Connections through VIPs from this node's sandboxes now, by task and protocol: \
                UDP flows that were answered. Tasks beyond the first 2,000 are `other`.";
    let mut family = text.gauge("portolan_vip_connections", help);
    for it in &seen.tasks {
        let task = it.task.to_string();
        for (protocol, count) in [("tcp", it.tcp), ("udp", it.udp)] {
            let (service, network) = (("service", &*it.service), ("network", &*it.network));
            family.sample(&[service, network, ("task", &task), ("protocol", protocol)], count);
        }
    }
    if seen.others > 0 {
        let other = "other";
        let labels = [("service", other), ("network", other), ("task", other), ("protocol", other)];
        family.sample(&labels, seen.others);
    }
    let help = "Namespaces whose connections are missing in `portolan_vip_connections`: there was \
                no time to look, or they could not be entered.";
    text.gauge("portolan_vip_connections_missed_sandboxes", help).sample(&[], seen.missed);
}

fn draining(text: &mut Exposition, counts: &Counts) {
    text.gauge("portolan_vip_draining", "Tasks that drain now, once for each of their VIPs.")
        .sample(&[], counts.draining);
    text.counter("portolan_vip_drains_total", "Tasks that drained, once for each of their VIPs.")
        .sample(&[("phase", "begun")], counts.drains_begun)
        .sample(&[("phase", "ended")], counts.drains_ended)
        .sample(&[("phase", "expired")], counts.drains_expired);
    let help = "TCP connections that were cut: their task is gone, or its drain time is over.";
    text.counter("portolan_vip_connections_cut_total", help).sample(&[], counts.connections_cut);
    let help = "Of the connections cut, those whose client in a sandbox was told by a reset.";
    text.counter("portolan_vip_resets_total", help).sample(&[], counts.resets);
    let help = "Flows of UDP and ICMP that were led to another task.";
    text.counter("portolan_vip_flows_moved_total", help).sample(&[], counts.flows_moved);
}

fn tables(text: &mut Exposition, counts: &Counts) {
    let tables = counts.tables;
    text.gauge("portolan_vip_tables", "Sandboxes that hold a table of VIPs.")
        .sample(&[], tables.sandboxes);
    let help = "Elements of the tables of all sandboxes together, by kind.";
    text.gauge("portolan_vip_table_elements", help)
        .sample(&[("kind", "vip")], tables.vips)
        .sample(&[("kind", "slot")], tables.slots);
    let help = "Tables of VIPs, by how they came to be portolan's: made, taken on from a portolan \
                before, or made anew because they were not as portolan makes them.";
    text.counter("portolan_vip_takeovers_total", help)
        .sample(&[("how", "made")], counts.takeovers)
        .sample(&[("how", "adopted")], counts.adoptions)
        .sample(&[("how", "replaced")], counts.tables_replaced);
    let help = "Times that somebody else was seen to change a table of VIPs.";
    text.counter("portolan_vip_foreign_changes_total", help).sample(&[], counts.foreign_changes);
    let times = &counts.transactions;
    let help = "How long transactions of nftables took.";
    let all = (times.count, times.sum);
    text.histogram("portolan_vip_transaction_seconds", help, &times.buckets, all);
}

/// Health checks.
pub(super) fn probes(text: &mut Exposition, probes: &Probes) {
    let counts = probes.counts();
    let help = "Health checks, by outcome; unknown: the check could not be made from this node.";
    text.counter("portolan_health_probes_total", help)
        .sample(&[("outcome", "passed")], counts.passed)
        .sample(&[("outcome", "failed")], counts.failed)
        .sample(&[("outcome", "unknown")], counts.unknown);
}

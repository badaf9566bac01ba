//! What `/metrics` tells, from what the parts count and last said.
//!
//! Always true here: the number of series depends on the number of networks, upstream servers and,
//! up to a bound, tasks, never on names, clients or hosts.

mod mesh;
mod vip;

use resolver::{CacheFigures, Counts, ServerProtocol, Standing, UpstreamState};

use super::explain::dial;
use super::exposition::{Exposition, Family};
use super::views::{self, Done, Told};
use crate::supervise::Live;

/// Everything, in Prometheus' text format. May take half a second: for a thread that may block.
pub(super) fn text(live: &Live) -> String {
    let mut text = Exposition::default();
    let build = "Always 1; the labels say which version runs.";
    text.gauge("portolan_build_info", build).sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    world(&mut text, live);
    parts(&mut text, live);
    if live.parts.resolver {
        let counts = live.dns.counts();
        dns(&mut text, &counts);
        takeovers(&mut text, live, &counts);
        upstreams(&mut text, &live.dns.states());
        kept(&mut text, live.dns.cache(), live.dns.in_flight());
    }
    if live.parts.vip {
        vip::vip(&mut text, &live.balancing);
        mesh::mesh(&mut text, live);
        mesh::relay(&mut text, live.balancing.relay());
    }
    vip::probes(&mut text, &live.probes);
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

fn parts(text: &mut Exposition, live: &Live) {
    let parts = views::parts(live);
    let mut family = |name, help, value: fn(&Done) -> f64| {
        let mut family = text.gauge(name, help);
        for Told { name, done, .. } in &parts {
            if let Some(done) = done {
                family.sample(&[("part", name)], value(done));
            }
        }
    };
    let name = "portolan_part_generation";
    family(name, "Number of the snapshot that a part made true last.", |it| wide(it.generation));
    let name = "portolan_part_changes";
    family(name, "What a part changed last.", |it| wide(it.changes as u64));
    let name = "portolan_part_apply_seconds";
    family(name, "How long a part took last to make a snapshot true.", |it| it.took.as_secs_f64());
    let name = "portolan_part_failures";
    family(name, "What a part could not make true.", |it| wide(it.failures.iter().count() as u64));
}

#[expect(clippy::cast_precision_loss, reason = "2^53 changes of the world do not happen")]
fn wide(number: u64) -> f64 {
    number as f64
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
    let help = "From a query's arrival to its reply's leaving, over UDP and TCP.";
    let latency = &counts.latency;
    let all = (latency.count, latency.sum);
    text.histogram("portolan_dns_answer_seconds", help, &latency.buckets, all);
    let help = "Queries refused without asking anybody, by why: what cannot be read, what may not \
                be asked, and what is beyond a sandbox's limits.";
    text.counter("portolan_dns_refused_total", help)
        .sample(&[("reason", "malformed")], counts.malformed)
        .sample(&[("reason", "policy")], counts.refused)
        .sample(&[("reason", "limits")], counts.busy);
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

fn takeovers(text: &mut Exposition, live: &Live, counts: &Counts) {
    let (served, unserved) = views::served(live);
    text.gauge("portolan_dns_sandboxes", "Sandboxes, by whether portolan answers there.")
        .sample(&[("state", "served")], served)
        .sample(&[("state", "unserved")], unserved);
    let help = "Sandboxes whose DNS somebody took from portolan while it answered there.";
    text.counter("portolan_dns_takeovers_lost_total", help).sample(&[], counts.takeovers_lost);
    let help = "Of the sandboxes lost, those that portolan answers in again.";
    text.counter("portolan_dns_takeovers_won_back_total", help)
        .sample(&[], counts.takeovers_won_back);
}

/// One series for each server that was asked; the resolver bounds how many it tells.
fn upstreams(text: &mut Exposition, states: &[UpstreamState]) {
    let all = |mut family: Family<'_>, value: fn(&UpstreamState) -> Option<f64>| {
        for state in states {
            let Some(value) = value(state) else { continue };
            let (server, protocol) = (state.server.to_string(), protocol(&state.server.protocol));
            let labels =
                [("server", &*server), ("protocol", protocol), ("dial", dial(state.server.dial))];
            family.sample(&labels, value);
        }
    };
    let help = "0 while a name server outside is set aside, and only asked now and then to see \
                whether it is back; none: it was not asked yet.";
    all(text.gauge("portolan_dns_upstream_up", help), |it| match it.standing {
        Standing::Unknown => None,
        Standing::Up | Standing::Failing => Some(1.0),
        Standing::Down => Some(0.0),
    });
    let help = "Smoothed round-trip time to a name server, of the sandbox that is nearest to it.";
    all(text.gauge("portolan_dns_upstream_rtt_seconds", help), |it| {
        it.rtt.map(|it| it.as_secs_f64())
    });
    let help = "Sandboxes that may ask a name server.";
    all(text.gauge("portolan_dns_upstream_sandboxes", help), |it| Some(wide(it.sandboxes as u64)));
    let help = "Sandboxes that a name server does not answer.";
    all(text.gauge("portolan_dns_upstream_down_sandboxes", help), |it| {
        Some(wide(it.down_for as u64))
    });
}

fn protocol(protocol: &ServerProtocol) -> &'static str {
    match protocol {
        ServerProtocol::Plain => "plain",
        ServerProtocol::Tls(_) => "tls",
    }
}

fn kept(text: &mut Exposition, cache: CacheFigures, in_flight: usize) {
    text.gauge("portolan_dns_upstream_in_flight", "Questions that servers are being asked now.")
        .sample(&[], in_flight);
    let help = "What answers kept from outside take, as the allocator counts.";
    text.gauge("portolan_dns_cache_bytes", help).sample(&[], cache.bytes);
    let help = "Answers, denials and failures kept from outside, those that are over included.";
    text.gauge("portolan_dns_cache_entries", help).sample(&[], cache.entries);
    let help = "Questions answered from what is kept, stale answers included.";
    text.counter("portolan_dns_cache_hits_total", help).sample(&[], cache.hits);
    let help = "Questions for which nothing was kept that could be told.";
    text.counter("portolan_dns_cache_misses_total", help).sample(&[], cache.misses);
}

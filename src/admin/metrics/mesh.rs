//! What `/metrics` tells of published ports, and of what is relayed in userspace.
//!
//! Always true here: there is no series for a port or a service.

use vip::relay::{Count, Meter};

use super::super::exposition::Exposition;
use crate::supervise::Live;

/// Published ports as planned, and what became of connections to them.
pub(super) fn mesh(text: &mut Exposition, live: &Live) {
    if let Some(report) = live.mesh.borrow().as_ref() {
        let (led, refused): (Vec<_>, Vec<_>) =
            report.plan.ports().partition(|(_, it)| !it.slots.is_empty());
        text.gauge(
            "portolan_mesh_ports",
            "Published ports, by whether any task serves behind them.",
        )
        .sample(&[("state", "led")], led.len())
        .sample(&[("state", "refused")], refused.len());
    }
    let counts = live.balancing.read();
    let help = "Connections through published ports that were cut and whose client was told: their \
                task is gone, or its drain time is over.";
    text.counter("portolan_mesh_resets_total", help).sample(&[], counts.mesh_resets);
    let help = "Tasks behind published ports whose drain time was over before they were gone.";
    text.counter("portolan_mesh_drains_expired_total", help)
        .sample(&[], counts.mesh_drains_expired);
}

/// What the userspace data plane handles, of VIPs and of published ports together.
pub(super) fn relay(text: &mut Exposition, meter: &Meter) {
    let all = meter.read();
    let sum = |of: fn(&Count) -> u64| all.values().map(of).sum::<u64>();
    text.gauge("portolan_relay_sessions", "Sessions that are relayed in userspace now.")
        .sample(&[], sum(|it| it.open));
    text.counter("portolan_relay_sessions_total", "Sessions that were relayed, by protocol.")
        .sample(&[("protocol", "tcp")], sum(|it| it.connections))
        .sample(&[("protocol", "udp")], sum(|it| it.flows));
    let help = "Sessions that did not come about or were ended, by why: too many, no task could be \
                reached, or their task is gone.";
    text.counter("portolan_relay_failures_total", help)
        .sample(&[("reason", "limits")], sum(|it| it.refused))
        .sample(&[("reason", "unreached")], sum(|it| it.unreached))
        .sample(&[("reason", "cut")], sum(|it| it.cut));
    text.counter("portolan_relay_octets_total", "Octets relayed, by where they went.")
        .sample(&[("to", "tasks")], sum(|it| it.to_tasks))
        .sample(&[("to", "clients")], sum(|it| it.to_clients));
}

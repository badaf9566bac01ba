//! Ends connections through the mesh that lead nowhere, and moves UDP flows to tasks that serve.
//!
//! Invariants
//! - *only what is ours*: flows to the engine's doorway, or from published ports of the host to
//!   tasks of the mesh;
//! - *told*: a client of a dead task learns of it at once, also one that only reads: its flow is
//!   forgotten, and then it is made to speak ([`kernel::provoke`]); what it says finds nobody who
//!   knows the connection and is answered with a reset;
//! - *drained*: a task whose time to drain is over has no connections either;
//! - *UDP has no end*: a flow whose task does not serve the port any more, or that began before
//!   there was one, is forgotten, and its next datagram chooses anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use kernel::conntrack::{self, Flow};
use kernel::netns::Netns;
use kernel::provoke::provoke;
use kernel::route;
use registry::balance_spec::Bind;
use registry::model::Protocol;

use super::Goal;
use super::balance::number;
use super::error::MeshError;
use super::gate::PROVOKING;
use super::plan::{Ground, Ingress, Plan, Port, Published};
use crate::sandbox::open;

/// Cuts what `goal` leaves without a task, where it differs from `last`. `doorway`: the ingress
/// network that the host leads to now, and the doorway's address on the host's bridge.
/// Gives how many clients were told.
pub(crate) fn cut(
    goal: &Goal,
    last: &Goal,
    doorway: Option<(&Ingress, Ipv4Addr)>,
) -> Result<usize, MeshError> {
    let (plan, before) = (&goal.plan, &last.plan);
    // Tasks on the host's networks are nobody's without a port that leads there.
    let is_direct = !(plan.direct.is_empty() && before.direct.is_empty());
    let direct = is_direct && plan.alive != before.alive;
    let drained = goal.expired != last.expired;
    if plan.ports().eq(before.ports()) && alive(plan) == alive(before) && !direct && !drained {
        return Ok(0);
    }
    let host = Netns::this()?;
    let mut dead = Vec::new();
    if let Some((ingress, own)) = doorway
        && let Some(netns) = open(&ingress.netns, None)?
    {
        let lasting = Ground::Ingress.lasting(&ingress.alive, &goal.expired);
        let doomed = |flow: &Flow| {
            flow.original_destination == IpAddr::V4(own) && dooms(ingress, &lasting, flow)
        };
        let cut = conntrack::take_matching(&netns, doomed)?;
        dead.extend(outer_ends(&host, own, &cut)?);
    }
    dead.extend(cut_on_host(goal, before, &host)?);
    let told = provoke(&host, PROVOKING, &dead)?;
    if told > 0 {
        tracing::info!(connections = told, "told clients of the mesh that their tasks are gone");
    }
    Ok(told)
}

/// Cuts flows of the host's own namespace, which may have very many, where any can be meant.
fn cut_on_host(
    goal: &Goal,
    last: &Plan,
    host: &Netns,
) -> Result<Vec<(SocketAddrV4, SocketAddrV4)>, MeshError> {
    let plan = &goal.plan;
    let lasting = Ground::Host.lasting(&plan.alive, &goal.expired);
    let (now, before) = (datagrams(plan), datagrams(last));
    if now == before && plan.direct.is_empty() && last.direct.is_empty() {
        return Ok(Vec::new());
    }
    let local: BTreeSet<IpAddr> =
        route::addresses(host)?.into_iter().map(|(_, it)| it.addr()).collect();
    let cut = conntrack::take_matching(host, |flow| {
        let Some(port) = port_of(flow) else { return false };
        let for_us = local.contains(&flow.original_destination) || is_loopback(flow);
        let published = plan.direct.get(&port);
        if flow.nat && (published.is_some() || last.direct.contains_key(&port)) {
            // What was redirected to the relay is answered from here, and is the relay's to end.
            let relayed = local.contains(&flow.reply_source);
            return for_us && !relayed && leads_nowhere(published, &lasting, port, flow);
        }
        // Datagrams that were refused, or answered by a program, before the port was ours, and
        // those that were led to the doorway.
        let (is, was) = (now.get(&port), before.get(&port));
        for_us && is != was && if flow.nat { was.is_some() } else { is.is_some() }
    })?;
    Ok(cut.iter().filter(|it| is_open_tcp(it)).filter_map(ends).collect())
}

/// Published ports of datagrams, and where each is to be had.
fn datagrams(plan: &Plan) -> BTreeMap<Port, &[Bind]> {
    let ports = plan.ports().filter(|it| it.0.protocol == Protocol::Udp);
    ports.map(|(port, it)| (*port, it.bind.as_slice())).collect()
}

fn alive(plan: &Plan) -> Option<&BTreeSet<Ipv4Addr>> {
    plan.ingress.as_ref().map(|it| &it.alive)
}

/// Whether a flow in the doorway leads nowhere.
fn dooms(ingress: &Ingress, lasting: &BTreeSet<Ipv4Addr>, flow: &Flow) -> bool {
    let Some(port) = port_of(flow) else { return false };
    let published = ingress.ports.get(&port);
    leads_nowhere(published, lasting, port, flow)
}

/// Whether a flow to a port that is `published`, or was, has nobody at its other end. TCP has as
/// long as its task is `alive`, whoever publishes the port by now. UDP has somebody only where it
/// would be led to now; such a task may be any that serves.
fn leads_nowhere(
    published: Option<&Arc<Published>>,
    alive: &BTreeSet<Ipv4Addr>,
    port: Port,
    flow: &Flow,
) -> bool {
    let IpAddr::V4(task) = flow.reply_source else { return false };
    match port.protocol {
        // What has ended says nothing any more, and there may be thousands of it.
        Protocol::Tcp => flow.nat && !flow.ended && !alive.contains(&task),
        Protocol::Udp if flow.nat => {
            !published.is_some_and(|it| it.slots.iter().any(|it| *it.ip() == task))
        }
        Protocol::Udp => published.is_some_and(|it| !it.slots.is_empty()),
    }
}

fn port_of(flow: &Flow) -> Option<Port> {
    let protocols = [Protocol::Tcp, Protocol::Udp];
    let protocol = protocols.into_iter().find(|it| number(*it) == flow.protocol)?;
    Some(Port { protocol, number: flow.original_port })
}

fn is_loopback(flow: &Flow) -> bool {
    flow.original_destination.is_loopback()
}

fn is_open_tcp(flow: &Flow) -> bool {
    flow.protocol == number(Protocol::Tcp) && flow.replied && !flow.ended
}

/// The two ends of a connection as its client has them: whom it spoke to, and itself.
fn ends(flow: &Flow) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let end = |address, port| match address {
        IpAddr::V4(address) => Some(SocketAddrV4::new(address, port)),
        IpAddr::V6(_) => None,
    };
    let server = end(flow.original_destination, flow.original_port)?;
    Some((server, end(flow.original_source, flow.original_source_port)?))
}

/// What flows of the doorway are on the host, where the client's own address and the one it spoke
/// to are known.
fn outer_ends(
    host: &Netns,
    doorway: Ipv4Addr,
    inner: &[Flow],
) -> Result<Vec<(SocketAddrV4, SocketAddrV4)>, MeshError> {
    let open: BTreeSet<_> = inner
        .iter()
        .filter(|it| is_open_tcp(it))
        .map(|it| (it.original_source, it.original_source_port, it.original_port))
        .collect();
    if open.is_empty() {
        return Ok(Vec::new());
    }
    let is_one = |it: &&Flow| {
        let client = (it.reply_destination, it.reply_port, it.reply_source_port);
        is_open_tcp(it) && it.reply_source == IpAddr::V4(doorway) && open.contains(&client)
    };
    Ok(conntrack::flows(host)?.iter().filter(is_one).filter_map(ends).collect())
}

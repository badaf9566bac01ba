//! Which flows that conntrack remembers lead nowhere, and cutting them.
//!
//! Invariants
//! - *only what is ours*: what somebody answered over TCP without our translation (the engine's own
//!   balancing, before portolan came) goes on, and so does whatever goes to a task that lives;
//! - *datagrams move at once*: they belong to no connection, so the next one may go to any task that
//!   serves;
//! - *told, not left waiting*: the client's socket is destroyed first, while the translation still
//!   leads its reset to the task, then the entry is deleted. One that still tries to connect is
//!   left alone: its next try is led to a task that serves;
//! - *in doubt, asked*: an address may be another task's by now, and a connection to it either's;
//! - *no other one hit*: a client's socket is known by its ports, and a port is used anew as soon as
//!   its connection has ended: what has ended is left alone, and each flow is looked at once more
//!   right before. Its number in conntrack tells no more: it is made of the entry's place in memory;
//! - a judgement is pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kernel::conntrack::{Conntrack, Flow, FlowFilter};
use kernel::netns::Netns;
use kernel::sock_diag::SockDiag;

use crate::apply::chain;
use crate::drain::Drain;
use crate::inquiry;
use crate::plan::{Balance, Balances};
use crate::sandbox::SandboxError;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// What became of cutting.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Severed {
    /// TCP connections that are no more.
    pub connections: usize,
    /// Of these, those whose client in the namespace was told. A client elsewhere, whose packets
    /// were only passing through, is told by whatever meets its next one.
    pub resets: usize,
    /// Flows of other protocols, whose next packet finds another task.
    pub moved: usize,
}

/// Who may keep flows to the VIPs in question.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judge {
    /// The VIPs that are looked at.
    pub(crate) suspect: BTreeSet<IpAddr>,
    /// Who is behind them.
    pub(crate) balances: Arc<Balances>,
    /// Drains whose time is over.
    pub(crate) expired: Arc<BTreeSet<Drain>>,
    /// Addresses of tasks that are not gone, for VIPs that are no longer any; `None`: nothing is
    /// known of those.
    pub(crate) living: Option<Arc<BTreeSet<IpAddr>>>,
    /// Addresses that another task has now than had a moment ago.
    pub(crate) replaced: BTreeSet<IpAddr>,
}

impl Judge {
    /// Whether the flow leads nowhere.
    pub(crate) fn dooms(&self, flow: &Flow) -> bool {
        let vip = flow.original_destination;
        if !self.suspect.contains(&vip) {
            return false;
        }
        let Some(balance) = self.balances.get(&vip) else {
            let gone = |it: &Arc<BTreeSet<IpAddr>>| !it.contains(&flow.reply_source);
            return is_led(flow) && !flow.ended && self.living.as_ref().is_some_and(gone);
        };
        let task = flow.reply_source;
        if !is_led(flow) && !is_plain(flow) {
            return false;
        }
        if flow.protocol != TCP {
            return !balance.has_serving(task);
        }
        let ours = (is_led(flow) || !flow.replied) && !flow.ended;
        ours && (!balance.alive.contains(&task) || self.has_expired(vip, balance, task))
    }

    /// Whether it has to be asked whose connection it is.
    fn doubts(&self, flow: &Flow) -> bool {
        flow.protocol == TCP
            && self.suspect.contains(&flow.original_destination)
            && self.replaced.contains(&flow.reply_source)
    }

    fn has_expired(&self, vip: IpAddr, balance: &Balance, task: IpAddr) -> bool {
        !self.expired.is_empty()
            && balance.drain_of(task).is_some()
            && self.expired.contains(&Drain { network: balance.network.clone(), vip, task })
    }

    /// What the kernel need not tell of.
    fn filter(&self) -> FlowFilter {
        let mut suspects = self.suspect.iter();
        let original_destination = match (suspects.next(), suspects.next()) {
            (Some(only), None) => Some(*only),
            (Some(_), Some(_)) | (None, _) => None,
        };
        FlowFilter { original_destination, ..FlowFilter::default() }
    }

    /// Cuts what leads nowhere in one namespace, also by the `newest` tables at that moment: a task
    /// that was gone may be back, and have new connections.
    pub(crate) fn carry_out(
        &self,
        netns: &Netns,
        conntrack: &mut Conntrack,
        newest: impl Fn() -> Option<Arc<Balances>>,
    ) -> Result<Severed, SandboxError> {
        let still = |flow: &Flow| match newest() {
            Some(balances) if !Arc::ptr_eq(&balances, &self.balances) => {
                Self { balances, ..self.clone() }.dooms(flow)
            }
            Some(_) | None => self.dooms(flow),
        };
        let dooms = |flow: &Flow| self.dooms(flow) || self.doubts(flow);
        let (severed, mut spared) = sever_if((netns, conntrack), &self.filter(), dooms, still)?;
        spared.retain(|it| is_led(it) && it.replied && !it.ended);
        // A container may keep us from asking, which harms its own connections alone: what is to be
        // cut was cut, and is not to be looked for again for that.
        if let Err(error) = inquiry::inquire(netns, &spared) {
            let error = chain(&error);
            tracing::warn!(%error, "connections to addresses that other tasks have now were not asked for");
        }
        Ok(severed)
    }
}

/// Whether the flow was led to somebody else as portolan leads flows: its client, here in the
/// namespace, keeps its address. What a container's own rules masquerade or redirect is not ours.
pub(crate) fn is_led(flow: &Flow) -> bool {
    is_from_here(flow) && flow.reply_source != flow.original_destination
}

/// Whether nothing is translated.
fn is_plain(flow: &Flow) -> bool {
    is_from_here(flow) && flow.reply_source == flow.original_destination
}

fn is_from_here(flow: &Flow) -> bool {
    flow.reply_destination == flow.original_source && !flow.reply_source.is_loopback()
}

/// Cuts the flows of a namespace that `filter` means and `dooms` picks: sockets of TCP clients that
/// live in the namespace are destroyed, so that their next read or write fails, and the other side
/// gets a reset; then conntrack forgets the flow.
pub fn sever(
    netns: &Netns,
    filter: &FlowFilter,
    dooms: impl Fn(&Flow) -> bool,
) -> Result<Severed, SandboxError> {
    let mut conntrack = Conntrack::open(netns)?;
    sever_if((netns, &mut conntrack), filter, &dooms, &dooms).map(|it| it.0)
}

/// As [`sever`], with another look at each flow right before it is cut. Gives also the TCP
/// connections that were spared by that.
fn sever_if(
    (netns, conntrack): (&Netns, &mut Conntrack),
    filter: &FlowFilter,
    dooms: impl Fn(&Flow) -> bool,
    still: impl Fn(&Flow) -> bool,
) -> Result<(Severed, Vec<Flow>), SandboxError> {
    let doomed = conntrack.entries(filter, dooms)?;
    let (connections, others): (Vec<_>, Vec<_>) =
        doomed.into_iter().partition(|it| it.flow().protocol == TCP);
    let (mut severed, mut spared) = (Severed::default(), Vec::new());
    // What needs least of the kernel comes first: it must not wait for what the kernel cannot do.
    for entry in &others {
        // Since the list was made a task may be back.
        if conntrack.look_again(entry)?.is_some_and(|it| still(&it)) {
            severed.moved += usize::from(conntrack.delete(entry)?);
        }
    }
    let (mut sockets, mut untold) = (None, None);
    for entry in &connections {
        // Since the list was made it may have ended, and its port may be a live connection's.
        let Some(flow) = conntrack.look_again(entry)? else { continue };
        if !still(&flow) {
            spared.push(flow);
            continue;
        }
        severed.connections += 1;
        if is_led(&flow) && flow.replied && untold.is_none() {
            match reset(netns, &mut sockets, &flow) {
                Ok(told) => severed.resets += usize::from(told),
                Err(error) => untold = Some(error),
            }
            // The reset ended it, and a new one may have its number.
            if conntrack.look_again(entry)?.is_none_or(|it| it.ended) {
                continue;
            }
        }
        conntrack.delete(entry)?;
    }
    untold.map_or(Ok((severed, spared)), Err)
}

/// Destroys the socket of the flow's client, if that is in the namespace.
fn reset(netns: &Netns, sockets: &mut Option<SockDiag>, flow: &Flow) -> Result<bool, SandboxError> {
    let sockets = match sockets {
        Some(sockets) => sockets,
        none => none.insert(SockDiag::open(netns)?),
    };
    let client = SocketAddr::new(flow.original_source, flow.original_source_port);
    let vip = SocketAddr::new(flow.original_destination, flow.original_port);
    Ok(sockets.destroy_tcp(client, vip)?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 10));
    const UDP: u8 = 17;

    fn task(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 1, last])
    }

    /// Task 1 serves, 2 is not ready, 3 drains, 4 has drained too long; all others are gone.
    fn judge() -> Judge {
        let limit = Some(Duration::from_secs(60));
        let balance = Balance {
            network: "front".to_owned(),
            slots: vec![task(1)],
            alive: [1, 2, 3, 4].map(task).into(),
            resting: [(task(2), None), (task(3), limit), (task(4), limit)].into(),
            ..Balance::default()
        };
        let drain = Drain { network: "front".to_owned(), vip: VIP, task: task(4) };
        Judge {
            suspect: [VIP, IpAddr::from([10, 0, 1, 9])].into(),
            balances: Arc::new([(VIP, Arc::new(balance))].into()),
            expired: Arc::new([drain].into()),
            living: Some(Arc::new([1, 2, 3, 4].map(task).into())),
            replaced: BTreeSet::new(),
        }
    }

    fn flow(protocol: u8, vip: IpAddr, task: IpAddr, nat: bool, replied: bool) -> Flow {
        Flow {
            protocol,
            original_source: IpAddr::from([10, 0, 1, 100]),
            original_source_port: 40_000,
            original_destination: vip,
            original_port: 80,
            reply_source: task,
            reply_source_port: 80,
            reply_destination: IpAddr::from([10, 0, 1, 100]),
            reply_port: 40_000,
            nat,
            replied,
            open: replied,
            ended: false,
        }
    }

    #[test]
    fn connections_end_with_their_task_or_with_its_drain_time() {
        let dooms = |last, nat, replied| judge().dooms(&flow(TCP, VIP, task(last), nat, replied));
        let ended = Flow { ended: true, ..flow(TCP, VIP, task(5), true, true) };
        assert!(!judge().dooms(&ended), "its port may be in use anew");
        let inner = IpAddr::from([172, 17, 0, 2]);
        let masqueraded = Flow { original_source: inner, ..flow(TCP, VIP, task(5), true, true) };
        assert!(!judge().dooms(&masqueraded), "a container inside the container");
        let aside = flow(TCP, VIP, IpAddr::from([127, 0, 0, 1]), true, true);
        assert!(!judge().dooms(&aside), "a proxy of the container's own");
        for last in [1, 2, 3] {
            assert!(!dooms(last, true, true), "{last} lives");
            assert!(!dooms(last, true, false), "{last} may still answer");
        }
        assert!(dooms(4, true, true), "its time is over");
        assert!(dooms(5, true, true), "it is gone");
        assert!(dooms(5, true, false), "it will not answer");
        assert!(judge().dooms(&flow(TCP, VIP, VIP, false, false)), "nobody answered");
        assert!(!judge().dooms(&flow(TCP, VIP, VIP, false, true)), "not ours");
    }

    #[test]
    fn datagrams_go_to_nobody_but_serving_tasks() {
        let dooms = |task, nat, replied| judge().dooms(&flow(UDP, VIP, task, nat, replied));
        assert!(!dooms(task(1), true, true));
        assert!(!dooms(task(1), true, false));
        for last in [2, 3, 4, 5] {
            assert!(dooms(task(last), true, true), "{last} does not serve");
        }
        assert!(dooms(VIP, false, false), "from before there was a service");
        assert!(dooms(VIP, false, true), "from before the address was a VIP");
    }

    #[test]
    fn what_went_to_a_vip_that_is_none_any_more_ends_with_its_task() {
        let vip = IpAddr::from([10, 0, 1, 9]);
        for protocol in [TCP, UDP] {
            assert!(!judge().dooms(&flow(protocol, vip, task(3), true, true)), "it lives");
            assert!(judge().dooms(&flow(protocol, vip, task(5), true, true)), "it is gone");
            assert!(!judge().dooms(&flow(protocol, vip, vip, false, true)), "not ours");
            let unknown = Judge { living: None, ..judge() };
            assert!(!unknown.dooms(&flow(protocol, vip, task(5), true, true)), "who knows");
        }
    }

    #[test]
    fn a_drain_of_the_same_addresses_on_another_network_is_another() {
        let elsewhere = Drain { network: "back".to_owned(), vip: VIP, task: task(4) };
        let judge = Judge { expired: Arc::new([elsewhere].into()), ..judge() };
        assert!(!judge.dooms(&flow(TCP, VIP, task(4), true, true)));
    }

    proptest! {
        #[test]
        fn nothing_is_cut_that_goes_elsewhere_or_to_a_serving_task(
            protocol in prop_oneof![Just(TCP), Just(UDP), Just(1_u8)],
            vip in 0..12_u8, to in 0..12_u8, nat in any::<bool>(), replied in any::<bool>(),
        ) {
            let judge = judge();
            let flow = flow(protocol, task(vip), task(to), nat, replied);
            let suspect = judge.suspect.contains(&task(vip));
            if !suspect || to == 1 {
                prop_assert!(!judge.dooms(&flow));
            }
            if protocol == TCP && (replied && vip == to || (2..=3).contains(&to)) {
                prop_assert!(!judge.dooms(&flow));
            }
        }
    }
}

//! What has to change in one sandbox, as values that print as people read them.
//!
//! Law: the changes from one plan to another, done in order to what the first one asks for, give
//! what the second one asks for; from a plan to itself there are none.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::plan::{Balance, Balances, SandboxPlan, Slots, VipRoute};

/// One change in one sandbox.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change<'a> {
    /// A VIP comes.
    AddVip {
        /// The address.
        vip: IpAddr,
        /// Where its connections go.
        balance: &'a Balance,
    },
    /// A VIP goes; connections through it that exist go on.
    RemoveVip {
        /// The address.
        vip: IpAddr,
        /// Where its connections went.
        old: &'a Balance,
    },
    /// New connections to a VIP go elsewhere; those that exist stay.
    SetSlots {
        /// The address.
        vip: IpAddr,
        /// Where they went until now.
        old: &'a Balance,
        /// Where they go from now on.
        new: &'a Balance,
    },
    /// Tasks live and serve no more: datagrams to them through the VIP go elsewhere.
    Rest {
        /// The address.
        vip: IpAddr,
        /// The addresses of these tasks.
        tasks: BTreeSet<IpAddr>,
    },
    /// Tasks are gone for good: what still is connected to them through the VIP is cut.
    Cut {
        /// The address.
        vip: IpAddr,
        /// The addresses of the tasks that are gone.
        gone: BTreeSet<IpAddr>,
    },
    /// VIPs get a way out.
    AddRoute(VipRoute),
    /// A way out is no longer needed.
    RemoveRoute(VipRoute),
}

/// What leads from `old` to `new`: routes first, so that no VIP answers before it is reachable.
pub fn diff<'a>(old: &'a SandboxPlan, new: &'a SandboxPlan) -> Vec<Change<'a>> {
    // No `..`: a new field must be answered for here. Who the sandbox is does not change what it
    // holds; another namespace under the same name is a new sandbox to `apply`.
    let SandboxPlan { name: _, netns: _, cookie: _, balances, routes } = new;
    let mut changes = diff_routes(&old.routes, routes);
    changes.extend(diff_balances(&old.balances, balances));
    changes
}

/// What leads from one set of routes to another.
pub(crate) fn diff_routes<'a>(
    old: &BTreeSet<VipRoute>,
    new: &BTreeSet<VipRoute>,
) -> Vec<Change<'a>> {
    let gone = old.difference(new).map(|it| Change::RemoveRoute(*it));
    gone.chain(new.difference(old).map(|it| Change::AddRoute(*it))).collect()
}

/// What leads from one table of balances to another, by VIP.
pub(crate) fn diff_balances<'a>(old: &'a Balances, new: &'a Balances) -> Vec<Change<'a>> {
    diff_at(old, new, &differing(old, new, Arc::ptr_eq))
}

/// The same where it is known at which VIPs the two differ.
pub(crate) fn diff_at<'a>(
    old: &'a Balances,
    new: &'a Balances,
    vips: &[IpAddr],
) -> Vec<Change<'a>> {
    let mut changes = Vec::with_capacity(vips.len());
    for vip in vips {
        match (old.get(vip), new.get(vip)) {
            (Some(had), None) => changes.push(Change::RemoveVip { vip: *vip, old: had }),
            (None, Some(balance)) => changes.push(Change::AddVip { vip: *vip, balance }),
            (Some(had), Some(wanted)) => changes.extend(diff_balance(*vip, had, wanted)),
            (None, None) => {}
        }
    }
    changes
}

/// The VIPs at which two tables differ, in order. Both are walked once: most of what they hold is
/// the same.
pub(crate) fn differing(
    old: &Balances,
    new: &Balances,
    same: impl Fn(&Arc<Balance>, &Arc<Balance>) -> bool,
) -> Vec<IpAddr> {
    let mut vips = Vec::new();
    let (mut had, mut wanted) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (had.peek(), wanted.peek()) {
            (Some((had, _)), Some((wanted, _))) => had.cmp(wanted),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return vips,
        };
        let have = if order == Ordering::Greater { None } else { had.next() };
        let want = if order == Ordering::Less { None } else { wanted.next() };
        match (have, want) {
            (Some((_, have)), Some((_, want))) if same(have, want) => {}
            (Some((vip, _)), _) | (None, Some((vip, _))) => vips.push(*vip),
            (None, None) => {}
        }
    }
}

fn diff_balance<'a>(
    vip: IpAddr,
    old: &'a Balance,
    new: &'a Balance,
) -> impl Iterator<Item = Change<'a>> {
    // Names are for people; the kernel does not hold them.
    // Nor does it hold ports: any of them leads to the tasks.
    let Balance { service: _, network: _, slots, alive, affine: _, resting, ports: _ } = new;
    let differs = old.slots != *slots || old.keeps() != new.keeps();
    let set = differs.then_some(Change::SetSlots { vip, old, new });
    let tired = resting.keys().filter(|it| old.has_serving(**it));
    let tasks: BTreeSet<_> = tired.copied().collect();
    let rest = (!tasks.is_empty()).then_some(Change::Rest { vip, tasks });
    let gone: BTreeSet<_> = old.alive.difference(alive).copied().collect();
    let cut = (!gone.is_empty()).then_some(Change::Cut { vip, gone });
    set.into_iter().chain(rest).chain(cut)
}

impl Change<'_> {
    /// Whether it is made in a table, and not in conntrack or among the routes.
    pub(crate) fn is_of_the_table(&self) -> bool {
        self.vip_of_the_table().is_some()
    }

    /// The VIP that it is about, where it is made in a table.
    pub(crate) fn vip_of_the_table(&self) -> Option<IpAddr> {
        match self {
            Self::AddVip { vip, .. } | Self::RemoveVip { vip, .. } | Self::SetSlots { vip, .. } => {
                Some(*vip)
            }
            Self::Rest { .. } | Self::Cut { .. } | Self::AddRoute(_) | Self::RemoveRoute(_) => None,
        }
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddVip { vip, balance } => write!(f, "add {vip} {balance}"),
            Self::RemoveVip { vip, old: _ } => write!(f, "remove {vip}"),
            Self::SetSlots { vip, old, new } => {
                write!(f, "set {vip} -> {}", Slots(&new.slots))?;
                match (old.keeps(), new.keeps()) {
                    (false, true) => f.write_str(", a client keeps its task"),
                    (true, false) => f.write_str(", no client keeps its task"),
                    (false, false) | (true, true) => Ok(()),
                }
            }
            Self::Rest { vip, tasks } => {
                write!(f, "rest {vip}")?;
                tasks.iter().try_for_each(|it| write!(f, " {it}"))
            }
            Self::Cut { vip, gone } => {
                write!(f, "cut {vip}")?;
                gone.iter().try_for_each(|it| write!(f, " {it}"))
            }
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::RemoveRoute(route) => write!(f, "remove route {route}"),
        }
    }
}

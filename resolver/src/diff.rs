//! What changes for which sandbox. Sockets are opened and closed with sandboxes and never because
//! data changed.
//!
//! Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use registry::id::SandboxId;

use crate::plan::{Plan, View};

/// One step towards a plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change<'a> {
    /// It is served already; it gets another view.
    Rezone(&'a Arc<View>),
    /// It is not served any more.
    Close(&'a SandboxId),
    /// It is served from now on.
    Open(&'a Arc<View>),
}

/// What leads from the sandboxes that are served to those of `plan`, which shares its zones with
/// the plan that they are from ([`Plan::sharing_with`]): first what only swaps a
/// pointer, then what frees, then what opens. A sandbox whose namespace is another one is closed
/// and opened.
pub fn diff<'a>(served: &'a BTreeMap<SandboxId, Arc<View>>, plan: &'a Plan) -> Vec<Change<'a>> {
    let Plan { views, host: _, zones: _ } = plan; // the host's view and zones open nothing
    let place = |it: &View| (it.netns.clone(), it.cookie);
    let moved = |old: &View, new: &View| place(old) != place(new);
    let rezoned = views.iter().filter_map(|(id, new)| {
        let old = served.get(id)?;
        (!moved(old, new) && !old.same_sharing(new)).then_some(Change::Rezone(new))
    });
    let closed = served
        .iter()
        .filter(|(id, old)| views.get(*id).is_none_or(|new| moved(old, new)))
        .map(|(id, _)| Change::Close(id));
    let opened = views
        .iter()
        .filter(|(id, new)| served.get(*id).is_none_or(|old| moved(old, new)))
        .map(|(_, new)| Change::Open(new));
    rezoned.chain(closed).chain(opened).collect()
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rezone(view) => write!(f, "rezone {}", view.name),
            Self::Close(id) => write!(f, "close {id}"),
            Self::Open(view) => write!(f, "open {}", view.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Outside;

    fn view(id: &str, netns: &str, cookie: Option<u64>, ttl: u32) -> Arc<View> {
        Arc::new(View {
            sandbox: id.into(),
            name: id.to_owned(),
            netns: netns.into(),
            cookie,
            zones: Vec::new(),
            subnets: Vec::new(),
            links: BTreeMap::new(),
            hosts: BTreeMap::new(),
            outside: Outside::NoServers,
            suffixes: Arc::default(),
            forward_single_label: false,
            ttl,
        })
    }

    fn views(views: &[Arc<View>]) -> BTreeMap<SandboxId, Arc<View>> {
        views.iter().map(|it| (it.sandbox.clone(), Arc::clone(it))).collect()
    }

    #[track_caller]
    fn check(old: &[Arc<View>], new: &[Arc<View>], expected: &[&str]) {
        let plan = Plan { views: views(new), ..Plan::default() };
        let served = views(old);
        let changes: Vec<_> = diff(&served, &plan).iter().map(ToString::to_string).collect();
        assert_eq!(changes, expected);
    }

    #[test]
    fn the_same_again_changes_nothing() {
        check(&[view("a", "/a", Some(1), 5)], &[view("a", "/a", Some(1), 5)], &[]);
    }

    #[test]
    fn other_data_swaps_the_view_and_another_namespace_moves_the_sockets() {
        let old =
            [view("a", "/a", Some(1), 5), view("b", "/b", Some(2), 5), view("c", "/c", None, 5)];
        let new =
            [view("a", "/a", Some(1), 6), view("b", "/b", Some(3), 5), view("d", "/d", None, 5)];
        check(&old, &new, &["rezone a", "close b", "close c", "open b", "open d"]);
    }
}

//! What differs between two route tables, for logs and for people.

use std::cmp::Ordering;
use std::fmt;

use crate::table::{Route, RouteTable};

/// One route that differs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change<'a> {
    /// It was not there before.
    Add(&'a Route),
    /// It is not there any more.
    Remove(&'a Route),
    /// It is served by others, or otherwise, than before.
    Replace(&'a Route, &'a Route),
}

/// The changes that lead from `old` to `new`, in the order of the tables.
pub fn diff<'a>(old: &'a RouteTable, new: &'a RouteTable) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    let mut before = old.routes().iter().peekable();
    let mut after = new.routes().iter().peekable();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.key().cmp(&is.key()),
        };
        match order {
            Ordering::Less => changes.extend(before.next().map(Change::Remove)),
            Ordering::Greater => changes.extend(after.next().map(Change::Add)),
            Ordering::Equal => {
                let both = before.next().zip(after.next());
                changes
                    .extend(both.filter(|(was, is)| was != is).map(|(a, b)| Change::Replace(a, b)));
            }
        }
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(route) => write!(f, "add {route}"),
            Self::Remove(route) => write!(f, "remove {route}"),
            Self::Replace(_, route) => write!(f, "replace {route}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::table::Host;

    fn route((host, root, rewrite): (u8, u8, bool)) -> Route {
        Route {
            host: Host::of(&format!("{host}.test")),
            context_root: (if root == 0 { String::new() } else { format!("/{root}") }).into(),
            rewrite,
            claims: Vec::new(),
            backends: Arc::from([]),
            unavailable: Some("nobody".into()),
        }
    }

    fn table() -> impl Strategy<Value = RouteTable> {
        proptest::collection::vec((0..4_u8, 0..3_u8, any::<bool>()), 0..8)
            .prop_map(|routes| RouteTable::new(routes.into_iter().map(route).collect()))
    }

    proptest! {
        #[test]
        fn the_changes_lead_from_any_table_to_any_other(old in table(), new in table()) {
            let mut routes = old.routes().to_vec();
            for change in diff(&old, &new) {
                match change {
                    Change::Add(route) => routes.push(route.clone()),
                    Change::Remove(route) => routes.retain(|it| it.key() != route.key()),
                    Change::Replace(was, is) => {
                        prop_assert!(was != is);
                        routes.retain(|it| it != was);
                        routes.push(is.clone());
                    }
                }
            }
            prop_assert_eq!(RouteTable::new(routes), new.clone());
            prop_assert_eq!(diff(&new, &new), []);
        }
    }

    #[test]
    fn a_change_reads_as_what_is_done() {
        let old = RouteTable::new(vec![route((1, 0, false)), route((2, 0, false))]);
        let new = RouteTable::new(vec![route((2, 0, true)), route((3, 1, false))]);
        let said: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "remove 1.test/ -> (nobody)",
                "replace 2.test/ -> rewritten (nobody)",
                "add 3.test/1 -> (nobody)",
            ]
        );
    }
}

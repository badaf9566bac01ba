//! What differs between two snapshots, thing by thing.
//!
//! Always true here: a thing is listed exactly when the two snapshots do not say the same of it;
//! what they share is not looked into.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Snapshot;
use crate::model::{Service, Task};

/// A thing that one of two snapshots does not have, or of which they say different things.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change<'a, T> {
    /// As it was; `None`: it is new.
    pub before: Option<&'a T>,
    /// As it is; `None`: it is gone.
    pub now: Option<&'a T>,
}

impl<'a, T> Change<'a, T> {
    /// It as it was and as it is, as far as there is such.
    pub fn sides(self) -> impl Iterator<Item = &'a T> {
        self.before.into_iter().chain(self.now)
    }
}

impl Snapshot {
    /// The services of which `before` said something else, by id.
    pub fn services_since<'a>(&'a self, before: &'a Self) -> Vec<Change<'a, Service>> {
        changes(&before.services, &self.services)
    }

    /// The tasks of which `before` said something else, by id.
    pub fn tasks_since<'a>(&'a self, before: &'a Self) -> Vec<Change<'a, Task>> {
        changes(&before.tasks, &self.tasks)
    }
}

fn changes<'a, K: Ord, V: Eq>(
    before: &'a BTreeMap<K, Arc<V>>,
    now: &'a BTreeMap<K, Arc<V>>,
) -> Vec<Change<'a, V>> {
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    let mut changes = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let before = if order.is_le() { old.next() } else { None }.map(|(_, it)| it);
        let now = if order.is_ge() { new.next() } else { None }.map(|(_, it)| it);
        if before != now {
            // `Arc` compares pointers first.
            changes.push(Change { before: before.map(|it| &**it), now: now.map(|it| &**it) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::snapshot::Draft;
    use crate::source::world;

    fn draft(tasks: &[(&str, &str)]) -> Draft {
        let mut text = "[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/8\"\n".to_owned();
        text += "[[service]]\nname = \"web\"\nnetworks = [\"n\"]\n";
        for (name, address) in tasks {
            write!(
                text,
                "[[task]]\nname = \"{name}\"\nservice = \"web\"\naddresses = {{ n = \"{address}\" }}\n"
            )
            .unwrap();
        }
        world::parse(&text, "test").unwrap()
    }

    #[test]
    fn what_is_as_it_was_is_shared_and_what_is_not_is_listed() {
        let before = Snapshot::build(draft(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), 1);
        let now = before.followed_by(draft(&[("a", "10.0.0.1"), ("b", "10.0.0.3")]));
        let task = |snapshot: &Snapshot, id: &str| Arc::clone(&snapshot.tasks[&id.into()]);
        assert!(Arc::ptr_eq(&task(&before, "a"), &task(&now, "a")));
        let changed: Vec<_> = now.tasks_since(&before);
        let [Change { before: Some(was), now: Some(is) }] = changed[..] else {
            panic!("not one change: {changed:?}")
        };
        assert_eq!((was, is), (&*task(&before, "b"), &*task(&now, "b")));
        assert_eq!(now.services_since(&before), []);
    }

    #[test]
    fn what_comes_and_goes_is_listed_whether_memory_is_shared_or_not() {
        let before = Snapshot::build(draft(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), 1);
        let next = || draft(&[("b", "10.0.0.2"), ("c", "10.0.0.3")]);
        for now in [before.followed_by(next()), Snapshot::build(next(), 2)] {
            let names = |of: &dyn Fn(&Change<'_, Task>) -> Option<String>| {
                now.tasks_since(&before).iter().filter_map(of).collect::<Vec<_>>()
            };
            assert_eq!(names(&|it| it.before.map(|it| it.name.clone())), ["a"]);
            assert_eq!(names(&|it| it.now.map(|it| it.name.clone())), ["c"]);
        }
        assert_eq!(before.followed_by(next()), Snapshot::build(next(), 2));
    }
}

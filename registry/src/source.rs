//! Where the world comes from. A source reads something live and publishes [`Snapshot`]s of it.
//!
//! Invariants, kept by [`Publisher`] for every source
//! - *numbered*: each published world has a higher generation than the one before;
//! - *only changes*: a world equal to the last one is not published again;
//! - *last good stays*: a source that cannot be read marks the last world stale and keeps it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::snapshot::{Draft, Snapshot};

pub mod docker;
pub mod world;

/// The sending end of a [`crate::World`], with the rules that every source obeys.
#[derive(Debug)]
pub struct Publisher {
    sender: watch::Sender<Arc<Snapshot>>,
}

impl Publisher {
    /// Publishes into `sender`, on top of whatever it holds (the last snapshot from disk, say).
    pub fn new(sender: watch::Sender<Arc<Snapshot>>) -> Self {
        Self { sender }
    }

    /// What was published last.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.sender.borrow())
    }

    /// Publishes `draft` as the present, unless it says what the last snapshot said. Returns
    /// whether something was published.
    pub fn publish(&self, draft: Draft) -> bool {
        self.publish_as(draft, None)
    }

    /// The same for a world of which a part could not be read again, with the reason why.
    pub fn publish_as(&self, draft: Draft, stale: Option<String>) -> bool {
        let last = self.current();
        let built = last.followed_by(draft);
        let next = match stale {
            Some(reason) => built.marked_stale(reason),
            None => built,
        };
        // The first reading is news even when it finds nothing: an empty world is then known.
        let differs = last.generation() == 0 || !next.same_world(&last);
        if differs {
            self.sender.send_replace(Arc::new(next));
        }
        differs
    }

    /// Says that the last snapshot is not the present any more, and why. The world and its
    /// generation stay. Returns whether this was news.
    pub fn mark_stale(&self, reason: &str) -> bool {
        let last = self.current();
        let news = last.stale() != Some(reason);
        if news {
            self.sender.send_replace(Arc::new(last.marked_stale(reason)));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn publisher() -> Publisher {
        Publisher::new(watch::Sender::new(Arc::new(Snapshot::default())))
    }

    fn on_node(name: &str) -> Draft {
        Draft { this_node: Some(NodeId::from(name)), ..Draft::default() }
    }

    #[test]
    fn an_equal_world_is_not_published_twice() {
        let publisher = publisher();
        assert!(publisher.publish(on_node("a")));
        assert!(!publisher.publish(on_node("a")));
        assert_eq!(publisher.current().generation(), 1);
        assert!(publisher.publish(on_node("b")));
        assert_eq!(publisher.current().generation(), 2);
    }

    #[test]
    fn a_stale_world_stays_and_says_so_until_it_is_read_again() {
        let publisher = publisher();
        publisher.publish(on_node("a"));
        assert!(publisher.mark_stale("engine gone"));
        assert!(!publisher.mark_stale("engine gone"));
        let stale = publisher.current();
        assert_eq!(stale.stale(), Some("engine gone"));
        assert_eq!(stale.this_node(), Some(&NodeId::from("a")));
        assert!(publisher.publish(on_node("a")), "fresh again is news");
        assert_eq!(publisher.current().stale(), None);
        assert_eq!(publisher.current().generation(), 2);
    }
}

//! Asks whether connections to an address that another task has now are that task's.
//!
//! Addresses are used anew at once: a container that is restarted keeps its own, and the lowest
//! free one is given to the next. Conntrack knows connections by addresses alone, so who reads from
//! the task before, which went without a word, would wait for ever; and when a connection began
//! tells nothing, because the new task may have had some before anybody said that it is there.
//!
//! Invariants
//! - *no harm*: a client is made to speak ([`kernel::provoke`]); a task that has its connection
//!   takes no notice, one that has not resets it;
//! - *asked more than once*: the new task may not be reachable yet;
//! - *bounded*: of more than [`MOST`] replacements under way, the oldest are asked for no more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kernel::conntrack::Flow;
use kernel::netns::Netns;
use kernel::nft::{Batch, ChainKind, CmpOp, Expr, Family, Hook, HookPoint, MetaKey, Socket, Table};
use kernel::provoke::provoke;
use registry::Snapshot;
use registry::id::{NetworkId, SandboxId, TaskId};
use registry::model::{Sandbox, ServingState, Task};
use tokio::time::Instant;

use crate::sandbox::SandboxError;

/// After a replacement was seen: at once, when an overlay has been told of it, and when a neighbour
/// has forgotten the address's old place.
const ROUNDS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(10)];

/// What goes to a task that left is cut long before this is over.
const CUT_WITHIN: Duration = Duration::from_secs(60);

/// Addresses that were left, as many as a node with all its tasks has.
const MOST_LEFT: usize = 16_384;

/// Replacements that are under way: as many as a Swarm's update makes in ten seconds.
const MOST: usize = 256;

/// What has been replaced, and when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Inquiries {
    waiting: VecDeque<(Instant, Arc<BTreeSet<IpAddr>>)>,
    /// Who left lately: what goes there may not have been cut before somebody else comes.
    left: VecDeque<(Instant, Spot)>,
}

/// An address on a network.
type Spot = (NetworkId, IpAddr);

/// Who came and went between two snapshots.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Moves {
    left: BTreeSet<Spot>,
    taken: BTreeSet<Spot>,
}

impl Moves {
    /// Adds what happened after it.
    pub(crate) fn extend(&mut self, later: Self) {
        self.left.extend(later.left);
        self.taken.extend(later.taken);
    }
}

impl Inquiries {
    /// Takes note of who came and went just now.
    pub(crate) fn follow(&mut self, moves: Moves, now: Instant) {
        self.left.extend(moves.left.into_iter().map(|it| (now, it)));
        let old = |(when, _): &(Instant, Spot)| now.saturating_duration_since(*when) > CUT_WITHIN;
        while self.left.len() > MOST_LEFT || self.left.front().is_some_and(old) {
            self.left.pop_front();
        }
        if moves.taken.is_empty() {
            return;
        }
        let left: BTreeSet<&Spot> = self.left.iter().map(|(_, spot)| spot).collect();
        let replaced = moves.taken.iter().filter(|it| left.contains(it)).map(|it| it.1);
        let replaced: BTreeSet<IpAddr> = replaced.collect();
        if replaced.is_empty() {
            return;
        }
        let replaced = Arc::new(replaced);
        self.waiting.extend(ROUNDS.map(|after| (now + after, Arc::clone(&replaced))));
        while self.waiting.len() > MOST {
            self.waiting.pop_front();
        }
    }

    /// The addresses that are to be asked for now.
    pub(crate) fn due(&mut self, now: Instant) -> BTreeSet<IpAddr> {
        let mut due = BTreeSet::new();
        self.waiting.retain(|(when, replaced)| {
            if *when <= now {
                due.extend(&**replaced);
            }
            *when > now
        });
        due
    }

    /// How long until there is something to ask.
    pub(crate) fn next(&self, now: Instant) -> Option<Duration> {
        self.waiting.iter().map(|(when, _)| when.saturating_duration_since(now)).min()
    }
}

/// Which addresses tasks left, and which they took: both, where one is in another namespace now.
pub(crate) fn moves(before: &Snapshot, now: &Snapshot) -> Moves {
    let lives = |task: &&Task| task.state != ServingState::Stopped;
    let spots = |task: &Task| {
        let places = task.networks.iter();
        places
            .flat_map(|(network, it)| it.addresses.iter().map(move |at| (network.clone(), *at)))
            .collect::<BTreeSet<Spot>>()
    };
    let mut moves = Moves::default();
    for change in now.tasks_since(before) {
        let had = change.before.filter(lives).map(spots).unwrap_or_default();
        let has = change.now.filter(lives).map(spots).unwrap_or_default();
        moves.left.extend(had.difference(&has).cloned());
        moves.taken.extend(has.difference(&had).cloned());
    }
    for id in moved(before, now) {
        moves.left.extend(before.task(id).filter(lives).map(spots).unwrap_or_default());
        moves.taken.extend(now.task(id).filter(lives).map(spots).unwrap_or_default());
    }
    moves
}

/// The tasks of this node that are in another namespace than before.
fn moved<'a>(before: &'a Snapshot, now: &'a Snapshot) -> BTreeSet<&'a TaskId> {
    // What did not change is the same memory in both.
    let known = |it: &Sandbox| before.sandbox(&it.id).is_some_and(|old| std::ptr::eq(old, it));
    let new: Vec<_> = now.sandboxes().filter(|it| !known(it)).collect();
    if new.is_empty() {
        return BTreeSet::new();
    }
    let place = |id: &'a SandboxId, cookie: Option<u64>| (id, cookie);
    let old: BTreeMap<&TaskId, _> = before
        .sandboxes()
        .flat_map(|it| it.tasks.iter().map(move |task| (task, place(&it.id, it.cookie))))
        .collect();
    let is_elsewhere = |task: &&TaskId, now| old.get(task).is_some_and(|then| *then != now);
    new.into_iter()
        .flat_map(|it| it.tasks.iter().map(move |task| (task, place(&it.id, it.cookie))))
        .filter(|(task, now)| is_elsewhere(task, *now))
        .map(|(task, _)| task)
        .collect()
}

/// A mark that only the packets of this module carry: they stay in the namespace. Below the bits
/// that the mesh has there, and no single bit, as others choose them (Tailscale has this one).
const MARK: u32 = 0x0008_00d7;

const TABLE: Table<'static> = Table { family: Family::Inet, name: "portolan_inquiry" };
const CHAIN: &str = "output";
/// Before conntrack.
const HOOK: Hook = Hook { kind: ChainKind::Filter, point: HookPoint::Output, priority: -300 };

/// Makes the clients of these flows, in this namespace, speak to the tasks.
pub(crate) fn inquire(netns: &Netns, flows: &[Flow]) -> Result<usize, SandboxError> {
    if flows.is_empty() {
        return Ok(0);
    }
    let mut batch = Batch::new();
    // It goes with the socket, whatever becomes of this process; one of that name is the container's.
    batch.replace_table(TABLE, true);
    batch.add_chain(TABLE, CHAIN, Some(HOOK));
    let rule = [
        Expr::Meta { key: MetaKey::Mark, to: 0 },
        Expr::Cmp { op: CmpOp::Eq, from: 0, data: MARK.to_ne_bytes().to_vec() },
        Expr::Notrack,
    ];
    batch.add_rule(TABLE, CHAIN, &rule, b"");
    let mut socket = Socket::open(netns)?;
    socket.commit(&batch)?;
    let ends: Vec<(SocketAddr, SocketAddr)> = flows.iter().map(ends).collect();
    Ok(provoke(netns, MARK, &ends)?)
}

/// Both ends as the client has them: whom it speaks to, and itself.
fn ends(flow: &Flow) -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(flow.original_destination, flow.original_port),
        SocketAddr::new(flow.original_source, flow.original_source_port),
    )
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use registry::source::world;

    use super::*;

    fn snapshot(tasks: &[(&str, u8, &str)]) -> Snapshot {
        let mut text = "[[network]]\nname = \"n\"\nsubnet = \"10.0.1.0/24\"\n".to_owned();
        for (nth, (name, _, state)) in (100..).zip(tasks) {
            write!(
                text,
                "[[task]]\nname = \"{name}\"\nstate = \"{state}\"\n\
                 addresses = {{ n = \"10.0.1.{nth}\" }}\n"
            )
            .unwrap();
        }
        let mut draft = world::parse(&text, "test").unwrap();
        // What a world file may not say, and engines do: two tasks at one address.
        for (task, (_, last, _)) in draft.tasks.iter_mut().zip(tasks) {
            for place in task.networks.values_mut() {
                place.addresses = vec![IpAddr::from([10, 0, 1, *last])];
            }
        }
        Snapshot::build(draft, 1)
    }

    fn addresses(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().map(|it| IpAddr::from([10, 0, 1, *it])).collect()
    }

    /// What is asked for at once after these moves.
    fn asked(moves: impl IntoIterator<Item = Moves>) -> BTreeSet<IpAddr> {
        let (mut inquiries, now) = (Inquiries::default(), Instant::now());
        moves.into_iter().for_each(|it| inquiries.follow(it, now));
        inquiries.due(now)
    }

    #[test]
    fn an_address_is_replaced_when_one_task_leaves_it_and_another_one_takes_it() {
        let serving = "serving";
        let before = snapshot(&[("a", 1, serving), ("b", 2, serving), ("c", 3, serving)]);
        let cases: [(&[_], &[u8]); 5] = [
            (&[("d", 1, serving), ("b", 2, serving), ("c", 3, serving)], &[1]),
            (&[("a", 1, "stopped"), ("d", 1, "starting"), ("b", 2, "draining")], &[1]),
            (&[("a", 2, serving), ("b", 1, serving)], &[1, 2]),
            (&[("a", 4, serving), ("b", 2, "starting"), ("c", 3, "stopped")], &[]),
            (&[("a", 1, serving), ("b", 2, serving), ("c", 3, "draining")], &[]),
        ];
        for (now, wanted) in cases {
            let moves = moves(&before, &snapshot(now));
            assert_eq!(asked([moves]), addresses(wanted), "{now:?}");
        }
    }

    #[test]
    fn who_comes_soon_after_another_one_left_has_replaced_it_too() {
        let [here, gone] = [snapshot(&[("a", 1, "serving")]), snapshot(&[("a", 1, "stopped")])];
        let steps = || [moves(&here, &gone), moves(&gone, &here)];
        assert_eq!(asked(steps()), addresses(&[1]));
        let (mut inquiries, begin) = (Inquiries::default(), Instant::now());
        let [left, back] = steps();
        inquiries.follow(left, begin);
        inquiries.follow(back, begin + 2 * CUT_WITHIN);
        assert_eq!(inquiries.next(begin), None, "what went there has long been cut");
    }

    #[test]
    fn a_task_in_another_namespace_has_been_replaced_by_itself() {
        let with = |cookie: u64, draft: &str| {
            let mut draft = world::parse(draft, "test").unwrap();
            for sandbox in &mut draft.sandboxes {
                sandbox.cookie = Some(cookie);
                sandbox.tasks = vec![draft.tasks[0].id.clone()];
            }
            Snapshot::build(draft, 1)
        };
        let text = "[[network]]\nname = \"n\"\n[[task]]\nname = \"a\"\n\
                    addresses = { n = \"10.0.1.1\" }\n[[sandbox]]\nname = \"a\"\n\
                    netns = \"/run/netns/a\"\nnetworks = [\"n\"]\n";
        assert_eq!(asked([moves(&with(7, text), &with(8, text))]), addresses(&[1]));
        assert_eq!(moves(&with(7, text), &with(7, text)), Moves::default());
    }

    #[test]
    fn a_replacement_is_asked_for_in_rounds_and_then_no_more() {
        let (mut inquiries, begin) = (Inquiries::default(), Instant::now());
        inquiries.follow(Moves::default(), begin);
        assert_eq!(inquiries.next(begin), None);
        let spot = BTreeSet::from([(NetworkId::from("n"), IpAddr::from([10, 0, 1, 1]))]);
        inquiries.follow(Moves { left: spot.clone(), taken: spot }, begin);
        for after in ROUNDS {
            assert_eq!(inquiries.next(begin + after), Some(Duration::ZERO));
            assert_eq!(inquiries.due(begin + after), addresses(&[1]));
            assert_eq!(inquiries.due(begin + after), BTreeSet::new());
        }
        assert_eq!(inquiries.next(begin), None);
    }
}

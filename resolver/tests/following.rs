//! However a world came to be, its names are those of a resolver that sees it first.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/worlds.rs"]
mod worlds;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseError;
use registry::model::{Network, Sandbox, Service, Task};
use registry::{Consumer, Draft, Snapshot};
use resolver::fast::{Plain, Quick, Seat};
use resolver::name::Name;
use resolver::plan::{Plan, View, Zone};
use resolver::wire::Kind;
use resolver::{Resolver, VipTable, compile};
use tokio::sync::watch;
use worlds::{config, draft, network, sandbox, service, task, vips};

/// Something that happens to a world.
#[derive(Clone, Debug)]
enum Event {
    Network(Network),
    Service(Service),
    Task(Task),
    Sandbox(Sandbox),
    Gone([Index; 4], u8),
    Vips(VipTable),
    /// Everything at once.
    World(Draft),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => network().prop_map(Event::Network),
        5 => service().prop_map(Event::Service),
        8 => task().prop_map(Event::Task),
        2 => sandbox().prop_map(Event::Sandbox),
        4 => (any::<[Index; 4]>(), 0..4_u8).prop_map(|(index, kind)| Event::Gone(index, kind)),
        2 => vips().prop_map(Event::Vips),
        1 => draft().prop_map(Event::World),
    ]
}

impl Event {
    fn happen(self, world: &mut Draft, vips: &mut VipTable) {
        match self {
            Self::Network(it) => put(&mut world.networks, it, |it| it.id.to_string()),
            Self::Service(it) => put(&mut world.services, it, |it| it.id.to_string()),
            Self::Task(it) => put(&mut world.tasks, it, |it| it.id.to_string()),
            Self::Sandbox(it) => put(&mut world.sandboxes, it, |it| it.id.to_string()),
            Self::Gone([index, ..], 0) => take(&mut world.networks, index),
            Self::Gone([_, index, ..], 1) => take(&mut world.services, index),
            Self::Gone([_, _, index, _], 2) => take(&mut world.tasks, index),
            Self::Gone([.., index], _) => take(&mut world.sandboxes, index),
            Self::Vips(it) => *vips = it,
            Self::World(it) => *world = it,
        }
    }
}

fn put<T>(all: &mut Vec<T>, one: T, id: impl Fn(&T) -> String) {
    all.retain(|it| id(it) != id(&one));
    all.push(one);
}

fn take<T>(all: &mut Vec<T>, index: Index) {
    if !all.is_empty() {
        all.remove(index.index(all.len()));
    }
}

/// What both say to a question for each name that either has, or that was there before.
fn check_answers(
    followed: &Arc<View>,
    anew: &Arc<View>,
    before: &Plan,
) -> Result<(), TestCaseError> {
    let seats = [Seat::new(Arc::clone(followed)), Seat::new(Arc::clone(anew))];
    let zones = before.zones.values().chain(&anew.zones);
    for question in zones.flat_map(|it| questions(it)).collect::<BTreeSet<_>>() {
        let Some(plain) = Plain::read(&question) else { continue };
        let [one, other] = seats.each_ref().map(|seat| {
            let mut out = [0; 1232];
            let quick = seat.quick(&plain, 7, &mut out);
            let length = if let Quick::Reply { length, .. } = quick { length } else { 0 };
            (quick, out.get(..length).unwrap().to_vec())
        });
        prop_assert_eq!(one, other);
    }
    Ok(())
}

fn questions(zone: &Zone) -> Vec<Vec<u8>> {
    let question = |name: &Name, kind: Kind| {
        let mut octets = b"\0\x09\x01\0\0\x01\0\0\0\0\0\0".to_vec();
        octets.extend(name.wire());
        octets.extend([kind.0, 1].map(u16::to_be_bytes).as_flattened());
        octets
    };
    let names = zone.names.keys().filter_map(|it| Name::from_text(it).ok());
    let named = names.flat_map(|it| [question(&it, Kind::A), question(&it, Kind::AAAA)]);
    let reverse = zone.reverse.keys().filter_map(|it| Name::from_text(&reverse(*it)).ok());
    named.chain(reverse.map(|it| question(&it, Kind::PTR))).collect()
}

fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(it) => {
            let [a, b, c, d] = it.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(it) => {
            let digits = format!("{:032x}", it.to_bits());
            let labels: Vec<_> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

/// Which addresses lead to the very same owner.
fn households(zone: &Zone) -> BTreeSet<Vec<IpAddr>> {
    let mut households: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
    for (address, owner) in zone.owners.iter() {
        households.entry(Arc::as_ptr(owner).addr()).or_default().push(*address);
    }
    households.into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_world_reached_in_steps_is_compiled_as_if_seen_first(
        first in draft(),
        events in vec((vec(event(), 1..4), any::<bool>()), 1..12),
    ) {
        let (mut world, mut vips) = (first, VipTable::new());
        let (allocated, seen) = watch::channel(Arc::default());
        let mut resolver = Resolver::new(config(), seen, None).unwrap();
        let mut snapshot = Arc::new(Snapshot::build(world.clone(), 1));
        let mut before = resolver.compile(&snapshot).0;
        for (events, sharing) in events {
            before.views.values().for_each(|it| drop(Seat::new(Arc::clone(it)))); // as served
            for event in events {
                event.happen(&mut world, &mut vips);
            }
            let anew = Snapshot::build(world.clone(), snapshot.generation() + 1);
            let next = if sharing { snapshot.followed_by(world.clone()) } else { anew.clone() };
            snapshot = Arc::new(next);
            allocated.send_replace(Arc::new(vips.clone()));
            let (followed, notes) = resolver.compile(&snapshot);
            let (whole, expected) = compile(&anew, &vips, &config());
            prop_assert_eq!(&followed, &whole);
            prop_assert_eq!(notes, expected);
            for (one, other) in followed.zones.values().zip(whole.zones.values()) {
                prop_assert_eq!(households(one), households(other));
            }
            for (one, other) in followed.views.values().zip(whole.views.values()) {
                check_answers(one, other, &before)?;
            }
            before = followed;
        }
    }
}

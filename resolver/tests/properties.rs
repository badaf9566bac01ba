//! Laws of the resolver, on worlds and octets nobody thought of.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

#[path = "support/worlds.rs"]
mod worlds;

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use registry::model::{Completeness, ServingState};
use registry::{Draft, Snapshot};
use resolver::answer::{Record, Verdict, answer, answer_host};
use resolver::fast::{Plain, Quick, Seat};
use resolver::name::Name;
use resolver::plan::{Plan, View};
use resolver::respond::{Step, Whom, respond};
use resolver::wire::{Class, Edns, Inbound, Kind, Query, Transport};
use resolver::{VipTable, compile};
use worlds::{config, draft, vips};

fn query() -> impl Strategy<Value = Query> {
    let label = prop_oneof![
        4 => "(a|b|web|WEB|db|1|n0|N1|n1|tasks|_tcp|_http|_8080|arpa|in-addr|ip6|10|0|d|f|localhost)"
            .prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..63),
    ];
    let kind = prop_oneof![
        Just(Kind::A),
        Just(Kind::AAAA),
        Just(Kind::PTR),
        Just(Kind::SRV),
        Just(Kind::ANY),
        any::<u16>().prop_map(Kind),
    ];
    let class = prop_oneof![9 => Just(Class::IN), 1 => any::<u16>().prop_map(Class)];
    let edns = proptest::option::of((any::<u16>(), any::<bool>()));
    (vec(label, 0..6), kind, class, edns).prop_map(|(labels, kind, class, edns)| {
        let mut wire = Vec::new();
        for label in labels {
            if wire.len() + label.len() < 250 {
                wire.push(u8::try_from(label.len()).unwrap());
                wire.extend(label);
            }
        }
        wire.push(0);
        Query {
            id: 9,
            recursion_desired: true,
            checking_disabled: false,
            authentic_data: false,
            name: Name::from_wire(&wire).unwrap(),
            kind,
            class,
            edns: edns.map(|(size, dnssec_ok)| Edns { size, dnssec_ok }),
        }
    })
}

/// What must hold of any plan of any snapshot.
fn flaws(snapshot: &Snapshot, vips: &VipTable, plan: &Plan) -> Vec<String> {
    let mut flaws = Vec::new();
    let fixed = snapshot.services().flat_map(|it| it.networks.values().filter_map(|it| it.vip));
    let vips: BTreeSet<_> = fixed.chain(vips.values().flat_map(|it| it.iter())).collect();
    for (id, view) in &plan.views {
        let sandbox = snapshot.sandbox(id).unwrap();
        for zone in &view.zones {
            if !sandbox.networks.iter().any(|it| it.network == zone.network) {
                flaws.push(format!("{id} sees {}", zone.network));
            }
        }
    }
    for (id, zone) in &plan.zones {
        if snapshot.network(id).unwrap().ingress {
            flaws.push(format!("names on the ingress network {id}"));
        }
        let alive: BTreeSet<_> = snapshot
            .tasks_on(id)
            .filter(|it| it.state != ServingState::Stopped)
            .flat_map(|it| it.networks[id].addresses.iter().copied())
            .collect();
        for (name, entry) in zone.names.iter() {
            if name.is_empty() || !entry.addresses.is_sorted_by(|a, b| a < b) {
                flaws.push(format!("`{name}` on {id}: {:?}", entry.addresses));
            }
            let nobodys = |it: &IpAddr| !alive.contains(it) && !vips.contains(it);
            if entry.addresses.iter().any(nobodys) {
                flaws.push(format!("`{name}` on {id} is nobody's: {:?}", entry.addresses));
            }
        }
    }
    flaws
}

/// The addresses of zones that `view` may show.
fn visible(view: &View) -> BTreeSet<IpAddr> {
    let zones = view.zones.iter().flat_map(|it| it.names.values());
    let all = zones
        .chain(view.links.values())
        .chain(view.hosts.values())
        .flat_map(|it| it.addresses.iter().copied());
    all.chain(["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]).collect()
}

/// `query` as octets, with the header's other bits as given.
fn octets_of(query: &Query, flags: u16) -> Vec<u8> {
    let mut octets = Vec::new();
    for field in [query.id, flags, 1, 0, 0, u16::from(query.edns.is_some())] {
        octets.extend(field.to_be_bytes());
    }
    octets.extend(query.name.wire());
    octets.extend([query.kind.0, query.class.0].map(u16::to_be_bytes).as_flattened());
    if let Some(Edns { size, dnssec_ok }) = query.edns {
        octets.extend([0, 0, 41]);
        octets.extend(size.to_be_bytes());
        octets.extend([0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 4, 0, 3, 0, 0]); // NSID
    }
    octets
}

/// What the two paths make of `octets` must be the same.
fn check_paths(view: &std::sync::Arc<View>, octets: &[u8], seed: u64) -> Result<(), TestCaseError> {
    let Some(plain) = Plain::read(octets) else { return Ok(()) };
    prop_assert!(matches!(resolver::wire::read(octets), Inbound::Query(_)), "only one is strict");
    let general = respond(view, octets, Transport::Udp, seed);
    let mut out = [0; 1232];
    match Seat::new(std::sync::Arc::clone(view)).quick(&plain, seed, &mut out) {
        Quick::Reply { length, code, .. } => {
            let quick = &out[..length];
            prop_assert_eq!(general, Step::Reply(quick.to_vec()));
            let read = hickory_proto::op::Message::from_vec(quick).unwrap();
            prop_assert_eq!(u16::from(read.metadata.response_code), code.0);
            prop_assert!(read.metadata.authoritative && !read.metadata.truncation);
        }
        // Not ours: it goes upstream, or nobody may be asked.
        Quick::Foreign => match general {
            Step::Ask(_, whom) => prop_assert_eq!(whom, Whom::Upstream),
            Step::Reply(reply) => prop_assert_eq!(reply[2] & 4, 0, "we own it after all"),
            Step::Silence => prop_assert!(false, "a plain question met with silence"),
        },
        Quick::General => {}
    }
    Ok(())
}

/// What the fast path makes of a question to the counter application's `web.1`.
fn quick(gossip: bool, name: &str, kind: Kind) -> Quick {
    let text = std::fs::read_to_string("../fixtures/world/counter.toml").unwrap();
    let mut draft = registry::source::world::parse(&text, "counter.toml").unwrap();
    let names = if gossip { Completeness::Gossip } else { Completeness::Complete };
    draft.networks.iter_mut().for_each(|it| it.names = names);
    let (plan, _) = compile(&Snapshot::build(draft, 1), &VipTable::new(), &config());
    let view = plan.views.values().find(|it| it.name == "web.1").unwrap();
    let query = Query { id: 9, ..Query::plain(Name::from_text(name).unwrap(), kind) };
    let octets = octets_of(&query, 0x0100);
    let seat = Seat::new(std::sync::Arc::clone(view));
    seat.quick(&Plain::read(&octets).unwrap(), 1, &mut [0; 1232])
}

#[test]
fn plain_questions_for_known_names_take_the_fast_path() {
    for (name, kind) in [
        ("web", Kind::A),
        ("APP", Kind::A),
        ("tasks.app", Kind::AAAA),
        ("app.frontend", Kind::TXT),
        ("nobody", Kind::A),
    ] {
        assert!(matches!(quick(false, name, kind), Quick::Reply { .. }), "{name}");
    }
    assert_eq!(quick(false, "example.com", Kind::A), Quick::Foreign);
    assert_eq!(quick(false, "frontend", Kind::A), Quick::General);
}

#[test]
fn what_servers_outside_said_is_not_told_of_names_that_the_engine_may_know() {
    assert_eq!(quick(false, "app.3", Kind::A), Quick::Foreign);
    for name in ["app.3", "tasks.cache", "cache", "cache.frontend"] {
        assert_eq!(quick(true, name, Kind::A), Quick::General, "{name}");
    }
    assert_eq!(quick(true, "example.com", Kind::A), Quick::Foreign);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_fast_path_answers_as_the_general_one_does(
        draft in draft(),
        vips in vips(),
        queries in vec((query(), any::<u16>()), 1..20),
        broken in vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
        seed: u64,
    ) {
        let (plan, _) = compile(&Snapshot::build(draft, 1), &vips, &config());
        for (query, flags) in &queries {
            let mut octets = octets_of(query, *flags & 0x07ff); // a query of opcode 0
            for (place, octet) in &broken {
                let place = place.index(octets.len());
                octets[place] = *octet;
            }
            for view in plan.views.values() {
                check_paths(view, &octets, seed)?;
            }
        }
        // And every name that there is, alone and on its network.
        let Some((query, flags)) = queries.first() else { return Ok(()) };
        for (view, zone) in plan.views.values().flat_map(|view| view.zones.iter().map(move |it| (view, it))) {
            let names = zone.names.keys().flat_map(|it| [it.clone(), format!("{it}.{}", zone.name)]);
            for name in names.filter_map(|it| Name::from_text(&it).ok()) {
                for kind in [Kind::A, Kind::AAAA, query.kind] {
                    let query = Query { name: name.clone(), kind, class: Class::IN, ..query.clone() };
                    check_paths(view, &octets_of(&query, *flags & 0x07ff), seed)?;
                }
            }
        }
    }

    #[test]
    fn any_world_compiles_to_a_sound_plan_whatever_its_order(draft in draft(), vips in vips(), turn in 0..7_usize) {
        let snapshot = Snapshot::build(draft.clone(), 1);
        let (plan, notes) = compile(&snapshot, &vips, &config());
        prop_assert_eq!(flaws(&snapshot, &vips, &plan), Vec::<String>::new());
        let mut turned = draft;
        let Draft { networks, services, tasks, sandboxes, .. } = &mut turned;
        let turn_networks = turn.min(networks.len());
        networks.rotate_left(turn_networks);
        services.reverse();
        let turn_tasks = turn.min(tasks.len());
        tasks.rotate_left(turn_tasks);
        sandboxes.reverse();
        prop_assert_eq!(compile(&Snapshot::build(turned, 1), &vips, &config()), (plan.clone(), notes));
        prop_assert_eq!(plan.clone().sharing_with(&plan), plan);
    }

    #[test]
    fn any_query_is_answered_from_the_asker_s_networks_only(draft in draft(), query in query(), seed: u64) {
        let (plan, _) = compile(&Snapshot::build(draft, 1), &VipTable::new(), &config());
        drop(answer_host(&plan.host, &query, seed));
        for view in plan.views.values() {
            let Verdict::Answer(answer) = answer(view, &query, seed) else { continue };
            for record in &answer.records {
                match record {
                    Record::Address(it) => {
                        prop_assert!(visible(view).contains(it), "{it} for {:?}", query.name);
                        prop_assert_eq!(it.is_ipv4(), query.kind == Kind::A);
                    }
                    Record::Pointer(_) => prop_assert_eq!(query.kind, Kind::PTR),
                    Record::Service { .. } => prop_assert_eq!(query.kind, Kind::SRV),
                    Record::Minimal => prop_assert_eq!(query.kind, Kind::ANY),
                }
            }
        }
    }

    #[test]
    fn any_octets_get_silence_or_a_reply_of_bounded_length(
        draft in draft(),
        octets in vec(any::<u8>(), 0..120),
        header in proptest::option::of(any::<[bool; 2]>()),
        seed: u64,
    ) {
        let mut octets = octets;
        if let Some([edns, second]) = header && octets.len() > 12 {
            // Nearly a query, so that more than the header is read.
            octets[2] = 1;
            octets[4..12].copy_from_slice(&[0, 1 + u8::from(second), 0, 0, 0, 0, 0, u8::from(edns)]);
        }
        let (plan, _) = compile(&Snapshot::build(draft, 1), &VipTable::new(), &config());
        for view in plan.views.values() {
            for transport in [Transport::Udp, Transport::Tcp] {
                let Step::Reply(reply) = respond(view, &octets, transport, seed) else { continue };
                prop_assert_eq!(&reply[..2], &octets[..2]);
                prop_assert!(reply[2] & 0x80 != 0);
                match resolver::wire::read(&octets) {
                    Inbound::Silence => panic!("a reply to what is to be met with silence"),
                    Inbound::Refused(..) => prop_assert!(reply.len() <= octets.len()),
                    Inbound::Query(query) => {
                        let size = query.edns.map_or(512, |it| it.size.clamp(512, 1232));
                        prop_assert!(transport == Transport::Tcp || reply.len() <= size.into());
                    }
                }
            }
        }
    }
}

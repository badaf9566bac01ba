//! What needs no world file: the order of answers, classes, the reach of one seed.

use std::collections::BTreeMap;

use super::*;
use crate::wire::Class;

fn five() -> Entry {
    let addresses = (1..=5).map(|it| IpAddr::from([10, 0, 0, it])).collect();
    Entry { addresses, ttl: 5 }
}

#[test]
fn every_address_comes_first_as_often_as_any_other_and_none_comes_twice() {
    let mut first: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for seed in 0..10_000 {
        let records = addresses(&five(), Kind::A, seed).records;
        let mut all: Vec<_> = records
            .iter()
            .map(|it| {
                let Record::Address(address) = it else { panic!("{it:?}") };
                *address
            })
            .collect();
        *first.entry(all[0]).or_default() += 1;
        all.sort_unstable();
        assert_eq!(all, five().addresses);
    }
    for (address, count) in first {
        assert!((1800..=2200).contains(&count), "{address} came first {count} times of 10,000");
    }
}

#[test]
fn other_classes_are_refused_whatever_the_name() {
    let view = View {
        sandbox: "s".into(),
        name: "s".to_owned(),
        netns: "/run/netns/s".into(),
        cookie: None,
        zones: Vec::new(),
        subnets: Vec::new(),
        links: BTreeMap::new(),
        hosts: BTreeMap::new(),
        outside: Outside::NoServers,
        suffixes: Arc::default(),
        forward_single_label: false,
        ttl: 5,
    };
    for class in [Class::CH, Class(4), Class(254), Class(255), Class(4321)] {
        let query =
            Query { class, ..Query::plain(Name::from_text("version.bind").unwrap(), Kind::TXT) };
        let refused = Verdict::Refuse(Rcode::REFUSED, Reason::Plain);
        assert_eq!(answer(&view, &query, 0), refused);
        assert_eq!(answer_host(&crate::plan::HostView::default(), &query, 0), refused);
    }
}

#[test]
fn the_ways_to_read_a_dotted_name_come_in_the_engine_s_order() {
    let ways: Vec<_> = candidates("a.b.c").collect();
    assert_eq!(ways, [("a.b.c", None), ("a.b", Some("c")), ("a", Some("b.c"))]);
    assert_eq!(candidates("").count(), 0);
}

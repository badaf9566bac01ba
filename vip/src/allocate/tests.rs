//! The allocator's laws, on any sequence of claims, and the cases that people ask about.

use std::net::IpAddr;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;

fn holder(id: &str, name: &str) -> Holder {
    Holder { id: id.to_owned(), name: name.to_owned() }
}

/// `claims(&[("blue", &["web", "db"])])`: ids are names.
fn claims(networks: &[(&str, &[&str])]) -> Claims {
    let services = |names: &[&str]| names.iter().map(|it| holder(it, it)).collect();
    networks.iter().map(|(name, names)| (holder(name, name), services(names))).collect()
}

fn ground(pool: &str) -> Ground {
    let (subnets, routed, taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    Ground { pool: pool.parse().unwrap(), subnets, routed, taken }
}

fn print(leases: &Leases) -> Vec<String> {
    leases.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn each_network_gets_a_block_and_each_service_an_address_of_it() {
    let claims = claims(&[("blue", &["db", "web"]), ("green", &["web"])]);
    let got = allocate(&Leases::default(), &claims, &ground("240.240.0.0/16"), 0);
    assert_eq!(
        print(&got.leases),
        ["240.240.0.1 db on blue", "240.240.0.2 web on blue", "240.240.1.1 web on green"]
    );
}

#[test]
fn a_released_address_rests_ten_minutes_before_another_service_gets_it() {
    let ground = ground("240.240.0.0/16");
    let one = allocate(&Leases::default(), &claims(&[("blue", &["a"])]), &ground, 0);
    let two = allocate(&one.leases, &claims(&[("blue", &["b"])]), &ground, MINUTE);
    assert_eq!(print(&two.leases), ["240.240.0.1 a on blue, resting", "240.240.0.2 b on blue"]);
    let three = claims(&[("blue", &["b", "c"])]);
    let early = allocate(&two.leases, &three, &ground, 11 * MINUTE - 1);
    assert_eq!(early.leases.to_string().lines().nth(2), Some("240.240.0.3 c on blue"));
    let late = allocate(&two.leases, &three, &ground, 11 * MINUTE);
    assert_eq!(print(&late.leases), ["240.240.0.1 c on blue", "240.240.0.2 b on blue"]);
}

#[test]
fn a_network_that_wants_no_address_inherits_no_block() {
    let ground = ground("240.240.0.0/16");
    let named = |id, services: &[Holder]| {
        [(holder(id, "blue"), services.iter().cloned().collect())].into_iter().collect::<Claims>()
    };
    let web = [holder("web", "web")];
    let both: Claims = named("old", &web).into_iter().chain(named("other", &web)).collect();
    let one = allocate(&Leases::default(), &both, &ground, 0);
    let two = allocate(&one.leases, &named("other", &web), &ground, 0);
    // What `old` had has rested; what `other` had begins to.
    let three = allocate(&two.leases, &named("old", &[]), &ground, QUARANTINE_MS);
    let four = allocate(&three.leases, &named("old", &[]), &ground, QUARANTINE_MS);
    assert_eq!(four.leases, three.leases);
}

#[test]
fn a_service_that_comes_back_within_its_rest_has_its_old_address() {
    let ground = ground("240.240.0.0/16");
    let one = allocate(&Leases::default(), &claims(&[("blue", &["a", "b"])]), &ground, 0);
    let gone = allocate(&one.leases, &claims(&[("blue", &["b"])]), &ground, MINUTE);
    let back = allocate(&gone.leases, &claims(&[("blue", &["a", "b"])]), &ground, 5 * MINUTE);
    assert_eq!(back.leases, one.leases);
}

#[test]
fn a_stack_deployed_anew_with_other_ids_keeps_its_addresses() {
    let ground = ground("240.240.0.0/16");
    let old: Claims =
        [(holder("n1", "blue"), [holder("s1", "web"), holder("s2", "db")].into())].into();
    let new: Claims =
        [(holder("n2", "blue"), [holder("s3", "db"), holder("s4", "web")].into())].into();
    let one = allocate(&Leases::default(), &old, &ground, 0);
    let two = allocate(&one.leases, &new, &ground, MINUTE);
    assert_eq!(two.leases.to_string(), one.leases.to_string());
    assert_eq!(two.leases.in_use().get(&("n2", "s4")), one.leases.in_use().get(&("n1", "s1")));
}

#[test]
fn services_of_one_name_keep_apart_when_one_of_them_leaves() {
    let ground = ground("240.240.0.0/16");
    let both: Claims =
        [(holder("n", "blue"), [holder("s1", "web"), holder("s2", "web")].into())].into();
    let second: Claims = [(holder("n", "blue"), [holder("s2", "web")].into())].into();
    let one = allocate(&Leases::default(), &both, &ground, 0);
    let two = allocate(&one.leases, &second, &ground, MINUTE);
    let key = ("n", "s2");
    assert_eq!(two.leases.in_use().get(&key), one.leases.in_use().get(&key));
    let three = allocate(&two.leases, &second, &ground, 12 * MINUTE);
    assert_eq!(print(&three.leases), ["240.240.0.2 web on blue"], "the first one's has rested");
}

#[test]
fn a_network_grows_by_further_blocks_and_the_pool_ends() {
    // 16 blocks of 14 addresses.
    let names: Vec<String> = (0..230).map(|it| format!("s{it:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let got = allocate(&Leases::default(), &claims(&[("blue", &names)]), &ground("10.9.0.0/24"), 0);
    assert_eq!(got.leases.blocks.len(), 16);
    assert_eq!(got.leases.in_use().len(), 224);
    let unserved: Vec<_> = got.unserved.iter().map(|(_, it)| it.name.as_str()).collect();
    assert_eq!(unserved, ["s224", "s225", "s226", "s227", "s228", "s229"]);
}

#[test]
fn an_address_moves_when_a_network_is_made_around_it() {
    let mut ground = ground("240.240.0.0/16");
    let want = claims(&[("blue", &["web"])]);
    let one = allocate(&Leases::default(), &want, &ground, 0);
    ground.subnets.insert("240.240.0.0/20".parse().unwrap());
    let two = allocate(&one.leases, &want, &ground, MINUTE);
    assert_eq!(print(&two.leases), ["240.240.16.1 web on blue"]);
    let moved = (IpAddr::from([240, 240, 0, 1]), holder("web", "web"), holder("blue", "blue"));
    assert_eq!(two.moved, [moved]);
}

#[test]
fn no_address_moves_for_a_route_and_none_is_given_where_it_leads() {
    let mut ground = ground("240.240.0.0/16");
    let one = allocate(&Leases::default(), &claims(&[("blue", &["web"])]), &ground, 0);
    ground.routed.insert("240.240.0.0/20".parse().unwrap());
    let two = claims(&[("blue", &["web"]), ("green", &["web"])]);
    let two = allocate(&one.leases, &two, &ground, MINUTE);
    assert_eq!(print(&two.leases), ["240.240.0.1 web on blue", "240.240.16.1 web on green"]);
    assert_eq!(two.moved, []);
}

#[test]
fn a_clock_that_was_set_back_does_not_make_an_address_rest_for_years() {
    let ground = ground("240.240.0.0/16");
    let late = 1_000_000 * MINUTE;
    let one = allocate(&Leases::default(), &claims(&[("blue", &["a"])]), &ground, late);
    let none = claims(&[]);
    let two = allocate(&one.leases, &none, &ground, late);
    let back = allocate(&two.leases, &none, &ground, 0);
    assert_eq!(back.leases.blocks.len(), 1);
    assert_eq!(allocate(&back.leases, &none, &ground, 10 * MINUTE).leases, Leases::default());
}

fn any_claims() -> impl Strategy<Value = Claims> {
    // Few names for many ids, so that names clash.
    let service = (0..12_u8).prop_map(|it| holder(&format!("s{it}"), &format!("n{}", it % 5)));
    let network = (0..5_u8).prop_map(|it| holder(&format!("w{it}"), &format!("m{}", it % 3)));
    btree_map(network, btree_set(service, 0..12), 0..5)
}

fn any_ground() -> impl Strategy<Value = Ground> {
    let pool = "10.9.0.0/25".parse().unwrap();
    let address = any::<u8>().prop_map(|it| IpAddr::from([10, 9, 0, it]));
    let subnet = (address.clone(), 26..=32_u8)
        .prop_map(|(it, prefix)| IpNet::new(it, prefix).unwrap().trunc());
    let ranges = || btree_set(subnet.clone(), 0..3);
    (ranges(), ranges(), btree_set(address, 0..8))
        .prop_map(move |(subnets, routed, taken)| Ground { pool, subnets, routed, taken })
}

proptest! {
    #[test]
    fn any_history_gives_sound_leases(
        steps in vec((any_claims(), any_ground(), 0..20 * MINUTE), 1..6),
    ) {
        let mut leases = Leases::default();
        for (claims, ground, now) in steps {
            let got = allocate(&leases, &claims, &ground, now);
            let claimed: usize = claims.values().map(BTreeSet::len).sum();
            prop_assert_eq!(got.leases.in_use().len() + got.unserved.len(), claimed);
            let ranges: Vec<_> = got.leases.blocks.keys().collect();
            for (range, block) in &got.leases.blocks {
                let is_new = !leases.blocks.contains_key(range);
                prop_assert!(!is_new || !ground.routed.iter().any(|it| overlap(*it, *range)));
                prop_assert!(ground.pool.contains(range));
                prop_assert!(!ground.subnets.iter().any(|it| overlap(*it, *range)));
                prop_assert_eq!(ranges.iter().filter(|it| overlap(***it, *range)).count(), 1);
                for address in block.leases.keys() {
                    prop_assert!(range.contains(address) && !ground.taken.contains(address));
                }
            }
            // Sticky: who had an address that is still usable has it still.
            let in_use = got.leases.in_use();
            // Nobody shares an address, and nobody has two.
            let given: BTreeSet<_> = in_use.values().flatten().collect();
            prop_assert_eq!(given.len(), in_use.len());
            prop_assert_eq!(in_use.values().flatten().count(), in_use.len());
            for (key, address) in leases.in_use() {
                let asked = claims.iter().any(|(network, services)| {
                    network.id == key.0 && services.iter().any(|it| it.id == key.1)
                });
                let gave_up = got.moved.iter().any(|(it, ..)| address.contains(it));
                if asked && !gave_up {
                    prop_assert_eq!(in_use.get(&key), Some(&address), "{:?} had it", key);
                }
            }
            // Settled: asked again at once, nothing moves.
            let again = allocate(&got.leases, &claims, &ground, now);
            prop_assert_eq!(&again.leases, &got.leases);
            leases = got.leases;
        }
    }
}

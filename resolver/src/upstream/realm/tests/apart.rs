//! Law: what one sandbox learnt is told to no other, but for those who ask the same servers from the
//! same place and, where answers are filtered, on the same subnets.

use proptest::prelude::*;

use super::*;

/// How a sandbox asks: the last octets of its servers, and whether each is dialled from inside.
type List = Vec<(u8, bool)>;

#[derive(Clone, Debug)]
enum Step {
    /// A sandbox learns an address, which tells who learnt it, by which list.
    Learns(usize, usize),
    /// A sandbox looks the name up, having such a list.
    Looks(usize, usize),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..4, 0_usize..6).prop_map(|(who, by)| Step::Learns(who, by)),
        6 => (0_usize..4, 0_usize..6).prop_map(|(who, by)| Step::Looks(who, by)),
        1 => Just(Step::Flush),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn nobody_is_told_what_another_learnt_who_asks_others_or_from_elsewhere(
        filtered in any::<bool>(),
        subnets in proptest::collection::vec(0_u8..2, 4),
        lists in proptest::collection::vec(
            proptest::collection::vec((0_u8..3, proptest::bool::weighted(0.3)), 1..3), 6),
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _in = runtime.enter();
        let config = UpstreamConfig { rebinding_filter: filtered, ..UpstreamConfig::default() };
        let policy = policy(&config);
        let realms: Vec<_> = (0..4).map(|_| realm(&policy)).collect();
        let nets: Vec<_> = subnets.iter().map(|it| [net(*it)]).collect();
        let servers: Vec<Vec<_>> = lists.iter().map(list).collect();
        let asked = query("a.example", Kind::A);
        for step in steps {
            match step {
                Step::Flush => { policy.register.flush(); }
                Step::Learns(who, by) => {
                    let told = [198, 18, u8::try_from(who).unwrap(), u8::try_from(by).unwrap()];
                    let said = reply(&asked, 0, [1, 0, 0], &records(&[("", 1, 60, &told)]));
                    let circle = realms[who].enter(asker(&servers[by], &nets[who]));
                    circle.cache().insert(&asked, &said, Instant::now().into_std());
                    prop_assert_eq!(looked_up(&realms[who], &servers[by], &nets[who]), Some(told));
                }
                Step::Looks(who, by) => {
                    let Some([_, _, other, list]) = looked_up(&realms[who], &servers[by], &nets[who])
                    else { continue };
                    let (other, list) = (usize::from(other), usize::from(list));
                    prop_assert_eq!(&lists[list], &lists[by], "by another list");
                    let inside = lists[by].iter().any(|it| it.1);
                    prop_assert!(who == other || !inside, "from inside another");
                    prop_assert!(!filtered || subnets[who] == subnets[other], "filtered for another");
                }
            }
        }
    }
}

fn net(at: u8) -> IpNet {
    format!("10.{at}.0.0/16").parse().unwrap()
}

fn list(of: &List) -> Vec<Server> {
    let server = |(last, inside): &(u8, bool)| Server {
        address: SocketAddr::from(([192, 0, 2, *last], 53)),
        dial: if *inside { Dial::Sandbox } else { Dial::Host },
        protocol: Protocol::Plain,
        trusts_ad: false,
    };
    of.iter().map(server).collect()
}

/// The address that is told by either way.
fn looked_up(realm: &Realm, servers: &[Server], subnets: &[IpNet]) -> Option<[u8; 4]> {
    let query = query("a.example", Kind::A);
    let mut out = [0; 1232];
    let asked = Asked::of(&query, Transport::Udp);
    let recalled = realm.recall(asker(servers, subnets), &asked, &mut out);
    let recalled = recalled.map(|it| out[..it.length].to_vec());
    match realm.enter(asker(servers, subnets)).kept(&query, Transport::Udp) {
        Kept::Settled((octets, _)) | Kept::Renewed((octets, _)) => {
            assert!(recalled.is_none_or(|it| it == octets));
            octets.last_chunk().copied()
        }
        Kept::Nothing | Kept::Expired => {
            assert_eq!(recalled, None);
            None
        }
    }
}

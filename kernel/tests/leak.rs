//! Nothing of a namespace is kept once everything made in it was dropped. One test alone in its
//! process, because it counts the process's descriptors and threads.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use kernel::neighbour::NeighbourWatch;
use kernel::netns::Netns;
use kernel::{conntrack, door, link, nft, route, socket};
use support::run;

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test(flavor = "current_thread")]
async fn a_namespace_is_freed_when_everything_made_in_it_was_dropped() {
    let host = Netns::fresh().expect("root, or a user namespace");
    let path = std::env::temp_dir().join(format!("portolan-kernel-leak-{}", std::process::id()));
    let counts = || (count("/proc/self/fd"), count("/proc/self/task"));
    let door = door::Door::open().unwrap();
    // The runtime makes its own descriptors at their first use.
    drop(NeighbourWatch::open(std::path::Path::new("/proc/self/ns/net")).unwrap());
    let before = counts();
    let netns = link::name_netns(&path).unwrap();
    link::add_veth(&host, "ve0", "eth0", &netns).unwrap();
    link::set_up(&netns, "eth0").unwrap();

    let address = "127.0.0.1:0".parse().unwrap();
    let udp = socket::udp_bound(&netns, address).unwrap();
    let tcp = socket::tcp_listener(&netns, address).unwrap();
    let peer = tcp.local_addr().unwrap();
    let stream = door.tcp_socket(Some(path.clone()), None, peer).await.unwrap();
    door.udp_connected(Some(path.clone()), Some(1), peer).await.unwrap_err();
    let table = nft::Table { family: nft::Family::Inet, name: "leak" };
    let mut batch = nft::Batch::new();
    batch.add_table(table, true);
    let mut nft = nft::Socket::open(&netns).unwrap();
    nft.commit(&batch).unwrap();
    let watch = NeighbourWatch::open(&path).unwrap();
    conntrack::delete_matching(&netns, |_| true).unwrap();
    route::routes(&netns).unwrap();
    netns.cookie().unwrap();
    drop((netns, udp, tcp, stream, watch));
    link::unname_netns(&path).unwrap();

    // The nft socket alone still keeps it, and with it the other end of the cable.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(run(&host, "ip -o link").contains("ve0"));
    assert_eq!(nft.tables().unwrap().len(), 1);
    drop(nft);
    for _ in 0..100 {
        if !run(&host, "ip -o link").contains("ve0") {
            assert_eq!(counts(), before, "descriptors and threads");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the namespace is still there after five seconds");
}

//! Namespaces, sockets, links, routes, conntrack and neighbours of the real kernel, in namespaces
//! of the tests' own: run them as root, or as anybody inside `unshare -Urnm`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use kernel::conntrack::{FlowFilter, delete_flows, delete_matching, flows, take_matching};
use kernel::door::Door;
use kernel::link;
use kernel::neighbour::NeighbourWatch;
use kernel::netns::{Netns, NetnsError, cookie_of, still_there};
use kernel::nft;
use kernel::route::{self, Route, addresses, routes};
use kernel::sock_diag::destroy_tcp;
use kernel::socket;
use support::run;

/// A named namespace that loses its name with the test.
struct Named {
    path: PathBuf,
    netns: Netns,
}

impl Named {
    fn new(name: &str) -> Self {
        let folder = format!("portolan-kernel-{}", std::process::id());
        let path = std::env::temp_dir().join(folder).join(name);
        let netns = link::name_netns(&path).expect("root, or a user namespace");
        Self { path, netns }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        link::unname_netns(&self.path).unwrap();
        // The last one removes the folder.
        if let Some(folder) = self.path.parent() {
            std::fs::remove_dir(folder).ok();
        }
    }
}

/// `a` at 10.1.0.1 and `b` at 10.1.0.2, with a bridge between them in `a`.
fn pair(name: &str) -> (Named, Named) {
    let a = Named::new(&format!("{name}-a"));
    let b = Named::new(&format!("{name}-b"));
    link::add_bridge(&a.netns, "br0").unwrap();
    link::set_up(&a.netns, "br0").unwrap();
    link::add_address(&a.netns, "br0", "10.1.0.1/24".parse().unwrap()).unwrap();
    link::add_veth(&a.netns, "ve0", "eth0", &b.netns).unwrap();
    link::set_master(&a.netns, "ve0", "br0").unwrap();
    link::set_up(&a.netns, "ve0").unwrap();
    link::set_up(&b.netns, "eth0").unwrap();
    link::add_address(&b.netns, "eth0", "10.1.0.2/24".parse().unwrap()).unwrap();
    link::add_address(&b.netns, "eth0", "fd00:1::2/64".parse().unwrap()).unwrap();
    (a, b)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_namespace_replaced_under_its_name_is_found_out() {
    let first = Named::new("replaced");
    let (cookie, inode) = (first.netns.cookie().unwrap(), first.netns.inode());
    assert_eq!(cookie_of(&first.path).unwrap(), cookie);
    assert_ne!(Netns::this().unwrap().cookie().unwrap(), cookie);
    assert!(still_there(&first.path, inode));
    Netns::open_checked(&first.path, Some(cookie)).unwrap();
    drop(first);
    let second = Named::new("replaced");
    let refused = Netns::open_checked(&second.path, Some(cookie)).unwrap_err();
    let NetnsError::Replaced { expected, found, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((expected, found), (cookie, second.netns.cookie().unwrap()));
    let gone = second.path.with_extension("gone");
    assert!(matches!(Netns::open(&gone).unwrap_err(), NetnsError::Open { .. }));
    assert!(!still_there(&gone, inode));
    // Something that is no namespace opens, but cannot be entered.
    let file = Netns::open(std::path::Path::new("/proc/version")).unwrap();
    assert!(matches!(file.run(|| ()).unwrap_err(), NetnsError::Enter { .. }));
}

#[test]
fn running_inside_leaves_the_caller_where_it_was() {
    let here = Netns::this().unwrap().inode();
    let there = Named::new("run");
    let inside = there.netns.run(|| Netns::this().unwrap().inode()).unwrap();
    assert_eq!(inside, there.netns.inode());
    assert_eq!(Netns::this().unwrap().inode(), here);
}

#[test]
fn sockets_of_a_namespace_work_from_outside() {
    let (a, b) = pair("sockets");
    let udp = socket::udp_bound(&b.netns, address("10.1.0.2:53")).unwrap();
    let taken = socket::udp_bound(&b.netns, address("10.1.0.2:53")).unwrap_err();
    assert!(taken.remedy().unwrap().contains("another program has this port"), "{taken:?}");
    let dns = udp.local_addr().unwrap();
    let client = socket::udp_connected(&a.netns, dns).unwrap();
    client.set_nonblocking(false).unwrap();
    udp.set_nonblocking(false).unwrap();
    client.send(b"hello").unwrap();
    let mut buffer = [0; 8];
    let (length, peer) = udp.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], peer.ip()), (&b"hello"[..], address("10.1.0.1:0").ip()));

    let any = socket::udp_bound(&b.netns, address("127.0.0.11:0")).unwrap();
    let port = any.local_addr().unwrap().port();
    let engine = Ipv4Addr::new(127, 0, 0, 11);
    assert_eq!(socket::udp_ports_bound_to(&b.netns, engine).unwrap(), [port]);
    assert_eq!(socket::udp_ports_bound_to(&a.netns, engine).unwrap(), []);

    let listener = socket::tcp_listener(&b.netns, address("10.1.0.2:80")).unwrap();
    assert!(listener.accept().unwrap_err().kind() == std::io::ErrorKind::WouldBlock);
    let one = socket::tcp_listener_reuseport(address("127.0.0.1:0"), 16).unwrap();
    let two = socket::tcp_listener_reuseport(one.local_addr().unwrap(), 16).unwrap();
    assert_eq!(one.local_addr().unwrap(), two.local_addr().unwrap());
}

#[tokio::test]
async fn the_door_makes_sockets_where_it_is_asked_to() {
    let (a, b) = pair("door");
    let listener = socket::tcp_listener(&b.netns, address("10.1.0.2:80")).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let door = Door::open().unwrap();
    let web = listener.local_addr().unwrap();
    let stream = door.tcp_socket(Some(a.path.clone()), None, web).await.unwrap();
    let stream = tokio::net::TcpSocket::from_std_stream(stream);
    let (client, server) = tokio::join!(stream.connect(web), listener.accept());
    let mut client = client.unwrap().into_std().unwrap();
    client.set_nonblocking(false).unwrap();
    let mut server = server.unwrap().0.into_std().unwrap();
    server.set_nonblocking(false).unwrap();
    server.write_all(b"counter").unwrap();
    drop(server);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "counter");

    let cookie = a.netns.cookie().unwrap();
    let peer = address("10.1.0.2:53");
    let path = || Some(a.path.clone());
    let udp = door.udp_connected(path(), Some(cookie), peer).await.unwrap();
    assert_eq!(udp.local_addr().unwrap().ip(), address("10.1.0.1:0").ip());
    let refused = door.udp_connected(path(), Some(cookie + 1), peer).await.unwrap_err();
    let socket::SocketError::Namespace { source, .. } = refused else { panic!("{refused:?}") };
    assert!(matches!(source, NetnsError::Replaced { .. }), "{source:?}");
    // After a refusal it is at home again. (In a new user namespace home's loopback is down.)
    link::set_up(&Netns::this().unwrap(), "lo").unwrap();
    let here = socket::tcp_listener_reuseport(address("127.0.0.1:0"), 1).unwrap();
    let home = here.local_addr().unwrap();
    let stream = door.clone().tcp_socket(None, None, home).await.unwrap();
    tokio::net::TcpSocket::from_std_stream(stream).connect(home).await.unwrap();
}

#[test]
fn addresses_are_made_local_and_only_ours_are_taken_back() {
    let (_a, b) = pair("local");
    link::set_up(&b.netns, "lo").unwrap();
    run(&b.netns, "ip route add local 10.1.0.99 dev lo");
    let ips = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect();
    let settle = |all| route::settle_local_addresses(&b.netns, &ips(all)).unwrap();
    assert_eq!(settle(&["10.1.0.7", "fd00:1::7"]), 2);
    let vip = address("10.1.0.7:0");
    let listener = socket::tcp_listener(&b.netns, vip).unwrap();
    let there = listener.local_addr().unwrap();
    let connected = b.netns.run(|| std::net::TcpStream::connect(there)).unwrap();
    assert!(connected.is_ok(), "no interface has it, and yet it is here");
    assert_eq!(settle(&["fd00:1::7", "10.1.0.7"]), 0);
    assert_eq!(settle(&["10.1.0.8"]), 3);
    assert_eq!(route::local_addresses(&b.netns).unwrap(), ips(&["10.1.0.8"]));
    assert_eq!(settle(&[]), 1);
    let left = run(&b.netns, "ip route show table local");
    assert!(left.contains("10.1.0.99") && !left.contains("10.1.0.8"), "{left}");
}

#[test]
fn routes_are_made_replaced_seen_and_deleted() {
    let (_a, b) = pair("routes");
    let have = addresses(&b.netns).unwrap();
    assert!(have.contains(&("eth0".to_owned(), "10.1.0.2/24".parse().unwrap())), "{have:?}");
    assert!(have.contains(&("eth0".to_owned(), "fd00:1::2/64".parse().unwrap())), "{have:?}");
    assert!(have.contains(&("lo".to_owned(), "127.0.0.1/8".parse().unwrap())), "{have:?}");

    let vips = Route {
        destination: "240.240.0.0/24".parse().unwrap(),
        device: "eth0".to_owned(),
        source: Some(address("10.1.0.2:0").ip()),
        gateway: None,
        protocol: route::PROTOCOL,
    };
    let default = Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        source: None,
        gateway: Some(address("10.1.0.1:0").ip()),
        ..vips.clone()
    };
    let sixth = Route {
        destination: "fd00:2::/64".parse().unwrap(),
        source: None,
        gateway: Some("fd00:1::1".parse().unwrap()),
        ..vips.clone()
    };
    for route in [&vips, &default, &sixth, &vips] {
        route::add_route(&b.netns, route).unwrap();
    }
    let mut ours = routes(&b.netns).unwrap();
    ours.retain(|it| it.protocol == route::PROTOCOL);
    ours.sort();
    let mut want = vec![vips.clone(), default.clone(), sixth.clone()];
    want.sort();
    assert_eq!(ours, want);
    let listed = run(&b.netns, "ip route show");
    assert!(
        listed.contains("240.240.0.0/24 dev eth0 proto 203 scope link src 10.1.0.2"),
        "{listed}"
    );
    assert!(listed.contains("default via 10.1.0.1 dev eth0 proto 203"), "{listed}");

    let moved = Route { source: None, ..vips.clone() };
    route::add_route(&b.netns, &moved).unwrap();
    assert!(routes(&b.netns).unwrap().contains(&moved));
    assert!(!routes(&b.netns).unwrap().contains(&vips));
    for route in [&moved, &default, &sixth, &moved] {
        route::delete_route(&b.netns, route).unwrap();
    }
    assert!(routes(&b.netns).unwrap().iter().all(|it| it.protocol != route::PROTOCOL));
    let nowhere = Route { device: "eth9".to_owned(), ..vips };
    route::delete_route(&b.netns, &nowhere).unwrap();
    let refused = route::add_route(&b.netns, &nowhere).unwrap_err();
    assert_eq!(refused.to_string(), "cannot add route 240.240.0.0/24 over eth9");
}

#[test]
fn our_routes_are_found_in_a_table_with_the_whole_internet() {
    let fresh = Netns::fresh().unwrap();
    assert_eq!(route::our_routes(&fresh).unwrap(), []);
    let named = Named::new("internet");
    link::add_bridge(&named.netns, "br0").unwrap();
    link::set_up(&named.netns, "br0").unwrap();
    let theirs = |it: u32| format!("route add {}/32 dev br0\n", Ipv4Addr::from(0x0a00_0000 + it));
    let path = std::env::temp_dir().join(format!("routes-{}", std::process::id()));
    std::fs::write(&path, (0..66_000).map(theirs).collect::<String>()).unwrap();
    run(&named.netns, &format!("ip -batch {}", path.display()));
    std::fs::remove_file(&path).unwrap();
    let ours = Route {
        destination: "240.240.0.0/24".parse().unwrap(),
        device: "br0".to_owned(),
        source: None,
        gateway: None,
        protocol: route::PROTOCOL,
    };
    route::add_route(&named.netns, &ours).unwrap();
    assert_eq!(route::our_routes(&named.netns).unwrap(), std::slice::from_ref(&ours));
    let wanted = |it: &Route| it.destination == ours.destination;
    assert_eq!(route::routes_where(&named.netns, wanted).unwrap(), std::slice::from_ref(&ours));
    routes(&named.netns).unwrap_err();
}

#[test]
fn links_are_made_once_and_deleted_at_ease() {
    let a = Named::new("links");
    link::add_bridge(&a.netns, "br0").unwrap();
    let refused = link::add_bridge(&a.netns, "br0").unwrap_err();
    assert_eq!(refused.to_string(), "cannot add bridge interface br0");
    link::set_up(&a.netns, "br0").unwrap();
    link::set_up(&a.netns, "br0").unwrap();
    assert!(run(&a.netns, "ip link show br0").contains("UP"));
    link::delete_link(&a.netns, "br0").unwrap();
    link::delete_link(&a.netns, "br0").unwrap();
    assert!(!run(&a.netns, "ip link show").contains("br0"));
    assert!(matches!(link::name_netns(&a.path).unwrap_err(), NetnsError::Name { .. }));
    link::unname_netns(&a.path.with_extension("never")).unwrap();
}

/// A flow is tracked where something in the namespace wants to know.
fn track(netns: &Netns) -> nft::Socket {
    let t = nft::Table { family: nft::Family::Ip, name: "track" };
    let (kind, point) = (nft::ChainKind::Nat, nft::HookPoint::Output);
    let mut batch = nft::Batch::new();
    batch.add_table(t, true);
    batch.add_chain(t, "output", Some(nft::Hook { kind, point, priority: -100 }));
    let to_b = nft::Expr::Immediate { to: 0, data: vec![10, 1, 0, 2] };
    let address = nft::Expr::Payload { base: nft::PayloadBase::Network, offset: 16, len: 4, to: 1 };
    let vip = nft::Expr::Cmp { op: nft::CmpOp::Eq, from: 1, data: vec![10, 1, 0, 99] };
    let dnat = nft::Expr::Nat { kind: nft::NatKind::Dnat, address: 0, port: None };
    batch.add_rule(t, "output", &[address, vip, to_b, dnat], &[]);
    let mut socket = nft::Socket::open(netns).unwrap();
    socket.commit(&batch).unwrap();
    socket
}

#[test]
fn exactly_the_doomed_flows_are_deleted() {
    let (a, b) = pair("flows");
    let _table = track(&a.netns);
    let _keep: Vec<_> = [10, 11, 12]
        .map(|port| {
            let server = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)), port);
            let server = socket::udp_bound(&b.netns, server).unwrap();
            let vip = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 99)), port);
            let client = socket::udp_connected(&a.netns, vip).unwrap();
            client.send(b"x").unwrap();
            (server, client)
        })
        .into();
    let ours = || {
        let mut ours = flows(&a.netns).unwrap();
        ours.retain(|it| it.protocol == 17); // IPv6 speaks of itself when an interface comes up
        ours
    };
    let all = ours();
    assert_eq!(all.len(), 3, "{all:?}");
    let eleven = all.iter().find(|it| it.original_port == 11).unwrap();
    assert_eq!(eleven.original_destination, IpAddr::V4(Ipv4Addr::new(10, 1, 0, 99)));
    assert_eq!(eleven.reply_source, IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)));
    assert_eq!(eleven.original_source, IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)));
    assert_eq!((eleven.protocol, eleven.reply_source_port, eleven.nat), (17, 11, true));
    assert!(!eleven.replied);

    let nothing = FlowFilter { protocol: Some(6), ..FlowFilter::default() };
    assert_eq!(delete_flows(&a.netns, &nothing).unwrap(), 0);
    assert_eq!(delete_matching(&a.netns, |flow| flow.original_port == 11).unwrap(), 1);
    let mut left: Vec<_> = ours().iter().map(|it| it.original_port).collect();
    left.sort_unstable();
    assert_eq!(left, [10, 12]);
    let ten = FlowFilter {
        original_destination: Some(Ipv4Addr::new(10, 1, 0, 99).into()),
        original_port: Some(10),
        protocol: Some(17),
        reply_source: Some(Ipv4Addr::new(10, 1, 0, 2).into()),
    };
    assert_eq!(delete_flows(&a.netns, &ten).unwrap(), 1);
    assert!(!run(&a.netns, "conntrack -L").contains("dport=10 "));
    let rest = FlowFilter { protocol: Some(17), ..FlowFilter::default() };
    assert_eq!(delete_flows(&a.netns, &rest).unwrap(), 1);
    assert_eq!(ours(), []);
}

#[test]
fn who_listens_is_not_destroyed_for_a_connection_that_is_not_there() {
    let (a, b) = pair("listens");
    let listener = socket::tcp_listener(&a.netns, address("0.0.0.0:40000")).unwrap();
    listener.set_nonblocking(false).unwrap();
    let ends = [(address("10.1.0.1:40000"), address("10.1.0.99:80"))];
    assert_eq!(destroy_tcp(&a.netns, &ends).unwrap(), 0);
    let connect = || std::net::TcpStream::connect("10.1.0.1:40000").unwrap();
    let _connected = b.netns.run(connect).unwrap();
    listener.accept().unwrap();
}

#[test]
fn a_client_of_a_task_that_is_gone_is_told_at_once() {
    let (a, b) = pair("destroy");
    let _table = track(&a.netns);
    let server = socket::tcp_listener(&b.netns, address("10.1.0.2:80")).unwrap();
    server.set_nonblocking(false).unwrap();
    let connect = || std::net::TcpStream::connect("10.1.0.99:80").unwrap();
    let [mut doomed, mut other] = [(); 2].map(|()| a.netns.run(connect).unwrap());
    let _accepted = [(); 2].map(|()| server.accept().unwrap());
    let port = doomed.local_addr().unwrap().port();
    let cut = take_matching(&a.netns, |flow| flow.original_source_port == port).unwrap();
    let ends: Vec<_> = cut
        .iter()
        .map(|it| {
            let local = SocketAddr::new(it.original_source, it.original_source_port);
            (local, SocketAddr::new(it.original_destination, it.original_port))
        })
        .collect();
    assert_eq!(destroy_tcp(&a.netns, &ends).unwrap(), 1);
    let told = doomed.read(&mut [0]).unwrap_err();
    assert_eq!(told.kind(), std::io::ErrorKind::ConnectionAborted);
    assert_eq!(destroy_tcp(&a.netns, &ends).unwrap(), 0);
    other.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(other.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_neighbour_that_joins_or_leaves_is_told_and_the_end_too() {
    let soon = async |watch: &mut NeighbourWatch| {
        tokio::time::timeout(Duration::from_secs(4), watch.changed()).await.expect("told in time")
    };
    let (a, b) = pair("neighbours");
    let mut watch = NeighbourWatch::open(&a.path).unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
    assert!(quiet.is_err(), "nothing happened yet");
    let line = "ip neigh add 10.1.0.7 lladdr 02:42:0a:01:00:07 dev br0 nud permanent";
    run(&a.netns, line);
    assert_eq!(soon(&mut watch).await, Some(()));
    run(&a.netns, "ip neigh del 10.1.0.7 dev br0");
    assert_eq!(soon(&mut watch).await, Some(()));
    drop((a, b));
    // Events of the interfaces' end may come first.
    while soon(&mut watch).await.is_some() {}
}

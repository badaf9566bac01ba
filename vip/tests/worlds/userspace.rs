//! VIPs without nftables, in real namespaces: the same as with it, on the ports that are known.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use kernel::route;
use vip::DataPlane;

use crate::support::{ECHO, Host, PATIENCE, PORT, Text, World, ask, echo, wait_until};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);
const APP: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 3);

fn world() -> World {
    let mut world = World::new();
    world.data_plane = DataPlane::Userspace;
    world
}

/// A service with the ports of every host's programs.
fn service(text: Text, name: &str, vip: Option<&str>) -> Text {
    let ports = format!("{PORT},{PORT}/udp,{ECHO}");
    text.service(name, vip).labelled("portolan.vip.ports", &ports)
}

fn web() -> Text {
    service(Text::new(), "web", Some("10.20.1.2"))
}

/// How often each answered.
fn shares(names: &[String]) -> BTreeMap<&str, usize> {
    names.iter().fold(BTreeMap::new(), |mut shares, name| {
        *shares.entry(name.as_str()).or_default() += 1;
        shares
    })
}

/// Whether each of `tasks` has its share of `calls`, within five sigma of a fair choice.
#[track_caller]
fn even(names: &[String], tasks: u32) {
    let shares = shares(names);
    let (count, p) = (f64::from(u32::try_from(names.len()).unwrap()), 1.0 / f64::from(tasks));
    let wide = 5.0 * (count * p * (1.0 - p)).sqrt();
    let near = |it: &usize| (f64::from(u32::try_from(*it).unwrap()) - count * p).abs() <= wide;
    assert!(shares.len() == tasks as usize && shares.values().all(near), "{shares:?}");
}

#[tokio::test]
async fn connections_are_spread_over_the_tasks_of_each_service_also_in_turns() {
    let mut world = world();
    let (_web, _app) = (world.tasks("web", 4, 11), world.tasks("app", 2, 21));
    let client = world.host("client", 100);
    let text = web().tasks("web", 4, 11);
    let text = service(text, "app", Some("10.20.1.3")).tasks("app", 2, 21);
    let mut manager = world.manager();
    manager.make(&text.sandbox(&client, &world.path("client")).0).await;
    even(&client.calls(WEB, 400), 4);
    let (mut web, mut app) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        web.push(client.call(WEB).unwrap());
        app.push(client.call(APP).unwrap());
    }
    even(&web, 4);
    even(&app, 2);
}

#[tokio::test]
async fn a_task_reaches_all_tasks_of_its_own_service_itself_included() {
    let mut world = world();
    let tasks = world.tasks("web", 2, 11);
    let mut manager = world.manager();
    manager.make(&web().tasks("web", 2, 11).sandbox(&tasks[0], &world.path("web.1")).0).await;
    even(&tasks[0].calls(WEB, 100), 2);
}

#[tokio::test]
async fn a_vip_answers_ping_and_udp_from_its_own_address() {
    let mut world = world();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    manager.make(&web().tasks("web", 2, 11).sandbox(&client, &world.path("client")).0).await;
    client.ping(WEB).unwrap();
    let answers: Vec<_> = (0..32).map(|_| ask(&client.datagrams(), WEB).unwrap()).collect();
    assert!(answers.iter().all(|it| it.1 == IpAddr::V4(WEB)), "{answers:?}");
    let names: Vec<_> = answers.into_iter().map(|it| it.0).collect();
    assert_eq!(shares(&names).len(), 2);
}

#[tokio::test]
async fn a_task_sees_the_address_of_the_sandbox_that_calls_it() {
    let mut world = world();
    let task = world.host("reader", 11);
    let here = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let listener = kernel::socket::tcp_listener(&task.netns, here).unwrap();
    listener.set_nonblocking(false).unwrap();
    let client = world.host("client", 100);
    let mut manager = world.manager();
    manager.make(&web().tasks("web", 1, 11).sandbox(&client, &world.path("client")).0).await;
    let to = SocketAddr::from((WEB, PORT));
    let calling = client.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    let mut stream = listener.accept().unwrap();
    assert_eq!(stream.1.ip(), IpAddr::V4(client.address));
    stream.0.write_all(b"x").unwrap();
    calling.unwrap().read_exact(&mut [0]).unwrap();
}

#[tokio::test]
async fn a_service_scaled_to_nothing_refuses_at_once_and_comes_back() {
    let mut world = world();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    let path = world.path("client");
    let none = web().sandbox(&client, &path).0;
    let one = web().tasks("web", 1, 11).sandbox(&client, &path).0;
    let refused = || client.call(WEB).map_err(|it| it.kind());
    let refused_datagram = || {
        let socket = client.datagrams();
        socket.connect((WEB, PORT)).unwrap();
        socket.send(b"?").unwrap();
        socket.recv(&mut [0; 64]).unwrap_err().kind()
    };
    manager.make(&none).await;
    assert_eq!(refused(), Err(ErrorKind::ConnectionRefused));
    assert_eq!(refused_datagram(), ErrorKind::ConnectionRefused);
    manager.make(&one).await;
    assert_eq!(refused().as_deref(), Ok("web.1"));
    manager.make(&none).await;
    wait_until(refused, |it| *it == Err(ErrorKind::ConnectionRefused)).await;
    assert_eq!(refused_datagram(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_port_that_is_not_known_is_refused() {
    let mut world = world();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    let published = "ports = [{ published = 8000, target = 8080, protocol = \"tcp\" }]\n";
    let mut text = Text::new().service("web", Some("10.20.1.2"));
    text.0.push_str(published);
    manager.make(&text.tasks("web", 1, 11).sandbox(&client, &world.path("client")).0).await;
    assert_eq!(client.call(WEB).unwrap(), "web.1", "published ports are known");
    let to = SocketAddr::from((WEB, ECHO));
    let other = client.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    assert_eq!(other.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_connection_stays_with_its_task_while_that_drains_and_is_reset_when_it_is_gone() {
    let mut world = world();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    let path = world.path("client");
    let text = |state: &str| {
        let text = web().task("web", 1, 11, state).task("web", 2, 12, "serving");
        text.sandbox(&client, &path).0
    };
    manager.make(&text("serving")).await;
    let socket = client.datagrams();
    let mut streams: BTreeMap<String, TcpStream> = BTreeMap::new();
    while streams.len() < 2 {
        let mut stream = client.connect(WEB);
        streams.insert(echo(&mut stream).unwrap(), stream);
    }
    let mut first = streams.remove("web.1").unwrap();
    let mut second = streams.remove("web.2").unwrap();
    assert!(ask(&socket, WEB).is_ok());

    manager.make(&text("draining")).await;
    assert_eq!(echo(&mut first).unwrap(), "web.1", "it stays");
    assert_eq!(shares(&client.calls(WEB, 20)), [("web.2", 20)].into(), "new ones go elsewhere");
    assert_eq!(ask(&socket, WEB).unwrap().0, "web.2", "datagrams do at once");

    let reader = std::thread::spawn(move || first.read(&mut [0]));
    manager.make(&text("stopped")).await;
    let told = reader.join().unwrap().unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ConnectionReset);
    assert_eq!(echo(&mut second).unwrap(), "web.2", "others go on");
}

#[tokio::test]
async fn an_allocated_vip_is_reached_and_nothing_of_it_is_left_afterwards() {
    let mut world = world();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    let path = world.path("client");
    let text = service(Text::new(), "web", None).tasks("web", 2, 11).sandbox(&client, &path).0;
    manager.make(&text).await;
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    even(&client.calls(vip, 100), 2);
    assert!(led(&client) && no_table(&client));
    let mut session = client.connect(vip);
    echo(&mut session).unwrap();

    let dnsrr = text.replace("name = \"web\"\n", "name = \"web\"\nmode = \"dnsrr\"\n");
    manager.make(&dnsrr).await;
    assert!(!led(&client));
    let told = session.read(&mut [0]).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ConnectionReset, "its VIP is gone");

    manager.make(&text).await;
    assert!(led(&client));
    manager.make(&Text::new().0).await;
    assert!(!led(&client) && no_table(&client) && !cabled(&client));
}

fn no_table(host: &Host) -> bool {
    kernel::nft::Socket::open(&host.netns).unwrap().tables().unwrap().is_empty()
}

/// Whether there are routes of ours.
fn led(host: &Host) -> bool {
    route::routes(&host.netns).unwrap().iter().any(|it| it.protocol == route::PROTOCOL)
}

fn cabled(host: &Host) -> bool {
    route::interface_index(&host.netns, "portolan0").is_ok()
}

#[tokio::test]
async fn another_plane_after_a_restart_leaves_nothing_of_the_one_before() {
    let mut world = world();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let text = web().tasks("web", 1, 11).sandbox(&client, &world.path("client")).0;
    for _ in 0..2 {
        world.data_plane = DataPlane::Userspace;
        let mut manager = world.manager();
        manager.make(&text).await;
        assert_eq!(client.call(WEB).unwrap(), "web.1");
        assert!(no_table(&client));
        drop(manager);

        world.data_plane = DataPlane::Nftables;
        let mut manager = world.manager();
        manager.make(&text).await;
        assert_eq!(client.call(WEB).unwrap(), "web.1");
        assert!(!led(&client), "its VIP is in the network's subnet");
    }
}

#[tokio::test]
async fn what_is_made_for_a_sandbox_goes_with_who_made_it() {
    let mut world = world();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let text = web().tasks("web", 1, 11).sandbox(&client, &world.path("client")).0;
    let mut manager = world.manager();
    manager.make(&text).await;
    assert!(cabled(&client) && led(&client));
    drop(manager);
    wait_until(|| cabled(&client) || led(&client), |it| !it).await;
    assert!(!vip::cleanup(&client.netns).unwrap(), "nothing is left");
}

//! VIPs in real namespaces: who answers, who is refused, what survives a change.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kernel::door::Door;
use kernel::link;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use crate::support::{Host, PORT, Text, World, ask, echo, wait_until};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);
const APP: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 3);

/// How often each answered.
fn shares(names: &[String]) -> BTreeMap<&str, usize> {
    names.iter().fold(BTreeMap::new(), |mut shares, name| {
        *shares.entry(name.as_str()).or_default() += 1;
        shares
    })
}

/// Each of `tasks` tasks has its share of the calls, within five standard deviations: once in
/// a million runs chance goes further.
#[track_caller]
fn assert_even(names: &[String], tasks: u32) {
    let shares = shares(names);
    let (calls, share) = (f64::from(u32::try_from(names.len()).unwrap()), 1.0 / f64::from(tasks));
    let (mean, deviation) = (calls * share, (calls * share * (1.0 - share)).sqrt());
    let even =
        |it: &usize| (f64::from(u32::try_from(*it).unwrap()) - mean).abs() <= 5.0 * deviation;
    assert!(shares.len() == tasks as usize && shares.values().all(even), "{shares:?}");
}

/// Things got from `get`, one of each task: which one comes is chance.
fn one_of_each<T>(tasks: usize, mut get: impl FnMut() -> (String, T)) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    for _ in 0..200 {
        let (name, thing) = get();
        found.entry(name).or_insert(thing);
        if found.len() == tasks {
            break;
        }
    }
    assert_eq!(found.len(), tasks, "{:?}", found.keys());
    found
}

#[tokio::test]
async fn connections_are_spread_evenly_over_the_tasks() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 4, 11);
    let client = world.host("client", 100);
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 4, 11);
    world.manager().make(&text.sandbox(&client, &world.path("client")).0).await;
    assert_even(&client.calls(WEB, 400), 4);
}

#[tokio::test]
async fn two_services_called_in_turns_each_spread_evenly() {
    let mut world = World::new();
    let _web = world.tasks("web", 2, 11);
    let _app = world.tasks("app", 2, 21);
    let client = world.host("client", 100);
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 2, 11);
    let text = text.service("app", Some("10.20.1.3")).tasks("app", 2, 21);
    world.manager().make(&text.sandbox(&client, &world.path("client")).0).await;
    let (mut web, mut app) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        web.push(client.call(WEB).unwrap());
        app.push(client.call(APP).unwrap());
    }
    assert_even(&web, 2);
    assert_even(&app, 2);
}

#[tokio::test]
async fn a_task_reaches_all_tasks_of_its_own_service_itself_included() {
    let mut world = World::new();
    let tasks = world.tasks("web", 2, 11);
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 2, 11);
    world.manager().make(&text.sandbox(&tasks[0], &world.path("web.1")).0).await;
    assert_even(&tasks[0].calls(WEB, 100), 2);
}

#[tokio::test]
async fn a_vip_answers_ping_and_udp_from_its_own_address() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 2, 11);
    world.manager().make(&text.sandbox(&client, &world.path("client")).0).await;
    client.ping(WEB).unwrap();
    let answers: Vec<_> = (0..100).map(|_| ask(&client.datagrams(), WEB).unwrap()).collect();
    assert!(answers.iter().all(|(_, from)| *from == IpAddr::V4(WEB)), "{answers:?}");
    assert_even(&answers.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), 2);
}

#[tokio::test]
async fn a_service_scaled_to_nothing_refuses_at_once_and_comes_back() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    let service = || Text::new().service("web", Some("10.20.1.2"));
    let path = world.path("client");
    let none = service().sandbox(&client, &path).0;
    let one = service().tasks("web", 1, 11).sandbox(&client, &path).0;
    assert_eq!(manager.make(&none).await, 1, "the VIP");
    let begun = tokio::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(client.call(WEB).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert!(begun.elapsed().as_millis() < 100, "{:?} for 10", begun.elapsed());
    assert_eq!(
        refusal_of_udp(&client),
        [ErrorKind::PermissionDenied, ErrorKind::ConnectionRefused]
    );
    assert_eq!(manager.make(&one).await, 1, "its slots");
    assert_eq!(client.call(WEB).unwrap(), "web.1");
    assert_eq!(manager.make(&none).await, 2, "its slots, and the connections to the task");
    assert_eq!(client.call(WEB).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// What sending says (the packet was dropped on its way out), and what waiting says (port
/// unreachable). Errors reach connected UDP sockets only.
fn refusal_of_udp(client: &Host) -> [ErrorKind; 2] {
    let socket = client.datagrams();
    socket.connect((WEB, PORT)).unwrap();
    let sent = socket.send(b"?").unwrap_err().kind();
    [sent, socket.recv(&mut [0; 64]).unwrap_err().kind()]
}

#[tokio::test]
async fn a_client_that_waits_for_a_task_that_is_gone_is_told() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let mut manager = world.manager();
    let path = world.path("client");
    let text = |state: &str| {
        let text = Text::new().service("web", Some("10.20.1.2"));
        let text = text.task("web", 1, 11, state).task("web", 2, 12, "serving");
        text.sandbox(&client, &path).0
    };
    manager.make(&text("serving")).await;
    let mut streams = one_of_each(2, || {
        let mut stream = client.connect(WEB);
        (echo(&mut stream).unwrap(), stream)
    });
    let mut first = streams.remove("web.1").unwrap();
    let mut second = streams.remove("web.2").unwrap();

    manager.make(&text("draining")).await;
    assert_eq!(echo(&mut first).unwrap(), "web.1", "connections stay while their task drains");
    assert_eq!(shares(&client.calls(WEB, 6)), [("web.2", 6)].into(), "new ones go elsewhere");

    let reader = std::thread::spawn(move || first.read(&mut [0]));
    manager.make(&text("stopped")).await;
    let told = reader.join().unwrap().unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ConnectionAborted);
    assert_eq!(echo(&mut second).unwrap(), "web.2", "others go on");
}

#[tokio::test]
async fn an_allocated_vip_is_reached_over_its_route() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    // Another way out, as docker_gwbridge is, with the default route.
    let other = "192.168.77.5/24".parse().unwrap();
    link::add_veth(&client.netns, "gw0", "gw1", &client.netns).unwrap();
    link::add_address(&client.netns, "gw0", other).unwrap();
    link::set_up(&client.netns, "gw0").unwrap();
    link::set_up(&client.netns, "gw1").unwrap();
    let default = kernel::route::Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        device: "gw0".to_owned(),
        source: None,
        gateway: Some("192.168.77.1".parse().unwrap()),
        protocol: 4,
    };
    kernel::route::add_route(&client.netns, &default).unwrap();
    let mut manager = world.manager();
    let path = world.path("client");
    let text = Text::new().service("web", None).tasks("web", 2, 11).sandbox(&client, &path).0;
    assert_eq!(manager.make(&text).await, 2, "the VIP and its route");
    let published = manager.addresses.borrow().clone();
    let vip = Ipv4Addr::new(240, 240, 0, 1);
    let key = ("web".into(), "frontend".into());
    assert_eq!(*published, [(key, IpAddr::V4(vip).into())].into());
    assert_even(&client.calls(vip, 100), 2);

    let dnsrr = text.replace("name = \"web\"\n", "name = \"web\"\nmode = \"dnsrr\"\n");
    assert_eq!(manager.make(&dnsrr).await, 2, "the table and the route");
    let routes = kernel::route::routes(&client.netns).unwrap();
    assert!(routes.iter().all(|it| it.protocol != kernel::route::PROTOCOL), "{routes:?}");
    assert_eq!(*manager.addresses.borrow().clone(), BTreeMap::new());
}

#[tokio::test]
async fn what_was_tried_before_the_table_existed_works_once_it_does() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    client.track();
    let socket = client.datagrams();
    // A neighbour that does not answer would hold the packet back: somebody has to be there.
    let _vip_owner = world.host("elsewhere", 2);
    socket.send_to(b"?", (WEB, PORT)).unwrap();
    let flows = kernel::conntrack::flows(&client.netns).unwrap();
    assert_eq!(flows.len(), 1, "{flows:?}");

    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 1, 11);
    let mut manager = world.manager();
    manager.make(&text.sandbox(&client, &world.path("client")).0).await;
    let flows = || kernel::conntrack::flows(&client.netns).unwrap();
    wait_until(flows, Vec::is_empty).await;
    assert_eq!(ask(&socket, WEB).unwrap().0, "web.1");
}

/// As on a kernel with IPVS, where the engine's own namespace on a network has all VIPs.
#[tokio::test]
async fn the_way_into_a_network_leads_to_its_tasks_also_where_vips_are_its_own_addresses() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let doorway = world.host("doorway", 100);
    let path = world.path("doorway");
    let text = Text::new().service("web", Some("10.20.1.2")).tasks("web", 2, 11).0;
    let reach = format!("reach = \"{}\"\n[[service]]", path.display());
    let labels = "labels = { \"com.docker.lb.hosts\" = \"web.test\", \
         \"com.docker.lb.port\" = \"8080\", \"com.docker.lb.backend_mode\" = \"vip\" }\nnetworks";
    let text = text.replacen("[[service]]", &reach, 1).replacen("networks", labels, 1);
    let mut manager = world.manager();
    manager.make(&text).await;
    link::add_address(&doorway.netns, "eth0", "10.20.1.2/32".parse().unwrap()).unwrap();
    let to = SocketAddr::from((WEB, PORT));
    let door = Door::open().unwrap();
    for _ in 0..20 {
        let socket = door.tcp_socket(Some(path.clone()), None, to).await.unwrap();
        let mut stream = TcpSocket::from_std_stream(socket).connect(to).await.unwrap();
        let mut name = String::new();
        stream.read_to_string(&mut name).await.unwrap();
        assert!(name.starts_with("web."), "{name}");
        assert_eq!(stream.local_addr().unwrap().ip(), IpAddr::V4(doorway.address));
    }
}

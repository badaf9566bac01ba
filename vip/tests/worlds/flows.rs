//! What becomes of flows when their tasks drain, die or come, in real namespaces.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use kernel::conntrack::{self, Flow};
use kernel::nft::{ChainKind, Expr, Family, Hook, HookPoint, Table};
use kernel::route::{self, Route};
use kernel::{link, socket};
use registry::Consumer;

use crate::support::{Host, Load, Manager, PORT, Text, World, ask, echo, wait_until};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);
const MOVED: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 3);
const UDP: u8 = 17;

/// Tasks web.1, web.2, ... in these states, and one sandbox.
fn web(vip: Ipv4Addr, states: &[&str], client: &Host, path: &Path) -> String {
    let text = Text::new().service("web", Some(&vip.to_string()));
    let tasks = (1..).zip(states).fold(text, |text, (nth, state)| match *state {
        "gone" => text,
        state => text.task("web", nth, 10 + nth, state),
    });
    tasks.sandbox(client, path).0
}

/// An open connection to each of so many tasks.
fn one_each(client: &Host, vip: Ipv4Addr, tasks: usize) -> BTreeMap<String, TcpStream> {
    let mut streams = BTreeMap::new();
    for _ in 0..1_000 {
        let mut stream = client.connect(vip);
        streams.insert(echo(&mut stream).unwrap(), stream);
        if streams.len() == tasks {
            break;
        }
    }
    assert_eq!(streams.len(), tasks, "a thousand connections reached only {:?}", streams.keys());
    streams
}

/// The flows of UDP to a VIP.
fn datagram_flows(client: &Host, vip: Ipv4Addr) -> Vec<Flow> {
    let mut flows = conntrack::flows(&client.netns).unwrap();
    flows.retain(|it| it.protocol == UDP && it.original_destination == vip);
    flows
}

/// Who answers datagrams from one socket; a refusal, or silence, is nobody.
fn who(socket: &UdpSocket, vip: Ipv4Addr) -> String {
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    ask(socket, vip).map_or_else(|_| "nobody".to_owned(), |(name, _)| name)
}

async fn answers(socket: &UdpSocket, vip: Ipv4Addr, name: &str) {
    wait_until(|| who(socket, vip), |it| it == name).await;
}

#[tokio::test]
async fn datagrams_from_one_port_move_with_every_change_of_their_service() {
    let mut world = World::new();
    let tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    let socket = client.datagrams();
    let steps: [(&[&str], &str); 9] = [
        (&["serving"], "web.1"),
        (&["draining", "serving"], "web.2"),
        (&["serving", "draining"], "web.1"),
        (&["starting", "serving"], "web.2"),
        (&["serving", "stopped"], "web.1"),
        (&["gone", "serving"], "web.2"),
        (&[], "nobody"),
        (&["serving"], "web.1"),
        (&["stopped", "draining"], "nobody"),
    ];
    for (number, (states, name)) in steps.into_iter().enumerate() {
        manager.make(&web(WEB, states, &client, &path)).await;
        answers(&socket, WEB, name).await;
        let left = datagram_flows(&client, WEB);
        let tasks: Vec<_> = left.iter().map(|it| it.reply_source.to_string()).collect();
        let wanted = name.strip_prefix("web.").map(|it| format!("10.20.1.1{it}"));
        assert_eq!(tasks, Vec::from_iter(wanted), "step {number}: nothing to anybody else");
    }
    drop(tasks);
}

#[tokio::test]
async fn a_connected_datagram_socket_goes_on_with_another_task() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    manager.make(&web(WEB, &["serving"], &client, &path)).await;
    let socket = client.datagrams();
    socket.connect((WEB, PORT)).unwrap();
    let say = || {
        socket.send(b"?").ok()?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    assert_eq!(say().as_deref(), Some("web.1"));
    manager.make(&web(WEB, &["stopped", "serving"], &client, &path)).await;
    wait_until(say, |it| it.as_deref() == Some("web.2")).await;
    assert_eq!(socket.peer_addr().unwrap(), SocketAddr::from((WEB, PORT)));
}

#[tokio::test]
async fn a_vip_that_moved_or_went_leaves_no_datagram_flow_to_a_dead_task() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    client.track();
    let path = world.path("client");
    let mut manager = world.manager();
    let socket = client.datagrams();
    manager.make(&web(WEB, &["serving"], &client, &path)).await;
    answers(&socket, WEB, "web.1").await;
    // The flow to the old address goes on as long as its task lives.
    manager.make(&web(MOVED, &["serving"], &client, &path)).await;
    answers(&socket, MOVED, "web.1").await;
    assert_eq!(datagram_flows(&client, WEB).len(), 1);
    manager.make(&web(MOVED, &["stopped", "serving"], &client, &path)).await;
    answers(&socket, MOVED, "web.2").await;
    wait_until(|| datagram_flows(&client, WEB), Vec::is_empty).await;
    // The service goes, then its task.
    let alone = |state| {
        let task = format!(
            "[[task]]\nname = \"web.2\"\nstate = \"{state}\"\n\
             addresses = {{ frontend = \"10.20.1.12\" }}\n"
        );
        Text::new().sandbox(&client, &path).0 + &task
    };
    manager.make(&alone("serving")).await;
    assert_eq!(datagram_flows(&client, MOVED).len(), 1);
    manager.make(&alone("stopped")).await;
    wait_until(|| datagram_flows(&client, MOVED), Vec::is_empty).await;
}

#[tokio::test]
async fn when_a_service_is_removed_its_connections_end_with_its_tasks() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    client.track();
    let path = world.path("client");
    let mut manager = world.manager();
    manager.make(&web(WEB, &["serving"], &client, &path)).await;
    let mut stream = client.connect(WEB);
    assert_eq!(echo(&mut stream).unwrap(), "web.1");
    let alone = |state| {
        let task = format!(
            "[[task]]\nname = \"web.1\"\nstate = \"{state}\"\n\
             addresses = {{ frontend = \"10.20.1.11\" }}\n"
        );
        Text::new().sandbox(&client, &path).0 + &task
    };
    manager.make(&alone("draining")).await;
    assert_eq!(echo(&mut stream).unwrap(), "web.1", "its task still runs");
    let reader = std::thread::spawn(move || stream.read(&mut [0]));
    manager.make(&alone("stopped")).await;
    assert_eq!(reader.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

/// A listener of a task that keeps what it accepts.
fn listener(task: &Host) -> TcpListener {
    let here = SocketAddr::from((Ipv4Addr::UNSPECIFIED, LISTENED));
    let listener = socket::tcp_listener(&task.netns, here).unwrap();
    listener.set_nonblocking(false).unwrap();
    listener
}

const LISTENED: u16 = 8090;

/// Both ends of a connection through the VIP.
fn both_ends(client: &Host, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let to = SocketAddr::from((WEB, LISTENED));
    let near = client.netns.run(|| TcpStream::connect(to)).unwrap().unwrap();
    let (far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    (near, far)
}

#[tokio::test]
async fn when_the_drain_time_is_over_both_sides_are_told_and_nobody_else() {
    let mut world = World::new();
    let tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    manager.make(&web(WEB, &["serving"], &client, &path)).await;
    let listener = listener(&tasks[0]);
    let (mut reading, mut server) = both_ends(&client, &listener);
    let (mut closing, mut serving) = both_ends(&client, &listener);
    closing.shutdown(Shutdown::Write).unwrap();
    assert_eq!(serving.read(&mut [0]).unwrap(), 0);
    let reader = std::thread::spawn(move || (reading.read(&mut [0]), reading));

    let draining = web(WEB, &["draining", "serving"], &client, &path);
    manager.make(&draining).await;
    let mut other = client.connect(WEB);
    assert_eq!(echo(&mut other).unwrap(), "web.2");
    let (plan, _notes) = manager.compile(&draining);
    tokio::time::pause();
    tokio::time::advance(vip::DRAIN.saturating_sub(Duration::from_secs(1))).await;
    manager.vip.apply(&plan).await;
    // Nothing is due yet, so nothing is being cut that one could wait for.
    server.write_all(b".").unwrap();
    let (read, mut reading) = reader.join().unwrap();
    assert_eq!(read.unwrap(), 1, "not yet");
    let reader = std::thread::spawn(move || reading.read(&mut [0]).unwrap_err().kind());
    assert!(manager.vip.upkeep().unwrap() <= Duration::from_secs(1), "then is the time");

    tokio::time::advance(Duration::from_secs(1)).await;
    manager.vip.apply(&plan).await;
    tokio::time::resume();
    let ended = server.read(&mut [0]).unwrap_err().kind();
    assert_eq!(ended, ErrorKind::ConnectionReset, "the task is told");
    assert_eq!(reader.join().unwrap(), ErrorKind::ConnectionAborted);
    assert_eq!(closing.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(echo(&mut other).unwrap(), "web.2", "others go on");
}

#[tokio::test]
async fn a_service_says_how_long_its_tasks_drain() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    let labelled = |states: &[&str]| {
        let labels = "labels = { \"portolan.vip.drain\" = \"0s\" }\nnetworks";
        web(WEB, states, &client, &path).replacen("networks", labels, 1)
    };
    manager.make(&labelled(&["serving", "serving"])).await;
    let mut streams = one_each(&client, WEB, 2);
    let mut first = streams.remove("web.1").unwrap();
    manager.make(&labelled(&["draining", "serving"])).await;
    assert_eq!(first.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(echo(streams.get_mut("web.2").unwrap()).unwrap(), "web.2");
}

#[tokio::test]
async fn a_client_that_still_connects_to_a_dead_task_is_led_to_another() {
    let mut world = World::new();
    let tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    tasks[0].fall_silent();
    manager.make(&web(WEB, &["serving"], &client, &path)).await;
    let to = SocketAddr::from((WEB, PORT));
    let netns = kernel::netns::Netns::open(&path).unwrap();
    let connect = move || TcpStream::connect_timeout(&to, Duration::from_secs(10));
    let trying = std::thread::spawn(move || netns.run(connect).unwrap());
    let half_open = || conntrack::flows(&client.netns).unwrap();
    wait_until(half_open, |it| it.iter().any(|it| it.original_destination == WEB)).await;
    manager.make(&web(WEB, &["stopped", "serving"], &client, &path)).await;
    let mut name = String::new();
    trying.join().unwrap().unwrap().read_to_string(&mut name).unwrap();
    assert_eq!(name, "web.2");
}

#[tokio::test]
async fn a_client_inside_the_way_into_a_network_is_told_too() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let doorway = world.host("doorway", 100);
    let mut manager = world.manager();
    let reach = format!("reach = \"{}\"\n[[service]]", world.path("doorway").display());
    let text = |state| {
        let text = Text::new().service("web", Some("10.20.1.2"));
        let text = text.task("web", 1, 11, state).task("web", 2, 12, "serving").0;
        let labels = "labels = { \"com.docker.lb.hosts\" = \"web.test\", \
             \"com.docker.lb.port\" = \"8080\", \"com.docker.lb.backend_mode\" = \"vip\" }\nnetworks";
        text.replacen("[[service]]", &reach, 1).replacen("networks", labels, 1)
    };
    manager.make(&text("serving")).await;
    let mut streams = one_each(&doorway, WEB, 2);
    let mut first = streams.remove("web.1").unwrap();
    manager.make(&text("stopped")).await;
    assert_eq!(first.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(echo(streams.get_mut("web.2").unwrap()).unwrap(), "web.2");
}

/// Every port is used anew every few milliseconds, so conntrack is full of ended flows to the task
/// that goes, from ports that live connections to the other task have.
#[tokio::test]
async fn a_live_connection_is_not_cut_for_an_ended_one_from_the_same_port() {
    let mut world = World::new();
    let tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    manager.make(&web(WEB, &["serving", "serving"], &client, &path)).await;
    let few_ports = || std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40127");
    client.netns.run(few_ports).unwrap().unwrap();
    let netns = kernel::netns::Netns::open(&path).unwrap();
    let load = Load::begin(netns, 2, WEB);
    for _ in 0..50 {
        manager.make(&web(WEB, &["draining", "serving"], &client, &path)).await;
        // What goes to the task now ends, so that there is nothing to be cut.
        let living = || {
            let flows = conntrack::flows(&client.netns).unwrap();
            flows.iter().filter(|it| it.reply_source == tasks[0].address && !it.ended).count()
        };
        wait_until(living, |it| *it == 0).await;
        manager.make(&web(WEB, &["stopped", "serving"], &client, &path)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        manager.make(&web(WEB, &["serving", "serving"], &client, &path)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (done, failed) = load.end();
    assert!(failed.is_empty(), "{} of {done}: {:?}", failed.len(), failed[0]);
    assert!(done > 500, "only {done} connections");
}

/// A container that runs containers of its own: their connections were answered by whoever owned
/// the address before, and are masqueraded, which is a translation, and not ours.
#[tokio::test]
async fn a_connection_that_is_masqueraded_by_the_container_itself_goes_on() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 1, 11);
    let owner = world.host("owner", 2);
    let client = world.host("client", 100);
    let inner = link::name_netns(&world.path("inner")).unwrap();
    link::add_veth(&client.netns, "in0", "eth0", &inner).unwrap();
    for (netns, name, address) in
        [(&client.netns, "in0", "172.30.0.1/24"), (&inner, "eth0", "172.30.0.2/24")]
    {
        link::add_address(netns, name, address.parse().unwrap()).unwrap();
        link::set_up(netns, name).unwrap();
    }
    let default = Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        device: "eth0".to_owned(),
        source: None,
        gateway: Some("172.30.0.1".parse().unwrap()),
        protocol: 4,
    };
    route::add_route(&inner, &default).unwrap();
    let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    client.netns.run(forward).unwrap().unwrap();
    let table = Table { family: Family::Ip, name: "inside" };
    let hook = Hook { kind: ChainKind::Nat, point: HookPoint::Postrouting, priority: 100 };
    client.nft(|batch| {
        batch.add_table(table, false);
        batch.add_chain(table, "postrouting", Some(hook));
        batch.add_rule(table, "postrouting", &[Expr::Masquerade], b"");
    });
    let listener = listener(&owner);
    let connect = || TcpStream::connect((WEB, LISTENED));
    let mut near = inner.run(connect).unwrap().unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let mut manager = world.manager();
    manager.make(&web(WEB, &["serving"], &client, &world.path("client"))).await;
    // Soon again means that flows are being looked at.
    wait_until(|| manager.vip.upkeep().unwrap(), |it| *it > Duration::from_secs(2)).await;
    // From the other side: what comes from inside would be masqueraded anew.
    far.write_all(b".").unwrap();
    near.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap(), 1, "it goes on");
    drop(inner);
    link::unname_netns(&world.path("inner")).unwrap();
}

/// Steps through all states of three tasks; what lives is never cut, what is gone always is.
#[tokio::test]
async fn whatever_the_states_only_connections_to_tasks_that_are_gone_are_cut() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 3, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    let states = ["serving", "draining", "starting", "stopped", "gone"];
    // Half of all combinations, by a stride that is no neat order.
    for number in (0..125).map(|it| it * 47 % 125).take(60) {
        let serving = web(WEB, &["serving"; 3], &client, &path);
        manager.make(&serving).await;
        let mut streams = one_each(&client, WEB, 3);
        let now = [number % 5, number / 5 % 5, number / 25].map(|it| states[it]);
        manager.make(&web(WEB, &now, &client, &path)).await;
        for (nth, state) in (1..).zip(now) {
            let name = format!("web.{nth}");
            let stream = streams.get_mut(&name).unwrap();
            if ["stopped", "gone"].contains(&state) {
                let told = stream.read(&mut [0]).unwrap_err().kind();
                assert_eq!(told, ErrorKind::ConnectionAborted, "{name} in {now:?}");
            } else {
                assert_eq!(echo(stream).unwrap(), name, "{now:?}");
            }
        }
    }
}

/// What conntrack would forget after a minute of silence, and what nobody would be told of.
#[tokio::test]
async fn a_half_closed_connection_is_remembered_for_longer_than_twenty_minutes() {
    let mut world = World::new();
    let tasks = world.tasks("web", 1, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let mut manager = world.manager();
    manager.make(&web(WEB, &["serving"], &client, &path)).await;
    let listener = listener(&tasks[0]);
    let (near, mut far) = both_ends(&client, &listener);
    near.shutdown(Shutdown::Write).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    // As `conntrack -L` shows them: protocol, its number, seconds left, state.
    let shown = || {
        let tracked =
            client.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
        let tracked = tracked.unwrap().unwrap();
        let half = tracked.lines().find(|it| it.contains("CLOSE_WAIT")).map(str::to_owned);
        half.and_then(|it| it.split_whitespace().nth(4)?.parse::<u32>().ok())
    };
    wait_until(shown, Option::is_some).await;
    let left = shown().unwrap();
    assert!(left > 20 * 60, "{left} s");
    // The open ones need no help: five days, unless the container wants it otherwise.
    let (_near, _far) = both_ends(&client, &listener);
    let limit = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
    let seconds = client.netns.run(|| std::fs::read_to_string(limit)).unwrap().unwrap();
    assert!(seconds.trim().parse::<u32>().unwrap() > 20 * 60, "{seconds}");
}

#[tokio::test]
async fn what_happens_is_counted_and_connections_are_told_by_task() {
    let mut world = World::new();
    let _tasks = world.tasks("web", 2, 11);
    let client = world.host("client", 100);
    let path = world.path("client");
    let meter = vip::Meter::default();
    let mut manager: Manager = world.manager();
    manager.vip = manager.vip.counting_on(&meter);
    manager.make(&web(WEB, &["serving", "serving"], &client, &path)).await;
    let mut streams = one_each(&client, WEB, 2);
    let (socket, both) = (client.datagrams(), 2);
    let first = ask(&socket, WEB).unwrap().0;
    let seen = meter.connections();
    let tcp: u64 = seen.tasks.iter().map(|it| it.tcp).sum();
    let udp: u64 = seen.tasks.iter().map(|it| it.udp).sum();
    assert!(tcp >= both && udp == 1, "{seen:?}");
    assert_eq!((seen.tasks.len(), seen.others, seen.missed), (2, 0, 0));
    assert!(seen.tasks.iter().all(|it| it.service == "web" && it.network == "frontend"));

    let states = if first == "web.1" { ["stopped", "serving"] } else { ["serving", "stopped"] };
    manager.make(&web(WEB, &states, &client, &path)).await;
    let told = streams.get_mut(&first).unwrap().read(&mut [0]).unwrap_err().kind();
    assert_eq!(told, ErrorKind::ConnectionAborted);
    wait_until(|| meter.read(), |it| it.connections_cut >= 1 && it.flows_moved == 1).await;
    let counts = meter.read();
    assert!(counts.resets >= 1, "{counts:?}");
    assert_eq!((counts.takeovers, counts.adoptions, counts.tables_replaced), (1, 0, 0));
    assert_eq!((counts.tables.sandboxes, counts.tables.vips, counts.tables.slots), (1, 1, 1));
    assert_eq!(counts.transactions.count, 2);
}

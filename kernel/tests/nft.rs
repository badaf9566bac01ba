//! Transactions against the real kernel, in namespaces of the tests' own: run them as root, or as
//! anybody inside `unshare -Urnm`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::{
    Batch, ChainKind, Checksum, CmpOp, CtKey, Element, ElementValue, Expr, Family, Hook, HookPoint,
    KeyType, MetaKey, NatKind, NftError, PayloadBase, RejectWith, SetSpec, SetValue, Socket, Table,
    Verdict, comment, concat,
};
use support::run;

const DNS: Table<'_> = Table { family: Family::Ip, name: "portolan_dns" };
const T: Table<'_> = Table { family: Family::Ip, name: "t" };
const OUTPUT_RAW: Hook = Hook { kind: ChainKind::Filter, point: HookPoint::Output, priority: -300 };
const OUTPUT_NAT: Hook = Hook { kind: ChainKind::Nat, point: HookPoint::Output, priority: -110 };

fn world() -> (Netns, Socket) {
    let netns = Netns::fresh().expect("root, or a user namespace");
    run(&netns, "ip link set lo up");
    let socket = Socket::open(&netns).expect("nftables");
    (netns, socket)
}

fn payload(base: PayloadBase, offset: u32, len: u32, to: u8) -> Expr {
    Expr::Payload { base, offset, len, to }
}

fn is(from: u8, data: &[u8]) -> Expr {
    Expr::Cmp { op: CmpOp::Eq, from, data: data.to_vec() }
}

fn destination(to: u8) -> Expr {
    payload(PayloadBase::Network, 16, 4, to)
}

/// `ip daddr 127.0.0.11 udp dport 53 notrack udp dport set PORT`, and the way back.
fn take_over(batch: &mut Batch, port: u16) {
    batch.replace_table(DNS, true);
    batch.add_chain(DNS, "output", Some(OUTPUT_RAW));
    for (protocol, checksum) in [(17, 6), (6, 16)] {
        for (address, at, from, to) in [(16, 2, 53, port), (12, 0, port, 53)] {
            let rule = [
                payload(PayloadBase::Network, address, 4, 0),
                is(0, &[127, 0, 0, 11]),
                Expr::Meta { key: MetaKey::L4Proto, to: 0 },
                is(0, &[protocol]),
                payload(PayloadBase::Transport, at, 2, 0),
                is(0, &u16::to_be_bytes(from)),
                Expr::Notrack,
                Expr::Immediate { to: 0, data: u16::to_be_bytes(to).to_vec() },
                Expr::PayloadWrite {
                    base: PayloadBase::Transport,
                    offset: at,
                    len: 2,
                    from: 0,
                    checksum: Checksum::Inet { offset: checksum },
                },
            ];
            batch.add_rule(DNS, "output", &rule, &comment("take over"));
        }
    }
}

#[test]
fn the_dns_take_over_answers_untracked_and_vanishes_with_its_socket() {
    let (netns, mut socket) = world();
    let at = |port| (Ipv4Addr::new(127, 0, 0, 11), port).into();
    let server = kernel::socket::udp_bound(&netns, at(0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let mut batch = Batch::new();
    take_over(&mut batch, port);
    socket.commit(&batch).unwrap();

    let listed = run(&netns, "nft list ruleset");
    assert!(listed.contains("type filter hook output priority raw; policy accept;"), "{listed}");
    let line = format!("ip daddr 127.0.0.11 udp dport 53 notrack udp dport set {port} comment");
    assert!(listed.contains(&line), "{listed}");
    let line = format!("ip saddr 127.0.0.11 tcp sport {port} notrack tcp sport set 53 comment");
    assert!(listed.contains(&line), "{listed}");

    let client = kernel::socket::udp_connected(&netns, at(53)).unwrap();
    client.send(b"who?").unwrap();
    let mut buffer = [0; 16];
    let (length, peer) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"who?");
    server.send_to(b"me", peer).unwrap();
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"me");
    assert_eq!(run(&netns, "conntrack -L"), "", "the query must not be tracked");

    let mut other = Socket::open(&netns).unwrap();
    let tables = other.tables().unwrap();
    assert!(tables.iter().all(|it| it.name == DNS.name && it.owner_portid.is_some()), "{tables:?}");
    let mut squatter = Batch::new();
    squatter.delete_table(DNS);
    let refused = other.commit(&squatter).unwrap_err();
    assert!(matches!(refused, NftError::Busy { index: 0, .. }), "{refused:?}");
    drop(socket);
    assert_eq!(run(&netns, "nft list ruleset"), "");
}

/// Chains n1..n4 over one map, a verdict map before them, and a refusal behind.
fn vip_table(batch: &mut Batch, random: bool) {
    batch.replace_table(T, false);
    batch.add_set(
        T,
        &SetSpec {
            name: "slots",
            key: &[KeyType::Ipv4Addr, KeyType::Mark],
            value: SetValue::Data(KeyType::Ipv4Addr),
            timeout: false,
            size: Some(4096),
        },
    );
    for count in 1..=4_u32 {
        let name = format!("n{count}");
        batch.add_chain(T, &name, None);
        let rule = [
            destination(0),
            Expr::Numgen { random, modulus: count, offset: 0, to: 1 },
            Expr::Lookup { set: "slots".to_owned(), from: 0, to: Some(0), invert: false },
            Expr::Nat { kind: NatKind::Dnat, address: 0, port: None },
        ];
        batch.add_rule(T, &name, &rule, &[]);
    }
    batch.add_set(
        T,
        &SetSpec {
            name: "vips",
            key: &[KeyType::Ipv4Addr],
            value: SetValue::Verdict,
            timeout: false,
            size: None,
        },
    );
    batch.add_chain(T, "output", Some(OUTPUT_NAT));
    let rule = [destination(0), Expr::LookupVerdict { set: "vips".to_owned(), from: 0 }];
    batch.add_rule(T, "output", &rule, &[]);
}

const VIP: Ipv4Addr = Ipv4Addr::new(127, 240, 0, 1);

fn slot(index: u32, task: Ipv4Addr) -> Element {
    Element {
        key: concat(&[&VIP.octets(), &index.to_ne_bytes()]),
        value: ElementValue::Data(task.octets().to_vec()),
        timeout: None,
    }
}

fn goto(chain: &str) -> Element {
    Element {
        key: VIP.octets().to_vec(),
        value: ElementValue::Verdict(Verdict::Goto(chain.to_owned())),
        timeout: None,
    }
}

fn task(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, last)
}

/// Which addresses answer `count` connections to the VIP.
fn called(netns: &Netns, listener: &std::net::TcpListener, count: usize) -> Vec<Ipv4Addr> {
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(false).unwrap();
    let mut seen = Vec::new();
    for _ in 0..count {
        let client = netns.run(|| std::net::TcpStream::connect((VIP, port))).unwrap().unwrap();
        let (server, _) = listener.accept().unwrap();
        let std::net::IpAddr::V4(address) = server.local_addr().unwrap().ip() else { continue };
        seen.push(address);
        drop((client, server));
    }
    seen
}

#[test]
fn a_map_keyed_by_address_and_counter_spreads_connections_evenly() {
    let (netns, mut socket) = world();
    let mut batch = Batch::new();
    vip_table(&mut batch, false);
    batch.add_elements(T, "slots", &[slot(0, task(1)), slot(1, task(2)), slot(2, task(3))]);
    batch.add_elements(T, "vips", &[goto("n3")]);
    socket.commit(&batch).unwrap();
    let listed = run(&netns, "nft list ruleset");
    assert!(listed.contains("type ipv4_addr . mark : ipv4_addr"), "{listed}");
    assert!(listed.contains("dnat to ip daddr . numgen inc mod 3 map @slots"), "{listed}");
    assert!(listed.contains("127.240.0.1 . 0x00000002 : 127.0.1.3"), "{listed}");
    assert!(listed.contains("127.240.0.1 : goto n3"), "{listed}");

    let listener = kernel::socket::tcp_listener(&netns, ([0, 0, 0, 0], 0).into()).unwrap();
    let mut seen = called(&netns, &listener, 9);
    seen.sort_unstable();
    let even = [1, 1, 1, 2, 2, 2, 3, 3, 3].map(task);
    assert_eq!(seen, even);

    // One task leaves: the verdict and the slot move in one transaction.
    let mut batch = Batch::new();
    batch.delete_elements(T, "vips", &[VIP.octets().to_vec()]);
    batch.add_elements(T, "vips", &[goto("n2")]);
    batch.delete_elements(T, "slots", &[slot(2, task(3)).key]);
    socket.commit(&batch).unwrap();
    let mut seen = called(&netns, &listener, 4);
    seen.sort_unstable();
    assert_eq!(seen, [1, 1, 2, 2].map(task));
    let mut slots = socket.elements(T, "slots").unwrap();
    slots.sort_unstable();
    assert_eq!(slots, [slot(0, task(1)), slot(1, task(2))]);
}

#[test]
fn a_slot_is_swapped_for_another_task_in_one_transaction() {
    let (netns, mut socket) = world();
    let mut batch = Batch::new();
    vip_table(&mut batch, true);
    batch.add_elements(T, "slots", &[slot(0, task(1))]);
    batch.add_elements(T, "vips", &[goto("n1")]);
    socket.commit(&batch).unwrap();
    let listener = kernel::socket::tcp_listener(&netns, ([0, 0, 0, 0], 0).into()).unwrap();
    assert_eq!(called(&netns, &listener, 1), [task(1)]);

    let mut clash = Batch::new();
    clash.add_elements(T, "slots", &[slot(0, task(9))]);
    let refused = socket.commit(&clash).unwrap_err();
    assert!(matches!(refused, NftError::Busy { index: 0, .. }), "{refused:?}");

    let mut swap = Batch::new();
    swap.delete_elements(T, "slots", &[slot(0, task(1)).key]);
    swap.add_elements(T, "slots", &[slot(0, task(9))]);
    socket.commit(&swap).unwrap();
    assert_eq!(called(&netns, &listener, 2), [task(9), task(9)]);
}

#[test]
fn what_was_written_reads_back() {
    let (_netns, mut socket) = world();
    let mut batch = Batch::new();
    vip_table(&mut batch, false);
    batch.add_rule(T, "n1", &[Expr::Counter, Expr::Verdict(Verdict::Return)], b"\x07mark");
    socket.commit(&batch).unwrap();
    let chains = socket.chains(T).unwrap();
    let names: Vec<_> = chains.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["n1", "n2", "n3", "n4", "output"]);
    assert_eq!(chains[0].hook, None);
    assert_eq!(chains[4].hook, Some(OUTPUT_NAT));
    assert_eq!(socket.sets(T).unwrap(), ["slots", "vips"]);
    let rules = socket.rules(T).unwrap();
    assert_eq!(rules.len(), 6);
    assert_eq!(rules[0].exprs, ["payload", "numgen", "lookup", "nat"]);
    assert_eq!((rules[1].chain.as_str(), rules[1].userdata.as_slice()), ("n1", &b"\x07mark"[..]));

    let mut flush = Batch::new();
    flush.flush_chain(T, "n1");
    socket.commit(&flush).unwrap();
    assert_eq!(socket.rules(T).unwrap().len(), 4);
    let other = Table { family: Family::Ip6, name: "t" };
    assert_eq!(socket.chains(other).unwrap(), []);
    assert!(socket.elements(T, "nothing").unwrap_err().is_absent());
    assert!(socket.sets(other).unwrap_err().is_absent());
}

#[test]
fn elements_with_a_time_out_expire_unless_refreshed() {
    let (netns, mut socket) = world();
    let alive = |milliseconds| Element {
        key: 1_u32.to_ne_bytes().to_vec(),
        value: ElementValue::None,
        timeout: Some(Duration::from_millis(milliseconds)),
    };
    let mut batch = Batch::new();
    batch.add_table(T, true);
    batch.add_set(
        T,
        &SetSpec {
            name: "alive",
            key: &[KeyType::Mark],
            value: SetValue::None,
            timeout: true,
            size: None,
        },
    );
    batch.add_elements(T, "alive", &[alive(400)]);
    socket.commit(&batch).unwrap();
    let listed = run(&netns, "nft list ruleset");
    assert!(listed.contains("0x00000001 timeout 400ms expires"), "{listed}");
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(200));
        let mut refresh = Batch::new();
        refresh.flush_set(T, "alive");
        refresh.add_elements(T, "alive", &[alive(400)]);
        socket.commit(&refresh).unwrap();
    }
    assert_eq!(socket.elements(T, "alive").unwrap(), [alive(400)]);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(socket.elements(T, "alive").unwrap(), []);
}

/// Has the kernel take the rules in a chain, and nft list them with these lines.
#[track_caller]
fn listed_as(hook: Hook, rules: &[(&[Expr], &[u8])], lines: &[&str]) {
    let (netns, mut socket) = world();
    let mut batch = Batch::new();
    batch.replace_table(T, false);
    let key = &[KeyType::InetProto, KeyType::InetService];
    let value = SetValue::Pair(KeyType::Ipv4Addr, KeyType::InetService);
    batch.add_set(T, &SetSpec { name: "ports", key, value, timeout: false, size: None });
    let port = concat(&[&[6], &8001_u16.to_be_bytes()]);
    let to_web = ElementValue::Data(concat(&[&[10, 0, 0, 23], &80_u16.to_be_bytes()]));
    batch.add_elements(T, "ports", &[Element { key: port, value: to_web, timeout: None }]);
    batch.add_chain(T, "c", Some(hook));
    for (rule, userdata) in rules {
        batch.add_rule(T, "c", rule, userdata);
    }
    socket.commit(&batch).unwrap();
    let listed = run(&netns, "nft list ruleset");
    for line in [&["tcp . 8001 : 10.0.0.23 . 80"], lines].concat() {
        assert!(listed.contains(line), "`{line}` is missing in\n{listed}");
    }
}

#[test]
fn a_published_port_is_translated_by_protocol_and_port_to_address_and_port() {
    let rule = [
        Expr::FibDaddrType { to: 0 },
        is(0, &2_u32.to_ne_bytes()),
        Expr::Meta { key: MetaKey::L4Proto, to: 0 },
        payload(PayloadBase::Transport, 2, 2, 1),
        Expr::Lookup { set: "ports".to_owned(), from: 0, to: Some(0), invert: false },
        Expr::Nat { kind: NatKind::Dnat, address: 0, port: Some(1) },
    ];
    let line = "fib daddr type local dnat ip to meta l4proto . th dport map @ports";
    listed_as(OUTPUT_NAT, &[(&rule, &[])], &[line]);
}

#[test]
fn packets_are_refused_with_a_reset_or_port_unreachable() {
    let reset = [
        Expr::Meta { key: MetaKey::L4Proto, to: 0 },
        is(0, &[6]),
        Expr::Reject(RejectWith::TcpReset),
    ];
    let rules: [(&[Expr], &[u8]); 2] =
        [(&reset, &[]), (&[Expr::Reject(RejectWith::PortUnreachable)], &[])];
    listed_as(OUTPUT_NAT, &rules, &["\t\treject with tcp reset\n\t\treject\n"]);
}

#[test]
fn sources_are_masqueraded_except_on_one_interface() {
    let post = Hook { kind: ChainKind::Nat, point: HookPoint::Postrouting, priority: 100 };
    let mut name = b"eth1".to_vec();
    name.resize(16, 0);
    let rule = [
        Expr::Meta { key: MetaKey::OifName, to: 0 },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: name },
        Expr::Masquerade,
    ];
    listed_as(post, &[(&rule, &[])], &["oifname != \"eth1\" masquerade"]);
}

#[test]
fn marks_states_and_hashes_are_read_and_written() {
    let route = Hook { kind: ChainKind::Route, point: HookPoint::Output, priority: -150 };
    let marks = [
        Expr::Ct { key: CtKey::State, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask: 6_u32.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expr::Cmp { op: CmpOp::Ne, from: 0, data: vec![0; 4] },
        Expr::Ct { key: CtKey::Mark, to: 0 },
        Expr::MetaSet { key: MetaKey::Mark, from: 0 },
        Expr::Immediate { to: 0, data: 5_u32.to_ne_bytes().to_vec() },
        Expr::CtSet { key: CtKey::Mark, from: 0 },
    ];
    let hash = [
        payload(PayloadBase::Network, 12, 4, 1),
        Expr::Jhash { from: 1, len: 4, modulus: 3, offset: 0, seed: 5, to: 0 },
        is(0, &1_u32.to_ne_bytes()),
        Expr::Verdict(Verdict::Drop),
    ];
    listed_as(
        route,
        &[(&marks, &[]), (&hash, &comment("hashed"))],
        &[
            "type route hook output priority mangle; policy accept;",
            "ct state established,related meta mark set ct mark ct mark set 0x00000005",
            "jhash ip saddr mod 3 seed 0x5 1 drop comment \"hashed\"",
        ],
    );
}

#[test]
fn a_transaction_with_one_wrong_step_changes_nothing_and_names_the_step() {
    let (netns, mut socket) = world();
    let mut batch = Batch::new();
    batch.add_table(T, false);
    batch.add_chain(T, "a", None);
    batch.add_rule(T, "b", &[Expr::Counter], &[]);
    batch.add_chain(T, "c", None);
    let refused = socket.commit(&batch).unwrap_err();
    assert!(refused.is_absent());
    let text =
        "cannot add rule to chain b of table t: it is not there (message 2 of the transaction)";
    assert_eq!(refused.to_string(), text);
    assert_eq!(run(&netns, "nft list ruleset"), "");
    let mut gone = Batch::new();
    gone.delete_table(T);
    assert!(socket.commit(&gone).unwrap_err().is_absent());
    // The socket is as good as before.
    let mut good = Batch::new();
    good.replace_table(T, false);
    socket.commit(&good).unwrap();
    assert_eq!(socket.tables().unwrap().len(), 1);
}

#[test]
fn a_long_name_is_refused_and_nothing_else_happens() {
    let (_netns, mut socket) = world();
    for length in [300, 70_000] {
        let name = "x".repeat(length);
        let mut batch = Batch::new();
        batch.add_table(Table { family: Family::Ip, name: &name }, false);
        assert!(!socket.commit(&batch).unwrap_err().is_absent());
    }
    assert_eq!(socket.tables().unwrap(), []);
}

#[test]
fn many_and_long_elements_are_split_over_messages() {
    let (_netns, mut socket) = world();
    let chain = "c".repeat(200);
    let mut batch = Batch::new();
    batch.add_table(T, false);
    batch.add_chain(T, &chain, None);
    batch.add_set(
        T,
        &SetSpec {
            name: "vips",
            key: &[KeyType::Ipv4Addr],
            value: SetValue::Verdict,
            timeout: false,
            size: Some(65_536),
        },
    );
    let elements: Vec<_> = (0..1200_u32)
        .map(|number| Element {
            key: number.to_be_bytes().to_vec(),
            value: ElementValue::Verdict(Verdict::Jump(chain.clone())),
            timeout: None,
        })
        .collect();
    batch.add_elements(T, "vips", &elements);
    assert!(batch.len() > 3 + 3, "{} messages", batch.len());
    socket.commit(&batch).unwrap();
    let mut found = socket.elements(T, "vips").unwrap();
    found.sort_unstable();
    assert_eq!(found, elements);
}

#[test]
fn a_map_that_changes_while_it_is_read_reads_as_a_whole() {
    let (netns, mut socket) = world();
    let slots = |to| (0..3000).map(|index| slot(index, task(to))).collect::<Vec<_>>();
    let mut batch = Batch::new();
    vip_table(&mut batch, true);
    batch.add_elements(T, "slots", &slots(1));
    socket.commit(&batch).unwrap();
    let mut reader = Socket::open(&netns).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for to in [2, 1].into_iter().cycle().take(60) {
                let mut batch = Batch::new();
                batch.flush_set(T, "slots");
                batch.add_elements(T, "slots", &slots(to));
                socket.commit(&batch).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mut whole = 0;
        while !writer.is_finished() {
            // On a busy machine it may say that it could not be read as a whole.
            let Ok(found) = reader.elements(T, "slots") else { continue };
            whole += 1;
            let ones = found.iter().filter(|it| it.value == slot(0, task(1)).value).count();
            let seen = (found.len(), ones);
            assert!(seen == (3000, 0) || seen == (3000, 3000), "{seen:?}");
        }
        assert!(whole > 0, "it was never read");
    });
}

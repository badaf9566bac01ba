//! The resolver in real network namespaces, asked by real clients.
//!
//! Needs the right to make network namespaces: root, or `unshare -Urnm`.
#![expect(clippy::disallowed_methods, reason = "tests drive real programs, in real time")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]
#![expect(clippy::cast_possible_truncation, reason = "messages of tests are short")]

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use kernel::nft;
use support::{ADDRESS, Driven, Sandbox, Server, eventually, one_world, reply, small_world, world};

#[test]
fn each_sandbox_resolves_the_names_of_its_own_networks_by_udp_and_tcp() {
    let (front, back) = (Sandbox::new(), Sandbox::new());
    let mut driven = Driven::new(None);
    assert_eq!(driven.apply(&world(&front, &back, &[])), 4);
    for tcp in ["", "+tcp"] {
        assert_eq!(front.dig(&format!("{tcp} web")), "10.20.1.2");
        assert_eq!(front.dig(&format!("{tcp} WEB.front")), "10.20.1.2");
        assert_eq!(front.dig(&format!("{tcp} -x 10.20.1.11")), "web.1.front.");
        assert_eq!(back.dig(&format!("{tcp} db")), "10.20.2.31");
        assert!(front.dig_header(&format!("{tcp} db")).contains("status: NXDOMAIN"));
        assert!(back.dig_header(&format!("{tcp} web")).contains("status: NXDOMAIN"));
    }
    assert_eq!(driven.apply(&world(&front, &back, &[])), 0);
}

#[test]
fn glibc_resolves_through_the_address_that_engines_write_into_resolv_conf() {
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox));
    let found = sandbox.run(
        "unshare -m sh -c 'd=$(mktemp -d); printf \"nameserver 127.0.0.11\\noptions ndots:0\\n\" \
         > $d/r; printf \"hosts: dns\\n\" > $d/n; mount --bind $d/n /etc/nsswitch.conf; \
         mount --bind $d/r $(readlink -f /etc/resolv.conf); getent ahosts web; rm -r $d' | head -1",
    );
    assert_eq!(found.split_whitespace().next(), Some("10.1.0.2"), "{found}");
}

#[test]
fn an_application_that_binds_port_53_everywhere_is_not_disturbed() {
    let sandbox = Sandbox::new();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
    let own = Ipv4Addr::new(203, 0, 113, 1);
    let application =
        Server::on(kernel::socket::udp_bound(&sandbox.netns(), any).unwrap(), None, move |query| {
            Some(reply(query, 0, &[own]))
        });
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox));
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    assert_eq!(sandbox.run("dig +short @127.0.0.1 web").trim(), "203.0.113.1");
    assert_eq!(application.asked(), 1);
}

#[test]
fn queries_leave_no_conntrack_entries() {
    let sandbox = Sandbox::new();
    let _engine = sandbox.engine(Ipv4Addr::new(203, 0, 113, 9));
    let count = || sandbox.run("cat /proc/sys/net/netfilter/nf_conntrack_count").trim().to_owned();
    assert_eq!(sandbox.dig("web"), "203.0.113.9");
    let before = count();
    assert_ne!(before, "0", "the engine's way is tracked, or this test sees nothing");
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox));
    for _ in 0..5 {
        assert_eq!(sandbox.dig("web"), "10.1.0.2");
        assert_eq!(sandbox.dig("+tcp web"), "10.1.0.2");
    }
    assert_eq!(count(), before);
}

#[test]
fn the_engine_answers_again_when_the_resolver_is_gone() {
    let sandbox = Sandbox::new();
    let _engine = sandbox.engine(Ipv4Addr::new(203, 0, 113, 9));
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox));
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    drop(driven);
    eventually(Duration::from_secs(2), || sandbox.dig("web"), |it| it == "203.0.113.9");
    assert!(!sandbox.run("nft list tables").contains("portolan"));
}

#[test]
fn a_resolver_that_hangs_loses_its_sandboxes_to_the_engine_and_gets_them_back() {
    let sandbox = Sandbox::new();
    let _engine = sandbox.engine(Ipv4Addr::new(203, 0, 113, 9));
    let mut helper = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "serves_one_sandbox_until_killed", "--nocapture"])
        .env("SANDBOX_WORLD", small_world(&sandbox))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let signal = |name: &str| {
        let id = helper.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
    };
    eventually(Duration::from_secs(5), || sandbox.dig("web"), |it| it == "10.1.0.2");
    std::thread::sleep(Duration::from_secs(4)); // longer than the dead-man's time: it is renewed
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    signal("-STOP");
    let short = "+time=1 web";
    let hung = eventually(Duration::from_secs(6), || sandbox.dig(short), |it| it == "203.0.113.9");
    assert!(hung > Duration::from_millis(500), "it was not hanging: {hung:?}");
    signal("-CONT");
    eventually(Duration::from_secs(4), || sandbox.dig(short), |it| it == "10.1.0.2");
    signal("-KILL");
    helper.wait().unwrap();
    eventually(Duration::from_secs(1), || sandbox.dig(short), |it| it == "203.0.113.9");
}

#[test]
#[ignore = "is the process that another test stops and kills"]
fn serves_one_sandbox_until_killed() {
    let mut driven = Driven::new(None);
    // A world from the shell shows it beside a real engine: SANDBOX_GOSSIP=1 asks that engine too.
    let (world, gossip) =
        (std::env::var("SANDBOX_WORLD").unwrap(), std::env::var("SANDBOX_GOSSIP"));
    assert!(driven.try_apply(&world, gossip.is_ok()).failures.is_empty());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn data_that_changes_reaches_a_sandbox_without_touching_its_sockets_or_its_table() {
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox));
    let state = || sandbox.run("nft -a list table ip portolan_dns | grep -v expires; ss -Hlnut");
    let before = state();
    let changed = small_world(&sandbox).replace("10.1.0.2", "10.1.0.77");
    assert_eq!(driven.apply(&changed), 1);
    assert_eq!(sandbox.dig("web"), "10.1.0.77");
    assert_eq!(state(), before);
}

#[test]
fn vips_that_are_allocated_later_are_answered_from_the_next_compile_on() {
    let sandbox = Sandbox::new();
    let unfixed = small_world(&sandbox).replace("vip = { net = \"10.1.0.2\" }", "");
    let mut driven = Driven::new(None);
    driven.apply(&unfixed);
    assert_eq!(sandbox.dig("web"), "");
    let vip = std::net::IpAddr::from([240, 240, 0, 2]).into();
    driven.vips.send_replace(
        [(("web".into(), "net".into()), vip)]
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>()
            .into(),
    );
    assert_eq!(driven.apply(&unfixed), 1);
    assert_eq!(sandbox.dig("web"), "240.240.0.2");
}

#[test]
fn an_answer_too_large_for_a_datagram_is_cut_whole_and_given_over_tcp() {
    let sandbox = Sandbox::new();
    let mut text = small_world(&sandbox);
    text.push_str("\n[[service]]\nname = \"big\"\nmode = \"dnsrr\"\nnetworks = [\"net\"]\n");
    for task in 0..200 {
        write!(
            text,
            "[[task]]\nname = \"big.{task}\"\nservice = \"big\"\n\
             addresses = {{ net = \"10.1.7.{task}\" }}\n"
        )
        .unwrap();
    }
    let mut driven = Driven::new(None);
    driven.apply(&text);
    for size in ["+noedns", "+bufsize=512", "+bufsize=4096"] {
        let cut = sandbox.dig_header(&format!("{size} +ignore big"));
        assert!(cut.contains(" tc") && cut.contains("ANSWER: 0"), "{cut}");
    }
    assert_eq!(sandbox.dig("big").split(' ').count(), 200);
}

#[test]
fn a_sandbox_whose_namespace_is_gone_is_let_go() {
    let host = Sandbox::new(); // stands for the host: its end of the veth shows when it is freed
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox));
    let pid = sandbox.path();
    let pid = pid.to_str().unwrap().split('/').nth(2).unwrap().to_owned();
    host.run(&format!("ip link add outer type veth peer name inner netns {pid}"));
    let world = small_world(&sandbox);
    drop(sandbox);
    let links = || host.run("ip -br link");
    eventually(Duration::from_secs(4), links, |it| !it.contains("outer"));
    // Still wanted, and not there: said, and no reason to hurry.
    let outcome = driven.try_apply(&world, false);
    assert!(!outcome.failures.is_empty() && !outcome.failures.has_errors(), "{outcome:?}");
}

#[test]
fn a_table_that_somebody_else_owns_is_a_note_on_that_sandbox_and_delays_no_other() {
    let (front, back) = (Sandbox::new(), Sandbox::new());
    let mut squatter = nft::Socket::open(&front.netns()).unwrap();
    let mut batch = nft::Batch::new();
    batch.add_table(nft::Table { family: nft::Family::Ip, name: "portolan_dns" }, true);
    squatter.commit(&batch).unwrap();
    let mut driven = Driven::new(None);
    let world = world(&front, &back, &[]);
    let outcome = driven.try_apply(&world, false);
    let notes: Vec<_> = outcome.failures.iter().collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!(notes[0].subject, "sandbox web.1");
    assert!(notes[0].text.contains("another process owns it"), "{}", notes[0]);
    assert!(!notes[0].remedy.is_empty());
    assert_eq!(back.dig("db"), "10.20.2.31");
    drop(squatter);
    eventually(
        Duration::from_secs(2),
        || driven.try_apply(&world, false).failures,
        registry::Notes::is_empty,
    );
    assert_eq!(front.dig("web"), "10.20.1.2");
}

#[test]
fn what_is_left_of_a_table_is_replaced_and_can_be_cleaned_up() {
    let sandbox = Sandbox::new();
    assert!(!resolver::cleanup(&sandbox.netns()).unwrap());
    let leftover = "nft 'add table ip portolan_dns; add chain ip portolan_dns output \
                    { type filter hook output priority -300; policy drop; }'";
    sandbox.run(leftover);
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox));
    assert_eq!(sandbox.dig("web"), "10.1.0.2");
    drop(driven);
    eventually(
        Duration::from_secs(2),
        || sandbox.run("nft list tables"),
        |it| !it.contains("portolan_dns"),
    );
    sandbox.run(leftover);
    assert!(resolver::cleanup(&sandbox.netns()).unwrap());
    assert!(!sandbox.run("nft list tables").contains("portolan_dns"));
}

#[test]
fn nonsense_gets_no_reply_or_one_no_longer_than_itself() {
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&small_world(&sandbox));
    let client = sandbox.client();
    let mut buffer = [0; 4096];
    let pointer_loop = b"\0\x03\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01";
    let two_questions = b"\0\x04\x01\0\0\x02\0\0\0\0\0\0\x03web\0\0\x01\0\x01\x03web\0\0\x01\0\x01";
    let many_questions = b"\0\x05\x01\0\xff\xff\0\0\0\0\0\0\x03web\0";
    for nonsense in [&pointer_loop[..], &two_questions[..], &many_questions[..]] {
        client.send(nonsense).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!((length, &buffer[..2], buffer[3] & 15), (12, &nonsense[..2], 1));
    }
    // Replies and runts: silence. What is answered next is the good query.
    client.send(b"\0\x07\x81\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01").unwrap();
    client.send(b"\0\x08\x01").unwrap();
    client.send(b"\0\x09\x01\0\0\x01\0\0\0\0\0\0\x03wEb\0\0\x01\0\x01").unwrap();
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..2], b"\0\x09");
    assert_eq!(&buffer[12..17], b"\x03wEb\0");
    assert_eq!(&buffer[length - 4..length], [10, 1, 0, 2]);
}

#[test]
fn a_tcp_connection_takes_many_questions_in_any_pieces_and_ends_on_nonsense() {
    let upstream = Server::start(|query| {
        std::thread::sleep(Duration::from_millis(100));
        Some(reply(query, 0, &[Ipv4Addr::new(198, 51, 100, 7)]))
    });
    let sandbox = Sandbox::new();
    let mut driven = Driven::new(None);
    driven.apply(&one_world(&sandbox, &[upstream.address.to_string()], "host"));
    let connect = || {
        let target = SocketAddr::from((ADDRESS, 53));
        sandbox.netns().run(|| std::net::TcpStream::connect(target).unwrap()).unwrap()
    };
    let slow = b"\0\x24\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    let slow = [&(slow.len() as u16 - 2).to_be_bytes(), &slow[2..]].concat();
    let quick = b"\0\x15\0\x02\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
    let mut stream = connect();
    stream.write_all(&[&slow[..], &quick[..7]].concat()).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(&quick[7..]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let first = usize::from(u16::from_be_bytes([all[0], all[1]]));
    // The quick one did not wait for the slow one, and both came though our side was closed.
    assert_eq!(all[2..4], [0, 2]);
    assert_eq!(all[first + 4..first + 6], [0, 1]);
    let mut stream = connect();
    stream.write_all(b"\0\0").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn operators_ask_on_the_host() {
    let sockets = resolver::HostSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = sockets.udp.local_addr().unwrap().port();
    let (front, back) = (Sandbox::new(), Sandbox::new());
    let mut driven = Driven::new(Some(sockets));
    driven.apply(&world(&front, &back, &[]));
    let dig = |what: &str| {
        let words = format!("@127.0.0.1 -p {port} +time=2 +tries=1 {what}");
        let done = std::process::Command::new("dig").args(words.split(' ')).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(dig("+short web.front").trim(), "10.20.1.2");
    assert_eq!(dig("+short +tcp db.back").trim(), "10.20.2.31");
    assert_eq!(dig("+short -x 10.20.2.31").trim(), "db.back.");
    assert!(dig("web").contains("NXDOMAIN"));
    assert!(dig("example.com").contains("REFUSED"));
}

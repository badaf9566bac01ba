//! Ways outside, with a server of a few lines that counts what it is asked.

mod apart;
mod ends;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use registry::model::Dial;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::respond::Whom;
use crate::upstream::UpstreamConfig;
use crate::upstream::cache::replies::{query, records, reply};
use crate::upstream::limits::SandboxLimits;
use crate::upstream::register::Register;
use crate::upstream::server::{Protocol, Server};
use crate::wire::{Edns, Header, Kind};

/// A server on loopback that answers each question with 198.51.100.7 once there is leave to.
struct Fake {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    leave: Arc<Semaphore>,
    _serving: JoinSet<()>,
}

impl Fake {
    /// One that answers as many questions as `leave` says.
    async fn answering(leave: usize) -> Self {
        Self::saying(answer, leave).await
    }

    /// The same, in other words.
    async fn saying(answer: fn(&[u8]) -> Vec<u8>, leave: usize) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (asked, leave) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(leave)));
        let mut serving = JoinSet::new();
        let (count, may) = (Arc::clone(&asked), Arc::clone(&leave));
        serving.spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, SeqCst);
                may.acquire().await.unwrap().forget();
                socket.send_to(&answer(&buffer[..length]), client).await.unwrap();
            }
        });
        Self { address, asked, leave, _serving: serving }
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn server(&self, dial: Dial) -> Server {
        Server { address: self.address, dial, protocol: Protocol::Plain, trusts_ad: false }
    }
}

/// The reply to a question: an address for a minute.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while question[end] != 0 {
        end += 1 + usize::from(question[end]);
    }
    let mut reply = question[..end + 5].to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80;
    reply[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64\x07");
    reply
}

fn policy(config: &UpstreamConfig) -> Arc<Policy> {
    Arc::new(Policy::new(config, &Arc::new(Register::default())))
}

fn realm(policy: &Arc<Policy>) -> Arc<Realm> {
    let place = Place { netns: "/proc/self/ns/net".into(), cookie: None };
    Arc::new(Realm::new(policy, Door::open().unwrap(), place))
}

const fn asker<'a>(servers: &'a [Server], subnets: &'a [IpNet]) -> Asker<'a> {
    Asker { servers, subnets }
}

async fn ask(realm: &Realm, servers: &[Server], query: &Query) -> Result<Given, Reason> {
    let leave = SandboxLimits::new(Instant::now()).leave(Whom::Upstream).unwrap();
    realm.enter(asker(servers, &[]));
    realm.resolve(asker(servers, &[]), &leave, query, Transport::Udp).await
}

/// Puts into the circle of `servers` that `name` has had an address, for so many seconds from now.
fn known(realm: &Realm, servers: &[Server], name: &str, ttl: u32) {
    let asked = query(name, Kind::A);
    let said = reply(&asked, 0, [1, 0, 0], &records(&[("", 1, ttl, &[192, 0, 2, 1])]));
    let circle = realm.enter(asker(servers, &[]));
    circle.cache().insert(&asked, &said, Instant::now().into_std());
}

fn code(octets: &[u8]) -> Rcode {
    Header::read(octets).unwrap().rcode()
}

const NO_DO: Option<Edns> = Some(Edns { size: 1232, dnssec_ok: false });
const DO: Option<Edns> = Some(Edns { size: 1232, dnssec_ok: true });

#[tokio::test]
async fn a_hundred_who_ask_the_same_at_once_cost_one_question_and_each_is_told_in_his_own_words() {
    let fake = Fake::answering(0).await;
    let (servers, policy) = ([fake.server(Dial::Host)], policy(&UpstreamConfig::default()));
    let realms = [realm(&policy), realm(&policy)];
    let mut asking = JoinSet::new();
    for id in 0..100_u16 {
        let name = if id % 3 == 0 { "www.Example" } else { "WWW.eXample" };
        let edns = [None, NO_DO][usize::from(id % 2)];
        let query = Query { id, edns, ..query(name, Kind::A) };
        let (realm, servers) = (Arc::clone(&realms[usize::from(id % 2)]), servers.clone());
        asking.spawn(async move { (ask(&realm, &servers, &query).await, query) });
    }
    while policy.register.in_flight() == 0 || fake.asked() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    fake.leave.add_permits(1);
    while let Some(done) = asking.join_next().await {
        let (given, query) = done.unwrap();
        let (octets, source) = given.unwrap();
        assert_eq!(source, Source::Upstream);
        assert_eq!(octets[..2], query.id.to_be_bytes());
        assert!(octets[12..].starts_with(query.name.wire()), "in the asker's own case");
        assert_eq!(octets[11], u8::from(query.edns.is_some()), "EDNS for those who have it");
    }
    assert_eq!(fake.asked(), 1);
    let given = ask(&realms[0], &servers, &query("www.example", Kind::A)).await.unwrap();
    assert_eq!((given.1, fake.asked(), policy.register.in_flight()), (Source::Cache, 1, 0));
}

#[tokio::test]
async fn with_signatures_and_without_are_two_questions() {
    let fake = Fake::answering(2).await;
    let (servers, policy) = ([fake.server(Dial::Host)], policy(&UpstreamConfig::default()));
    let realm = realm(&policy);
    let [signed, plain] = [DO, NO_DO].map(|edns| Query { edns, ..query("a.example", Kind::A) });
    let (one, other) = tokio::join!(ask(&realm, &servers, &signed), ask(&realm, &servers, &plain));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(fake.asked(), 2);
}

#[tokio::test]
async fn a_question_goes_on_when_the_one_who_asked_it_leaves() {
    let fake = Fake::answering(0).await;
    let (servers, policy) = ([fake.server(Dial::Host)], policy(&UpstreamConfig::default()));
    let realm = realm(&policy);
    let asked = query("a.example", Kind::A);
    let mut leaving = JoinSet::new();
    let (first, of) = (Arc::clone(&realm), servers.clone());
    let question = asked.clone();
    leaving.spawn(async move { ask(&first, &of, &question).await });
    while fake.asked() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    leaving.shutdown().await;
    fake.leave.add_permits(1);
    assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, Source::Upstream);
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn questions_end_with_the_last_sandbox_of_their_circle() {
    let fake = Fake::answering(0).await;
    let (servers, policy) = ([fake.server(Dial::Host)], policy(&UpstreamConfig::default()));
    let realm = realm(&policy);
    let mut leaving = JoinSet::new();
    let (first, of) = (Arc::clone(&realm), servers.clone());
    leaving.spawn(async move { ask(&first, &of, &query("a.example", Kind::A)).await });
    while fake.asked() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    leaving.shutdown().await;
    assert_eq!((policy.register.in_flight(), policy.register.states().len()), (1, 1));
    drop(realm);
    while policy.register.in_flight() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(policy.register.states(), []);
}

#[tokio::test]
async fn sandboxes_share_what_servers_of_the_host_said_and_nothing_of_servers_inside() {
    let policy = policy(&UpstreamConfig::default());
    let realms = [realm(&policy), realm(&policy)];
    let server = |dial| Server {
        address: "192.0.2.53:53".parse().unwrap(),
        dial,
        protocol: Protocol::Plain,
        trusts_ad: false,
    };
    let fast = Server { address: "192.0.2.54:53".parse().unwrap(), ..server(Dial::Host) };
    let asked = query("a.example", Kind::A);
    for (servers, shared) in [
        (&[server(Dial::Host)][..], true),
        (&[server(Dial::Sandbox)][..], false),
        (&[fast.clone(), server(Dial::Sandbox)][..], false),
        (&[fast, server(Dial::Host)][..], true),
    ] {
        known(&realms[0], servers, "a.example", 60);
        let [own, other] = [0, 1].map(|at: usize| {
            let kept = realms[at].enter(asker(servers, &[])).kept(&asked, Transport::Udp);
            matches!(kept, Kept::Settled(_))
        });
        assert_eq!((own, other), (true, shared), "{servers:?}");
        let states = policy.register.states();
        assert!(states.iter().all(|it| it.sandboxes == 2), "{states:?}");
    }
}

#[tokio::test]
async fn who_asks_other_servers_takes_nothing_along() {
    let policy = policy(&UpstreamConfig::default());
    let realm = realm(&policy);
    let servers = |last: u8| {
        let address = SocketAddr::from(([192, 0, 2, last], 53));
        [Server { address, dial: Dial::Host, protocol: Protocol::Plain, trusts_ad: false }]
    };
    let asked = query("a.example", Kind::A);
    known(&realm, &servers(1), "a.example", 60);
    let holds = |last| realm.enter(asker(&servers(last), &[])).kept(&asked, Transport::Udp);
    assert!(matches!(holds(1), Kept::Settled(_)));
    assert!(matches!(holds(2), Kept::Nothing));
    assert!(matches!(holds(1), Kept::Nothing), "the last one left it meanwhile");
    assert_eq!(policy.register.cache().bytes, 0);
}

#[tokio::test]
async fn what_is_held_back_from_one_sandbox_is_told_to_another_that_may_know_it() {
    let config = UpstreamConfig { rebinding_filter: true, ..UpstreamConfig::default() };
    let (fake, policy) = (Fake::answering(9).await, policy(&config));
    let (servers, realms) = ([fake.server(Dial::Host)], [(); 3].map(|()| realm(&policy)));
    let leave = SandboxLimits::new(Instant::now()).leave(Whom::Upstream).unwrap();
    let inside: [IpNet; 1] = ["198.51.100.0/24".parse().unwrap()];
    let outside: [IpNet; 1] = ["10.9.0.0/24".parse().unwrap()];
    let asked = Query { edns: NO_DO, ..query("a.example", Kind::A) };
    for (at, subnets, addresses) in [(0, &inside, 0), (1, &outside, 1), (2, &outside, 1)] {
        for _ in 0..2 {
            let asker = asker(&servers, subnets);
            realms[at].enter(asker);
            let given = realms[at].resolve(asker, &leave, &asked, Transport::Udp).await;
            let (octets, _) = given.unwrap();
            assert_eq!((code(&octets), octets[7]), (Rcode::NOERROR, addresses), "{at}");
        }
    }
    assert_eq!(fake.asked(), 2, "the two on the same subnets share");
    assert!(realms[0].member.load().is_some());
}

#[tokio::test]
async fn held_back_answers_are_no_data_with_the_reason_though_nothing_is_kept() {
    let config =
        UpstreamConfig { rebinding_filter: true, cache_bytes: 0, ..UpstreamConfig::default() };
    let (fake, policy) = (Fake::answering(9).await, policy(&config));
    let realm = realm(&policy);
    let (servers, leave) = (
        [fake.server(Dial::Host)],
        SandboxLimits::new(Instant::now()).leave(Whom::Upstream).unwrap(),
    );
    let subnets: [IpNet; 1] = ["198.51.100.0/24".parse().unwrap()];
    let asked = Query { edns: NO_DO, ..query("a.example", Kind::A) };
    let given = realm.resolve(asker(&servers, &subnets), &leave, &asked, Transport::Udp).await;
    let (octets, _) = given.unwrap();
    assert_eq!((code(&octets), octets[7]), (Rcode::NOERROR, 0));
    assert!(octets.ends_with(&[0, 15, 0, 2, 0, 15]), "{octets:?}");
}

/// A way to a server that says nothing, and its list.
async fn silent() -> (Fake, Arc<Realm>, [Server; 1]) {
    let fake = Fake::answering(0).await;
    let servers = [fake.server(Dial::Host)];
    (fake, realm(&policy(&UpstreamConfig::default())), servers)
}

#[tokio::test(start_paused = true)]
async fn what_was_true_is_told_after_1800_ms_of_silence_and_then_at_once() {
    let (_fake, realm, servers) = silent().await;
    known(&realm, &servers, "a.example", 60);
    advance(Duration::from_secs(100)).await;
    let asked = query("a.example", Kind::A);
    let waited = |begun: Instant| begun.elapsed().as_millis();
    let begun = Instant::now();
    assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, Source::Stale);
    assert!((1800..1810).contains(&waited(begun)), "{}", waited(begun));
    // The question goes on; who asks meanwhile has nothing to wait for.
    let begun = Instant::now();
    assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, Source::Stale);
    assert!(waited(begun) < 10, "{}", waited(begun));
    assert_eq!(realm.policy.register.in_flight(), 1);
    sleep(Duration::from_secs(3)).await; // it is over
    assert_eq!(realm.policy.register.in_flight(), 0);
    for seconds in [0, 6] {
        // They failed a moment ago; then: they are asked again, behind the answer.
        sleep(Duration::from_secs(seconds)).await;
        let begun = Instant::now();
        assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, Source::Stale);
        assert!(waited(begun) < 10, "{}", waited(begun));
        assert_eq!(realm.policy.register.in_flight(), usize::from(seconds > 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_popular_name_near_its_end_is_told_at_once_and_asked_for_behind() {
    let (fake, realm, servers) = silent().await;
    known(&realm, &servers, "a.example", 60);
    let asked = query("a.example", Kind::A);
    let mut out = [0; 1232];
    let recalled = |out: &mut [u8]| {
        let asked = Asked::of(&asked, Transport::Udp);
        realm.recall(asker(&servers, &[]), &asked, out).is_some()
    };
    assert!(recalled(&mut out) && recalled(&mut out));
    advance(Duration::from_secs(56)).await;
    assert!(!recalled(&mut out), "somebody should ask");
    let begun = Instant::now();
    assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, Source::Cache);
    assert!(begun.elapsed() < Duration::from_millis(10));
    assert_eq!(realm.policy.register.in_flight(), 1);
    assert!(recalled(&mut out), "somebody does");
    while fake.asked() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_for_one_who_does_not_want_recursion() {
    let (_fake, realm, servers) = silent().await;
    let without = Query { recursion_desired: false, ..query("a.example", Kind::A) };
    let refused = ask(&realm, &servers, &without).await.unwrap();
    assert_eq!((code(&refused.0), refused.1), (Rcode::REFUSED, Source::Refused));
    known(&realm, &servers, "a.example", 60);
    assert_eq!(ask(&realm, &servers, &without).await.unwrap().1, Source::Cache);
    advance(Duration::from_secs(100)).await;
    assert_eq!(ask(&realm, &servers, &without).await.unwrap().1, Source::Refused);
    assert_eq!(realm.policy.register.in_flight(), 0);
}

/// Fails unless one with these limits is refused at once, and told what was true.
async fn is_refused(realm: &Realm, servers: &[Server], limits: &SandboxLimits) {
    known(realm, servers, "old.example", 1);
    advance(Duration::from_secs(100)).await;
    // One after the other: it is the bucket that is empty then.
    let admitted = || {
        realm.policy.register.limits.admit(&limits.leave(Whom::Upstream).unwrap(), Instant::now())
    };
    while admitted().is_ok() {}
    let begun = Instant::now();
    for (name, expected) in [("new.example", Err(Reason::Busy)), ("old.example", Ok(Source::Stale))]
    {
        let (leave, query) = (limits.leave(Whom::Upstream).unwrap(), query(name, Kind::A));
        let given = realm.resolve(asker(servers, &[]), &leave, &query, Transport::Udp).await;
        assert_eq!(given.map(|it| it.1), expected);
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_asks_too_fast_is_refused_at_once_and_still_told_what_was_true() {
    let (_fake, realm, servers) = silent().await;
    let (fast, other) = (SandboxLimits::new(Instant::now()), SandboxLimits::new(Instant::now()));
    is_refused(&realm, &servers, &fast).await;
    let leave = other.leave(Whom::Upstream).unwrap();
    assert!(realm.policy.register.limits.admit(&leave, Instant::now()).is_ok(), "but not another");
}

#[tokio::test(start_paused = true)]
async fn where_all_together_ask_too_much_nobody_waits_for_leave() {
    let (_fake, realm, servers) = silent().await;
    let all: Vec<_> = std::iter::from_fn(|| realm.policy.register.limits.own()).collect();
    is_refused(&realm, &servers, &SandboxLimits::new(Instant::now())).await;
    drop(all);
    let asked = query("new.example", Kind::A);
    assert_eq!(ask(&realm, &servers, &asked).await.err(), Some(Reason::Unreachable));
}

#[tokio::test]
async fn flushing_forgets_what_is_kept_of_all_and_not_how_servers_are() {
    let (fake, policy) = (Fake::answering(9).await, policy(&UpstreamConfig::default()));
    let realms = [realm(&policy), realm(&policy)];
    for (realm, dial) in realms.iter().zip([Dial::Host, Dial::Sandbox]) {
        known(realm, &[fake.server(dial)], "a.example", 60);
    }
    ask(&realms[0], &[fake.server(Dial::Host)], &query("b.example", Kind::A)).await.unwrap();
    let before = policy.register.cache();
    assert_eq!((before.entries, before.misses), (3, 1));
    let flushed = policy.register.flush();
    assert_eq!((flushed.entries, flushed.bytes), (3, before.bytes));
    let after = policy.register.cache();
    assert_eq!((after.entries, after.bytes), (0, 0));
    let states = policy.register.states();
    let standing: Vec<_> = states.iter().map(|it| (it.server.dial, it.standing)).collect();
    let (up, unknown) = (crate::Standing::Up, crate::Standing::Unknown);
    assert_eq!(standing, [(Dial::Host, up), (Dial::Sandbox, unknown)]);
    assert!(states[0].rtt.is_some());
}

#[tokio::test]
async fn names_without_a_server_of_their_suffix_are_nobody_s() {
    let realm = realm(&policy(&UpstreamConfig::default()));
    let asked = query("a.example", Kind::A);
    assert_eq!(ask(&realm, &[], &asked).await.err(), Some(Reason::NoServers));
}

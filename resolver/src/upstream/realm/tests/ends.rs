//! How questions end that nobody answers, or not as he should, and those beside which something else
//! happens.

use super::*;
use crate::Standing;

fn standing(policy: &Policy) -> Vec<Standing> {
    policy.register.states().iter().map(|it| it.standing).collect()
}

/// That the answer is too long for a datagram.
fn cut(question: &[u8]) -> Vec<u8> {
    let mut reply = answer(question);
    reply[2] |= 2;
    reply[7] = 0;
    reply.truncate(reply.len() - 16);
    reply
}

#[tokio::test(start_paused = true)]
async fn servers_that_say_nothing_at_all_are_learnt_to_be_dead() {
    let (fakes, policy) =
        ([Fake::answering(0).await, Fake::answering(0).await], policy(&UpstreamConfig::default()));
    let (realm, servers) = (realm(&policy), fakes.each_ref().map(|it| it.server(Dial::Host)));
    for (name, expected) in [("a.example", Standing::Failing), ("b.example", Standing::Down)] {
        let given = ask(&realm, &servers, &query(name, Kind::A)).await;
        assert_eq!(given.err(), Some(Reason::Unreachable));
        assert_eq!(standing(&policy), [expected; 2]);
    }
}

#[tokio::test]
async fn a_server_that_cuts_and_takes_no_connection_has_answered_and_who_comes_by_udp_is_told() {
    let (fake, policy) = (Fake::saying(cut, 9).await, policy(&UpstreamConfig::default()));
    let (realm, servers) = (realm(&policy), [fake.server(Dial::Host)]);
    let (octets, source) = ask(&realm, &servers, &query("a.example", Kind::A)).await.unwrap();
    assert_eq!((code(&octets), octets[2] & 2, source), (Rcode::NOERROR, 2, Source::Upstream));
    assert_eq!(standing(&policy), [Standing::Up]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_by_tcp_gets_what_was_true_rather_than_half_an_answer() {
    let (fake, policy) = (Fake::saying(cut, 9).await, policy(&UpstreamConfig::default()));
    let (realm, servers) = (realm(&policy), [fake.server(Dial::Host)]);
    let leave = SandboxLimits::new(Instant::now()).leave(Whom::Upstream).unwrap();
    for (name, expected) in [("new.example", Source::Upstream), ("old.example", Source::Stale)] {
        known(&realm, &servers, "old.example", 60);
        advance(Duration::from_secs(100)).await;
        let query = query(name, Kind::A);
        let given = realm.resolve(asker(&servers, &[]), &leave, &query, Transport::Tcp).await;
        let (octets, source) = given.unwrap();
        assert_eq!(source, expected, "{name}");
        assert_eq!(code(&octets) == Rcode::SERVFAIL, source == Source::Upstream, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_gets_no_leave_is_left_to_the_next() {
    let (_fake, realm, servers) = silent().await;
    known(&realm, &servers, "a.example", 60);
    let asked = query("a.example", Kind::A);
    for _ in 0..3 {
        assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, Source::Cache);
    }
    advance(Duration::from_secs(56)).await;
    let all: Vec<_> = std::iter::from_fn(|| realm.policy.register.limits.own()).collect();
    assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, Source::Cache);
    drop(all);
    assert_eq!(realm.policy.register.in_flight(), 0);
    assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, Source::Cache);
    assert_eq!(realm.policy.register.in_flight(), 1);
    assert_eq!(realm.policy.register.cache().misses, 0);
}

#[tokio::test]
async fn a_question_from_before_a_change_does_not_change_the_sandbox_back() {
    let (before, now) = (Fake::answering(9).await, Fake::answering(9).await);
    let policy = policy(&UpstreamConfig::default());
    let realm = realm(&policy);
    let [old, new] = [before, now].map(|it| [it.server(Dial::Host)]);
    realm.enter(asker(&old, &[]));
    realm.enter(asker(&new, &[]));
    let leave = SandboxLimits::new(Instant::now()).leave(Whom::Upstream).unwrap();
    let asked = query("a.example", Kind::A);
    // Nobody answers where the fake is gone; what matters is where the sandbox is then.
    drop(realm.resolve(asker(&old, &[]), &leave, &asked, Transport::Udp).await);
    let member = realm.member.load_full().unwrap();
    assert!(member.0.is_of(asker(&new, &[])));
    assert_eq!(policy.register.states().len(), 1, "nobody is left in the old one");
}

#[tokio::test]
async fn what_was_asked_before_a_flush_is_told_and_not_kept_after_it() {
    let (fake, policy) = (Fake::answering(0).await, policy(&UpstreamConfig::default()));
    let (realm, servers) = (realm(&policy), [fake.server(Dial::Host)]);
    let asked = query("a.example", Kind::A);
    let mut asking = JoinSet::new();
    let (one, of, question) = (Arc::clone(&realm), servers.clone(), asked.clone());
    asking.spawn(async move { ask(&one, &of, &question).await });
    while fake.asked() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    policy.register.flush();
    fake.leave.add_permits(9);
    let given = asking.join_next().await.unwrap().unwrap();
    assert_eq!(given.unwrap().1, Source::Upstream);
    assert_eq!(policy.register.cache().entries, 0);
    for expected in [Source::Upstream, Source::Cache] {
        assert_eq!(ask(&realm, &servers, &asked).await.unwrap().1, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_told_what_was_true_has_not_missed() {
    let (_fake, realm, servers) = silent().await;
    known(&realm, &servers, "old.example", 60);
    advance(Duration::from_secs(100)).await;
    for (name, missed) in [("old.example", 0), ("new.example", 1)] {
        drop(ask(&realm, &servers, &query(name, Kind::A)).await);
        assert_eq!(realm.policy.register.cache().misses, missed, "{name}");
    }
}

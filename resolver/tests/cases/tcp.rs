//! E. Streams (RFC 7766, RFC 9210).

use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::client::{A, Ask, Client, NOERROR, QR, SERVFAIL, Said, Stream};
use super::upstream::{FOREIGN, Upstream, addresses};
use super::world::World;

fn slow() -> Upstream {
    Upstream::answering(|query| {
        std::thread::sleep(Duration::from_millis(150));
        Some(addresses(query, &[FOREIGN]))
    })
}

#[test]
fn case_40_two_questions_in_one_segment_are_both_answered_each_under_its_id() {
    let world = World::new();
    let mut stream = world.stream();
    let asks = [Ask::new("web", A).id(7), Ask::new("db", A).id(8)];
    stream.send(&asks.each_ref().map(Ask::framed).concat());
    let mut ids = [stream.receive(), stream.receive()].map(|it| Said::read(&it).id());
    ids.sort_unstable();
    assert_eq!(ids, [7, 8]);
}

#[test]
fn case_40_a_question_may_come_octet_by_octet_its_length_too() {
    let world = World::new();
    let mut stream = world.stream();
    for octet in Ask::new("web", A).framed() {
        stream.send(&[octet]);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(Said::read(&stream.receive()).answers(), ["A 10.20.1.2"]);
}

#[test]
fn case_40_many_questions_on_one_connection_one_after_another_are_answered() {
    let world = World::new();
    let mut stream = world.stream();
    for id in 0..500 {
        assert_eq!(stream.ask(&Ask::new("web", A).id(id)).answers(), ["A 10.20.1.2"]);
    }
    assert_eq!(world.driven.resolver.meter().counts().connections, 1);
}

#[test]
fn case_40_an_answer_of_ours_does_not_wait_for_one_from_outside() {
    let world = World::asking(slow());
    let mut stream = world.stream();
    let asks = [Ask::new("example.com", A).id(1), Ask::new("web", A).id(2)];
    stream.send(&asks.each_ref().map(Ask::framed).concat());
    assert_eq!([stream.receive(), stream.receive()].map(|it| Said::read(&it).id()), [2, 1]);
}

#[test]
fn case_40_a_hundred_pipelined_questions_outside_are_all_answered() {
    let world = World::new();
    let mut stream = world.stream();
    let asks: Vec<u8> =
        (0..100).flat_map(|id| Ask::new(&format!("n{id}.example"), A).id(id).framed()).collect();
    stream.send(&asks);
    let mut ids: Vec<_> = (0..100)
        .map(|_| {
            let said = Said::read(&stream.receive());
            assert_eq!(said.code(), NOERROR);
            said.id()
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..100).collect::<Vec<_>>());
}

#[test]
fn case_40_length_0_a_runt_and_a_reply_close_the_connection() {
    let world = World::new();
    for nonsense in [b"\0\0".to_vec(), b"\0\x03abc".to_vec(), Ask::new("web", A).flags(QR).framed()]
    {
        let mut stream = world.stream();
        stream.send(&nonsense);
        stream.is_closed();
    }
}

#[test]
fn case_40_a_client_that_closed_its_side_still_gets_its_answers() {
    let world = World::asking(slow());
    let mut stream = world.stream();
    stream.send(&Ask::new("example.com", A).framed());
    stream.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Said::read(&stream.receive()).answers(), ["A 198.51.100.7"]);
    stream.is_closed();
}

#[test]
fn case_40_a_promise_of_65535_octets_that_never_come_is_closed_after_the_idle_time() {
    let world = World::new();
    let mut stream = world.stream();
    let begun = Instant::now();
    stream.send(b"\xff\xff");
    stream.is_closed();
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn case_40_a_thousand_idle_connections_block_no_datagram_and_no_other_sandbox() {
    let world = World::new();
    let idle: Vec<_> = (0..1000).map(|_| Stream::connecting(&world.sandbox)).collect();
    let client = world.client();
    for _ in 0..20 {
        client.lives();
    }
    let other = Stream::of(&world.inner).ask(&Ask::new("db", A));
    assert_eq!(other.answers(), ["A 10.40.0.31"]);
    assert_eq!(Client::of(&world.inner).answers("db", A), ["A 10.40.0.31"]);
    drop(idle);
}

#[test]
fn case_40_a_thousand_idle_connections_block_no_other_connection_of_their_sandbox() {
    let world = World::new();
    let idle: Vec<_> = (0..1000).map(|_| Stream::connecting(&world.sandbox)).collect();
    let mut stream = world.stream();
    stream.0.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    assert_eq!(stream.ask(&Ask::new("web", A)).answers(), ["A 10.20.1.2"]);
    drop(idle);
}

#[test]
fn case_40_an_upstream_server_that_resets_is_servfail() {
    let world = World::asking(Upstream::resetting());
    let said = world.stream().ask(&Ask::new("example.com", A));
    assert_eq!((said.code(), said.counts()[1]), (SERVFAIL, 0));
    assert_eq!(world.stream().ask(&Ask::new("web", A)).code(), NOERROR);
}

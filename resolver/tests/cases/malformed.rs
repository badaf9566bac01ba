//! A. What is no well-formed message (RFC 1035 section 4.1, RFC 9267, RFC 9619).

use super::client::{A, Ask, FORMERR, NOERROR, NOTIMP, NXDOMAIN, OPT, Said, framed, opt, wire};
use super::world::World;

/// A header with one question and no records.
const ONE: &[u8] = b"\x0a\x0b\x01\0\0\x01\0\0\0\0\0\0";

fn one(name: &[u8]) -> Vec<u8> {
    [ONE, name, b"\0\x01\0\x01"].concat()
}

#[test]
fn case_01_a_datagram_of_0_to_11_octets_gets_silence_and_is_counted() {
    let world = World::new();
    let client = world.client();
    let whole = Ask::new("web", A).octets();
    for length in 0..12 {
        client.silent(&whole[..length]);
    }
    assert_eq!(world.driven.resolver.meter().counts().silenced, 12);
}

#[test]
fn case_02_a_header_without_a_question_is_formerr_with_its_id_and_no_question() {
    let world = World::new();
    let client = world.client();
    client.refused(b"\x12\x34\x01\0\0\0\0\0\0\0\0\0", FORMERR);
    client.refused(b"\x12\x35\0\0\0\0\0\0\0\0\0\0", FORMERR);
    // With an opcode that is not known, that comes first; it is echoed.
    client.refused(b"\x12\x36\x11\0\0\0\0\0\0\0\0\0", NOTIMP);
    // A DNS cookie would make it legal (RFC 7873 section 5.4): over loopback we have none.
    let cookie = opt(1232, 0, 0, b"\0\x0a\0\x08clientck");
    client.refused(&[b"\x12\x37\x01\0\0\0\0\0\0\0\0\x01", &cookie[..]].concat(), FORMERR);
}

#[test]
fn case_03_two_questions_are_formerr_and_neither_is_answered() {
    let world = World::new();
    let client = world.client();
    let both = [Ask::new("web", A).octets(), Ask::new("app", A).question()].concat();
    client.refused(&[&both[..5], &[2], &both[6..]].concat(), FORMERR);
    client.lives();
}

#[test]
fn case_04_65535_questions_in_20_octets_are_formerr() {
    let world = World::new();
    let client = world.client();
    client.refused(b"\0\x05\x01\0\xff\xff\0\0\0\0\0\0\x03web\0\0\x01\0", FORMERR);
    client.refused(b"\0\x06\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\x03web\0\0\x01\0", FORMERR);
    client.refused(b"\0\x06\x01\0\0\x01\xff\xff\xff\xff\xff\xff\x03web\0\0\x01\0\x01", FORMERR);
    client.lives();
}

#[test]
fn case_05_a_compression_pointer_in_the_question_is_formerr() {
    let world = World::new();
    let client = world.client();
    client.refused(&one(b"\xc0\x0c"), FORMERR); // to itself
    client.refused(&one(b"\xc0\x0e\xc0\x0c"), FORMERR); // two to each other
    client.refused(&one(b"\xc0\x12\0\0\0\0\x03web\0"), FORMERR); // forward
    client.refused(&one(b"\xff\xff"), FORMERR); // past the end
    client.refused(&one(b"\x03web\xc0\x0c"), FORMERR); // after a label
    client.refused(&one(b"\xc0\x00"), FORMERR); // into the header
    client.lives();
}

#[test]
fn case_06_a_label_over_63_octets_or_a_name_over_255_is_formerr_and_255_are_not() {
    let world = World::new();
    let client = world.client();
    for length in 64..192_usize {
        let name = [&[length as u8][..], &vec![b'a'; length], b"\0"].concat();
        client.refused(&one(&name), FORMERR);
    }
    let longest = [b"\x01a".repeat(127), b"\0".to_vec()].concat();
    assert_eq!(longest.len(), 255);
    let said = client.ask(&Ask::wire(longest.clone(), A));
    assert_eq!(&said.octets[12..12 + 255], longest);
    client.refused(&one(&[b"\x01a".repeat(128), b"\0".to_vec()].concat()), FORMERR); // 128 labels
    let octet_too_many = [b"\x3f".to_vec(), vec![b'a'; 63]].concat().repeat(4);
    client.refused(&one(&[octet_too_many, b"\0".to_vec()].concat()), FORMERR);
    client.lives();
}

#[test]
fn case_07_a_question_cut_anywhere_is_formerr_by_udp_and_tcp() {
    let world = World::new();
    let (client, mut stream) = (world.client(), world.stream());
    let whole = Ask::new("web", A).octets();
    for length in 12..whole.len() {
        client.refused(&whole[..length], FORMERR);
        stream.send(&framed(&whole[..length]));
        assert_eq!(stream.receive()[..4], [0x1d, 0x1d, 0x81, FORMERR as u8]);
    }
    // The stream goes on, as the length of a message is known whatever stands in it.
    assert_eq!(stream.ask(&Ask::new("web", A)).answers(), ["A 10.20.1.2"]);
}

#[test]
fn case_08_a_reply_sent_to_the_server_gets_silence() {
    let world = World::new();
    let client = world.client();
    for flags in [0x8000, 0x8180, 0x8583, 0xfbff] {
        client.silent(&Ask::new("web", A).flags(flags).octets());
    }
    assert_eq!(world.driven.resolver.meter().counts().silenced, 4);
}

#[test]
fn case_09_source_port_0_and_our_own_address_and_port_get_silence_and_start_no_loop() {
    let world = World::new();
    // From 127.0.0.11:53 to itself: our reply goes to port 53 too, and is no query to us.
    let own = kernel::socket::udp_bound(&world.sandbox.netns(), "127.0.0.11:53".parse().unwrap());
    let own = own.unwrap();
    own.send_to(&Ask::new("web", A).octets(), "127.0.0.11:53").unwrap();
    world.sandbox.run(
        "python3 -c '
import socket, struct
query = b\"\\x0a\\x0b\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x03web\\0\\0\\x01\\0\\x01\"
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
raw.sendto(struct.pack(\">HHHH\", 0, 53, 8 + len(query), 0) + query, (\"127.0.0.11\", 0))
'",
    );
    world.client().lives();
    let counts = world.driven.resolver.meter().counts();
    assert!(counts.udp_queries <= 3, "{counts:?}");
    assert_eq!(counts.silenced, 0, "our own reply came back to us");
    let mut reply = [0; 512];
    let length = own.recv(&mut reply).unwrap();
    assert_eq!(Said::read(&reply[..length]).answers(), ["A 10.20.1.2"]);
}

#[test]
fn case_10_octets_after_a_message_are_ignored_and_a_count_of_records_that_lies_is_formerr() {
    let world = World::new();
    let (client, mut stream) = (world.client(), world.stream());
    let trailing = Ask::new("web", A).with(0, b"trailing octets");
    assert_eq!(client.ask(&trailing).answers(), ["A 10.20.1.2"]);
    assert_eq!(stream.ask(&trailing).answers(), ["A 10.20.1.2"]);
    let after_opt = Ask::new("web", A).with(1, &[OPT, b"\xc0\x0c"].concat());
    assert_eq!(client.ask(&after_opt).answers(), ["A 10.20.1.2"]);
    for lie in [Ask::new("web", A).with(1, b""), Ask::new("web", A).with(2, OPT)] {
        client.refused(&lie.octets(), FORMERR);
    }
    let cut_opt = Ask::new("web", A).with(1, &OPT[..10]);
    client.refused(&cut_opt.octets(), FORMERR);
    let long_opt = Ask::new("web", A).with(1, b"\0\0\x29\x04\xd0\0\0\0\0\0\x09");
    client.refused(&long_opt.octets(), FORMERR);
}

#[test]
fn case_11_labels_of_any_octets_come_back_as_they_were_sent() {
    let world = World::new();
    let client = world.client();
    let odd: [&[u8]; 5] = [b"\x01\0\0", b"\x03a.b\0", b"\x03w b\0", b"\x02\xc3\x84\0", b"\x01\n\0"];
    for label in odd {
        let said = client.ask(&Ask::wire(label.to_vec(), A));
        assert_eq!(said.code(), NXDOMAIN, "a short name that nobody has");
        assert_eq!(&said.octets[12..12 + label.len()], label);
    }
    world.nobody_outside_was_asked();
    let every: Vec<u8> = (0..=255).collect();
    let name: Vec<u8> = every.chunks(32).take(6).fold(Vec::new(), |mut name, octets| {
        name.push(32);
        name.extend_from_slice(octets);
        name
    });
    let name = [&name[..], &wire("example")].concat();
    let said = client.ask(&Ask::wire(name.clone(), A));
    assert_eq!((said.code(), &said.octets[12..12 + name.len()]), (NOERROR, &name[..]));
    assert_eq!(world.upstream.asked()[0].octets[12..12 + name.len()], name);
    // A dot in a label separates nothing.
    assert_eq!(client.ask(&Ask::wire(b"\x09web.front\0".to_vec(), A)).code(), NXDOMAIN);
}

#[test]
fn case_12_ten_thousand_queries_with_octets_gone_wrong_leave_the_server_answering() {
    let world = World::new();
    let client = world.client();
    let good = Ask::new("web.front", A).with(1, OPT).octets();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut chance = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    for round in 0..10_000 {
        let mut octets = good.clone();
        for _ in 0..=chance(4) {
            octets[chance(good.len())] = chance(256) as u8;
        }
        octets.truncate(1 + chance(good.len() + 20));
        // Names that happen to be foreign would wait for somebody else.
        octets.get_mut(12).into_iter().for_each(|it| *it |= 0xc0 * u8::from(chance(2) == 0));
        client.send(&octets);
        if round % 32 == 31 {
            client.send(&Ask::new("web", A).id(0xe11e).octets());
            loop {
                let reply = client.receive();
                if reply[..2] == [0xe1, 0x1e] && reply.len() > 12 {
                    break assert_eq!(Said::read(&reply).answers(), ["A 10.20.1.2"]);
                }
            }
        }
    }
}

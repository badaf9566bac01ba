//! B. Headers, classes, types, and EDNS (RFC 1035, RFC 6891, RFC 8482).

use super::client::{
    A, AA, AAAA, AD, ANY, Ask, CD, FORMERR, NOERROR, NOTIMP, OPT, QR, RA, RD, REFUSED, TXT, opt,
};
use super::upstream::{Upstream, kind, record, reply};
use super::world::World;

#[test]
fn case_13_every_other_opcode_is_notimp_with_its_id_and_itself() {
    let world = World::new();
    let client = world.client();
    for opcode in 1..16 {
        let ask = Ask::new("web", A).id(0x5500 + opcode).flags(RD | opcode << 11);
        client.refused(&ask.octets(), NOTIMP);
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_14_chaos_is_refused_and_never_forwarded() {
    let world = World::new();
    let client = world.client();
    for name in ["version.bind", "id.server", "version.server", "hostname.bind", "web"] {
        for kind in [TXT, A, ANY] {
            let said = client.ask(&Ask::new(name, kind).class(3));
            assert_eq!((said.code(), said.counts()), (REFUSED, [1, 0, 0, 0]), "{name}");
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_15_other_classes_are_refused_and_get_no_data_of_the_internet() {
    let world = World::new();
    let client = world.client();
    for class in [0, 2, 4, 4321, 254, 255, 65535] {
        for name in ["web", "example.com", "1.1.20.10.in-addr.arpa"] {
            let said = client.ask(&Ask::new(name, A).class(class));
            assert_eq!((said.code(), said.counts()), (REFUSED, [1, 0, 0, 0]), "{class} {name}");
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_16_any_is_one_hinfo_for_a_name_of_ours_and_is_forwarded_as_it_is_for_others() {
    let world = World::asking(Upstream::answering(|query| {
        let hinfo = record(b"\xc0\x0c", 13, 3600, b"\x07RFC8482\0");
        Some(reply(query, 0, [(1, &hinfo), (0, b""), (0, b"")]))
    }));
    let client = world.client();
    for name in ["web", "big", "tasks.big", "both.dual_stack", "11.1.20.10.in-addr.arpa"] {
        let said = client.ask(&Ask::new(name, ANY));
        assert_eq!(said.answers(), ["HINFO RFC8482 "], "{name}");
        assert!(said.octets.len() < 100 + 2 * name.len());
    }
    world.nobody_outside_was_asked();
    assert_eq!(client.ask(&Ask::new("example.com", ANY)).answers(), ["HINFO RFC8482 "]);
    assert_eq!(kind(&world.upstream.asked()[0].octets), ANY);
}

#[test]
fn case_17_zone_transfers_are_refused_and_meta_types_are_no_questions() {
    let world = World::new();
    let (client, mut stream) = (world.client(), world.stream());
    for (kind, code) in
        [(251, REFUSED), (252, REFUSED), (41, FORMERR), (249, NOTIMP), (250, NOTIMP)]
    {
        for name in ["web", "front", "example.com", ""] {
            let ask = Ask::new(name, kind);
            for said in [client.ask(&ask), stream.ask(&ask)] {
                assert_eq!((said.code(), said.counts()), (code, [1, 0, 0, 0]), "{kind} {name}");
            }
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_18_flags_of_a_reply_are_rd_and_cd_as_asked_ra_and_aa_for_our_own_names_alone() {
    let world = World::new();
    let (client, mut stream) = (world.client(), world.stream());
    for (asked, copied) in [
        (0, 0),
        (RD, RD),
        (CD, CD),
        (RD | AD, RD),
        (RD | CD, RD | CD),
        (0x07ff, RD | CD), // every flag that is not QR, Z among them, and a response code
    ] {
        let own = Ask::new("web", A).flags(asked);
        for said in [client.ask(&own), stream.ask(&own)] {
            assert_eq!((said.flags(), said.code()), (QR | AA | RA | copied, NOERROR), "{asked:x}");
        }
        let denied = client.ask(&Ask::new("nobody", A).flags(asked));
        assert_eq!(denied.flags(), QR | AA | RA | copied);
        let said = client.ask(&Ask::new("example.com", A).flags(asked | RD));
        assert_eq!(said.flags(), QR | RA | RD | copied, "{asked:x}");
    }
}

#[test]
fn case_18_without_rd_a_foreign_name_is_answered_from_the_cache_or_refused() {
    let world = World::new();
    let client = world.client();
    let without = Ask::new("example.com", A).flags(0);
    assert_eq!(client.ask(&without).code(), REFUSED);
    world.nobody_outside_was_asked();
    assert_eq!(client.ask(&Ask::new("example.com", A)).code(), NOERROR);
    let said = client.ask(&without);
    assert_eq!((said.code(), said.answers()), (NOERROR, vec!["A 198.51.100.7".to_owned()]));
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn case_19_the_question_s_case_comes_back_and_only_ascii_letters_fold() {
    let world = World::new();
    let (client, mut stream) = (world.client(), world.stream());
    for name in ["web.front", "WEB.FRONT", "wEb.FrOnT", "WwW.ExAmPlE.oRg"] {
        let ask = Ask::new(name, A);
        for said in [client.ask(&ask), stream.ask(&ask)] {
            assert_eq!(said.code(), NOERROR);
            assert_eq!(said.octets[12..12 + ask.name.len()], ask.name);
            let owner = said.message.answers[0].name.to_string();
            assert_eq!(owner, format!("{name}."), "the owner is the question's name");
        }
    }
    // What is not ASCII is not folded: these are four names, two by two the same.
    let seen = |name: &[u8]| client.ask(&Ask::wire(name.to_vec(), A)).octets[12..].to_vec();
    for name in [&b"\x04B\xc3\x84r\0"[..], b"\x04b\xc3\xa4R\0"] {
        assert!(seen(name).starts_with(name));
    }
}

#[test]
fn case_20_an_unknown_type_is_no_data_for_our_names_and_opaque_for_others() {
    let data = b"\x03any\0\xff\xc0\x0c octets";
    let world = World::asking(Upstream::answering(move |query| {
        let opaque = record(b"\xc0\x0c", 65280, 77, data);
        Some(reply(query, 0, [(1, &opaque), (0, b""), (0, b"")]))
    }));
    let client = world.client();
    for name in ["web", "both", "tasks.app", "none"] {
        client.ask(&Ask::new(name, 65280)).is_no_data();
    }
    world.nobody_outside_was_asked();
    let said = client.ask(&Ask::new("example.com", 65280));
    assert!(said.octets.ends_with(&record(b"\xc0\x0c", 65280, 77, data)));
}

#[test]
fn case_46_edns_of_another_version_is_badvers_with_version_0_and_no_answer() {
    let world = World::new();
    let (client, mut stream) = (world.client(), world.stream());
    for version in [1, 2, 255] {
        let ask = Ask::new("web", A).with(1, &opt(4096, version, 0, b""));
        for said in [client.ask(&ask), stream.ask(&ask)] {
            assert_eq!((said.code(), said.counts()), (16, [1, 0, 0, 1]));
            assert_eq!(said.message.edns.unwrap().version(), 0);
        }
    }
    world.nobody_outside_was_asked();
}

#[test]
fn case_46_two_opt_records_or_one_that_is_not_the_root_s_or_not_additional_are_formerr() {
    let world = World::new();
    let client = world.client();
    let two = Ask::new("web", A).with(2, &OPT.repeat(2));
    let owned = Ask::new("web", A).with(1, &[b"\x01a", OPT].concat());
    let pointed = Ask::new("web", A).with(1, &[b"\xc0\x0c", &OPT[1..]].concat());
    for ask in [two, owned, pointed] {
        client.refused(&ask.octets(), FORMERR);
    }
    for section in [7, 9] {
        let mut elsewhere = Ask::new("web", A).with(1, OPT).octets();
        elsewhere.swap(section, 11);
        client.refused(&elsewhere, FORMERR);
    }
    // Another record beside it is nobody's business.
    let beside = [&record(b"\xc0\x0c", 16, 0, b"\x01x")[..], OPT].concat();
    assert_eq!(client.ask(&Ask::new("web", A).with(2, &beside)).code(), NOERROR);
}

#[test]
fn case_46_a_size_below_512_means_512_and_ours_is_1232() {
    let world = World::new();
    let client = world.client();
    for (name, size, cut) in [("app", 0, false), ("app", 100, false), ("big", 100, true)] {
        let said = client.ask(&Ask::new(name, A).with(1, &opt(size, 0, 0, b"")));
        assert_eq!(said.message.metadata.truncation, cut, "{name} {size}");
        assert_eq!(said.message.edns.unwrap().max_payload(), 1232);
    }
    // No EDNS for those who have none (RFC 6891 section 7).
    assert!(client.ask(&Ask::new("web", A)).message.edns.is_none());
}

#[test]
fn case_46_options_are_ignored_not_echoed_and_not_forwarded() {
    let world = World::new();
    let (client, mut stream) = (world.client(), world.stream());
    let options = [
        &b"\0\x0a\0\x08clientck"[..],          // cookie
        b"\0\x08\0\x07\0\x01\x18\0\xcb\0\x71", // client subnet
        b"\0\x0c\0\x04\0\0\0\0",               // padding
        b"\0\x03\0\0",                         // name server identifier
        b"\xfd\xe9\0\x02hi",                   // nobody's
    ]
    .concat();
    for name in ["web", "nobody", "tasks.big"] {
        let ask = Ask::new(name, A).with(1, &opt(1400, 0, 0, &options));
        for said in [client.ask(&ask), stream.ask(&ask)] {
            assert!(said.octets.ends_with(OPT), "{name}: {}", said.octets.escape_ascii());
        }
    }
    client.ask(&Ask::new("example.com", A).with(1, &opt(1400, 0, 0, &options)));
    let asked = world.upstream.asked()[0].octets.clone();
    assert!(asked.ends_with(OPT), "{}", asked.escape_ascii());
}

#[test]
fn case_46_whoever_has_edns_gets_it_though_the_server_outside_has_none() {
    let world = World::new();
    let said = world.client().ask(&Ask::new("example.com", A).with(1, OPT));
    assert_eq!(said.answers(), ["A 198.51.100.7"]);
    assert_eq!(said.message.edns.unwrap().max_payload(), 1232);
}

#[test]
fn case_46_do_is_copied_and_other_flags_of_edns_are_not() {
    let world = World::new();
    let client = world.client();
    let said = client.ask(&Ask::new("web", A).with(1, &opt(1232, 0, 0xffff, b"")));
    assert!(said.octets.ends_with(&opt(1232, 0, 0x8000, b"")));
    let said = client.ask(&Ask::new("web", AAAA).with(1, &opt(1232, 0, 0x7fff, b"")));
    assert!(said.octets.ends_with(OPT));
}

//! What DNS demands of a server (malformed messages, headers, own names, special names, streams,
//! forwarding), each demand asked of the real server in a network namespace, octet by octet.
//!
//! A test's number is that of the demand in `tests/README.md`. Needs the right to make network
//! namespaces: root, or `unshare -Urnm`.
#![expect(clippy::disallowed_methods, reason = "tests ask in real time")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]
#![expect(clippy::cast_possible_truncation, reason = "messages of tests are short")]

mod support;

mod cases {
    mod caching;
    mod client;
    mod forwarding;
    mod header;
    mod malformed;
    mod own_names;
    mod special_names;
    mod tcp;
    mod upstream;
    mod world;
}

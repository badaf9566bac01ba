//! What an upstream server replies: read, filtered, kept, and told to clients of each kind.

#![no_main]

#[path = "../checks/upstream_reply.rs"]
mod upstream_reply;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| upstream_reply::check(octets));

//! What a client sends, to the fast path, the general path and hickory's codec: they must agree.

#![no_main]

#[path = "../checks/query.rs"]
mod query;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| query::check(octets));

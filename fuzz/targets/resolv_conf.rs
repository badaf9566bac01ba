//! What stands in the host's resolv.conf, which anybody's program may have written.

#![no_main]

#[path = "../checks/resolv_conf.rs"]
mod resolv_conf;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| resolv_conf::check(octets));

//! What the kernel replies, to all readers of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    assert!(kernel::fuzz::read_replies(octets) <= octets.len());
});

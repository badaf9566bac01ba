//! Replays the octets that fuzzing began with and what it found (`fuzz/corpus`, `fuzz/found`), so
//! that nobody needs its tools to see whether they still pass.
#![expect(clippy::disallowed_methods, reason = "one moment to start from")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, and says with which octets"
)]

use std::path::Path;

#[path = "../../fuzz/checks/query.rs"]
mod query;
#[path = "../../fuzz/checks/resolv_conf.rs"]
mod resolv_conf;
#[path = "../../fuzz/checks/upstream_reply.rs"]
mod upstream_reply;

/// Checks every file of `target`; how many there are.
fn replay(target: &str, check: impl Fn(&[u8])) -> usize {
    let mut count = 0;
    for folder in ["corpus", "found"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(folder);
        for entry in std::fs::read_dir(folder.join(target)).into_iter().flatten() {
            let path = entry.unwrap().path();
            eprintln!("{}", path.display()); // shown with a failure
            check(&std::fs::read(path).unwrap());
            count += 1;
        }
    }
    count
}

#[test]
fn what_clients_may_send_is_read_alike_by_both_paths_and_by_hickory() {
    assert!(replay("query", query::check) > 100);
}

#[test]
fn what_upstream_servers_may_reply_is_read_kept_and_told() {
    assert!(replay("upstream_reply", upstream_reply::check) > 20);
}

#[test]
fn what_may_stand_in_a_resolv_conf_gives_every_server_that_glibc_would_ask() {
    assert!(replay("resolv_conf", resolv_conf::check) > 10);
}

#[test]
fn what_the_kernel_may_reply_is_read_without_a_panic() {
    let check = |octets: &[u8]| assert!(kernel::fuzz::read_replies(octets) <= octets.len());
    assert!(replay("netlink", check) > 10);
}

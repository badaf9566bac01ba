//! What must hold of any resolv.conf. Shared with the test that replays what fuzzing found.
//!
//! Invariants that are checked
//! - *no more than stands there*: at most one server a line;
//! - *no fewer than glibc*: each plain `nameserver ADDRESS` line, whatever stands around it, gives
//!   its server; and where all are plain, they come in its order.

use std::net::IpAddr;

/// Fails where `octets` show that something does not hold.
pub(crate) fn check(octets: &[u8]) {
    let found = registry::fuzz::resolv_conf(octets);
    let lines = || octets.split(|it| *it == b'\n');
    assert!(found.len() <= lines().count());
    let mut plain: Vec<IpAddr> = Vec::new();
    for server in lines().filter_map(plain_server) {
        assert!(found.contains(&server), "{server} is not in {found:?}");
        if !plain.contains(&server) {
            plain.push(server);
        }
    }
    let names = |line: &[u8]| line.windows(NAMES.len()).any(|it| it == NAMES);
    if lines().all(|it| plain_server(it).is_some() || !names(it)) {
        assert_eq!(found, plain);
    }
}

const NAMES: &[u8] = b"nameserver";

/// What glibc's `res_vinit` reads without doubt: the word at the line's start, blanks, an address
/// in its usual form, and nothing but blanks behind it.
fn plain_server(line: &[u8]) -> Option<IpAddr> {
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("nameserver")?;
    let address = rest.strip_prefix([' ', '\t'])?.trim_matches([' ', '\t']);
    address.parse().ok()
}

//! What must hold of any resolv.conf. Shared with the test that replays what fuzzing found.
//!
//! Invariants that are checked
//! - *no more than stands there*: at most one server a line;
//! - *no fewer than glibc*: each plain `nameserver ADDRESS` line, whatever stands around it, gives
//!   its server, and they come in its order.

use std::net::IpAddr;

/// Fails where `octets` show that something does not hold.
pub(crate) fn check(octets: &[u8]) {
    let found = registry::fuzz::resolv_conf(octets);
    assert!(found.len() <= octets.split(|it| *it == b'\n').count());
    let mut plain: Vec<IpAddr> = octets.split(|it| *it == b'\n').filter_map(plain_server).collect();
    for at in (0..plain.len()).rev() {
        if plain[..at].contains(&plain[at]) {
            plain.remove(at); // asked once
        }
    }
    let mut places = found.iter();
    for server in &plain {
        assert!(places.any(|it| it == server), "{server} of {plain:?} is not in {found:?}");
    }
}

/// What glibc's `res_vinit` reads without doubt: the word at the line's start, blanks, an address
/// in its usual form, and nothing but blanks behind it.
fn plain_server(line: &[u8]) -> Option<IpAddr> {
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("nameserver")?;
    let address = rest.strip_prefix([' ', '\t'])?.trim_matches([' ', '\t']);
    address.parse().ok()
}

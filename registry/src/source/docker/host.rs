//! What the Docker source needs of this machine's kernel, as a trait: the registry knows no kernel.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

/// The machine on which the engine runs.
pub trait Host: Send + Sync + 'static {
    /// The cookie (`SO_NETNS_COOKIE`) of the network namespace at `path`. May block for well under
    /// a millisecond; called off the runtime's workers.
    fn netns_cookie(&self, path: &Path) -> io::Result<u64>;

    /// The addresses inside the network namespace at `path`, loopback ones or not; by them it is
    /// found out whose a new namespace is before the engine says so. Without it a container's
    /// sandbox is known when the container has started instead of shortly before. See
    /// [`local_addresses`].
    fn netns_addresses(&self, path: &Path) -> io::Result<Vec<IpAddr>> {
        let reason = format!("cannot read the addresses in `{}`", path.display());
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// The cookie of the host's own network namespace: containers there are no sandboxes.
    fn host_cookie(&self) -> io::Result<u64>;

    /// Sends into `nudge` whenever the neighbour table of the namespace at `path` changes. A full
    /// `nudge` already says so: never wait for room. Ends when the namespace is gone, or at once
    /// when it cannot be entered.
    fn watch_neighbours(
        &self,
        path: PathBuf,
        nudge: mpsc::Sender<()>,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// One question (A) asked of the engine's own resolver inside the sandbox at `path`, bounded
    /// in time by the implementation (under half a second). `name` has no trailing dot, e.g.
    /// `tasks.web.frontend`. `cookie` is the namespace that is meant: another one at that path is
    /// not asked. `None`: no such resolver, no answer, or an answer other than NOERROR.
    fn engine_tasks(
        &self,
        path: &Path,
        cookie: u64,
        name: &str,
    ) -> impl Future<Output = Option<Vec<Ipv4Addr>>> + Send;
}

/// The addresses of a network namespace, from the text of its `/proc/thread-self/net/fib_trie` and
/// `/proc/thread-self/net/if_inet6`, as a thread inside reads them. Pure.
pub fn local_addresses(fib_trie: &str, if_inet6: &str) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => leaf = address.parse::<Ipv4Addr>().ok(),
            None if line == "/32 host LOCAL" => addresses.extend(leaf.map(IpAddr::V4)),
            None => {}
        }
    }
    let digits = if_inet6.lines().filter_map(|it| it.split_whitespace().next());
    let numbers = digits.filter_map(|it| u128::from_str_radix(it, 16).ok());
    addresses.extend(numbers.map(|it| IpAddr::V6(Ipv6Addr::from_bits(it))));
    addresses.sort_unstable();
    addresses.dedup(); // the main and the local table list the same ones
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespaces_addresses_are_read_from_its_own_proc_files() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     +-- 10.0.1.0/28 2 0 2\n        |-- 10.0.1.0\n           /24 link UNICAST\n        |-- 10.0.1.9\n           /32 host LOCAL\n     |-- 127.0.0.0\n        /8 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.0.1.255\n        /32 link BROADCAST\n";
        let inet6 = "fd00000000000000000000000000000a 0b 40 00 80     eth0\n";
        let expected: Vec<IpAddr> =
            ["10.0.1.9", "127.0.0.1", "fd00::a"].iter().map(|it| it.parse().unwrap()).collect();
        assert_eq!(local_addresses(trie, inet6), expected);
    }
}

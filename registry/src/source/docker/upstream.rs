//! Which name servers the engine would ask on behalf of a container, and from where. Pure.
//!
//! Invariants
//! - *not the container's word*: never what stands in its own resolv.conf, which it can write;
//! - *never none*: where nobody names a server, or none that the engine would ask, there is one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;

use crate::model::{Dial, Origin, Upstream};
use crate::source::docker::engine::Version;
use crate::source::docker::resolv_conf::{self, ResolvConf};

/// What this host's files say of name servers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct HostServers {
    /// Of the host's resolv.conf.
    pub(crate) host: Vec<SocketAddr>,
    /// Those may be believed when they say that an answer is authentic (`options trust-ad`).
    pub(crate) trusts_ad: bool,
    /// Of the engine's own configuration (`dns` in daemon.json).
    pub(crate) daemon: Vec<IpAddr>,
    /// Where it says that containers reach the host (`host-gateway-ips` in daemon.json).
    pub(crate) gateways: Vec<IpAddr>,
}

/// Docker asks no more than three.
const MAX_SERVERS: usize = 3;
/// The port that name servers listen on.
pub(crate) const DNS_PORT: u16 = 53;
/// systemd-resolved's stub, which knows less than the servers behind it.
const RESOLVED_STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));

/// Whom every engine asks, from the container, where the host's resolv.conf names nobody
/// (libnetwork's `defaultIPv4Dns`). glibc's own default, 127.0.0.1, means a server on the host; with
/// no line for it in the file there is hardly one.
const DEFAULT_SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];

/// The servers for a container with `--dns` as given, in order.
pub(crate) fn upstreams(
    container: &[IpAddr],
    servers: &HostServers,
    version: Version,
) -> Vec<Upstream> {
    let inside =
        |it: IpAddr| Upstream { address: SocketAddr::new(it, DNS_PORT), dial: Dial::Sandbox };
    let given = [container, &servers.daemon].into_iter().find(|it| !it.is_empty());
    if let Some(given) = given {
        return given.iter().copied().take(MAX_SERVERS).map(inside).collect();
    }
    if servers.host.is_empty() {
        return DEFAULT_SERVERS.map(|it| inside(it.into())).to_vec();
    }
    let of_host = |it: &&SocketAddr| it.is_ipv4() || asks_ipv6(version);
    if !servers.host.iter().any(|it| of_host(&it)) {
        // The engine would ask nobody. From the host, because containers there have no IPv6.
        let asked = servers.host.iter().take(MAX_SERVERS);
        return asked.map(|it| Upstream { address: *it, dial: Dial::Host }).collect();
    }
    let asked = servers.host.iter().filter(of_host).take(MAX_SERVERS);
    asked.map(|it| Upstream { address: *it, dial: host_dial(version, it.ip()) }).collect()
}

/// Who named the servers of a container with `--dns` as given.
pub(crate) fn origin(container: &[IpAddr], servers: &HostServers) -> Origin {
    match (container, servers.daemon.as_slice()) {
        ([_, ..], _) => Origin::Sandbox,
        ([], [_, ..]) => Origin::Engine,
        ([], []) => Origin::Host,
    }
}

/// From where an engine asks a server of the host's resolv.conf. Engines before 27 ask only
/// loopback addresses from the host (they mean the host's own), all others from the container
/// (moby pull request 47512).
fn host_dial(version: Version, server: IpAddr) -> Dial {
    if version.major >= 27 || server.is_loopback() { Dial::Host } else { Dial::Sandbox }
}

/// Engines before 27 leave out the IPv6 servers of the host's resolv.conf.
fn asks_ipv6(version: Version) -> bool {
    version.major >= 27
}

/// Whether what a container's servers say of an answer's being authentic is believed: the host's
/// file says that of its own.
pub(crate) fn trusts_ad(container: &[IpAddr], servers: &HostServers) -> bool {
    container.is_empty() && servers.daemon.is_empty() && servers.trusts_ad
}

/// What the host says: `resolv_conf`, unless its only server is the stub of systemd-resolved, whose
/// own file then tells the servers behind it. So does the engine.
pub(crate) fn host_conf(resolv_conf: &[u8], resolved: Option<&[u8]>) -> ResolvConf {
    let conf = resolv_conf::read(resolv_conf);
    let is_stub = matches!(conf.servers.as_slice(), [it] if it.address == RESOLVED_STUB);
    let behind = resolved.filter(|_| is_stub).map(resolv_conf::read);
    behind.filter(|it| !it.servers.is_empty()).unwrap_or(conf)
}

/// The `dns` of an engine's `daemon.json`; `None` when that cannot be read.
pub(crate) fn daemon_servers(daemon_json: &[u8]) -> Option<Vec<IpAddr>> {
    #[derive(Deserialize)]
    struct Daemon {
        #[serde(default)]
        dns: Vec<String>,
    }
    let daemon: Daemon = serde_json::from_slice(daemon_json).ok()?;
    Some(daemon.dns.iter().filter_map(|it| it.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(upstreams: &[Upstream]) -> Vec<String> {
        upstreams.iter().map(|it| format!("{:?} {}", it.dial, it.address)).collect()
    }

    fn version(text: &str) -> Version {
        Version::parse(text)
    }

    fn host(resolv_conf: &str, resolved: Option<&str>) -> Vec<SocketAddr> {
        let conf = host_conf(resolv_conf.as_bytes(), resolved.map(str::as_bytes));
        conf.servers.iter().map(|it| SocketAddr::new(it.address, DNS_PORT)).collect()
    }

    fn servers() -> HostServers {
        let resolv = "# by hand\nsearch x\nnameserver 127.0.0.1\nnameserver 10.0.0.53\nnameserver fd00::53\n";
        HostServers { host: host(resolv, None), ..HostServers::default() }
    }

    #[test]
    fn old_engines_ask_from_the_container_except_for_the_hosts_loopback() {
        assert_eq!(
            shown(&upstreams(&[], &servers(), version("26.1.5+dfsg1"))),
            ["Host 127.0.0.1:53", "Sandbox 10.0.0.53:53"]
        );
    }

    #[test]
    fn new_engines_ask_the_hosts_servers_from_the_host() {
        assert_eq!(
            shown(&upstreams(&[], &servers(), version("28.5.2"))),
            ["Host 127.0.0.1:53", "Host 10.0.0.53:53", "Host [fd00::53]:53"]
        );
    }

    #[test]
    fn the_containers_servers_come_first_then_the_engines_and_both_are_asked_from_inside() {
        let nine = "9.9.9.9".parse().unwrap();
        let daemon = daemon_servers(br#"{"log-level":"warn","dns":["10.1.1.1"]}"#).unwrap();
        let servers = HostServers { daemon, ..servers() };
        assert_eq!(shown(&upstreams(&[nine], &servers, version("28.0"))), ["Sandbox 9.9.9.9:53"]);
        assert_eq!(origin(&[nine], &servers), Origin::Sandbox);
        assert_eq!(origin(&[], &servers), Origin::Engine);
        assert_eq!(origin(&[], &self::servers()), Origin::Host);
        assert_eq!(shown(&upstreams(&[], &servers, version("28.0"))), ["Sandbox 10.1.1.1:53"]);
    }

    #[test]
    fn behind_the_stub_of_systemd_resolved_its_own_servers_are_asked() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n";
        let real: SocketAddr = "192.0.2.1:53".parse().unwrap();
        let itself = SocketAddr::new(RESOLVED_STUB, DNS_PORT);
        assert_eq!(host(stub, Some("nameserver 192.0.2.1\n")), [real]);
        assert_eq!(host(stub, None), [itself]);
        assert_eq!(host(stub, Some("# no uplink yet\n")), [itself]);
        assert_eq!(host("nameserver 192.0.2.1", Some("nameserver 192.0.2.9")), [real]);
    }

    #[test]
    fn a_host_that_names_no_server_is_given_those_that_the_engine_takes() {
        for engine in ["20.10.24", "26.1.5", "28.5.2"] {
            let asked = upstreams(&[], &HostServers::default(), version(engine));
            assert_eq!(shown(&asked), ["Sandbox 8.8.8.8:53", "Sandbox 8.8.4.4:53"], "{engine}");
        }
    }

    #[test]
    fn a_host_with_servers_of_ipv6_only_has_them_with_every_engine() {
        let servers = HostServers { host: host("nameserver fd00::53\n", None), ..servers() };
        for engine in ["20.10.24", "28.5.2"] {
            let asked = upstreams(&[], &servers, version(engine));
            assert_eq!(shown(&asked), ["Host [fd00::53]:53"], "{engine}");
        }
    }

    #[test]
    fn only_the_hosts_own_servers_are_trusted_by_what_the_host_says() {
        let servers = HostServers { trusts_ad: true, ..servers() };
        assert!(trusts_ad(&[], &servers));
        assert!(!trusts_ad(&["9.9.9.9".parse().unwrap()], &servers));
        assert!(!trusts_ad(&[], &HostServers { daemon: vec![RESOLVED_STUB], ..servers }));
    }

    #[test]
    fn a_daemon_json_that_is_being_written_says_nothing() {
        assert_eq!(daemon_servers(b"{\"dns\": [\"10."), None);
        assert_eq!(daemon_servers(b"{}"), Some(Vec::new()));
        let one: IpAddr = "10.1.1.1".parse().unwrap();
        assert_eq!(daemon_servers(br#"{"dns": ["no address", "10.1.1.1"]}"#), Some(vec![one]));
    }

    #[test]
    fn no_more_than_three_servers_are_asked() {
        let many: Vec<IpAddr> = (1..=5).map(|it| IpAddr::from([10, 0, 0, it])).collect();
        assert_eq!(upstreams(&many, &HostServers::default(), version("28.0")).len(), 3);
    }
}

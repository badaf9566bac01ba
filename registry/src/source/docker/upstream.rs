//! Which name servers the engine would ask on behalf of a container, and from where. Pure.
//!
//! Invariants
//! - *not the container's word*: never what stands in its own resolv.conf, which it can write;
//! - *never none*: where nobody names a server, or none that the engine would ask, there is one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

use crate::model::{Dial, Origin, Upstream};
use crate::source::docker::engine::Version;

/// What this host's files say of name servers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct HostServers {
    /// Of the host's resolv.conf.
    pub(crate) host: Vec<SocketAddr>,
    /// Those may be believed when they say that an answer is authentic (`options trust-ad`).
    pub(crate) trusts_ad: bool,
    /// Of the engine's own configuration (`dns` in daemon.json, or `--dns`).
    pub(crate) daemon: Vec<IpAddr>,
    /// Where it says that containers reach the host (`host-gateway-ips` in daemon.json, or
    /// `--host-gateway-ip`).
    pub(crate) gateways: Vec<IpAddr>,
    /// The file of that configuration, where the engine's command line names one.
    pub(crate) config_file: Option<PathBuf>,
}

/// Docker asks no more than three.
const MAX_SERVERS: usize = 3;
/// The port that name servers listen on.
pub(crate) const DNS_PORT: u16 = 53;

/// Whom engines before 28 ask, from the container, where the host's resolv.conf names nobody
/// (`defaultIPv4Dns` of moby's `resolvconf`; loopback addresses count as somebody).
const DEFAULT_SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];
/// Later ones ask nobody (moby pull request 48290), so that no name goes to strangers. Here a file
/// without servers means what it means to the host's own programs: the server on the host
/// (resolv.conf(5)), which either is there or refuses at once.
const LOCAL_SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;

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
        if asks_from_host(version) {
            let address = SocketAddr::new(LOCAL_SERVER.into(), DNS_PORT);
            return vec![Upstream { address, dial: Dial::Host }];
        }
        return DEFAULT_SERVERS.map(|it| inside(it.into())).to_vec();
    }
    let of_host = |it: &&SocketAddr| it.is_ipv4() || asks_ipv6(version);
    if !servers.host.iter().any(|it| of_host(&it)) {
        // The engine would take its defaults, past those that the operator named; containers may have
        // no IPv6, so they are asked from the host.
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

/// From where an engine asks a server of the host's resolv.conf. Loopback addresses mean the host's
/// own. Before 28 all others are asked from the container, but that 27 asks those of IPv6 from the
/// host where the container has no IPv6, which is as good where it has.
fn host_dial(version: Version, server: IpAddr) -> Dial {
    let from_host = asks_from_host(version) || server.is_loopback() || server.is_ipv6();
    if from_host { Dial::Host } else { Dial::Sandbox }
}

/// Engines from 28 on ask all servers of the host's resolv.conf from the host (moby pull request
/// 48290).
fn asks_from_host(version: Version) -> bool {
    version.major >= 28
}

/// Engines before 27 leave out the IPv6 servers of the host's resolv.conf (moby pull request 47512).
fn asks_ipv6(version: Version) -> bool {
    version.major >= 27
}

/// Whether what a container's servers say of an answer's being authentic is believed: the host's
/// file says that of its own.
pub(crate) fn trusts_ad(container: &[IpAddr], servers: &HostServers) -> bool {
    container.is_empty() && servers.daemon.is_empty() && servers.trusts_ad
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
    use crate::source::docker::resolv_conf;

    const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));

    fn shown(upstreams: &[Upstream]) -> Vec<String> {
        upstreams.iter().map(|it| format!("{:?} {}", it.dial, it.address)).collect()
    }

    fn version(text: &str) -> Version {
        Version::parse(text)
    }

    fn host(resolv_conf: &str) -> Vec<SocketAddr> {
        let conf = resolv_conf::read(resolv_conf.as_bytes());
        conf.servers.iter().map(|it| SocketAddr::new(it.address, DNS_PORT)).collect()
    }

    fn servers() -> HostServers {
        let resolv = "# by hand\nsearch x\nnameserver 127.0.0.1\nnameserver 10.0.0.53\nnameserver fd00::53\n";
        HostServers { host: host(resolv), ..HostServers::default() }
    }

    #[test]
    fn old_engines_ask_from_the_container_except_for_the_hosts_loopback() {
        assert_eq!(
            shown(&upstreams(&[], &servers(), version("26.1.5+dfsg1"))),
            ["Host 127.0.0.1:53", "Sandbox 10.0.0.53:53"]
        );
        assert_eq!(
            shown(&upstreams(&[], &servers(), version("27.5.1"))),
            ["Host 127.0.0.1:53", "Sandbox 10.0.0.53:53", "Host [fd00::53]:53"]
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
    fn servers_on_the_host_s_loopback_are_enough_for_every_engine_and_asked_there() {
        for loopback in ["127.0.0.53", "127.0.0.1"] {
            let servers = host(&format!("nameserver {loopback}\noptions edns0 trust-ad\n"));
            let servers = HostServers { host: servers, ..HostServers::default() };
            for engine in ["20.10.24", "26.1.5", "28.5.2"] {
                let asked = upstreams(&[], &servers, version(engine));
                assert_eq!(shown(&asked), [format!("Host {loopback}:53")], "{engine}");
            }
        }
    }

    #[test]
    fn a_host_that_names_no_server_is_given_the_engine_s_or_its_own_where_that_asks_nobody() {
        for engine in ["20.10.24", "26.1.5", "27.5.1"] {
            let asked = upstreams(&[], &HostServers::default(), version(engine));
            assert_eq!(shown(&asked), ["Sandbox 8.8.8.8:53", "Sandbox 8.8.4.4:53"], "{engine}");
        }
        let asked = upstreams(&[], &HostServers::default(), version("28.5.2"));
        assert_eq!(shown(&asked), ["Host 127.0.0.1:53"]);
    }

    #[test]
    fn a_host_with_servers_of_ipv6_only_has_them_with_every_engine() {
        let servers = HostServers { host: host("nameserver fd00::53\n"), ..servers() };
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
        assert!(!trusts_ad(&[], &HostServers { daemon: vec![STUB], ..servers }));
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

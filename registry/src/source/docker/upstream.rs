//! Which name servers the engine would ask on behalf of a container, and from where. Pure.
//!
//! Never what stands in the container's own resolv.conf: the container can write it.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use crate::model::{Dial, Origin, Upstream};
use crate::source::docker::engine::Version;

/// What this host's files say of name servers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct HostServers {
    /// Of the host's resolv.conf.
    pub(crate) host: Vec<IpAddr>,
    /// Of the engine's own configuration (`dns` in daemon.json).
    pub(crate) daemon: Vec<IpAddr>,
    /// Where it says that containers reach the host (`host-gateway-ips` in daemon.json).
    pub(crate) gateways: Vec<IpAddr>,
}

/// Docker asks no more than three.
const MAX_SERVERS: usize = 3;
/// The port that name servers listen on.
const DNS_PORT: u16 = 53;
/// systemd-resolved's stub, which knows less than the servers behind it.
const RESOLVED_STUB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53));

/// The servers for a container with `--dns` as given, in order.
pub(crate) fn upstreams(
    container: &[IpAddr],
    servers: &HostServers,
    version: Version,
) -> Vec<Upstream> {
    let upstream =
        |dial: Dial| move |it: &IpAddr| Upstream { address: SocketAddr::new(*it, DNS_PORT), dial };
    let given = [container, &servers.daemon].into_iter().find(|it| !it.is_empty());
    if let Some(given) = given {
        return given.iter().take(MAX_SERVERS).map(upstream(Dial::Sandbox)).collect();
    }
    let asked = servers.host.iter().filter(|it| it.is_ipv4() || asks_ipv6(version));
    asked.take(MAX_SERVERS).map(|it| upstream(host_dial(version, *it))(it)).collect()
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

/// The servers of the host: those of `/etc/resolv.conf`, unless its only one is the stub of
/// systemd-resolved, whose own file then tells the servers behind it. So does the engine.
pub(crate) fn host_servers(resolv_conf: &str, resolved: Option<&str>) -> Vec<IpAddr> {
    let servers = name_servers(resolv_conf);
    match resolved {
        Some(resolved) if servers == [RESOLVED_STUB] => name_servers(resolved),
        Some(_) | None => servers,
    }
}

/// The `dns` of an engine's `daemon.json`; none when it has none or cannot be read.
pub(crate) fn daemon_servers(daemon_json: &str) -> Vec<IpAddr> {
    #[derive(Deserialize)]
    struct Daemon {
        #[serde(default)]
        dns: Vec<IpAddr>,
    }
    serde_json::from_str::<Daemon>(daemon_json).map(|it| it.dns).unwrap_or_default()
}

fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            let address = words.next()?;
            address.split('%').next()?.parse().ok()
        })
        .collect()
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

    fn servers() -> HostServers {
        let resolv = "# by hand\nsearch x\nnameserver 127.0.0.1\nnameserver 10.0.0.53\nnameserver fd00::53\n";
        HostServers { host: host_servers(resolv, None), ..HostServers::default() }
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
        let daemon = daemon_servers(r#"{"log-level":"warn","dns":["10.1.1.1"]}"#);
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
        let real: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(host_servers(stub, Some("nameserver 192.0.2.1\n")), [real]);
        assert_eq!(host_servers(stub, None), [RESOLVED_STUB]);
        assert_eq!(host_servers("nameserver 192.0.2.1", Some("nameserver 192.0.2.9")), [real]);
    }

    #[test]
    fn no_more_than_three_servers_are_asked() {
        let many: Vec<IpAddr> = (1..=5).map(|it| IpAddr::from([10, 0, 0, it])).collect();
        assert_eq!(upstreams(&many, &HostServers::default(), version("28.0")).len(), 3);
    }
}

//! The names that the engine writes into a container's hosts file, for that container only: extra
//! hosts (`--add-host`, and Swarm's `Hosts`, which its nodes turn into such) and what a link means
//! on the default bridge. Pure.
//!
//! Never what stands in the hosts file itself: the container can write it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::source::docker::container::Container;
use crate::source::docker::engine::{EngineNetwork, Version};
use crate::source::docker::view::View;

/// One extra host as the user gave it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ExtraHost {
    name: String,
    /// `None`: wherever the host is reached (`host-gateway`).
    address: Option<IpAddr>,
}

/// What a user writes for the address of the host.
const HOST_GATEWAY: &str = "host-gateway";

impl ExtraHost {
    /// From `NAME:ADDRESS` or `NAME=ADDRESS`; an IPv6 address may stand in brackets.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, address) = text.split_once([':', '='])?;
        let name = name.trim();
        if name.is_empty() {
            return None;
        }
        let bare = address.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let address = match bare.unwrap_or(address) {
            HOST_GATEWAY => None,
            address => Some(address.parse::<IpAddr>().ok()?.to_canonical()),
        };
        Some(Self { name: name.to_owned(), address })
    }
}

/// Every name that only `container` has, in lower case and without a dot at the end.
pub(crate) fn hosts(view: &View, container: &Container) -> BTreeMap<String, Vec<IpAddr>> {
    let mut hosts: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut add = |name: &str, addresses: &[IpAddr]| {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if !name.is_empty() && !addresses.is_empty() {
            let known = hosts.entry(name).or_default();
            let new: BTreeSet<_> = addresses.iter().filter(|it| !known.contains(it)).collect();
            known.extend(new);
        }
    };
    let bridge = view.networks.values().find(|it| it.is_default_bridge);
    let on_bridge = bridge.map(|it| it.gateways.as_slice()).unwrap_or_default();
    let gateways = gateways(&view.servers.gateways, on_bridge, view.engine.version);
    for host in &container.extra_hosts {
        match &host.address {
            Some(address) => add(&host.name, &[*address]),
            None => add(&host.name, &gateways),
        }
    }
    let is_on_bridge = container.attachments.iter().any(|it| is_of(bridge, &it.network));
    for (target, alias) in container.bridge_links.iter().filter(|_| is_on_bridge) {
        let Some(target) = view.container(target) else { continue };
        let places = target.attachments.iter().filter(|it| is_of(bridge, &it.network));
        let addresses: Vec<IpAddr> = places.flat_map(|it| it.addresses.iter().copied()).collect();
        let names = [alias.as_str(), &target.name, &target.hostname];
        for name in names {
            add(name, &addresses);
        }
    }
    hosts
}

fn is_of(network: Option<&EngineNetwork>, id: &str) -> bool {
    network.is_some_and(|it| it.id.as_str() == id)
}

/// Where containers reach the host: what the engine's configuration says, else its address on the
/// default bridge. Engines before 28 know one address only, of IPv4 where there is one.
fn gateways(configured: &[IpAddr], on_bridge: &[IpAddr], version: Version) -> Vec<IpAddr> {
    if !configured.is_empty() {
        return configured.to_vec();
    }
    let mut gateways = on_bridge.to_vec();
    gateways.sort();
    if version.major < 28 {
        gateways.truncate(1);
    }
    gateways
}

/// The gateway of one address range: the one that the engine tells, else (20.10 leaves it out
/// until its second start) the first address, which it gives itself.
pub(crate) fn gateway(told: Option<&str>, subnet: Option<IpNet>) -> Option<IpAddr> {
    let told = told.and_then(|it| it.split('/').next()?.parse().ok());
    told.or_else(|| subnet?.hosts().next())
}

/// `host-gateway-ips` (or the older `host-gateway-ip`) of an engine's `daemon.json`; none when it
/// has none or cannot be read.
pub(crate) fn configured_gateways(daemon_json: &str) -> Vec<IpAddr> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Daemon {
        #[serde(default)]
        host_gateway_ips: Vec<IpAddr>,
        host_gateway_ip: Option<IpAddr>,
    }
    let Ok(daemon) = serde_json::from_str::<Daemon>(daemon_json) else { return Vec::new() };
    let all = daemon.host_gateway_ips.into_iter().chain(daemon.host_gateway_ip);
    all.map(|it| it.to_canonical()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, Option<&str>)>) {
        let read = ExtraHost::parse(text);
        let shown = read.map(|it| (it.name, it.address.map(|it| it.to_string())));
        let expected = expected.map(|(name, it)| (name.to_owned(), it.map(str::to_owned)));
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn extra_hosts_are_read_as_clients_write_them() {
        check("db.example:192.0.2.1", Some(("db.example", Some("192.0.2.1"))));
        check("db=192.0.2.1", Some(("db", Some("192.0.2.1"))));
        check("six:2001:db8::1", Some(("six", Some("2001:db8::1"))));
        check("six:[::1]", Some(("six", Some("::1"))));
        check("mapped:::ffff:192.0.2.1", Some(("mapped", Some("192.0.2.1"))));
        check("host.docker.internal:host-gateway", Some(("host.docker.internal", None)));
        check("db", None);
        check(":192.0.2.1", None);
        check("db:", None);
        check("db:192.0.2.999", None);
    }

    #[test]
    fn the_host_is_where_the_engine_says_or_else_on_the_default_bridge() {
        let of = |configured: &[IpAddr], on_bridge: &[&str], version: &str| {
            let on_bridge: Vec<IpAddr> = on_bridge.iter().map(|it| it.parse().unwrap()).collect();
            let all = gateways(configured, &on_bridge, Version::parse(version));
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let both = ["fd00::1", "172.17.0.1"];
        assert_eq!(of(&[], &both, "28.5.2"), ["172.17.0.1", "fd00::1"]);
        assert_eq!(of(&[], &both, "27.5.1"), ["172.17.0.1"]);
        assert_eq!(of(&[], &["fd00::1"], "20.10.24"), ["fd00::1"]);
        let new = configured_gateways(r#"{"host-gateway-ips": ["192.0.2.7", "2001:db8::7"]}"#);
        assert_eq!(of(&new, &both, "28.5.2"), ["192.0.2.7", "2001:db8::7"]);
        let old = configured_gateways(r#"{"host-gateway-ip": "192.0.2.8", "dns": []}"#);
        assert_eq!(of(&old, &both, "20.10.24"), ["192.0.2.8"]);
        assert_eq!(configured_gateways("nonsense"), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_gateway_that_is_not_told_is_the_first_address() {
        let subnet = "172.17.0.0/16".parse().ok();
        let first: IpAddr = [172, 17, 0, 1].into();
        assert_eq!(gateway(None, subnet), Some(first));
        assert_eq!(gateway(Some(""), subnet), Some(first));
        assert_eq!(gateway(Some("172.17.9.9"), subnet), Some([172, 17, 9, 9].into()));
        assert_eq!(gateway(None, None), None);
    }
}

//! World file -> what each of its tables says, with the places where it says so.
//!
//! Invariant: only what can be judged from one table alone is judged here. A thing with a bad name
//! is kept under it, so that one mistake is not reported again wherever the name is used.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::document::{Document, Located, Table, Value};
use crate::model::{
    Dial, Labels, Mode, Protocol, PublishMode, PublishedPort, Reach, ServingState, Upstream,
};
use crate::note::shown;

/// All tables of a file.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) networks: Vec<RawNetwork>,
    pub(super) services: Vec<RawService>,
    pub(super) tasks: Vec<RawTask>,
    pub(super) sandboxes: Vec<RawSandbox>,
    pub(super) nodes: Vec<RawNode>,
    pub(super) this_node: Option<Located<String>>,
}

/// A reference by name, and something said of it.
pub(super) type Per<T> = Vec<(Located<String>, T)>;

#[derive(Debug)]
pub(super) struct RawNetwork {
    pub(super) name: Located<String>,
    pub(super) subnets: Vec<IpNet>,
    pub(super) internal: bool,
    pub(super) ingress: bool,
    pub(super) driver: String,
    pub(super) labels: Labels,
    pub(super) reach: Reach,
}

#[derive(Debug)]
pub(super) struct RawService {
    pub(super) name: Located<String>,
    pub(super) mode: Mode,
    pub(super) networks: Vec<Located<String>>,
    pub(super) vips: Per<Located<IpAddr>>,
    /// Aliases for all networks.
    pub(super) aliases: Vec<String>,
    /// Aliases for one network.
    pub(super) aliases_on: Per<Vec<String>>,
    pub(super) ports: Vec<Located<PublishedPort>>,
    pub(super) labels: Labels,
    pub(super) stack: Option<String>,
    pub(super) created: u64,
}

#[derive(Debug)]
pub(super) struct RawTask {
    pub(super) name: Located<String>,
    pub(super) service: Option<Located<String>>,
    pub(super) addresses: Per<Vec<Located<IpAddr>>>,
    pub(super) names: Vec<String>,
    pub(super) state: ServingState,
    pub(super) reason: String,
    pub(super) weight: u16,
    pub(super) node: Option<Located<String>>,
}

#[derive(Debug)]
pub(super) struct RawSandbox {
    pub(super) name: Located<String>,
    pub(super) netns: Option<Located<PathBuf>>,
    pub(super) networks: Vec<Located<String>>,
    pub(super) addresses: Per<Vec<Located<IpAddr>>>,
    /// `None`: the task of the sandbox's own name, if there is one.
    pub(super) tasks: Option<Vec<Located<String>>>,
    pub(super) links: Per<Vec<IpAddr>>,
    pub(super) hosts: Per<Vec<IpAddr>>,
    pub(super) hostname: Option<String>,
    pub(super) upstreams: Vec<Upstream>,
}

#[derive(Debug)]
pub(super) struct RawNode {
    pub(super) name: Located<String>,
    pub(super) address: Option<IpAddr>,
    pub(super) state: String,
    pub(super) ingress: Option<IpAddr>,
}

/// Reads every table; mistakes are recorded in `document`.
pub(super) fn read(document: &Document<'_>) -> Raw {
    let root = document.root();
    root.only(&["network", "service", "task", "sandbox", "node", "this_node"]);
    let all =
        |kind: &'static str| root.tables(kind).into_iter().filter_map(move |it| named(kind, it));
    Raw {
        networks: all("network").map(|(name, table)| network(name, &table)).collect(),
        services: all("service").map(|(name, table)| service(name, &table)).collect(),
        tasks: all("task").map(|(name, table)| task(name, &table)).collect(),
        sandboxes: all("sandbox").map(|(name, table)| sandbox(name, &table)).collect(),
        nodes: all("node").map(|(name, table)| node(name, &table)).collect(),
        this_node: root.get("this_node", |it| it.located(Value::filled)),
    }
}

/// The table with its name, on which its other mistakes are reported.
fn named<'d>(kind: &str, table: Table<'d>) -> Option<(Located<String>, Table<'d>)> {
    let table = table.about(kind);
    let name = table.need("name", "a name, e.g. `web`", |it| it.located(dns_name))?;
    let subject = format!("{kind} {}", shown(&name.value));
    Some((name, table.about(subject)))
}

fn network(name: Located<String>, table: &Table<'_>) -> RawNetwork {
    let keys = ["name", "subnet", "subnets", "internal", "ingress", "driver", "labels", "reach"];
    table.only(&keys);
    if table.has("subnet") && table.has("subnets") {
        table.fault("subnets", "says again what `subnet` says", "leave one of them out");
    }
    let subnets = table.get("subnets", |it| it.list(subnet));
    let subnet = table.get("subnet", subnet).map(|it| vec![it]);
    RawNetwork {
        name,
        subnets: subnets.or(subnet).unwrap_or_default(),
        internal: table.get("internal", Value::boolean).unwrap_or_default(),
        ingress: table.get("ingress", Value::boolean).unwrap_or_default(),
        driver: table.get("driver", Value::filled).unwrap_or_else(|| "world".to_owned()),
        labels: table.get("labels", labels).unwrap_or_default(),
        reach: table.get("reach", reach).unwrap_or(Reach::Host),
    }
}

fn service(name: Located<String>, table: &Table<'_>) -> RawService {
    let keys =
        ["name", "mode", "networks", "vip", "aliases", "ports", "labels", "stack", "created"];
    table.only(&keys);
    let mode = [("vip", Mode::Vip), ("dnsrr", Mode::DnsRr)];
    let names = |it: &Value<'_>| it.one_or_list(dns_name);
    let by_network = table.get("aliases", |it| Some(it.table().is_some())).unwrap_or_default();
    let (aliases, aliases_on) = if by_network {
        (None, table.get("aliases", |it| it.map(names)))
    } else {
        (table.get("aliases", |it| it.list(dns_name)), None)
    };
    RawService {
        name,
        mode: table.get("mode", |it| it.choice(&mode)).unwrap_or(Mode::Vip),
        networks: table.get("networks", references).unwrap_or_default(),
        vips: table.get("vip", |it| it.map(|it| it.located(address))).unwrap_or_default(),
        aliases: aliases.unwrap_or_default(),
        aliases_on: aliases_on.unwrap_or_default(),
        ports: table.get("ports", |it| it.list(|it| it.located(port))).unwrap_or_default(),
        labels: table.get("labels", labels).unwrap_or_default(),
        stack: table.get("stack", Value::filled),
        created: table.get("created", |it| it.integer(0..=MAX_CREATED)).unwrap_or_default(),
    }
}

fn task(name: Located<String>, table: &Table<'_>) -> RawTask {
    table.only(&["name", "service", "addresses", "names", "state", "reason", "weight", "node"]);
    let states = [
        ("starting", ServingState::Starting),
        ("serving", ServingState::Serving),
        ("draining", ServingState::Draining),
        ("stopped", ServingState::Stopped),
    ];
    let weight = table.get("weight", |it| it.integer(0..=u64::from(u16::MAX)));
    RawTask {
        name,
        service: table.get("service", reference),
        addresses: table.get("addresses", addresses).unwrap_or_default(),
        names: table.get("names", |it| it.list(dns_name)).unwrap_or_default(),
        state: table.get("state", |it| it.choice(&states)).unwrap_or(ServingState::Serving),
        reason: table.get("reason", Value::text).unwrap_or_default(),
        weight: weight.and_then(|it| u16::try_from(it).ok()).unwrap_or(1),
        node: table.get("node", reference),
    }
}

fn sandbox(name: Located<String>, table: &Table<'_>) -> RawSandbox {
    table.only(&[
        "name",
        "netns",
        "networks",
        "addresses",
        "tasks",
        "links",
        "hosts",
        "hostname",
        "upstreams",
        "dial",
    ]);
    let dial =
        table.get("dial", |it| it.choice(&[("host", Dial::Host), ("sandbox", Dial::Sandbox)]));
    let upstreams = table.get("upstreams", |it| it.list(name_server)).unwrap_or_default();
    let dial = dial.unwrap_or(Dial::Host);
    RawSandbox {
        name,
        netns: table.need("netns", "the path of the network namespace", |it| it.located(path)),
        networks: table
            .need("networks", "a list of network names, in search order", references)
            .unwrap_or_default(),
        addresses: table.get("addresses", addresses).unwrap_or_default(),
        tasks: table.get("tasks", references),
        links: table.get("links", |it| it.map(|it| it.one_or_list(address))).unwrap_or_default(),
        hosts: table.get("hosts", |it| it.map(|it| it.one_or_list(address))).unwrap_or_default(),
        hostname: table.get("hostname", dns_name),
        upstreams: upstreams.into_iter().map(|address| Upstream { address, dial }).collect(),
    }
}

fn node(name: Located<String>, table: &Table<'_>) -> RawNode {
    table.only(&["name", "address", "state", "ingress"]);
    RawNode {
        name,
        address: table.get("address", address),
        state: table.get("state", Value::filled).unwrap_or_else(|| "ready".to_owned()),
        ingress: table.get("ingress", address),
    }
}

fn port(value: &Value<'_>) -> Option<PublishedPort> {
    let Some(table) = value.table() else {
        value.wrong_type("a table", "write it as `{ published = 8000, target = 8080 }`");
        return None;
    };
    table.only(&["published", "target", "protocol", "mode", "name"]);
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let modes = [("ingress", PublishMode::Ingress), ("host", PublishMode::Host)];
    Some(PublishedPort {
        published: table.get("published", Value::port).unwrap_or_default(),
        target: table.need("target", "the port in the task, e.g. 8080", Value::port)?,
        protocol: table.get("protocol", |it| it.choice(&protocols)).unwrap_or(Protocol::Tcp),
        mode: table.get("mode", |it| it.choice(&modes)).unwrap_or(PublishMode::Ingress),
        name: table.get("name", dns_name),
    })
}

/// Labels as a table; `com.docker.lb.port = 80` without quotes is understood too, which in TOML is
/// a table within a table.
fn labels(value: &Value<'_>) -> Option<Labels> {
    let Some(table) = value.table() else {
        value.wrong_type("a table", "write it as `{ \"KEY\" = \"VALUE\" }`");
        return None;
    };
    let mut labels = Labels::new();
    // Depth is bounded by the TOML parser.
    let mut open = vec![(String::new(), table)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table.entries() {
            let label = format!("{prefix}{}", key.value);
            match (value.scalar(), value.table()) {
                (Some(text), _) => drop(labels.insert(label, text)),
                (None, Some(inner)) => open.push((format!("{label}."), inner)),
                (None, None) => value.wrong_type("a string", "put it in quotes"),
            }
        }
    }
    Some(labels)
}

fn reach(value: &Value<'_>) -> Option<Reach> {
    let text = value.text()?;
    match text.as_str() {
        "host" => Some(Reach::Host),
        "nowhere" => Some(Reach::Nowhere),
        path if path.starts_with('/') => Some(Reach::Netns(path.into())),
        other => {
            let remedy = "write `host`, `nowhere` or the absolute path of a network namespace";
            value.wrong(format!("`{}` is no place to reach it from", shown(other)), remedy);
            None
        }
    }
}

fn subnet(value: &Value<'_>) -> Option<IpNet> {
    let net: IpNet = value.parsed("an address range", "10.20.1.0/24")?;
    if net.addr() != net.network() {
        let text = format!("`{net}` has bits behind its prefix length");
        value.wrong(text, format!("write `{}`", net.trunc()));
        return None;
    }
    Some(net)
}

fn address(value: &Value<'_>) -> Option<IpAddr> {
    let address: IpAddr = value.parsed("an IP address", "10.20.1.2")?;
    if address.is_unspecified() || address.is_multicast() {
        value.wrong(format!("`{address}` is nobody's address"), "write a unicast address");
        return None;
    }
    Some(address)
}

fn addresses(value: &Value<'_>) -> Option<Per<Vec<Located<IpAddr>>>> {
    value.map(|it| it.one_or_list(|it| it.located(address)))
}

/// `IP:PORT`, or an address alone for port 53.
fn name_server(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.text()?;
    let bare = text.trim().parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    bare.or_else(|| value.parsed("an address of a name server", "127.0.0.1:5300"))
}

fn path(value: &Value<'_>) -> Option<PathBuf> {
    let text = value.filled()?;
    if !text.starts_with('/') {
        let text = format!("`{}` is not an absolute path", shown(&text));
        value.wrong(text, "write e.g. `/run/netns/web1`");
        return None;
    }
    Some(text.into())
}

fn reference(value: &Value<'_>) -> Option<Located<String>> {
    value.located(Value::filled)
}

fn references(value: &Value<'_>) -> Option<Vec<Located<String>>> {
    value.list(reference)
}

/// A name that can stand in DNS (RFC 1035 section 2.3.4: 63 octets a label, 253 in all). A bad one
/// is recorded and returned all the same.
fn dns_name(value: &Value<'_>) -> Option<String> {
    let name = value.text()?;
    let legal = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
    let label = |it: &str| matches!(it.len(), 1..=63) && it.bytes().all(legal);
    if name.len() > 253 || !name.split('.').all(label) {
        let text = format!("`{}` cannot be a name", shown(&name));
        value.wrong(text, "use letters, digits, `-`, `_` and `.`, up to 63 between dots");
    }
    Some(name)
}

/// 2^53, the largest whole number that JSON readers keep exact; milliseconds until the year 287396.
const MAX_CREATED: u64 = 1 << 53;

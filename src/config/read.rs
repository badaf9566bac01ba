//! TOML -> [`Config`]; what is left out keeps its default, what is wrong is recorded with its line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use registry::document::{Document, Table, Value};
use registry::duration;
use registry::nearest::nearest;
use resolver::name::Name;
use resolver::{Authorities, Server};
use router::config::{Limits, Timeouts, UnknownHost};
use vip::DataPlane;

use super::keys::{self, CLUSTER};
use super::{Config, Source, engine};
use crate::log::Format;

/// Reads everything; mistakes are recorded in `document`.
pub(super) fn read(document: &Document<'_>) -> Config {
    let root = document.root();
    let mut known = vec!["sources", "dns", "vip", "mesh", "router", "admin", "log"];
    known.extend(keys::names(""));
    root.only(&known);
    refuse_later(&root, "");
    let mut config = Config::default();
    set(&mut config.state_dir, root.get("state_dir", path));
    config.vip.state_dir.clone_from(&config.state_dir);
    if let Some(table) = root.table("sources") {
        sources(&table, &mut config);
    }
    if let Some(table) = section(&root, "dns", "dns") {
        dns(&table, &mut config.resolver);
    }
    if let Some(table) = section(&root, "vip", "vip") {
        set(&mut config.vip.pool, table.get("pool", pool));
        set(&mut config.vip.pool6, table.get("pool6", pool6));
        set(&mut config.vip.data_plane, table.get("data_plane", data_plane));
        let drain = table.get("drain", |it| time(it, Duration::ZERO..=MAX_WAIT));
        set(&mut config.vip.drain, drain);
        set(&mut config.vip.host, table.get("host", Value::boolean));
    }
    config.mesh.state_dir.clone_from(&config.state_dir);
    config.mesh.drain = config.vip.drain;
    if let Some(table) = section(&root, "mesh", "mesh") {
        mesh(&table, &mut config.mesh);
    }
    if let Some(table) = root.table("router") {
        table.only(&["clusters"]);
        if let Some(clusters) = table.table("clusters") {
            self::clusters(&clusters, &mut config.router);
        }
    }
    if let Some(table) = section(&root, "admin", "admin") {
        set(&mut config.admin_socket, table.get("socket", path));
        listen(&mut config.admin_listen, (&table, "listen"), loopback);
    }
    if let Some(table) = section(&root, "log", "log") {
        let formats = [("text", Format::Text), ("json", Format::Json)];
        set(&mut config.log_format, table.get("format", |it| it.choice(&formats)));
        set(&mut config.log_level, table.get("level", level));
    }
    config
}

/// The table at `key`, after a look at whether its keys are those of `section`.
fn section<'d>(parent: &Table<'d>, key: &str, section: &str) -> Option<Table<'d>> {
    let table = parent.table(key)?;
    table.only(&keys::names(section));
    refuse_later(&table, section);
    Some(table)
}

/// A key that does nothing would be believed to do what it says.
fn refuse_later(table: &Table<'_>, section: &str) {
    let later = keys::keys().filter(|it| it.section == section && !it.built);
    for key in later.filter(|it| table.has(it.name)) {
        table.fault(key.name, "is known, but not in this version", "leave it out");
    }
}

fn sources(table: &Table<'_>, config: &mut Config) {
    table.only(&["docker", "world"]);
    let mut docker = engine();
    if let Some(table) = section(table, "docker", "sources.docker") {
        set(&mut docker.endpoint, table.get("endpoint", endpoint));
        let interval = table.get("poll_interval", |it| time(it, MIN_POLL..=MAX_POLL));
        set(&mut docker.poll_interval, interval);
    }
    config.source = Source::Docker(docker);
    if let Some(world) = section(table, "world", "sources.world") {
        if table.has("docker") {
            let text = "the world is read from one source, and `sources.docker` is here too";
            table.fault("world", text, "leave one of them out");
        }
        if let Some(path) = world.need("path", "the path of a world file", path) {
            config.source = Source::World(path);
        }
    }
}

fn data_plane(value: &Value<'_>) -> Option<DataPlane> {
    let (auto, nftables) = (("auto", DataPlane::Auto), ("nftables", DataPlane::Nftables));
    value.choice(&[auto, nftables, ("userspace", DataPlane::Userspace)])
}

fn mesh(table: &Table<'_>, config: &mut vip::mesh::Config) {
    use vip::mesh::{ClientIp, Enabled};
    let enabled = [("auto", Enabled::Auto), ("on", Enabled::On), ("off", Enabled::Off)];
    set(&mut config.enabled, table.get("enabled", |it| it.choice(&enabled)));
    let client_ip = [("keep", ClientIp::Keep), ("masquerade", ClientIp::Masquerade)];
    set(&mut config.client_ip, table.get("client_ip", |it| it.choice(&client_ip)));
    set(&mut config.outbound, table.get("outbound", Value::boolean));
}

fn dns(table: &Table<'_>, config: &mut resolver::Config) {
    listen(&mut config.host_listen, (table, "host_listen"), listener);
    set(&mut config.ttl, table.get("ttl", seconds));
    set(&mut config.vip_ttl, table.get("vip_ttl", seconds));
    let forward = table.get("forward_single_label", Value::boolean);
    set(&mut config.forward_single_label, forward);
    upstream(table, &mut config.upstream);
}

fn upstream(table: &Table<'_>, config: &mut resolver::UpstreamConfig) {
    set(&mut config.servers, table.get("upstreams", servers));
    if let Some(rules) = table.table("suffixes") {
        for (suffix, value) in rules.entries() {
            match (suffix_key(&suffix.value), servers(&value)) {
                (Some(suffix), Some(servers)) => drop(config.suffixes.insert(suffix, servers)),
                (Some(_), None) => {} // told by the reader of servers
                (None, _) => rules.fault(&suffix.value, "is not a domain", "write `corp.example`"),
            }
        }
    }
    set(&mut config.authorities, table.get("tls_ca", authorities));
    set(&mut config.cache_bytes, table.get("cache_bytes", |it| count(it, 0..=MAX_CACHE)));
    set(&mut config.rebinding_filter, table.get("rebinding_filter", Value::boolean));
    set(&mut config.rebinding_allow, table.get("rebinding_allow", |it| it.list(suffix)));
}

/// Name servers, as many as are ever asked.
fn servers(value: &Value<'_>) -> Option<Vec<Server>> {
    let servers = value.list(server)?;
    if servers.len() > Server::MAX {
        let text = format!("has {} servers, and {} are asked", servers.len(), Server::MAX);
        value.wrong(text, "leave out those that are worth least");
        return None;
    }
    Some(servers)
}

fn server(value: &Value<'_>) -> Option<Server> {
    let text = value.text()?;
    let refused = match text.parse::<Server>() {
        Ok(server) if server.address.ip() == Ipv4Addr::new(127, 0, 0, 11) => {
            "is portolan's own address in every container".to_owned()
        }
        Ok(server) if server.address.ip().is_unspecified() => "is no server's address".to_owned(),
        Ok(server) => return Some(server),
        Err(error) => error.to_string(),
    };
    let remedy = if text.trim().starts_with("tls:") {
        "write e.g. `tls://10.0.0.53#dns.example` or `tls://[fd00::53]:8853#dns.example`"
    } else {
        "write e.g. `10.0.0.53` or `10.0.0.53:5353`"
    };
    value.wrong(format!("`{}` {refused}", registry::note::shown(&text)), remedy);
    None
}

/// The certificates in a file, which is read now: a wrong one is told before anything starts.
fn authorities(value: &Value<'_>) -> Option<Authorities> {
    let path = path(value)?;
    match Authorities::read(&path) {
        Ok(authorities) => Some(authorities),
        Err(error) => {
            let shown = registry::note::shown(&path.display().to_string());
            let remedy = "name a PEM file with the certificates of authorities";
            value.wrong(format!("`{shown}` {error}"), remedy);
            None
        }
    }
}

/// A domain, in the form in which names are compared.
fn suffix(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let suffix = suffix_key(&text);
    if suffix.is_none() {
        let shown = registry::note::shown(&text);
        value.wrong(format!("`{shown}` is not a domain"), "write e.g. `corp.example`");
    }
    suffix
}

fn suffix_key(text: &str) -> Option<String> {
    let text = text.trim().trim_start_matches("*.").trim_start_matches('.');
    let key = Name::from_text(text).ok()?.key();
    Some(key).filter(|it| !it.is_empty())
}

fn clusters(table: &Table<'_>, config: &mut router::config::Config) {
    for (index, (name, _)) in table.entries().enumerate() {
        if index > 0 {
            let text = "is a second cluster, and this version serves one";
            table.fault(&name.value, text, "leave it out, or run a second portolan for it");
            continue;
        }
        let Some(cluster) = section(table, &name.value, CLUSTER) else { continue };
        // Services without the label `service_cluster` belong to the cluster of this name.
        config.cluster = if name.value == "default" { String::new() } else { name.value };
        set(&mut config.http, cluster.get("http", listener));
        let threads = cluster.get("threads", |it| count(it, 1..=MAX_THREADS));
        set(&mut config.threads, threads.and_then(NonZeroUsize::new));
        set(&mut config.unknown_host, cluster.get("unknown_host", unknown_host));
        if let Some(table) = section(&cluster, "limits", "router.clusters.NAME.limits") {
            limits(&table, &mut config.limits);
        }
        if let Some(table) = section(&cluster, "timeouts", "router.clusters.NAME.timeouts") {
            timeouts(&table, &mut config.timeouts);
        }
        if let Some(table) = section(&cluster, "trust", "router.clusters.NAME.trust") {
            set(&mut config.trusted, table.get("forwarded", |it| it.list(range)));
        }
    }
}

fn limits(table: &Table<'_>, limits: &mut Limits) {
    set(&mut limits.connections, table.get("connections", |it| count(it, 1..=1 << 20)));
    set(&mut limits.target, table.get("uri_bytes", |it| count(it, 64..=HEAD_MAX)));
    set(&mut limits.head, table.get("header_bytes", |it| count(it, 256..=HEAD_MAX)));
    if let Some(bytes) = table.get("body_bytes", |it| it.integer(0..=1 << 50)) {
        limits.body = Some(bytes);
    }
}

fn timeouts(table: &Table<'_>, timeouts: &mut Timeouts) {
    let get = |key| table.get(key, |it| time(it, MIN_WAIT..=MAX_WAIT));
    set(&mut timeouts.head, get("header"));
    set(&mut timeouts.keep_alive, get("keep_alive"));
    set(&mut timeouts.body, get("body"));
    set(&mut timeouts.stall, get("stall"));
    set(&mut timeouts.connect, get("connect"));
    set(&mut timeouts.response, get("response"));
    set(&mut timeouts.response_body, get("response_body"));
    set(&mut timeouts.idle, get("idle"));
    set(&mut timeouts.drain, get("drain"));
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn path(value: &Value<'_>) -> Option<PathBuf> {
    value.filled().map(PathBuf::from)
}

fn count(value: &Value<'_>, range: std::ops::RangeInclusive<usize>) -> Option<usize> {
    let wide = |it: &usize| u64::try_from(*it).unwrap_or(u64::MAX);
    let number = value.integer(wide(range.start())..=wide(range.end()))?;
    usize::try_from(number).ok()
}

fn time(value: &Value<'_>, range: std::ops::RangeInclusive<Duration>) -> Option<Duration> {
    let text = value.text()?;
    let Some(time) = duration::parse(&text) else {
        let shown = registry::note::shown(&text);
        value.wrong(format!("`{shown}` is not a time"), "write e.g. `250ms`, `5s` or `1m30s`");
        return None;
    };
    if !range.contains(&time) {
        let limits = format!("write a time from {:?} to {:?}", range.start(), range.end());
        value.wrong(format!("`{}` is out of range", text.trim()), limits);
        return None;
    }
    Some(time)
}

/// TTLs count whole seconds (RFC 2181 section 8).
fn seconds(value: &Value<'_>) -> Option<Duration> {
    let time = time(value, Duration::ZERO..=MAX_TTL)?;
    if time.subsec_nanos() > 0 {
        value.wrong(format!("{time:?} is not whole seconds"), "write e.g. `5s`");
        return None;
    }
    Some(time)
}

/// `IP:PORT`, or `:PORT` for all addresses.
fn listener(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.text()?;
    let port = text.strip_prefix(':').and_then(|it| it.parse().ok());
    let everywhere = port.map(|port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    everywhere.or_else(|| value.parsed("an address to listen on", "127.0.0.1:8080"))
}

/// An address of this machine that only this machine reaches.
fn loopback(value: &Value<'_>) -> Option<SocketAddr> {
    let address = listener(value)?;
    if !address.ip().is_loopback() {
        let text =
            format!("`{address}` is open to other machines, and who reaches it may read all");
        value.wrong(text, format!("write `127.0.0.1:{}`", address.port()));
        return None;
    }
    Some(address)
}

/// Where to listen: what `read` gives, or nowhere where the value is empty or `off`.
fn listen(
    place: &mut Option<SocketAddr>,
    (table, key): (&Table<'_>, &str),
    read: impl FnOnce(&Value<'_>) -> Option<SocketAddr>,
) {
    if table.get(key, Value::scalar).is_some_and(|it| matches!(it.trim(), "" | "off")) {
        *place = None;
    } else {
        set(place, table.get(key, read).map(Some));
    }
}

fn unknown_host(value: &Value<'_>) -> Option<UnknownHost> {
    match value.integer(404..=503)? {
        404 => Some(UnknownHost::NotFound),
        503 => Some(UnknownHost::Unavailable),
        other => {
            value.wrong(format!("{other} does not mean that nobody is there"), "write 404 or 503");
            None
        }
    }
}

/// An address range, or one address.
fn range(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?;
    let single = text.trim().parse().ok().map(|it: IpAddr| IpNet::from(it));
    let range = single.or_else(|| value.parsed("an address range", "10.0.0.0/8"))?;
    Some(range.trunc())
}

/// Where VIPs come from: unicast addresses, or the reserved ones that nobody else uses.
fn pool(value: &Value<'_>) -> Option<Ipv4Net> {
    let pool: Ipv4Net = value.parsed("an IPv4 address range", "240.240.0.0/16")?;
    if pool.addr() != pool.network() {
        let text = format!("`{pool}` has bits behind its prefix length");
        value.wrong(text, format!("write `{}`", pool.trunc()));
        return None;
    }
    if !POOL_PREFIXES.contains(&pool.prefix_len()) {
        let limits = format!("from /{} to /{}", POOL_PREFIXES.start(), POOL_PREFIXES.end());
        value.wrong(format!("`{pool}` has the wrong size"), format!("write a range {limits}"));
        return None;
    }
    let first = pool.addr();
    if first.is_loopback() || first.is_multicast() || first.octets().first() == Some(&0) {
        let text = format!("no connection can be made to addresses of `{pool}`");
        value.wrong(text, "write a range that no network uses, e.g. `240.240.0.0/16`");
        return None;
    }
    Some(pool)
}

/// A unique local range (RFC 4193): what is routed elsewhere is not ours to take.
fn pool6(value: &Value<'_>) -> Option<Ipv6Net> {
    let pool: Ipv6Net = value.parsed("an IPv6 address range", "fd70:6f72:746f:6c61::/64")?;
    if pool.addr() != pool.network() {
        let text = format!("`{pool}` has bits behind its prefix length");
        value.wrong(text, format!("write `{}`", pool.trunc()));
        return None;
    }
    if !POOL6_PREFIXES.contains(&pool.prefix_len()) {
        let limits = format!("from /{} to /{}", POOL6_PREFIXES.start(), POOL6_PREFIXES.end());
        value.wrong(format!("`{pool}` has the wrong size"), format!("write a range {limits}"));
        return None;
    }
    if !pool.addr().is_unique_local() {
        let text = format!("`{pool}` is not unique local (fc00::/7)");
        value.wrong(text, "write a range that no network uses, e.g. `fd70:6f72:746f:6c61::/64`");
        return None;
    }
    Some(pool)
}

/// `unix:///PATH`, `tcp://HOST:PORT` or `http://HOST:PORT`.
fn endpoint(value: &Value<'_>) -> Option<String> {
    let text = value.filled()?;
    let unix = text.strip_prefix("unix://").is_some_and(|it| it.starts_with('/'));
    let tcp = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://"));
    let tcp = tcp.and_then(|it| it.rsplit_once(':'));
    if !unix && !tcp.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        let shown = registry::note::shown(&text);
        let remedy = "write `unix:///var/run/docker.sock` or `tcp://HOST:PORT`";
        value.wrong(format!("`{shown}` is not an engine's address"), remedy);
        return None;
    }
    Some(text)
}

/// A level, or a filter by module (`info,resolver=debug`).
fn level(value: &Value<'_>) -> Option<String> {
    let text = value.filled()?;
    let shown = registry::note::shown(&text);
    // To the filter a lone word that is no level is a module: `inof` would silence everything.
    let lone = |it: &&str| !it.contains(['=', '[']);
    let level = |it: &str| LEVELS.contains(&it.to_ascii_lowercase().as_str());
    if let Some(word) = text.split(',').map(str::trim).filter(lone).find(|it| !level(it)) {
        let remedy = match nearest(word, LEVELS) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write one of {}, or e.g. `info,resolver=debug`", LEVELS.join(", ")),
        };
        value.wrong(format!("`{shown}` is not a log level"), remedy);
        return None;
    }
    if tracing_subscriber::EnvFilter::try_new(&text).is_err() {
        value.wrong(format!("`{shown}` is not a log filter"), "write e.g. `info,resolver=debug`");
        return None;
    }
    Some(text)
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Beyond this it is no cache of names any more.
const MAX_CACHE: usize = 1 << 30;
const HEAD_MAX: usize = Limits::HEAD_MAX;
/// More threads than any machine that this was tried on has cores.
const MAX_THREADS: usize = 1024;
/// Each full reading costs the engine work and log lines.
const MIN_POLL: Duration = Duration::from_secs(30);
/// What no event tells should not stay unseen for longer.
const MAX_POLL: Duration = Duration::from_secs(3600);
const MIN_WAIT: Duration = Duration::from_millis(10);
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);
/// RFC 8767 section 4 recommends capping TTLs at a week.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Larger than /8 is somebody's network; smaller than /28 holds no block for a second network.
const POOL_PREFIXES: std::ops::RangeInclusive<u8> = 8..=28;
/// A site's prefix is a /48 (RFC 4193); a network's blocks are from /112 to /124.
const POOL6_PREFIXES: std::ops::RangeInclusive<u8> = 48..=120;

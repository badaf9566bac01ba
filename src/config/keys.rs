//! The table of all keys: where they stand, what holds without them, what they do.
//!
//! The reader takes from it which keys exist; the reference page and a test take the defaults.

/// One key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key {
    /// The table it stands in, e.g. `dns`; empty for the outermost.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// Its default, as TOML; empty where that depends on the machine, or there is none.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Whether this version acts on it.
    pub built: bool,
}

/// All keys, in the order of the reference page.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    TABLE.iter()
}

/// The names that may stand in `section`, those of later versions included.
pub(super) fn names(section: &str) -> Vec<&'static str> {
    keys().filter(|it| it.section == section).map(|it| it.name).collect()
}

/// The section of one cluster's keys.
pub(super) const CLUSTER: &str = "router.clusters.NAME";

const fn key(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key { section, name, default, help, built: true }
}

const fn later(section: &'static str, name: &'static str, help: &'static str) -> Key {
    Key { section, name, default: "", help, built: false }
}

const LIMITS: &str = "router.clusters.NAME.limits";
const TIMEOUTS: &str = "router.clusters.NAME.timeouts";
const TRUST: &str = "router.clusters.NAME.trust";

const TABLE: &[Key] = &[
    key("", "state_dir", "\"/var/lib/portolan\"", "where VIP leases and owner marks live"),
    later("", "registry", "etcd, for more than one machine"),
    key(
        "sources.docker",
        "endpoint",
        "\"unix:///var/run/docker.sock\"",
        "the engine, `unix:///PATH` or `tcp://HOST:PORT`",
    ),
    key("sources.docker", "poll_interval", "\"30s\"", "everything is read this often, told or not"),
    later("sources.docker", "tls", "client certificate for a `tcp://` endpoint"),
    key("sources.world", "path", "", "a world file, instead of a Docker engine"),
    key(
        "dns",
        "host_listen",
        "\"127.0.0.1:1053\"",
        "where operators ask NAME.NETWORK from the host; `off` for nowhere",
    ),
    key("dns", "ttl", "\"5s\"", "TTL of task sets and single tasks, whole seconds"),
    key("dns", "vip_ttl", "\"30s\"", "TTL of VIPs, whole seconds"),
    key("dns", "forward_single_label", "false", "ask upstream for unknown names without a dot"),
    key(
        "dns",
        "upstreams",
        "[]",
        "asked in place of the host's resolv.conf: `IP`, `IP:PORT`, over TLS `tls://IP#NAME`, whose \
         certificate must be for NAME (without `#NAME`: for the address)",
    ),
    key("dns", "suffixes", "{}", "servers for names below a suffix, `\"corp.example\" = [..]`"),
    key(
        "dns",
        "tls_ca",
        "",
        "a PEM file: who vouches for servers over TLS, in place of this machine's authorities",
    ),
    key("dns", "cache_bytes", "16777216", "memory for answers from outside; 0 for none"),
    key(
        "dns",
        "rebinding_filter",
        "false",
        "refuse answers from outside that lead to private addresses",
    ),
    key("dns", "rebinding_allow", "[]", "suffixes that may lead to private addresses all the same"),
    key("vip", "pool", "\"240.240.0.0/16\"", "VIPs that the engine does not give come from here"),
    key("vip", "pool6", "\"fd70:6f72:746f:6c61::/64\"", "IPv6 VIPs on networks of both families"),
    key("vip", "data_plane", "\"auto\"", "how traffic is spread: auto, nftables or userspace"),
    key("vip", "host", "false", "whether the host itself can use VIPs of its bridge networks"),
    key("vip", "drain", "\"10m\"", "how long draining tasks keep their connections"),
    key(
        "mesh",
        "enabled",
        "\"auto\"",
        "published ports: `auto` where the engine's own mesh does not work, `on` in its place, `off`",
    ),
    key(
        "mesh",
        "client_ip",
        "\"keep\"",
        "whom tasks see behind a published port: `keep` the client, `masquerade` the node",
    ),
    key(
        "mesh",
        "outbound",
        "true",
        "where the engine keeps no rules for docker_gwbridge, its containers get out as the host",
    ),
    key(CLUSTER, "http", "\"0.0.0.0:8080\"", "where plain HTTP is accepted"),
    key(CLUSTER, "threads", "", "threads that serve; one per core unless set"),
    key(CLUSTER, "unknown_host", "404", "status for hosts that no service has, 404 or 503"),
    key(CLUSTER, "limits", "", "how much a client may ask for"),
    key(CLUSTER, "timeouts", "", "how long things may take"),
    key(CLUSTER, "trust", "", "whose word about clients is taken"),
    later(CLUSTER, "https", "where HTTPS is accepted"),
    later(CLUSTER, "certificates", "certificates by file"),
    later(CLUSTER, "headers", "headers added to answers"),
    later(CLUSTER, "allow_hosts", "hosts that labels may claim"),
    key(LIMITS, "connections", "16384", "client connections open at a time"),
    key(LIMITS, "uri_bytes", "16384", "length of a request's target (414)"),
    key(LIMITS, "header_bytes", "32768", "length of a request's head (431), up to 65536"),
    key(LIMITS, "body_bytes", "", "length of a request's body (413); unlimited unless set"),
    key(TIMEOUTS, "header", "\"10s\"", "from a request's first byte to the end of its head (408)"),
    key(TIMEOUTS, "keep_alive", "\"75s\"", "between two requests of a connection"),
    key(TIMEOUTS, "body", "\"60s\"", "between two pieces of a request's body (408)"),
    key(TIMEOUTS, "stall", "\"60s\"", "while a client takes nothing of its answer"),
    key(TIMEOUTS, "connect", "\"5s\"", "to connect to a task"),
    key(TIMEOUTS, "response", "\"60s\"", "from a request's end to its answer's head (504)"),
    key(TIMEOUTS, "response_body", "\"10m\"", "between two pieces of an answer's body"),
    key(TIMEOUTS, "idle", "\"4s\"", "an unused connection to a task is kept this long"),
    key(TIMEOUTS, "drain", "\"10s\"", "requests in flight may take this long when portolan ends"),
    key(TRUST, "forwarded", "[]", "peers whose `X-Forwarded-*` are believed, as address ranges"),
    later(TRUST, "proxy_protocol", "peers whose PROXY protocol is believed"),
    key("admin", "socket", "\"/run/portolan/portolan.sock\"", "where the command line asks"),
    key(
        "admin",
        "listen",
        "\"off\"",
        "where metrics, health and the API are read over TCP, on loopback; `off` for nowhere",
    ),
    key("log", "format", "\"text\"", "`text` or `json`"),
    key("log", "level", "\"info\"", "`error`, `warn`, `info`, `debug`, or a filter by module"),
];

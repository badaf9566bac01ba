//! The one table of all labels: name, meaning, and whether this version acts on it.
//!
//! Sources: Interlock's `com.docker.lb.*` (v2, v3) and `interlock.*` (v1), and portolan's own.

use std::net::IpAddr;
use std::time::Duration;

use super::values::{self, Bad};
use super::{probe, subject};
use crate::balance_spec::{Affinity, Bind, Prefer};
use crate::model::{Protocol, Service};
use crate::nearest::nearest;
use crate::note::{Notes, shown};
use crate::route_spec::BackendMode;

/// Prefix of the router's labels.
pub(super) const LB: &str = "com.docker.lb.";
/// Prefix of Interlock v1's labels on containers.
pub(super) const V1: &str = "interlock.";
/// Prefix of portolan's own labels.
pub(super) const OWN: &str = "portolan.";

/// A label whose value has the type `T`.
pub(super) struct Key<T> {
    /// Without its prefix.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// Reads a value; says what is wrong with it otherwise.
    pub(super) read: fn(&str) -> Result<T, Bad>,
}

impl<T> Key<T> {
    const fn acts(&self, prefix: &'static str) -> Known {
        Known { prefix, name: self.name, help: self.help, effect: Effect::Acts }
    }
}

pub(super) const HOSTS: Key<String> = Key {
    name: "hosts",
    help: "host names routed to the service, separated by commas, e.g. `app.example.com`",
    read: values::list,
};
pub(super) const PORT: Key<u16> =
    Key { name: "port", help: "the port the container listens on, e.g. 8080", read: values::port };
pub(super) const NETWORK: Key<String> = Key {
    name: "network",
    help: "the network on which the tasks are reached, where the service is on several",
    read: values::name,
};
pub(super) const CONTEXT_ROOT: Key<String> = Key {
    name: "context_root",
    help: "path prefix of the application, e.g. `/app`",
    read: values::path,
};
pub(super) const CONTEXT_ROOT_REWRITE: Key<bool> = Key {
    name: "context_root_rewrite",
    help: "`true` strips the context root before the request reaches the task",
    read: values::boolean,
};
pub(super) const BACKEND_MODE: Key<BackendMode> = Key {
    name: "backend_mode",
    help: "`task` (the default) balances over the tasks, `vip` leaves it to the service's VIP",
    read: values::backend_mode,
};
pub(super) const SERVICE_CLUSTER: Key<String> = Key {
    name: "service_cluster",
    help: "the service cluster that serves it; empty for the default one",
    read: values::text,
};

pub(super) const AFFINITY: Key<Affinity> = Key {
    name: "vip.affinity",
    help: "`client` keeps a client's connections on one task; `none` is the default",
    read: probe::affinity,
};
pub(super) const PREFER: Key<Prefer> = Key {
    name: "vip.prefer",
    help: "`node` prefers tasks of the client's node; `any` is the default",
    read: probe::prefer,
};
pub(super) const ADDRESS: Key<IpAddr> = Key {
    name: "vip.address",
    help: "the VIP to use, e.g. 10.0.5.100; `.NETWORK` for that network only",
    read: probe::address,
};
pub(super) const PORTS: Key<(u16, Protocol)> = Key {
    name: "vip.ports",
    help: "ports besides the published ones that a relay listens on, e.g. `80,53/udp`",
    read: probe::port_and_protocol,
};
pub(super) const DRAIN: Key<Duration> = Key {
    name: "vip.drain",
    help: "how long connections to a draining task may go on, e.g. 30s",
    read: probe::drain,
};
pub(super) const BIND: Key<Bind> = Key {
    name: "mesh.bind",
    help: "addresses or interfaces at which published ports are to be had, e.g. `eth0,127.0.0.1`",
    read: probe::bind,
};
pub(super) const PROXY_PROTOCOL: Key<bool> = Key {
    name: "mesh.proxy_protocol",
    help: "`v2` relays published ports with a PROXY protocol header; `off` is the default",
    read: probe::proxy_protocol,
};
pub(super) const HEALTH_TCP: Key<u16> =
    Key { name: "health.tcp", help: "checks tasks by connecting to this port", read: values::port };
pub(super) const HEALTH_HTTP: Key<probe::Target> = Key {
    name: "health.http",
    help: "checks tasks by GET of this port and path, e.g. `8080/health`; 2xx and 3xx are success",
    read: probe::http,
};
pub(super) const HEALTH_HOST: Key<String> = Key {
    name: "health.host",
    help: "the host that a check by HTTP asks for; the task's address is the default",
    read: probe::name_of_host,
};
pub(super) const HEALTH_INTERVAL: Key<Duration> = Key {
    name: "health.interval",
    help: "how often tasks are checked, from 1s; 10s is the default",
    read: probe::interval,
};
pub(super) const HEALTH_TIMEOUT: Key<Duration> = Key {
    name: "health.timeout",
    help: "how long a check may take; 2s is the default",
    read: probe::timeout,
};
pub(super) const HEALTH_RISE: Key<u32> = Key {
    name: "health.rise",
    help: "successes in a row that bring a task back; 2 is the default",
    read: probe::streak,
};
pub(super) const HEALTH_FALL: Key<u32> = Key {
    name: "health.fall",
    help: "failures in a row that take a task out; 3 is the default",
    read: probe::streak,
};

/// One label that has a meaning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Known {
    prefix: &'static str,
    /// Without its prefix.
    pub(super) name: &'static str,
    /// What it means and what its value looks like.
    pub help: &'static str,
    /// What this version makes of it.
    pub effect: Effect,
}

/// What this version makes of a label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It does what its help says.
    Acts,
    /// It is recognised and changes nothing yet; whoever sets it is told so.
    NotYet,
}

impl Known {
    /// The whole label, e.g. `com.docker.lb.hosts`.
    pub fn label(&self) -> String {
        format!("{}{}", self.prefix, self.name)
    }

    /// Warns whoever set a label that changes nothing yet.
    pub(super) fn warn_without_effect(
        &self,
        service: &Service,
        label: &str,
        value: &str,
        notes: &mut Notes,
    ) {
        // Who asks for what happens anyway needs no warning. In v1 `=false` asked for the opposite:
        // switches counted by their presence.
        let nothing_asked = self.prefix != V1
            && (value.trim().is_empty() || matches!(values::boolean(value), Ok(false)));
        if self.effect == Effect::NotYet && !nothing_asked {
            notes.warning(
                subject(service),
                shown(label),
                format!("`{}` has no effect in this version", shown(value)),
                "none needed; the service is served as if the label were not there",
            );
        }
    }
}

/// All labels that have a meaning, for help texts and reference pages.
pub fn known() -> impl Iterator<Item = &'static Known> {
    TABLE.iter()
}

/// The label of that prefix and name; `health.*` in the table stands for all that begin so.
pub(super) fn find(prefix: &str, name: &str) -> Option<&'static Known> {
    let family = |it: &Known| it.name.strip_suffix('*').is_some_and(|it| name.starts_with(it));
    TABLE.iter().find(|it| it.prefix == prefix && (it.name == name || family(it)))
}

/// The names of all labels of a prefix.
pub(super) fn names(prefix: &str) -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(move |it| it.prefix == prefix).map(|it| it.name)
}

/// Looks through `portolan.*` labels for unknown ones and ones without effect. Their values are
/// read by those who act on them.
pub(super) fn check_own(service: &Service, notes: &mut Notes) {
    for (label, value) in &service.labels {
        let Some(name) = label.strip_prefix(OWN) else { continue };
        if let Some(known) = find(OWN, name) {
            known.warn_without_effect(service, label, value, notes);
            continue;
        }
        let remedy = match nearest(name, names(OWN)) {
            Some(meant) => format!("did you mean `{OWN}{meant}`?"),
            None => format!("known are {}", names(OWN).collect::<Vec<_>>().join(", ")),
        };
        notes.error(subject(service), shown(label), "no such label", remedy);
    }
}

const fn later(prefix: &'static str, name: &'static str, help: &'static str) -> Known {
    Known { prefix, name, help, effect: Effect::NotYet }
}

const fn elsewhere(name: &'static str, help: &'static str) -> Known {
    Known { prefix: OWN, name, help, effect: Effect::Acts }
}

const fn v1(name: &'static str, help: &'static str) -> Known {
    Known { prefix: V1, name, help, effect: Effect::Acts }
}

const TABLE: &[Known] = &[
    HOSTS.acts(LB),
    PORT.acts(LB),
    NETWORK.acts(LB),
    CONTEXT_ROOT.acts(LB),
    CONTEXT_ROOT_REWRITE.acts(LB),
    BACKEND_MODE.acts(LB),
    SERVICE_CLUSTER.acts(LB),
    later(LB, "ssl_only", "`true` sends plain HTTP to HTTPS"),
    later(LB, "ssl_cert", "Docker secret with the certificate"),
    later(LB, "ssl_key", "Docker secret with the private key"),
    later(LB, "ssl_passthrough", "`true` relays TLS by its server name, without ending it"),
    later(LB, "ssl_backend", "`true` speaks TLS to the tasks"),
    later(LB, "ssl_backend_tls_verify", "`required` verifies the tasks' certificates"),
    later(LB, "websocket_endpoints", "paths on which websockets are allowed"),
    later(LB, "sticky_session_cookie", "application cookie that pins a client to a task"),
    later(LB, "ip_hash", "`true` pins a client address to a task"),
    later(LB, "redirects", "host redirects, `http://old,http://new;...`"),
    later(LB, "default_backend", "`true` serves hosts that nobody else has"),
    later(LB, "max_fails", "failures after which a task is left out for a while"),
    later(LB, "fail_timeout", "how long a failing task is left out"),
    v1("hostname", "first part of the host name"),
    v1("domain", "rest of the host name"),
    v1("alias_domain", "one more host name; `.N` for several"),
    v1("port", "the port the container listens on"),
    v1("network", "the network on which the container is reached"),
    v1("context_root", "path prefix of the application"),
    v1("context_root_rewrite", "its presence strips the context root"),
    v1("app", "marks Interlock's own containers"),
    v1("ext.name", "marks Interlock's proxy containers"),
    later(V1, "ssl", "its presence serves the host with TLS"),
    later(V1, "ssl_only", "its presence sends plain HTTP to HTTPS"),
    later(V1, "ssl_cert", "certificate file"),
    later(V1, "ssl_cert_key", "private key file"),
    later(V1, "ssl_backend", "its presence speaks TLS to the container"),
    later(V1, "ssl_backend_tls_verify", "`none` or `required`"),
    later(V1, "websocket_endpoint", "a path on which websockets are allowed; `.N` for several"),
    later(V1, "ip_hash", "its presence pins a client address to a container"),
    later(V1, "health_check", "HAProxy's health check option"),
    later(V1, "health_check_interval", "milliseconds between health checks"),
    later(V1, "balance_algorithm", "HAProxy's balancing algorithm"),
    later(V1, "backend_option", "a raw option for the proxy; `.N` for several"),
    elsewhere("service", "groups plain containers into a service of that name"),
    elsewhere("mode", "`vip` or `dnsrr`: how the service's name is answered"),
    elsewhere("lb.share", "services with one key may share a host and path"),
    later(OWN, "lb.weight", "share of a route that several services serve"),
    later(OWN, "lb.sticky", "`true` pins a client to a task by a cookie of the router"),
    later(OWN, "lb.protocol", "`h2c` speaks HTTP/2 to the tasks"),
    AFFINITY.acts(OWN),
    PREFER.acts(OWN),
    ADDRESS.acts(OWN),
    elsewhere("vip.address.*", "the VIP to use on the network of that name"),
    PORTS.acts(OWN),
    DRAIN.acts(OWN),
    BIND.acts(OWN),
    PROXY_PROTOCOL.acts(OWN),
    HEALTH_TCP.acts(OWN),
    HEALTH_HTTP.acts(OWN),
    HEALTH_HOST.acts(OWN),
    HEALTH_INTERVAL.acts(OWN),
    HEALTH_TIMEOUT.acts(OWN),
    HEALTH_RISE.acts(OWN),
    HEALTH_FALL.acts(OWN),
];

//! `portolan.vip.*`, `portolan.mesh.*`, `portolan.health.*` -> [`BalanceSpec`].
//!
//! Always true here: what cannot be read leaves its default, except where the default would let in
//! more than were meant (`portolan.mesh.bind`): there it lets in nobody. A label nobody knows is
//! told of by `keys::check_own`, not here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::keys::{self, Key, LB, OWN};
use super::values::{Bad, bad};
use super::{probe, subject, values};
use crate::balance_spec::{BalanceSpec, Bind, HealthCheck, Probe};
use crate::model::{Protocol, Service};
use crate::note::{Notes, shown};

/// All that `service` says.
pub(super) fn read(service: &Service, notes: &mut Notes) -> BalanceSpec {
    let mut reader = Reader { service, notes };
    BalanceSpec {
        affinity: reader.one(&keys::AFFINITY).unwrap_or_default(),
        prefer: reader.one(&keys::PREFER).unwrap_or_default(),
        address: reader.addresses(),
        health: reader.health(),
        bind: reader.bind(),
        proxy_protocol: reader.one(&keys::PROXY_PROTOCOL).unwrap_or_default(),
        ports: reader.ports(),
        drain: reader.one(&keys::DRAIN),
    }
}

struct Reader<'a, 'n> {
    service: &'a Service,
    notes: &'n mut Notes,
}

impl Reader<'_, '_> {
    /// The value of a label, where it is there and can be read.
    fn one<T>(&mut self, key: &Key<T>) -> Option<T> {
        let label = format!("{OWN}{}", key.name);
        let value = self.service.labels.get(&label)?;
        self.value(&label, value, key.read)
    }

    fn value<T>(
        &mut self,
        label: &str,
        value: &str,
        read: impl FnOnce(&str) -> Result<T, Bad>,
    ) -> Option<T> {
        read(value).map_err(|bad| self.error(label, value, bad)).ok()
    }

    /// The entries of a comma list that can be read, each once. `None` stands for an entry that
    /// cannot; no label gives an empty list.
    fn entries<T: Eq>(&mut self, key: &Key<T>) -> Vec<Option<T>> {
        let label = format!("{OWN}{}", key.name);
        let Some(list) = self.service.labels.get(&label) else { return Vec::new() };
        let mut entries = Vec::new();
        for (index, text) in list.split(',').enumerate() {
            if index == MAX_ENTRIES {
                let text = format!("has more than {MAX_ENTRIES} entries; the rest is not read");
                self.error(&label, list, bad(text, "name fewer"));
                break;
            }
            let entry = self.value(&label, text.trim(), key.read);
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        entries
    }

    fn addresses(&mut self) -> BTreeMap<String, IpAddr> {
        let mut addresses = BTreeMap::new();
        if let Some(address) = self.one(&keys::ADDRESS) {
            addresses.insert(String::new(), address);
        }
        let prefix = format!("{OWN}{}.", keys::ADDRESS.name);
        for (label, value) in &self.service.labels {
            let Some(network) = label.strip_prefix(&prefix) else { continue };
            let read = |value: &str| match network {
                // A name that was lost must not mean all networks.
                "" => Err(bad("is for no network", "write the network's name after the dot")),
                _ => (keys::ADDRESS.read)(value),
            };
            if let Some(address) = self.value(label, value, read) {
                addresses.insert(network.to_owned(), address);
            }
        }
        addresses
    }

    fn bind(&mut self) -> Vec<Bind> {
        self.entries(&keys::BIND).into_iter().map(|it| it.unwrap_or(Bind::Nowhere)).collect()
    }

    fn ports(&mut self) -> Vec<(u16, Protocol)> {
        self.entries(&keys::PORTS).into_iter().flatten().collect()
    }

    fn health(&mut self) -> Option<HealthCheck> {
        let tcp = self.one(&keys::HEALTH_TCP).map(|port| Probe::Tcp { port });
        let probe = self.http().or(tcp);
        let host = self.one(&keys::HEALTH_HOST);
        let (interval, timeout) =
            (self.one(&keys::HEALTH_INTERVAL), self.one(&keys::HEALTH_TIMEOUT));
        let (rise, fall) = (self.one(&keys::HEALTH_RISE), self.one(&keys::HEALTH_FALL));
        self.say_what_asks_for_nothing();
        let probe = match probe? {
            Probe::Http { port, path, .. } => Probe::Http { port, path, host },
            tcp @ Probe::Tcp { .. } => tcp,
        };
        let usual = HealthCheck::new(probe);
        Some(HealthCheck {
            interval: interval.unwrap_or(usual.interval),
            timeout: timeout.unwrap_or(usual.timeout),
            rise: rise.unwrap_or(usual.rise),
            fall: fall.unwrap_or(usual.fall),
            ..usual
        })
    }

    fn http(&mut self) -> Option<Probe> {
        let probe::Target { port, path } = self.one(&keys::HEALTH_HTTP)?;
        let Some(port) = port.or_else(|| self.only_port()) else {
            let label = format!("{OWN}{}", keys::HEALTH_HTTP.name);
            let text = "names no port, and the service publishes none or several";
            let remedy = format!("write `PORT{path}`, e.g. `8080{path}`");
            self.error(&label, &path, bad(text, remedy));
            return None;
        };
        Some(Probe::Http { port, path, host: None })
    }

    /// The TCP port in the tasks that nobody has to name: the one that is published, else the one
    /// that the router is sent to.
    fn only_port(&self) -> Option<u16> {
        let published = self.service.ports.iter().filter(|it| it.protocol == Protocol::Tcp);
        let targets: BTreeSet<u16> = published.map(|it| it.target).collect();
        let routed = || {
            let label = format!("{LB}{}", keys::PORT.name);
            values::port(self.service.labels.get(&label)?).ok()
        };
        match targets.len() {
            1 => targets.first().copied(),
            _ => routed(),
        }
    }

    /// Two kinds of probes where one is made, and settings of a probe that is not asked for.
    fn say_what_asks_for_nothing(&mut self) {
        let label = |name: &str| format!("{OWN}{name}");
        let (tcp, http) = (label(keys::HEALTH_TCP.name), label(keys::HEALTH_HTTP.name));
        let given = |label: &String| self.service.labels.contains_key(label);
        if given(&tcp) && given(&http) {
            let text = "is not used, since there is a check by HTTP";
            self.notes.warning(subject(self.service), tcp, text, format!("remove it, or `{http}`"));
        } else if !given(&tcp) && !given(&http) {
            let settings = [
                keys::HEALTH_HOST.name,
                keys::HEALTH_INTERVAL.name,
                keys::HEALTH_TIMEOUT.name,
                keys::HEALTH_RISE.name,
                keys::HEALTH_FALL.name,
            ];
            for setting in settings.map(label).iter().filter(|it| given(it)) {
                let text = "checks nothing by itself";
                let remedy = format!("say what is checked, with `{http}` or `{tcp}`");
                self.notes.warning(subject(self.service), setting, text, remedy);
            }
        }
    }

    fn error(&mut self, label: &str, value: &str, bad: Bad) {
        let text = format!("`{}` {}", shown(value), bad.text);
        self.notes.error(subject(self.service), shown(label), text, bad.remedy);
    }
}

/// Entries read of one comma list. Nodes have a handful of addresses, services of ports.
const MAX_ENTRIES: usize = 64;

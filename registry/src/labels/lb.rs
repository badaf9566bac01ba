//! `com.docker.lb.*` -> [`RouteSpec`], one for each group of labels with the same suffix.
//!
//! A named group (`com.docker.lb.hosts.api`) has hosts and a context root of its own; what says
//! how the service is reached (port, network, backend mode, cluster) it takes from the plain
//! labels where it has none of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{self, Key, LB};
use super::{MAX_HOSTS, subject, values};
use crate::model::Service;
use crate::nearest::{closest, nearest};
use crate::note::{Notes, shown};
use crate::route_spec::{BackendMode, RouteSpec};

/// The routes of `service`, and whether it has any label of this family at all.
pub(super) fn read(service: &Service, notes: &mut Notes) -> (Vec<RouteSpec>, bool) {
    let mut reader = Reader { service, meant: BTreeSet::new(), notes };
    let groups = reader.groups();
    let claimed = service.labels.keys().any(|label| label.starts_with(LB));
    if claimed {
        reader.warn_of_network_typo();
    }
    let fields: BTreeMap<&str, Fields> =
        groups.iter().map(|(suffix, group)| (*suffix, reader.fields(group))).collect();
    let plain = fields.get("").cloned().unwrap_or_default();
    // Plain labels without hosts may be there for the named groups only.
    let shared_only = fields.len() > 1 && plain.hosts == Field::Absent;
    let routes = groups
        .iter()
        .filter(|(suffix, _)| !(suffix.is_empty() && shared_only))
        .filter_map(|(suffix, group)| {
            let own = fields.get(suffix)?.clone();
            reader.spec(suffix, group, own.or(&plain))
        })
        .collect();
    (routes, claimed)
}

/// The labels of one suffix: name without prefix and suffix -> label, value.
type Group<'a> = BTreeMap<&'static str, (&'a str, &'a str)>;

/// What a label gave.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Field<T> {
    #[default]
    Absent,
    /// Unreadable; a note says so.
    Bad,
    Good(T),
}

impl<T: Clone> Field<T> {
    fn or(self, other: &Self) -> Self {
        match self {
            Self::Absent => other.clone(),
            Self::Bad | Self::Good(_) => self,
        }
    }

    fn good(self) -> Option<T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }
}

/// One group, typed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Fields {
    hosts: Field<Vec<String>>,
    port: Field<u16>,
    network: Field<String>,
    context_root: Field<String>,
    rewrite: Field<bool>,
    backend_mode: Field<BackendMode>,
    cluster: Field<String>,
}

impl Fields {
    /// This group with what it may take from the plain labels.
    fn or(self, plain: &Self) -> Self {
        Self {
            hosts: self.hosts,
            port: self.port.or(&plain.port),
            network: self.network.or(&plain.network),
            context_root: self.context_root,
            rewrite: self.rewrite,
            backend_mode: self.backend_mode.or(&plain.backend_mode),
            cluster: self.cluster.or(&plain.cluster),
        }
    }
}

struct Reader<'a, 'n> {
    service: &'a Service,
    /// Labels that a mistyped one was taken to mean: they are not reported missing as well.
    meant: BTreeSet<(&'static str, &'a str)>,
    notes: &'n mut Notes,
}

impl<'a> Reader<'a, '_> {
    /// Sorts the labels by suffix, says which ones nobody knows and which ones do nothing yet.
    fn groups(&mut self) -> BTreeMap<&'a str, Group<'a>> {
        let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
        for (label, value) in &self.service.labels {
            let Some(rest) = label.strip_prefix(LB) else { continue };
            let (name, suffix) = rest.split_once('.').unwrap_or((rest, ""));
            let Some(known) = keys::find(LB, name) else {
                self.unknown(label, rest, name, suffix);
                continue;
            };
            if rest.ends_with('.') {
                let remedy = format!("write `{LB}{name}` or `{LB}{name}.NAME`");
                self.error(label, "has an empty group name".to_owned(), remedy);
                continue;
            }
            if !groups.contains_key(suffix) && groups.len() >= MAX_GROUPS {
                let text = format!("is one group too many; {MAX_GROUPS} are read");
                self.error(label, text, "split the service".to_owned());
                continue;
            }
            known.warn_without_effect(self.service, label, value, self.notes);
            groups.entry(suffix).or_default().insert(known.name, (label, value));
        }
        groups
    }

    fn unknown(&mut self, label: &str, rest: &'a str, name: &'a str, suffix: &'a str) {
        let dot = if suffix.is_empty() { "" } else { "." };
        // `ssl.cert` is rather `ssl_cert` mistyped than the group `cert` of a label `ssl`.
        let whole = closest(rest, keys::names(LB));
        let part = closest(name, keys::names(LB));
        let remedy = match (whole, part) {
            (Some((meant, far)), Some((_, other)))
                if far <= other && nearest(rest, [meant]).is_some() =>
            {
                self.meant.insert((meant, ""));
                format!("did you mean `{LB}{meant}`?")
            }
            (_, Some((meant, _))) if nearest(name, [meant]).is_some() => {
                self.meant.insert((meant, suffix));
                format!("did you mean `{LB}{meant}{dot}{}`?", shown(suffix))
            }
            _ => format!("known are {}", keys::names(LB).collect::<Vec<_>>().join(", ")),
        };
        self.error(label, "no such label".to_owned(), remedy);
    }

    fn fields(&mut self, group: &Group<'_>) -> Fields {
        Fields {
            hosts: self.hosts(group),
            port: self.one(group, &keys::PORT),
            network: self.one(group, &keys::NETWORK),
            context_root: self.one(group, &keys::CONTEXT_ROOT),
            rewrite: self.one(group, &keys::CONTEXT_ROOT_REWRITE),
            backend_mode: self.one(group, &keys::BACKEND_MODE),
            cluster: self.one(group, &keys::SERVICE_CLUSTER),
        }
    }

    fn one<T>(&mut self, group: &Group<'_>, key: &Key<T>) -> Field<T> {
        let Some((label, value)) = group.get(key.name) else { return Field::Absent };
        match (key.read)(value) {
            Ok(value) => Field::Good(value),
            Err(bad) => {
                self.error(label, format!("`{}` {}", shown(value), bad.text), bad.remedy);
                Field::Bad
            }
        }
    }

    /// The host names that can be read, each once; the others get a note each.
    fn hosts(&mut self, group: &Group<'_>) -> Field<Vec<String>> {
        let list = match self.one(group, &keys::HOSTS) {
            Field::Good(list) => list,
            Field::Absent => return Field::Absent,
            Field::Bad => return Field::Bad,
        };
        let label = group.get(keys::HOSTS.name).map_or("", |(label, _)| label);
        let mut hosts = Vec::new();
        for (index, text) in list.split(',').map(str::trim).enumerate() {
            if index == MAX_HOSTS {
                let text = format!("has more than {MAX_HOSTS} names; the rest is not read");
                self.error(label, text, "spread them over several groups".to_owned());
                break;
            }
            match values::host(text) {
                Ok(host) if hosts.contains(&host) => {}
                Ok(host) => hosts.push(host),
                Err(_) if text.is_empty() => self.notes.warning(
                    subject(self.service),
                    label,
                    format!("`{}` has a comma too many", shown(&list)),
                    "none needed; the rest is read",
                ),
                Err(bad) => {
                    self.error(label, format!("`{}` {}", shown(text), bad.text), bad.remedy);
                }
            }
        }
        if hosts.is_empty() { Field::Bad } else { Field::Good(hosts) }
    }

    /// The route of one group, where it says enough. What is missing is said once.
    fn spec(&mut self, suffix: &'a str, group: &Group<'_>, fields: Fields) -> Option<RouteSpec> {
        let unfinished = |key: &'static str| self.meant.contains(&(key, suffix));
        let dot = if suffix.is_empty() { String::new() } else { format!(".{}", shown(suffix)) };
        if fields.hosts == Field::Absent {
            if !group.contains_key("default_backend") && !unfinished(keys::HOSTS.name) {
                self.missing(&keys::HOSTS, &dot);
            }
            return None;
        }
        if fields.port == Field::Absent && !unfinished(keys::PORT.name) {
            self.missing(&keys::PORT, &dot);
        }
        if fields.context_root == Field::Bad || fields.cluster == Field::Bad {
            return None;
        }
        Some(RouteSpec {
            group: suffix.to_owned(),
            hosts: fields.hosts.good()?,
            port: fields.port.good()?,
            network: fields.network.good(),
            context_root: fields.context_root.good().unwrap_or_default(),
            rewrite: fields.rewrite.good().unwrap_or_default(),
            backend_mode: fields.backend_mode.good().unwrap_or_default(),
            cluster: fields.cluster.good().unwrap_or_default(),
        })
    }

    fn missing<T>(&mut self, key: &Key<T>, dot: &str) {
        let label = format!("{LB}{}{dot}", key.name);
        let remedy = format!("set it to {}", key.help);
        self.error(&label, "is missing, so the service gets no route".to_owned(), remedy);
    }

    fn warn_of_network_typo(&mut self) {
        const TYPO: &str = "com.docker.network";
        if let Some(value) = self.service.labels.get(TYPO) {
            let text = format!("`{}` does not choose the router's network", shown(value));
            let remedy = "write `com.docker.lb.network` if that is meant";
            self.notes.warning(subject(self.service), TYPO, text, remedy);
        }
    }

    fn error(&mut self, label: &str, text: String, remedy: String) {
        self.notes.error(subject(self.service), shown(label), text, remedy);
    }
}

/// Route groups read of one service.
const MAX_GROUPS: usize = 64;

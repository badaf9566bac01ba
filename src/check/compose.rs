//! Compose and stack files -> the services that they would make, as the registry would see them.
//!
//! Only what concerns portolan is read; what Docker itself would refuse, Docker says.

use std::collections::{BTreeMap, BTreeSet};

use registry::Notes;
use registry::id::NetworkId;
use registry::labels::is_for_every_node;
use registry::model::{
    Labels, Mode, Protocol, PublishMode, PublishedPort, Service, ServiceAttachment, ServiceKind,
};
use registry::nearest::nearest;
use registry::note::shown;

use super::interpolate::interpolate;
use super::yaml::Node;

/// A service of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Declared {
    /// What the registry would hold.
    pub(super) service: Service,
    /// Where it stands; 0 where that is not known.
    pub(super) line: usize,
    /// Where each of its labels stands.
    pub(super) lines: BTreeMap<String, usize>,
    /// What reading it had to say.
    pub(super) notes: Notes,
}

/// The services of a file that, unless it says otherwise, makes the stack or project `stack`.
pub(super) fn services(root: &Node, stack: &str) -> Vec<Declared> {
    let named = root.get("name").and_then(text).map(|it| normal(&it));
    let stack = named.filter(|it| !it.is_empty()).unwrap_or_else(|| normal(stack));
    let services = root.get("services").map(Node::entries).unwrap_or_default();
    // A file is deployed in one way.
    let swarm = services.iter().any(|(_, node)| for_swarm(node));
    let project = Project { stack: &stack, swarm, networks: root.get("networks") };
    services.iter().map(|(name, node)| service(name, node, &project)).collect()
}

/// Whether only a Swarm acts on all that a service says.
fn for_swarm(service: &Node) -> bool {
    let keys = service.get("deploy").map(Node::entries).unwrap_or_default();
    keys.iter().any(|(key, _)| SWARM_ONLY.contains(&key.as_str()))
}

fn service(name: &str, node: &Node, project: &Project<'_>) -> Declared {
    let deploy = node.get("deploy");
    let on_service = deploy.and_then(|it| it.get("labels")).map(labels).unwrap_or_default();
    let on_containers = node.get("labels").map(labels).unwrap_or_default();
    let Project { stack, swarm, .. } = *project;
    let full = if swarm { format!("{stack}_{name}") } else { format!("{stack}/{name}") };
    let subject = format!("service {}", shown(&full));
    let mut notes = Notes::default();
    if swarm {
        warn_of_labels_out_of_place(&subject, &on_containers, &on_service, &mut notes);
    }
    let mut all = on_containers;
    all.extend(on_service);
    let mut lines = BTreeMap::new();
    let mut labels = Labels::new();
    for (key, (line, value)) in all {
        if let Some(value) = settled(&subject, &key, &value, &mut notes) {
            labels.insert(key.clone(), value);
        }
        lines.insert(key, line);
    }
    let vip = if swarm {
        deploy.and_then(|it| it.get("endpoint_mode")).and_then(text).as_deref() != Some("dnsrr")
    } else {
        container_vip(&subject, &labels, &mut notes)
    };
    let networks = project.networks_of(node, &subject, &mut notes);
    let ports = node.get("ports").map(Node::items).unwrap_or_default();
    let service = Service {
        id: full.as_str().into(),
        name: full,
        kind: if swarm { ServiceKind::Swarm } else { ServiceKind::Compose },
        stack: Some(stack.to_owned()),
        mode: if vip { Mode::Vip } else { Mode::DnsRr },
        networks,
        ports: ports.iter().filter_map(port).collect(),
        labels,
        created: 0,
    };
    Declared { service, line: node.line, lines, notes }
}

/// The labels of a list (`- key=value`) or mapping, with the line of each.
fn labels(node: &Node) -> BTreeMap<String, (usize, String)> {
    let listed = node.items().iter().filter_map(|item| {
        let whole = item.text()?;
        let (key, value) = whole.split_once('=').unwrap_or((whole, ""));
        Some((key.to_owned(), (item.line, value.to_owned())))
    });
    let mapped = node.entries().iter().map(|(key, value)| {
        (key.clone(), (value.line, value.text().unwrap_or_default().to_owned()))
    });
    listed.chain(mapped).collect()
}

/// A label's value with defaults put in. A value that only the deployment knows cannot be judged:
/// a stand-in keeps the other labels readable.
fn settled(subject: &str, key: &str, value: &str, notes: &mut Notes) -> Option<String> {
    let interpolated = interpolate(value);
    let Some(variable) = interpolated.open.filter(|_| concerns_us(key)) else {
        return Some(interpolated.text);
    };
    notes.warning(
        subject,
        shown(key),
        format!("`{}` depends on a variable, and is not checked", shown(value)),
        format!("give it a default, `${{{variable}:-...}}`, to have it checked"),
    );
    match key.strip_prefix("com.docker.lb.")?.split('.').next()? {
        "hosts" => Some(format!("{}.invalid", variable.to_lowercase().replace('_', "-"))),
        "port" => Some("1".to_owned()),
        _ => None,
    }
}

fn warn_of_labels_out_of_place(
    subject: &str,
    on_containers: &BTreeMap<String, (usize, String)>,
    on_service: &BTreeMap<String, (usize, String)>,
    notes: &mut Notes,
) {
    let lost =
        |it: &&String| concerns_us(it) && !is_for_every_node(it) && !on_service.contains_key(*it);
    if let Some(key) = on_containers.keys().find(lost) {
        let text = "is a label of the containers here; in a Swarm the service's labels count";
        notes.warning(subject, shown(key), text, "move it below `deploy.labels`");
    }
    let unseen = |it: &&String| is_for_every_node(it) && !on_containers.contains_key(*it);
    if let Some(key) = on_service.keys().find(unseen) {
        let text = "is a label of the service alone, which the engines of workers do not tell; it \
                    has no effect there";
        notes.warning(subject, shown(key), text, "move it from `deploy.labels` to `labels`");
    }
}

/// Whether a service of containers asks for a VIP.
fn container_vip(subject: &str, labels: &Labels, notes: &mut Notes) -> bool {
    const MODE: &str = "portolan.mode";
    match labels.get(MODE).map(String::as_str) {
        Some("vip") => true,
        Some("dnsrr") | None => false,
        Some(other) => {
            let text = format!("`{}` is no mode, so dnsrr is used", shown(other));
            notes.error(subject, MODE, text, "write `vip` or `dnsrr`");
            false
        }
    }
}

fn concerns_us(key: &str) -> bool {
    ["com.docker.lb.", "portolan.", "interlock."].iter().any(|it| key.starts_with(it))
}

/// What a file says for all of its services.
struct Project<'a> {
    /// The name of the stack or project.
    stack: &'a str,
    /// Deployed to a Swarm, or made into containers of one host.
    swarm: bool,
    networks: Option<&'a Node>,
}

impl Project<'_> {
    /// The networks that a service is on, by full name.
    fn networks_of(
        &self,
        service: &Node,
        subject: &str,
        notes: &mut Notes,
    ) -> BTreeMap<NetworkId, ServiceAttachment> {
        if service.get("network_mode").is_some() {
            return BTreeMap::new();
        }
        let Some(node) = service.get("networks") else {
            return BTreeMap::from([(self.full("default"), ServiceAttachment::default())]);
        };
        let listed = node.items().iter().filter_map(|it| Some((it.text()?.to_owned(), None)));
        let mapped = node.entries().iter().map(|(name, it)| (name.clone(), it.get("aliases")));
        let mut found = BTreeMap::new();
        for (name, aliases) in listed.chain(mapped) {
            self.say_if_undefined(&name, subject, notes);
            let aliases: BTreeSet<String> =
                aliases.map(Node::items).unwrap_or_default().iter().filter_map(text).collect();
            found.insert(self.full(&name), ServiceAttachment { vip: None, aliases });
        }
        found
    }

    /// The name that the engine gives the network `key` of this file.
    fn full(&self, key: &str) -> NetworkId {
        let definition = self.networks.and_then(|it| it.get(key));
        let external = definition.and_then(|it| it.get("external"));
        let named = definition.and_then(|it| it.get("name")).and_then(text);
        // Before format 3.5 the name stood within `external`.
        let old = external.and_then(|it| it.get("name")).and_then(text);
        match named.or(old) {
            Some(name) => name.into(),
            None if external.is_some_and(|it| it.text() != Some("false")) => key.into(),
            None => format!("{}_{key}", self.stack).into(),
        }
    }

    fn say_if_undefined(&self, key: &str, subject: &str, notes: &mut Notes) {
        let defined = self.networks.map(Node::entries).unwrap_or_default();
        let names = || defined.iter().map(|(name, _)| name.as_str());
        if key == "default" || names().any(|it| it == key) {
            return;
        }
        let remedy = match nearest(key, names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "add it below `networks` of the file".to_owned(),
        };
        let text = format!("the file defines no network `{}`", shown(key));
        notes.error(subject, "networks", text, remedy);
    }
}

/// A published port; `None` where it is none that we understand. Of a range, the first.
fn port(node: &Node) -> Option<PublishedPort> {
    let long = |key| node.get(key).and_then(text);
    let short = text(node);
    let (mapping, protocol) = match &short {
        Some(short) => short.split_once('/').unwrap_or((short, "tcp")),
        None => ("", ""),
    };
    let (outer, target) = mapping.rsplit_once(':').unwrap_or(("", mapping));
    let published = outer.rsplit_once(':').map_or(outer, |(_, port)| port);
    let number = |text: &str| text.split('-').next().unwrap_or_default().trim().parse().ok();
    let protocol = long("protocol").unwrap_or_else(|| protocol.to_owned());
    Some(PublishedPort {
        published: number(&long("published").unwrap_or_else(|| published.to_owned())).unwrap_or(0),
        target: number(&long("target").unwrap_or_else(|| target.to_owned()))
            .filter(|it| *it > 0)?,
        protocol: if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp },
        mode: match long("mode").as_deref() {
            Some("host") => PublishMode::Host,
            _ => PublishMode::Ingress,
        },
        name: long("name"),
    })
}

/// A scalar with defaults put in.
fn text(node: &Node) -> Option<String> {
    node.text().map(|it| interpolate(it).text)
}

/// A project's name as Compose makes it: lower case, letters, digits, `-` and `_`.
fn normal(name: &str) -> String {
    let legal = |it: &char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_');
    let name: String = name.to_lowercase().chars().filter(legal).collect();
    name.trim_start_matches(['-', '_']).to_owned()
}

/// Keys of `deploy` that only a Swarm acts on: a file with them is deployed to one.
const SWARM_ONLY: [&str; 5] =
    ["labels", "endpoint_mode", "placement", "update_config", "rollback_config"];

//! What a world file cannot say.

use registry::Draft;
use registry::id::SandboxId;
use registry::model::{Attachment, Completeness, Endpoint, Reach, Scope, ServingState, Task};
use registry::model::{Dial, Network, Origin, Sandbox, Upstream};

use super::*;
use crate::plan::Outside;
use crate::upstream::{Server, UpstreamConfig};

fn config() -> Config {
    Config {
        ttl: Duration::from_secs(5),
        vip_ttl: Duration::from_secs(30),
        forward_single_label: false,
        host_listen: Some("127.0.0.1:1053".parse().unwrap()),
        upstream: UpstreamConfig::default(),
    }
}

fn network(id: &str, name: &str) -> Network {
    Network {
        id: id.into(),
        name: name.to_owned(),
        scope: Scope::Local,
        driver: "bridge".to_owned(),
        internal: false,
        ingress: false,
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        gateways: Vec::new(),
        labels: BTreeMap::default(),
        names: Completeness::Complete,
        reach: Reach::Host,
    }
}

fn sandbox(id: &str, networks: &[&str]) -> Sandbox {
    let attachment = |it: &&str| Attachment { network: (*it).into(), addresses: Vec::new() };
    Sandbox {
        id: id.into(),
        name: id.to_owned(),
        cookie: None,
        netns: format!("/run/netns/{id}").into(),
        tasks: Vec::new(),
        networks: networks.iter().map(attachment).collect(),
        nameless: Vec::new(),
        links: BTreeMap::new(),
        hosts: BTreeMap::new(),
        trusts_ad: false,
        hostname: String::new(),
        upstreams: Vec::new(),
        upstreams_from: Origin::Host,
    }
}

fn compiled(draft: Draft) -> (Plan, Notes) {
    compile(&Snapshot::build(draft, 1), &VipTable::new(), &config())
}

#[test]
fn a_namespace_that_is_listed_twice_is_served_once_and_said() {
    let mut twin = sandbox("b", &["n"]);
    twin.netns = "/run/netns/a".into();
    let sandboxes = vec![twin, sandbox("a", &["n"])];
    let networks = vec![network("n", "net")];
    let (plan, notes) = compiled(Draft { networks, sandboxes, ..Draft::default() });
    assert_eq!(plan.views.keys().collect::<Vec<_>>(), [&SandboxId::from("a")]);
    let note = notes.iter().next().unwrap();
    assert_eq!((note.subject.as_str(), note.place.as_str()), ("sandbox b", "netns"));
}

#[test]
fn nobody_is_asked_by_a_sandbox_of_whose_networks_none_is_known() {
    let mut lost = sandbox("a", &["gone"]);
    let address = "192.0.2.53:53".parse().unwrap();
    lost.upstreams = vec![Upstream { address, dial: Dial::Host }];
    let (plan, _) = compiled(Draft { sandboxes: vec![lost], ..Draft::default() });
    assert_eq!(plan.views[&SandboxId::from("a")].outside, Outside::Internal);
}

#[test]
fn the_default_bridge_leads_outside_and_its_addresses_are_ones_own() {
    let inner = Network { internal: true, ..network("n", "inner") };
    let bridge =
        Network { subnets: vec!["172.17.0.0/16".parse().unwrap()], ..network("d", "bridge") };
    let mut cut_off = sandbox("cut-off", &["n"]);
    cut_off.upstreams =
        vec![Upstream { address: "192.0.2.53:53".parse().unwrap(), dial: Dial::Host }];
    let mut connected = Sandbox { id: "connected".into(), ..cut_off.clone() };
    connected.netns = "/run/netns/connected".into();
    connected.nameless = vec!["d".into()];
    let (networks, sandboxes) = (vec![inner, bridge], vec![cut_off, connected]);
    let (plan, _) = compiled(Draft { networks, sandboxes, ..Draft::default() });
    let view = |id: &str| &plan.views[&SandboxId::from(id)];
    assert_eq!(view("cut-off").outside, Outside::Internal);
    let servers = Outside::Servers(vec!["192.0.2.53:53".parse().unwrap()]);
    assert_eq!(view("connected").outside, servers);
    let subnets = view("connected").subnets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(subnets, ["10.0.0.0/24", "172.17.0.0/16"]);
    let zones = view("connected").zones.iter().map(|it| it.name.as_str()).collect::<Vec<_>>();
    assert_eq!(zones, ["inner"], "nobody has a name on the default bridge");
}

#[test]
fn the_host_s_own_listener_is_never_a_server() {
    let mut asking = sandbox("a", &["n"]);
    let servers = ["127.0.0.1:1053", "127.0.0.1:53"].map(|it| it.parse().unwrap());
    asking.upstreams = servers.map(|address| Upstream { address, dial: Dial::Host }).to_vec();
    let networks = vec![network("n", "net")];
    let (plan, notes) = compiled(Draft { networks, sandboxes: vec![asking], ..Draft::default() });
    let left = Outside::Servers(vec!["127.0.0.1:53".parse().unwrap()]);
    assert_eq!(plan.views[&SandboxId::from("a")].outside, left);
    assert_eq!(notes.iter().count(), 1);
}

#[test]
fn of_two_networks_of_one_name_the_first_that_knows_wins() {
    let networks = vec![network("n1", "net"), network("n2", "Net")];
    let sandboxes = vec![sandbox("a", &["n2", "n1"])];
    let (plan, _) = compiled(Draft { networks, sandboxes, ..Draft::default() });
    let order: Vec<_> =
        plan.views[&SandboxId::from("a")].zones.iter().map(|it| it.network.as_str()).collect();
    assert_eq!(order, ["n2", "n1"]);
    assert_eq!(
        plan.host.zones.iter().map(|it| it.key.as_str()).collect::<Vec<_>>(),
        ["net", "net"]
    );
}

#[test]
fn ttls_are_whole_seconds_within_what_dns_carries() {
    assert_eq!(seconds(Duration::from_millis(5900)), 5);
    assert_eq!(seconds(Duration::from_secs(u64::MAX)), 0x7fff_ffff);
}

#[test]
fn an_address_that_two_claim_for_a_moment_has_the_name_of_the_first() {
    let address = "10.0.0.9".parse().unwrap();
    let task = |id: &str| Task {
        id: id.into(),
        name: format!("box-{id}"),
        service: None,
        node: None,
        networks: BTreeMap::from([(
            "n".into(),
            Endpoint { addresses: vec![address], ..Endpoint::default() },
        )]),
        publishes: None,
        weight: 1,
        state: ServingState::Serving,
        reason: String::new(),
    };
    let tasks = vec![task("2"), task("1")];
    let (plan, _) =
        compiled(Draft { networks: vec![network("n", "net")], tasks, ..Draft::default() });
    assert_eq!(
        plan.zones[&"n".into()].reverse.get(&address).unwrap().name.to_string(),
        "box-1.net."
    );
}

#[test]
fn configured_servers_stand_in_for_those_of_the_host_and_for_no_others() {
    let own: Server = "10.0.0.53".parse().unwrap();
    let mut config = config();
    let listener = "127.0.0.1:1053".parse().unwrap();
    config.upstream.servers = vec![own.clone(), listener];
    let host = Upstream { address: "192.0.2.1:53".parse().unwrap(), dial: Dial::Host };
    for (from, expected) in [
        (Origin::Host, own),
        (Origin::Engine, Server::plain(host)),
        (Origin::Sandbox, Server::plain(host)),
    ] {
        let asking =
            Sandbox { upstreams: vec![host], upstreams_from: from, ..sandbox("a", &["n"]) };
        let networks = vec![network("n", "net")];
        let draft = Draft { networks, sandboxes: vec![asking], ..Draft::default() };
        let (plan, _) = compile(&Snapshot::build(draft, 1), &VipTable::new(), &config);
        let outside = &plan.views[&SandboxId::from("a")].outside;
        assert_eq!(*outside, Outside::Servers(vec![expected]), "{from:?}");
    }
}

#[test]
fn servers_of_a_host_that_trusts_them_are_trusted_and_configured_ones_are_not() {
    let mut config = config();
    let address = "192.0.2.1:53".parse().unwrap();
    let given = Upstream { address, dial: Dial::Host };
    let mut asking = Sandbox { upstreams: vec![given], trusts_ad: true, ..sandbox("a", &["n"]) };
    asking.upstreams_from = Origin::Host;
    let networks = vec![network("n", "net")];
    let draft = Draft { networks, sandboxes: vec![asking], ..Draft::default() };
    for (configured, expected) in [(vec![], true), (vec!["10.0.0.53".parse().unwrap()], false)] {
        config.upstream.servers = configured;
        let (plan, _) = compile(&Snapshot::build(draft.clone(), 1), &VipTable::new(), &config);
        let Outside::Servers(servers) = &plan.views[&SandboxId::from("a")].outside else {
            panic!("{plan:?}")
        };
        assert_eq!(servers.iter().map(|it| it.trusts_ad).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn a_suffix_with_servers_is_asked_about_even_where_nobody_else_can_be() {
    let mut config = config();
    let server: Server = "10.0.0.53".parse().unwrap();
    config.upstream.suffixes.insert("corp.example".to_owned(), vec![server]);
    let networks = vec![network("n", "net")];
    let draft = Draft { networks, sandboxes: vec![sandbox("a", &["n"])], ..Draft::default() };
    let (plan, _) = compile(&Snapshot::build(draft, 1), &VipTable::new(), &config);
    assert_eq!(plan.views[&SandboxId::from("a")].outside, Outside::Servers(Vec::new()));
}

//! Worlds made from what real engines answered: `fixtures/engine/VERSION-ROLE.json` gives the
//! world in the `.txt` beside it.
//!
//! The answers are of a manager and a worker of one Swarm, with a stack (`web` in mode vip with two
//! published ports, `app` in mode dnsrr with a health check), plain containers on an attachable
//! overlay, and on each node containers of a compose project, a link, a shared namespace, and
//! containers on the host's, the default and no network. `VERSION-alone` is an engine in no Swarm:
//! containers on several bridges, one of two families, one internal, with extra hosts and links of
//! both kinds, one renamed, and two compose services of one name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerInspectResponse, Network as ListedNetwork, NetworkInspect, Node, Service, SystemInfo,
};
use serde::Deserialize;

use crate::Snapshot;
use crate::id::{NetworkId, NodeId};
use crate::model::Mode;
use crate::source::docker::container::{Container, Health};
use crate::source::docker::convert::draft;
use crate::source::docker::engine::{Engine, EngineNetwork, Role};
use crate::source::docker::folder::{self, Folder};
use crate::source::docker::gossip::{Gossip, GossipService};
use crate::source::docker::read::gossip_of;
use crate::source::docker::swarm::{Swarm, SwarmNode, SwarmService, SwarmTask};
use crate::source::docker::tests::shown::shown;
use crate::source::docker::upstream::HostServers;
use crate::source::docker::view::View;

/// What one engine answered.
#[derive(Deserialize)]
struct Recorded {
    info: SystemInfo,
    networks: Vec<ListedNetwork>,
    containers: Vec<ContainerInspectResponse>,
    gossip: BTreeMap<String, NetworkInspect>,
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default)]
    tasks: Vec<SwarmTask>,
    #[serde(default)]
    nodes: Vec<Node>,
    folder: Vec<String>,
}

fn recorded(name: &str) -> View {
    let json = std::fs::read_to_string(fixture(name, "json")).unwrap();
    let recorded: Recorded = serde_json::from_str(&json).unwrap();
    let containers = recorded.containers.into_iter().filter_map(Container::from_inspect);
    let mut containers: BTreeMap<String, Container> =
        containers.map(|it| (it.id.clone(), it)).collect();
    let mut folder = Folder::default();
    // A cookie for each namespace, the host's first, as a kernel would give them.
    let mut namespaces: Vec<PathBuf> =
        containers.values().filter_map(|it| it.netns.clone()).collect();
    namespaces.push("/var/run/docker/netns/default".into());
    namespaces.sort_by_key(|it| (!it.ends_with("default"), it.clone()));
    namespaces.dedup();
    for container in containers.values_mut() {
        let place = namespaces.iter().position(|it| Some(it) == container.netns.as_ref());
        container.cookie = place.and_then(|it| u64::try_from(it).ok());
        if let Some(path) = container.netns.as_deref().and_then(folder::of_sandbox) {
            folder = Folder::new(path, recorded.folder.clone());
        }
    }
    let networks = recorded.networks.into_iter().filter_map(EngineNetwork::from_list);
    let gossip = recorded.gossip.into_iter();
    let alive = recorded.tasks.into_iter().filter(SwarmTask::is_alive);
    View {
        engine: Engine::from_info(recorded.info),
        networks: networks.map(|it| (it.id.clone(), it)).collect(),
        containers,
        gossip: gossip.map(|(id, it)| (NetworkId::from(id), gossip_of(it).0)).collect(),
        swarm: Some(Swarm {
            services: recorded.services.into_iter().filter_map(SwarmService::from_list).collect(),
            tasks: alive.map(|it| (it.id.clone(), it)).collect(),
            nodes: recorded.nodes.into_iter().filter_map(SwarmNode::from_list).collect(),
        }),
        folder,
        host_cookie: Some(0),
        servers: HostServers {
            host: vec![SocketAddr::from(([192, 0, 2, 53], 53))],
            ..HostServers::default()
        },
        ..View::default()
    }
}

fn fixture(name: &str, extension: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/engine");
    folder.join(format!("{name}.{extension}"))
}

#[track_caller]
fn check(name: &str) {
    let world = shown(&Snapshot::build(draft(&recorded(name)), 1));
    let path = fixture(name, "txt");
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if world != expected {
        let actual = std::env::temp_dir().join(format!("{name}.txt"));
        std::fs::write(&actual, &world).unwrap();
        panic!(
            "another world than in {}; compare it with {}, and copy it if it is right",
            path.display(),
            actual.display()
        );
    }
}

#[test]
fn the_network_that_an_engine_marks_as_its_default_bridge_is_told_by_its_name() {
    for name in ["20.10-worker", "26.1-manager", "28.5-alone"] {
        let view = recorded(name);
        let marked = view.networks.values().filter(|it| it.is_default_bridge).map(|it| &it.id);
        let draft = draft(&view);
        let named = draft.networks.iter().filter(|it| it.is_default_bridge()).map(|it| &it.id);
        let (marked, named): (Vec<_>, Vec<_>) = (marked.collect(), named.collect());
        assert_eq!(marked.len(), 1, "{name}");
        assert_eq!(named, marked, "{name}");
    }
}

#[test]
fn a_manager_of_engine_20_10_knows_the_whole_swarm() {
    check("20.10-manager");
}

#[test]
fn a_worker_of_engine_20_10_knows_what_gossip_tells() {
    check("20.10-worker");
}

#[test]
fn a_manager_of_engine_26_1_knows_the_whole_swarm() {
    check("26.1-manager");
}

#[test]
fn a_worker_of_engine_26_1_knows_what_gossip_tells() {
    check("26.1-worker");
}

#[test]
fn a_manager_of_engine_28_5_knows_the_whole_swarm() {
    check("28.5-manager");
}

#[test]
fn an_engine_alone_knows_each_containers_own_names_and_order() {
    check("20.10-alone");
    check("28.5-alone");
}

#[test]
fn a_worker_of_engine_28_5_knows_what_gossip_tells() {
    check("28.5-worker");
}

/// The state and reason of the one task whose name begins so; `None`: there is none.
fn state(view: &View, name: &str) -> Option<String> {
    let draft = draft(view);
    let mut named = draft.tasks.iter().filter(|it| it.name.starts_with(name));
    let task = named.next()?;
    assert!(named.next().is_none(), "several tasks begin with {name}");
    Some(format!("{} ({})", task.state, task.reason))
}

fn swarm_task<'a>(view: &'a mut View, slot: u64, service: &str) -> &'a mut SwarmTask {
    let swarm = view.swarm.as_mut().unwrap();
    let id = swarm.services.iter().find(|(_, it)| it.name == service).unwrap().0.clone();
    let mut tasks = swarm.tasks.values_mut();
    tasks.find(|it| it.slot == slot && it.service == id.as_str()).unwrap()
}

fn container<'a>(view: &'a mut View, name: &str) -> &'a mut Container {
    view.containers.values_mut().find(|it| it.name.starts_with(name)).unwrap()
}

#[test]
fn a_task_that_swarm_wants_gone_drains_wherever_it_runs() {
    let mut view = recorded("20.10-manager");
    swarm_task(&mut view, 1, "shop_web").desired_state = "shutdown".to_owned(); // here
    swarm_task(&mut view, 2, "shop_web").desired_state = "remove".to_owned(); // on the other node
    assert_eq!(state(&view, "shop_web.1.").unwrap(), "draining (Swarm is stopping it)");
    assert_eq!(state(&view, "shop_web.2.").unwrap(), "draining (Swarm is stopping it)");
}

#[test]
fn a_task_of_another_node_serves_as_soon_as_gossip_has_it() {
    let mut view = recorded("20.10-manager");
    swarm_task(&mut view, 2, "shop_web").status.state = "starting".to_owned();
    assert_eq!(state(&view, "shop_web.2.").unwrap(), "serving (announced by its node)");
    view.gossip.clear();
    assert_eq!(state(&view, "shop_web.2.").unwrap(), "starting (starting)");
}

#[test]
fn tasks_of_a_node_that_is_down_are_stopped() {
    let mut view = recorded("20.10-manager");
    let node = swarm_task(&mut view, 2, "shop_web").node.clone();
    let swarm = view.swarm.as_mut().unwrap();
    swarm.nodes.get_mut(&NodeId::from(node)).unwrap().state = "down".to_owned();
    assert_eq!(state(&view, "shop_web.2.").unwrap(), "stopped (its node node2 is down)");
}

#[test]
fn a_dead_container_is_no_task_whatever_the_managers_still_believe() {
    let mut view = recorded("20.10-manager");
    container(&mut view, "shop_web.1.").has_died();
    assert_eq!(state(&view, "shop_web.1."), None);
    let mut view = recorded("20.10-worker");
    container(&mut view, "shop_web.2.").has_died();
    assert_eq!(state(&view, "shop_web.2."), None);
}

#[test]
fn a_task_waits_for_its_first_health_check_and_drains_when_it_fails() {
    let mut view = recorded("28.5-worker");
    container(&mut view, "shop_app.2.").health = Health::Starting;
    assert_eq!(
        state(&view, "shop_app.2.").unwrap(),
        "starting (waiting for its first health check)"
    );
    container(&mut view, "shop_app.2.").health = Health::Unhealthy;
    assert_eq!(state(&view, "shop_app.2.").unwrap(), "draining (unhealthy: Swarm replaces it)");
}

#[test]
fn health_is_ignored_for_containers_that_are_neither_swarms_nor_behind_a_vip() {
    let mut view = recorded("28.5-worker");
    container(&mut view, "proj-web-1").health = Health::Unhealthy;
    assert_eq!(state(&view, "proj-web-1").unwrap(), "serving (running)");
}

#[test]
fn health_decides_for_containers_of_a_service_that_has_a_vip() {
    let mut view = recorded("28.5-worker");
    for container in view.containers.values_mut().filter(|it| it.name.starts_with("proj-web-")) {
        container.labels.insert("portolan.mode".to_owned(), "vip".to_owned());
    }
    for (health, expected) in [
        (Health::None, "serving (running)"),
        (Health::Starting, "starting (waiting for its first health check)"),
        (Health::Healthy, "serving (running and healthy)"),
        (Health::Unhealthy, "starting (unhealthy)"),
    ] {
        container(&mut view, "proj-web-1").health = health;
        assert_eq!(state(&view, "proj-web-1").unwrap(), expected);
    }
}

#[test]
fn nobody_is_sent_through_a_vip_to_a_container_that_has_no_process_yet() {
    let mut view = recorded("28.5-worker");
    let born = container(&mut view, "proj-web-1");
    born.running = false; // it has its namespace and its addresses
    assert_eq!(state(&view, "proj-web-1").unwrap(), "serving (connected, about to start)");
    for container in view.containers.values_mut().filter(|it| it.name.starts_with("proj-web-")) {
        container.labels.insert("portolan.mode".to_owned(), "vip".to_owned());
    }
    for health in [Health::None, Health::Starting] {
        container(&mut view, "proj-web-1").health = health;
        assert_eq!(state(&view, "proj-web-1").unwrap(), "starting (being created)");
    }
}

#[test]
fn a_container_told_to_stop_drains_if_it_works_for_a_service() {
    let mut view = recorded("28.5-worker");
    let ids = ["proj-web-1", "linked"].map(|it| container(&mut view, it).id.clone());
    view.farewell = ids.into();
    assert_eq!(state(&view, "proj-web-1").unwrap(), "draining (told to stop)");
    assert_eq!(state(&view, "linked").unwrap(), "serving (running)");
}

#[test]
fn whom_the_engines_own_resolver_leaves_out_drains_on_workers() {
    let mut view = recorded("28.5-worker");
    let web = |it: &Gossip| it.services.get("shop_web").cloned();
    let service: GossipService = view.gossip.values().find_map(web).unwrap();
    view.draining = service.tasks.iter().map(|it| it.endpoint.clone()).collect();
    let reason = "draining (the engine took it out of its own names)";
    assert_eq!(state(&view, "shop_web.1.").unwrap(), reason, "here");
    assert_eq!(state(&view, "shop_web.2.").unwrap(), reason, "on the other node");
}

#[test]
fn a_compose_service_stays_known_while_its_containers_are_stopped() {
    let mut view = recorded("20.10-worker");
    container(&mut view, "proj-web-1").has_died();
    container(&mut view, "proj-web-2").has_died();
    let draft = draft(&view);
    let service = draft.services.iter().find(|it| it.id.as_str() == "proj/web").unwrap();
    assert_eq!(service.networks.len(), 1);
    assert!(draft.tasks.iter().all(|it| it.service.as_ref() != Some(&service.id)));
}

/// The labels of `shop_web` that are portolan's.
fn own_labels(view: &View) -> Vec<(String, String)> {
    let draft = draft(view);
    let web = draft.services.iter().find(|it| it.name == "shop_web").unwrap();
    let own = web.labels.iter().filter(|(key, _)| key.starts_with("portolan."));
    own.map(|(key, it)| (key.clone(), it.clone())).collect()
}

fn label(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn on_workers_containers_tell_what_is_asked_of_every_node() {
    let mut view = recorded("20.10-worker");
    let labels = [label("portolan.health.tcp", "80"), label("portolan.lb.share", "x")];
    container(&mut view, "shop_web.2.").labels.extend(labels);
    assert_eq!(own_labels(&view), [label("portolan.health.tcp", "80")]);
}

/// Labels by which a plain container pretends to be a task of `shop_web`, and the newest one.
fn pretend(container: &mut Container, task: &str) {
    container.created = u64::MAX;
    container.labels.extend([
        label("com.docker.swarm.service.name", "shop_web"),
        label("com.docker.swarm.task.id", task),
        label("com.docker.swarm.task.name", &format!("shop_web.9.{task}")),
        label("portolan.health.tcp", "1"),
    ]);
}

#[test]
fn an_image_whose_labels_are_a_swarm_tasks_makes_no_task() {
    for worker in ["20.10-worker", "26.1-worker", "28.5-worker"] {
        let mut view = recorded(worker);
        view.gossip.values_mut().for_each(|it| it.plain.clear()); // it came a moment ago
        let plain = container(&mut view, "plain2");
        let id = plain.id.clone();
        pretend(plain, "x");
        assert_eq!(own_labels(&view), []);
        let task = draft(&view).tasks.into_iter().find(|it| it.name == "plain2").unwrap();
        assert_eq!((task.id.as_str(), task.service), (id.as_str(), None), "{worker}");
    }
}

#[test]
fn what_gossip_lists_as_plain_is_no_swarm_task_whatever_it_is_called() {
    for worker in ["20.10-worker", "26.1-worker", "28.5-worker"] {
        let mut view = recorded(worker);
        let plain = container(&mut view, "plain2");
        pretend(plain, "x");
        plain.name = "shop_web.9.x".to_owned();
        assert_eq!(own_labels(&view), []);
        let task = draft(&view).tasks.into_iter().find(|it| it.name == "shop_web.9.x").unwrap();
        assert_eq!(task.service, None, "{worker}");
    }
}

#[test]
fn on_managers_labels_of_the_service_come_first_and_those_that_workers_miss_are_told() {
    let mut view = recorded("28.5-manager");
    let notes = draft(&view).notes;
    let web = view.swarm.as_mut().unwrap().services.values_mut().find(|it| it.name == "shop_web");
    let web = web.unwrap();
    web.container_labels.extend([
        label("portolan.health.tcp", "80"),
        label("portolan.health.rise", "3"),
        label("portolan.lb.share", "x"),
    ]);
    web.labels.extend([label("portolan.health.tcp", "81"), label("portolan.vip.prefer", "node")]);
    let expected = [
        label("portolan.health.rise", "3"),
        label("portolan.health.tcp", "81"),
        label("portolan.vip.prefer", "node"),
    ];
    assert_eq!(own_labels(&view), expected);
    let told = draft(&view).notes.without(&notes);
    let told: Vec<_> = told.iter().map(|it| (it.subject.as_str(), it.place.as_str())).collect();
    assert_eq!(told, [("service shop_web", "portolan.vip.prefer")]);
}

#[test]
fn a_plain_container_with_labels_for_the_router_is_a_service_of_its_own() {
    let mut view = recorded("28.5-worker");
    let labels = &mut container(&mut view, "linked").labels;
    labels.insert("com.docker.lb.hosts".to_owned(), "linked.test".to_owned());
    let draft = draft(&view);
    let service = draft.services.iter().find(|it| it.name == "linked").unwrap();
    assert_eq!((service.id.as_str(), service.networks.len()), ("container:linked", 2));
    let task = draft.tasks.iter().find(|it| it.name == "linked").unwrap();
    assert_eq!(task.service.as_ref(), Some(&service.id));
}

#[test]
fn a_mode_that_is_none_is_an_error_on_that_service_only() {
    let mut view = recorded("28.5-worker");
    let labels = &mut container(&mut view, "db").labels;
    labels.insert("portolan.mode".to_owned(), "roundrobin".to_owned());
    let draft = draft(&view);
    let notes: Vec<_> = draft.notes.iter().map(ToString::to_string).collect();
    let expected = "error: service store: `portolan.mode`: `roundrobin` is no mode, so dnsrr is used; \
                    write `vip` or `dnsrr`";
    assert_eq!(notes, [expected]);
    assert_eq!(draft.services.iter().find(|it| it.name == "store").unwrap().mode, Mode::DnsRr);
}

#[test]
fn containers_on_the_hosts_namespace_are_no_sandboxes_whatever_network_they_claim() {
    let mut view = recorded("28.5-worker");
    let place = container(&mut view, "linked").attachments.clone();
    container(&mut view, "onhost").attachments = place;
    let draft = draft(&view);
    assert!(draft.sandboxes.iter().all(|it| it.name != "onhost"));
}

#[test]
fn the_gateways_priority_decides_which_network_is_searched_first() {
    let mut view = recorded("28.5-worker");
    view.engine.role = Role::Alone;
    for place in &mut container(&mut view, "linked").attachments {
        place.gateway_priority = i64::from(place.addresses == [IpAddr::from([172, 32, 2, 2])]);
    }
    let draft = draft(&view);
    let sandbox = draft.sandboxes.iter().find(|it| it.name == "linked").unwrap();
    let order: Vec<_> = sandbox.networks.iter().map(|it| it.addresses.clone()).collect();
    let [inner, default] = [[172, 32, 2, 2], [172, 32, 1, 5]].map(|it| vec![IpAddr::from(it)]);
    assert_eq!(order, [inner, default]);
}

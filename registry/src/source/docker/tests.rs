//! What the source publishes while a recorded engine lives, changes, hangs and dies.

mod engine;
mod machine;
mod shown;
mod worlds;

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::World;
use crate::id::{NetworkId, ServiceId};
use crate::model::ServingState;
use engine::Engine;
use machine::Machine;

struct Running {
    world: World,
    machine: Machine,
    _source: JoinSet<()>,
}

impl Running {
    fn on(engine: &Engine) -> Self {
        Self::with(engine, Machine::default())
    }

    fn with(engine: &Engine, machine: Machine) -> Self {
        let (sender, world) = watch::channel(Arc::new(Snapshot::default()));
        let config = Config { endpoint: engine.endpoint(), poll_interval: Duration::from_secs(30) };
        let mut source = JoinSet::new();
        source.spawn(run(config, machine.clone(), sender, CancellationToken::new()));
        Self { world, machine, _source: source }
    }

    /// Waits for a world of which `wanted` holds.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut world = self.world.clone();
        let found = timeout(Duration::from_secs(5), world.wait_for(|it| wanted(it))).await;
        if let Ok(found) = found {
            return Arc::clone(&found.unwrap());
        }
        panic!("no world in which {what}; the last is {:#?}", self.world.borrow());
    }

    async fn whole(&mut self) -> Arc<Snapshot> {
        self.until("all was read", |it| it.generation() > 0 && it.stale().is_none()).await
    }
}

fn state(world: &Snapshot, name: &str) -> Option<ServingState> {
    world.tasks().find(|it| it.name.starts_with(name)).map(|it| it.state)
}

fn has_sandbox(world: &Snapshot, name: &str) -> bool {
    world.sandboxes().any(|it| it.name == name)
}

const SHORTLY: Duration = Duration::from_millis(200);

#[tokio::test]
async fn nothing_is_published_before_everything_was_read_once() {
    let engine = Engine::start("28.5-manager", "whole");
    engine.delay("/tasks", SHORTLY * 2);
    let mut running = Running::on(&engine);
    assert!(timeout(SHORTLY, running.world.changed()).await.is_err(), "half a world");
    let world = running.whole().await;
    assert_eq!(world.generation(), 1);
    assert_eq!((world.services().len(), world.nodes().len()), (4, 2));
    assert!(world.tasks().len() > 10);
}

#[tokio::test]
async fn what_cannot_be_read_keeps_its_last_answer_and_the_world_says_so() {
    let engine = Engine::start("28.5-worker", "stale");
    let mut running = Running::on(&engine);
    let whole = running.whole().await;
    let networks = engine.answered("/networks");
    engine.fail("/networks", 500);
    engine.event("network", "create", "n", &json!({}));
    let stale = running.until("it is stale", |it| it.stale().is_some()).await;
    let reason = "the engine answered `GET /networks` with status 500: out of order";
    assert_eq!(stale.stale(), Some(reason));
    assert_eq!(stale.networks().len(), whole.networks().len());
    // Other news still comes through.
    let id = engine.container("linked");
    engine.event("container", "die", &id, &json!({}));
    running.until("linked died", |it| !has_sandbox(it, "linked") && it.stale().is_some()).await;
    engine.answer("/networks", networks);
    running.until("it is fresh again", |it| it.stale().is_none()).await;
}

#[tokio::test]
async fn managers_without_a_leader_do_not_keep_this_nodes_containers_waiting() {
    let engine = Engine::start("28.5-manager", "leaderless");
    let services = engine.answered("/services");
    engine.fail("/services", 503);
    let mut running = Running::on(&engine);
    let world = running.until("gossip tells", |it| it.services().len() == 4).await;
    assert!(world.stale().is_some_and(|it| it.contains("`GET /services` with status 503")));
    assert!(has_sandbox(&world, "linked"));
    assert!(world.service(&ServiceId::from("swarm:shop_web")).is_some());
    engine.answer("/services", services);
    let world = running.until("the managers tell", |it| it.stale().is_none()).await;
    assert!(world.service(&ServiceId::from("swarm:shop_web")).is_none());
    assert_eq!(world.services().len(), 4);
}

#[tokio::test]
async fn an_empty_answer_is_believed() {
    let engine = Engine::start("28.5-worker", "empty");
    let mut running = Running::on(&engine);
    running.whole().await;
    engine.answer("/networks", json!([]));
    engine.event("network", "destroy", "n", &json!({}));
    let world = running.until("no network is left", |it| it.networks().len() == 0).await;
    assert_eq!((world.stale(), world.sandboxes().len()), (None, 0));
}

#[tokio::test]
async fn an_inspection_that_was_under_way_does_not_bring_a_dead_container_back() {
    let engine = Engine::start("28.5-worker", "dead");
    let mut running = Running::on(&engine);
    running.whole().await;
    let id = engine.container("linked");
    engine.delay(&format!("/containers/{id}/json"), SHORTLY);
    engine.event("container", "rename", &id, &json!({}));
    sleep(SHORTLY / 4).await;
    engine.event("container", "die", &id, &json!({}));
    let dead = running.until("it is dead", |it| state(it, "linked").is_none()).await;
    sleep(SHORTLY * 2).await;
    assert_eq!(running.world.borrow().generation(), dead.generation());
}

#[tokio::test]
async fn a_renamed_container_has_its_new_name_at_once_and_links_still_mean_it() {
    let engine = Engine::start("28.5-worker", "renamed");
    let mut running = Running::on(&engine);
    let world = running.whole().await;
    let sql = |world: &Snapshot| {
        let linked = world.sandboxes().find(|it| it.name == "linked").unwrap();
        linked.links.get("sql").cloned()
    };
    let before = sql(&world).unwrap();
    assert_eq!(before.len(), 1);
    let id = engine.container("db");
    let path = format!("/containers/{id}/json");
    let mut renamed = engine.answered(&path);
    renamed["Name"] = json!("/newdb");
    engine.answer(&path, renamed);
    engine.event("container", "rename", &id, &json!({"oldName": "/db"}));
    let world = running.until("it has its new name", |it| has_sandbox(it, "newdb")).await;
    assert_eq!((state(&world, "db"), has_sandbox(&world, "db")), (None, false));
    assert_eq!(sql(&world), Some(before));
}

#[tokio::test]
async fn an_engine_that_went_away_leaves_the_last_world_until_it_is_back() {
    let mut engine = Engine::start("28.5-worker", "away");
    let mut running = Running::on(&engine);
    let whole = running.whole().await;
    engine.stop().await;
    let gone = running
        .until("the engine is gone", |it| it.stale().is_some_and(|it| it.starts_with("no Docker")))
        .await;
    assert_eq!(gone.tasks().len(), whole.tasks().len());
    let _engine = engine.listening();
    running.until("it is fresh again", |it| it.stale().is_none()).await;
}

#[tokio::test]
async fn a_sandbox_is_there_while_its_container_is_still_starting() {
    let engine = Engine::start("28.5-worker", "birth");
    let id = engine.container("linked");
    let inspection = format!("/containers/{id}/json");
    let started = engine.answered(&inspection);
    let mut running = Running::on(&engine);
    running.whole().await;
    engine.event("container", "die", &id, &json!({}));
    running.until("it is dead", |it| !has_sandbox(it, "linked")).await;

    // It starts again: the engine answers no inspection before it has started, but the network
    // has it, and its namespace appears, first without an address.
    engine.delay(&inspection, Duration::from_secs(30));
    let network =
        started["NetworkSettings"]["Networks"]["proj_default"]["NetworkID"].as_str().unwrap();
    let place = json!({(id.clone()): {"EndpointID": "e1", "IPv4Address": "172.32.1.9/24"}});
    engine.answer(&format!("/networks/{network}"), json!({"Id": network, "Containers": place}));
    engine.event("network", "connect", network, &json!({"container": id}));
    let netns = engine.netns().join("00000000beef");
    std::fs::write(&netns, "").unwrap();
    sleep(SHORTLY / 4).await;
    let address = IpAddr::from([172, 32, 1, 9]);
    running.machine.with(|it| it.addresses.insert(netns.clone(), vec![address]));
    let world = running.until("it has a sandbox", |it| has_sandbox(it, "linked")).await;
    let sandbox = world.sandboxes().find(|it| it.name == "linked").unwrap();
    assert_eq!((sandbox.cookie, &sandbox.netns), (Some(0xbeef), &netns));
    assert_eq!(sandbox.networks[0].addresses, [address]);
    assert_eq!(sandbox.links["sql"], [IpAddr::from([172, 32, 1, 4])]);
}

#[tokio::test]
async fn one_container_that_hangs_does_not_keep_the_others_waiting() {
    let engine = Engine::start("28.5-worker", "hangs");
    let id = engine.container("linked");
    engine.delay(&format!("/containers/{id}/json"), Duration::from_secs(30));
    let mut running = Running::on(&engine);
    let world = running.whole().await;
    assert_eq!((state(&world, "linked"), state(&world, "db")), (None, Some(ServingState::Serving)));
}

/// A neighbour appears on the network.
fn nudge(running: &Running, network: &NetworkId) {
    running.machine.with(|it| {
        let suffix = format!("1-{}", &network.as_str()[..10]);
        let (_, nudge) = it.watches.iter().find(|(path, _)| path.ends_with(&suffix)).unwrap();
        nudge.try_send(()).unwrap();
    });
}

#[tokio::test]
async fn a_neighbour_that_appears_has_the_gossip_read() {
    let engine = Engine::start("28.5-worker", "gossip");
    let mut running = Running::on(&engine);
    let world = running.whole().await;
    let front = world.networks_named("front").next().unwrap().id.clone();
    let path = format!("/networks/{front}");
    let mut gossip = engine.answered(&path);
    let tasks = gossip["Services"]["shop_web"]["Tasks"].as_array_mut().unwrap();
    tasks.push(json!({"Name": "shop_web.9.new", "EndpointID": "e9", "EndpointIP": "10.0.1.99",
        "Info": {"Host IP": "10.213.0.1"}}));
    // Gossip is a little later than the neighbour.
    nudge(&running, &front);
    sleep(SHORTLY / 2).await;
    engine.answer(&path, gossip);
    let world = running.until("the task is there", |it| state(it, "shop_web.9.").is_some()).await;
    assert_eq!(state(&world, "shop_web.9."), Some(ServingState::Serving));
}

#[tokio::test]
async fn a_service_that_gossip_forgets_stays_without_tasks() {
    let engine = Engine::start("28.5-worker", "forgotten");
    let mut running = Running::on(&engine);
    let world = running.whole().await;
    let front = world.networks_named("front").next().unwrap().id.clone();
    let path = format!("/networks/{front}");
    let mut gossip = engine.answered(&path);
    gossip["Services"].as_object_mut().unwrap().remove("shop_web").unwrap();
    engine.answer(&path, gossip);
    nudge(&running, &front);
    // Those of this node are known from their containers.
    let announced = |it: &&crate::model::Task| it.reason.contains("announced");
    let remote = |it: &Snapshot| it.tasks_on(&front).filter(announced).count();
    let before = remote(&world);
    let world = running.until("tasks are gone", |it| remote(it) < before).await;
    let service = world.services().find(|it| it.name == "shop_web").unwrap();
    assert!(service.networks[&front].vip.is_some());
}

#[tokio::test]
async fn a_manager_hears_of_an_end_elsewhere_that_its_node_tells_late() {
    let engine = Engine::start("28.5-manager", "end-elsewhere");
    let mut running = Running::on(&engine);
    let world = running.whole().await;
    assert_eq!(state(&world, "shop_web.1"), Some(ServingState::Serving));
    // The task has left its network; its node has not told the managers yet.
    nudge(&running, &world.networks_named("front").next().unwrap().id);
    sleep(SHORTLY * 3).await;
    let mut tasks = engine.answered("/tasks");
    let mut all = tasks.as_array_mut().unwrap().iter_mut();
    let ended = all.find(|it| it["ID"] == "wknl6ijc4bxb76juub0jf4ig3").unwrap();
    ended["Status"]["State"] = json!("failed");
    engine.answer("/tasks", tasks);
    let serves = |it: &Snapshot| state(it, "shop_web.1.") == Some(ServingState::Serving);
    running.until("it serves no more", |it| !serves(it)).await;
}

#[tokio::test]
async fn a_manager_gives_up_tasks_of_a_node_that_gossip_gave_up_if_others_serve() {
    let engine = Engine::start("28.5-manager", "gossip-gave-up");
    let mut running = Running::on(&engine);
    let world = running.whole().await;
    let overlays = world.networks().filter(|it| it.driver == "overlay");
    let networks: Vec<_> = overlays.map(|it| it.id.clone()).collect();
    let elsewhere = |it: &Value| it["Info"]["Host IP"] != "10.213.0.1";
    for network in &networks {
        let path = format!("/networks/{network}");
        let mut gossip = engine.answered(&path);
        let Some(services) = gossip["Services"].as_object_mut() else { continue };
        for service in services.values_mut() {
            let Some(tasks) = service["Tasks"].as_array_mut() else { continue };
            tasks.retain(|it| !elsewhere(it));
        }
        engine.answer(&path, gossip);
    }
    for name in ["front", "back"] {
        nudge(&running, &world.networks_named(name).next().unwrap().id);
    }
    let stopped = |it: &Snapshot| state(it, "shop_web.1.") == Some(ServingState::Stopped);
    let world = running.until("the first is given up", stopped).await;
    assert_eq!(state(&world, "shop_web.2."), Some(ServingState::Serving), "of this node");
}

#[tokio::test]
async fn a_manager_that_begins_while_a_task_elsewhere_drains_knows_of_it() {
    let engine = Engine::start("28.5-manager", "forgotten-task");
    let mut tasks = engine.answered("/tasks");
    tasks.as_array_mut().unwrap().retain(|it| it["ID"] != "wknl6ijc4bxb76juub0jf4ig3");
    engine.answer("/tasks", tasks);
    let world = Running::on(&engine).whole().await;
    assert_eq!(state(&world, "shop_web.1."), Some(ServingState::Draining));
    assert_eq!(state(&world, "shop_web.3."), Some(ServingState::Serving));
    let service = |name: &str| {
        world.tasks().find(|it| it.name.starts_with(name)).and_then(|it| it.service.clone())
    };
    assert_eq!(service("shop_web.1."), service("shop_web.3."));
}

#[tokio::test]
async fn a_task_that_the_engines_own_names_leave_out_drains() {
    let engine = Engine::start("28.5-worker", "draining");
    let mut running = Running::on(&engine);
    running.whole().await;
    let left = [[10, 0, 1, 3], [10, 0, 1, 4], [10, 0, 1, 5]].map(Ipv4Addr::from).to_vec();
    running.machine.with(|it| it.tasks.insert("tasks.shop_web.front".to_owned(), left));
    let draining = |it: &Snapshot| state(it, "shop_web.4.") == Some(ServingState::Draining);
    let world = running.until("the fourth drains", draining).await;
    assert_eq!(state(&world, "shop_web.1."), Some(ServingState::Serving));
    // It leaves the ingress network last, of which nobody is asked.
    let is_fourth =
        |it: &Value| it["Name"].as_str().is_some_and(|it| it.starts_with("shop_web.4."));
    for name in ["front", "back"] {
        let network = &world.networks_named(name).next().unwrap().id;
        let mut gossip = engine.answered(&format!("/networks/{network}"));
        if let Some(tasks) = gossip["Services"]["shop_web"]["Tasks"].as_array_mut() {
            tasks.retain(|it| !is_fourth(it));
        }
        engine.answer(&format!("/networks/{network}"), gossip);
        nudge(&running, network);
    }
    let front = world.networks_named("front").next().unwrap().id.clone();
    let fourth = |it: &Snapshot| it.tasks().find(|it| it.name.starts_with("shop_web.4.")).cloned();
    let left = |it: &Snapshot| fourth(it).is_none_or(|it| !it.networks.contains_key(&front));
    let world = running.until("it has left its network", left).await;
    assert_eq!(state(&world, "shop_web.4."), Some(ServingState::Draining), "{:?}", fourth(&world));
}

#[tokio::test]
async fn the_first_world_knows_who_drains() {
    let engine = Engine::start("28.5-worker", "draining-first");
    let machine = Machine::default();
    let left = [[10, 0, 1, 3], [10, 0, 1, 4], [10, 0, 1, 5]].map(Ipv4Addr::from).to_vec();
    machine.with(|it| it.tasks.insert("tasks.shop_web.front".to_owned(), left));
    let world = Running::with(&engine, machine).whole().await;
    assert_eq!(world.generation(), 1);
    assert_eq!(state(&world, "shop_web.4."), Some(ServingState::Draining));
}

#[tokio::test]
async fn what_a_worker_heard_of_who_drains_does_not_hold_when_it_is_made_a_manager() {
    let engine = Engine::start("28.5-worker", "promoted");
    let machine = Machine::default();
    let left = [[10, 0, 1, 4], [10, 0, 1, 5], [10, 0, 1, 6]].map(Ipv4Addr::from).to_vec();
    machine.with(|it| it.tasks.insert("tasks.shop_web.front".to_owned(), left));
    let mut running = Running::with(&engine, machine);
    let world = running.whole().await;
    assert_eq!(state(&world, "shop_web.1."), Some(ServingState::Draining), "of this node");
    for path in ["/services", "/tasks", "/nodes"] {
        engine.answer(path, json!([]));
    }
    let mut info = engine.answered("/info");
    info["Swarm"]["ControlAvailable"] = json!(true);
    engine.answer("/info", info);
    engine.event("daemon", "reload", "", &json!({}));
    let serves = |it: &Snapshot| state(it, "shop_web.1.") == Some(ServingState::Serving);
    running.until("the managers are believed", serves).await;
}

#[tokio::test]
async fn a_service_scaled_to_nothing_is_remembered_by_whoever_connects_to_the_engine_again() {
    let mut engine = Engine::start("28.5-worker", "absent");
    let mut running = Running::on(&engine);
    let world = running.whole().await;
    for network in ["front", "back"] {
        let path = format!("/networks/{}", world.networks_named(network).next().unwrap().id);
        let mut gossip = engine.answered(&path);
        gossip["Services"].as_object_mut().unwrap().remove("shop_app");
        engine.answer(&path, gossip);
        nudge(&running, &world.networks_named(network).next().unwrap().id);
    }
    let idle = |it: &Snapshot| {
        let app = it.services().find(|it| it.name == "shop_app");
        app.is_some() && state(it, "shop_app.1.").is_none()
    };
    running.until("it has no tasks elsewhere", idle).await;
    engine.stop().await;
    running.until("the engine is missed", |it| it.stale().is_some()).await;
    let _engine = engine.listening();
    let world = running.whole().await;
    assert!(idle(&world), "{world:#?}");
}

#[tokio::test]
async fn a_container_told_to_stop_drains_before_it_dies() {
    let engine = Engine::start("28.5-worker", "farewell");
    let mut running = Running::on(&engine);
    running.whole().await;
    let id = engine.container("proj-web-1");
    engine.event("container", "kill", &id, &json!({"signal": "1"}));
    engine.event("container", "kill", &id, &json!({"signal": "15"}));
    let draining = |it: &Snapshot| state(it, "proj-web-1") == Some(ServingState::Draining);
    running.until("it drains", draining).await;
    engine.event("container", "die", &id, &json!({}));
    running.until("it is gone", |it| state(it, "proj-web-1").is_none()).await;
}

#[tokio::test]
async fn a_resolv_conf_that_is_switched_is_followed_at_once() {
    let engine = Engine::start("28.5-manager", "resolv-conf");
    let folder = engine.folder.join("etc");
    std::fs::create_dir_all(&folder).unwrap();
    let at = |name: &str| folder.join(name);
    std::fs::write(at("one"), "nameserver 192.0.2.1\n").unwrap();
    std::fs::write(at("two"), "nameserver 192.0.2.2\noptions trust-ad\n").unwrap();
    std::os::unix::fs::symlink("one", at("resolv.conf")).unwrap();
    let files = HostFiles { resolv_conf: at("resolv.conf"), daemon: at("none") };
    let machine = Machine::default();
    machine.with(|it| it.files = Some(files));
    let mut running = Running::with(&engine, machine);
    let asks = |world: &Snapshot, server: &str, trusts_ad: bool| {
        let server = server.parse().unwrap();
        let mut sandboxes = world.sandboxes();
        sandboxes.any(|it| it.trusts_ad == trusts_ad && it.upstreams[0].address == server)
    };
    running.until("the first is asked", |it| asks(it, "192.0.2.1:53", false)).await;
    std::os::unix::fs::symlink("two", at("next")).unwrap();
    std::fs::rename(at("next"), at("resolv.conf")).unwrap();
    running.until("the second is asked", |it| asks(it, "192.0.2.2:53", true)).await;
    // What the link leads to now is watched too.
    std::fs::write(at("two"), "nameserver 192.0.2.3\n").unwrap();
    running.until("the third is asked", |it| asks(it, "192.0.2.3:53", false)).await;
}

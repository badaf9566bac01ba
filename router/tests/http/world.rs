//! Worlds for the router, and a router that serves them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use registry::model::{
    Completeness, Endpoint, Mode, Network, Reach, Scope, Service, ServiceAttachment, ServiceKind,
    ServingState, Task,
};
use registry::{Consumer, Draft, Notes, Snapshot};
use router::compile::Vips;
use router::config::{Config, Limits, Timeouts, UnknownHost};
use router::{Handle, Router};
use tokio::sync::watch;

/// A router on a port of the kernel's choice, and what changes its world.
pub(crate) struct Bench {
    router: Option<Router>,
    pub(crate) handle: Handle,
    pub(crate) address: SocketAddr,
    generation: u64,
    _vips: watch::Sender<Arc<Vips>>,
}

impl Bench {
    pub(crate) fn start(tweak: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        tweak(&mut config);
        let (vips, given) = watch::channel(Arc::new(Vips::new()));
        let router = Router::new(config, given, None).unwrap();
        let handle = router.handle();
        let address = handle.address();
        Self { router: Some(router), handle, address, generation: 0, _vips: vips }
    }

    /// A router that serves one service `web` for host `web.test` at these tasks.
    pub(crate) fn with_web(tasks: &[SocketAddr], tweak: impl FnOnce(&mut Config)) -> Self {
        let mut bench = Self::start(tweak);
        assert!(bench.serve(web(tasks)).is_empty());
        bench
    }

    /// Serves another world, as the registry's loop would.
    pub(crate) fn serve(&mut self, world: Draft) -> Notes {
        self.generation += 1;
        let snapshot = Arc::new(Snapshot::build(world, self.generation));
        let router = self.router.as_mut().unwrap();
        let (table, notes) = router.compile(&snapshot);
        let outcome = now(router.apply(&Arc::new(table)));
        assert!(outcome.failures.is_empty());
        notes
    }

    /// Drops the router, as the registry's loop does at its end.
    pub(crate) fn stop(&mut self) {
        drop(self.router.take());
    }
}

/// Runs a future to its end on a runtime of its own.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn config() -> Config {
    Config {
        http: "127.0.0.1:0".parse().unwrap(),
        cluster: String::new(),
        threads: NonZeroUsize::new(2).unwrap(),
        proxy_id: Some("proxy-under-test".to_owned()),
        unknown_host: UnknownHost::NotFound,
        trusted: Vec::new(),
        limits: Limits::default(),
        timeouts: Timeouts { drain: Duration::from_secs(5), ..Timeouts::default() },
    }
}

/// One service `web` for host `web.test`.
pub(crate) fn web(tasks: &[SocketAddr]) -> Draft {
    let mut world = Draft { networks: vec![network("front")], ..Draft::default() };
    add(&mut world, "web", tasks, &[("hosts", "web.test")]);
    world
}

/// Adds a service with these `com.docker.lb.` labels and serving tasks, all on one port.
pub(crate) fn add(world: &mut Draft, name: &str, tasks: &[SocketAddr], labels: &[(&str, &str)]) {
    let port = tasks.first().map_or(8080, SocketAddr::port);
    assert!(tasks.iter().all(|task| task.port() == port), "a service's tasks have one port");
    let mut service = service(name);
    service.labels.insert("com.docker.lb.port".to_owned(), port.to_string());
    for (label, value) in labels {
        service.labels.insert(format!("com.docker.lb.{label}"), (*value).to_owned());
    }
    world.services.push(service);
    for (number, address) in tasks.iter().enumerate() {
        world.tasks.push(task(&format!("{name}.{}", number + 1), name, address.ip()));
    }
}

pub(crate) fn network(name: &str) -> Network {
    Network {
        id: name.into(),
        name: name.to_owned(),
        scope: Scope::Local,
        driver: "bridge".to_owned(),
        internal: false,
        ingress: false,
        subnets: Vec::new(),
        gateways: Vec::new(),
        labels: BTreeMap::new(),
        names: Completeness::Complete,
        reach: Reach::Host,
    }
}

fn service(name: &str) -> Service {
    Service {
        id: name.into(),
        name: name.to_owned(),
        kind: ServiceKind::World,
        stack: None,
        mode: Mode::Vip,
        networks: BTreeMap::from([("front".into(), ServiceAttachment::default())]),
        ports: Vec::new(),
        labels: BTreeMap::new(),
        created: 0,
    }
}

fn task(name: &str, service: &str, address: IpAddr) -> Task {
    let endpoint = Endpoint { addresses: vec![address], ..Endpoint::default() };
    Task {
        id: name.into(),
        name: name.to_owned(),
        service: Some(service.into()),
        node: None,
        networks: BTreeMap::from([("front".into(), endpoint)]),
        publishes: None,
        weight: 1,
        state: ServingState::Serving,
        reason: String::new(),
    }
}

//! The world that the cases ask about: two sandboxes, an IPv4, a dual-stack and an internal
//! network, services with and without tasks, and an upstream server that counts.

use std::fmt::Write as _;

use resolver::Config;

use super::client::{Client, Stream};
use super::upstream::{FOREIGN, Upstream};
use crate::support::{Driven, Sandbox, config};

/// What makes one.
pub(crate) struct World {
    /// On `front` and `dual`; may ask outside.
    pub(crate) sandbox: Sandbox,
    /// On `back` alone, which is internal.
    pub(crate) inner: Sandbox,
    pub(crate) driven: Driven,
    /// Whom the sandboxes ask about other names.
    pub(crate) upstream: Upstream,
}

impl World {
    /// With an upstream server that gives every name 198.51.100.7.
    pub(crate) fn new() -> Self {
        Self::with(config(), Upstream::knowing(FOREIGN))
    }

    /// With an upstream server of one's own.
    pub(crate) fn asking(upstream: Upstream) -> Self {
        Self::with(config(), upstream)
    }

    pub(crate) fn with(config: Config, upstream: Upstream) -> Self {
        let (sandbox, inner) = (Sandbox::new(), Sandbox::new());
        let mut driven = Driven::configured(config, None);
        driven.apply(&text(&sandbox, &inner, &[upstream.address.to_string()]));
        Self { sandbox, inner, driven, upstream }
    }

    /// Lets the sandboxes ask these servers from now on.
    pub(crate) fn ask_of(&mut self, servers: &[&Upstream]) {
        let servers: Vec<_> = servers.iter().map(|it| it.address.to_string()).collect();
        self.driven.apply(&text(&self.sandbox, &self.inner, &servers));
    }

    /// Makes a changed world true.
    pub(crate) fn change(&mut self, change: impl Fn(String) -> String) {
        let servers = [self.upstream.address.to_string()];
        self.driven.apply(&change(text(&self.sandbox, &self.inner, &servers)));
    }

    pub(crate) fn client(&self) -> Client {
        Client::of(&self.sandbox)
    }

    pub(crate) fn stream(&self) -> Stream {
        Stream::of(&self.sandbox)
    }

    /// Fails if anybody outside was asked anything.
    #[track_caller]
    pub(crate) fn nobody_outside_was_asked(&self) {
        let asked = self.upstream.asked();
        assert!(asked.is_empty(), "{asked:?}");
    }
}

fn text(sandbox: &Sandbox, inner: &Sandbox, upstreams: &[String]) -> String {
    let (outer, inner) = (sandbox.path(), inner.path());
    let mut text = format!(
        r#"{NETWORKS_AND_SERVICES}
        [[sandbox]]
        name = "box"
        netns = "{}"
        networks = ["front", "dual_stack"]
        upstreams = {upstreams:?}

        [[sandbox]]
        name = "db"
        netns = "{}"
        networks = ["back"]
        upstreams = {upstreams:?}
        "#,
        outer.display(),
        inner.display(),
    );
    for task in 1..=200 {
        write!(
            text,
            "[[task]]\nname = \"big.{task}\"\nservice = \"big\"\n\
             addresses = {{ front = \"10.20.3.{task}\" }}\n"
        )
        .unwrap();
    }
    for task in 1..=5 {
        write!(
            text,
            "[[task]]\nname = \"app.{task}\"\nservice = \"app\"\n\
             addresses = {{ front = \"10.20.1.2{task}\" }}\n"
        )
        .unwrap();
    }
    text
}

const NETWORKS_AND_SERVICES: &str = r#"
    [[network]]
    name = "front"
    subnet = "10.20.0.0/22"

    [[network]]
    name = "dual_stack"
    subnets = ["10.30.0.0/24", "fd00:30::/64"]

    [[network]]
    name = "back"
    subnet = "10.40.0.0/24"
    internal = true

    [[service]]
    name = "web"
    networks = ["front"]
    vip = { front = "10.20.1.2" }
    aliases = ["www"]
    ports = [{ published = 8000, target = 8080, name = "http" }]

    [[service]]
    name = "app"
    mode = "dnsrr"
    networks = ["front"]

    [[service]]
    name = "big"
    mode = "dnsrr"
    networks = ["front"]
    ports = [{ target = 80 }]

    [[service]]
    name = "idle"
    networks = ["front"]
    vip = { front = "10.20.1.3" }

    [[service]]
    name = "none"
    mode = "dnsrr"
    networks = ["front"]

    [[task]]
    name = "web.1.k3v"
    service = "web"
    addresses = { front = "10.20.1.11" }
    names = ["c0ffee000001"]

    [[task]]
    name = "box"
    addresses = { front = "10.20.1.10", dual_stack = ["10.30.0.10", "fd00:30::10"] }

    [[task]]
    name = "both"
    addresses = { dual_stack = ["10.30.0.20", "fd00:30::20"] }

    [[task]]
    name = "db"
    addresses = { back = "10.40.0.31" }
"#;

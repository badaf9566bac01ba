//! What a service asks of the router, typed: the outcome of reading its labels.

use crate::model::Service;

/// One route group of a service: `com.docker.lb.*`, or one suffix of it (`com.docker.lb.hosts.api`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteSpec {
    /// The suffix of a named group, e.g. `api`; empty for the plain labels.
    pub group: String,
    /// Host names, lower case, without port or trailing dot; `*.example.test` allowed. Not empty.
    pub hosts: Vec<String>,
    /// The port in the task.
    pub port: u16,
    /// The network to reach the tasks on, as the user wrote it; `None`: its only one.
    pub network: Option<String>,
    /// Path prefix with a leading and without a trailing slash; empty for the root.
    pub context_root: String,
    /// Strip the prefix before the request goes to the task.
    pub rewrite: bool,
    /// Tasks or VIP.
    pub backend_mode: BackendMode,
    /// The service cluster that serves it; empty for the default one.
    pub cluster: String,
}

/// Whether the router balances over tasks itself or leaves that to the VIP.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BackendMode {
    /// Straight to the tasks.
    #[default]
    Task,
    /// To the service's VIP.
    Vip,
}

impl RouteSpec {
    /// Finds the network that the spec means on `service`: the exact name, then
    /// `STACK_NAME` as stacks prefix their networks.
    pub fn network_names(&self, service: &Service) -> Vec<String> {
        let Some(name) = &self.network else { return Vec::new() };
        let prefixed = service.stack.as_ref().map(|stack| format!("{stack}_{name}"));
        std::iter::once(name.clone()).chain(prefixed).collect()
    }
}

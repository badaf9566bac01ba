//! The route table that is being served, with what is counted for each backend.
//!
//! Always true: a backend that stays in the table over a swap keeps its counters and its identity,
//! so that connections to it stay in the pools and its load stays known.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hyper::header::HeaderValue;
use registry::model::Reach;
use tokio::time::Instant;

use crate::balance::Spread;
use crate::table::RouteTable;

/// A route table and, for each of its routes in order, whom it chooses from.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) choices: Vec<Choice>,
}

/// Whom a route chooses from, in the order of its backends.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) spread: Spread,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// One address that requests go to, over all routes that name it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Never used again for another.
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    pub(crate) reach: Reach,
    /// The address as `x-upstream-addr` shows it.
    pub(crate) text: HeaderValue,
    in_flight: AtomicU32,
    /// Milliseconds after `born` when it last refused a connection, plus one; 0 for never.
    failed: AtomicU64,
    born: Instant,
}

/// A request that an endpoint has not finished; counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Endpoint>);

/// All endpoints of the table that is being served.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    known: BTreeMap<SocketAddr, Vec<Arc<Endpoint>>>,
    made: u64,
}

impl Endpoints {
    /// Prepares `table` for serving, with the endpoints that are known already where it names them
    /// again. Those that it does not name are forgotten.
    pub(crate) fn enliven(&mut self, table: &Arc<RouteTable>) -> Live {
        let mut kept: BTreeMap<SocketAddr, Vec<Arc<Endpoint>>> = BTreeMap::new();
        let mut choices = Vec::with_capacity(table.routes().len());
        for route in table.routes() {
            let mut endpoints = Vec::with_capacity(route.backends.len());
            for backend in route.backends.iter() {
                let here = kept.entry(backend.address).or_default();
                let same = |it: &&Arc<Endpoint>| it.reach == backend.reach;
                if let Some(endpoint) = here.iter().find(same) {
                    endpoints.push(Arc::clone(endpoint));
                    continue;
                }
                let before = self.known.get(&backend.address).into_iter().flatten().find(same);
                let endpoint = before.cloned().unwrap_or_else(|| {
                    self.made += 1;
                    Arc::new(Endpoint::new(self.made, backend.address, backend.reach.clone()))
                });
                here.push(Arc::clone(&endpoint));
                endpoints.push(endpoint);
            }
            let spread = Spread::new(route.backends.iter().map(|backend| backend.weight));
            choices.push(Choice { spread, endpoints });
        }
        self.known = kept;
        Live { table: Arc::clone(table), choices }
    }
}

impl Endpoint {
    fn new(id: u64, address: SocketAddr, reach: Reach) -> Self {
        let text = HeaderValue::try_from(address.to_string());
        Self {
            id,
            address,
            reach,
            text: text.unwrap_or(HeaderValue::from_static("unknown")),
            in_flight: AtomicU32::new(0),
            failed: AtomicU64::new(0),
            born: Instant::now(),
        }
    }

    /// Requests that it has not finished.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Remembers that it just refused a connection.
    pub(crate) fn failed(&self) {
        self.failed.store(self.age() + 1, Ordering::Relaxed);
    }

    /// Whether it refused a connection within [`GRUDGE`].
    pub(crate) fn just_failed(&self) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        let grudge = u64::try_from(GRUDGE.as_millis()).unwrap_or(u64::MAX);
        failed > 0 && self.age().saturating_sub(failed) < grudge
    }

    fn age(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Busy {
    /// Counts one request more at `endpoint`.
    pub(crate) fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a backend that refused a connection is asked only if there is no other. A task that
/// died is out of the table sooner than this; one that restarts is back soon after.
const GRUDGE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use registry::model::Reach;

    use super::*;
    use crate::table::{Backend, Host, Route, Whom};

    fn table(backends: &[(&str, Reach)]) -> Arc<RouteTable> {
        let backend = |(address, reach): &(&str, Reach)| Backend {
            address: address.parse().unwrap(),
            reach: reach.clone(),
            whom: Whom::Vip,
            service: "web".into(),
            network: "front".into(),
            weight: 1,
        };
        let route = |host: &str| Route {
            host: Host::of(host),
            context_root: "".into(),
            rewrite: false,
            claims: Vec::new(),
            backends: backends.iter().map(backend).collect(),
            unavailable: None,
        };
        Arc::new(RouteTable::new(vec![route("a.test"), route("b.test")]))
    }

    #[test]
    fn a_backend_keeps_its_identity_over_swaps_and_routes() {
        let mut endpoints = Endpoints::default();
        let netns = Reach::Netns("/run/netns/x".into());
        let first = endpoints
            .enliven(&table(&[("10.0.0.1:80", Reach::Host), ("10.0.0.1:80", netns.clone())]));
        let ids: Vec<u64> = first.choices[0].endpoints.iter().map(|it| it.id).collect();
        assert_eq!(ids, [1, 2], "the same address in another namespace is another backend");
        assert!(Arc::ptr_eq(&first.choices[0].endpoints[0], &first.choices[1].endpoints[0]));

        let second = endpoints.enliven(&table(&[("10.0.0.1:80", netns)]));
        assert!(Arc::ptr_eq(&first.choices[0].endpoints[1], &second.choices[0].endpoints[0]));

        let third = endpoints.enliven(&table(&[("10.0.0.1:80", Reach::Host)]));
        assert_eq!(third.choices[0].endpoints[0].id, 3, "who was gone comes back as another");
    }

    #[test]
    fn requests_are_counted_while_they_last() {
        let live = Endpoints::default().enliven(&table(&[("10.0.0.1:80", Reach::Host)]));
        let endpoint = &live.choices[0].endpoints[0];
        let one = Busy::new(endpoint);
        let two = Busy::new(endpoint);
        assert_eq!(endpoint.in_flight(), 2);
        drop((one, two));
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_remembered_for_two_seconds() {
        let live = Endpoints::default().enliven(&table(&[("10.0.0.1:80", Reach::Host)]));
        let endpoint = &live.choices[0].endpoints[0];
        assert!(!endpoint.just_failed());
        endpoint.failed();
        assert!(endpoint.just_failed());
        tokio::time::advance(Duration::from_millis(2_100)).await;
        assert!(!endpoint.just_failed());
    }
}

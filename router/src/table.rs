//! The plan: which host and path is answered by which tasks. Plain values, equal when they do
//! the same.
//!
//! Invariants, kept by [`RouteTable::new`]
//! - *one answer*: at most one route for a host and a context root;
//! - *sorted*: the routes of a host stand together, the longest context root first;
//! - *indexed*: what the index says is what the routes say, so equal routes make equal tables.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use registry::id::ServiceId;
use registry::model::Reach;

/// All routes of one cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteTable {
    routes: Vec<Route>,
    exact: BTreeMap<Arc<str>, Range<usize>>,
    wildcard: BTreeMap<Arc<str>, Range<usize>>,
}

/// What answers under one host and one path prefix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// For which host names.
    pub host: Host,
    /// Path prefix with a leading and without a trailing slash; empty for the root.
    pub context_root: Arc<str>,
    /// Whether the prefix is taken off before the request goes to the task.
    pub rewrite: bool,
    /// The services behind it, the one that owns the route first. Not empty.
    pub claims: Vec<Claim>,
    /// Who can be asked.
    pub backends: Arc<[Backend]>,
    /// Why `backends` is empty, as the client is told; `None` when it is not.
    pub unavailable: Option<Arc<str>>,
}

/// For which host names a route is. Lower case, without port and trailing dot.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Host {
    /// This name.
    Exact(Arc<str>),
    /// Every name that ends in a dot and this: `example.test` stands for `*.example.test`, which
    /// is `a.example.test` and `a.b.example.test`, not `example.test` (as nginx has it).
    Wildcard(Arc<str>),
}

/// One service's part in a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The service.
    pub service: ServiceId,
    /// Its name.
    pub name: Arc<str>,
    /// The suffix of the label group that asked; empty for the plain labels.
    pub group: Arc<str>,
}

/// One address that requests can be sent to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backend {
    /// Address and port of the task, or of the VIP.
    pub address: SocketAddr,
    /// From where the address can be reached.
    pub reach: Reach,
    /// Who is there.
    pub whom: Whom,
    /// The service.
    pub service: Arc<str>,
    /// The network's name.
    pub network: Arc<str>,
    /// Share of the requests relative to the route's other backends; not 0.
    pub weight: u16,
}

/// Who is at a backend's address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Whom {
    /// The task of this name.
    Task(Arc<str>),
    /// The service's virtual address, which spreads connections itself.
    Vip,
}

impl RouteTable {
    /// Sorts and indexes. Of several routes for one host and context root the first stays.
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by(|a, b| a.key().cmp(&b.key()));
        routes.dedup_by(|later, first| later.key() == first.key());
        let mut table = Self::default();
        let mut start = 0;
        for hosts in routes.chunk_by(|a, b| a.host == b.host) {
            let end = start + hosts.len();
            match hosts.first().map(|route| &route.host) {
                Some(Host::Exact(name)) => table.exact.insert(Arc::clone(name), start..end),
                Some(Host::Wildcard(name)) => table.wildcard.insert(Arc::clone(name), start..end),
                None => None,
            };
            start = end;
        }
        Self { routes, ..table }
    }

    /// All routes, sorted by host, the longest context root first.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The routes of exactly this lower-case name, with the position of the first.
    pub fn exact(&self, name: &str) -> (usize, &[Route]) {
        self.span(self.exact.get(name))
    }

    /// The routes of `*.SUFFIX`, with the position of the first.
    pub fn wildcard(&self, suffix: &str) -> (usize, &[Route]) {
        self.span(self.wildcard.get(suffix))
    }

    /// Whether there is any wildcard at all.
    pub fn has_wildcards(&self) -> bool {
        !self.wildcard.is_empty()
    }

    fn span(&self, span: Option<&Range<usize>>) -> (usize, &[Route]) {
        let span = span.cloned().unwrap_or_default();
        (span.start, self.routes.get(span).unwrap_or_default())
    }
}

impl Route {
    /// What tells routes apart, in the order of the table.
    pub fn key(&self) -> (&Host, std::cmp::Reverse<usize>, &str) {
        (&self.host, std::cmp::Reverse(self.context_root.len()), &self.context_root)
    }

    /// The name of the service that owns it.
    pub fn service(&self) -> &str {
        self.claims.first().map_or("", |claim| claim.name.borrow())
    }
}

impl Host {
    /// Reads a host of a label: lower case, `*.` in front makes a wildcard.
    pub fn of(label: &str) -> Self {
        match label.strip_prefix("*.") {
            Some(suffix) => Self::Wildcard(suffix.into()),
            None => Self::Exact(label.into()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// `counter.test/app -> web (10.20.1.11:8080 10.20.1.12:8080)`
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = if self.context_root.is_empty() { "/" } else { &*self.context_root };
        write!(f, "{}{root} ->", self.host)?;
        for claim in &self.claims {
            write!(f, " {}", claim.name)?;
        }
        if self.rewrite {
            f.write_str(" rewritten")?;
        }
        f.write_str(" (")?;
        for (place, backend) in self.backends.iter().enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{backend}")?;
        }
        f.write_str(self.unavailable.as_deref().unwrap_or_default())?;
        f.write_str(")")
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.whom == Whom::Vip {
            f.write_str(" vip")?;
        }
        if self.weight != 1 {
            write!(f, " x{}", self.weight)?;
        }
        Ok(())
    }
}

//! One local task's namespace, made to answer through the node that was asked.
//!
//! Invariants
//! - *only differences*: what is there is known from the last visit, or read back;
//! - *right place*: a namespace is visited only while its cookie is the one that was meant;
//! - *gone is not an error*: a namespace that has left needs nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kernel::netns::Netns;
use tokio::time::Instant;

use super::error::MeshError;
use super::laid::{self, LOOK, Laid, Layout, Sphere};
use super::plan::{Aside, Way};
use super::sysctls::{Need, Sysctls};
use super::way;
use crate::sandbox::open;

/// What is known of a task's namespace since the last visit.
#[derive(Debug)]
pub(crate) struct Path {
    way: Way,
    cookie: u64,
    inode: u64,
    laid: Laid,
    visited: Instant,
    /// When it was first seen.
    met: Instant,
    /// Whether it has a way out beside the ingress network, as all tasks get sooner or later.
    whole: bool,
}

/// What a visit came to.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    pub(crate) path: Option<Path>,
    pub(crate) changes: usize,
    pub(crate) failure: Option<MeshError>,
}

impl Path {
    /// Whether a visit would find nothing to do.
    pub(crate) fn is_content(&self, way: &Way, now: Instant) -> bool {
        let settled = self.whole && !self.laid.is_doubted();
        settled && self.way == *way && now.saturating_duration_since(self.visited) < LOOK
    }

    /// Whether it was on this way the last time.
    pub(crate) fn is_on(&self, way: &Way) -> bool {
        self.way == *way
    }

    /// Its namespace.
    pub(crate) fn aside(&self) -> Aside {
        Aside { cookie: Some(self.cookie), ..self.way.aside() }
    }

    /// Its table.
    pub(crate) fn laid(&mut self) -> &mut Laid {
        &mut self.laid
    }

    /// Where it was.
    pub(crate) fn netns(&self) -> &PathBuf {
        &self.way.netns
    }
}

/// How long the engine may take to connect a container on both sides: then it has no other side.
const CONNECTING: Duration = Duration::from_secs(10);

/// Visits a namespace and makes `way` true there.
pub(crate) fn visit(way: Way, known: Option<Path>, sysctls: &Sysctls, now: Instant) -> Visit {
    match settle(way, known, sysctls, now) {
        Ok(Some((path, changes))) => {
            let awaited = !path.whole && now.saturating_duration_since(path.met) < CONNECTING;
            let failure = awaited.then_some(MeshError::NoWayOut);
            Visit { path: Some(path), changes, failure }
        }
        Ok(None) => Visit::default(),
        Err(failure) => Visit { failure: Some(failure), ..Visit::default() },
    }
}

/// The sysctls of a namespace whose interface on the ingress network is `device`.
pub(crate) fn needs(device: &str) -> [Need; 2] {
    let accept = Need::Value("ipv4/tcp_fwmark_accept".to_owned(), "1");
    [Need::Loose(device.to_owned()), accept]
}

fn settle(
    way: Way,
    known: Option<Path>,
    sysctls: &Sysctls,
    now: Instant,
) -> Result<Option<(Path, usize)>, MeshError> {
    let Some(netns) = open(&way.netns, way.cookie)? else { return Ok(None) };
    let inode = netns.inode();
    // The socket keeps the namespace, so its inode number is nobody else's.
    let known = known.filter(|it| it.inode == inode);
    let cookie = match (&known, way.cookie) {
        (Some(known), _) => known.cookie,
        (None, Some(cookie)) => cookie,
        (None, None) => netns.cookie()?,
    };
    let place = way::place(&netns, way.own)?.ok_or(MeshError::NoInterface(way.own))?;
    let device = place.device.clone();
    sysctls.hold(&netns, cookie, &needs(&device))?;
    let mut changes = way::settle_routes(&netns, &device, &way.routers)?;
    let frame = |_: &_| way::ruleset(&place, &way);
    let layout = Layout { wanted: Vec::new(), frame: &frame, sphere: Sphere::Namespace };
    let met = known.as_ref().map_or(now, |it| it.met);
    let (laid, more) = Laid::lay(&netns, known.map(|it| it.laid), &layout, now)?;
    changes += more;
    let whole = place.outer.is_some();
    Ok(Some((Path { way, cookie, inode, laid, visited: now, met, whole }, changes)))
}

/// Removes all of ours from a namespace that no plan names any more.
pub(crate) fn leave(mut path: Path, sysctls: &Sysctls) -> Visit {
    let left = || match open(&path.way.netns, Some(path.cookie))? {
        Some(netns) => clear(&netns, path.cookie, sysctls),
        None => Ok(sysctls.forget(path.cookie).map(|()| 0)?),
    };
    match left() {
        Ok(changes) => Visit { changes, ..Visit::default() },
        Err(failure) => {
            // Half of it may be gone.
            path.laid.doubt();
            Visit { path: Some(path), changes: 0, failure: Some(failure) }
        }
    }
}

/// Removes all of ours from a namespace of which nothing is known.
pub(crate) fn clear_aside(aside: &Aside, sysctls: &Sysctls) -> Visit {
    let cleared = || match open(&aside.netns, aside.cookie)? {
        Some(netns) => clear(&netns, netns.cookie()?, sysctls),
        None => Ok(aside.cookie.map_or(Ok(()), |it| sysctls.forget(it)).map(|()| 0)?),
    };
    match cleared() {
        Ok(changes) => Visit { changes, ..Visit::default() },
        Err(failure) => Visit { failure: Some(failure), ..Visit::default() },
    }
}

/// Puts sysctls back, and removes rules, routes and then the table, whose guard stands as long as
/// anything else does; gives how many things that were.
pub(crate) fn clear(netns: &Netns, cookie: u64, sysctls: &Sysctls) -> Result<usize, MeshError> {
    let released = sysctls.release(netns, cookie)?;
    let routes = way::settle_routes(netns, "lo", &BTreeMap::new())?;
    Ok(released + routes + usize::from(laid::remove(netns)?))
}

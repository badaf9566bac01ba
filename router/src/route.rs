//! (host, path) -> route. Pure; allocates nothing.
//!
//! Always true: of the routes that match, the one with the longest host wins (an exact name before
//! a wildcard, a longer wildcard before a shorter), among those the longest context root. A context
//! root ends at a segment: `/app` is for `/app` and `/app/x`, not for `/apple`.

use crate::table::{Route, RouteTable};

/// What a look-up found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found<'t> {
    /// The route and its position in the table.
    Route(usize, &'t Route),
    /// Nobody asked for this host.
    NoHost,
    /// Somebody asked for this host, nobody for this path of it.
    NoPath,
}

/// Finds the route for a host (as [`crate::authority::host`] gives it) and a path (as
/// [`crate::path::resolve`] gives it).
pub fn find<'t>(table: &'t RouteTable, host: &str, path: &str) -> Found<'t> {
    let (start, routes) = table.exact(host);
    let mut known = !routes.is_empty();
    if let Some(found) = longest(start, routes, path) {
        return found;
    }
    if table.has_wildcards() {
        let mut rest = host;
        while let Some((_, suffix)) = rest.split_once('.') {
            let (start, routes) = table.wildcard(suffix);
            known |= !routes.is_empty();
            if let Some(found) = longest(start, routes, path) {
                return found;
            }
            rest = suffix;
        }
    }
    if known { Found::NoPath } else { Found::NoHost }
}

/// Whether `path` lies under `context_root`.
pub fn under(context_root: &str, path: &str) -> bool {
    let rest = path.strip_prefix(context_root);
    context_root.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn longest<'t>(start: usize, routes: &'t [Route], path: &str) -> Option<Found<'t>> {
    let place = routes.iter().position(|route| under(&route.context_root, path))?;
    Some(Found::Route(start + place, routes.get(place)?))
}

#[cfg(test)]
mod tests;

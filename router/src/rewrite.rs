//! What becomes of a request's path on its way to the task. Pure.

use std::borrow::Cow;

use crate::table::Route;

/// What to do with a request under its route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Path<'a> {
    /// Send it with this path.
    Send(Cow<'a, str>),
    /// Redirect it to the same path with a slash at the end, so that the application's relative
    /// links stay below the context root.
    AddSlash,
    /// Refuse it: a lenient server could read it as a path outside the context root.
    Refuse,
}

/// The path for the task. `path` is resolved ([`crate::path::resolve`]) and lies under the route.
///
/// A rewritten `/app` is redirected and `/app/x` becomes `/x`. nginx's template of Interlock also
/// redirected every rewritten path without dot and final slash; that was an accident of its regular
/// expression and is not repeated here.
pub(crate) fn path<'a>(route: &Route, path: &'a str) -> Path<'a> {
    if route.context_root.is_empty() {
        return Path::Send(Cow::Borrowed(path));
    }
    if crate::path::hides_parent(path) {
        return Path::Refuse;
    }
    if !route.rewrite {
        return Path::Send(Cow::Borrowed(path));
    }
    match path.strip_prefix(&*route.context_root) {
        Some("") => Path::AddSlash,
        Some(rest) => Path::Send(Cow::Borrowed(rest)),
        None => Path::Send(Cow::Borrowed(path)),
    }
}

/// `path` with the query of the request, if it had one.
pub(crate) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::table::Host;

    #[track_caller]
    fn check(root: &str, rewrite: bool, given: &str, expect: &Path<'_>) {
        let route = Route {
            host: Host::of("a.test"),
            context_root: root.into(),
            rewrite,
            claims: Vec::new(),
            backends: Arc::from([]),
            unavailable: None,
        };
        assert_eq!(&path(&route, given), expect, "{root} {given}");
    }

    fn send(path: &str) -> Path<'_> {
        Path::Send(Cow::Borrowed(path))
    }

    #[test]
    fn a_context_root_is_stripped_only_on_request() {
        check("/app", false, "/app/x", &send("/app/x"));
        check("/app", false, "/app", &send("/app"));
        check("/app", true, "/app/x", &send("/x"));
        check("/app", true, "/app/", &send("/"));
        check("/app", true, "/app/x/", &send("/x/"));
        check("/app", true, "/app//x", &send("//x"));
        check("/a/b", true, "/a/b/c.js", &send("/c.js"));
    }

    #[test]
    fn the_bare_context_root_is_redirected_to_its_slash() {
        check("/app", true, "/app", &Path::AddSlash);
    }

    #[test]
    fn no_disguise_leads_out_of_a_context_root() {
        check("/app", false, "/app/..;/admin", &Path::Refuse);
        check("/app", true, "/app/..%2fadmin", &Path::Refuse);
        check("", false, "/..%2fadmin", &send("/..%2fadmin"));
    }
}

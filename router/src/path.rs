//! Brings a request's path into the form that is both matched and sent. Pure.
//!
//! Always true: the route is chosen by the very text that the task gets, so no spelling enters by
//! one context root and arrives under another. Dot segments are resolved (RFC 3986 section 5.2.4,
//! `%2e` included: it *is* a dot, section 6.2.2.2); everything else stays as the client wrote it.

use std::borrow::Cow;

/// `path` without dot segments. A `..` above the root is dropped, as the RFC says.
pub(crate) fn resolve(path: &str) -> Cow<'_, str> {
    if !path.split('/').skip(1).any(|segment| dots(segment).is_some()) {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment) {
            None => {
                kept.push(segment);
                continue;
            }
            Some(Dots::This) => {}
            Some(Dots::Parent) => drop(kept.pop()),
        }
        if last {
            kept.push(""); // `/a/b/..` is `/a/`
        }
    }
    Cow::Owned(format!("/{}", kept.join("/")))
}

/// Whether a server that decodes more than it should could read a `..` in it that [`resolve`] did
/// not: behind an encoded slash, a backslash, or with a path parameter (`/..;/`, `/..%2f`).
pub(crate) fn hides_parent(path: &str) -> bool {
    if !path.contains("..") && !path.contains("%2") {
        return false;
    }
    let mut text = path.to_ascii_lowercase();
    for (written, read) in [("%2f", "/"), ("%5c", "/"), ("\\", "/"), ("%2e", "."), ("%3b", ";")] {
        text = text.replace(written, read);
    }
    text.split('/').any(|segment| segment == ".." || segment.starts_with("..;"))
}

/// What a path segment of dots means.
enum Dots {
    This,
    Parent,
}

fn dots(segment: &str) -> Option<Dots> {
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        rest = rest
            .strip_prefix('.')
            .or_else(|| rest.strip_prefix("%2e"))
            .or_else(|| rest.strip_prefix("%2E"))?;
        count += 1;
    }
    match count {
        1 => Some(Dots::This),
        2 => Some(Dots::Parent),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(path: &str, expect: &str) {
        assert_eq!(resolve(path), expect, "{path}");
    }

    #[test]
    fn dot_segments_are_resolved_as_rfc_3986_does() {
        check("/a/b/c/./../../g", "/a/g"); // the RFC's own example
        check("/a/b/..", "/a/");
        check("/a/b/.", "/a/b/");
        check("/..", "/");
        check("/../../x", "/x");
        check("/app/%2e%2E/admin", "/admin");
        check("/app/.%2e/admin", "/admin");
        check("/a//../b", "/a/b");
    }

    #[test]
    fn everything_else_stays_as_written() {
        for path in ["/", "/a/...", "/a/.b", "/a/b..", "//a//", "/%2f", "/a%20b", "/é", "*", ""] {
            check(path, path);
        }
    }

    #[test]
    fn parents_in_disguise_are_seen() {
        for path in ["/app/..;/x", "/app/..%2fx", "/app/%2e%2e%5Cx", "/app\\..\\x", "/a/..%3Bv=1/x"]
        {
            assert!(hides_parent(path), "{path}");
        }
        for path in ["/", "/app/a..b", "/app/...", "/app/%20", "/a;..b/c", "/app/%2fx"] {
            assert!(!hides_parent(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn resolving_twice_changes_nothing(path in "/([a.%2eE/;]|%2e|%2E|\\.\\./){0,12}") {
            let once = resolve(&path).into_owned();
            prop_assert_eq!(resolve(&once), once.as_str());
            prop_assert!(once.starts_with('/'));
            prop_assert!(!once.split('/').any(|segment| dots(segment).is_some()));
        }

        #[test]
        fn any_text_is_survived(path: String) {
            resolve(&path);
            hides_parent(&path);
        }
    }
}

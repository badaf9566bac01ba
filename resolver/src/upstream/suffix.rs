//! Split horizon: names below some suffix are asked of servers of their own. Pure.
//!
//! Always true here: the longest suffix wins, and labels are compared whole, so that
//! `notcorp.example` is not below `corp.example`.

/// The rule of the longest suffix in `rules` that `key` is or lies below. Both in normal form
/// ([`crate::name::key`]).
pub(crate) fn longest<'r, T>(rules: &'r [(String, T)], key: &str) -> Option<&'r (String, T)> {
    let below = rules.iter().filter(|(suffix, _)| is_below(key, suffix));
    below.max_by_key(|(suffix, _)| suffix.len())
}

/// Whether `key` is `suffix` or lies below it.
pub(crate) fn is_below(key: &str, suffix: &str) -> bool {
    key.strip_suffix(suffix).is_some_and(|it| it.is_empty() || it.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_suffix_of_whole_labels_wins() {
        let rules = [("corp.example", 1), ("lab.corp.example", 2), ("example", 3)]
            .map(|(suffix, it)| (suffix.to_owned(), it));
        for (key, expected) in [
            ("corp.example", Some(1)),
            ("a.b.corp.example", Some(1)),
            ("x.lab.corp.example", Some(2)),
            ("notcorp.example", Some(3)),
            ("example.com", None),
            ("", None),
        ] {
            assert_eq!(longest(&rules, key).map(|it| it.1), expected, "{key}");
        }
    }
}

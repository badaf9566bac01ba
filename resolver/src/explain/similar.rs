//! What a name that is nobody's was probably meant to be.
//!
//! Always true here: what is proposed exists; and however many names there are, no more than
//! [`COMPARED`] of those that are about as long are looked at closely.

use registry::nearest::closest;

/// The one of `names` that is nearest to `name`, if a person can have meant it: two edits away, one
/// for a short name, or half of a name made of several.
pub(super) fn similar<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let edits = match name.len() {
        0 | 1 => return None,
        2 | 3 => 1,
        _ => 2,
    };
    let about_as_long =
        |it: &&str| *it != name && (it.len().abs_diff(name.len()) <= edits || has_part(it, name));
    let near = names.into_iter().filter(about_as_long).take(COMPARED);
    closest(name, near).filter(|(_, distance)| *distance <= edits).map(|(name, _)| name)
}

fn has_part(name: &str, part: &str) -> bool {
    name.strip_prefix("tasks.").is_none() && name.split(['_', '.']).any(|it| it == part)
}

/// A comparison takes some microseconds.
const COMPARED: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = ["app", "db", "shop_web", "tasks.web1", "web.1", "database"];

    #[test]
    fn two_edits_are_forgiven_in_a_long_name_and_one_in_a_short_one() {
        for (typed, meant) in [
            ("databsae", Some("database")),
            ("datbse", Some("database")),
            ("datbs", None),
            ("ap", Some("app")),
            ("dbb", Some("db")),
            ("xy", None),
            ("a", None),
            ("", None),
        ] {
            assert_eq!(similar(typed, NAMES), meant, "{typed}");
        }
    }

    #[test]
    fn half_of_a_name_is_enough_and_the_name_itself_is_no_proposal() {
        assert_eq!(similar("web", NAMES), Some("shop_web"));
        assert_eq!(similar("db", ["db"]), None);
    }
}

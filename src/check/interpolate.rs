//! `${VARIABLE:-default}` in Compose files, without knowing the variables.
//!
//! Total: a variable without a default stays as it is written and is named; nothing fails. The
//! environment is not asked, so that a file gives the same diagnostics everywhere.

/// A value after interpolation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Interpolated {
    /// The text with defaults put in.
    pub(super) text: String,
    /// The first variable whose value only the deployment knows.
    pub(super) open: Option<String>,
}

/// Puts in the defaults (Compose specification, "Interpolation").
pub(super) fn interpolate(text: &str) -> Interpolated {
    let mut result = Interpolated { text: String::new(), open: None };
    expand(text, NESTED, &mut result);
    result
}

fn expand(text: &str, depth: usize, result: &mut Interpolated) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.text.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            result.text.push('$');
            after
        } else if let Some((inner, after)) = braced(after) {
            substitute(inner, depth, result);
            after
        } else {
            let end = after.find(|it: char| !is_name(it)).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            if !name.is_empty() && !name.starts_with(|it: char| it.is_ascii_digit()) {
                leave(name, &format!("${name}"), result);
            } else {
                result.text.push('$');
                result.text.push_str(name);
            }
            after
        };
    }
    result.text.push_str(rest);
}

/// What stands between `{` and its `}`, and what follows.
fn braced(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('{')?;
    let mut open = 1usize;
    for (at, character) in inner.char_indices() {
        match character {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some((inner.get(..at)?, inner.get(at + 1..)?));
        }
    }
    None
}

fn substitute(inner: &str, depth: usize, result: &mut Interpolated) {
    let end = inner.find(|it: char| !is_name(it)).unwrap_or(inner.len());
    let (name, rest) = inner.split_at(end);
    let rule = rest.strip_prefix(':').unwrap_or(rest);
    match (rule.strip_prefix('-'), depth.checked_sub(1)) {
        (Some(default), Some(depth)) => expand(default, depth, result),
        // What is put in only where the variable is set.
        (None, _) if rule.starts_with('+') => {}
        (None, _) | (Some(_), None) => leave(name, &format!("${{{inner}}}"), result),
    }
}

fn leave(name: &str, written: &str, result: &mut Interpolated) {
    result.text.push_str(written);
    result.open.get_or_insert_with(|| name.to_owned());
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Defaults within defaults that are followed; people nest two.
const NESTED: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn defaults_are_put_in_and_the_rest_stays() {
        for (text, expected, open) in [
            ("plain", "plain", None),
            ("${HOST:-app.test}", "app.test", None),
            ("${HOST-app.test}", "app.test", None),
            ("a.${DOMAIN:-${ZONE:-test}}.b", "a.test.b", None),
            ("${HOST}", "${HOST}", Some("HOST")),
            ("$HOST:80", "$HOST:80", Some("HOST")),
            ("${HOST:?must be set}", "${HOST:?must be set}", Some("HOST")),
            ("x${HOST:+y}", "x", None),
            ("costs $$5 and $5", "costs $5 and $5", None),
            ("${A:-a}-${B}-${C}", "a-${B}-${C}", Some("B")),
            ("${unclosed", "${unclosed", None),
            ("$", "$", None),
        ] {
            let open = open.map(str::to_owned);
            let expected = Interpolated { text: expected.to_owned(), open };
            assert_eq!(interpolate(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_text_without_dollars_stays(text in "(\\$|\\{|\\}|:|-|A|é){0,40}") {
            let result = interpolate(&text);
            prop_assert!(text.contains('$') || result.text == text);
        }
    }
}

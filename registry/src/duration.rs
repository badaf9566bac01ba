//! Times as people write them, in configuration and labels: `250ms`, `5s`, `1m30s`, `2h`.
//!
//! Always true here: what is read fits every timer; what is not a time is `None`, never a guess.

use std::time::Duration;

/// Reads a time; `None` where it is not one, or longer than [`LONGEST`].
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|it: char| !it.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|it: char| it.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let number: u64 = number.parse().ok()?;
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = tail;
    }
    (total <= LONGEST).then_some(total)
}

/// A year: no timer of ours makes sense beyond this, and none overflows below it.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_have_units() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5000), ("1m30s", 90_000), ("2h", 7_200_000), (" 0s ", 0)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let huge = format!("{}h", u64::MAX);
        for text in ["", "5", "s", "5 s", "-5s", "5S", "5d", "1.5s", "9999999h", &huge, "5s5"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([0-9]{0,22}(ms|s|m|h|\\PC)?){0,4}") {
            prop_assert!(parse(&text).is_none_or(|it| it <= LONGEST));
        }
    }
}

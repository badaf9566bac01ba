//! The engine's times (RFC 3339, UTC, nanoseconds) as milliseconds since the epoch. Pure.

/// Milliseconds since the epoch of e.g. `2026-11-21T09:19:23.81824126Z`; `None` for anything that
/// is not such a time or before 1970 (`0001-01-01T00:00:00Z` means never).
pub(crate) fn millis(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once('T')?;
    let (year, month, day) = triple(date, '-')?;
    let (clock, offset) = clock_and_offset(rest)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let (hour, minute, second) = triple(clock, ':')?;
    let fits = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && year < 10_000;
    if !fits {
        return None;
    }
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let seconds = days_since_epoch(year, month, day)? * 86_400
        + i64::from(hour * 3600 + minute * 60 + second)
        - offset;
    let millis = seconds.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    u64::try_from(millis).ok()
}

/// Splits `12:00:00+01:00` into its clock and its offset in seconds.
fn clock_and_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix('Z') {
        return Some((clock, 0));
    }
    let at = text.rfind(['+', '-'])?;
    let (clock, offset) = text.split_at_checked(at)?;
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let minutes =
        i64::from(hours.parse::<u8>().ok()?) * 60 + i64::from(minutes.parse::<u8>().ok()?);
    Some((clock, sign * minutes * 60))
}

fn triple(text: &str, separator: char) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(separator).map(|it| it.parse::<u16>().ok().map(u32::from));
    let triple = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(triple)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; the year begins in March, so that
/// the leap day is its last.
fn days_since_epoch(year: u32, month: u32, day: u32) -> Option<i64> {
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some(i64::from(days) - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_millisecond() {
        assert_eq!(millis("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(millis("2000-02-29T12:34:56.789123456Z"), Some(951_827_696_789));
        assert_eq!(millis("2026-11-21T09:19:23.8Z"), Some(1_795_252_763_800));
        assert_eq!(millis("2026-11-21T10:19:23.8+01:00"), Some(1_795_252_763_800));
        assert_eq!(millis("2026-11-21T05:49:23.8-03:30"), Some(1_795_252_763_800));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "0001-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "2026-11-21", "T", "-T-Z"]
        {
            assert_eq!(millis(text), None, "{text}");
        }
    }
}

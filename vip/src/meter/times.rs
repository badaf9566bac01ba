//! How long transactions took, in buckets that never change.
//!
//! Always true here: recording is two relaxed additions after a search of a short table.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds in microseconds, inclusive: a change is in the first ones, a first load of a large
/// table in the middle, a transaction that waits for others' in the last.
const BOUNDS: [u64; 12] =
    [25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000];

/// The counters. The last bucket is for what took longer than every bound.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// Each bucket's upper bound in seconds, and how many took no longer, those of the buckets
    /// before included.
    pub buckets: Vec<(f64, u64)>,
    /// All of them.
    pub count: u64,
    /// What they took together, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// One more took `elapsed`.
    pub(crate) fn record(&self, elapsed: Duration) {
        // 584 years fit.
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|bound| bound.saturating_mul(1_000) < nanoseconds);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Relaxed);
        }
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// What it holds now.
    #[expect(clippy::cast_precision_loss, reason = "104 days fit to the nanosecond")]
    pub(crate) fn now(&self) -> Times {
        let mut count = 0;
        let mut total = |bucket: &AtomicU64| {
            count += bucket.load(Relaxed);
            count
        };
        let totals: Vec<u64> = self.buckets.iter().map(&mut total).collect();
        let bounds = BOUNDS.iter().map(|it| Duration::from_micros(*it).as_secs_f64());
        let sum = self.nanoseconds.load(Relaxed) as f64 / 1e9;
        Times { buckets: bounds.zip(totals).collect(), count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_exactly_a_bound_is_in_its_bucket_and_longer_is_in_the_next() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(50));
        histogram.record(Duration::from_nanos(50_001));
        histogram.record(Duration::from_secs(60));
        let now = histogram.now();
        let totals: Vec<u64> = now.buckets.iter().map(|(_, total)| *total).collect();
        assert_eq!(totals.get(..3), Some(&[0, 1, 2][..]));
        assert_eq!((totals.last(), now.count), (Some(&2), 3));
    }
}

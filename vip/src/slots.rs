//! Turns tasks with weights into the order in which they get connections.
//!
//! Invariants
//! - *fair*: over one round each task gets connections in proportion to its weight, spread over
//!   the round and not in bursts;
//! - *nobody forgotten*: a task with any weight has a slot;
//! - *bounded*: there are at most [`MOST_SLOTS`] slots, or as many as tasks if those are more;
//! - *calm*: the order of the tasks given does not matter.

use std::net::IpAddr;

/// Most slots of one service. Enough to show a weight of 1 beside one of 1,000; each costs an
/// element in the table of every sandbox that sees the service.
pub(crate) const MOST_SLOTS: u64 = 1024;

/// The slots of tasks with these addresses and weights.
pub(crate) fn slots(mut tasks: Vec<(IpAddr, u16)>) -> Vec<IpAddr> {
    tasks.retain(|(_, weight)| *weight > 0);
    tasks.sort_unstable();
    tasks.dedup_by_key(|(address, _)| *address);
    let divisor = tasks.iter().map(|(_, weight)| u64::from(*weight)).fold(0, gcd).max(1);
    let weights: Vec<u64> = tasks.iter().map(|(_, it)| u64::from(*it) / divisor).collect();
    let weights = scale(weights);
    let total: u64 = weights.iter().sum();
    if total == u64::try_from(tasks.len()).unwrap_or(u64::MAX) {
        return tasks.into_iter().map(|(address, _)| address).collect();
    }
    // A task of weight w gets the places nearest to 1/2, 3/2, ... w-1/2 of total/w.
    let mut placed: Vec<(u64, IpAddr)> = Vec::new();
    for ((address, _), weight) in tasks.iter().zip(&weights) {
        let places = (0..*weight).map(|nth| ((2 * nth + 1) * SCALE / (2 * weight), *address));
        placed.extend(places);
    }
    placed.sort_unstable();
    placed.into_iter().map(|(_, address)| address).collect()
}

/// Units of a round: finer than any place in it.
const SCALE: u64 = 1 << 32;

/// Shrinks weights in proportion until their sum is within [`MOST_SLOTS`], none below 1.
fn scale(weights: Vec<u64>) -> Vec<u64> {
    let total: u64 = weights.iter().sum();
    let tasks = u64::try_from(weights.len()).unwrap_or(u64::MAX);
    if total <= MOST_SLOTS {
        return weights;
    }
    let room = MOST_SLOTS.saturating_sub(tasks);
    weights.into_iter().map(|it| 1 + it.saturating_sub(1) * room / total).collect()
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use std::net::Ipv4Addr;

    use super::*;

    fn last(address: IpAddr) -> u8 {
        address.to_string().rsplit('.').next().unwrap().parse().unwrap()
    }

    fn check(weights: &[u16], expected: &[u8]) {
        let tasks =
            (1..).map(|it| IpAddr::V4(Ipv4Addr::new(10, 0, 0, it))).zip(weights.iter().copied());
        let got: Vec<_> = slots(tasks.collect()).iter().map(|it| last(*it)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn equal_weights_are_one_slot_each() {
        check(&[100, 100, 100], &[1, 2, 3]);
    }

    #[test]
    fn a_heavier_task_has_more_slots_and_they_are_spread() {
        check(&[1, 3], &[2, 1, 2, 2]);
        check(&[2, 4], &[2, 1, 2]);
        check(&[2, 2, 1], &[1, 2, 3, 1, 2]);
    }

    #[test]
    fn weight_zero_takes_a_task_out() {
        check(&[0, 1, 0], &[2]);
        check(&[0, 0], &[]);
    }

    #[test]
    fn the_lightest_beside_the_heaviest_task_still_has_a_slot() {
        let tasks = vec![
            (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1),
            (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 65_535),
        ];
        let got = slots(tasks);
        let light = got.iter().filter(|it| last(**it) == 1).count();
        assert_eq!((got.len(), light), (1023, 1));
    }

    proptest! {
        #[test]
        fn every_task_with_weight_has_its_share(weights in vec(0..2000_u16, 0..40)) {
            let tasks: Vec<_> =
                (1..).map(|it| IpAddr::V4(Ipv4Addr::new(10, 0, 0, it))).zip(weights.iter().copied()).collect();
            let got = slots(tasks.clone());
            let total: u64 = weights.iter().map(|it| u64::from(*it)).sum();
            prop_assert!(got.len() <= 1024);
            let mut shuffled = tasks.clone();
            shuffled.reverse();
            prop_assert_eq!(&slots(shuffled), &got);
            for (address, weight) in tasks {
                let have = u64::try_from(got.iter().filter(|it| **it == address).count()).unwrap();
                let len = u64::try_from(got.len()).unwrap();
                prop_assert_eq!(weight == 0, have == 0);
                if total <= MOST_SLOTS {
                    prop_assert_eq!(have * total, u64::from(weight) * len);
                } else {
                    // Nobody below one, and rounding, take from the heavy what the light have.
                    prop_assert!((have * total).abs_diff(u64::from(weight) * len) <= 41 * total);
                }
            }
        }
    }
}

//! Chooses one of several backends: the less busy of two different ones, drawn at random by weight.
//! Pure; the randomness is handed in.
//!
//! Two choices keep the longest queue near the shortest without a shared order (Mitzenmacher,
//! "The Power of Two Choices", 2001), and a task that hangs is avoided because its requests stay.

/// The weights of a route's backends, ready for drawing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Spread {
    /// Running sums of the weights, in the order of the backends.
    sums: Vec<u64>,
}

/// How one backend does at the moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Load {
    /// Requests that it has not finished.
    pub(crate) in_flight: u32,
    /// Whether it is better left alone: it just refused a connection, or this request tried it.
    pub(crate) shunned: Shunned,
}

/// Whether a backend is better left alone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) enum Shunned {
    /// Nothing speaks against it.
    #[default]
    No,
    /// Only if there is nobody else.
    IfPossible,
    /// Not at all.
    Always,
}

impl Spread {
    /// Backends of these weights.
    pub(crate) fn new(weights: impl IntoIterator<Item = u16>) -> Self {
        let mut sum = 0;
        let add = |weight: u16| {
            sum += u64::from(weight);
            sum
        };
        Self { sums: weights.into_iter().map(add).collect() }
    }

    /// The position of the backend to ask; `None` when all are shunned always or there are none.
    pub(crate) fn choose(&self, dice: &mut Dice, load: impl Fn(usize) -> Load) -> Option<usize> {
        let first = self.draw(dice)?;
        let second = self.draw_another(dice, first).unwrap_or(first);
        let better = if self.busier(first, second, &load) { second } else { first };
        match load(better).shunned {
            Shunned::No => Some(better),
            // Chance offered nothing good: look at all.
            Shunned::IfPossible | Shunned::Always => self.best(dice, &load),
        }
    }

    /// One position, each as probable as its weight.
    fn draw(&self, dice: &mut Dice) -> Option<usize> {
        let point = dice.below(*self.sums.last()?)?;
        Some(self.sums.partition_point(|&sum| sum <= point))
    }

    /// A position besides `first`, each as probable as its weight among the rest; `None` where there
    /// is no other.
    fn draw_another(&self, dice: &mut Dice, first: usize) -> Option<usize> {
        let weight = self.weight(first);
        let before = self.sums.get(first)?.checked_sub(weight)?;
        let point = dice.below(self.sums.last()?.checked_sub(weight)?)?;
        // The points of `first` are left out: what lies behind them moves up.
        let point = if point < before { point } else { point + weight };
        Some(self.sums.partition_point(|&sum| sum <= point))
    }

    /// Whether the backend at `first` has more to do for its weight than the one at `second`.
    fn busier(&self, first: usize, second: usize, load: &impl Fn(usize) -> Load) -> bool {
        let (one, other) = (load(first), load(second));
        let busy = |load: Load, weight: u64| u64::from(load.in_flight) * weight;
        (one.shunned, busy(one, self.weight(second)))
            > (other.shunned, busy(other, self.weight(first)))
    }

    /// The best of all, beginning at a random place so that equals share.
    fn best(&self, dice: &mut Dice, load: &impl Fn(usize) -> Load) -> Option<usize> {
        let start = self.draw(dice)?;
        let around = (start..self.sums.len()).chain(0..start);
        let best =
            around.reduce(|best, next| if self.busier(best, next, load) { next } else { best });
        best.filter(|&place| load(place).shunned < Shunned::Always)
    }

    fn weight(&self, place: usize) -> u64 {
        let until = |place: Option<usize>| place.and_then(|it| self.sums.get(it)).copied();
        let before = until(place.checked_sub(1)).unwrap_or(0);
        until(Some(place)).unwrap_or(before) - before
    }
}

/// Pseudo-random numbers (`SplitMix64`, Steele and others 2014): good enough to spread load and to
/// tell requests apart, not to keep secrets.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, each as probable to within 2^-32 for bounds below 2^32; `None` for
    /// a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> Option<u64> {
        let wide = u128::from(self.roll()) * u128::from(bound);
        u64::try_from(wide >> 64).ok().filter(|_| bound > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(spread: &Spread, count: usize, load: impl Fn(usize) -> Load) -> Vec<usize> {
        let mut dice = Dice::new(7);
        let mut shares = vec![0; count];
        for _ in 0..10_000 {
            shares[spread.choose(&mut dice, &load).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn idle_backends_share_by_weight() {
        let shares = shares(&Spread::new([1, 2, 5]), 3, |_| Load::default());
        for (share, expect) in shares.iter().zip([1_250, 2_500, 6_250]) {
            assert!(share.abs_diff(expect) < 250, "{shares:?}");
        }
    }

    #[test]
    fn the_busiest_of_several_gets_the_least() {
        let load = |place| Load { in_flight: [9, 1, 1, 1][place], ..Load::default() };
        let shares = shares(&Spread::new([1, 1, 1, 1]), 4, load);
        assert_eq!(shares[0], 0, "whoever is drawn with it has less to do: {shares:?}");
    }

    #[test]
    fn the_two_drawn_are_different_and_each_by_its_weight() {
        let spread = Spread::new([1, 2, 5]);
        let mut dice = Dice::new(7);
        let mut seconds = [0_u32; 3];
        for _ in 0..10_000 {
            seconds[spread.draw_another(&mut dice, 2).unwrap()] += 1;
        }
        assert!(seconds[0].abs_diff(3_333) < 250 && seconds[2] == 0, "{seconds:?}");
        assert_eq!(Spread::new([3]).draw_another(&mut dice, 0), None);
    }

    #[test]
    fn in_flight_counts_relative_to_weight() {
        let spread = Spread::new([1, 10]);
        assert!(
            spread.busier(0, 1, &|place| Load { in_flight: [2, 10][place], ..Load::default() })
        );
        assert!(
            !spread.busier(0, 1, &|place| Load { in_flight: [1, 11][place], ..Load::default() })
        );
    }

    #[test]
    fn a_shunned_backend_is_asked_only_when_all_are() {
        let one = |place| Load {
            shunned: if place == 1 { Shunned::No } else { Shunned::IfPossible },
            ..Load::default()
        };
        assert_eq!(shares(&Spread::new([1, 1, 1]), 3, one), [0, 10_000, 0]);
        let all = |_| Load { shunned: Shunned::IfPossible, ..Load::default() };
        assert!(shares(&Spread::new([1, 1]), 2, all).iter().all(|&share| share > 4_000));
    }

    #[test]
    fn nobody_is_chosen_where_nobody_may_be() {
        let never = |_| Load { shunned: Shunned::Always, ..Load::default() };
        assert_eq!(Spread::new([1, 1]).choose(&mut Dice::new(1), never), None);
        assert_eq!(Spread::new([]).choose(&mut Dice::new(1), never), None);
    }

    proptest! {
        #[test]
        fn whoever_is_chosen_exists(
            weights in proptest::collection::vec(1..u16::MAX, 1..20),
            busy in proptest::collection::vec(0..u32::MAX, 20),
            seed: u64,
        ) {
            let load = |place: usize| Load { in_flight: busy[place], ..Load::default() };
            let chosen = Spread::new(weights.iter().copied()).choose(&mut Dice::new(seed), load);
            prop_assert!(chosen.is_some_and(|place| place < weights.len()));
        }
    }
}

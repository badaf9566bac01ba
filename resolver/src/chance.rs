//! Randomness: unpredictable numbers from the kernel for what strangers must not guess, and a
//! cheap generator for what only has to be even.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// Sixty-four bits that nobody can predict: query ids, seeds.
pub(crate) fn unpredictable() -> io::Result<u64> {
    let mut octets = [0; 8];
    let mut filled = 0;
    while let Some(rest) = octets.get_mut(filled..).filter(|it| !it.is_empty()) {
        filled += getrandom(rest, GetRandomFlags::empty())?;
    }
    Ok(u64::from_ne_bytes(octets))
}

/// An even sequence (xorshift64*, Vigna 2016) for the order of addresses.
#[derive(Debug)]
pub(crate) struct Even(u64);

impl Even {
    /// Begins at an unpredictable place.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(unpredictable()? | 1)) // zero would stay zero
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// The places to swap, one pair after another, that put `count` things into an order drawn from
/// `seed`: Fisher and Yates, with `SplitMix64` as the source of numbers. The bias of the modulus is
/// below 2^-48 for any set that fits an answer.
pub(crate) fn swaps(count: usize, mut seed: u64) -> impl Iterator<Item = (usize, usize)> {
    (1..count).rev().map(move |end| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let bound = u64::try_from(end).unwrap_or(u64::MAX).saturating_add(1);
        (usize::try_from(mixed % bound).unwrap_or(end), end)
    })
}

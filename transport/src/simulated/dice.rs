//! Random numbers that follow from a seed and a counter.
//!
//! Owns the generator. What a number decides is left to `network` and `faults`.
//!
//! Invariant: the n-th draw depends on the seed and n only.

use std::ops::RangeInclusive;

/// Per mille: what a chance of one is made of.
const WHOLE_PER_MILLE: u64 = 1000;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(super) struct Dice {
    seed: u64,
    draws: u64,
}

impl Dice {
    /// The stream of this seed, from its start.
    pub(super) fn new(seed: u64) -> Dice {
        Dice { seed, draws: 0 }
    }

    /// The next number, each of the 2^64 as likely.
    ///
    /// Source: Steele, Lea, Flood, OOPSLA 2014 (SplitMix64).
    pub(super) fn draw(&mut self) -> u64 {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        self.draws += 1;
        let state = self.seed.wrapping_add(self.draws.wrapping_mul(GOLDEN));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`. Panics: if `bound` is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// A number of the range; its start if the range is empty.
    pub(super) fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        let span = range.end().saturating_sub(*range.start());
        match span.checked_add(1) {
            Some(count) => range.start() + self.below(count),
            None => self.draw(),
        }
    }

    /// Whether something happens that has this chance. Draws whatever the chance, so that two
    /// mixes of faults see the same stream.
    pub(super) fn strikes(&mut self, per_mille: u32) -> bool {
        self.below(WHOLE_PER_MILLE) < u64::from(per_mille)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_stream_and_another_seed_another() {
        let stream = |seed| {
            let mut dice = Dice::new(seed);
            (0..100).map(|_| dice.draw()).collect::<Vec<_>>()
        };
        assert_eq!(stream(7), stream(7));
        assert_ne!(stream(7), stream(8));
    }

    #[test]
    fn a_draw_from_a_range_reaches_both_ends_and_no_further() {
        let mut dice = Dice::new(1);
        let drawn: Vec<u64> = (0..1000).map(|_| dice.within(&(3..=6))).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&6)));
        assert_eq!(dice.within(&(9..=9)), 9);
    }

    #[test]
    fn a_chance_of_none_never_strikes_and_of_a_thousand_always() {
        let mut dice = Dice::new(2);
        assert!((0..1000).all(|_| !dice.strikes(0)));
        assert!((0..1000).all(|_| dice.strikes(1000)));
        let struck = (0..10_000).filter(|_| dice.strikes(250)).count();
        assert!((2_200..2_800).contains(&struck), "{struck} of 10000 at 250 per mille");
    }
}

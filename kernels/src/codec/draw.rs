//! Rounding of an integer's low bits: to the nearest, or by chance and right on average.
//!
//! Owns the chance: a number for each value's index, so that neither the order of work nor the
//! width of a register changes a bit.
//!
//! Invariant: what rounding by chance gives is, on average over seeds, what was rounded.

use crate::hash::mix;

/// How a number that a codec does not have becomes one that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, of two equally near ones to the even one. The same each time, so for what
    /// is asked for again, and for error feedback.
    Nearest,
    /// Up or down by chance, the nearer one more often, so that many of them add up to what was
    /// given: `E[rounded] = value`.
    Stochastic {
        /// Decides all roundings of a message; another message should have another one.
        seed: u64,
    },
}

/// Rounding as the kernels are compiled for it.
pub(super) trait Round: Copy {
    /// `value / 2^bits`, rounded; `index` is the value's place in its message.
    ///
    /// `value` is at most `u32::MAX - 2^bits`, `bits` is 1 to 31.
    fn off(self, value: u32, bits: u32, index: u32) -> u32;
}

/// The whole part of a number from 0 to 2^30; of others, of the nearer end, and 0 of NaN.
///
/// A cast would say the same of all numbers, but is not vectorised.
#[inline(always)]
pub(super) fn whole(number: f32) -> u32 {
    const MOST: f32 = (1 << 30) as f32;
    let number = if number > 0.0 { number } else { 0.0 };
    let number = if number < MOST { number } else { MOST };
    // SAFETY: an i32 holds the whole part: the first choice leaves what is above zero or zero, so
    // no NaN, and the second at most 2^30.
    let whole: i32 = unsafe { number.to_int_unchecked() };
    whole.cast_unsigned()
}

/// [`Rounding::Nearest`].
#[derive(Clone, Copy)]
pub(super) struct Nearest;

impl Round for Nearest {
    #[inline(always)]
    fn off(self, value: u32, bits: u32, _index: u32) -> u32 {
        let half_less_one = (1 << (bits - 1)) - 1;
        (value + half_less_one + (value >> bits & 1)) >> bits
    }
}

/// [`Rounding::Stochastic`].
#[derive(Clone, Copy)]
pub(crate) struct Stochastic {
    first: u32,
    second: u32,
}

impl Stochastic {
    #[inline(always)]
    pub(crate) fn new(seed: u64) -> Stochastic {
        let mixed = mix(seed);
        Stochastic { first: mixed as u32, second: (mixed >> 32) as u32 }
    }

    /// Source: the constants and shifts of Wellons' lowbias32 (2018), with the seed's second half
    /// between its two products, since two sequences that differ in their start alone overlap.
    #[inline(always)]
    pub(crate) fn draw(self, index: u32) -> u32 {
        let mut draw = index.wrapping_add(self.first);
        draw = (draw ^ (draw >> 16)).wrapping_mul(0x7FEB_352D);
        draw = (draw ^ (draw >> 15) ^ self.second).wrapping_mul(0x846C_A68B);
        draw ^ (draw >> 16)
    }
}

impl Round for Stochastic {
    #[inline(always)]
    fn off(self, value: u32, bits: u32, index: u32) -> u32 {
        (value + (self.draw(index) >> (32 - bits))) >> bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_taken_and_of_two_the_even_one() {
        let rounded = [0, 7, 8, 9, 23, 24, 25, 40].map(|value| Nearest.off(value, 4, 0));
        assert_eq!(rounded, [0, 0, 0, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn by_chance_a_number_goes_up_as_often_as_its_part_says() {
        const DRAWS: u32 = 1 << 16;
        for part in [0_u32, 1, 64, 128, 200, 255] {
            for seed in 0..4 {
                let round = Stochastic::new(seed);
                let ups: u32 = (0..DRAWS).map(|index| round.off(768 + part, 8, index) - 3).sum();
                let expected = f64::from(DRAWS) * f64::from(part) / 256.0;
                // Five standard deviations of as many independent draws.
                let bound = 5.0 * (expected * (1.0 - f64::from(part) / 256.0)).sqrt();
                assert!((f64::from(ups) - expected).abs() <= bound, "{part}: {ups}, {expected}");
            }
        }
    }

    #[test]
    fn neighbours_and_seeds_are_not_alike() {
        let agree = |one: &dyn Fn(u32) -> u32, two: &dyn Fn(u32) -> u32| {
            let equal: u32 = (0..4096).map(|index| (!(one(index) ^ two(index))).count_ones()).sum();
            f64::from(equal) / f64::from(4096 * 32)
        };
        let (a, b) = (Stochastic::new(1), Stochastic::new(2));
        let shares = [
            agree(&|index| a.draw(index), &|index| a.draw(index + 1)),
            agree(&|index| a.draw(index), &|index| b.draw(index)),
            agree(&|index| a.draw(index), &|index| {
                Stochastic { second: a.second ^ 1, ..a }.draw(index)
            }),
        ];
        assert!(shares.iter().all(|share| (share - 0.5).abs() < 0.01), "{shares:?}");
    }
}

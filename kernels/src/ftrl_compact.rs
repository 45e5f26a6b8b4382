//! FTRL-Proximal with both numbers of a coordinate in one 32-bit word: half the bytes, the same
//! steps on average.
//!
//! Owns the word: how `z` and `n` are cut down to 32 bits and rounded. The arithmetic of a step is
//! left to `ftrl`, the walk to `columns` and `rows`.
//!
//! A word is a sign, 12 bits of `n` and 19 bits of `|z|`. Both are small floats on a scale of their
//! own (see `Scale`), rounded by chance at each store, so that many steps that are each smaller
//! than the scale's unit still add up to what was pushed.
//!
//! Invariant: any 32 bits are finite `z` and `n`; a word that a step stores is finite as an f32
//! too, so whoever moves rows as numbers moves their bits. A push of zeros changes no bit.

use crate::codec::draw::Stochastic;
use crate::columns::{self, Rule, View};
use crate::ftrl;
use crate::isa::Isa;
use crate::rows::{self, Layout};

/// `|z|`: 6 bits of exponent, 13 of fraction. Units of `2^-33` near zero, `2^-13` of the number far
/// from it, up to `2^44`.
const Z: Scale = Scale { least: exp2(-20), fraction_bits: 13, code_max: (1 << Z_BITS) - 1 };

/// `n`: 6 bits of exponent, 6 of fraction. Units of `2^-30` near zero, `2^-6` of the number far
/// from it, up to `1.7 · 2^39`. Codes above the largest would make an f32's exponent all ones, as
/// NaN has it.
const N: Scale = Scale { least: exp2(-24), fraction_bits: 6, code_max: 0xFEF };

/// Bits of a word that `|z|` has; `n` lies above them, the sign of `z` on top.
const Z_BITS: u32 = 19;
const N_BITS: u32 = 12;
const SIGN: u32 = 1 << 31;

/// Bits of a fraction of an f32.
const F32_FRACTION_BITS: u32 = 23;

/// The parameters of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// FTRL's own.
    pub ftrl: ftrl::Step,
    /// Decides all roundings of this call; another push should have another one.
    pub seed: u64,
}

/// What a word stands for: `[z, n]`, both finite, `n >= 0`. The word of all zeros stands for zeros.
///
/// - `word`: its 32 bits are looked at, whatever they are as an f32.
#[inline(always)]
#[must_use]
pub fn unpack(word: f32) -> [f32; 2] {
    let bits = word.to_bits();
    let size = Z.number(bits & ((1 << Z_BITS) - 1));
    let z = f32::from_bits(size.to_bits() | bits & SIGN);
    [z, N.number(bits >> Z_BITS & ((1 << N_BITS) - 1))]
}

/// Applies the merged gradients of some examples to one row, in place: FTRL's step
/// ([`ftrl::apply`]) on what the words stand for, with `n'` rounded before `z` is stepped, so that
/// a weight moves by its gradient alone and not by the rounding of its rate.
///
/// - `words`: `[dim]`, the row. `grad`, `grad_squared`: `[dim]`, gradients and their squares,
///   summed.
/// - Result: for any input the same bits on every `isa`. `n'` rounds `n + grad_squared` and `z'`
///   rounds its step right on average over seeds; what is beyond a scale becomes its largest
///   number. A sum of squares that would make `n` fall, and a step of `z` that is NaN, are not
///   made.
/// - Panics: if the lengths differ.
/// - Source: McMahan et al., KDD 2013: algorithm 1, and section 4.2 for rounding by chance.
pub fn apply(isa: Isa, words: &mut [f32], grad: &[f32], grad_squared: &[f32], step: &Step) {
    columns::apply(isa, [words], [grad, grad_squared], step.drawn());
}

/// Applies merged gradients to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[word[dim]]` at `r * stride`.
/// - `at`: `[count]` distinct row numbers.
/// - `deltas`: `[count, 2 * dim]`, a row `[grad[dim] | grad_squared[dim]]` for each.
/// - Result: as [`apply`] on each row, whatever its place. Where `dim` is 1, a row named twice may
///   lose a delta.
/// - Panics: if `deltas` has another length, or a row is out of bounds.
pub fn apply_rows(
    isa: Isa,
    rows: &mut [f32],
    stride: usize,
    dim: usize,
    at: &[u32],
    deltas: &[f32],
    step: &Step,
) {
    rows::apply(isa, rows, Layout { stride, dim }, at, deltas, step.drawn());
}

/// Reads each named row as [`ftrl::read_rows`] reads what its words stand for.
///
/// - `rows`: as in [`apply_rows`]. `at`: `[count]` row numbers; [`rows::MISSING`] reads as zeros.
/// - `values`: `[count, 2 * dim]`, a row `[weight[dim] | rate[dim]]` for each key.
/// - Panics: if `values` has another length, or a row is out of bounds.
pub fn read_rows(
    isa: Isa,
    rows: &[f32],
    stride: usize,
    dim: usize,
    at: &[u32],
    values: &mut [f32],
    step: &ftrl::Step,
) {
    rows::read(isa, rows, Layout { stride, dim }, at, values, Unpacked(*step));
}

impl Step {
    #[inline(always)]
    pub(crate) fn drawn(&self) -> Drawn {
        Drawn { ftrl: self.ftrl, chance: Stochastic::new(self.seed) }
    }
}

/// A step whose chance is known.
#[derive(Clone, Copy)]
pub(crate) struct Drawn {
    ftrl: ftrl::Step,
    chance: Stochastic,
}

impl Rule<1, 2> for Drawn {
    #[inline(always)]
    fn step(self, [word]: [f32; 1], [grad, grad_squared]: [f32; 2]) -> [f32; 1] {
        let [z, n] = unpack(word);
        // Of the coordinate alone, so that its place in a message or in memory changes nothing.
        let draw = self.chance.draw(word.to_bits() ^ grad.to_bits().rotate_left(16));
        let sum = n + grad_squared;
        let n_code = N.code(if sum > n { sum } else { n }, draw >> (32 - N.dropped_bits()));
        let weight = ftrl::weight(z, n, &self.ftrl);
        let stepped = self.ftrl.step_z(weight, z, [n, N.number(n_code)], grad);
        let z_after = if stepped.is_nan() { z } else { stepped };
        let z_code = Z.code(z_after.abs(), draw & ((1 << Z.dropped_bits()) - 1));
        let sign = if z_code > 0 { z_after.to_bits() & SIGN } else { 0 };
        [f32::from_bits(sign | n_code << Z_BITS | z_code)]
    }
}

/// FTRL's view of what a word stands for.
#[derive(Clone, Copy)]
struct Unpacked(ftrl::Step);

impl View<1, 2> for Unpacked {
    #[inline(always)]
    fn read(self, [word]: [f32; 1]) -> [f32; 2] {
        self.0.read(unpack(word))
    }
}

/// Small floats without sign: the number `x` has the leading bits of `x + least`, counted from
/// those of `least`. So zero is code 0, units are equal up to `least` and grow with the number
/// beyond it, and neither is a case of its own.
#[derive(Clone, Copy)]
struct Scale {
    /// A power of two, where numbers begin to have units of their own size.
    least: f32,
    /// Bits of a code that are fraction. Those above are exponent.
    fraction_bits: u32,
    /// The code of the largest number.
    code_max: u32,
}

impl Scale {
    /// Bits of an f32 that a code has not.
    const fn dropped_bits(self) -> u32 {
        F32_FRACTION_BITS - self.fraction_bits
    }

    /// What a code stands for: exact up to the 24 bits of an f32.
    #[inline(always)]
    const fn number(self, code: u32) -> f32 {
        f32::from_bits((code << self.dropped_bits()) + self.least.to_bits()) - self.least
    }

    /// The code of a number that is not below zero, rounded up if the bits that it drops and
    /// `draw` make one together. Infinity and NaN have the code of the largest number.
    ///
    /// - `draw`: below `2^dropped_bits`, by chance.
    #[inline(always)]
    fn code(self, number: f32, draw: u32) -> u32 {
        let most = self.number(self.code_max);
        let number = if number < most { number } else { most };
        let bits = (number + self.least).to_bits() - self.least.to_bits();
        (bits + draw) >> self.dropped_bits()
    }
}

/// Two to the power of an exponent of a normal number.
const fn exp2(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << F32_FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;
    use crate::oracle::{LENGTHS, bits, floats, shapes, shuffled, step_rows, view_rows};
    use crate::rows::MISSING;
    use proptest::prelude::*;

    const FTRL: ftrl::Step = ftrl::Step { alpha: 0.1, beta: 1.0, l1: 0.5, l2: 0.1 };

    fn step_of(seed: u64) -> Step {
        Step { ftrl: FTRL, seed }
    }

    fn word_of(z: f32, n: f32) -> f32 {
        let size = Z.code(z.abs(), 1 << (Z.dropped_bits() - 1));
        let n = N.code(n, 1 << (N.dropped_bits() - 1));
        f32::from_bits(z.to_bits() & SIGN | n << Z_BITS | size)
    }

    /// Words of numbers of many sizes, as steps store them.
    fn words(seed: u64, len: usize) -> Vec<f32> {
        let n = floats(!seed, len);
        floats(seed, len).into_iter().zip(n).map(|(z, n)| word_of(z, n.abs())).collect()
    }

    fn deltas_of(seed: u64, count: usize, dim: usize) -> Vec<f32> {
        let row = |index: usize| {
            let grad = floats(seed ^ index as u64, dim);
            let squared = grad.iter().map(|g| g * g * 0.5).collect();
            [grad, squared].concat()
        };
        (0..count).flat_map(row).collect()
    }

    /// `[z, n]` after one push.
    fn pushed(word: f32, delta: [f32; 2], seed: u64) -> [f32; 2] {
        let [word] = step_of(seed).drawn().step([word], delta);
        unpack(word)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let (before, delta) = (words(seed, len), deltas_of(!seed, 1, len));
                let (grad, grad_squared) = delta.split_at(len);
                let mut expected = before.clone();
                step_rows(&mut expected, (len, len), &[0], &delta, step_of(seed).drawn());
                for isa in Isa::available() {
                    let mut words = before.clone();
                    apply(isa, &mut words, grad, grad_squared, &step_of(seed));
                    prop_assert_eq!(bits(&words), bits(&expected));
                }
            }
        }

        #[test]
        fn rows_are_stepped_and_read_as_one_row_is(seed: u64, spare in 0_usize..3) {
            for (dim, count) in shapes() {
                let stride = dim + spare;
                let (before, mut at) = (words(seed, 100 * stride), shuffled(seed, 100, count));
                let deltas = deltas_of(!seed, count, dim);
                let mut expected = before.clone();
                step_rows(&mut expected, (stride, dim), &at, &deltas, step_of(seed).drawn());
                let mut rows = before.clone();
                for isa in Isa::available() {
                    rows.copy_from_slice(&before);
                    apply_rows(isa, &mut rows, stride, dim, &at, &deltas, &step_of(seed));
                    prop_assert_eq!(bits(&rows), bits(&expected));
                }
                at.push(MISSING);
                let expected = view_rows(&rows, (stride, dim), &at, Unpacked(FTRL));
                for isa in Isa::available() {
                    let mut values = vec![f32::NAN; expected.len()];
                    read_rows(isa, &rows, stride, dim, &at, &mut values, &FTRL);
                    prop_assert_eq!(bits(&values), bits(&expected));
                }
            }
        }

        #[test]
        fn any_bits_pushed_by_any_bits_give_a_finite_word_on_every_level(
            words in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..70),
            seed: u64,
        ) {
            let [mut row, mut grad, mut squared] = [vec![], vec![], vec![]];
            for (word, g, s) in words {
                row.push(f32::from_bits(word));
                grad.push(f32::from_bits(g));
                squared.push(f32::from_bits(s));
            }
            for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0] {
                row.extend([0.0, special, word_of(1.0, 1.0)]);
                grad.extend([special; 3]);
                squared.extend([special; 3]);
            }
            let mut expected: Option<Vec<u32>> = None;
            for isa in Isa::available() {
                let mut after = row.clone();
                apply(isa, &mut after, &grad, &squared, &step_of(seed));
                prop_assert!(after.iter().all(|word| word.is_finite()));
                let read = after.iter().map(|&word| unpack(word));
                prop_assert!(read.clone().all(|[z, n]| z.is_finite() && n.is_finite()));
                let expected = expected.get_or_insert_with(|| bits(&after));
                prop_assert_eq!(&bits(&after), &*expected);
            }
        }

        #[test]
        fn a_step_is_the_full_rules_within_the_units_of_both_scales(
            z in -9_f32..9.0, n in 0_f32..9.0, grad in -3_f32..3.0, seed: u64,
        ) {
            let word = word_of(z, n);
            let [z, n] = unpack(word);
            let [z_after, n_after] = pushed(word, [grad, grad * grad], seed);
            let share = |scale: Scale| exp2(-(scale.fraction_bits as i32));
            let unit = |x: f32, scale: Scale| (x + scale.least) * share(scale);
            prop_assert!((n_after - (n + grad * grad)).abs() <= unit(n_after, N));
            let exact = FTRL.step_z(ftrl::weight(z, n, &FTRL), z, [n, n_after], grad);
            prop_assert!((z_after - exact).abs() <= unit(exact.abs().max(z_after.abs()), Z));
        }

        #[test]
        fn a_weight_moves_by_its_gradient_however_its_rate_was_rounded(
            z in 1_f32..90.0, n in 0_f32..900.0, grad in -0.4_f32..0.4, seed: u64,
        ) {
            let step = ftrl::Step { l1: 0.0, l2: 0.0, ..FTRL };
            let word = word_of(z, n);
            let [z, n] = unpack(word);
            let drawn = Step { ftrl: step, seed }.drawn();
            let [z_after, n_after] = unpack(drawn.step([word], [grad, 3.0])[0]);
            let rate = step.alpha / (step.beta + n_after.sqrt());
            let moved = ftrl::weight(z, n, &step) - grad * rate;
            let unit = z_after.abs() * exp2(-13) * rate;
            prop_assert!((ftrl::weight(z_after, n_after, &step) - moved).abs() <= 1.1 * unit);
        }
    }

    #[test]
    fn each_code_reads_back_as_itself_and_codes_ascend() {
        for scale in [Z, N] {
            let mut before = -1.0;
            for code in 0..=scale.code_max {
                let number = scale.number(code);
                assert!(number > before, "{code}");
                for draw in [0, (1 << scale.dropped_bits()) - 1] {
                    assert_eq!(scale.code(number, draw), code);
                }
                before = number;
            }
            assert_eq!(scale.number(0), 0.0);
        }
    }

    #[test]
    fn a_push_of_zeros_changes_no_bit() {
        for draw in 0..100_000_u64 {
            let bits = mix(draw) as u32;
            // A zero has no sign, and the highest codes of `n` are not stored.
            let word = match bits >> Z_BITS & 0xFF0 {
                0xFF0 => 0,
                _ if bits << (32 - Z_BITS) == 0 => bits & !SIGN,
                _ => bits,
            };
            let [after] = step_of(draw).drawn().step([f32::from_bits(word)], [0.0, 0.0]);
            assert_eq!(after.to_bits(), word);
        }
    }

    #[test]
    fn rounding_is_right_on_average() {
        const DRAWS: u64 = 1 << 16;
        for (z, n, grad, squared) in [
            (0.0, 0.0, 1e-11, 1e-10),
            (0.0, 0.0, 0.3, 0.09),
            (1.0, 100.0, 1e-5, 0.01),
            (-70.0, 3000.0, 0.7, 1.9),
            (900.0, 1e8, -3e-3, 1.0),
        ] {
            let word = word_of(z, n);
            let [z, n] = unpack(word);
            let (mut z_sum, mut n_sum) = (0.0, 0.0);
            for seed in 0..DRAWS {
                // Apart, so that `z` steps by what was pushed and by no rate.
                z_sum += f64::from(pushed(word, [grad, 0.0], seed)[0]);
                n_sum += f64::from(pushed(word, [grad, squared], seed)[1]);
            }
            let check = |sum: f64, before: f32, delta: f32, scale: Scale| {
                let exact = f64::from(before) + f64::from(delta);
                let unit = f64::from(before.abs() + delta.abs() + scale.least)
                    * (-f64::from(scale.fraction_bits)).exp2();
                // Of a unit's share, five standard deviations of the mean; and an f32's rounding.
                let share = (f64::from(delta.abs()) / unit).min(0.25);
                let bound = 5.0 * unit * (share / DRAWS as f64).sqrt() + exact.abs() * 1e-7;
                let error = sum / DRAWS as f64 - exact;
                assert!(error.abs() <= bound, "{before} + {delta}: {error:e} beyond {bound:e}");
            };
            check(z_sum, z, grad, Z);
            check(n_sum, n, squared, N);
        }
    }

    #[test]
    fn many_equal_steps_below_the_unit_add_up() {
        const STEPS: u64 = 20_000;
        let mut sum = 0.0;
        for chain in 0..16_u64 {
            let mut word = word_of(0.0, 1000.0);
            for step in 0..STEPS {
                let seed = chain << 32 | step;
                [word] = step_of(seed).drawn().step([word], [0.25, 0.0625]);
            }
            sum += unpack(word)[1] / 16.0;
        }
        // A unit is 8 and more, a step 1 / 16: to the nearest, nothing would ever be added.
        assert!((sum / 2250.0 - 1.0).abs() < 0.06, "{sum}");
    }

    #[test]
    fn numbers_beyond_the_scales_become_the_largest_ones_and_stay() {
        let largest = [Z.number(Z.code_max), N.number(N.code_max)];
        for seed in 0..100 {
            let [word] = step_of(seed).drawn().step([0.0], [f32::MAX, f32::INFINITY]);
            assert_eq!(unpack(word), largest);
            assert_eq!(unpack(step_of(seed).drawn().step([word], [1.0, 1.0])[0])[1], largest[1]);
        }
        assert!(largest[0] > 1.7e13 && largest[1] > 9e11, "{largest:?}");
    }

    #[test]
    fn a_row_that_is_missing_or_all_zeros_has_weight_0_and_the_first_rate() {
        let mut values = [f32::NAN; 4];
        read_rows(Isa::detect(), &[0.0], 1, 1, &[MISSING, 0], &mut values, &FTRL);
        assert_eq!(values, [0.0, 0.1, 0.0, 0.1]);
    }
}

//! RMSProp: each coordinate's rate falls with a decayed mean of its squared gradients.
//!
//! Owns the arithmetic of one coordinate. The walk is left to `columns` and `rows`. The mean is
//! not corrected for its start at 0: a row's first step is `1 / √(1 - decay)` rates long.
//!
//! Invariant: `mean_square` is never negative.

use crate::columns::{self, Rule};
use crate::isa::Isa;
use crate::rows::{self, Layout};

/// The parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate, unitless.
    pub rate: f32,
    /// Decay of the mean of squared gradients, in `[0, 1)`.
    pub decay: f32,
    /// Added to the root, so that no step divides by zero. Above 0.
    pub epsilon: f32,
}

/// Applies one RMSProp step to one row, in place:
/// `mean_square = decay·mean_square + (1-decay)·grad²`, then
/// `row -= rate · grad / (√mean_square + epsilon)`.
///
/// - `row`, `mean_square`, `grad`: `[dim]` f32, unitless. All three the same length.
/// - Result: for finite input, the same bits on every `isa`: product and sum are never fused.
/// - Panics: if the lengths differ.
/// - Source: Tieleman, Hinton, Neural Networks for Machine Learning (2012), lecture 6.5, which
///   has no epsilon.
pub fn apply(isa: Isa, row: &mut [f32], mean_square: &mut [f32], grad: &[f32], step: &Step) {
    columns::apply(isa, [row, mean_square], [grad], *step);
}

/// Applies one RMSProp step to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[weight[dim] | mean_square[dim]]` at `r * stride`.
/// - `at`: `[count]` distinct row numbers. `deltas`: `[count, dim]`, row after row.
/// - Result: as [`apply`] on each row. Where `dim` is 1, a row named twice may lose a delta.
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
    rows::apply(isa, rows, Layout { stride, dim }, at, deltas, *step);
}

impl Rule<2, 1> for Step {
    #[inline(always)]
    fn step(self, [weight, mean_square]: [f32; 2], [grad]: [f32; 1]) -> [f32; 2] {
        let mean_square = self.decay * mean_square + (1.0 - self.decay) * (grad * grad);
        [weight - self.rate * grad / (mean_square.sqrt() + self.epsilon), mean_square]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, positives, shapes, shuffled, step_rows};
    use proptest::prelude::*;

    const STEP: Step = Step { rate: 0.01, decay: 0.99, epsilon: 1e-8 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let state = [floats(seed, len), positives(seed ^ 1, len)].concat();
                let grad = floats(!seed, len);
                let mut expected = state.clone();
                step_rows(&mut expected, (2 * len, len), &[0], &grad, STEP);
                for isa in Isa::available() {
                    let mut state = state.clone();
                    let (row, mean_square) = state.split_at_mut(len);
                    apply(isa, row, mean_square, &grad, &STEP);
                    prop_assert_eq!(bits(&state), bits(&expected));
                }
            }
        }

        #[test]
        fn rows_are_stepped_as_one_row_is(seed: u64, spare in 0_usize..3) {
            for (dim, count) in shapes() {
                let stride = 2 * dim + spare;
                let (before, at) = (positives(seed, 100 * stride), shuffled(seed, 100, count));
                let deltas = floats(!seed, at.len() * dim);
                let mut expected = before.clone();
                step_rows(&mut expected, (stride, dim), &at, &deltas, STEP);
                for isa in Isa::available() {
                    let mut rows = before.clone();
                    apply_rows(isa, &mut rows, stride, dim, &at, &deltas, &STEP);
                    prop_assert_eq!(bits(&rows), bits(&expected));
                }
            }
        }
    }

    #[test]
    fn ten_steps_are_the_lectures_within_rounding() {
        let (mut row, mut mean_square, grads) = ([0.0_f32], [0.0], floats(5, 10));
        let [mut weight, mut mean] = [0.0_f64; 2];
        let [rate, decay, epsilon] = [STEP.rate, STEP.decay, STEP.epsilon].map(f64::from);
        for &grad in &grads {
            apply(Isa::detect(), &mut row, &mut mean_square, &[grad], &STEP);
            let grad = f64::from(grad);
            mean = decay * mean + (1.0 - decay) * grad * grad;
            weight -= rate * grad / (mean.sqrt() + epsilon);
            assert!((f64::from(row[0]) - weight).abs() < 1e-5, "{} against {weight}", row[0]);
        }
    }

    #[test]
    fn under_a_constant_gradient_steps_become_the_rate_whatever_the_gradient() {
        let (mut row, mut mean_square) = ([0.0_f32; 2], [0.0; 2]);
        let mut before = row;
        for _ in 0..2000 {
            before = row;
            apply(Isa::detect(), &mut row, &mut mean_square, &[1e-3, -1e3], &STEP);
        }
        assert!((before[0] - row[0] - 0.01).abs() < 1e-5, "{before:?} to {row:?}");
        assert!((row[1] - before[1] - 0.01).abs() < 1e-5, "{before:?} to {row:?}");
    }
}

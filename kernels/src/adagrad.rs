//! AdaGrad: each coordinate's rate falls with the squares of the gradients that it has seen.
//!
//! Owns the arithmetic of one coordinate. The walk is left to `columns` and `rows`.
//!
//! Invariant: `accum` never falls.

use crate::columns::{self, Rule};
use crate::isa::Isa;
use crate::rows::{self, Layout};

/// The parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate, unitless.
    pub rate: f32,
    /// Added to the root, so that the first step divides by no zero. Above 0.
    pub epsilon: f32,
}

/// Applies one AdaGrad step to one row, in place:
/// `accum += grad²`, then `row -= rate · grad / (√accum + epsilon)`.
///
/// - `row`, `accum`, `grad`: `[dim]` f32, unitless. All three the same length.
/// - Result: for finite input, the same bits on every `isa`: product and sum are never fused.
/// - Panics: if the lengths differ.
/// - Source: Duchi, Hazan, Singer, JMLR 12 (2011), diagonal form.
pub fn apply(isa: Isa, row: &mut [f32], accum: &mut [f32], grad: &[f32], step: &Step) {
    columns::apply(isa, [row, accum], [grad], *step);
}

/// Applies one AdaGrad step to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[weight[dim] | accum[dim]]` at `r * stride`.
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
    fn step(self, [weight, accum]: [f32; 2], [grad]: [f32; 1]) -> [f32; 2] {
        let accum = accum + grad * grad;
        [weight - self.rate * grad / (accum.sqrt() + self.epsilon), accum]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, positives, shapes, shuffled, step_rows};
    use proptest::prelude::*;

    const STEP: Step = Step { rate: 0.1, epsilon: 1e-8 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let (row, accum, grad) =
                    (floats(seed, len), positives(seed ^ 1, len), floats(!seed, len));
                let mut expected = [row.clone(), accum.clone()].concat();
                step_rows(&mut expected, (2 * len, len), &[0], &grad, STEP);
                for isa in Isa::available() {
                    let (mut row, mut accum) = (row.clone(), accum.clone());
                    apply(isa, &mut row, &mut accum, &grad, &STEP);
                    prop_assert_eq!(bits(&[row, accum].concat()), bits(&expected));
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
                let mut rows = before.clone();
                for isa in Isa::available() {
                    rows.copy_from_slice(&before);
                    apply_rows(isa, &mut rows, stride, dim, &at, &deltas, &STEP);
                    prop_assert_eq!(bits(&rows), bits(&expected));
                }
            }
        }
    }

    #[test]
    fn the_first_step_moves_by_the_rate_whatever_the_gradient() {
        let (mut row, mut accum) = ([0.0; 2], [0.0; 2]);
        apply(Isa::detect(), &mut row, &mut accum, &[1e-3, -1e3], &STEP);
        assert!((row[0] + 0.1).abs() < 1e-5, "{row:?}");
        assert!((row[1] - 0.1).abs() < 1e-5, "{row:?}");
    }
}

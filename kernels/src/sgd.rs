//! Stochastic gradient descent: the row is the weights, nothing else is kept.
//!
//! Owns the arithmetic of one coordinate. The walk is left to `columns` and `rows`.
//!
//! Invariant: one product and one difference a push, never fused.

use crate::columns::{self, Lone, Rule};
use crate::isa::Isa;
use crate::rows::{self, Layout};

/// The parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate, unitless.
    pub rate: f32,
}

/// Applies one gradient to one row, in place: `row -= rate · grad`.
///
/// - `row`, `grad`: `[dim]` f32, unitless, the same length.
/// - Result: for finite input, the same bits on every `isa`.
/// - Panics: if the lengths differ.
/// - Source: Robbins, Monro, Ann. Math. Statist. 22 (1951).
pub fn apply(isa: Isa, row: &mut [f32], grad: &[f32], step: &Step) {
    columns::apply(isa, [row], [grad], *step);
}

/// Applies one gradient to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[weight[dim]]` at `r * stride`.
/// - `at`: `[count]` distinct row numbers. `deltas`: `[count, dim]`, row after row.
/// - Result: as [`apply`] on each row.
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

impl Rule<1, 1> for Step {
    const LONE: Lone = Lone::Rows;

    #[inline(always)]
    fn step(self, [weight]: [f32; 1], [grad]: [f32; 1]) -> [f32; 1] {
        [weight - self.rate * grad]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, shapes, shuffled, step_rows};
    use proptest::prelude::*;

    const STEP: Step = Step { rate: 0.03 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let (before, grad) = (floats(seed, len), floats(!seed, len));
                let mut expected = before.clone();
                step_rows(&mut expected, (len, len), &[0], &grad, STEP);
                for isa in Isa::available() {
                    let mut row = before.clone();
                    apply(isa, &mut row, &grad, &STEP);
                    prop_assert_eq!(bits(&row), bits(&expected));
                }
            }
        }

        #[test]
        fn rows_are_stepped_as_one_row_is(seed: u64, spare in 0_usize..3) {
            for (dim, count) in shapes() {
                let stride = dim + spare;
                let (before, at) = (floats(seed, 100 * stride), shuffled(seed, 100, count));
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
    fn a_step_goes_against_the_gradient() {
        let mut row = [1.0, -1.0];
        apply(Isa::detect(), &mut row, &[2.0, -4.0], &Step { rate: 0.25 });
        assert_eq!(row, [0.5, 0.0]);
    }
}

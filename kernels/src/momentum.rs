//! Momentum: steps along a velocity, which remembers the gradients before.
//!
//! Owns the arithmetic of one coordinate. The walk is left to `columns` and `rows`. A row's
//! velocity fades by the row's own pushes: one that is pushed seldom keeps it until its next push.
//!
//! Invariant: under constant gradients a step is at most `1 / (1 - momentum)` times SGD's.

use crate::columns::{self, Lone, Rule};
use crate::isa::Isa;
use crate::rows::{self, Layout};

/// The parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate, unitless.
    pub rate: f32,
    /// Share of the velocity that the next step keeps, in `[0, 1)`.
    pub momentum: f32,
}

/// Applies one step with momentum to one row, in place:
/// `velocity = momentum·velocity + grad`, then `row -= rate · velocity`.
///
/// - `row`, `velocity`, `grad`: `[dim]` f32, unitless. All three the same length.
/// - Result: for finite input, the same bits on every `isa`: product and sum are never fused.
/// - Panics: if the lengths differ.
/// - Source: Polyak, USSR Comput. Math. Math. Phys. 4 (1964), with the rate outside the velocity.
pub fn apply(isa: Isa, row: &mut [f32], velocity: &mut [f32], grad: &[f32], step: &Step) {
    columns::apply(isa, [row, velocity], [grad], *step);
}

/// Applies one step with momentum to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[weight[dim] | velocity[dim]]` at `r * stride`.
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
    const LONE: Lone = Lone::Rows;

    #[inline(always)]
    fn step(self, [weight, velocity]: [f32; 2], [grad]: [f32; 1]) -> [f32; 2] {
        let velocity = self.momentum * velocity + grad;
        [weight - self.rate * velocity, velocity]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, shapes, shuffled, step_rows};
    use crate::sgd;
    use proptest::prelude::*;

    const STEP: Step = Step { rate: 0.03, momentum: 0.9 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let (state, grad) = (floats(seed, 2 * len), floats(!seed, len));
                let mut expected = state.clone();
                step_rows(&mut expected, (2 * len, len), &[0], &grad, STEP);
                for isa in Isa::available() {
                    let mut state = state.clone();
                    let (row, velocity) = state.split_at_mut(len);
                    apply(isa, row, velocity, &grad, &STEP);
                    prop_assert_eq!(bits(&state), bits(&expected));
                }
            }
        }

        #[test]
        fn rows_are_stepped_as_one_row_is(seed: u64, spare in 0_usize..3) {
            for (dim, count) in shapes() {
                let stride = 2 * dim + spare;
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

        #[test]
        fn without_momentum_it_is_sgd_but_for_the_sign_of_zero(seed: u64) {
            let (mut row, grad) = (floats(seed, 40), floats(!seed, 40));
            let (mut plain, mut velocity) = (row.clone(), vec![0.0; 40]);
            let step = Step { momentum: 0.0, ..STEP };
            apply(Isa::detect(), &mut row, &mut velocity, &grad, &step);
            sgd::apply(Isa::detect(), &mut plain, &grad, &sgd::Step { rate: STEP.rate });
            prop_assert_eq!(row, plain);
        }
    }

    #[test]
    fn a_row_goes_on_along_its_velocity_without_a_gradient() {
        let (mut row, mut velocity) = ([1.0], [0.0]);
        let step = Step { rate: 0.25, momentum: 0.5 };
        for (grad, expected) in [(2.0, 0.5), (0.0, 0.25), (0.0, 0.125)] {
            apply(Isa::detect(), &mut row, &mut velocity, &[grad], &step);
            assert_eq!(row, [expected]);
        }
    }
}

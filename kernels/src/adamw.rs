//! AdamW: Adam, and besides it every step takes a share of the weight away.
//!
//! Owns that share. Adam's own step, the row and its walk are left to `adam`. A weight falls by
//! the row's own pushes: a row that nobody pushes keeps its weights.
//!
//! Invariant: the decay never enters `m` or `v`, which are Adam's bit by bit.

use crate::adam::{self, Advance, Corrected, POWERS};
use crate::columns::{self, Rule};
use crate::isa::Isa;

pub use crate::adam::row_width;

/// The parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Adam's own.
    pub adam: adam::Step,
    /// Share of the weight that a step at rate 1 would take away. Times the rate, below 1.
    pub weight_decay: f32,
}

/// Applies one AdamW step to one row, in place: `row -= rate · weight_decay · row`, then the step
/// of [`adam::apply`].
///
/// - `row`, `m`, `v`, `grad`: `[dim]` f32, unitless, the same length.
/// - `powers`: `[beta1^t, beta2^t]` after the steps so far; 0 stands for no step yet.
/// - Result: for finite input, the same bits on every `isa`: product and sum are never fused.
///   Without weight decay the bits are Adam's.
/// - Panics: if the lengths differ.
/// - Source: Loshchilov, Hutter, ICLR 2019, algorithm 2, whose schedule is the rate here: decay
///   and step are both scaled by it.
pub fn apply(
    isa: Isa,
    [row, m, v]: [&mut [f32]; 3],
    powers: &mut [f32; POWERS],
    grad: &[f32],
    step: &Step,
) {
    let decayed = step.advance(powers);
    columns::apply(isa, [row, m, v], [grad], decayed);
}

/// Applies one AdamW step to each named row, in place.
///
/// - `rows`: an arena of Adam's rows, `[weight[dim] | m[dim] | v[dim] | beta1^t | beta2^t]` at
///   `r * stride`: [`row_width`] numbers, all 0 in a new row.
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
    adam::advance_rows(isa, rows, stride, dim, at, deltas, *step);
}

impl Advance for Step {
    type Rule = Decayed;

    #[inline(always)]
    fn advance(&self, powers: &mut [f32; POWERS]) -> Decayed {
        let kept = 1.0 - self.adam.rate * self.weight_decay;
        Decayed { kept, adam: self.adam.advance(powers) }
    }
}

/// Adam's step with one row's correction worked in, and what it leaves of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Decayed {
    /// `1 - rate · weight_decay`.
    kept: f32,
    adam: Corrected,
}

impl Rule<3, 1> for Decayed {
    #[inline(always)]
    fn step(self, [weight, m, v]: [f32; 3], grad: [f32; 1]) -> [f32; 3] {
        self.adam.step([self.kept * weight, m, v], grad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, positives, shapes, shuffled, step_rows};
    use crate::rows;
    use proptest::prelude::*;

    const ADAM: adam::Step = adam::Step { rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    const STEP: Step = Step { adam: ADAM, weight_decay: 0.1 };

    /// An arena of rows, every second of which was stepped twice.
    fn arena(seed: u64, stride: usize, dim: usize) -> Vec<f32> {
        let mut rows = positives(seed, 100 * stride);
        for (index, row) in rows.chunks_mut(stride).enumerate() {
            let stepped = (index % 2) as f32;
            row[3 * dim..][..POWERS].copy_from_slice(&[0.81 * stepped, 0.998_001 * stepped]);
        }
        rows
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let state = [floats(seed, 2 * len), positives(seed ^ 1, len)].concat();
                let (powers, grad) = ([0.81, 0.998_001], floats(!seed, len));
                let mut expected = state.clone();
                let decayed = STEP.advance(&mut powers.clone());
                step_rows(&mut expected, (3 * len, len), &[0], &grad, decayed);
                for isa in Isa::available() {
                    let (mut state, mut powers) = (state.clone(), powers);
                    apply(isa, rows::split_mut(&mut state, len), &mut powers, &grad, &STEP);
                    prop_assert_eq!(bits(&state), bits(&expected));
                }
            }
        }

        #[test]
        fn rows_are_stepped_as_one_row_is(seed: u64, spare in 0_usize..3) {
            for (dim, count) in shapes() {
                let stride = row_width(dim) + spare;
                let (before, at) = (arena(seed, stride, dim), shuffled(seed, 100, count));
                let grad = floats(!seed, at.len() * dim);
                let mut expected = before.clone();
                for (&row, grad) in at.iter().zip(grad.chunks(dim)) {
                    let row = &mut expected[row as usize * stride..][..row_width(dim)];
                    let (state, powers) = row.split_at_mut(3 * dim);
                    let decayed = STEP.advance(&mut powers.as_chunks_mut().0[0]);
                    step_rows(state, (3 * dim, dim), &[0], grad, decayed);
                }
                for isa in Isa::available() {
                    let mut rows = before.clone();
                    apply_rows(isa, &mut rows, stride, dim, &at, &grad, &STEP);
                    prop_assert_eq!(bits(&rows), bits(&expected));
                }
            }
        }

        #[test]
        fn without_weight_decay_it_is_adam(seed: u64) {
            let (width, at) = (row_width(9), shuffled(seed, 100, 50));
            let (mut rows, grad) = (arena(seed, width, 9), floats(!seed, 50 * 9));
            let mut plain = rows.clone();
            let step = Step { weight_decay: 0.0, ..STEP };
            apply_rows(Isa::detect(), &mut rows, width, 9, &at, &grad, &step);
            adam::apply_rows(Isa::detect(), &mut plain, width, 9, &at, &grad, &ADAM);
            prop_assert_eq!(bits(&rows), bits(&plain));
        }
    }

    #[test]
    fn ten_steps_are_the_papers_within_rounding() {
        let (mut rows, grads) = ([0.0; row_width(1)], floats(5, 10));
        rows[0] = 3.0;
        let [mut weight, mut m, mut v] = [3.0_f64, 0.0, 0.0];
        let [rate, beta1, beta2] = [ADAM.rate, ADAM.beta1, ADAM.beta2].map(f64::from);
        for (t, &grad) in (1..).zip(&grads) {
            apply_rows(Isa::detect(), &mut rows, row_width(1), 1, &[0], &[grad], &STEP);
            let grad = f64::from(grad);
            m = beta1 * m + (1.0 - beta1) * grad;
            v = beta2 * v + (1.0 - beta2) * grad * grad;
            let (m_hat, v_hat) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
            let step = m_hat / (v_hat.sqrt() + f64::from(ADAM.epsilon));
            weight -= rate * (step + f64::from(STEP.weight_decay) * weight);
            assert!((f64::from(rows[0]) - weight).abs() < 1e-5, "{} against {weight}", rows[0]);
        }
    }

    #[test]
    fn without_a_gradient_the_weight_falls_and_the_means_stay_zero() {
        let mut rows = [2.0, 0.0, 0.0, 0.0, 0.0];
        let step = Step { adam: adam::Step { rate: 0.5, ..ADAM }, weight_decay: 0.5 };
        apply_rows(Isa::detect(), &mut rows, row_width(1), 1, &[0], &[0.0], &step);
        assert_eq!(rows[..3], [1.5, 0.0, 0.0]);
    }
}

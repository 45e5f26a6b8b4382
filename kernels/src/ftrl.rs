//! FTRL-Proximal: follow the regularised leader, one rate a coordinate, exact zeros by `l1`.
//!
//! Owns the arithmetic of one coordinate. The walk is left to `columns` and `rows`; the sums of
//! gradients and of their squares are made by the worker, example by example.
//!
//! Invariant: `n` never falls, and the weight is never stored: it is derived from `z` and `n`.

use crate::columns::{self, Rule, View};
use crate::isa::Isa;
use crate::rows::{self, Layout};

/// The parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate, unitless. Above 0.
    pub alpha: f32,
    /// Smooths the rate of the first steps. Above 0, unless `l2` is.
    pub beta: f32,
    /// A coordinate whose `|z|` is at most this has the weight 0.
    pub l1: f32,
    /// Pulls weights towards 0.
    pub l2: f32,
}

/// The weight of one coordinate: 0 where `|z| <= l1`, else
/// `-(z - sign(z)·l1) / ((beta + √n) / alpha + l2)`.
///
/// - `z`, `n`: what the row keeps of the coordinate, `n >= 0`.
/// - Source: McMahan et al., Ad Click Prediction, KDD 2013, algorithm 1.
#[inline(always)]
#[must_use]
pub fn weight(z: f32, n: f32, step: &Step) -> f32 {
    let shrunk = z - step.l1.copysign(z);
    let weight = -shrunk / ((step.beta + n.sqrt()) * step.inverse_alpha() + step.l2);
    if z.abs() <= step.l1 { 0.0 } else { weight }
}

/// Applies the merged gradients of some examples to one row, in place:
/// `n' = n + grad²`, `sigma = (√n' - √n) / alpha`, `z += grad - sigma · weight(z, n)`, `n = n'`.
///
/// - `z`, `n`: `[dim]` f32, the row. `grad`: `[dim]`, the examples' gradients summed.
/// - `grad_squared`: `[dim]`, their squares summed (which is not the square of the sum).
/// - Result: for finite input, the same bits on every `isa`: product and sum are never fused.
/// - Panics: if the lengths differ.
/// - Source: McMahan et al., KDD 2013, algorithm 1.
pub fn apply(
    isa: Isa,
    z: &mut [f32],
    n: &mut [f32],
    grad: &[f32],
    grad_squared: &[f32],
    step: &Step,
) {
    columns::apply(isa, [z, n], [grad, grad_squared], *step);
}

/// Applies merged gradients to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[z[dim] | n[dim]]` at `r * stride`.
/// - `at`: `[count]` distinct row numbers.
/// - `deltas`: `[count, 2 * dim]`, a row `[grad[dim] | grad_squared[dim]]` for each.
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

/// Reads each named row as its weights and the rate that each coordinate would step by now,
/// `alpha / (beta + √n)`.
///
/// - `rows`: as in [`apply_rows`]. `at`: `[count]` row numbers; [`rows::MISSING`] reads as zeros,
///   so its weight is 0 and its rate `alpha / beta`.
/// - `values`: `[count, 2 * dim]`, a row `[weight[dim] | rate[dim]]` for each key.
/// - Panics: if `values` has another length, or a row is out of bounds.
pub fn read_rows(
    isa: Isa,
    rows: &[f32],
    stride: usize,
    dim: usize,
    at: &[u32],
    values: &mut [f32],
    step: &Step,
) {
    rows::read(isa, rows, Layout { stride, dim }, at, values, *step);
}

impl Step {
    /// Divisions bind this kernel; one by `alpha` is the same for all coordinates of a call, which
    /// multiply by its result.
    #[inline(always)]
    fn inverse_alpha(&self) -> f32 {
        1.0 / self.alpha
    }

    /// The coordinate after one push, where `weight` is its weight before.
    #[inline(always)]
    pub(crate) fn step_from(
        self,
        weight: f32,
        [z, n]: [f32; 2],
        [grad, grad_squared]: [f32; 2],
    ) -> [f32; 2] {
        let n_after = n + grad_squared;
        [self.step_z(weight, z, [n, n_after], grad), n_after]
    }

    /// `z` after one push that takes `n` from the first of two numbers to the second.
    #[inline(always)]
    pub(crate) fn step_z(self, weight: f32, z: f32, [n, n_after]: [f32; 2], grad: f32) -> f32 {
        let sigma = (n_after.sqrt() - n.sqrt()) * self.inverse_alpha();
        z + (grad - sigma * weight)
    }

    /// The rate that a coordinate would step by now.
    #[inline(always)]
    pub(crate) fn rate(self, n: f32) -> f32 {
        self.alpha / (self.beta + n.sqrt())
    }
}

impl Rule<2, 2> for Step {
    #[inline(always)]
    fn step(self, [z, n]: [f32; 2], delta: [f32; 2]) -> [f32; 2] {
        self.step_from(weight(z, n, &self), [z, n], delta)
    }
}

impl View<2, 2> for Step {
    #[inline(always)]
    fn read(self, [z, n]: [f32; 2]) -> [f32; 2] {
        [weight(z, n, &self), self.rate(n)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, positives, shapes, shuffled, step_rows, view_rows};
    use crate::rows::MISSING;
    use proptest::prelude::*;

    const STEP: Step = Step { alpha: 0.1, beta: 1.0, l1: 0.5, l2: 0.1 };

    fn deltas_of(seed: u64, count: usize, dim: usize) -> Vec<f32> {
        let row = |index: usize| {
            let grad = floats(seed ^ index as u64, dim);
            let squared = grad.iter().map(|g| g * g * 0.5).collect();
            [grad, squared].concat()
        };
        (0..count).flat_map(row).collect()
    }

    /// Rows whose `n` is not negative.
    fn rows_of(seed: u64, stride: usize, dim: usize) -> Vec<f32> {
        let row = |index: u64| {
            let z = floats(seed ^ index, dim);
            [z, positives(seed ^ index, stride - dim)].concat()
        };
        (0..100).flat_map(row).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let (z, n, delta) =
                    (floats(seed, len), positives(seed ^ 1, len), deltas_of(!seed, 1, len));
                let (grad, grad_squared) = delta.split_at(len);
                let mut expected = [z.clone(), n.clone()].concat();
                step_rows(&mut expected, (2 * len, len), &[0], &delta, STEP);
                for isa in Isa::available() {
                    let (mut z, mut n) = (z.clone(), n.clone());
                    apply(isa, &mut z, &mut n, grad, grad_squared, &STEP);
                    prop_assert_eq!(bits(&[z, n].concat()), bits(&expected));
                }
            }
        }

        #[test]
        fn rows_are_stepped_and_read_as_one_row_is(seed: u64, spare in 0_usize..3) {
            for (dim, count) in shapes() {
                let stride = 2 * dim + spare;
                let (before, mut at) = (rows_of(seed, stride, dim), shuffled(seed, 100, count));
                let deltas = deltas_of(!seed, count, dim);
                let mut expected = before.clone();
                step_rows(&mut expected, (stride, dim), &at, &deltas, STEP);
                let mut rows = before.clone();
                for isa in Isa::available() {
                    rows.copy_from_slice(&before);
                    apply_rows(isa, &mut rows, stride, dim, &at, &deltas, &STEP);
                    prop_assert_eq!(bits(&rows), bits(&expected));
                }
                at.push(MISSING);
                let expected = view_rows(&rows, (stride, dim), &at, STEP);
                for isa in Isa::available() {
                    let mut values = vec![f32::NAN; expected.len()];
                    read_rows(isa, &rows, stride, dim, &at, &mut values, &STEP);
                    prop_assert_eq!(bits(&values), bits(&expected));
                }
            }
        }

        #[test]
        fn a_step_is_the_papers_within_rounding(
            z in -9_f32..9.0, n in 0_f32..9.0, grad in -3_f32..3.0, l1 in 0_f32..2.0,
        ) {
            let step = Step { l1, ..STEP };
            let [z_after, n_after] = step.step([z, n], [grad, grad * grad]);
            let [z, n, grad] = [z, n, grad].map(f64::from);
            let [alpha, beta, l1, l2] = [step.alpha, step.beta, l1, step.l2].map(f64::from);
            let denominator = (beta + n.sqrt()) / alpha + l2;
            let weight = if z.abs() <= l1 { 0.0 } else { (l1 * z.signum() - z) / denominator };
            let sigma = ((n + grad * grad).sqrt() - n.sqrt()) / alpha;
            prop_assert!((f64::from(z_after) - (z + grad - sigma * weight)).abs() < 1e-4);
            prop_assert!((f64::from(n_after) - (n + grad * grad)).abs() < 1e-4);
        }
    }

    #[test]
    fn a_row_that_is_missing_has_weight_0_and_the_first_rate() {
        let mut values = [f32::NAN; 2];
        read_rows(Isa::detect(), &[], 2, 1, &[MISSING], &mut values, &STEP);
        assert_eq!(values, [0.0, STEP.alpha / STEP.beta]);
    }

    #[test]
    fn a_small_z_has_weight_exactly_0_and_a_large_one_the_other_sign() {
        assert_eq!(weight(0.5, 4.0, &STEP), 0.0);
        assert!(weight(0.6, 4.0, &STEP) < 0.0);
        assert!(weight(-0.6, 4.0, &STEP) > 0.0);
    }
}

//! Adam: steps by a decayed mean of gradients over the root of a decayed mean of squares.
//!
//! Owns the arithmetic of one coordinate and the two powers that every row keeps for the
//! correction of bias; so a row that is pushed seldom is corrected by its own count of steps.
//! Owns the walk over such rows, too, for itself and for `adamw`.
//!
//! Invariant: a power is 0 only in a row that was never stepped; after that it is at least
//! `POWER_MIN`, because a power that underflowed to 0 would read as no step at all.

use crate::columns::{self, Rule};
use crate::isa::{Isa, Portable};
use crate::rows::{self, Layout};

/// Numbers that a row keeps besides its three columns: `beta1^t` and `beta2^t`.
pub const POWERS: usize = 2;

/// Least power of a row that was stepped: `2^-40`. One minus it is 1, as one minus any smaller
/// number is, and its product with a beta is no subnormal number, which some processors are slow
/// with.
const POWER_MIN: f32 = 1.0 / (1_u64 << 40) as f32;

/// The parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate, unitless.
    pub rate: f32,
    /// Decay of the mean of gradients, in `[0, 1)`.
    pub beta1: f32,
    /// Decay of the mean of squared gradients, in `[0, 1)`.
    pub beta2: f32,
    /// Added to the root. Above 0.
    pub epsilon: f32,
}

/// Numbers in a row of `dim` coordinates.
#[must_use]
pub const fn row_width(dim: usize) -> usize {
    3 * dim + POWERS
}

/// Applies one Adam step to one row, in place: `m = beta1·m + (1-beta1)·grad`,
/// `v = beta2·v + (1-beta2)·grad²`, both powers times their beta, then
/// `row -= rate/(1-beta1^t) · m / (√(v/(1-beta2^t)) + epsilon)`.
///
/// - `row`, `m`, `v`, `grad`: `[dim]` f32, unitless, the same length.
/// - `powers`: `[beta1^t, beta2^t]` after the steps so far; 0 stands for no step yet.
/// - Result: for finite input, the same bits on every `isa`: product and sum are never fused.
/// - Panics: if the lengths differ.
/// - Source: Kingma, Ba, ICLR 2015, algorithm 1.
pub fn apply(
    isa: Isa,
    [row, m, v]: [&mut [f32]; 3],
    powers: &mut [f32; POWERS],
    grad: &[f32],
    step: &Step,
) {
    let corrected = step.advance(powers);
    columns::apply(isa, [row, m, v], [grad], corrected);
}

/// Applies one Adam step to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[weight[dim] | m[dim] | v[dim] | beta1^t | beta2^t]` at
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
    advance_rows(isa, rows, stride, dim, at, deltas, *step);
}

/// A step that counts itself in a row's powers before it is a rule of one coordinate.
pub(crate) trait Advance: Copy {
    /// The step with one row's correction of bias worked in.
    type Rule: Rule<3, 1>;

    /// Counts one more step in `powers`, and corrects for the bias of as many steps.
    fn advance(&self, powers: &mut [f32; POWERS]) -> Self::Rule;
}

/// As [`apply_rows`], by any step on such rows.
pub(crate) fn advance_rows<A: Advance>(
    isa: Isa,
    rows: &mut [f32],
    stride: usize,
    dim: usize,
    at: &[u32],
    deltas: &[f32],
    step: A,
) {
    let layout = Layout { stride, dim };
    rows::check_layout(layout);
    assert_eq!(deltas.len(), at.len() * dim, "deltas against rows times width");
    isa.run(Apply { rows, layout, at, deltas, step });
}

struct Apply<'a, A> {
    rows: &'a mut [f32],
    layout: Layout,
    at: &'a [u32],
    deltas: &'a [f32],
    step: A,
}

impl<A: Advance> Portable for Apply<'_, A> {
    type Output = ();

    /// A constant `dim` unrolls the walk.
    #[inline(always)]
    fn scalar(self) {
        match self.layout.dim {
            1 => self.each_row(1),
            4 => self.each_row(4),
            8 => self.each_row(8),
            16 => self.each_row(16),
            dim => self.each_row(dim),
        }
    }
}

impl<A: Advance> Apply<'_, A> {
    #[inline(always)]
    fn each_row(self, dim: usize) {
        for (index, (&row, grad)) in self.at.iter().zip(self.deltas.chunks_exact(dim)).enumerate() {
            rows::prefetch_row(self.rows, self.layout, row_width(dim), self.at, index);
            let start = row as usize * self.layout.stride;
            let row = &mut self.rows[start..start + row_width(dim)];
            let (state, powers) = row.split_at_mut(3 * dim);
            let (powers, _) = powers.as_chunks_mut::<POWERS>();
            let corrected = self.step.advance(&mut powers[0]);
            let columns = rows::split_mut::<3>(state, dim);
            match dim {
                16 => columns::walk_by_eight(columns, [grad], corrected),
                _ => columns::walk(columns, [grad], corrected),
            }
        }
    }
}

impl Advance for Step {
    type Rule = Corrected;

    #[inline(always)]
    fn advance(&self, powers: &mut [f32; POWERS]) -> Corrected {
        for (power, beta) in powers.iter_mut().zip([self.beta1, self.beta2]) {
            let before = if *power == 0.0 { 1.0 } else { *power };
            *power = (before * beta).max(POWER_MIN);
        }
        Corrected {
            rate: self.rate / (1.0 - powers[0]),
            inverse_share: 1.0 / (1.0 - powers[1]),
            step: *self,
        }
    }
}

/// A step with one row's correction of bias worked in.
#[derive(Clone, Copy)]
pub(crate) struct Corrected {
    /// `rate / (1 - beta1^t)`.
    rate: f32,
    /// `1 / (1 - beta2^t)`: one over the share of the true mean of squares that `v` holds by now.
    inverse_share: f32,
    step: Step,
}

impl Rule<3, 1> for Corrected {
    #[inline(always)]
    fn step(self, [weight, m, v]: [f32; 3], [grad]: [f32; 1]) -> [f32; 3] {
        let Step { beta1, beta2, epsilon, .. } = self.step;
        let m = beta1 * m + (1.0 - beta1) * grad;
        let v = beta2 * v + (1.0 - beta2) * (grad * grad);
        [weight - self.rate * m / ((v * self.inverse_share).sqrt() + epsilon), m, v]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, positives, shapes, shuffled, step_rows};
    use proptest::prelude::*;

    const STEP: Step = Step { rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let state = [floats(seed, 2 * len), positives(seed ^ 1, len)].concat();
                let (powers, grad) = ([0.81, 0.998_001], floats(!seed, len));
                let mut expected = state.clone();
                let corrected = STEP.advance(&mut powers.clone());
                step_rows(&mut expected, (3 * len, len), &[0], &grad, corrected);
                for isa in Isa::available() {
                    let (mut state, mut powers) = (state.clone(), powers);
                    apply(isa, rows::split_mut(&mut state, len), &mut powers, &grad, &STEP);
                    prop_assert_eq!(bits(&state), bits(&expected));
                    prop_assert!((powers[0] - 0.729).abs() < 1e-6);
                }
            }
        }

        #[test]
        fn rows_are_stepped_as_one_row_is(seed: u64, spare in 0_usize..3) {
            for (dim, count) in shapes() {
                let stride = row_width(dim) + spare;
                let at = shuffled(seed, 100, count);
                let mut before = positives(seed, 100 * stride);
                for (index, row) in before.chunks_mut(stride).enumerate() {
                    let stepped = index % 2;
                    row[3 * dim] = 0.81 * stepped as f32;
                    row[3 * dim + 1] = 0.998_001 * stepped as f32;
                }
                let grad = floats(!seed, at.len() * dim);
                let mut expected = before.clone();
                for (&row, grad) in at.iter().zip(grad.chunks(dim)) {
                    let row = &mut expected[row as usize * stride..][..row_width(dim)];
                    let (state, powers) = row.split_at_mut(3 * dim);
                    let corrected = STEP.advance(&mut powers.as_chunks_mut().0[0]);
                    step_rows(state, (3 * dim, dim), &[0], grad, corrected);
                }
                for isa in Isa::available() {
                    let mut rows = before.clone();
                    apply_rows(isa, &mut rows, stride, dim, &at, &grad, &STEP);
                    prop_assert_eq!(bits(&rows), bits(&expected));
                }
            }
        }
    }

    #[test]
    fn ten_steps_are_the_papers_within_rounding() {
        let (mut rows, grads) = ([0.0; row_width(1)], floats(5, 10));
        let [mut weight, mut m, mut v] = [0.0_f64; 3];
        let [rate, beta1, beta2] = [STEP.rate, STEP.beta1, STEP.beta2].map(f64::from);
        for (t, &grad) in (1..).zip(&grads) {
            apply_rows(Isa::detect(), &mut rows, row_width(1), 1, &[0], &[grad], &STEP);
            let grad = f64::from(grad);
            m = beta1 * m + (1.0 - beta1) * grad;
            v = beta2 * v + (1.0 - beta2) * grad * grad;
            let (m_hat, v_hat) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
            weight -= rate * m_hat / (v_hat.sqrt() + f64::from(STEP.epsilon));
            assert!((f64::from(rows[0]) - weight).abs() < 1e-5, "{} against {weight}", rows[0]);
        }
    }

    #[test]
    fn the_first_step_moves_by_the_rate_whatever_the_gradient() {
        let mut rows = [0.0; row_width(2)];
        apply_rows(Isa::detect(), &mut rows, row_width(2), 2, &[0], &[1e-3, -1e3], &STEP);
        assert!((rows[0] + 0.01).abs() < 1e-6, "{rows:?}");
        assert!((rows[1] - 0.01).abs() < 1e-6, "{rows:?}");
    }

    #[test]
    fn a_row_stepped_until_its_powers_reach_their_least_is_not_taken_for_a_new_one() {
        let mut rows = [0.0; row_width(1)];
        for _ in 0..3000 {
            apply_rows(Isa::detect(), &mut rows, row_width(1), 1, &[0], &[1.0], &STEP);
        }
        assert_eq!(rows[3], POWER_MIN);
        let before = rows[0];
        apply_rows(Isa::detect(), &mut rows, row_width(1), 1, &[0], &[0.0], &STEP);
        assert!((before - rows[0]).abs() < 0.011, "moved from {before} to {}", rows[0]);
    }
}

//! FTRL-Proximal with a group lasso: besides FTRL's own zeros, a whole row becomes zero when it
//! earns too little, so that a key's vector is kept or left out as one.
//!
//! Owns the shrinkage of a row and the walk over such rows. FTRL's arithmetic of one coordinate is
//! left to `ftrl`.
//!
//! Invariant: as in `ftrl`, no weight is stored; a row's weights are derived from all its `z` and
//! `n`. The squares of a row are added in one order on every level.

use crate::columns::{self, Rule, View};
use crate::ftrl;
use crate::isa::{Isa, Portable};
use crate::rows::{self, Layout, MISSING};

/// Lanes that squares are added apart in, on every level.
const NORM_LANES: usize = 16;

/// The parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// FTRL's own. Its `l1` takes coordinates out one by one, before the row is looked at.
    pub ftrl: ftrl::Step,
    /// The group lasso's strength: a row whose `‖s‖` is at most `l21 · √dim` is all zero. At
    /// least 0; at 0 this is FTRL.
    pub l21: f32,
}

/// Applies the merged gradients of some examples to one row, in place: FTRL's step
/// ([`ftrl::apply`]), with the row's weights taken from
///
/// `s = z - clamp(z, -l1, l1)`, `share = max(0, 1 - l21·√dim / ‖s‖)`,
/// `weight = -share · s / ((beta + √n) / alpha + l2)`, all coordinates with one `share`.
///
/// - `z`, `n`: `[dim]` f32, the row. `grad`, `grad_squared`: `[dim]`, gradients and their squares,
///   summed.
/// - Result: for finite input, the same bits on every `isa`: products and sums are not fused, and
///   `‖s‖²` adds coordinate `i` to lane `i mod 16`, then lane `j` and `j + 8`, `j + 4`, `j + 2`,
///   `j + 1`. With one coordinate and in exact arithmetic it is FTRL with `l1 + l21`.
/// - Panics: if the lengths differ.
/// - Source: Yue et al., Adaptive Optimizers with Sparse Group Lasso for Neural Networks in CTR
///   Prediction, ECML PKDD 2021, whose penalty is `l21·√dim` times the norm of a row. The test for
///   a row of zeros is exact for that penalty. `share` is exact where all coordinates have the same
///   rate; where they differ the exact one has no closed form, and this is what is used for it.
pub fn apply(
    isa: Isa,
    z: &mut [f32],
    n: &mut [f32],
    grad: &[f32],
    grad_squared: &[f32],
    step: &Step,
) {
    let grouped = isa.run(Shrink { z, step });
    columns::apply(isa, [z, n], [grad, grad_squared], grouped);
}

/// Applies merged gradients to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[z[dim] | n[dim]]` at `r * stride`.
/// - `at`: `[count]` distinct row numbers.
/// - `deltas`: `[count, 2 * dim]`, a row `[grad[dim] | grad_squared[dim]]` for each.
/// - Result: as [`apply`] on each row. Where `dim` is 1, a row named twice may lose a delta.
/// - Panics: if `deltas` has another length, a row does not fit in the stride, or is out of bounds.
pub fn apply_rows(
    isa: Isa,
    rows: &mut [f32],
    stride: usize,
    dim: usize,
    at: &[u32],
    deltas: &[f32],
    step: &Step,
) {
    let layout = Layout { stride, dim };
    if dim == 1 {
        // A row is a coordinate: side by side, as the rules of one coordinate are.
        return rows::apply(isa, rows, layout, at, deltas, *step);
    }
    rows::check_layout(layout);
    assert_eq!(deltas.len(), at.len() * 2 * dim, "deltas against rows times width");
    isa.run(Apply { rows, layout, at, deltas, step });
}

/// Reads each named row as its weights and the rate that each coordinate would step by now,
/// `alpha / (beta + √n)`.
///
/// - `rows`: as in [`apply_rows`]. `at`: `[count]` row numbers; [`MISSING`] reads as zeros, so its
///   weights are 0 and its rates `alpha / beta`.
/// - `values`: `[count, 2 * dim]`, a row `[weight[dim] | rate[dim]]` for each key.
/// - Panics: if `values` has another length, a row does not fit in the stride, or is out of bounds.
pub fn read_rows(
    isa: Isa,
    rows: &[f32],
    stride: usize,
    dim: usize,
    at: &[u32],
    values: &mut [f32],
    step: &Step,
) {
    let layout = Layout { stride, dim };
    if dim == 1 {
        return rows::read(isa, rows, layout, at, values, *step);
    }
    rows::check_layout(layout);
    assert_eq!(values.len(), at.len() * 2 * dim, "values against rows times width");
    isa.run(Read { rows, layout, at, values, step });
}

/// The weights of one row, as [`read_rows`] reads them.
///
/// - `z`, `n`, `weights`: `[dim]`.
/// - Panics: if the lengths differ.
pub fn weights(z: &[f32], n: &[f32], step: &Step, weights: &mut [f32]) {
    assert!(z.len() == n.len() && z.len() == weights.len(), "columns that differ in length");
    let grouped = Grouped::of(z, step);
    for ((weight, &z), &n) in weights.iter_mut().zip(z).zip(n) {
        *weight = grouped.weight(z, n);
    }
}

/// FTRL's step in a row whose shrinkage is known.
#[derive(Clone, Copy)]
pub(crate) struct Grouped {
    /// What the group lasso leaves of each weight, from 0 to 1.
    share: f32,
    ftrl: ftrl::Step,
}

impl Grouped {
    /// Of the row whose first column is `z`.
    #[inline(always)]
    pub(crate) fn of(z: &[f32], step: &Step) -> Grouped {
        let l1 = step.ftrl.l1;
        let mut lanes = [0.0; NORM_LANES];
        let (blocks, tail) = z.as_chunks::<NORM_LANES>();
        for block in blocks {
            for lane in 0..NORM_LANES {
                let s = shrunk(block[lane], l1);
                lanes[lane] += s * s;
            }
        }
        for (lane, &z) in lanes.iter_mut().zip(tail) {
            let s = shrunk(z, l1);
            *lane += s * s;
        }
        let mut half = NORM_LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        Grouped { share: share(lanes[0], step.l21 * (z.len() as f32).sqrt()), ftrl: step.ftrl }
    }

    #[inline(always)]
    fn weight(&self, z: f32, n: f32) -> f32 {
        let weight = self.share * ftrl::weight(z, n, &self.ftrl);
        if self.share > 0.0 { weight } else { 0.0 }
    }
}

/// What soft thresholding leaves of `z`.
#[inline(always)]
fn shrunk(z: f32, l1: f32) -> f32 {
    if z.abs() <= l1 { 0.0 } else { z - l1.copysign(z) }
}

/// What the group lasso leaves of a row whose squares add up to `squares`. Without a penalty that
/// is all, also where the squares of small numbers are zero.
#[inline(always)]
fn share(squares: f32, threshold: f32) -> f32 {
    let norm = squares.sqrt();
    let kept = if norm <= threshold { 0.0 } else { 1.0 - threshold / norm };
    if threshold > 0.0 { kept } else { 1.0 }
}

impl Rule<2, 2> for Grouped {
    #[inline(always)]
    fn step(self, [z, n]: [f32; 2], [grad, grad_squared]: [f32; 2]) -> [f32; 2] {
        self.ftrl.step_from(self.weight(z, n), [z, n], [grad, grad_squared])
    }
}

impl View<2, 2> for Grouped {
    #[inline(always)]
    fn read(self, [z, n]: [f32; 2]) -> [f32; 2] {
        [self.weight(z, n), self.ftrl.rate(n)]
    }
}

/// A row of one coordinate.
impl Rule<2, 2> for Step {
    #[inline(always)]
    fn step(self, [z, n]: [f32; 2], delta: [f32; 2]) -> [f32; 2] {
        Grouped::of_one(z, &self).step([z, n], delta)
    }
}

impl View<2, 2> for Step {
    #[inline(always)]
    fn read(self, [z, n]: [f32; 2]) -> [f32; 2] {
        Grouped::of_one(z, &self).read([z, n])
    }
}

impl Grouped {
    /// [`Grouped::of`] a row of one coordinate, without its loops.
    #[inline(always)]
    fn of_one(z: f32, step: &Step) -> Grouped {
        let s = shrunk(z, step.ftrl.l1);
        Grouped { share: share(s * s, step.l21), ftrl: step.ftrl }
    }
}

struct Shrink<'a> {
    z: &'a [f32],
    step: &'a Step,
}

impl Portable for Shrink<'_> {
    type Output = Grouped;

    #[inline(always)]
    fn scalar(self) -> Grouped {
        Grouped::of(self.z, self.step)
    }
}

struct Apply<'a> {
    rows: &'a mut [f32],
    layout: Layout,
    at: &'a [u32],
    deltas: &'a [f32],
    step: &'a Step,
}

impl Portable for Apply<'_> {
    type Output = ();

    /// A constant `dim` unrolls the walk.
    #[inline(always)]
    fn scalar(self) {
        match self.layout.dim {
            4 => self.each_row(4),
            8 => self.each_row(8),
            16 => self.each_row(16),
            dim => self.each_row(dim),
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    fn each_row(self, dim: usize) {
        let deltas = self.deltas.chunks_exact(2 * dim);
        for (index, (&row, delta)) in self.at.iter().zip(deltas).enumerate() {
            rows::prefetch_row(self.rows, self.layout, 2 * dim, self.at, index);
            let start = row as usize * self.layout.stride;
            let row = &mut self.rows[start..start + 2 * dim];
            let grouped = Grouped::of(&row[..dim], self.step);
            columns::walk(rows::split_mut(row, dim), rows::split(delta, dim), grouped);
        }
    }
}

struct Read<'a> {
    rows: &'a [f32],
    layout: Layout,
    at: &'a [u32],
    values: &'a mut [f32],
    step: &'a Step,
}

impl Portable for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        match self.layout.dim {
            4 => self.each_row(4),
            8 => self.each_row(8),
            16 => self.each_row(16),
            dim => self.each_row(dim),
        }
    }
}

impl Read<'_> {
    #[inline(always)]
    fn each_row(self, dim: usize) {
        let values = self.values.chunks_exact_mut(2 * dim);
        for (index, (&row, value)) in self.at.iter().zip(values).enumerate() {
            rows::prefetch_row(self.rows, self.layout, 2 * dim, self.at, index);
            let state = (row != MISSING).then(|| {
                let start = row as usize * self.layout.stride;
                &self.rows[start..start + 2 * dim]
            });
            let z = state.map_or(&[][..], |row| &row[..dim]);
            rows::read_row(state, value, dim, Grouped::of(z, self.step));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, positives, shapes, shuffled};
    use proptest::prelude::*;

    const FTRL: ftrl::Step = ftrl::Step { alpha: 0.1, beta: 1.0, l1: 0.5, l2: 0.1 };
    const STEP: Step = Step { ftrl: FTRL, l21: 0.3 };

    /// Rows `[z[dim] | n[dim]]` and whatever is spare, `n` not negative.
    fn rows_of(seed: u64, stride: usize, dim: usize) -> Vec<f32> {
        let row = |index: u64| {
            let z = floats(seed ^ index, dim);
            [z, positives(seed ^ index, stride - dim)].concat()
        };
        (0..100).flat_map(row).collect()
    }

    /// One row after another, a coordinate after another: no block, no tile, no level.
    fn step_one(row: &mut [f32], dim: usize, delta: &[f32]) {
        let grouped = Grouped::of(&row[..dim], &STEP);
        for index in 0..dim {
            let after =
                grouped.step([row[index], row[dim + index]], [delta[index], delta[dim + index]]);
            (row[index], row[dim + index]) = (after[0], after[1]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let (z, n) = (floats(seed, len), positives(seed ^ 1, len));
                let delta = positives(!seed, 2 * len);
                let mut expected = [z.clone(), n.clone()].concat();
                step_one(&mut expected, len, &delta);
                let (grad, squared) = delta.split_at(len);
                for isa in Isa::available() {
                    let (mut z, mut n) = (z.clone(), n.clone());
                    apply(isa, &mut z, &mut n, grad, squared, &STEP);
                    prop_assert_eq!(bits(&[z, n].concat()), bits(&expected));
                }
            }
        }

        #[test]
        fn rows_are_stepped_and_read_as_one_row_is(seed: u64, spare in 0_usize..3) {
            for (dim, count) in shapes().chain([(4, 13)]) {
                let stride = 2 * dim + spare;
                let (before, mut at) = (rows_of(seed, stride, dim), shuffled(seed, 100, count));
                let deltas = positives(!seed, count * 2 * dim);
                let mut expected = before.clone();
                for (&row, delta) in at.iter().zip(deltas.chunks(2 * dim)) {
                    step_one(&mut expected[row as usize * stride..][..2 * dim], dim, delta);
                }
                let mut rows = before.clone();
                for isa in Isa::available() {
                    rows.copy_from_slice(&before);
                    apply_rows(isa, &mut rows, stride, dim, &at, &deltas, &STEP);
                    prop_assert_eq!(bits(&rows), bits(&expected));
                }
                at.push(MISSING);
                let expected: Vec<f32> = at.iter().flat_map(|&row| {
                    let zeros = vec![0.0; 2 * dim];
                    let row = if row == MISSING { &zeros } else { &rows[row as usize * stride..] };
                    let grouped = Grouped::of(&row[..dim], &STEP);
                    let read = |index| grouped.read([row[index], row[dim + index]]);
                    let pairs: Vec<[f32; 2]> = (0..dim).map(read).collect();
                    (0..2).flat_map(|half| pairs.iter().map(move |pair| pair[half]))
                        .collect::<Vec<f32>>()
                }).collect();
                for isa in Isa::available() {
                    let mut values = vec![f32::NAN; expected.len()];
                    read_rows(isa, &rows, stride, dim, &at, &mut values, &STEP);
                    prop_assert_eq!(bits(&values), bits(&expected));
                    if at[0] != MISSING {
                        let (z, n) = rows[at[0] as usize * stride..][..2 * dim].split_at(dim);
                        weights(z, n, &STEP, &mut values[dim..2 * dim]);
                        prop_assert_eq!(bits(&values[dim..2 * dim]), bits(&expected[..dim]));
                    }
                }
            }
        }

        #[test]
        fn without_a_group_penalty_it_is_ftrl(seed: u64) {
            let (mut rows, at) = (rows_of(seed, 18, 9), shuffled(seed, 100, 50));
            rows[..9].fill(1e-30); // Its squares are zero.
            let deltas = positives(!seed, 50 * 18);
            let (mut grouped, mut plain) = (rows.clone(), rows);
            let step = Step { l21: 0.0, ..STEP };
            let step = Step { ftrl: ftrl::Step { l1: 0.0, ..FTRL }, ..step };
            apply_rows(Isa::detect(), &mut grouped, 18, 9, &at, &deltas, &step);
            ftrl::apply_rows(Isa::detect(), &mut plain, 18, 9, &at, &deltas, &step.ftrl);
            prop_assert_eq!(bits(&grouped), bits(&plain));
            let mut values = [vec![0.0; 18], vec![0.0; 18]];
            read_rows(Isa::detect(), &plain, 18, 9, &[0], &mut values[0], &step);
            ftrl::read_rows(Isa::detect(), &plain, 18, 9, &[0], &mut values[1], &step.ftrl);
            prop_assert_eq!(bits(&values[0]), bits(&values[1]));
        }

        /// The weights of one row minimise what they are the argument of: no step of any
        /// coordinate, and no scaling of the row, makes it smaller. All coordinates have one `n`,
        /// for which the share is exact.
        #[test]
        fn the_weights_minimise_the_regularised_sum(
            z in proptest::collection::vec(-4_f32..4.0, 5), n in 0_f32..9.0, l21 in 0_f32..2.0,
        ) {
            let step = Step { l21, ..STEP };
            let row = [z.clone(), vec![n; 5]].concat();
            let mut values = [0.0; 10];
            read_rows(Isa::detect(), &row, 10, 5, &[0], &mut values, &step);
            let curvature = f64::from((FTRL.beta + n.sqrt()) / FTRL.alpha + FTRL.l2);
            let sum = |weights: &[f64]| {
                let norm = weights.iter().map(|weight| weight * weight).sum::<f64>();
                let rest = weights.iter().zip(&z).map(|(weight, &z)| {
                    f64::from(z) * weight + f64::from(FTRL.l1) * weight.abs()
                });
                let group = f64::from(l21) * 5_f64.sqrt() * norm.sqrt();
                rest.sum::<f64>() + group + curvature * norm / 2.0
            };
            let weights: Vec<f64> = values[..5].iter().map(|&weight| f64::from(weight)).collect();
            let least = sum(&weights);
            for by in [1e-3, -1e-3] {
                for coordinate in 0..5 {
                    let mut moved = weights.clone();
                    moved[coordinate] += by;
                    prop_assert!(sum(&moved) >= least - 1e-9, "{weights:?} moved by {by}");
                }
                let scaled: Vec<f64> = weights.iter().map(|weight| weight * (1.0 + by)).collect();
                prop_assert!(sum(&scaled) >= least - 1e-9, "{weights:?} scaled by {by}");
            }
        }

        #[test]
        fn one_coordinate_is_ftrl_with_both_penalties_within_rounding(
            z in -9_f32..9.0, n in 0_f32..9.0,
        ) {
            let mut values = [0.0; 2];
            read_rows(Isa::detect(), &[z, n], 2, 1, &[0], &mut values, &STEP);
            let both = ftrl::Step { l1: FTRL.l1 + STEP.l21, ..FTRL };
            prop_assert!((values[0] - ftrl::weight(z, n, &both)).abs() < 1e-5);
        }
    }

    #[test]
    fn a_row_at_the_threshold_is_all_zero_and_one_above_it_is_not() {
        let step = Step { ftrl: ftrl::Step { l1: 0.0, ..FTRL }, l21: 1.0 };
        let mut values = [f32::NAN; 8];
        read_rows(Isa::detect(), &[1.0; 8], 8, 4, &[0], &mut values, &step);
        assert_eq!(bits(&values[..4]), [0; 4]);
        read_rows(Isa::detect(), &[1.01; 8], 8, 4, &[0], &mut values, &step);
        assert!(values[..4].iter().all(|&weight| weight < 0.0), "{values:?}");
    }
}

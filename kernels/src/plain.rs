//! Every optimizer as a plain loop, compiled for the same instructions: what the compiler makes of
//! the arithmetic without this crate's walks.
//!
//! Owns that yardstick, and is no part of the data path: a kernel that is slower than its plain
//! loop has no reason to be. The arithmetic is each optimizer's own.
//!
//! Invariant: a plain loop returns the kernel's bits.

use std::array;

use crate::adam::{self, Advance, POWERS};
use crate::columns::Rule;
use crate::ftrl_compact;
use crate::ftrl_group::{self, Grouped};
use crate::isa::{Isa, Portable};
use crate::rows::{self, Layout};
use crate::{adagrad, adamw, ftrl, momentum, rmsprop, sgd, sum};

/// An optimizer and its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// [`sgd`].
    Sgd(sgd::Step),
    /// [`momentum`].
    Momentum(momentum::Step),
    /// [`adagrad`].
    AdaGrad(adagrad::Step),
    /// [`rmsprop`].
    RmsProp(rmsprop::Step),
    /// [`adam`].
    Adam(adam::Step),
    /// [`adamw`].
    AdamW(adamw::Step),
    /// [`ftrl`].
    Ftrl(ftrl::Step),
    /// [`ftrl_compact`].
    FtrlCompact(ftrl_compact::Step),
    /// [`ftrl_group`].
    FtrlGroup(ftrl_group::Step),
    /// [`sum`].
    Sum,
}

/// Applies one step to each named row, in place, as the optimizer's own `apply_rows`; with one row
/// it is the optimizer's `apply`, too.
///
/// - `rows`: an arena of the optimizer's rows, one every `stride` numbers, of `dim` coordinates.
/// - `at`: `[count]` distinct row numbers. `deltas`: one for each, row after row.
/// - Result: the kernel's bits, on every `isa`.
/// - Panics: as the optimizer's own `apply_rows`.
pub fn apply_rows(
    isa: Isa,
    optimizer: Optimizer,
    rows: &mut [f32],
    stride: usize,
    dim: usize,
    at: &[u32],
    deltas: &[f32],
) {
    let rows = Rows { rows, layout: Layout { stride, dim }, at, deltas };
    match optimizer {
        Optimizer::Sgd(step) => isa.run(Plain { rows, rule: step }),
        Optimizer::Momentum(step) => isa.run(Plain { rows, rule: step }),
        Optimizer::AdaGrad(step) => isa.run(Plain { rows, rule: step }),
        Optimizer::RmsProp(step) => isa.run(Plain { rows, rule: step }),
        Optimizer::Adam(step) => isa.run(PlainAdam { rows, step }),
        Optimizer::AdamW(step) => isa.run(PlainAdam { rows, step }),
        Optimizer::Ftrl(step) => isa.run(Plain { rows, rule: step }),
        Optimizer::FtrlCompact(step) => isa.run(Plain { rows, rule: step.drawn() }),
        Optimizer::FtrlGroup(step) => isa.run(PlainGroup { rows, step }),
        Optimizer::Sum => isa.run(Plain { rows, rule: sum::Step }),
    }
}

/// Which rows, and what is pushed to them.
struct Rows<'a> {
    rows: &'a mut [f32],
    layout: Layout,
    at: &'a [u32],
    deltas: &'a [f32],
}

impl Rows<'_> {
    /// Calls `step` with each row of `width` numbers and its delta.
    #[inline(always)]
    fn each(self, width: usize, deltas: usize, mut step: impl FnMut(&mut [f32], &[f32])) {
        rows::check_layout(self.layout);
        let delta_width = deltas * self.layout.dim;
        assert_eq!(self.deltas.len(), self.at.len() * delta_width, "deltas against rows");
        for (&row, delta) in self.at.iter().zip(self.deltas.chunks_exact(delta_width)) {
            let start = row as usize * self.layout.stride;
            step(&mut self.rows[start..start + width], delta);
        }
    }
}

struct Plain<'a, R, const STATE: usize, const DELTA: usize> {
    rows: Rows<'a>,
    rule: R,
}

impl<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize> Portable
    for Plain<'_, R, STATE, DELTA>
{
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        let dim = self.rows.layout.dim;
        self.rows.each(STATE * dim, DELTA, |row, delta| {
            walk::<R, STATE, DELTA>(row, delta, dim, self.rule);
        });
    }
}

struct PlainAdam<'a, A> {
    rows: Rows<'a>,
    step: A,
}

impl<A: Advance> Portable for PlainAdam<'_, A> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        let dim = self.rows.layout.dim;
        self.rows.each(adam::row_width(dim), 1, |row, delta| {
            let (state, powers) = row.split_at_mut(3 * dim);
            let (powers, _) = powers.as_chunks_mut::<POWERS>();
            let corrected = self.step.advance(&mut powers[0]);
            walk::<_, 3, 1>(state, delta, dim, corrected);
        });
    }
}

struct PlainGroup<'a> {
    rows: Rows<'a>,
    step: ftrl_group::Step,
}

impl Portable for PlainGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        let dim = self.rows.layout.dim;
        self.rows.each(2 * dim, 2, |row, delta| {
            let grouped = Grouped::of(&row[..dim], &self.step);
            walk::<_, 2, 2>(row, delta, dim, grouped);
        });
    }
}

#[inline(always)]
fn walk<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize>(
    row: &mut [f32],
    delta: &[f32],
    dim: usize,
    rule: R,
) {
    // Slices of one known length each, so that no check of a bound is left in the loop.
    let state = rows::split_mut::<STATE>(row, dim).map(|column| &mut column[..dim]);
    let delta = rows::split::<DELTA>(delta, dim).map(|column| &column[..dim]);
    for index in 0..dim {
        let before = array::from_fn(|column| state[column][index]);
        let after = rule.step(before, array::from_fn(|column| delta[column][index]));
        for column in 0..STATE {
            state[column][index] = after[column];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{bits, floats, positives, shapes, shuffled};
    use proptest::prelude::*;

    const ADAM: adam::Step = adam::Step { rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    const FTRL: ftrl::Step = ftrl::Step { alpha: 0.1, beta: 1.0, l1: 0.5, l2: 0.1 };
    const GROUP: ftrl_group::Step = ftrl_group::Step { ftrl: FTRL, l21: 0.3 };
    const COMPACT: ftrl_compact::Step = ftrl_compact::Step { ftrl: FTRL, seed: 7 };
    const OPTIMIZERS: [Optimizer; 10] = [
        Optimizer::Sgd(sgd::Step { rate: 0.1 }),
        Optimizer::Momentum(momentum::Step { rate: 0.1, momentum: 0.9 }),
        Optimizer::AdaGrad(adagrad::Step { rate: 0.1, epsilon: 1e-8 }),
        Optimizer::RmsProp(rmsprop::Step { rate: 0.1, decay: 0.9, epsilon: 1e-8 }),
        Optimizer::Adam(ADAM),
        Optimizer::AdamW(adamw::Step { adam: ADAM, weight_decay: 0.1 }),
        Optimizer::Ftrl(FTRL),
        Optimizer::FtrlCompact(COMPACT),
        Optimizer::FtrlGroup(GROUP),
        Optimizer::Sum,
    ];

    /// What the optimizer's own kernel makes of the rows.
    fn kernel(
        isa: Isa,
        optimizer: Optimizer,
        rows: &mut [f32],
        (stride, dim): (usize, usize),
        at: &[u32],
        deltas: &[f32],
    ) {
        match optimizer {
            Optimizer::Sgd(step) => sgd::apply_rows(isa, rows, stride, dim, at, deltas, &step),
            Optimizer::Momentum(step) => {
                momentum::apply_rows(isa, rows, stride, dim, at, deltas, &step);
            }
            Optimizer::AdaGrad(step) => {
                adagrad::apply_rows(isa, rows, stride, dim, at, deltas, &step);
            }
            Optimizer::RmsProp(step) => {
                rmsprop::apply_rows(isa, rows, stride, dim, at, deltas, &step);
            }
            Optimizer::Adam(step) => adam::apply_rows(isa, rows, stride, dim, at, deltas, &step),
            Optimizer::AdamW(step) => adamw::apply_rows(isa, rows, stride, dim, at, deltas, &step),
            Optimizer::Ftrl(step) => ftrl::apply_rows(isa, rows, stride, dim, at, deltas, &step),
            Optimizer::FtrlCompact(step) => {
                ftrl_compact::apply_rows(isa, rows, stride, dim, at, deltas, &step);
            }
            Optimizer::FtrlGroup(step) => {
                ftrl_group::apply_rows(isa, rows, stride, dim, at, deltas, &step);
            }
            Optimizer::Sum => sum::apply_rows(isa, rows, stride, dim, at, deltas, &sum::Step),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn a_plain_loop_returns_the_kernels_bits(seed: u64) {
            for (dim, count) in shapes() {
                let (stride, at) = (adam::row_width(dim), shuffled(seed, 100, count));
                for optimizer in OPTIMIZERS {
                    let wide = matches!(
                        optimizer,
                        Optimizer::Ftrl(_) | Optimizer::FtrlCompact(_) | Optimizer::FtrlGroup(_)
                    );
                    let width = if wide { 2 * dim } else { dim };
                    let mut deltas = floats(!seed, count * width);
                    if wide {
                        deltas.iter_mut().for_each(|delta| *delta = delta.abs());
                    }
                    let before = positives(seed, 100 * stride);
                    let mut expected = before.clone();
                    kernel(Isa::detect(), optimizer, &mut expected, (stride, dim), &at, &deltas);
                    for isa in Isa::available() {
                        let mut rows = before.clone();
                        apply_rows(isa, optimizer, &mut rows, stride, dim, &at, &deltas);
                        prop_assert_eq!(bits(&rows), bits(&expected), "{:?}", optimizer);
                    }
                }
            }
        }
    }
}

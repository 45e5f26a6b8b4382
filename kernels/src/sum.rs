//! Sum: the rule of an accumulator. A row is its value; a push is added to it.
//!
//! Owns the arithmetic of one coordinate. The walk is left to `columns` and `rows`.
//!
//! Invariant: one addition a push, never fused or reordered, so the order of pushes decides the
//! bits and nothing else does.

use crate::columns::{self, Lone, Rule};
use crate::isa::Isa;
use crate::rows::{self, Layout};

/// A sum has no parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step;

/// Adds one delta to one row, in place: `row += delta`.
///
/// - `row`, `delta`: `[dim]` f32, unitless, the same length.
/// - Result: for finite input, the same bits on every `isa`.
/// - Panics: if the lengths differ.
pub fn apply(isa: Isa, row: &mut [f32], delta: &[f32], step: &Step) {
    columns::apply(isa, [row], [delta], *step);
}

/// Adds one delta to each named row, in place.
///
/// - `rows`: an arena whose row `r` is `[value[dim]]` at `r * stride`.
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
    fn step(self, [value]: [f32; 1], [delta]: [f32; 1]) -> [f32; 1] {
        [value + delta]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, shapes, shuffled, step_rows};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let (before, delta) = (floats(seed, len), floats(!seed, len));
                let mut expected = before.clone();
                step_rows(&mut expected, (len, len), &[0], &delta, Step);
                for isa in Isa::available() {
                    let mut row = before.clone();
                    apply(isa, &mut row, &delta, &Step);
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
                step_rows(&mut expected, (stride, dim), &at, &deltas, Step);
                for isa in Isa::available() {
                    let mut rows = before.clone();
                    apply_rows(isa, &mut rows, stride, dim, &at, &deltas, &Step);
                    prop_assert_eq!(bits(&rows), bits(&expected));
                }
            }
        }
    }

    #[test]
    fn a_row_named_twice_takes_both_deltas() {
        let mut rows = [1.0, 2.0];
        apply_rows(Isa::detect(), &mut rows, 1, 1, &[1, 1], &[10.0, 100.0], &Step);
        assert_eq!(rows, [1.0, 112.0]);
    }
}

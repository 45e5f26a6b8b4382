//! What the tests of every kernel share: numbers from a seed, and comparison bit by bit.
//!
//! Owns no kernel. Invariant: the same seed gives the same numbers on every host.

use std::ops::RangeInclusive;

use crate::columns::{Rule, View};
use crate::hash::mix;
use crate::rows::MISSING;

/// Every tail that blocks of 64, 32, 16 and 8 lanes can leave.
pub(crate) const LENGTHS: RangeInclusive<usize> = 0..=67;

/// Dims and counts of rows that take every path: one coordinate and eight have their own, tiles of
/// rows have every tail, and the others are tried around the widths of blocks.
pub(crate) fn shapes() -> impl Iterator<Item = (usize, usize)> {
    let every_count = [1, 8].into_iter().flat_map(|dim| LENGTHS.map(move |count| (dim, count)));
    every_count.chain([2, 4, 7, 9, 12, 15, 16, 17, 24, 25, 67].map(|dim| (dim, 13)))
}

/// `len` finite numbers, most near 1, some zero, some large, some tiny, of both signs.
pub(crate) fn floats(seed: u64, len: usize) -> Vec<f32> {
    let scales = [1.0, 1.0, 1.0, 0.01, 100.0, 1e-20, 1e6, 0.0];
    let draws = (0..len as u64).map(|index| mix(seed ^ mix(index + 1)));
    draws
        .map(|draw| {
            let unit = (draw >> 40) as f32 / (1_u32 << 23) as f32 - 1.0;
            unit * scales[(draw & 7) as usize]
        })
        .collect()
}

/// As [`floats`], none below zero.
pub(crate) fn positives(seed: u64, len: usize) -> Vec<f32> {
    floats(seed, len).into_iter().map(f32::abs).collect()
}

/// `count` distinct row numbers below `rows`, in an order that the seed decides.
pub(crate) fn shuffled(seed: u64, rows: u32, count: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (0..rows).collect();
    all.sort_by_key(|&row| mix(seed ^ u64::from(row)));
    all.truncate(count);
    all
}

/// The numbers' bits, so that a comparison tells -0 from 0.
pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Steps rows one coordinate at a time, by the rule alone: no block, no tile, no level.
pub(crate) fn step_rows<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize>(
    rows: &mut [f32],
    (stride, dim): (usize, usize),
    at: &[u32],
    deltas: &[f32],
    rule: R,
) {
    for (index, &row) in at.iter().enumerate() {
        for coordinate in 0..dim {
            let place = |column: usize| row as usize * stride + column * dim + coordinate;
            let delta = |column: usize| deltas[(index * DELTA + column) * dim + coordinate];
            let before = std::array::from_fn(|column| rows[place(column)]);
            let after = rule.step(before, std::array::from_fn(delta));
            (0..STATE).for_each(|column| rows[place(column)] = after[column]);
        }
    }
}

/// Reads rows one coordinate at a time, by the view alone; a missing row as zeros.
pub(crate) fn view_rows<V: View<STATE, VALUE>, const STATE: usize, const VALUE: usize>(
    rows: &[f32],
    (stride, dim): (usize, usize),
    at: &[u32],
    view: V,
) -> Vec<f32> {
    let mut values = vec![0.0; at.len() * VALUE * dim];
    for (index, &row) in at.iter().enumerate() {
        for coordinate in 0..dim {
            let place = |column: usize| row as usize * stride + column * dim + coordinate;
            let state = |column| if row == MISSING { 0.0 } else { rows[place(column)] };
            let read = view.read(std::array::from_fn(state));
            for (column, value) in read.into_iter().enumerate() {
                values[(index * VALUE + column) * dim + coordinate] = value;
            }
        }
    }
    values
}

//! A rule or a read carried over rows that lie anywhere in an arena.
//!
//! Owns the walk from row numbers to rows: which row, how far ahead the cache is asked, and the
//! tiles in which rows of one coordinate are brought together. The arithmetic is left to the rule.
//!
//! An arena is one `[f32]` in which row `r` starts at `r * stride`, its columns of `dim` numbers
//! one after the other. Invariant: a row is touched through a checked slice only, so a row number
//! out of bounds panics and never reads or writes its neighbour's memory.

use std::{array, mem};

use crate::columns::{self, Lone, Rule, View};
use crate::isa::{Isa, Portable};
use crate::lanes::{CACHE_LINE_BYTES, prefetch};

/// The row number of a key that has no row. A read of it sees a row of zeros.
pub const MISSING: u32 = u32::MAX;

/// Rows between the one at work and the one whose line the cache is asked for.
const ROWS_AHEAD: usize = 12;
/// Rows of one coordinate that are brought together and stepped side by side.
const TILE_ROWS: usize = 64;

/// Where a table's rows lie: the distance between two, and the coordinates in each column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Numbers from a row's start to the next row's.
    pub stride: usize,
    /// Coordinates in a column.
    pub dim: usize,
}

impl Layout {
    #[inline(always)]
    fn start(self, row: u32) -> usize {
        row as usize * self.stride
    }
}

/// Copies the first `width` numbers of each named row to `values`, row after row.
///
/// - `rows`: the arena. `at`: `[count]` row numbers; [`MISSING`] copies zeros.
/// - `values`: `[count * width]` f32.
/// - Result: the rows' bits, on every level.
/// - Panics: if `values` has another length, or a row is out of bounds.
pub fn gather(isa: Isa, rows: &[f32], stride: usize, width: usize, at: &[u32], values: &mut [f32]) {
    assert_eq!(values.len(), at.len() * width, "values against rows times width");
    let layout = Layout { stride, dim: width };
    isa.run(Gather { rows, layout, at, values });
}

struct Gather<'a> {
    rows: &'a [f32],
    layout: Layout,
    at: &'a [u32],
    values: &'a mut [f32],
}

impl Portable for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        match self.layout.dim {
            0 => {}
            1 => self.copy::<1>(),
            4 => self.copy::<4>(),
            8 => self.copy::<8>(),
            16 => self.copy::<16>(),
            _ => self.copy_any(),
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    fn copy<const WIDTH: usize>(self) {
        let (values, _) = self.values.as_chunks_mut::<WIDTH>();
        for (index, (value, &row)) in values.iter_mut().zip(self.at).enumerate() {
            prefetch_row(self.rows, self.layout, WIDTH, self.at, index);
            // Two branches that write, and not one that chooses what is written: some compilations
            // chose on the stack, in halves, and a row of 16 took ten times as long.
            if row == MISSING {
                value.fill(0.0);
            } else {
                let start = self.layout.start(row);
                value.copy_from_slice(&self.rows[start..start + WIDTH]);
            }
        }
    }

    #[inline(always)]
    fn copy_any(self) {
        let width = self.layout.dim;
        let values = self.values.chunks_exact_mut(width);
        for (index, (value, &row)) in values.zip(self.at).enumerate() {
            prefetch_row(self.rows, self.layout, width, self.at, index);
            if row == MISSING {
                value.fill(0.0);
            } else {
                let start = self.layout.start(row);
                value.copy_from_slice(&self.rows[start..start + width]);
            }
        }
    }
}

/// Applies `rule` to each named row, in place. Panics as the rules' `apply_rows` state.
pub(crate) fn apply<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize>(
    isa: Isa,
    rows: &mut [f32],
    layout: Layout,
    at: &[u32],
    deltas: &[f32],
    rule: R,
) {
    check_layout(layout);
    assert_eq!(deltas.len(), at.len() * DELTA * layout.dim, "deltas against rows times width");
    isa.run(Apply { rows, layout, at, deltas, rule });
}

struct Apply<'a, R, const STATE: usize, const DELTA: usize> {
    rows: &'a mut [f32],
    layout: Layout,
    at: &'a [u32],
    deltas: &'a [f32],
    rule: R,
}

impl<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize> Portable
    for Apply<'_, R, STATE, DELTA>
{
    type Output = ();

    /// A constant `dim` unrolls the walk.
    #[inline(always)]
    fn scalar(self) {
        match (self.layout.dim, R::LONE) {
            (1, Lone::Rows) => self.each_row(1),
            (1, Lone::Tiles) => self.tiles(),
            (4, _) => self.each_row(4),
            (8, _) => self.each_row(8),
            (16, _) => self.each_row(16),
            (32, _) => self.each_row(32),
            (64, _) => self.each_row(64),
            (128, _) => self.each_row(128),
            (dim, _) => self.each_row(dim),
        }
    }
}

impl<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize> Apply<'_, R, STATE, DELTA> {
    #[inline(always)]
    fn each_row(self, dim: usize) {
        for (index, &row) in self.at.iter().enumerate() {
            prefetch_row(self.rows, self.layout, STATE * dim, self.at, index);
            let start = self.layout.start(row);
            let state = &mut self.rows[start..start + STATE * dim];
            let delta = &self.deltas[index * DELTA * dim..(index + 1) * DELTA * dim];
            columns::walk(split_mut(state, dim), split(delta, dim), self.rule);
        }
    }

    /// Rows of one coordinate: brought together, stepped side by side, and taken back.
    #[inline(always)]
    fn tiles(self) {
        let (deltas, _) = self.deltas.as_chunks::<DELTA>();
        let tiles = self.at.chunks(TILE_ROWS).zip(deltas.chunks(TILE_ROWS));
        let mut state = [[0.0; STATE]; TILE_ROWS];
        for (tile, (at, deltas)) in tiles.enumerate() {
            for (index, (&row, state)) in at.iter().zip(&mut state).enumerate() {
                prefetch_row(self.rows, self.layout, STATE, self.at, tile * TILE_ROWS + index);
                *state = columns::load(self.rows, self.layout.start(row));
            }
            for (state, delta) in state.iter_mut().zip(deltas) {
                *state = self.rule.step(*state, *delta);
            }
            for (&row, state) in at.iter().zip(&state) {
                let start = self.layout.start(row);
                self.rows[start..start + STATE].copy_from_slice(state);
            }
        }
    }
}

/// Reads each named row through `view`; [`MISSING`] reads as zeros. Panics as `read_rows` states.
pub(crate) fn read<V: View<STATE, VALUE>, const STATE: usize, const VALUE: usize>(
    isa: Isa,
    rows: &[f32],
    layout: Layout,
    at: &[u32],
    values: &mut [f32],
    view: V,
) {
    check_layout(layout);
    assert_eq!(values.len(), at.len() * VALUE * layout.dim, "values against rows times width");
    isa.run(Read { rows, layout, at, values, view });
}

struct Read<'a, V, const STATE: usize, const VALUE: usize> {
    rows: &'a [f32],
    layout: Layout,
    at: &'a [u32],
    values: &'a mut [f32],
    view: V,
}

impl<V: View<STATE, VALUE>, const STATE: usize, const VALUE: usize> Portable
    for Read<'_, V, STATE, VALUE>
{
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        match self.layout.dim {
            1 => self.tiles(),
            4 => self.each_row(4),
            8 => self.each_row(8),
            16 => self.each_row(16),
            32 => self.each_row(32),
            64 => self.each_row(64),
            dim => self.each_row(dim),
        }
    }
}

impl<V: View<STATE, VALUE>, const STATE: usize, const VALUE: usize> Read<'_, V, STATE, VALUE> {
    #[inline(always)]
    fn each_row(self, dim: usize) {
        for (index, &row) in self.at.iter().enumerate() {
            prefetch_row(self.rows, self.layout, STATE * dim, self.at, index);
            let state = (row != MISSING).then(|| {
                let start = self.layout.start(row);
                &self.rows[start..start + STATE * dim]
            });
            let value = &mut self.values[index * VALUE * dim..(index + 1) * VALUE * dim];
            read_row(state, value, dim, self.view);
        }
    }

    #[inline(always)]
    fn tiles(self) {
        let (values, _) = self.values.as_chunks_mut::<VALUE>();
        let tiles = self.at.chunks(TILE_ROWS).zip(values.chunks_mut(TILE_ROWS));
        let mut state = [[0.0; STATE]; TILE_ROWS];
        for (tile, (at, values)) in tiles.enumerate() {
            for (index, (&row, state)) in at.iter().zip(&mut state).enumerate() {
                prefetch_row(self.rows, self.layout, STATE, self.at, tile * TILE_ROWS + index);
                *state = match row {
                    MISSING => [0.0; STATE],
                    row => columns::load(self.rows, self.layout.start(row)),
                };
            }
            for (state, value) in state.iter().zip(values) {
                *value = self.view.read(*state);
            }
        }
    }
}

/// Reads one row, or zeros, through `view`: blocks of sixteen coordinates, eight, four and one.
#[inline(always)]
pub(crate) fn read_row<V: View<STATE, VALUE>, const STATE: usize, const VALUE: usize>(
    state: Option<&[f32]>,
    value: &mut [f32],
    dim: usize,
    view: V,
) {
    let mut first = 0;
    while first + 16 <= dim {
        read_block::<V, STATE, VALUE, 16>(state, value, Block { dim, first }, view);
        first += 16;
    }
    if first + 8 <= dim {
        read_block::<V, STATE, VALUE, 8>(state, value, Block { dim, first }, view);
        first += 8;
    }
    if first + 4 <= dim {
        read_block::<V, STATE, VALUE, 4>(state, value, Block { dim, first }, view);
        first += 4;
    }
    for first in first..dim {
        read_block::<V, STATE, VALUE, 1>(state, value, Block { dim, first }, view);
    }
}

/// Which coordinates of a row a block covers.
#[derive(Clone, Copy)]
struct Block {
    dim: usize,
    first: usize,
}

#[inline(always)]
fn read_block<V, const STATE: usize, const VALUE: usize, const LANES: usize>(
    state: Option<&[f32]>,
    value: &mut [f32],
    block: Block,
    view: V,
) where
    V: View<STATE, VALUE>,
{
    let lanes: [[f32; LANES]; STATE] = array::from_fn(|column| {
        state.map_or([0.0; LANES], |row| columns::load(row, column * block.dim + block.first))
    });
    let read: [[f32; LANES]; VALUE] = columns::read_lanes(&lanes, view);
    for (column, lanes) in read.iter().enumerate() {
        let start = column * block.dim + block.first;
        value[start..start + LANES].copy_from_slice(lanes);
    }
}

/// Asks for the lines of the row that is [`ROWS_AHEAD`] of `index`; at most the first two, after
/// which the processor's own stream detection does better.
#[inline(always)]
pub(crate) fn prefetch_row(rows: &[f32], layout: Layout, width: usize, at: &[u32], index: usize) {
    const LINE: usize = CACHE_LINE_BYTES / size_of::<f32>();
    if let Some(&row) = at.get(index + ROWS_AHEAD) {
        prefetch(rows, layout.start(row));
        if width > LINE {
            prefetch(rows, layout.start(row) + LINE);
        }
    }
}

/// Panics if rows have no coordinate.
pub(crate) fn check_layout(layout: Layout) {
    assert!(layout.dim > 0, "a row has at least one coordinate");
}

/// Cuts a row into its columns.
#[inline(always)]
pub(crate) fn split_mut<const COLUMNS: usize>(
    row: &mut [f32],
    dim: usize,
) -> [&mut [f32]; COLUMNS] {
    let mut rest = row;
    array::from_fn(|_| {
        let (column, after) = mem::take(&mut rest).split_at_mut(dim);
        rest = after;
        column
    })
}

/// As [`split_mut`], to read.
#[inline(always)]
pub(crate) fn split<const COLUMNS: usize>(row: &[f32], dim: usize) -> [&[f32]; COLUMNS] {
    array::from_fn(|column| &row[column * dim..(column + 1) * dim])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats, shuffled};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn gather_copies_the_rows_bits_and_zeros_for_a_missing_one(seed: u64, spare in 0_usize..3) {
            for width in [1, 2, 4, 7, 8, 9, 16, 40] {
                for count in LENGTHS {
                    let stride = width + spare;
                    let rows = floats(seed, 100 * stride);
                    let mut at = shuffled(seed, 100, count);
                    at.iter_mut().step_by(3).for_each(|row| *row = MISSING);
                    let expected: Vec<f32> = at.iter().flat_map(|&row| match row {
                        MISSING => vec![0.0; width],
                        row => rows[row as usize * stride..][..width].to_vec(),
                    }).collect();
                    for isa in Isa::available() {
                        let mut values = vec![f32::NAN; count * width];
                        gather(isa, &rows, stride, width, &at, &mut values);
                        prop_assert_eq!(bits(&values), bits(&expected));
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_row_out_of_bounds_is_a_broken_promise() {
        gather(Isa::detect(), &[0.0; 16], 8, 8, &[2], &mut [0.0; 8]);
    }
}

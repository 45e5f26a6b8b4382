//! From rows to one stream a column, and back.
//!
//! Owns the order of numbers, nothing about them. A rule's columns differ in magnitude (an FTRL
//! push has the sum of gradients and the sum of their squares), so a scale that a block shares is
//! worth something only within one column.
//!
//! Invariant: each number has one place on either side, so one function undoes the other.

use crate::isa::{Isa, Portable};

/// What the numbers of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowShape {
    /// Columns in a row, one after the other; at least 1.
    pub columns: usize,
    /// Numbers of a row in each column; at least 1.
    pub dim: usize,
}

impl RowShape {
    /// Numbers in a row.
    #[must_use]
    pub const fn width(self) -> usize {
        self.columns * self.dim
    }
}

/// Writes rows as one stream a column.
///
/// - `rows`: `[count, columns, dim]`, row after row.
/// - `streams`: `[columns, count, dim]`, as long; stream `c` begins at `c * count * dim`.
/// - Result: the numbers' bits, on every `isa`.
/// - Panics: if the lengths differ or are no whole number of rows.
pub fn split_columns(isa: Isa, rows: &[f32], shape: RowShape, streams: &mut [f32]) {
    check(rows.len(), streams.len(), shape);
    isa.run(Split { rows, shape, streams });
}

/// Writes streams as rows: undoes [`split_columns`], with the same shapes and panics.
pub fn join_columns(isa: Isa, streams: &[f32], shape: RowShape, rows: &mut [f32]) {
    check(rows.len(), streams.len(), shape);
    isa.run(Join { streams, shape, rows });
}

fn check(rows: usize, streams: usize, shape: RowShape) {
    assert!(shape.width() > 0, "a row of {} columns of {}", shape.columns, shape.dim);
    assert_eq!(rows, streams, "numbers in rows against numbers in streams");
    assert!(rows.is_multiple_of(shape.width()), "{rows} numbers in rows of {}", shape.width());
}

struct Split<'a> {
    rows: &'a [f32],
    shape: RowShape,
    streams: &'a mut [f32],
}

impl Portable for Split<'_> {
    type Output = ();

    /// A constant `dim` makes each copy a move between registers.
    #[inline(always)]
    fn scalar(self) {
        match (self.shape.columns, self.shape.dim) {
            (1, _) => self.streams.copy_from_slice(self.rows),
            (2, 1) => self.two_of_one(),
            (_, 1) => self.units::<1>(),
            (_, 4) => self.units::<4>(),
            (_, 8) => self.units::<8>(),
            (_, 16) => self.units::<16>(),
            _ => self.any(),
        }
    }
}

impl Split<'_> {
    #[inline(always)]
    fn two_of_one(self) {
        let (first, second) = self.streams.split_at_mut(self.rows.len() / 2);
        let streams = first.iter_mut().zip(second);
        for (row, (first, second)) in self.rows.as_chunks::<2>().0.iter().zip(streams) {
            [*first, *second] = *row;
        }
    }

    #[inline(always)]
    fn units<const DIM: usize>(self) {
        let (rows, _) = self.rows.as_chunks::<DIM>();
        let (streams, _) = self.streams.as_chunks_mut::<DIM>();
        let columns = self.shape.columns;
        for (column, stream) in streams.chunks_exact_mut((rows.len() / columns).max(1)).enumerate()
        {
            for (to, unit) in stream.iter_mut().zip(rows[column..].iter().step_by(columns)) {
                *to = *unit;
            }
        }
    }

    #[inline(always)]
    fn any(self) {
        let RowShape { columns, dim } = self.shape;
        let stream_len = (self.rows.len() / columns).max(1);
        for (column, stream) in self.streams.chunks_exact_mut(stream_len).enumerate() {
            let rows = self.rows.chunks_exact(columns * dim);
            for (to, row) in stream.chunks_exact_mut(dim).zip(rows) {
                to.copy_from_slice(&row[column * dim..(column + 1) * dim]);
            }
        }
    }
}

struct Join<'a> {
    streams: &'a [f32],
    shape: RowShape,
    rows: &'a mut [f32],
}

impl Portable for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        match (self.shape.columns, self.shape.dim) {
            (1, _) => self.rows.copy_from_slice(self.streams),
            (2, 1) => self.two_of_one(),
            (_, 1) => self.units::<1>(),
            (_, 4) => self.units::<4>(),
            (_, 8) => self.units::<8>(),
            (_, 16) => self.units::<16>(),
            _ => self.any(),
        }
    }
}

impl Join<'_> {
    #[inline(always)]
    fn two_of_one(self) {
        let (first, second) = self.streams.split_at(self.rows.len() / 2);
        let streams = first.iter().zip(second);
        for (row, (first, second)) in self.rows.as_chunks_mut::<2>().0.iter_mut().zip(streams) {
            *row = [*first, *second];
        }
    }

    #[inline(always)]
    fn units<const DIM: usize>(self) {
        let (rows, _) = self.rows.as_chunks_mut::<DIM>();
        let (streams, _) = self.streams.as_chunks::<DIM>();
        let columns = self.shape.columns;
        for (column, stream) in streams.chunks_exact((rows.len() / columns).max(1)).enumerate() {
            for (from, unit) in stream.iter().zip(rows[column..].iter_mut().step_by(columns)) {
                *unit = *from;
            }
        }
    }

    #[inline(always)]
    fn any(self) {
        let RowShape { columns, dim } = self.shape;
        let stream_len = (self.rows.len() / columns).max(1);
        for (column, stream) in self.streams.chunks_exact(stream_len).enumerate() {
            let rows = self.rows.chunks_exact_mut(columns * dim);
            for (from, row) in stream.chunks_exact(dim).zip(rows) {
                row[column * dim..(column + 1) * dim].copy_from_slice(from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats};

    #[test]
    fn streams_hold_the_columns_and_join_to_the_rows() {
        for (columns, dim) in
            [(1, 1), (1, 8), (2, 1), (2, 3), (2, 4), (2, 8), (3, 1), (3, 16), (5, 2)]
        {
            for count in LENGTHS {
                let shape = RowShape { columns, dim };
                let rows = floats(count as u64, count * shape.width());
                for isa in Isa::available() {
                    let mut streams = vec![f32::NAN; rows.len()];
                    split_columns(isa, &rows, shape, &mut streams);
                    for (index, number) in rows.iter().enumerate() {
                        let (row, column) = (index / shape.width(), index % shape.width() / dim);
                        let place = (column * count + row) * dim + index % dim;
                        assert_eq!(streams[place].to_bits(), number.to_bits());
                    }
                    let mut back = vec![f32::NAN; rows.len()];
                    join_columns(isa, &streams, shape, &mut back);
                    assert_eq!(bits(&back), bits(&rows));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "3 numbers in rows of 2")]
    fn a_row_cut_off_is_a_broken_promise() {
        let shape = RowShape { columns: 2, dim: 1 };
        split_columns(Isa::scalar(), &[0.0; 3], shape, &mut [0.0; 3]);
    }
}

//! A batch of examples in compressed rows, and how a parser builds one.
//!
//! Owns the layout of `Csr` and the row-wise builder over it. Making keys unique is left to
//! `dedupe`, reading text to the formats.
//!
//! Invariant: `keys` ascends strictly and holds exactly the keys that `columns` names.

use serde::{Deserialize, Serialize};

use super::dedupe::KeyTable;
use super::hash::INTERCEPT_KEY;

/// One batch of examples in compressed rows, its keys made unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Csr {
    /// `[rows]` labels, 0.0 or 1.0. NaN for a row without label, where labels are optional.
    pub labels: Vec<f32>,
    /// `[rows]` weights of the examples, positive; empty when all are 1.0.
    pub importance: Vec<f32>,
    /// `[rows + 1]`: row `i` owns the non-zeros `row_starts[i]..row_starts[i + 1]`.
    pub row_starts: Vec<u32>,
    /// `[distinct]` keys, strictly ascending: what the batch pulls. Never `u64::MAX`.
    pub keys: Vec<u64>,
    /// `[non-zeros]`: for each, its place in `keys`.
    pub columns: Vec<u32>,
    /// `[non-zeros]` values, finite; empty when all are 1.0.
    pub values: Vec<f32>,
    /// Which pass over the source this batch is of, from 0.
    pub epoch: u32,
    /// Number of this batch in the source, counted over all portions.
    pub batch: u64,
    /// Number of the first row in the source that this batch was cut from.
    pub first_row: u64,
    /// How many rows of the source it was cut from: more than `rows()` if rows were held out, were
    /// skipped as broken, or were blank.
    pub source_rows: u32,
}

impl Csr {
    /// Count of examples.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// The non-zeros of row `row`, as a range into `columns` and `values`. Panics if there is no
    /// such row.
    pub fn row(&self, row: usize) -> std::ops::Range<usize> {
        self.row_starts[row] as usize..self.row_starts[row + 1] as usize
    }

    /// What its numbers take, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.labels)
            + size_of_val(&*self.importance)
            + size_of_val(&*self.row_starts)
            + size_of_val(&*self.keys)
            + size_of_val(&*self.columns)
            + size_of_val(&*self.values)
    }

    /// Becomes the same batch as `other`, in its own buffers.
    pub(crate) fn copy_from(&mut self, other: &Csr) {
        self.labels.clone_from(&other.labels);
        self.importance.clone_from(&other.importance);
        self.row_starts.clone_from(&other.row_starts);
        self.keys.clone_from(&other.keys);
        self.columns.clone_from(&other.columns);
        self.values.clone_from(&other.values);
        (self.epoch, self.batch, self.first_row) = (other.epoch, other.batch, other.first_row);
        self.source_rows = other.source_rows;
    }

    fn clear(&mut self) {
        self.labels.clear();
        self.importance.clear();
        self.row_starts.clear();
        self.keys.clear();
        self.columns.clear();
        self.values.clear();
    }
}

/// Whether each row gets the constant feature [`INTERCEPT_KEY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intercept {
    /// One non-zero of value 1.0 is appended to each row.
    #[default]
    Append,
    /// Rows stay as they were read.
    None,
}

/// Builds one batch after the other, row by row. One per parser thread: it keeps its scratch.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    csr: Csr,
    raw_keys: Vec<u64>,
    table: KeyTable,
    intercept: Intercept,
}

/// Where a batch stands in its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) batch: u64,
    pub(crate) first_row: u64,
    pub(crate) source_rows: u32,
}

impl Builder {
    pub(crate) fn new(intercept: Intercept) -> Builder {
        Builder { intercept, ..Builder::default() }
    }

    /// Starts a batch in the buffers of `spare`.
    pub(crate) fn start(&mut self, mut spare: Csr, place: Place) {
        spare.clear();
        spare.row_starts.push(0);
        spare.batch = place.batch;
        spare.first_row = place.first_row;
        spare.source_rows = place.source_rows;
        self.csr = spare;
        self.raw_keys.clear();
    }

    /// Adds a non-zero of value 1.0 to the row under way.
    #[inline]
    pub(crate) fn one(&mut self, key: u64) {
        self.raw_keys.push(key);
        if !self.csr.values.is_empty() {
            self.csr.values.push(1.0);
        }
    }

    /// Adds a non-zero to the row under way. A value of zero adds nothing: it moves no weight.
    #[inline]
    pub(crate) fn value(&mut self, key: u64, value: f32) {
        if value == 1.0 {
            return self.one(key);
        }
        if value != 0.0 {
            if self.csr.values.is_empty() {
                self.csr.values.resize(self.raw_keys.len(), 1.0);
            }
            self.raw_keys.push(key);
            self.csr.values.push(value);
        }
    }

    /// Ends the row under way and keeps it.
    #[inline]
    pub(crate) fn end_row(&mut self, label: f32, importance: f32) {
        if self.intercept == Intercept::Append {
            self.one(INTERCEPT_KEY);
        }
        if importance != 1.0 && self.csr.importance.is_empty() {
            self.csr.importance.resize(self.csr.labels.len(), 1.0);
        }
        self.csr.labels.push(label);
        if importance != 1.0 || !self.csr.importance.is_empty() {
            self.csr.importance.push(importance);
        }
        self.csr.row_starts.push(self.raw_keys.len() as u32);
    }

    /// Forgets the row under way.
    pub(crate) fn drop_row(&mut self) {
        let row_start = *self.csr.row_starts.last().expect("start pushes the first") as usize;
        self.raw_keys.truncate(row_start);
        self.csr.values.truncate(row_start);
    }

    /// Makes the keys unique and hands the batch over.
    pub(crate) fn finish(&mut self) -> Csr {
        let mut csr = std::mem::take(&mut self.csr);
        assert!(self.raw_keys.len() < u32::MAX as usize, "a block's bytes are bounded below this");
        self.table.unique(&self.raw_keys, &mut csr.keys, &mut csr.columns);
        csr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { batch: 0, first_row: 0, source_rows: 3 };

    #[test]
    fn a_dropped_row_leaves_neither_keys_nor_values() {
        let mut builder = Builder::new(Intercept::None);
        builder.start(Csr::default(), PLACE);
        builder.one(7);
        builder.end_row(1.0, 1.0);
        builder.value(9, 2.0);
        builder.drop_row();
        builder.value(3, 0.5);
        builder.one(7);
        builder.end_row(0.0, 2.0);
        let csr = builder.finish();
        assert_eq!(csr.keys, [3, 7]);
        assert_eq!(csr.columns, [1, 0, 1]);
        assert_eq!(csr.values, [1.0, 0.5, 1.0]);
        assert_eq!(csr.importance, [1.0, 2.0]);
        assert_eq!((csr.row(0), csr.row(1)), (0..1, 1..3));
    }

    #[test]
    fn values_and_importance_stay_empty_while_all_are_one() {
        let mut builder = Builder::new(Intercept::Append);
        builder.start(Csr::default(), PLACE);
        builder.value(7, 1.0);
        builder.value(8, 0.0);
        builder.end_row(1.0, 1.0);
        let csr = builder.finish();
        assert_eq!(csr.keys, [7, INTERCEPT_KEY]);
        assert!(csr.values.is_empty() && csr.importance.is_empty());
    }
}

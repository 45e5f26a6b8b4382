//! A table: keys, rows and the rule that changes them.
//!
//! Owns the walk of a batch: find the rows, add the missing ones, hand row numbers to the rule.
//! Searching is left to `index`, arithmetic to the rule.
//!
//! Invariant: room for a batch is made before its first row changes, so a push is applied whole
//! or not at all.

use std::sync::Arc;

use kernels::copy::for_other_core;
use kernels::{Isa, MISSING};
use memory::Arena;
use wire::{Seal, TableSize, TableSpec};
use zerocopy::IntoBytes;

use crate::index::Index;
use crate::rule::{Rows, Rule, Widths};

/// Keys that are searched together and then applied, so that their rows are still in the cache.
const BLOCK_KEYS: usize = 256;

/// Values on their way into an answer that another core reads: gathered here, then copied past
/// the cache. 16 KiB, half of a first-level cache.
const GATHERED_FLOATS: usize = 4096;

/// Why a table does not take more rows. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// How many it has.
    pub(crate) rows: u64,
}

/// One table of one shard.
#[derive(Debug)]
pub(crate) struct Table {
    spec: TableSpec,
    rule: Arc<dyn Rule>,
    widths: Widths,
    stride: usize,
    rows_max: usize,
    rows: usize,
    index: Index,
    floats: Arena<f32>,
    isa: Isa,
}

impl Table {
    /// An empty table.
    ///
    /// - `bytes_max`: what its rows may take.
    /// - Errors: [`Full`], if the kernel gives no memory even for an empty one.
    pub(crate) fn new(
        isa: Isa,
        spec: TableSpec,
        rule: Arc<dyn Rule>,
        bytes_max: u64,
    ) -> Result<Table, Full> {
        let widths = rule.widths(spec.dim as usize);
        let stride = stride(widths.row);
        let row_bytes = (stride * size_of::<f32>()) as u64;
        let rows_max = (bytes_max / row_bytes).clamp(1, u64::from(MISSING)) as usize;
        let index = Index::new().map_err(|_| Full { rows: 0 })?;
        let floats = Arena::reserve(rows_max * stride).map_err(|_| Full { rows: 0 })?;
        let rows_max = rows_max.min(floats.items_max() / stride);
        Ok(Table { spec, rule, widths, stride, rows_max, rows: 0, index, floats, isa })
    }

    pub(crate) fn spec(&self) -> &TableSpec {
        &self.spec
    }

    pub(crate) fn widths(&self) -> Widths {
        self.widths
    }

    pub(crate) fn size(&self) -> TableSize {
        let bytes = self.index.bytes() + self.rows * self.stride * size_of::<f32>();
        TableSize { rows: self.rows as u64, bytes: bytes as u64 }
    }

    /// Applies `[keys, widths.delta]` deltas to the rows of distinct keys, adding missing rows.
    pub(crate) fn push(&mut self, keys: &[u64], deltas: &[f32]) -> Result<(), Full> {
        self.make_room(keys)?;
        let mut at = [0; BLOCK_KEYS];
        let delta_blocks = deltas.chunks(BLOCK_KEYS * self.widths.delta);
        for (keys, deltas) in keys.chunks(BLOCK_KEYS).zip(delta_blocks) {
            let at = &mut at[..keys.len()];
            self.find_or_add(keys, at);
            let Table { isa, stride, .. } = *self;
            let floats = self.floats.as_mut_slice();
            let rows = Rows { floats, stride, dim: self.spec.dim as usize };
            self.rule.apply(isa, rows, at, deltas);
        }
        Ok(())
    }

    /// Writes `[keys, widths.value]` values; an absent key reads as a row of zeros and stays
    /// absent.
    ///
    /// - `seal`: of the answer; where the way is this host's memory, another core reads `values`.
    pub(crate) fn pull(&self, keys: &[u64], values: &mut [f32], seal: Seal) {
        let mut at = [0; BLOCK_KEYS];
        let value_blocks = values.chunks_mut(BLOCK_KEYS * self.widths.value);
        for (keys, values) in keys.chunks(BLOCK_KEYS).zip(value_blocks) {
            let at = &mut at[..keys.len()];
            let floats = self.floats.as_slice();
            self.index.find(self.isa, keys, at, floats, self.stride);
            match seal {
                Seal::Body => self.read(at, values),
                Seal::HeaderOnly => self.read_for_other_core(at, values),
            }
        }
    }

    fn read(&self, at: &[u32], values: &mut [f32]) {
        let floats = self.floats.as_slice();
        let rows = Rows { floats, stride: self.stride, dim: self.spec.dim as usize };
        self.rule.read(self.isa, rows, at, values);
    }

    fn read_for_other_core(&self, at: &[u32], values: &mut [f32]) {
        let width = self.widths.value;
        let rows_at_once = GATHERED_FLOATS / width;
        if rows_at_once == 0 {
            return self.read(at, values);
        }
        let mut gathered = [0.0; GATHERED_FLOATS];
        for (at, values) in at.chunks(rows_at_once).zip(values.chunks_mut(rows_at_once * width)) {
            let gathered = &mut gathered[..values.len()];
            self.read(at, gathered);
            for_other_core(self.isa, gathered.as_bytes(), values.as_mut_bytes());
        }
    }

    /// Writes whole rows, `[keys, widths.row]`. Of equal keys the last one stays.
    pub(crate) fn load(&mut self, keys: &[u64], rows: &[f32]) -> Result<(), Full> {
        self.make_room(keys)?;
        for (key, row) in keys.iter().zip(rows.chunks_exact(self.widths.row)) {
            let mut at = [0];
            self.find_or_add(std::slice::from_ref(key), &mut at);
            self.row_mut(at[0]).copy_from_slice(row);
        }
        Ok(())
    }

    /// Count of lines of the index; see [`Table::line`].
    pub(crate) fn lines(&self) -> usize {
        self.index.lines()
    }

    /// The keys and whole rows of one line of the index.
    pub(crate) fn line(&self, line: usize) -> impl Iterator<Item = (u64, &[f32])> {
        self.index.line(line).map(|(key, row)| {
            let start = row as usize * self.stride;
            (key, &self.floats.as_slice()[start..start + self.widths.row])
        })
    }

    fn row_mut(&mut self, row: u32) -> &mut [f32] {
        let start = row as usize * self.stride;
        &mut self.floats.as_mut_slice()[start..start + self.widths.row]
    }

    /// Reserves what a batch may need: cheaply as if all its keys were new, exactly if that is
    /// more than the table may have.
    fn make_room(&mut self, keys: &[u64]) -> Result<(), Full> {
        let full = Full { rows: self.rows as u64 };
        let mut more = keys.len();
        if self.rows + more > self.rows_max {
            more = self.count_missing(keys);
            if self.rows + more > self.rows_max {
                return Err(full);
            }
        }
        self.index.reserve(more).map_err(|_| full)?;
        self.floats.grow_to((self.rows + more) * self.stride).map_err(|_| full)
    }

    #[cold]
    fn count_missing(&self, keys: &[u64]) -> usize {
        let mut at = [0; BLOCK_KEYS];
        let count = |keys: &[u64]| {
            let at = &mut at[..keys.len()];
            self.index.find(self.isa, keys, at, self.floats.as_slice(), self.stride);
            at.iter().filter(|&&row| row == MISSING).count()
        };
        keys.chunks(BLOCK_KEYS).map(count).sum()
    }

    /// Row numbers of the keys of a block, after [`Table::make_room`]. Keys are distinct, or come
    /// one by one.
    fn find_or_add(&mut self, keys: &[u64], at: &mut [u32]) {
        self.index.find(self.isa, keys, at, self.floats.as_slice(), self.stride);
        for (&key, row) in keys.iter().zip(at) {
            if *row == MISSING {
                *row = u32::try_from(self.rows).expect("rows_max fits 32 bits");
                self.index.insert(key, *row);
                self.rows += 1;
            }
        }
    }
}

/// Distance of rows: a power of two up to one cache line, whole lines above, so that a small row
/// never lies across two lines.
fn stride(row_width: usize) -> usize {
    const LINE_FLOATS: usize = 16;
    if row_width <= LINE_FLOATS {
        row_width.next_power_of_two()
    } else {
        row_width.next_multiple_of(LINE_FLOATS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rule::{Adam, Sum, table_spec};

    fn sums(bytes_max: u64) -> Table {
        let spec = table_spec("counts", 2, &Sum);
        Table::new(Isa::detect(), spec, Arc::new(Sum), bytes_max).expect("a small table")
    }

    #[test]
    fn a_push_that_does_not_fit_changes_nothing() {
        let mut table = sums(8 * 3);
        table.push(&[1, 2], &[1.0; 4]).expect("two of three rows");
        assert_eq!(table.push(&[1, 2, 3, 4], &[1.0; 8]), Err(Full { rows: 2 }));
        table.push(&[1, 2, 3], &[1.0; 6]).expect("one more row");
        let mut values = [9.0; 8];
        table.pull(&[1, 2, 3, 4], &mut values, Seal::HeaderOnly);
        assert_eq!(values, [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(table.size().rows, 3);
    }

    #[test]
    fn rows_that_were_scanned_load_into_the_same_table() {
        let rule = Adam { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
        let spec = table_spec("weights", 3, &rule);
        let make = || Table::new(Isa::detect(), spec.clone(), Arc::new(rule), 1 << 20);
        let (mut first, mut second) = (make().expect("small"), make().expect("small"));
        let keys: Vec<u64> = (0..700).map(|n| n * 977).collect();
        first.push(&keys, &vec![0.25; 2100]).expect("room");
        for line in 0..first.lines() {
            for (key, row) in first.line(line) {
                second.load(&[key], row).expect("room");
            }
        }
        first.push(&keys, &vec![-0.5; 2100]).expect("room");
        second.push(&keys, &vec![-0.5; 2100]).expect("room");
        let (mut one, mut two) = (vec![0.0; 2100], vec![0.0; 2100]);
        first.pull(&keys, &mut one, Seal::HeaderOnly);
        second.pull(&keys, &mut two, Seal::HeaderOnly);
        assert_eq!(one, two);
    }

    proptest! {
        #[test]
        fn pushes_of_sums_read_as_an_ordinary_map_would(
            batches in proptest::collection::vec(
                proptest::collection::btree_map(0_u64..1000, -8_i8..8, 0..600), 0..8),
        ) {
            let mut table = sums(1 << 20);
            let mut oracle: BTreeMap<u64, f32> = BTreeMap::new();
            for batch in &batches {
                let keys: Vec<u64> = batch.keys().copied().collect();
                let deltas: Vec<f32> =
                    batch.values().flat_map(|&d| [f32::from(d), -f32::from(d)]).collect();
                table.push(&keys, &deltas).expect("room");
                for (key, delta) in batch {
                    *oracle.entry(*key).or_default() += f32::from(*delta);
                }
            }
            prop_assert_eq!(table.size().rows, oracle.len() as u64);
            let keys: Vec<u64> = (0..1000).collect();
            let mut values = vec![0.0; 2000];
            table.pull(&keys, &mut values, Seal::HeaderOnly);
            for (key, value) in keys.iter().zip(values.chunks_exact(2)) {
                let sum = oracle.get(key).copied().unwrap_or(0.0);
                prop_assert_eq!(value, &[sum, -sum]);
            }
        }
    }
}

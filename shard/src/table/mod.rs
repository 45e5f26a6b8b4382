//! A table: keys, rows and the rule that changes them.
//!
//! Owns the walk of a batch: find the rows, add the missing ones, hand their places to the rule.
//! Searching is left to `index`, rows that lie apart to `rows`, arithmetic to the rule.
//!
//! A narrow row lies in one line of the cache with its key, a wider one in an arena of rows.
//!
//! Invariant: room for a batch is made before its first row changes, so a push is applied whole
//! or not at all.

mod index;
mod rows;

use std::sync::Arc;

use kernels::copy::for_other_core;
use kernels::lines::{Holds, Layout, PAYLOAD_WORDS_MAX, Payload};
use kernels::probe::Elsewhere;
use kernels::{Isa, MISSING};
use wire::{Seal, TableSize, TableSpec};
use zerocopy::IntoBytes;

use self::index::Index;
use self::rows::RowArena;
use crate::rule::{Pulled, Rows, Rule, Widths};

/// Keys that are searched together and then applied, so that their rows are still in the cache.
const BLOCK_KEYS: usize = 512;

/// Lines that one part of the upkeep moves: some 30 us.
const LINES_TENDED: usize = 256;

/// Values on their way into an answer that another core reads: gathered here, then copied past
/// the cache. 16 KiB, half of a first-level cache.
const GATHERED_FLOATS: usize = 4096;

/// Rows that lie one behind another.
const IN_ORDER: [u32; BLOCK_KEYS] = {
    let (mut numbers, mut number) = ([0; BLOCK_KEYS], 0);
    while number < BLOCK_KEYS {
        numbers[number] = number as u32;
        number += 1;
    }
    numbers
};

/// Why a table does not take more rows. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// How many it has.
    pub(crate) rows: u64,
}

/// Work on a table that no request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upkeep {
    /// There is none.
    None,
    /// It is for when there is nothing else to do.
    MayWait,
    /// It comes before further long requests, which would make it more than can be done in parts.
    Owed,
}

/// One table of one shard.
#[derive(Debug)]
pub(crate) struct Table {
    spec: TableSpec,
    rule: Arc<dyn Rule>,
    widths: Widths,
    rows_max: usize,
    index: Index,
    /// The rows, where they do not lie in the index's lines.
    rows: Option<RowArena>,
    isa: Isa,
}

impl Table {
    /// An empty table.
    ///
    /// - `bytes_max`: what it may take, index included. `seed`: the order of keys in its lines.
    /// - Errors: [`Full`], if the kernel gives no memory even for an empty one.
    pub(crate) fn new(
        isa: Isa,
        spec: TableSpec,
        rule: Arc<dyn Rule>,
        bytes_max: u64,
        seed: u64,
    ) -> Result<Table, Full> {
        const FULL: Full = Full { rows: 0 };
        let widths = rule.widths(spec.dim as usize);
        let within = widths.row <= PAYLOAD_WORDS_MAX;
        let layout = if within {
            Layout::new(Holds::Row, widths.row)
        } else {
            Layout::new(Holds::Number, 1)
        };
        let layout = layout.expect("a row has a number, and a narrow one fits a line");
        let row_bytes = if within { 0 } else { rows::stride(widths.row) * size_of::<f32>() };
        let rows_max = rows_within(layout, row_bytes, bytes_max);
        let lines_max = Index::lines_for(layout, rows_max);
        let index = Index::new(layout, lines_max, seed).map_err(|_| FULL)?;
        let rows = (!within).then(|| RowArena::new(widths.row, rows_max));
        let rows = rows.transpose().map_err(|_| FULL)?;
        let rows_max = rows.as_ref().map_or(rows_max, |rows| rows_max.min(rows.rows_max()));
        let rows_max = rows_max.min(index.keys_max());
        Ok(Table { spec, rule, widths, rows_max, index, rows, isa })
    }

    pub(crate) fn spec(&self) -> &TableSpec {
        &self.spec
    }

    pub(crate) fn widths(&self) -> Widths {
        self.widths
    }

    pub(crate) fn size(&self) -> TableSize {
        let bytes = self.index.bytes() + self.rows.as_ref().map_or(0, RowArena::bytes);
        TableSize { rows: self.index.keys() as u64, bytes: bytes as u64 }
    }

    /// Applies `[keys, widths.delta]` deltas to the rows of distinct keys, adding missing rows.
    ///
    /// - `seed`: of the push's name, for rules that round by chance.
    pub(crate) fn push(&mut self, keys: &[u64], deltas: &[f32], seed: u64) -> Result<(), Full> {
        self.make_room(keys)?;
        let mut at = [0; BLOCK_KEYS];
        let delta_blocks = deltas.chunks(BLOCK_KEYS * self.widths.delta);
        for (block, deltas) in (0..keys.len()).step_by(BLOCK_KEYS).zip(delta_blocks) {
            let keys = &keys[block..];
            let at = &mut at[..keys.len().min(BLOCK_KEYS)];
            self.find_or_add(keys, at);
            let dim = self.spec.dim as usize;
            let (floats, stride) = floats_mut(&mut self.index, &mut self.rows);
            let rows = Rows { floats, stride, dim };
            self.rule.apply_seeded(self.isa, rows, at, deltas, seed);
        }
        Ok(())
    }

    /// Writes `[keys, widths.value]` values; an absent key reads as a row of zeros and stays
    /// absent.
    ///
    /// - `seal`: of the answer; where the way is this host's memory, another core reads `values`.
    pub(crate) fn pull(&self, keys: &[u64], values: &mut [f32], seal: Seal) {
        if self.rows.is_none() && self.rule.pulled() == Pulled::Row {
            if seal == Seal::Body {
                return self.index.read(self.isa, keys, values);
            }
            if self.index.read_past_cache(self.isa, keys, values).is_some() {
                return;
            }
        }
        let (mut at, mut copied) = ([0; BLOCK_KEYS], [0.0; BLOCK_KEYS * PAYLOAD_WORDS_MAX]);
        let value_blocks = values.chunks_mut(BLOCK_KEYS * self.widths.value);
        for (block, values) in (0..keys.len()).step_by(BLOCK_KEYS).zip(value_blocks) {
            let (keys, count) = (&keys[block..], (keys.len() - block).min(BLOCK_KEYS));
            if self.rows.is_some() {
                self.find(keys, &mut at[..count]);
                self.read(self.all_rows(), &at[..count], values, seal);
            } else {
                let stride = self.widths.row;
                let copied = &mut copied[..count * stride];
                self.index.read(self.isa, keys, copied);
                let rows = Rows { floats: &*copied, stride, dim: self.spec.dim as usize };
                self.read(rows, &IN_ORDER[..count], values, seal);
            }
        }
    }

    /// Hands rows to the rule, and what it makes of them on to where `values` are read.
    fn read(&self, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32], seal: Seal) {
        let width = self.widths.value;
        let rows_at_once = GATHERED_FLOATS / width;
        if seal == Seal::Body || rows_at_once == 0 {
            return self.rule.read(self.isa, rows, at, values);
        }
        let mut gathered = [0.0; GATHERED_FLOATS];
        for (at, values) in at.chunks(rows_at_once).zip(values.chunks_mut(rows_at_once * width)) {
            let gathered = &mut gathered[..values.len()];
            self.rule.read(self.isa, rows, at, gathered);
            for_other_core(self.isa, gathered.as_bytes(), values.as_mut_bytes());
        }
    }

    /// Writes whole rows, `[keys, widths.row]`. Of equal keys the last one stays.
    pub(crate) fn load(&mut self, keys: &[u64], rows: &[f32]) -> Result<(), Full> {
        self.make_room(keys)?;
        for (key, row) in keys.iter().zip(rows.chunks_exact(self.widths.row)) {
            let mut at = [0];
            self.find_or_add(std::slice::from_ref(key), &mut at);
            let (floats, stride) = floats_mut(&mut self.index, &mut self.rows);
            let start = at[0] as usize * stride;
            floats[start..start + row.len()].copy_from_slice(row);
        }
        Ok(())
    }

    /// Takes rows out. An absent key is none of them.
    pub(crate) fn remove(&mut self, keys: &[u64]) {
        for &key in keys {
            if let (Some(payload), Some(rows)) = (self.index.remove(key), &mut self.rows) {
                rows.free(payload[0]);
            }
        }
    }

    /// Does a part of the upkeep. What is left.
    pub(crate) fn tend(&mut self) -> Upkeep {
        self.index.tend(LINES_TENDED)
    }

    /// What upkeep there is.
    pub(crate) fn upkeep(&self) -> Upkeep {
        self.index.upkeep()
    }

    /// Count of lines of the index; see [`Table::line`].
    pub(crate) fn lines(&self) -> usize {
        self.index.lines()
    }

    /// Differs once a row may have moved to another line; see [`Table::line`].
    pub(crate) fn changes(&self) -> u64 {
        self.index.changes()
    }

    /// The keys and whole rows of one line of the index.
    pub(crate) fn line(&self, line: usize) -> impl Iterator<Item = (u64, &[f32])> {
        let Rows { floats, stride, .. } = self.all_rows();
        self.index.line(line).map(move |(key, row)| {
            let start = row as usize * stride;
            (key, &floats[start..start + self.widths.row])
        })
    }

    /// All rows, to read.
    fn all_rows(&self) -> Rows<&[f32]> {
        let (floats, stride) = match &self.rows {
            Some(rows) => (rows.floats(), rows.stride()),
            None => (self.index.floats(), 1),
        };
        Rows { floats, stride, dim: self.spec.dim as usize }
    }

    fn find(&self, keys: &[u64], at: &mut [u32]) {
        let elsewhere = match &self.rows {
            Some(rows) => Elsewhere { data: rows.floats(), stride: rows.stride() },
            None => Elsewhere { data: &[], stride: 1 },
        };
        self.index.find(self.isa, keys, at, elsewhere);
    }

    /// Reserves what a batch may need: cheaply as if all its keys were new, exactly if that is
    /// more than the table may have.
    fn make_room(&mut self, keys: &[u64]) -> Result<(), Full> {
        let rows = self.index.keys();
        let full = Full { rows: rows as u64 };
        let mut more = keys.len();
        if rows + more > self.rows_max {
            more = self.count_missing(keys);
            if rows + more > self.rows_max {
                return Err(full);
            }
        }
        self.index.reserve(more).map_err(|_| full)?;
        self.rows.as_mut().map_or(Ok(()), |rows| rows.reserve(more)).map_err(|_| full)
    }

    #[cold]
    fn count_missing(&self, keys: &[u64]) -> usize {
        let mut at = [0; BLOCK_KEYS];
        let count = |keys: &[u64]| {
            let at = &mut at[..keys.len()];
            self.find(keys, at);
            at.iter().filter(|&&row| row == MISSING).count()
        };
        keys.chunks(BLOCK_KEYS).map(count).sum()
    }

    /// Places of the rows of a block, after [`Table::make_room`]. Keys are distinct, or come one
    /// by one; those past `at` are searched next.
    fn find_or_add(&mut self, keys: &[u64], at: &mut [u32]) {
        self.find(keys, at);
        let changes = self.index.changes();
        for (&key, row) in keys.iter().zip(at.iter_mut()) {
            if *row == MISSING {
                let mut payload = Payload::default();
                if let Some(rows) = &mut self.rows {
                    payload[0] = rows.add();
                }
                *row = self.index.insert(key, &payload);
            }
        }
        if self.rows.is_none() && self.index.changes() != changes {
            self.find(keys, at);
        }
    }
}

/// What holds a table's rows, to change, and from one row to the next in f32.
fn floats_mut<'a>(index: &'a mut Index, rows: &'a mut Option<RowArena>) -> (&'a mut [f32], usize) {
    match rows {
        Some(rows) => {
            let stride = rows.stride();
            (rows.floats_mut(), stride)
        }
        None => (index.floats_mut(), 1),
    }
}

/// How many rows fit in so many bytes with their index, at least one.
fn rows_within(layout: Layout, row_bytes: usize, bytes_max: u64) -> usize {
    const LINE_BYTES: u64 = 64;
    // The bytes of a hundred lines, and the rows that they index.
    let rows = Index::keys_of(layout, 100) as u64;
    let bytes = 100 * LINE_BYTES + rows * row_bytes as u64;
    let rows = u128::from(bytes_max) * u128::from(rows) / u128::from(bytes);
    rows.clamp(1, u128::from(MISSING - 1)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rule::{Adam, Sum, table_spec};

    fn sums(bytes_max: u64) -> Table {
        let spec = table_spec("counts", 2, &Sum);
        Table::new(Isa::detect(), spec, Arc::new(Sum), bytes_max, 0).expect("a small table")
    }

    #[test]
    fn a_push_that_does_not_fit_changes_nothing() {
        let mut table = sums(19 * 3);
        table.push(&[1, 2], &[1.0; 4], 0).expect("two of three rows");
        assert_eq!(table.push(&[1, 2, 3, 4], &[1.0; 8], 0), Err(Full { rows: 2 }));
        table.push(&[1, 2, 3], &[1.0; 6], 0).expect("one more row");
        let mut values = [9.0; 8];
        table.pull(&[1, 2, 3, 4], &mut values, Seal::HeaderOnly);
        assert_eq!(values, [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(table.size().rows, 3);
    }

    #[test]
    fn rows_that_were_scanned_load_into_the_same_table() {
        let rule = Adam { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
        let spec = table_spec("weights", 3, &rule);
        let make = |seed| Table::new(Isa::detect(), spec.clone(), Arc::new(rule), 1 << 20, seed);
        // Of one seed, so that rows come in the order of the lines that they are loaded to.
        let (mut first, mut second) = (make(3).expect("small"), make(3).expect("small"));
        let keys: Vec<u64> = (0..700).map(|n| n * 977).collect();
        first.push(&keys, &vec![0.25; 2100], 0).expect("room");
        for line in 0..first.lines() {
            for (key, row) in first.line(line) {
                second.load(&[key], row).expect("room");
            }
        }
        first.push(&keys, &vec![-0.5; 2100], 0).expect("room");
        second.push(&keys, &vec![-0.5; 2100], 0).expect("room");
        let (mut one, mut two) = (vec![0.0; 2100], vec![0.0; 2100]);
        first.pull(&keys, &mut one, Seal::HeaderOnly);
        second.pull(&keys, &mut two, Seal::HeaderOnly);
        assert_eq!(one, two);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn pushes_loads_and_removals_of_any_dim_read_as_an_ordinary_map_would(
            dim in 1_u32..10, seed: u64,
            steps in proptest::collection::vec(
                (0_u8..4, proptest::collection::btree_set(0_u64..3000, 0..900)), 1..12),
        ) {
            let spec = table_spec("counts", dim, &Sum);
            let mut table = Table::new(Isa::detect(), spec, Arc::new(Sum), 1 << 24, seed)
                .expect("a small table");
            let (width, mut oracle) = (dim as usize, BTreeMap::<u64, f32>::new());
            let rows_of = |keys: &[u64], value: f32| vec![value; keys.len() * width];
            for (kind, keys) in &steps {
                let keys: Vec<u64> = keys.iter().copied().collect();
                match kind {
                    0 => {
                        table.remove(&keys);
                        oracle.retain(|key, _| keys.binary_search(key).is_err());
                    }
                    1 => {
                        table.load(&keys, &rows_of(&keys, 5.0)).expect("room");
                        oracle.extend(keys.iter().map(|&key| (key, 5.0)));
                    }
                    _ => {
                        table.push(&keys, &rows_of(&keys, 2.0), 0).expect("room");
                        keys.iter().for_each(|&key| *oracle.entry(key).or_default() += 2.0);
                    }
                }
                prop_assert_eq!(table.size().rows, oracle.len() as u64);
            }
            let keys: Vec<u64> = (0..3000).collect();
            for seal in [Seal::Body, Seal::HeaderOnly] {
                let mut values = vec![f32::NAN; keys.len() * width];
                table.pull(&keys, &mut values, seal);
                for (key, row) in keys.iter().zip(values.chunks_exact(width)) {
                    let sum = oracle.get(key).copied().unwrap_or(0.0);
                    prop_assert!(row.iter().all(|&value| value == sum), "{} {:?}", key, row);
                }
            }
            let scanned: BTreeMap<u64, f32> = (0..table.lines())
                .flat_map(|line| table.line(line).map(|(key, row)| (key, row[0])))
                .collect();
            prop_assert_eq!(scanned, oracle);
        }

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
                table.push(&keys, &deltas, 0).expect("room");
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

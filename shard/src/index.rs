//! A table's index: from key to row number, in lines of eight keys.
//!
//! Owns the lines, their growth and the order of a scan. Searching a batch is left to
//! `kernels::probe`, the rows to `table`.
//!
//! Invariant: a key lies in its home line or in a later one with no empty place between; at most
//! [`LOAD_MAX`] of the places are taken, so every search ends.

use kernels::Isa;
use kernels::probe::{self, EMPTY};
use memory::Arena;

/// Lines of a fresh index.
const LINES_FIRST: usize = 64;

/// Places taken before the index doubles, in tenths. Source: `BENCHMARKS.md`, index load.
const LOAD_MAX_TENTHS: usize = 7;

/// Keys in a line.
const LANES: usize = 8;

/// Why the index does not grow: the kernel gives no memory. The index is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// The index of one table.
#[derive(Debug)]
pub(crate) struct Index {
    keys: Arena<[u64; LANES]>,
    rows: Arena<[u32; LANES]>,
    taken: usize,
}

impl Index {
    pub(crate) fn new() -> Result<Index, NoMemory> {
        let (keys, rows) = lines(LINES_FIRST)?;
        Ok(Index { keys, rows, taken: 0 })
    }

    /// Writes the row number of each wanted key, or `kernels::MISSING`, and starts fetching the
    /// rows from `floats`.
    pub(crate) fn find(
        &self,
        isa: Isa,
        wanted: &[u64],
        found: &mut [u32],
        floats: &[f32],
        stride: usize,
    ) {
        let (keys, rows) = (self.keys.as_slice(), self.rows.as_slice());
        probe::find(isa, keys, rows, wanted, found, floats, stride);
    }

    /// Makes room for so many more keys, so that [`Index::insert`] cannot fail.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        let wanted = self.taken + more;
        let mut count = self.keys.len();
        while wanted * 10 > count * LANES * LOAD_MAX_TENTHS {
            count *= 2;
        }
        if count == self.keys.len() {
            return Ok(());
        }
        let (keys, rows) = lines(count)?;
        let mut larger = Index { keys, rows, taken: 0 };
        for (line_keys, line_rows) in self.keys.as_slice().iter().zip(self.rows.as_slice()) {
            for (&key, &row) in line_keys.iter().zip(line_rows) {
                if key != EMPTY {
                    larger.insert(key, row);
                }
            }
        }
        *self = larger;
        Ok(())
    }

    /// Adds a key that is absent, after [`Index::reserve`].
    pub(crate) fn insert(&mut self, key: u64, row: u32) {
        let (line, lane) = probe::find_empty(self.keys.as_slice(), key);
        self.keys.as_mut_slice()[line][lane] = key;
        self.rows.as_mut_slice()[line][lane] = row;
        self.taken += 1;
    }

    /// Count of lines: a scan walks them, and another count makes its cursor stale.
    pub(crate) fn lines(&self) -> usize {
        self.keys.len()
    }

    /// The keys and row numbers of a line.
    pub(crate) fn line(&self, line: usize) -> impl Iterator<Item = (u64, u32)> {
        let pairs = self.keys.as_slice()[line].into_iter().zip(self.rows.as_slice()[line]);
        pairs.filter(|&(key, _)| key != EMPTY)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.keys.len() * size_of::<[u64; LANES]>() + self.rows.len() * size_of::<[u32; LANES]>()
    }
}

/// Keys and row numbers, line by line.
type Lines = (Arena<[u64; LANES]>, Arena<[u32; LANES]>);

/// So many empty lines.
fn lines(count: usize) -> Result<Lines, NoMemory> {
    let mut keys = Arena::reserve(count).map_err(|_| NoMemory)?;
    let mut rows = Arena::reserve(count).map_err(|_| NoMemory)?;
    keys.grow_to(count).map_err(|_| NoMemory)?;
    rows.grow_to(count).map_err(|_| NoMemory)?;
    keys.as_mut_slice().fill([EMPTY; LANES]);
    Ok((keys, rows))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_inserted_key_is_found_and_no_other(
            keys in proptest::collection::hash_set(0_u64..5000, 0..2500),
        ) {
            let mut index = Index::new().expect("a small index");
            let mut oracle = HashMap::new();
            for (row, key) in (0_u32..).zip(keys) {
                index.reserve(1).expect("a small index");
                index.insert(key, row);
                oracle.insert(key, row);
            }
            let wanted: Vec<u64> = (0..5000).collect();
            for isa in Isa::available() {
                let mut found = vec![0; wanted.len()];
                index.find(isa, &wanted, &mut found, &[0.0; 16], 0);
                for (key, row) in wanted.iter().zip(found) {
                    prop_assert_eq!(oracle.get(key).copied().unwrap_or(kernels::MISSING), row);
                }
            }
            let scanned: HashMap<u64, u32> =
                (0..index.lines()).flat_map(|line| index.line(line)).collect();
            prop_assert_eq!(scanned, oracle);
        }
    }
}

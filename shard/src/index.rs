//! A table's index: from key to row number, in lines of five keys.
//!
//! Owns the lines, their growth and the order of a scan. Searching a batch is left to
//! `kernels::probe`, the rows to `table`.
//!
//! Invariant: a key lies in its home line or in a later one with no empty place between; at most
//! seven tenths of the places are taken, so every search ends.

use kernels::Isa;
use kernels::probe::{self, EMPTY_LINE, LANES, Line};
use memory::Arena;

/// Lines of a fresh index.
const LINES_FIRST: usize = 64;

/// Places taken before the index doubles, in tenths. Fuller lines make longer searches: see
/// `docs/decisions/0006-keys-and-row-numbers-in-one-line.md`.
const LOAD_MAX_TENTHS: usize = 6;

/// Why the index does not grow: the kernel gives no memory. The index is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// The index of one table.
#[derive(Debug)]
pub(crate) struct Index {
    lines: Arena<Line>,
    taken: usize,
}

impl Index {
    pub(crate) fn new() -> Result<Index, NoMemory> {
        Ok(Index { lines: lines(LINES_FIRST)?, taken: 0 })
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
        probe::find(isa, self.lines.as_slice(), wanted, found, floats, stride);
    }

    /// Makes room for so many more keys, so that [`Index::insert`] cannot fail.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        let wanted = self.taken + more;
        let mut count = self.lines.len();
        while wanted * 10 > count * LANES * LOAD_MAX_TENTHS {
            count *= 2;
        }
        if count == self.lines.len() {
            return Ok(());
        }
        let mut larger = Index { lines: lines(count)?, taken: 0 };
        for (key, row) in self.lines.as_slice().iter().flat_map(probe::entries) {
            larger.insert(key, row);
        }
        *self = larger;
        Ok(())
    }

    /// Adds a key that is absent, after [`Index::reserve`].
    pub(crate) fn insert(&mut self, key: u64, row: u32) {
        probe::insert(self.lines.as_mut_slice(), key, row);
        self.taken += 1;
    }

    /// Count of lines: a scan walks them, and another count makes its cursor stale.
    pub(crate) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// The keys and row numbers of a line.
    pub(crate) fn line(&self, line: usize) -> impl Iterator<Item = (u64, u32)> {
        probe::entries(&self.lines.as_slice()[line])
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }
}

/// So many empty lines.
fn lines(count: usize) -> Result<Arena<Line>, NoMemory> {
    let mut lines = Arena::reserve(count).map_err(|_| NoMemory)?;
    lines.grow_to(count).map_err(|_| NoMemory)?;
    lines.as_mut_slice().fill(EMPTY_LINE);
    Ok(lines)
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

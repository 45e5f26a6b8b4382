//! Making the keys of a batch unique and sorted.
//!
//! Owns the scratch for it: a hash table of the numbers of keys. Knows no row and no value; sorting
//! is left to `kernels::order`.
//!
//! Invariant: at most a quarter of the slots hold a number, so that a search rarely goes on: a
//! search that does is a branch nobody foresees, and costs more than a table twice as large.

use kernels::order::{Keyed, Sorter};

/// Scratch that turns raw keys into distinct ascending ones. Reused from batch to batch; it only
/// grows.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    /// Numbers of keys, or `FREE`. A power of two of them.
    slots: Vec<u32>,
    /// The first `count` are the distinct keys so far, by number: in the order of appearance.
    distinct: Vec<u64>,
    count: usize,
    sorter: Sorter,
    sorted: Vec<Entry>,
    ranks: Vec<u32>,
}

/// A distinct key and its number.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: u64,
    number: u32,
}

impl Keyed for Entry {
    #[inline(always)]
    fn key(&self) -> u64 {
        self.key
    }
}

const FREE: u32 = u32::MAX;
const SLOTS_MIN: usize = 1 << 10;
/// Slots for each key that may be there.
const SLOTS_PER_KEY: usize = 4;
/// Keys that are numbered at a time.
const CHUNK_KEYS: usize = 1 << 10;

impl KeyTable {
    /// Fills `keys` with the distinct keys of `raw`, ascending, and `columns` with each raw key's
    /// place in `keys`. Both are overwritten.
    pub(crate) fn unique(&mut self, raw: &[u64], keys: &mut Vec<u64>, columns: &mut Vec<u32>) {
        self.count = 0;
        self.slots.fill(FREE);
        columns.clear();
        columns.resize(raw.len(), 0);
        for (raw, columns) in raw.chunks(CHUNK_KEYS).zip(columns.chunks_mut(CHUNK_KEYS)) {
            self.number(raw, columns);
        }
        self.sort(keys);
        for column in columns {
            *column = self.ranks[*column as usize];
        }
    }

    /// Writes to `columns` the numbers of up to [`CHUNK_KEYS`] keys. Room for all of them is made
    /// before, so that no step asks for it.
    fn number(&mut self, raw: &[u64], columns: &mut [u32]) {
        let mut count = self.count;
        let keys_max = count + raw.len();
        self.distinct.resize(self.distinct.len().max(keys_max), 0);
        if keys_max * SLOTS_PER_KEY > self.slots.len() {
            self.resize((keys_max * SLOTS_PER_KEY).next_power_of_two().max(SLOTS_MIN));
        }
        let (slots, distinct) = (&mut self.slots[..], &mut self.distinct[..]);
        let mask = slots.len() - 1;
        let shift = u64::BITS - slots.len().ilog2();
        for (column, &key) in columns.iter_mut().zip(raw) {
            let mut at = (spread(key) >> shift) as usize & mask;
            *column = loop {
                let number = slots[at];
                if number == FREE {
                    slots[at] = count as u32;
                    distinct[count] = key;
                    count += 1;
                    break count as u32 - 1;
                }
                if distinct[number as usize] == key {
                    break number;
                }
                at = (at + 1) & mask;
            };
        }
        self.count = count;
    }

    #[cold]
    fn resize(&mut self, slots: usize) {
        self.slots.clear();
        self.slots.resize(slots, FREE);
        let shift = u64::BITS - slots.ilog2();
        for (number, &key) in self.distinct[..self.count].iter().enumerate() {
            let mut at = (spread(key) >> shift) as usize;
            while self.slots[at] != FREE {
                at = (at + 1) & (slots - 1);
            }
            self.slots[at] = number as u32;
        }
    }

    /// Sorts the distinct keys into `keys` and writes each one's place there to `ranks`.
    fn sort(&mut self, keys: &mut Vec<u64>) {
        let KeyTable { distinct, sorter, sorted, ranks, count, .. } = self;
        let entry = |number| Entry { key: distinct[number], number: number as u32 };
        sorter.sort(*count, entry, sorted);
        keys.clear();
        keys.resize(*count, 0);
        ranks.resize(ranks.len().max(*count), 0);
        for (rank, (key, entry)) in keys.iter_mut().zip(sorted).enumerate() {
            *key = entry.key;
            ranks[entry.number as usize] = rank as u32;
        }
    }
}

/// Fibonacci hashing: feature numbers are dense, and hashed keys lose nothing by it.
#[inline]
fn spread(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(table: &mut KeyTable, raw: &[u64]) {
        let (mut keys, mut columns) = (vec![5], vec![5]);
        table.unique(raw, &mut keys, &mut columns);
        let expected: std::collections::BTreeSet<u64> = raw.iter().copied().collect();
        assert!(keys.iter().eq(expected.iter()));
        assert!(columns.iter().map(|&column| keys[column as usize]).eq(raw.iter().copied()));
    }

    #[test]
    fn empty_equal_extreme_and_many_keys_come_out_distinct_and_ascending() {
        let mut table = KeyTable::default();
        check(&mut table, &[]);
        check(&mut table, &[3, 3, 3]);
        check(&mut table, &[u64::MAX - 1, 0, 1 << 63, 0]);
        check(&mut table, &(0..999).chain([1 << 63]).collect::<Vec<_>>());
        check(&mut table, &[0]);
        check(&mut table, &[u64::MAX - 1]);
        check(&mut table, &(0..40_000).map(|i| i * i % 30_011).collect::<Vec<_>>());
        check(&mut table, &(0..40_000).map(super::super::hash::mix).collect::<Vec<_>>());
        check(&mut table, &[9, 8, 9]);
    }

    proptest! {
        #[test]
        fn any_keys_come_out_distinct_and_ascending(
            batches in prop::collection::vec(prop::collection::vec(0u64..5000, 0..3000), 1..4),
            spread_bits in 0u32..50,
        ) {
            let mut table = KeyTable::default();
            for raw in batches {
                check(&mut table, &raw.iter().map(|key| key << spread_bits).collect::<Vec<_>>());
            }
        }
    }
}

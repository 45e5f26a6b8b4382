//! Making the keys of a batch unique and sorted.
//!
//! Owns the scratch for it: a hash table that is emptied by changing its stamp, and a bucket sort.
//! Knows no row and no value.
//!
//! Invariant: a slot counts only if its stamp is the table's; at most half of the slots count.

/// Scratch that turns raw keys into distinct ascending ones. Reused from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    slots: Vec<Slot>,
    stamp: u32,
    shift: u32,
    distinct: Vec<Entry>,
    sorted: Vec<Entry>,
    bucket_ends: Vec<u32>,
    ranks: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    stamp: u32,
    index: u32,
}

/// A distinct key and its number in the order of first appearance.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: u64,
    index: u32,
}

const SLOTS_MIN: usize = 1 << 10;
/// Keys that are numbered at a time.
const CHUNK_KEYS: usize = 1 << 10;
const BUCKETS_MAX: usize = 1 << 14;

impl KeyTable {
    /// Fills `keys` with the distinct keys of `raw`, ascending, and `columns` with each raw key's
    /// place in `keys`. Both are overwritten.
    pub(crate) fn unique(&mut self, raw: &[u64], keys: &mut Vec<u64>, columns: &mut Vec<u32>) {
        self.forget();
        columns.clear();
        columns.resize(raw.len(), 0);
        for (raw, columns) in raw.chunks(CHUNK_KEYS).zip(columns.chunks_mut(CHUNK_KEYS)) {
            self.number(raw, columns);
        }
        self.sort();
        keys.clear();
        keys.extend(self.sorted.iter().map(|entry| entry.key));
        for column in columns {
            *column = self.ranks[*column as usize];
        }
    }

    fn forget(&mut self) {
        self.distinct.clear();
        if self.stamp == u32::MAX {
            self.slots.fill(Slot::default());
            self.stamp = 0;
        }
        self.stamp += 1;
    }

    /// Writes to `columns` the numbers, in the order of first appearance, of up to
    /// [`CHUNK_KEYS`] keys. Room for all of them is made before, so that no step asks for it.
    fn number(&mut self, raw: &[u64], columns: &mut [u32]) {
        let mut count = self.distinct.len();
        let keys_max = count + raw.len();
        if keys_max * 2 > self.slots.len() {
            self.resize((keys_max * 2).next_power_of_two().max(SLOTS_MIN));
        }
        self.distinct.resize(keys_max, Entry::default());
        let (slots, distinct) = (&mut self.slots[..], &mut self.distinct[..]);
        let (stamp, shift, mask) = (self.stamp, self.shift, slots.len() - 1);
        for (column, &key) in columns.iter_mut().zip(raw) {
            let mut at = (spread(key) >> shift) as usize;
            *column = loop {
                let slot = &mut slots[at & mask];
                if slot.stamp != stamp {
                    let index = count as u32;
                    *slot = Slot { key, stamp, index };
                    distinct[count] = Entry { key, index };
                    count += 1;
                    break index;
                }
                if slot.key == key {
                    break slot.index;
                }
                at += 1;
            };
        }
        self.distinct.truncate(count);
    }

    #[cold]
    fn resize(&mut self, slots: usize) {
        self.slots.clear();
        self.slots.resize(slots, Slot::default());
        self.shift = u64::BITS - slots.ilog2();
        self.stamp = 1;
        for &Entry { key, index } in &self.distinct {
            let mut at = (spread(key) >> self.shift) as usize;
            while self.slots[at & (slots - 1)].stamp == self.stamp {
                at += 1;
            }
            self.slots[at & (slots - 1)] = Slot { key, stamp: self.stamp, index };
        }
    }

    /// Sorts `distinct` into `sorted` and writes each entry's place there to `ranks`.
    ///
    /// One scatter into buckets over the keys' range, then a comparison sort inside each. Hashed
    /// keys are spread evenly, so a bucket holds one or two; clustered ones cost a plain sort.
    fn sort(&mut self) {
        let keys = || self.distinct.iter().map(|entry| entry.key);
        let (Some(low), Some(high)) = (keys().min(), keys().max()) else {
            self.sorted.clear();
            return;
        };
        let buckets = self.distinct.len().next_power_of_two().min(BUCKETS_MAX);
        let range_bits = u64::BITS - (high - low).leading_zeros();
        let shift = range_bits.saturating_sub(buckets.ilog2());
        let bucket_of = |key: u64| ((key - low) >> shift) as usize;

        self.bucket_ends.clear();
        self.bucket_ends.resize(buckets + 1, 0);
        for key in keys() {
            self.bucket_ends[bucket_of(key) + 1] += 1;
        }
        for bucket in 1..=buckets {
            self.bucket_ends[bucket] += self.bucket_ends[bucket - 1];
        }
        self.sorted.resize(self.distinct.len(), Entry::default());
        for entry in &self.distinct {
            let end = &mut self.bucket_ends[bucket_of(entry.key)]; // So far its start.
            self.sorted[*end as usize] = *entry;
            *end += 1;
        }
        let mut start = 0;
        for &end in &self.bucket_ends[..buckets] {
            match &mut self.sorted[start as usize..end as usize] {
                [] | [_] => {}
                [low, high] => {
                    let (below, above) = (*low, *high);
                    let is_swapped = above.key < below.key;
                    *low = if is_swapped { above } else { below };
                    *high = if is_swapped { below } else { above };
                }
                bucket => bucket.sort_unstable_by_key(|entry| entry.key),
            }
            start = end;
        }
        self.ranks.resize(self.distinct.len(), 0);
        for (rank, entry) in self.sorted.iter().enumerate() {
            self.ranks[entry.index as usize] = rank as u32;
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
        check(&mut table, &(0..40_000).map(|i| i * i % 30_011).collect::<Vec<_>>());
        check(&mut table, &(0..40_000).map(super::super::hash::mix).collect::<Vec<_>>());
        table.stamp = u32::MAX;
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

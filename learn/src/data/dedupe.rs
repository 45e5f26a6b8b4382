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
    /// The first `count` are the distinct keys so far. As all scratch here, it only grows.
    distinct: Vec<Entry>,
    count: usize,
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
/// Largest bucket with which all buckets are sorted by insertion.
const INSERTION_MAX: u32 = 16;

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
        self.sort(keys);
        for column in columns {
            *column = self.ranks[*column as usize];
        }
    }

    fn forget(&mut self) {
        self.count = 0;
        if self.stamp == u32::MAX {
            self.slots.fill(Slot::default());
            self.stamp = 0;
        }
        self.stamp += 1;
    }

    /// Writes to `columns` the numbers, in the order of first appearance, of up to
    /// [`CHUNK_KEYS`] keys. Room for all of them is made before, so that no step asks for it.
    ///
    /// One key in five is new, which no branch predictor can tell. So a new key and one that is in
    /// its first slot take the same path, on which every store is made; only a key that another
    /// one has pushed out of its slot takes a branch.
    fn number(&mut self, raw: &[u64], columns: &mut [u32]) {
        let mut count = self.count;
        let keys_max = count + raw.len();
        if keys_max * 2 > self.slots.len() {
            self.resize((keys_max * 2).next_power_of_two().max(SLOTS_MIN));
        }
        // One more, for the store of a key that is not new.
        self.distinct.resize(self.distinct.len().max(keys_max + 1), Entry::default());
        let (slots, distinct) = (&mut self.slots[..], &mut self.distinct[..]);
        let (stamp, shift, mask) = (self.stamp, self.shift, slots.len() - 1);
        for (column, &key) in columns.iter_mut().zip(raw) {
            let mut at = (spread(key) >> shift) as usize & mask;
            let mut slot = slots[at];
            while slot.stamp == stamp && slot.key != key {
                at = (at + 1) & mask;
                slot = slots[at];
            }
            let is_new = slot.stamp != stamp;
            let index = std::hint::select_unpredictable(is_new, count as u32, slot.index);
            slots[at] = Slot { key, stamp, index };
            distinct[count] = Entry { key, index };
            count += usize::from(is_new);
            *column = index;
        }
        self.count = count;
    }

    #[cold]
    fn resize(&mut self, slots: usize) {
        self.slots.clear();
        self.slots.resize(slots, Slot::default());
        self.shift = u64::BITS - slots.ilog2();
        self.stamp = 1;
        for &Entry { key, index } in &self.distinct[..self.count] {
            let mut at = (spread(key) >> self.shift) as usize;
            while self.slots[at & (slots - 1)].stamp == self.stamp {
                at += 1;
            }
            self.slots[at & (slots - 1)] = Slot { key, stamp: self.stamp, index };
        }
    }

    /// Sorts the distinct keys into `keys` and writes each one's place there to `ranks`.
    ///
    /// One scatter into buckets over the keys' range, then a sort inside each. Hashed keys are
    /// spread evenly, so that a bucket holds one or two and all of them together are sorted by
    /// insertion, in one pass; clustered ones cost a plain sort.
    fn sort(&mut self, keys: &mut Vec<u64>) {
        let KeyTable { distinct, sorted, bucket_ends, ranks, count, .. } = self;
        let distinct = &distinct[..*count];
        keys.clear();
        keys.resize(*count, 0);
        let Some(first) = distinct.first() else { return };
        let (low, high) = distinct.iter().fold((first.key, first.key), |(low, high), entry| {
            (low.min(entry.key), high.max(entry.key))
        });
        let buckets = count.next_power_of_two().min(BUCKETS_MAX);
        let range_bits = u64::BITS - (high - low).leading_zeros();
        let shift = range_bits.saturating_sub(buckets.ilog2());
        let bucket_of = |key: u64| ((key - low) >> shift) as usize;

        bucket_ends.clear();
        bucket_ends.resize(buckets, 0);
        for entry in distinct {
            bucket_ends[bucket_of(entry.key)] += 1;
        }
        let (mut start, mut largest) = (0, 0);
        for end in &mut bucket_ends[..] {
            largest = largest.max(*end);
            start += std::mem::replace(end, start); // So far its start.
        }
        sorted.resize(sorted.len().max(*count), Entry::default());
        let sorted = &mut sorted[..*count];
        for entry in distinct {
            let end = &mut bucket_ends[bucket_of(entry.key)];
            sorted[*end as usize] = *entry;
            *end += 1;
        }
        if largest <= INSERTION_MAX {
            sort_by_insertion(sorted);
        } else {
            let mut start = 0;
            for &end in &bucket_ends[..] {
                sorted[start as usize..end as usize].sort_unstable_by_key(|entry| entry.key);
                start = end;
            }
        }
        ranks.resize(ranks.len().max(*count), 0);
        for (rank, (key, entry)) in keys.iter_mut().zip(sorted).enumerate() {
            *key = entry.key;
            ranks[entry.index as usize] = rank as u32;
        }
    }
}

/// Sorts what is nearly sorted: each entry moves down past those above it.
fn sort_by_insertion(entries: &mut [Entry]) {
    for top in 1..entries.len() {
        let entry = entries[top];
        let mut at = top;
        while at > 0 && entries[at - 1].key > entry.key {
            entries[at] = entries[at - 1];
            at -= 1;
        }
        if at < top {
            entries[at] = entry;
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

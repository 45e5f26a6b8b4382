//! Items in the ascending order of their keys, by one scatter.
//!
//! Owns the sort of keys that are spread over a range, as hashes and feature numbers are: one pass
//! puts each into a bucket of its part of the range, one pass of insertions moves it by a place or
//! two. Keys that crowd in a part of their range cost a plain sort of each bucket.
//!
//! Invariant: the result is ascending whatever the keys; how they are spread changes time alone.

/// Buckets, at most: their ends lie in a second-level cache.
const BUCKETS_MAX: usize = 1 << 14;
/// Largest bucket with which all items are sorted by insertion.
const INSERTION_MAX: u32 = 16;

/// What is sorted by its key.
pub trait Keyed: Copy + Default {
    /// What decides its place.
    fn key(&self) -> u64;
}

impl Keyed for u64 {
    #[inline(always)]
    fn key(&self) -> u64 {
        *self
    }
}

/// Sorts batch after batch. Its scratch only grows, up to `BUCKETS_MAX` numbers.
#[derive(Debug, Default)]
pub struct Sorter {
    bucket_ends: Vec<u32>,
}

impl Sorter {
    /// Overwrites `sorted` with the items 0 to `count - 1`, in the ascending order of their keys;
    /// items of one key in any order.
    ///
    /// - `item`: gives the item of a number. It is asked for each of them three times.
    /// - Panics: beyond 2^32 - 1 items.
    pub fn sort<T: Keyed>(&mut self, count: usize, item: impl Fn(usize) -> T, sorted: &mut Vec<T>) {
        assert!(u32::try_from(count).is_ok(), "{count} items to sort");
        sorted.resize(count, T::default());
        if count == 0 {
            return;
        }
        let spread = Spread::of((0..count).map(|number| item(number).key()));
        let buckets = count.next_power_of_two().min(BUCKETS_MAX);
        let range_bits = u64::BITS - (spread.second - spread.low).leading_zeros();
        let shift = range_bits.saturating_sub(buckets.ilog2());
        let bucket_of = |key: u64| (((key - spread.low) >> shift) as usize).min(buckets - 1);

        let bucket_ends = &mut self.bucket_ends;
        bucket_ends.clear();
        bucket_ends.resize(buckets, 0);
        for number in 0..count {
            bucket_ends[bucket_of(item(number).key())] += 1;
        }
        let (mut start, mut largest) = (0, 0);
        for end in &mut bucket_ends[..] {
            largest = largest.max(*end);
            start += std::mem::replace(end, start); // So far its start.
        }
        for number in 0..count {
            let item = item(number);
            let end = &mut bucket_ends[bucket_of(item.key())];
            sorted[*end as usize] = item;
            *end += 1;
        }
        if largest <= INSERTION_MAX {
            return sort_by_insertion(sorted);
        }
        let mut start = 0;
        for &end in &bucket_ends[..] {
            sorted[start as usize..end as usize].sort_unstable_by_key(T::key);
            start = end;
        }
    }
}

/// Where keys lie. The highest is left out of the range: feature numbers are dense, but for a
/// constant feature's key, which may be far above them and would put all of them in one bucket.
#[derive(Clone, Copy, Debug)]
struct Spread {
    low: u64,
    second: u64,
}

impl Spread {
    /// The lowest and the second highest of `keys`; the same one if there is but one.
    fn of(keys: impl Iterator<Item = u64>) -> Spread {
        let (mut low, mut second, mut high) = (u64::MAX, 0, 0);
        for key in keys {
            low = low.min(key);
            second = second.max(key.min(high));
            high = high.max(key);
        }
        Spread { low, second: second.max(low) }
    }
}

/// Sorts what is nearly sorted: each item moves down past those above it.
fn sort_by_insertion<T: Keyed>(items: &mut [T]) {
    for top in 1..items.len() {
        let item = items[top];
        let mut at = top;
        while at > 0 && items[at - 1].key() > item.key() {
            items[at] = items[at - 1];
            at -= 1;
        }
        if at < top {
            items[at] = item;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::mix;

    fn check(sorter: &mut Sorter, keys: &[u64]) {
        let (mut sorted, mut expected) = (vec![7], keys.to_vec());
        sorter.sort(keys.len(), |number| keys[number], &mut sorted);
        expected.sort_unstable();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn few_equal_extreme_crowded_and_many_keys_come_out_in_order() {
        let mut sorter = Sorter::default();
        check(&mut sorter, &[]);
        check(&mut sorter, &[3]);
        check(&mut sorter, &[3, 3, 3]);
        check(&mut sorter, &[u64::MAX, 0, 1 << 63, 0]);
        check(&mut sorter, &(0..999).chain([1 << 63]).rev().collect::<Vec<_>>());
        check(&mut sorter, &(0..40_000).map(|i| i * i % 30_011).collect::<Vec<_>>());
        check(&mut sorter, &(0..40_000).map(mix).collect::<Vec<_>>());
        check(&mut sorter, &(0..9000).map(|i| mix(i) % 40 + ((i % 2) << 60)).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn any_keys_come_out_in_order(
            batches in prop::collection::vec(prop::collection::vec(0_u64..5000, 0..3000), 1..4),
            spread_bits in 0_u32..50,
        ) {
            let mut sorter = Sorter::default();
            for keys in batches {
                check(&mut sorter, &keys.iter().map(|key| key << spread_bits).collect::<Vec<_>>());
            }
        }
    }
}

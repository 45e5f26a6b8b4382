//! Hot keys: which few keys a shard is asked for most often.
//!
//! Owns a sketch of the keys that are pulled: a fixed number of counters, in sets of a few ways, of
//! which a new key takes over the smallest (Metwally, Agrawal, El Abbadi, "Efficient computation
//! of frequent and top-k elements in data streams", 2005, cut into sets). One key in
//! [`SAMPLE_KEYS`] is looked at, so that a pull pays next to nothing. What is done about hot keys
//! is left to workers.
//!
//! Invariant: a counter is never below how often its key was looked at since it came, halvings
//! aside, and exceeds that by its `over` at most.

use kernels::hash::mix;
use wire::TableId;

/// Pulled keys of which one is looked at, in the mean. The gaps are drawn, so that a key at a fixed
/// place of every pull is seen as often as it is asked for.
const SAMPLE_KEYS: u64 = 128;

/// Sets of counters; a power of two.
const SETS: usize = 64;

/// Counters of a set.
const WAYS: usize = 4;

/// Keys that are shown at most.
pub const HOT_KEYS_MAX: usize = 8;

/// A key is hot whose part of what is pulled is at least one in so many.
const HOT_ONE_OF: u32 = 256;

/// And which was seen at least so often.
const HOT_SAMPLES_MIN: u32 = 2;

/// Keys looked at after which all counters are halved: what was hot is forgotten.
const WINDOW_SAMPLES: u32 = 1 << 13;

/// Keys looked at between two looks at which are hot.
const LOOK_EVERY_SAMPLES: u32 = 32;

/// A shard is hot once its hot keys are together one in so many of all that is pulled.
const HOT_SHARD_ONE_OF: u32 = 4;

/// And is so until they are fewer than this.
const COOL_SHARD_ONE_OF: u32 = 8;

/// A key that is asked for often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HotKey {
    /// Its table.
    pub table: TableId,
    /// The key.
    pub key: u64,
    /// Its part of all keys that were pulled from the shard lately, in millionths, at least; 0
    /// where there is no key.
    pub share_ppm: u32,
}

/// The sketch.
#[derive(Debug)]
pub(crate) struct HotKeys {
    counters: Box<[[Counter; WAYS]; SETS]>,
    /// Keys to pass over before one is looked at.
    gap: u64,
    /// Gaps drawn.
    draws: u64,
    /// Keys looked at, halved with the counters.
    samples: u32,
    top: [HotKey; HOT_KEYS_MAX],
    is_hot: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    key: u64,
    table: TableId,
    count: u32,
    /// Of it, what may be another key's.
    over: u32,
}

impl Default for HotKeys {
    fn default() -> HotKeys {
        HotKeys {
            counters: Box::new([[Counter::default(); WAYS]; SETS]),
            gap: SAMPLE_KEYS,
            draws: 0,
            samples: 0,
            top: [HotKey::default(); HOT_KEYS_MAX],
            is_hot: false,
        }
    }
}

impl HotKeys {
    /// Notes the keys of a pull.
    #[inline]
    pub(crate) fn note(&mut self, table: TableId, keys: &[u64]) {
        let count = keys.len() as u64;
        if self.gap < count {
            self.look(table, keys);
        } else {
            self.gap -= count;
        }
    }

    /// The hottest keys, the hottest first; places without a key are last.
    pub(crate) fn top(&self) -> [HotKey; HOT_KEYS_MAX] {
        self.top
    }

    /// Whether a few keys are a good part of what is pulled.
    pub(crate) fn is_hot(&self) -> bool {
        self.is_hot
    }

    /// Looks at the keys whose turn it is; there is at least one.
    fn look(&mut self, table: TableId, keys: &[u64]) {
        while let Some(&key) = usize::try_from(self.gap).ok().and_then(|gap| keys.get(gap)) {
            self.count(table, key);
            self.draws += 1;
            self.gap += 1 + mix(self.draws) % (2 * SAMPLE_KEYS - 1);
        }
        self.gap -= keys.len() as u64;
    }

    fn count(&mut self, table: TableId, key: u64) {
        let set = mix(key ^ u64::from(table.get()) << 48) as usize % SETS;
        let set = &mut self.counters[set];
        let is_its = |counter: &&mut Counter| {
            counter.count > 0 && (counter.key, counter.table) == (key, table)
        };
        if let Some(counter) = set.iter_mut().find(is_its) {
            counter.count += 1;
        } else if let Some(least) = set.iter_mut().min_by_key(|counter| counter.count) {
            *least = Counter { key, table, count: least.count + 1, over: least.count };
        }
        self.samples += 1;
        if self.samples.is_multiple_of(LOOK_EVERY_SAMPLES) {
            self.find_top();
        }
        if self.samples >= WINDOW_SAMPLES {
            self.samples /= 2;
            for counter in self.counters.iter_mut().flatten() {
                (counter.count, counter.over) = (counter.count / 2, counter.over / 2);
            }
        }
    }

    /// Looks for the hottest keys, and whether they are a good part of all.
    fn find_top(&mut self) {
        let hot_min = (self.samples / HOT_ONE_OF).max(HOT_SAMPLES_MIN);
        let (mut together, mut top) = (0, [(0, TableId::default(), 0); HOT_KEYS_MAX]);
        for counter in self.counters.iter().flatten() {
            let sure = counter.count - counter.over;
            if sure < hot_min {
                continue;
            }
            together += sure;
            let place = top.partition_point(|&(more, ..)| more >= sure);
            if place < top.len() {
                top[place..].rotate_right(1);
                top[place] = (sure, counter.table, counter.key);
            }
        }
        let one_of = if self.is_hot { COOL_SHARD_ONE_OF } else { HOT_SHARD_ONE_OF };
        self.is_hot = together >= self.samples / one_of;
        self.top = top.map(|(sure, table, key)| HotKey {
            table,
            key,
            share_ppm: (u64::from(sure) * 1_000_000 / u64::from(self.samples)) as u32,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: TableId = TableId::new(0);

    /// Pulls of 64 keys, ascending, of which one in so many is a hot one.
    fn pulls(sketch: &mut HotKeys, count: u64, hot: &[u64], hot_one_of: u64, first: u64) {
        for pull in 0..count {
            let draw = |place: u64| mix(first + pull * 64 + place);
            let mut keys: Vec<u64> = (0..64)
                .map(|place| match draw(place) % hot_one_of {
                    0 => hot[(draw(place) >> 32) as usize % hot.len()],
                    _ => 1000 + mix(draw(place)) % 1_000_000,
                })
                .collect();
            keys.sort_unstable();
            keys.iter().for_each(|key| sketch.note(TABLE, std::slice::from_ref(key)));
        }
    }

    fn found(sketch: &HotKeys) -> Vec<u64> {
        let shown = sketch.top().into_iter().filter(|key| key.share_ppm > 0);
        shown.map(|hot| hot.key).collect()
    }

    #[test]
    fn the_keys_that_are_asked_for_most_are_found_and_make_the_shard_hot() {
        let mut sketch = HotKeys::default();
        pulls(&mut sketch, 20_000, &[7, 8, 9], 2, 0);
        let mut keys = found(&sketch);
        keys.sort_unstable();
        assert_eq!(keys, [7, 8, 9]);
        let shares = sketch.top().map(|hot| hot.share_ppm);
        // A sixth each; what may be another's is not counted.
        assert!(shares[..3].iter().all(|&ppm| (120_000..200_000).contains(&ppm)), "{shares:?}");
        assert!(sketch.is_hot());
    }

    #[test]
    fn keys_that_are_asked_for_alike_are_not_hot() {
        let mut sketch = HotKeys::default();
        pulls(&mut sketch, 20_000, &[7], u64::MAX, 0);
        assert_eq!(found(&sketch), [0_u64; 0]);
        assert!(!sketch.is_hot());
    }

    #[test]
    fn what_was_hot_is_forgotten() {
        let mut sketch = HotKeys::default();
        pulls(&mut sketch, 20_000, &[7], 2, 0);
        assert_eq!(found(&sketch), [7]);
        pulls(&mut sketch, 60_000, &[8], 2, 1 << 40);
        assert_eq!(found(&sketch), [8]);
        pulls(&mut sketch, 200_000, &[8], u64::MAX, 2 << 40);
        assert_eq!(found(&sketch), [0_u64; 0]);
        assert!(!sketch.is_hot());
    }

    #[test]
    fn a_key_at_the_same_place_of_every_pull_is_seen_as_often_as_others() {
        let mut sketch = HotKeys::default();
        let keys: Vec<u64> = (0..SAMPLE_KEYS).collect();
        (0..20_000).for_each(|_| sketch.note(TABLE, &keys));
        // 128 keys share all pulls: each has some 7800 of a million, more than one in 256.
        let counts: Vec<u32> = sketch.top().map(|hot| hot.share_ppm).to_vec();
        assert!(counts.iter().all(|&ppm| ppm < 20_000), "{counts:?}");
    }
}

//! Probing: from keys to row numbers, through lines of five keys with their rows' numbers.
//!
//! Owns where a key may lie and how a batch is looked up with the cache asked ahead. Inserting,
//! removing and growing are bookkeeping and left to `shard`.
//!
//! An index is a power of two of lines, each one line of the cache: five keys, then their five
//! row numbers, so that a look-up waits for memory once before it waits for the row. Invariant,
//! which [`insert`] keeps: a key lies in its home line or in one after it with no [`EMPTY`] lane
//! in a line between; so a line with an empty lane ends a search.

use crate::hash::mix;
use crate::isa::{Isa, Level};
use crate::lanes::{CACHE_LINE_BYTES, prefetch, prefetch_for_later};
use crate::rows::MISSING;

/// The key of a lane that holds none. No caller's key may be this one; a search for it misses.
pub const EMPTY: u64 = u64::MAX;
/// Keys in a line.
pub const LANES: usize = 5;
/// One line: [`LANES`] keys, then their row numbers, two a word, the earlier one in the low half.
pub type Line = [u64; LINE_WORDS];
/// A line that holds no key.
pub const EMPTY_LINE: Line = [EMPTY; LINE_WORDS];

/// 64-bit words in a line.
const LINE_WORDS: usize = CACHE_LINE_BYTES / size_of::<u64>();
/// Bit `i` for each lane `i`: what a comparison says of the words after the keys means nothing.
const KEY_LANES: u32 = (1 << LANES) - 1;
/// Keys between the one at work and the one whose line the cache is asked for. A power of two.
/// With 32 a first-level cache's buffers for lines under way ran out: a sixth slower.
const KEYS_AHEAD: usize = 16;
/// Keys whose unfinished searches are noted together.
const BLOCK_KEYS: usize = 64;

/// The line that a key's search starts in: the top bits of its hash.
///
/// - `lines`: how many there are, a power of two.
#[inline(always)]
#[must_use]
pub const fn home(key: u64, lines: usize) -> usize {
    debug_assert!(lines.is_power_of_two());
    // Twice, because a shift by 64 (of one line) is not a shift.
    (mix(key) >> 1 >> (63 - lines.trailing_zeros())) as usize
}

/// Looks up a batch of keys, and asks the cache for the rows it finds.
///
/// - `lines`: the index, a power of two of lines. Correct anywhere, fast where a line starts on a
///   line of the cache.
/// - `wanted`: `[count]` keys. `found`: `[count]`, receives row numbers, [`MISSING`] for no row.
/// - `data`, `stride`: the arena that the row numbers point in, and f32 from one row to the next;
///   only for the cache: a row's first line is asked for, and the second where the stride is more
///   than one. An empty slice will do.
/// - Result: the same on every `isa`.
/// - Panics: if the lengths differ, the lines are not a power of two, or `wanted` has more than
///   `u32::MAX` keys.
pub fn find(
    isa: Isa,
    lines: &[Line],
    wanted: &[u64],
    found: &mut [u32],
    data: &[f32],
    stride: usize,
) {
    assert!(lines.len().is_power_of_two(), "{} lines are not a power of two", lines.len());
    assert_eq!(wanted.len(), found.len(), "wanted keys against found rows");
    assert!(u32::try_from(wanted.len()).is_ok(), "a batch of {} keys", wanted.len());
    let batch = Find { lines, wanted, found, data, stride };
    match isa.level() {
        // SAFETY: only `Isa::detect` makes an `Isa` of level `Avx512`, after CPUID reported it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(batch) },
        // SAFETY: the same for `Avx2`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(batch) },
        _ => scalar(batch),
    }
}

/// Adds a key that is absent, in the first empty lane that a search for it comes by.
///
/// - `lines`: a power of two of them.
/// - Panics: if no lane is empty. `shard` grows an index long before.
pub fn insert(lines: &mut [Line], key: u64, row: u32) {
    let first = home(key, lines.len());
    let mut places = (0..lines.len()).filter_map(|step| {
        let line = (first + step) & (lines.len() - 1);
        lines[line][..LANES].iter().position(|&held| held == EMPTY).map(|lane| (line, lane))
    });
    let (line, lane) = places.next().expect("an index that is full was not grown");
    lines[line][lane] = key;
    let (word, shift) = row_place(lane);
    let others = lines[line][word] & !(u64::from(u32::MAX) << shift);
    lines[line][word] = others | u64::from(row) << shift;
}

/// The keys of a line with their row numbers.
pub fn entries(line: &Line) -> impl Iterator<Item = (u64, u32)> {
    let lanes = (0..LANES).filter(|&lane| line[lane] != EMPTY);
    lanes.map(|lane| (line[lane], row_at(line, lane)))
}

/// Where the row number of a lane lies: its word, and its lowest bit there.
#[inline(always)]
const fn row_place(lane: usize) -> (usize, u32) {
    (LANES + lane / 2, 32 * (lane as u32 % 2))
}

#[inline(always)]
fn row_at(line: &Line, lane: usize) -> u32 {
    let (word, shift) = row_place(lane);
    (line[word % LINE_WORDS] >> shift) as u32
}

struct Find<'a> {
    lines: &'a [Line],
    wanted: &'a [u64],
    found: &'a mut [u32],
    data: &'a [f32],
    stride: usize,
}

/// The lanes of one line: bit `i` for lane `i`.
#[derive(Clone, Copy)]
struct Lanes {
    /// Those that hold the wanted key: one at most, unless that is [`EMPTY`].
    equal: u32,
    /// Those that hold no key.
    empty: u32,
}

impl Lanes {
    /// The row number beside the wanted key, or [`MISSING`].
    #[inline(always)]
    fn row(self, line: &Line) -> u32 {
        let held = self.equal & !self.empty;
        let row = row_at(line, held.trailing_zeros() as usize % LINE_WORDS);
        if held == 0 { MISSING } else { row }
    }
}

/// The reference.
fn scalar(batch: Find<'_>) {
    let bits = |line: &Line, key| {
        let lane_bits =
            line[..LANES].iter().enumerate().map(|(lane, &held)| u32::from(held == key) << lane);
        lane_bits.sum()
    };
    pipeline(batch, |line, key| Lanes { equal: bits(line, key), empty: bits(line, EMPTY) });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(batch: Find<'_>) {
    use std::arch::x86_64::{
        __m256i, _mm256_castsi256_pd, _mm256_cmpeq_epi64, _mm256_movemask_pd, _mm256_set1_epi64x,
    };
    pipeline(batch, |line, key| {
        let [low, high] = crate::lanes::load_avx2(line);
        let bits = |half: __m256i, key: u64| {
            let equal = _mm256_cmpeq_epi64(half, _mm256_set1_epi64x(key.cast_signed()));
            _mm256_movemask_pd(_mm256_castsi256_pd(equal)).cast_unsigned()
        };
        let bits = |key| (bits(low, key) | bits(high, key) << 4) & KEY_LANES;
        Lanes { equal: bits(key), empty: bits(EMPTY) }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,popcnt")]
fn avx512(batch: Find<'_>) {
    use std::arch::x86_64::{_mm512_cmpeq_epi64_mask, _mm512_set1_epi64};
    pipeline(batch, |line, key| {
        let line = crate::lanes::load_avx512(line);
        let bits = |key: u64| {
            let equal = _mm512_cmpeq_epi64_mask(line, _mm512_set1_epi64(key.cast_signed()));
            u32::from(equal) & KEY_LANES
        };
        Lanes { equal: bits(key), empty: bits(EMPTY) }
    });
}

/// The batch's walk: asks for the lines of the key that is [`KEYS_AHEAD`], compares this one with
/// its home line, asks for its row. No step branches on what is found: a key that is neither in
/// its home line nor ruled out by it is noted, its next line asked for, and its search finished a
/// block later.
#[inline(always)]
fn pipeline(batch: Find<'_>, compare: impl Fn(&Line, u64) -> Lanes) {
    let Find { lines, wanted, found, data, stride } = batch;
    let mut homes = [0; KEYS_AHEAD];
    let ask = |homes: &mut [usize; KEYS_AHEAD], index: usize| {
        if let Some(&key) = wanted.get(index) {
            let line = home(key, lines.len());
            homes[index % KEYS_AHEAD] = line;
            prefetch(lines, line);
        }
    };
    let settle = |late: &Late, found: &mut [u32]| {
        for &index in &late.indices[..late.count] {
            let row = search_on(lines, wanted[index as usize], &compare);
            found[index as usize] = row;
            prefetch_data(data, row, stride);
        }
    };
    (0..KEYS_AHEAD).for_each(|index| ask(&mut homes, index));
    let mut late_before = Late::NONE;
    for start in (0..wanted.len()).step_by(BLOCK_KEYS) {
        let mut late = Late::NONE;
        for index in start..wanted.len().min(start + BLOCK_KEYS) {
            let first = homes[index % KEYS_AHEAD];
            ask(&mut homes, index + KEYS_AHEAD);
            let lanes = compare(&lines[first], wanted[index]);
            let row = lanes.row(&lines[first]);
            found[index] = row;
            prefetch_data(data, row, stride);
            let goes_on = lanes.equal | lanes.empty == 0;
            late.indices[late.count] = index as u32;
            late.count += usize::from(goes_on);
            prefetch(lines, (first + usize::from(goes_on)) & (lines.len() - 1));
        }
        settle(&late_before, found);
        late_before = late;
    }
    settle(&late_before, found);
}

/// The keys of a block whose search goes on after their home line, by their place in the batch.
struct Late {
    indices: [u32; BLOCK_KEYS],
    count: usize,
}

impl Late {
    const NONE: Self = Self { indices: [0; BLOCK_KEYS], count: 0 };
}

/// Finishes a search whose home line was full of other keys.
#[inline(always)]
fn search_on(lines: &[Line], key: u64, compare: impl Fn(&Line, u64) -> Lanes) -> u32 {
    let first = home(key, lines.len());
    for step in 1..lines.len() {
        let line = &lines[(first + step) & (lines.len() - 1)];
        let lanes = compare(line, key);
        if lanes.equal | lanes.empty != 0 {
            return lanes.row(line);
        }
    }
    MISSING
}

/// Asks for a row. For one that is missing this asks for row 0, since an address that no page has
/// costs a walk through the page table each time.
#[inline(always)]
fn prefetch_data(data: &[f32], row: u32, stride: usize) {
    const LINE: usize = CACHE_LINE_BYTES / size_of::<f32>();
    let start = if row == MISSING { 0 } else { row as usize * stride };
    prefetch_for_later(data, start);
    if stride > LINE {
        prefetch_for_later(data, start + LINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(lines: usize, keys: impl IntoIterator<Item = u64>) -> Vec<Line> {
        let mut index = vec![EMPTY_LINE; lines];
        (0..).zip(keys).for_each(|(row, key)| insert(&mut index, key, row));
        index
    }

    fn found_by_each_level(lines: &[Line], wanted: &[u64]) -> Vec<Vec<u32>> {
        let find = |isa| {
            let mut found = vec![7; wanted.len()];
            find(isa, lines, wanted, &mut found, &[], 8);
            found
        };
        Isa::available().into_iter().map(find).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_level_finds_each_key_that_is_there_and_misses_the_others(
            seed: u64,
            lines_log2 in 0_u32..7,
            load_percent in 0_usize..=100,
            wanted in 0_usize..200,
        ) {
            let lines = 1 << lines_log2;
            let count = (lines * LANES * load_percent / 100) as u64;
            let index = build(lines, (0..count).map(|key| mix(seed ^ key)));
            let expected = |key: u64| if key < count { key as u32 } else { MISSING };
            let ids: Vec<u64> = (0..wanted as u64).map(|i| mix(i) % (2 * count + 1)).collect();
            let keys: Vec<u64> = ids.iter().map(|&id| mix(seed ^ id)).collect();
            let expected: Vec<u32> = ids.into_iter().map(expected).collect();
            for found in found_by_each_level(&index, &keys) {
                prop_assert_eq!(&found, &expected);
            }
        }
    }

    #[test]
    fn the_key_that_means_empty_is_never_found() {
        for found in found_by_each_level(&build(2, 0..4), &[EMPTY, 3]) {
            assert_eq!(found, [MISSING, 3]);
        }
    }

    #[test]
    fn the_entries_of_all_lines_are_the_keys_with_their_rows() {
        let lines = build(8, (0..30).map(mix));
        let mut entries: Vec<(u64, u32)> = lines.iter().flat_map(entries).collect();
        entries.sort_unstable_by_key(|&(_, row)| row);
        assert_eq!(entries, (0..30).map(|row| (mix(row.into()), row)).collect::<Vec<_>>());
    }

    #[test]
    fn one_line_is_the_home_of_every_key() {
        assert!((0..1000).all(|key| home(mix(key), 1) == 0));
        assert!((0..1000).any(|key| home(key, 1 << 40) >> 39 == 1));
    }

    #[test]
    #[should_panic(expected = "full")]
    fn an_index_without_an_empty_lane_is_a_broken_promise() {
        let _ = build(1, 0..9);
    }
}

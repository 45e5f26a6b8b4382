//! Probing: from keys to the places of their rows, through lines of a few keys each.
//!
//! Owns how a batch is looked up with the cache asked ahead. Where a key may lie is left to
//! `lines`, memory and growth to `shard`.
//!
//! Invariant: a search looks at a key's two home lines and no other. In lines of one row each,
//! whose walk is `alone`, it looks at the home and at lines that the home names.

mod alone;

use std::hint::select_unpredictable;

use crate::isa::{Isa, Level};
use crate::lanes::{CACHE_LINE_BYTES, line_words, prefetch, prefetch_for_later};
use crate::lines::alone::ROW_WORD;
use crate::lines::{Holds, LINE_WORDS, Layout, Line, NO_KEY, Shape, word};
use crate::rows::MISSING;

/// Keys between the one at work and the one whose line the cache is asked for.
const KEYS_AHEAD: usize = 16;
/// Keys that are hashed together, and whose second homes are looked at together. In tests, few
/// enough for several blocks.
const BLOCK_KEYS: usize = if cfg!(test) { 32 } else { 256 };

/// The lines that a batch is looked up in.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a> {
    /// At least as many as `shape` says. Correct anywhere, fast where each starts on a line of
    /// the cache.
    pub lines: &'a [Line],
    /// How a line is cut.
    pub layout: Layout,
    /// Which lines a key may lie in.
    pub shape: Shape,
}

/// Rows that lie elsewhere, only for the cache: the first line of each row that is found is asked
/// for, and the second where rows are longer than one.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere<'a> {
    /// The arena that row numbers point in; an empty slice will do.
    pub data: &'a [f32],
    /// From one row to the next, in f32.
    pub stride: usize,
}

/// Looks up a batch of keys, and asks the cache for the rows it finds.
///
/// - `wanted`: `[count]` keys, and after them keys that are looked up next, only for the cache.
/// - `found`: `[count]`, receives for [`Holds::Number`] the row's number, for [`Holds::Row`] the
///   word in which the row begins, counted from the first line; [`MISSING`] for an absent key.
/// - Result: the same on every `isa`.
/// - Panics: if there are too few keys or lines, or more than `u32::MAX` keys.
pub fn find(isa: Isa, lines: Lines<'_>, wanted: &[u64], found: &mut [u32], rows: Elsewhere<'_>) {
    let keys = Keys::new(lines, wanted, found.len());
    match lines.layout.holds() {
        Holds::Number => {
            by_words::<_, FindRow>(isa, keys, (found, rows));
        }
        Holds::Row => {
            by_words::<_, FindPlace>(isa, keys, found);
        }
    }
}

/// Copies the rows of a batch of keys that lie in their lines.
///
/// - `wanted`: as in [`find`].
/// - `values`: `[count, words]`, receives the 32-bit words beside each key; zeros where it is
///   absent.
/// - Result: the number of absent keys; the same on every `isa`.
/// - Panics: as [`find`], or if lines hold numbers of rows, or `values` ends within a row.
pub fn read(isa: Isa, lines: Lines<'_>, wanted: &[u64], values: &mut [f32]) -> usize {
    assert_eq!(lines.layout.holds(), Holds::Row, "rows that lie in their lines");
    let count = values.len() / lines.layout.words();
    assert_eq!(values.len(), count * lines.layout.words(), "values are whole rows");
    by_words::<_, CopyRow>(isa, Keys::new(lines, wanted, count), values)
}

/// As [`read`], for values that another core reads next: past this core's cache.
///
/// - Result: `None`, and nothing was written, where rows cannot be written so: unless they are of
///   eight words, `values` starts at a multiple of 16 bytes and the processor is an x86-64.
pub fn read_past_cache(
    isa: Isa,
    lines: Lines<'_>,
    wanted: &[u64],
    values: &mut [f32],
) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if lines.layout.holds() == Holds::Row && lines.layout.words() == 8 {
        let rows = crate::lanes::StreamedRow::of(values)?;
        let keys = Keys::new(lines, wanted, rows.len());
        let absent = by_level::<1, 8, _, StreamRow>(isa, keys, rows);
        crate::lanes::fence_streams();
        return Some(absent);
    }
    let _ = (isa, lines, wanted, values);
    None
}

#[derive(Clone, Copy)]
struct Keys<'a> {
    lines: Lines<'a>,
    wanted: &'a [u64],
    /// Keys that are looked up; those after them are only asked for.
    count: usize,
}

impl Keys<'_> {
    fn new<'a>(lines: Lines<'a>, wanted: &'a [u64], count: usize) -> Keys<'a> {
        assert!(lines.shape.lines() <= lines.lines.len(), "fewer lines than the shape says");
        assert!(count <= wanted.len(), "{count} results of {} keys", wanted.len());
        assert!(u32::try_from(wanted.len()).is_ok(), "a batch of {} keys", wanted.len());
        Keys { lines, wanted, count }
    }
}

/// What is done with what a look at one line gave. Called for each key once or twice: first with
/// its first home.
trait Take<Out> {
    fn take<const LANES: usize, const WORDS: usize>(
        out: &mut Out,
        index: usize,
        line: (&Line, u32),
        lane: Lane,
    );
}

/// The first word of a lane's payload.
#[inline(always)]
const fn first_word<const LANES: usize, const WORDS: usize>(lane: usize) -> usize {
    if LANES == 1 { ROW_WORD } else { 2 * LANES + lane * WORDS }
}

struct FindRow;

impl Take<(&mut [u32], Elsewhere<'_>)> for FindRow {
    #[inline(always)]
    fn take<const LANES: usize, const WORDS: usize>(
        (found, rows): &mut (&mut [u32], Elsewhere<'_>),
        index: usize,
        (line, _): (&Line, u32),
        lane: Lane,
    ) {
        let row = word(line, first_word::<LANES, WORDS>(lane.number));
        found[index] = select(lane.is_held, row, MISSING);
        // Row 0 for one that is missing: an address that no page has costs a walk through the page
        // table each time.
        prefetch_row(*rows, select(lane.is_held, row, 0));
    }
}

struct FindPlace;

impl Take<&mut [u32]> for FindPlace {
    #[inline(always)]
    fn take<const LANES: usize, const WORDS: usize>(
        found: &mut &mut [u32],
        index: usize,
        (_, number): (&Line, u32),
        lane: Lane,
    ) {
        let first = number * LINE_WORDS as u32; // `LINES_MAX` fits.
        let place = first + first_word::<LANES, WORDS>(lane.number) as u32;
        found[index] = select(lane.is_held, place, MISSING);
    }
}

struct CopyRow;

impl Take<&mut [f32]> for CopyRow {
    #[inline(always)]
    fn take<const LANES: usize, const WORDS: usize>(
        values: &mut &mut [f32],
        index: usize,
        (line, _): (&Line, u32),
        lane: Lane,
    ) {
        let first = first_word::<LANES, WORDS>(lane.number);
        let values = &mut values[index * WORDS..(index + 1) * WORDS];
        if LANES == 1 {
            // In one load and one store: a store for each word filled the buffer of those.
            let row = &line_words(line)[ROW_WORD..ROW_WORD + WORDS];
            for (value, &word) in values.iter_mut().zip(row) {
                *value = f32::from_bits(select(lane.is_held, word, 0));
            }
            return;
        }
        for (at, value) in values.iter_mut().enumerate() {
            *value = f32::from_bits(select(lane.is_held, word(line, first + at), 0));
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct StreamRow;

#[cfg(target_arch = "x86_64")]
impl Take<&mut [crate::lanes::StreamedRow]> for StreamRow {
    #[inline(always)]
    fn take<const LANES: usize, const WORDS: usize>(
        rows: &mut &mut [crate::lanes::StreamedRow],
        index: usize,
        (line, _): (&Line, u32),
        lane: Lane,
    ) {
        let word = |at| f32::from_bits(select(lane.is_held, line_words(line)[ROW_WORD + at], 0));
        rows[index].write(std::array::from_fn(word));
    }
}

/// Picks the walk whose numbers are constants.
fn by_words<Out, T: Take<Out>>(isa: Isa, keys: Keys<'_>, out: Out) -> usize {
    match keys.lines.layout.words() {
        1 => by_level::<5, 1, Out, T>(isa, keys, out),
        2 => by_level::<4, 2, Out, T>(isa, keys, out),
        3 => by_level::<3, 3, Out, T>(isa, keys, out),
        4 => by_level::<2, 4, Out, T>(isa, keys, out),
        5 => by_level::<2, 5, Out, T>(isa, keys, out),
        6 => by_level::<2, 6, Out, T>(isa, keys, out),
        7 => by_level::<1, 7, Out, T>(isa, keys, out),
        8 => by_level::<1, 8, Out, T>(isa, keys, out),
        _ => unreachable!("a layout has at most PAYLOAD_WORDS_MAX words"),
    }
}

fn by_level<const LANES: usize, const WORDS: usize, Out, T: Take<Out>>(
    isa: Isa,
    keys: Keys<'_>,
    out: Out,
) -> usize {
    match isa.level() {
        // SAFETY: only `Isa::detect` makes an `Isa` of level `Avx512`, after CPUID reported it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::<LANES, WORDS, Out, T>(keys, out) },
        // SAFETY: the same for `Avx2`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::<LANES, WORDS, Out, T>(keys, out) },
        _ => scalar::<LANES, WORDS, Out, T>(keys, out),
    }
}

/// The reference.
fn scalar<const LANES: usize, const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    out: Out,
) -> usize {
    pipeline::<LANES, WORDS, Out, T>(keys, out, |line, stored| {
        let bits = line.iter().enumerate().map(|(lane, &held)| u32::from(held == stored) << lane);
        bits.sum()
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<const LANES: usize, const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    out: Out,
) -> usize {
    use std::arch::x86_64::{
        __m256i, _mm256_castsi256_pd, _mm256_cmpeq_epi64, _mm256_movemask_pd, _mm256_set1_epi64x,
    };
    pipeline::<LANES, WORDS, Out, T>(keys, out, |line, stored| {
        let [low, high] = crate::lanes::load_avx2(line);
        let stored = _mm256_set1_epi64x(stored.cast_signed());
        let bits = |half: __m256i| {
            let equal = _mm256_cmpeq_epi64(half, stored);
            _mm256_movemask_pd(_mm256_castsi256_pd(equal)).cast_unsigned()
        };
        bits(low) | bits(high) << 4
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,popcnt,bmi1")]
fn avx512<const LANES: usize, const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    out: Out,
) -> usize {
    use std::arch::x86_64::{_mm512_cmpeq_epi64_mask, _mm512_set1_epi64};
    pipeline::<LANES, WORDS, Out, T>(keys, out, |line, stored| {
        let line = crate::lanes::load_avx512(line);
        u32::from(_mm512_cmpeq_epi64_mask(line, _mm512_set1_epi64(stored.cast_signed())))
    })
}

/// The batch's walk, a block of keys at a time: their homes are hashed; then each key is compared
/// with its first home, which was asked for some keys before, and what is there is taken; those
/// that were not there are looked for in their second homes. No step branches on what is found. How
/// many keys were absent.
///
/// The loop that compares does little else, so that the processor, which works ahead of a line that
/// it waits for, gets to as many keys as there may be lines under way.
///
/// Its steps are functions that are always inlined, and no closures: a closure of this function
/// would not have the instructions of the level that it is inlined in.
#[inline(always)]
fn pipeline<const LANES: usize, const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    mut out: Out,
    compare: impl Fn(&Line, u64) -> u32,
) -> usize {
    if LANES == 1 {
        return alone::pipeline::<WORDS, Out, T>(keys, out);
    }
    let Keys { lines: Lines { lines, shape, .. }, wanted, count } = keys;
    let mut first = [0_u32; BLOCK_KEYS + KEYS_AHEAD];
    let mut second = [0_u32; BLOCK_KEYS + KEYS_AHEAD];
    let mut late = [0_u32; BLOCK_KEYS];
    let mut absent = 0;
    for start in (0..count).step_by(BLOCK_KEYS) {
        let homes = first.iter_mut().zip(&mut second);
        for ((first, second), &key) in homes.zip(&wanted[start..]) {
            [*first, *second] = shape.homes(key).map(|home| home as u32); // `LINES_MAX` fits.
        }
        if start == 0 {
            first[..KEYS_AHEAD].iter().for_each(|&home| prefetch(lines, home as usize));
        }
        let block = &wanted[start..count.min(start + BLOCK_KEYS)];
        let homes = first.iter().zip(&second).zip(&first[KEYS_AHEAD..]);
        let mut late_count = 0;
        for (at, (&key, ((&home, &other), &ahead))) in block.iter().zip(homes).enumerate() {
            prefetch(lines, ahead as usize);
            let line = &lines[home as usize];
            let lane = lane_of::<LANES>(line, key, &compare);
            T::take::<LANES, WORDS>(&mut out, start + at, (line, home), lane);
            late[late_count % BLOCK_KEYS] = at as u32;
            late_count += usize::from(!lane.is_held);
            prefetch(lines, select(lane.is_held, home, other) as usize);
        }
        for at in late[..late_count].iter().map(|&at| at as usize) {
            let line = &lines[second[at] as usize];
            let lane = lane_of::<LANES>(line, block[at], &compare);
            T::take::<LANES, WORDS>(&mut out, start + at, (line, second[at]), lane);
            absent += usize::from(!lane.is_held);
        }
    }
    absent
}

/// One of two, without a branch: which one it is, nothing can foresee. Of masks the compiler made
/// branches again.
#[inline(always)]
fn select(first: bool, one: u32, other: u32) -> u32 {
    select_unpredictable(first, one, other)
}

/// The lane of a line in which a key lies; some other one if it does not.
#[derive(Clone, Copy)]
struct Lane {
    number: usize,
    is_held: bool,
}

#[inline(always)]
fn lane_of<const LANES: usize>(
    line: &Line,
    key: u64,
    compare: &impl Fn(&Line, u64) -> u32,
) -> Lane {
    // Words past the keys may equal one by chance.
    let lanes = compare(line, key.wrapping_add(1)) & ((1 << LANES) - 1);
    // A bit past the lanes, for a number in range.
    let number = (lanes | 1 << (LANES - 1)).trailing_zeros() as usize;
    Lane { number, is_held: (lanes != 0) & (key != NO_KEY) }
}

/// Asks for a row.
#[inline(always)]
fn prefetch_row(rows: Elsewhere<'_>, row: u32) {
    const LINE: usize = CACHE_LINE_BYTES / size_of::<f32>();
    let start = row as usize * rows.stride;
    prefetch_for_later(rows.data, start);
    if rows.stride > LINE {
        prefetch_for_later(rows.data, start + LINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;
    use crate::lines::{EMPTY_LINE, Payload, insert, payload};
    use crate::oracle::bits;
    use proptest::prelude::*;

    /// Keys that were put in, each with its place or, for numbers, its order.
    fn build(layout: Layout, shape: Shape, keys: &[u64]) -> (Vec<Line>, Vec<u64>) {
        let mut lines = vec![EMPTY_LINE; shape.lines()];
        let put = |(number, &key): (usize, &u64)| {
            let payload: Payload = std::array::from_fn(|at| number as u32 + 100 * at as u32);
            insert(&mut lines, layout, shape, key, &payload, &mut ()).map(|_| key)
        };
        let held = keys.iter().enumerate().filter_map(put).collect();
        (lines, held)
    }

    fn found_by_each_level(lines: Lines<'_>, wanted: &[u64]) -> Vec<Vec<u32>> {
        let by = |isa| {
            let mut found = vec![7; wanted.len()];
            let (first, rest) = found.split_at_mut(wanted.len() / 2);
            find(isa, lines, wanted, first, Elsewhere { data: &[], stride: 8 });
            // Fewer than there are rows.
            let rows = Elsewhere { data: &[0.0; 80], stride: 17 };
            find(isa, lines, &wanted[first.len()..], rest, rows);
            found
        };
        Isa::available().into_iter().map(by).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_level_finds_each_key_that_is_there_and_misses_the_others(
            seed: u64,
            count in 1_usize..100,
            words in 1_usize..=8,
            load_percent in 0_usize..=80,
            wanted in 0_usize..200,
        ) {
            let holds = [Holds::Number, Holds::Row].into_iter();
            for layout in holds.filter_map(|holds| Layout::new(holds, words)) {
                let keys_max = count * layout.lanes() * load_percent / 100;
                let keys: Vec<u64> = (0..keys_max as u64).map(|id| mix(seed ^ id) >> 1).collect();
                let shape = Shape::of(count, seed);
                let (lines, held) = build(layout, shape, &keys);
                let wanted: Vec<u64> = (0..wanted as u64)
                    .map(|i| mix(seed ^ (mix(i) % (2 * keys_max as u64 + 1))) >> 1).collect();
                let lines = Lines { lines: &lines, layout, shape };
                for found in found_by_each_level(lines, &wanted) {
                    for (&key, row) in wanted.iter().zip(found) {
                        prop_assert_eq!(row == MISSING, !held.contains(&key));
                        if row == MISSING {
                            continue;
                        }
                        let number = match layout.holds() {
                            Holds::Number => row,
                            Holds::Row => {
                                let (line, at) = (row as usize / LINE_WORDS, row as usize % 16);
                                payload(layout, &lines.lines[line], at)[0]
                            }
                        };
                        prop_assert_eq!(keys[number as usize], key);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_level_copies_the_rows_that_it_finds_and_zeros_for_others(
            seed: u64, count in 1_usize..60, words in 1_usize..=8, wanted in 0_usize..200,
        ) {
            let layout = Layout::new(Holds::Row, words).expect("1 to 8 words");
            let keys: Vec<u64> = (0..count as u64).map(|id| mix(seed ^ id) >> 1).collect();
            let shape = Shape::of(count, seed);
            let (lines, held) = build(layout, shape, &keys);
            let ids: Vec<u64> = (0..wanted as u64).map(|i| mix(i) % (2 * count as u64)).collect();
            let wanted: Vec<u64> = ids.iter().map(|id| mix(seed ^ id) >> 1).collect();
            let lines = Lines { lines: &lines, layout, shape };
            for isa in Isa::available() {
                let misses = wanted.iter().filter(|key| !held.contains(key)).count();
                let mut values = vec![f32::NAN; wanted.len() * words];
                prop_assert_eq!(read(isa, lines, &wanted, &mut values), misses);
                let mut streamed = vec![f32::NAN; values.len() + 3];
                let first = streamed.as_ptr().align_offset(16);
                let streamed = &mut streamed[first..first + values.len()];
                if let Some(absent) = read_past_cache(isa, lines, &wanted, streamed) {
                    prop_assert_eq!(absent, misses);
                    prop_assert_eq!(bits(streamed), bits(&values));
                } else {
                    prop_assert!(words != 8 || cfg!(not(target_arch = "x86_64")));
                    prop_assert!(streamed.iter().all(|value| value.is_nan()));
                }
                let rows = values.chunks_exact(words);
                for ((&id, key), row) in ids.iter().zip(&wanted).zip(rows) {
                    for (at, value) in row.iter().enumerate() {
                        let put = id as u32 + 100 * at as u32;
                        let expected = if held.contains(key) { put } else { 0 };
                        prop_assert_eq!(value.to_bits(), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn the_key_that_means_none_is_never_found() {
        let layout = Layout::new(Holds::Number, 1).expect("one word");
        let shape = Shape::of(2, 1);
        let (lines, _) = build(layout, shape, &[0, 1, 2, 3]);
        let lines = Lines { lines: &lines, layout, shape };
        for found in found_by_each_level(lines, &[NO_KEY, 3]) {
            assert_eq!(found, [MISSING, 3]);
        }
    }

    #[test]
    #[should_panic(expected = "fewer lines")]
    fn lines_that_are_not_there_are_a_broken_promise() {
        let layout = Layout::new(Holds::Number, 1).expect("one word");
        let lines = Lines { lines: &[EMPTY_LINE], layout, shape: Shape::of(2, 1) };
        find(Isa::scalar(), lines, &[1], &mut [0], Elsewhere { data: &[], stride: 1 });
    }
}

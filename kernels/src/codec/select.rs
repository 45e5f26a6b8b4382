//! Which rows are worth sending, and the rows without the others.
//!
//! Owns the choice, as a bitmap: bit `r % 64` of word `r / 64` for row `r`, zeros after the last.
//! What becomes of the rows that stay behind is left to the caller (`feedback`).
//!
//! A row counts as much as its largest magnitude. A NaN counts as larger than all numbers, so that
//! it is sent and seen, not lost. Invariant: which rows are kept follows from their bits alone.

use super::Damaged;
use crate::isa::{Isa, Level, Portable};

/// Rows that a word of a bitmap stands for.
const WORD_ROWS: usize = 64;

/// The highest level that rows are chosen at. Registers of 64 bytes are filled from bytes that were
/// stored 16 at a time, and wait for them: a fifth slower for a threshold, a third for the top.
const CHOOSING: Level = Level::Avx2;

/// Words of a bitmap of `rows` rows.
#[must_use]
pub const fn bitmap_words(rows: usize) -> usize {
    rows.div_ceil(WORD_ROWS)
}

/// Counts the rows that a bitmap from elsewhere keeps.
///
/// - `rows`: how many rows it is about.
/// - Errors: [`Damaged::Bitmap`] if it has another number of words, or a bit after the last row.
pub fn count_kept(bitmap: &[u64], rows: usize) -> Result<usize, Damaged> {
    let rest = rows % WORD_ROWS;
    let beyond = bitmap.last().is_some_and(|last| rest > 0 && last >> rest != 0);
    if bitmap.len() != bitmap_words(rows) || beyond {
        return Err(Damaged::Bitmap { words: bitmap.len(), rows });
    }
    Ok(bitmap.iter().map(|word| word.count_ones() as usize).sum())
}

/// Keeps the rows in which a number is not zero; -0 is zero.
///
/// - `rows`: `[count, width]`, `width` at least 1. `bitmap`: [`bitmap_words`] of `count`.
/// - Result: how many are kept; the same on every `isa`.
/// - Panics: if `rows` is no whole number of rows, or `bitmap` has another length.
pub fn keep_nonzero(isa: Isa, rows: &[f32], width: usize, bitmap: &mut [u64]) -> usize {
    check(rows, width, bitmap);
    isa.at_most(CHOOSING).run(Keep { rows, width, least: 1, bitmap })
}

/// Keeps the rows in which a magnitude is larger than `threshold`.
///
/// - `threshold`: 0 or above. All else as [`keep_nonzero`], which this is for 0.
/// - Panics: as [`keep_nonzero`], and if `threshold` is NaN or below 0.
pub fn keep_above(
    isa: Isa,
    rows: &[f32],
    width: usize,
    threshold: f32,
    bitmap: &mut [u64],
) -> usize {
    check(rows, width, bitmap);
    assert!(threshold >= 0.0, "threshold {threshold}");
    isa.at_most(CHOOSING).run(Keep { rows, width, least: threshold.abs().to_bits() + 1, bitmap })
}

/// Keeps the `count` rows that count most; of equal ones those that come first.
///
/// - `count`: more than there are rows keeps all. All else as [`keep_nonzero`].
/// - Panics: as [`keep_nonzero`].
pub fn keep_top(isa: Isa, rows: &[f32], width: usize, count: usize, bitmap: &mut [u64]) -> usize {
    check(rows, width, bitmap);
    isa.at_most(CHOOSING).run(KeepTop { rows, width, count, bitmap })
}

fn check(rows: &[f32], width: usize, bitmap: &[u64]) {
    assert!(width > 0, "a row has at least one number");
    assert!(rows.len().is_multiple_of(width), "{} numbers in rows of {width}", rows.len());
    let words = bitmap_words(rows.len() / width);
    assert_eq!(bitmap.len(), words, "words of a bitmap of {} rows", rows.len() / width);
}

/// What a row counts: its largest magnitude's bits, which are in order as magnitudes are.
#[inline(always)]
fn weight(row: &[f32]) -> u32 {
    row.iter().fold(0, |most, number| most.max(number.abs().to_bits()))
}

struct Keep<'a> {
    rows: &'a [f32],
    width: usize,
    /// The least weight that is kept.
    least: u32,
    bitmap: &'a mut [u64],
}

impl Portable for Keep<'_> {
    type Output = usize;

    #[inline(always)]
    fn scalar(self) -> usize {
        let Keep { rows, width, least, bitmap } = self;
        let mut kept = 0;
        for (word, rows) in bitmap.iter_mut().zip(rows.chunks(WORD_ROWS * width)) {
            *word = word_of(weights(rows, width).map(|weight| is_above(weight, least - 1)));
            kept += word.count_ones() as usize;
        }
        kept
    }
}

/// Weights of up to 64 rows, then zeros.
#[inline(always)]
fn weights(rows: &[f32], width: usize) -> [u32; WORD_ROWS] {
    let mut weights = [0; WORD_ROWS];
    if width == 1 {
        weights.iter_mut().zip(rows).for_each(|(weight, row)| *weight = row.abs().to_bits());
    } else {
        let rows = rows.chunks_exact(width);
        weights.iter_mut().zip(rows).for_each(|(to, row)| *to = weight(row));
    }
    weights
}

/// 1 if `weight` is above `bound`, else 0. By arithmetic, since both are below 2^31: comparisons
/// would be taken through mask registers one by one.
#[inline(always)]
fn is_above(weight: u32, bound: u32) -> u8 {
    (bound.wrapping_sub(weight) >> 31) as u8
}

/// 1 if `number`, below 2^31, is 0, else 0.
#[inline(always)]
fn is_zero(number: u32) -> u8 {
    (number.wrapping_sub(1) >> 31) as u8
}

/// The bits of 64 bytes that are 0 or 1: eight of them at a time meet in a product's top byte.
#[inline(always)]
fn word_of(flags: [u8; WORD_ROWS]) -> u64 {
    let (eights, _) = flags.as_chunks::<8>();
    eights.iter().enumerate().fold(0, |word, (place, eight)| {
        let byte = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        word | byte << (8 * place)
    })
}

/// Bits of a weight.
const WEIGHT_BITS: u32 = 31;
/// Values of a digit. Weights are told apart by three of them from the top, of 11, 10 and 10 bits.
const BUCKETS: usize = 1 << 11;
/// Counts side by side, so that rows of one digit after another do not wait for each other.
const TALLIES: usize = 2;

struct KeepTop<'a> {
    rows: &'a [f32],
    width: usize,
    count: usize,
    bitmap: &'a mut [u64],
}

impl Portable for KeepTop<'_> {
    type Output = usize;

    /// Finds the weight of the last row that is kept, digit by digit, then keeps what weighs more
    /// and as many of those that weigh the same as there is room for.
    #[inline(always)]
    fn scalar(self) -> usize {
        let KeepTop { rows, width, count, bitmap } = self;
        let row_count = rows.len() / width;
        if count == 0 || count >= row_count {
            let least = if count == 0 { u32::MAX } else { 0 };
            return fill(bitmap, row_count, least);
        }
        let first = Search { prefix: 0, wanted: count };
        let second = first.next_digit::<20, 11>(rows, width);
        let third = second.next_digit::<10, 10>(rows, width);
        let Search { prefix, mut wanted } = third.next_digit::<0, 10>(rows, width);
        for (word, rows) in bitmap.iter_mut().zip(rows.chunks(WORD_ROWS * width)) {
            let weights = weights(rows, width);
            let mut equal = word_of(weights.map(|weight| is_zero(weight ^ prefix)));
            // What is equal to zero after the last row goes first, being highest.
            while equal.count_ones() as usize > wanted {
                equal &= !(1 << equal.ilog2());
            }
            wanted -= equal.count_ones() as usize;
            *word = equal | word_of(weights.map(|weight| is_above(weight, prefix)));
        }
        count
    }
}

/// Keeps all rows or, if `least` is not 0, none.
fn fill(bitmap: &mut [u64], row_count: usize, least: u32) -> usize {
    bitmap.fill(if least == 0 { u64::MAX } else { 0 });
    let rest = row_count % WORD_ROWS;
    if let Some(last) = bitmap.last_mut()
        && rest > 0
    {
        *last &= (1 << rest) - 1;
    }
    if least == 0 { row_count } else { 0 }
}

/// Of the rows whose weight begins with `prefix`, `wanted` are kept, and of those above all.
#[derive(Clone, Copy, Debug)]
struct Search {
    prefix: u32,
    wanted: usize,
}

impl Search {
    /// Finds the next digit of the last weight that is kept: `BITS` bits from bit `SHIFT` on.
    #[inline(always)]
    fn next_digit<const SHIFT: u32, const BITS: u32>(self, rows: &[f32], width: usize) -> Search {
        let counts = count_digits::<SHIFT, BITS>(rows, width, self.prefix);
        let (mut digit, mut wanted) = (1 << BITS, self.wanted);
        loop {
            digit -= 1;
            let here = counts[digit] as usize;
            if wanted <= here {
                return Search { prefix: self.prefix << BITS | digit as u32, wanted };
            }
            wanted -= here;
        }
    }
}

/// How many rows there are of each digit, among those whose weight begins with `prefix`.
#[inline(always)]
fn count_digits<const SHIFT: u32, const BITS: u32>(
    rows: &[f32],
    width: usize,
    prefix: u32,
) -> [u32; BUCKETS] {
    let mut tallies = [[0; BUCKETS]; TALLIES];
    let digit = |weight: u32| (weight >> SHIFT) as usize % (1 << BITS) % BUCKETS;
    for rows in rows.chunks(WORD_ROWS * width) {
        let weights = weights(rows, width);
        if SHIFT + BITS == WEIGHT_BITS && rows.len() == WORD_ROWS * width {
            // The first digit: every row counts.
            for weights in weights.as_chunks::<TALLIES>().0 {
                for (tally, weight) in tallies.iter_mut().zip(weights) {
                    tally[digit(*weight)] += 1;
                }
            }
        } else {
            // Few rows count, or the last ones do.
            let own = word_of(weights.map(|weight| is_zero(weight >> SHIFT >> BITS ^ prefix)));
            for row in ones(own & (u64::MAX >> (WORD_ROWS - rows.len() / width))) {
                tallies[row % TALLIES][digit(weights[row])] += 1;
            }
        }
    }
    let [mut counts, rest @ ..] = tallies;
    for tally in rest {
        counts.iter_mut().zip(tally).for_each(|(count, more)| *count += more);
    }
    counts
}

/// Packs the kept rows, one after the other.
///
/// - `rows`: `[count, width]`. `bitmap`: of `count` rows. `packed`: `[kept, width]`.
/// - Result: the rows' bits, on every `isa`.
/// - Panics: if lengths do not fit, or the bitmap keeps rows that there are not.
pub fn compress_rows(isa: Isa, rows: &[f32], width: usize, bitmap: &[u64], packed: &mut [f32]) {
    check(rows, width, bitmap);
    check_packed(rows.len() / width, width, bitmap, packed);
    isa.run(Compress { rows, width, bitmap, packed });
}

/// Puts the kept rows back in their places, with zeros for the others: undoes [`compress_rows`] as
/// far as that can be, with the same shapes and panics.
pub fn expand_rows(isa: Isa, packed: &[f32], width: usize, bitmap: &[u64], rows: &mut [f32]) {
    check(rows, width, bitmap);
    check_packed(rows.len() / width, width, bitmap, packed);
    isa.run(Expand { packed, width, bitmap, rows });
}

fn check_packed(rows: usize, width: usize, bitmap: &[u64], packed: &[f32]) {
    let kept = count_kept(bitmap, rows).unwrap_or_else(|damaged| panic!("{damaged}"));
    assert_eq!(packed.len(), kept * width, "packed numbers against {kept} rows of {width}");
}

/// The places of a word's ones, ascending.
#[inline(always)]
fn ones(word: u64) -> impl Iterator<Item = usize> {
    let mut left = word;
    std::iter::from_fn(move || {
        let place = left.trailing_zeros() as usize;
        (left != 0).then(|| {
            left &= left - 1;
            place
        })
    })
}

struct Compress<'a> {
    rows: &'a [f32],
    width: usize,
    bitmap: &'a [u64],
    packed: &'a mut [f32],
}

impl Portable for Compress<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        let Compress { rows, width, bitmap, mut packed } = self;
        for (&word, rows) in bitmap.iter().zip(rows.chunks(WORD_ROWS * width)) {
            let kept = word.count_ones() as usize * width;
            let (here, after) = packed.split_at_mut(kept);
            if kept == rows.len() {
                here.copy_from_slice(rows);
            } else if width == 1 {
                here.iter_mut().zip(ones(word)).for_each(|(to, place)| *to = rows[place]);
            } else {
                for (to, place) in here.chunks_exact_mut(width).zip(ones(word)) {
                    to.copy_from_slice(&rows[place * width..(place + 1) * width]);
                }
            }
            packed = after;
        }
    }
}

struct Expand<'a> {
    packed: &'a [f32],
    width: usize,
    bitmap: &'a [u64],
    rows: &'a mut [f32],
}

impl Portable for Expand<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        let Expand { mut packed, width, bitmap, rows } = self;
        for (&word, rows) in bitmap.iter().zip(rows.chunks_mut(WORD_ROWS * width)) {
            let kept = word.count_ones() as usize * width;
            let (here, after) = packed.split_at(kept);
            if kept == rows.len() {
                rows.copy_from_slice(here);
            } else {
                rows.fill(0.0);
                if width == 1 {
                    here.iter().zip(ones(word)).for_each(|(from, place)| rows[place] = *from);
                } else {
                    for (from, place) in here.chunks_exact(width).zip(ones(word)) {
                        rows[place * width..(place + 1) * width].copy_from_slice(from);
                    }
                }
            }
            packed = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;
    use crate::oracle::{bits, floats};
    use proptest::prelude::*;

    /// The bitmap of the rows that `keeps` names, by the definition.
    fn bitmap_of(row_count: usize, keeps: impl Fn(usize) -> bool) -> (Vec<u64>, usize) {
        let mut bitmap = vec![0; bitmap_words(row_count)];
        let kept: Vec<usize> = (0..row_count).filter(|&row| keeps(row)).collect();
        kept.iter().for_each(|row| bitmap[row / 64] |= 1 << (row % 64));
        (bitmap, kept.len())
    }

    fn rows_of(seed: u64, count: usize, width: usize) -> Vec<f32> {
        // Few distinct magnitudes, so that there are equal ones, and whole rows of zeros.
        let numbers = floats(seed, count * width).into_iter().enumerate();
        let is_zero = |index: usize| mix(seed ^ (index / width) as u64).is_multiple_of(3);
        numbers
            .map(|(index, number)| if is_zero(index) { 0.0 } else { (number * 8.0).round() })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_rows_that_the_definition_names_are_kept_on_every_level(
            seed: u64, count in 0_usize..300, width in 1_usize..4, wanted in 0_usize..320,
        ) {
            let rows = rows_of(seed, count, width);
            let most: Vec<f32> = rows.chunks(width)
                .map(|row| row.iter().fold(0.0, |most: f32, number| most.max(number.abs())))
                .collect();
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&one, &two| most[two].total_cmp(&most[one]).then(one.cmp(&two)));
            order.truncate(wanted);
            for isa in Isa::available() {
                let mut bitmap = vec![u64::MAX; bitmap_words(count)];
                let kept = keep_nonzero(isa, &rows, width, &mut bitmap);
                prop_assert_eq!((bitmap.clone(), kept), bitmap_of(count, |row| most[row] > 0.0));
                let kept = keep_above(isa, &rows, width, 3.0, &mut bitmap);
                prop_assert_eq!((bitmap.clone(), kept), bitmap_of(count, |row| most[row] > 3.0));
                let kept = keep_top(isa, &rows, width, wanted, &mut bitmap);
                prop_assert_eq!((bitmap, kept), bitmap_of(count, |row| order.contains(&row)));
            }
        }

        #[test]
        fn packed_rows_expand_to_themselves_with_zeros_between(
            seed: u64, count in 0_usize..300, width in 1_usize..4, share in 0_u64..5,
        ) {
            let rows = floats(seed, count * width);
            let (bitmap, kept) = bitmap_of(count, |row| mix(seed ^ row as u64) % 4 < share);
            for isa in Isa::available() {
                let mut packed = vec![f32::NAN; kept * width];
                compress_rows(isa, &rows, width, &bitmap, &mut packed);
                let mut back = vec![f32::NAN; rows.len()];
                expand_rows(isa, &packed, width, &bitmap, &mut back);
                let expected: Vec<f32> = rows.iter().enumerate().map(|(index, &number)| {
                    let row = index / width;
                    if bitmap[row / 64] >> (row % 64) & 1 == 1 { number } else { 0.0 }
                }).collect();
                prop_assert_eq!(bits(&back), bits(&expected));
            }
        }
    }

    #[test]
    fn a_nan_is_kept_before_every_number() {
        let rows = [1.0, f32::INFINITY, -f32::NAN, 2.0];
        for isa in Isa::available() {
            let mut bitmap = [0];
            assert_eq!(keep_top(isa, &rows, 1, 1, &mut bitmap), 1);
            assert_eq!(bitmap, [0b100]);
            assert_eq!(keep_above(isa, &rows, 1, f32::INFINITY, &mut bitmap), 1);
            assert_eq!(bitmap, [0b100]);
        }
    }

    #[test]
    fn a_bitmap_of_another_length_or_with_bits_after_the_last_row_is_damage() {
        assert_eq!(count_kept(&[0b101, 1], 65), Ok(3));
        let damaged = |words, rows| Err(Damaged::Bitmap { words, rows });
        assert_eq!(count_kept(&[0b101, 2], 65), damaged(2, 65));
        assert_eq!(count_kept(&[0b101], 65), damaged(1, 65));
        assert_eq!(count_kept(&[0], 0), damaged(1, 0));
        assert_eq!(count_kept(&[u64::MAX], 64), Ok(64));
    }
}
